"""What the processes of one engine say to each other: one leads (`leading`), and one for each further device follows (`following`).

They are processes of one user with the same rights, one started by the other, on a socket pair that nobody else can reach: so
messages are pickled. What users have sent is in them only as numbers and texts that the leading one has read.

leader → follower   Setup once, Quit at last, Join whenever there is a new group, then
                    Begin, any number of Go (each followed by Exchange or Abandon where branches are shared), Close: of one request
                    Do: what an operator wants
follower → leader   Ready once, Standing before each shared forward, Ran after it where branches are shared, Failed once at most,
                    Done for each Join and Do, Log at any time
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitascope.domain.errors import (
    GenerationError,
    ModelTooLarge,
    ModelUnavailable,
    OutOfMemory,
    VitascopeError,
)
from vitascope.domain.loras import LoraFile
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import Plan
from vitascope.domain.request import Lora

from .contract import Inputs
from .keeper import Placed
from .parallel import Kind
from .placement import Wishes
from .places import EngineBusy

if TYPE_CHECKING:
    from .contract import Frames


@dataclass(frozen=True, slots=True)
class Setup:
    """Of one follower's engine; but for the first ones as the leader's."""

    rank: int
    device: str
    size: int
    log_level: int
    threads: int
    memory_gb: float
    slots: int
    wishes: Wishes
    lora_cache_bytes: int
    embeddings_cache_bytes: int
    notes: Path | None


@dataclass(frozen=True, slots=True)
class Join:
    """Become a rank of a new group; see `parallel.join`."""

    folder: Path
    number: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Facts:
    """What the leader has found out of a model, so that all ranks have the same: they look for nothing themselves."""

    #: Where weights are: of the model, its parts, and what makes the second pass.
    locations: Mapping[tuple[str, str], str] = field(default_factory=dict)
    #: How it is placed; None if it cannot be.
    placed: Placed | None = None
    #: Adapters' files, by the model and what the request asks for.
    loras: Mapping[tuple[str, tuple[Lora, ...]], tuple[LoraFile, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Begin:
    """Make what the leader makes."""

    number: int
    kind: Kind
    plan: Plan
    spec: ModelSpec
    inputs: Inputs
    facts: Facts
    #: What the first pass made, where this is a second one with a checkpoint of its own.
    first: Frames | None = None


@dataclass(frozen=True, slots=True)
class Go:
    """Run the forward that you stand before."""

    number: int


@dataclass(frozen=True, slots=True)
class Exchange:
    """All have computed theirs."""

    number: int


@dataclass(frozen=True, slots=True)
class Abandon:
    """One has not: there is nothing to exchange."""

    number: int


@dataclass(frozen=True, slots=True)
class Close:
    """The leader has all that it needs, or does not need it any more."""

    number: int


@dataclass(frozen=True, slots=True)
class Do:
    """Call a method of the engine: `load`, `unload`, `clear_caches`, `evict_idle`."""

    what: str
    arguments: Sequence[Any] = ()
    facts: Facts | None = None


@dataclass(frozen=True, slots=True)
class Quit:
    """Leave the group and end."""


Order = Quit | Join | Begin | Go | Exchange | Abandon | Close | Do


_NO_ROOM = "no_room"
"""Beside what else is open there, while the first device has room: the job can be made when that is over."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """An error, as far as it is of use in another process."""

    code: str
    message: str
    hint: str | None = None
    peak_bytes: int = 0

    @classmethod
    def of(cls, error: BaseException) -> Trouble:
        if isinstance(error, VitascopeError):
            return cls(error.code, error.message, error.hint, getattr(error, "peak_bytes", 0))
        name = _NO_ROOM if isinstance(error, EngineBusy) else type(error).__name__
        return cls(name, str(error)[:500])

    def to_error(self, where: str) -> Exception:
        """Make an error of the same kind.

        Args:
            where: it was raised.
        """
        message = f"{self.message} (on {where})"
        if self.code in (OutOfMemory.code, _NO_ROOM):
            return OutOfMemory(message, peak_bytes=self.peak_bytes, hint=self.hint)
        for kind in (ModelUnavailable, ModelTooLarge, GenerationError):
            if self.code == kind.code:
                return kind(message, hint=self.hint)
        return RuntimeError(f"{self.code}: {message}")


@dataclass(frozen=True, slots=True)
class Ready:
    """The follower's engine is there, or why it is not."""

    free_bytes: int = 0
    problem: Trouble | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """It stands before a forward that the others take part in."""

    number: int
    #: How many of this request it has stood before, with this one.
    count: int
    what: Hashable


@dataclass(frozen=True, slots=True)
class Ran:
    """It has computed its branch, or could not: then Failed says why."""

    number: int
    is_there: bool


@dataclass(frozen=True, slots=True)
class Failed:
    """It makes no more of this request."""

    number: int
    trouble: Trouble
    #: Whether that was amid an exchange, where others wait for it.
    was_exchanging: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """It has obeyed a Join or a Do, or why not."""

    trouble: Trouble | None = None


@dataclass(frozen=True, slots=True)
class Log:
    """What its libraries and its engine log."""

    record: logging.LogRecord


News = Ready | Standing | Ran | Failed | Done | Log
