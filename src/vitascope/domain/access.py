"""Who calls, and what they may do.

generate    make jobs, and read, cancel and delete one's own
read        read one's own jobs
admin       everything, with everybody's jobs, and keys
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from .added import WITH_VAE


class Scope(StrEnum):
    """What a key is for."""

    GENERATE = "generate"
    READ = "read"
    ADMIN = "admin"


#: What each scope allows beside itself.
_IMPLIED = {
    Scope.READ: frozenset({Scope.READ}),
    Scope.GENERATE: frozenset({Scope.READ, Scope.GENERATE}),
    Scope.ADMIN: frozenset(Scope),
}


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What a key may use at most; None is no limit of its own."""

    #: Requests that make a job, in any 60 seconds of the clock's minutes.
    requests_per_minute: int | None = None
    #: Jobs that may run at the same time; more wait.
    max_running: int | None = None
    #: Jobs that may wait.
    max_queued: int | None = None
    #: Bytes of finished videos, uploaded files, characters and open batches that are kept.
    max_storage_bytes: int | None = None
    #: Ids of models; empty means all.
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left of a key's requests in this minute of the clock, once a request was counted."""

    limit: int
    remaining: int
    #: Until requests are counted anew.
    reset_seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key as it is kept: never the key itself."""

    id: str
    #: The operator's own word for it.
    name: str
    #: Its first characters and its last four, to recognise it by.
    prefix: str
    last4: str
    scopes: frozenset[Scope]
    limits: KeyLimits = field(default_factory=KeyLimits)
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def to_dict(self) -> dict[str, Any]:
        """Make plain JSON values of it, as operators see it: the limits beside the rest."""
        return {
            "id": self.id,
            "name": self.name,
            "prefix": self.prefix,
            "last4": self.last4,
            "scopes": sorted(self.scopes),
            "requests_per_minute": self.limits.requests_per_minute,
            "max_running": self.limits.max_running,
            "max_queued": self.limits.max_queued,
            "max_storage_bytes": self.limits.max_storage_bytes,
            "models": list(self.limits.models),
            "created_at": self.created_at.isoformat(),
            "expires_at": self.expires_at and self.expires_at.isoformat(),
            "revoked_at": self.revoked_at and self.revoked_at.isoformat(),
        }


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever sent a request."""

    #: Empty where the server has no keys: everybody is the same then.
    key_id: str
    scopes: frozenset[Scope]
    limits: KeyLimits = field(default_factory=KeyLimits)

    def may(self, scope: Scope) -> bool:
        """Whether one of the caller's scopes allows this one."""
        return any(scope in _IMPLIED[own] for own in self.scopes)

    def may_use(self, model: str) -> bool:
        """Whether the caller may have videos made by the model of this id."""
        return not self.limits.models or model.partition(WITH_VAE)[0] in self.limits.models

    @property
    def owner(self) -> str | None:
        """Whose jobs the caller sees: a key's id, or None for everybody's."""
        return None if Scope.ADMIN in self.scopes else self.key_id


@dataclass(frozen=True, slots=True)
class Use:
    """What a key has of the server now."""

    num_queued: int
    num_running: int
    #: Of finished videos, uploaded files, characters and open batches.
    stored_bytes: int


#: Who calls a server that has no keys.
OPEN = Caller("", frozenset(Scope))
