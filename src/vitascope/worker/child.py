"""The engine process: makes what the parent asks for, a few jobs side by side, and dies with the parent."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import queue
import signal
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from vitascope.domain.errors import InternalError, SettingsError, UnknownModel, VitascopeError
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import Plan
from vitascope.engine import DeviceLost, Engine
from vitascope.engine.lifeline import die_with_parent
from vitascope.media.resample import Between

from .driver import Driver
from .making import Events, Making, sentence_of
from .messages import Message, Pipe
from .opening import NO_GUARDS, Guards
from .outputs import Failed, produce_all
from .produce import NO_MARKS, Marks
from .reins import Reins

logger = logging.getLogger(__name__)

REFUSED = 2
"""Exit status where a setting is wrong, as of every command."""

LOST = 1
"""Exit status where the device is lost."""


def run(
    fd: int,
    make_engine: Callable[[], Engine],
    resolve: Callable[[str], ModelSpec],
    nice: int,
    between: Between = "motion",
    marks: Marks = NO_MARKS,
    make_guards: Callable[[Engine], Guards] = lambda _engine: NO_GUARDS,
    know: Callable[[list[Message]], None] = lambda _models: None,
) -> None:
    """Serve the parent until it closes the pipe.

    Args:
        fd: our end of the pipe, inherited.
        make_engine: opens the engine, in this process.
        resolve: finds a model's card by its id.
        marks: what files are marked with.
        make_guards: what stands around the making; some of it works beside the engine.
        know: takes what models were added, whenever the parent tells it.
        between: how frame rates are raised; see `media.resample_frames`.
        nice: added to this process's niceness, so that a CPU engine leaves room for the web process.
    """
    die_with_parent()
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole group; the parent decides what it means
    pipe = Pipe(fd)
    try:
        engine = make_engine()
        guards = make_guards(engine)
    except SettingsError as error:
        # the parent says it: to start this process again would change nothing
        pipe.send({"is": "refused", "message": error.message, "hint": error.hint})
        raise SystemExit(REFUSED) from None
    if engine.runs_on_cpu:
        os.nice(nice)
    child = _Child(pipe, engine, resolve, between, marks, guards, know)
    child.serve()


class _Child:
    def __init__(
        self,
        pipe: Pipe,
        engine: Engine,
        resolve: Callable[[str], ModelSpec],
        between: Between,
        marks: Marks,
        guards: Guards,
        know: Callable[[list[Message]], None],
    ) -> None:
        self._know = know
        self._marks = marks
        self._guards = guards
        self._between = between
        self._pipe = pipe
        self._engine = engine
        self._resolve = resolve
        self._orders: queue.SimpleQueue[Message] = queue.SimpleQueue()
        #: Orders that came while jobs were made, and wait for the end of all.
        self._later: deque[Message] = deque()
        self._driver = Driver(self._tell)

    def serve(self) -> NoReturn:
        threading.Thread(target=self._listen, name="listen", daemon=True).start()
        self._pipe.send({"is": "ready", **self._engine_now()})
        while True:
            self._do_later()
            self._take_orders()
            try:
                self._driver.step()
            except DeviceLost:
                logger.critical(
                    "device lost: the engine process ends, and its jobs are made again", exc_info=True
                )
                os._exit(LOST)

    def _tell(self, message: Message) -> None:
        """Say something; whatever is not said often comes with what the engine is now."""
        often = ("step", "turn", "enhanced")
        self._pipe.send(message if message["is"] in often else {**message, **self._engine_now()})

    def _take_orders(self) -> None:
        """Take what has come, and wait for something if there is nothing to do."""
        seconds = self._driver.pause_seconds
        with contextlib.suppress(queue.Empty):
            order = self._orders.get(seconds != 0, seconds)
            while True:
                self._take(order)
                order = self._orders.get_nowait()

    def _take(self, order: Message) -> None:
        if order["do"] == "make":
            # on a CPU four together take four fifths of the time of one after the other (docs/experiments.md): all would be late
            gathers = not self._engine.runs_on_cpu
            begin = functools.partial(self._begin, order)
            self._driver.open(Making(order, begin, self._wake, gathers=gathers))
        elif order["do"] == "cancel":
            self._driver.cancel(order["making"])
        elif order["do"] != "wake":
            self._later.append(order)

    def _wake(self) -> None:
        """Called by threads that have done something for a job."""
        self._orders.put({"do": "wake"})

    def _do_later(self) -> None:
        """Do what can be done now: beside jobs, begin to load models, and say of those that were to be that they are."""
        for order in tuple(self._later):
            if order["do"] == "prepare":
                self._later.remove(order)
                self._prepare(order["model"])
            elif self._driver.is_idle or (order["do"] == "load" and self._has_loaded(order["model"])):
                self._later.remove(order)
                self._tell(self._obey(order))
            elif order["do"] == "load" and not order.get("is_begun"):
                # one that does not come is loaded after the jobs, or fails there: not tried again at every step
                order["is_begun"] = self._prepare(order["model"])

    def _has_loaded(self, model: str) -> bool:
        with contextlib.suppress(VitascopeError):  # who needs it hears why
            return self._resolve(model).id in self._engine.loaded_models
        return False

    def _prepare(self, model: str) -> bool:
        """Begin to load a model beside what runs; returns whether that has begun. Whatever goes wrong, what runs goes on."""
        try:
            return self._engine.prepare(self._resolve(model))
        except VitascopeError:
            return False  # who needs it hears why
        except Exception:
            logger.exception("a model was not loaded ahead", extra={"model": model})
            return False

    def _engine_now(self) -> Message:
        engine = self._engine
        loaded, residency = engine.loaded_models, engine.residency.to_dict()
        return {"device": engine.device, "loaded": loaded, "residency": residency, "room": self._room(loaded)}

    def _room(self, loaded: Sequence[str]) -> dict[str, int]:
        """Tell how many more generations of each loaded model could be begun now."""
        room = {}
        for model in loaded:
            with contextlib.suppress(VitascopeError):  # it may have been deleted, or have another autoencoder
                room[model] = self._engine.capacity(self._resolve(model))
        return room

    def _listen(self) -> None:
        """Take messages while the engine works; a closed pipe means that the parent is gone."""
        try:
            while True:
                message = self._pipe.receive()
                assert message is not None
                if message["do"] == "know":
                    self._know(message["models"])  # at once: what follows may be about one of them
                else:
                    self._orders.put(message)
        except (EOFError, OSError):
            os._exit(0)

    def _obey(self, order: Message) -> Message:
        """Do what an operator wants of the engine."""
        answer = {"is": "obeyed", "errand": order["errand"]}
        try:
            message = self._do(order)
        except VitascopeError as error:
            logger.warning("command failed", extra={"code": error.code}, exc_info=error.__cause__)
            return {**answer, "problem": error.code, "message": sentence_of(error)}
        except Exception:
            logger.exception("command failed")
            return {**answer, "problem": InternalError.code, "message": InternalError().message}
        return {**answer, "problem": None, "message": message}

    def _do(self, order: Message) -> str:
        if order["do"] == "clear_caches":
            return self._clear_caches(order["models"])
        if order["do"] == "load":
            self._engine.load(self._resolve(order["model"]))
            return "loaded"
        model = order["model"]
        with contextlib.suppress(UnknownModel):  # it may have been deleted, and be loaded still
            model = self._resolve(model).id
        return "unloaded" if self._engine.unload(model) else "it was not loaded"

    def _clear_caches(self, with_models: bool) -> str:
        unloaded = [
            model for model in self._engine.loaded_models if with_models and self._engine.unload(model)
        ]
        self._engine.clear_caches()
        return "the caches are empty" + (f", and unloaded: {', '.join(unloaded)}" if unloaded else "")

    def _begin(self, order: Message, reins: Reins) -> Events:
        plan = Plan.from_dict(order["plan"])
        try:
            spec = self._resolve(plan.model)
        except VitascopeError as error:
            yield Failed(0, error)
            return
        yield from produce_all(
            self._engine,
            plan,
            spec,
            [Path(out) for out in order["outs"]],
            folder=order["folder"],
            between=self._between,
            marks=self._marks,
            guards=self._guards,
            reins=reins,
        )
