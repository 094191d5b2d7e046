"""Loading beside what runs: in a thread, which has torch's settings of the whole process for itself while it changes any.

Libraries build a model's modules under settings that hold for all threads: torch's default dtype, its random numbers, a patched
`register_parameter`. A generation that worked at that moment would make something else. So the two take turns: the loading
thread has the turn from its beginning to its end, except in those long parts that are known to change nothing of the kind
(reading weights, bringing them to the device, reading tokenizers), and there too only if it has left everything as it was.
What is not known to be harmless is only slower for the other side.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import torch

from . import shortage
from .postponed import when_imported
from .torch_state import TorchState

logger = logging.getLogger(__name__)

CHUNK_BYTES = 16 * 2**20

_REGISTER_PARAMETER = torch.nn.Module.register_parameter


class Turn:
    """A lock that whoever waits gets before the one who gave it back gets it again."""

    def __init__(self) -> None:
        self._gate = threading.Lock()
        self._lock = threading.Lock()

    def take(self) -> None:
        with self._gate:  # held while waiting, so that the other side cannot come back first
            self._lock.acquire()

    def give(self) -> None:
        self._lock.release()

    def __enter__(self) -> None:
        self.take()

    def __exit__(self, *_error: object) -> None:
        self.give()


class _Loading:
    """What a loading thread has: the turn, and its own part of what torch keeps for all."""

    def __init__(self, turn: Turn, state: TorchState) -> None:
        self._turn = turn
        self._state = state
        self._entered = contextlib.ExitStack()

    def take(self) -> None:
        self._turn.take()
        self._entered.enter_context(self._state.entered())

    def give(self) -> None:
        self._entered.close()
        self._turn.give()


_here = threading.local()


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Let others have their turn meanwhile, where a thread loads and has left torch as it was; else do nothing.

    For work that neither depends on nor changes what torch keeps for the whole process.
    """
    loading: _Loading | None = getattr(_here, "loading", None)
    if loading is None or not _is_as_it_was():
        yield
        return
    _here.loading = None  # one inside another changes nothing
    loading.give()
    try:
        yield
    finally:
        loading.take()
        _here.loading = loading


def rest() -> None:
    """Let others have a turn, if this thread works aside."""
    with apart():
        pass


def _is_as_it_was() -> bool:
    is_patched = torch.nn.Module.register_parameter is not _REGISTER_PARAMETER
    return torch.get_default_dtype() is torch.float32 and not is_patched


class Background:
    """One thread at most that loads.

    Args:
        turn: of the engine.
        device: where models go.
    """

    def __init__(self, turn: Turn, device: torch.device) -> None:
        _know_harmless_parts()
        self._turn = turn
        self._device = device
        self._thread: threading.Thread | None = None
        self._is_needed = threading.Event()

    @property
    def is_busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def begin(self, files: Iterable[Path], load: Callable[[], None] | None) -> None:
        """Read files, so that they are in main memory, then load; only one may be at it at a time.

        Args:
            files: read first, without anybody's turn.
            load: called in the thread, with the turn; None where there is no room beside what runs.
        """
        self._is_needed.clear()
        run = functools.partial(self._run, tuple(files), load)
        self._thread = threading.Thread(target=run, name="load", daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Wait until nothing is being loaded; the waiting one needs it now, so reading ahead ends.

        Returns:
            Whether nothing is.
        """
        self._is_needed.set()
        if self._thread is not None:
            self._thread.join(seconds)
        return not self.is_busy

    def _run(self, files: tuple[Path, ...], load: Callable[[], None] | None) -> None:
        for path in files:
            self._read(path)
        if load is None:
            return
        with self.aside():
            try:
                load()
            except Exception as error:  # noqa: BLE001  whoever needs the model loads it again, and hears what is wrong
                logger.warning("loading ahead failed", extra={"traceback": shortage.forget(error)})
                shortage.reclaim(self._device)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Let this thread work with torch beside what runs: it has the turn, but in harmless parts and where it rests."""
        loading = _Loading(self._turn, TorchState(0, self._device))
        loading.take()
        _here.loading = loading
        try:
            yield
        finally:
            _here.loading = None
            loading.give()

    def _read(self, path: Path) -> None:
        """Have the system keep a file in its memory, as far as it likes to."""
        with contextlib.suppress(OSError), path.open("rb", buffering=0) as file:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            chunk = bytearray(CHUNK_BYTES)
            while not self._is_needed.is_set() and file.readinto(chunk):
                pass


@functools.cache
def _know_harmless_parts() -> None:
    """Wrap the long parts of the libraries' loading that change nothing for others: there the thread works apart."""
    _do_apart(diffusers.ModelMixin, "_load_pretrained_model")
    when_imported("transformers", _know_those_of_transformers)


def _know_those_of_transformers() -> None:
    import transformers

    _do_apart(transformers.PreTrainedModel, "_load_pretrained_model")
    _do_apart(transformers.PreTrainedTokenizerBase, "from_pretrained")


def _do_apart(kind: Any, name: str) -> None:
    found = kind.__dict__.get(name)
    if isinstance(found, classmethod | staticmethod):  # a version that has none of this name is only slower
        setattr(kind, name, type(found)(_apart(found.__func__)))


def _apart(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with apart():
            return function(*args, **kwargs)

    return wrapped
