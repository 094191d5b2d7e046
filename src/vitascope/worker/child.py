"""The engine process: makes what the parent asks for, one job at a time, and dies with the parent."""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import queue
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

from vitascope.domain.errors import (
    InternalError,
    ModelTooLarge,
    ModelUnavailable,
    OutOfMemory,
    UnknownModel,
    UnreadableImage,
    UnreadableVideo,
    VitascopeError,
)
from vitascope.domain.job import JobError
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import Plan
from vitascope.domain.step import Step, percent
from vitascope.engine import Engine
from vitascope.media.resample import Between

from .messages import Message, Pipe
from .opening import NO_GUARDS, Enhanced, Guards
from .outputs import Failed, details_of, produce_all
from .produce import NO_MARKS, Marks, Product

logger = logging.getLogger(__name__)


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
    _die_with_parent()
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole group; the parent decides what it means
    engine = make_engine()
    if engine.runs_on_cpu:
        os.nice(nice)
    child = _Child(Pipe(fd), engine, resolve, between, marks, make_guards(engine), know)
    child.serve()


SAME_FOR_ALL = (ModelTooLarge, ModelUnavailable, UnknownModel, UnreadableImage, UnreadableVideo)
"""Whatever keeps one video of a job from being made like this keeps all of them: the others are not tried."""


class _Cancelled(Exception):
    """The job shall stop."""


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
        #: Orders that came while a job was made, and wait for its end.
        self._later: deque[Message] = deque()
        self._cancelled: set[str] = set()

    def serve(self) -> NoReturn:
        threading.Thread(target=self._listen, name="listen", daemon=True).start()
        self._pipe.send({"is": "ready", **self._engine_now()})
        while True:
            order = self._later.popleft() if self._later else self._orders.get()
            if order["do"] == "prepare":
                self._prepare(order["model"])
                continue
            answer = self._make(order) if order["do"] == "make" else self._obey(order)
            self._pipe.send({**answer, **self._engine_now()})

    def _beside(self) -> None:
        """Do what can be done while a job is made: begin to load models, and say of those that were to be that they are."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._later.append(self._orders.get_nowait())
        for order in tuple(self._later):
            if order["do"] == "prepare":
                self._later.remove(order)
                self._prepare(order["model"])
            elif order["do"] == "load" and self._has_loaded(order["model"]):
                self._later.remove(order)
                self._pipe.send({**self._obey(order), **self._engine_now()})
            elif order["do"] == "load" and not order.get("is_begun"):
                # one that does not come is loaded after the job, or fails there: not tried again at every step
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
        residency = engine.residency.to_dict()
        return {"device": engine.device, "loaded": engine.loaded_models, "residency": residency}

    def _listen(self) -> None:
        """Take messages while the engine works; a closed pipe means that the parent is gone."""
        try:
            while True:
                message = self._pipe.receive()
                assert message is not None
                if message["do"] == "cancel":
                    self._cancelled.add(message["job"])
                elif message["do"] == "know":
                    self._know(message["models"])  # at once: what follows may be about one of them
                else:
                    self._orders.put(message)
        except (EOFError, OSError):
            os._exit(0)

    def _make(self, order: Message) -> Message:
        """Make one job; the message that ends it."""
        job_id: str = order["job"]
        products: list[Product] = []
        failed: dict[int, JobError] = {}
        enhanced: tuple[str, ...] = ()
        try:
            for event in self._produce(order):
                if isinstance(event, Product):
                    products.append(event)
                elif isinstance(event, Enhanced):
                    enhanced = event.texts
                elif isinstance(event, Failed):
                    failed[event.index] = _told_error(event, job_id)
                    if isinstance(event.error, SAME_FOR_ALL):
                        break
        except _Cancelled:
            return {"is": "cancelled", "job": job_id}
        if not products:
            return {"is": "failed", "job": job_id, **asdict(next(iter(failed.values())))}
        videos = [asdict(product.video) for product in products]
        details = details_of(products, failed.items())
        if enhanced:
            details["enhanced_prompts"] = enhanced
        return {"is": "made", "job": job_id, "videos": videos, "details": details}

    def _obey(self, order: Message) -> Message:
        """Do what an operator wants of the engine."""
        answer = {"is": "obeyed", "errand": order["errand"]}
        try:
            message = self._do(order)
        except VitascopeError as error:
            logger.warning("command failed", extra={"code": error.code}, exc_info=error.__cause__)
            return {**answer, "problem": error.code, "message": _sentence(error)}
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

    def _produce(self, order: Message) -> Iterator[Product | Failed | Enhanced]:
        """Make the videos of a job one after the other, telling the parent each step.

        Raises:
            _Cancelled: the job shall stop.
        """
        job_id: str = order["job"]
        plan = Plan.from_dict(order["plan"])
        outs = [Path(out) for out in order["outs"]]
        try:
            spec = self._resolve(plan.model)
        except VitascopeError as error:
            yield Failed(0, error)
            return
        making = produce_all(
            self._engine,
            plan,
            spec,
            outs,
            folder=order["folder"],
            between=self._between,
            marks=self._marks,
            guards=self._guards,
        )
        with closing(making):
            for event in making:
                self._beside()
                if job_id in self._cancelled:
                    raise _Cancelled
                if isinstance(event, Step):
                    self._pipe.send({"is": "step", "job": job_id, **_told(event)})
                    continue
                if isinstance(event, Enhanced):
                    self._pipe.send({"is": "enhanced", "job": job_id, "texts": event.texts})
                yield event


def _told_error(failed: Failed, job_id: str) -> JobError:
    """Log why a video was not made, and say as much of it as its client may know."""
    extra = {"job_id": job_id, "video": failed.index}
    error = (
        OutOfMemory("this machine ran out of memory")
        if isinstance(failed.error, MemoryError)
        else failed.error
    )
    if not isinstance(error, VitascopeError):
        logger.error("video failed", extra=extra, exc_info=error)
        return JobError(InternalError.code, InternalError().message)
    logger.warning("video failed", extra={**extra, "code": error.code}, exc_info=error.__cause__)
    return JobError(error.code, _sentence(error))


def _told(step: Step) -> Message:
    preview = None if step.preview is None else base64.b64encode(step.preview).decode()
    return {"stage": step.stage, "index": step.index, "percent": percent(step), "preview": preview}


def _sentence(error: VitascopeError) -> str:
    """Join message and hint, but no hint that may hold a path; a command may hold a hub's name."""
    is_shown = error.hint and ("/" not in error.hint or error.hint.startswith("`vitascope "))
    return f"{error.message}; {error.hint}" if is_shown else error.message


def _die_with_parent() -> None:
    """Ask Linux to kill this process when its parent ends, even while a library holds the interpreter.

    Elsewhere the closed pipe does it, at the next moment that the interpreter is free.
    """
    if sys.platform != "linux":
        return
    import ctypes

    pr_set_pdeathsig = 1  # linux/prctl.h
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
