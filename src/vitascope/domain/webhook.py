"""Messages to receivers about how jobs have ended, as far as several rooms must agree on them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

STANDARD = "standard"
"""Format of messages that no vendor's dialect asked for: Standard Webhooks, thin."""


class EventType(StrEnum):
    """What receivers are told. A cancelled job has failed, as far as they know: OpenAI's clients know no third word."""

    COMPLETED = "video.completed"
    FAILED = "video.failed"
    #: A model that was added has come, or could not be fetched.
    MODEL = "model.ended"
    #: Only to try a receiver out.
    TEST = "webhook.test"


JOB_EVENTS = (EventType.COMPLETED, EventType.FAILED)


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where the request itself wants its end to be told."""

    url: str
    #: Which dialect's words the message has; one that `app` knows.
    format: str = STANDARD


class MessageStatus(StrEnum):
    """What became of a message so far."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A receiver that an API key has for all its jobs."""

    id: str
    #: Whose it is; empty where the server has no keys.
    key_id: str
    url: str
    events: tuple[EventType, ...]
    created_at: datetime
    disabled_at: datetime | None = None
    disabled_reason: str | None = None
    #: Its holder's own word for it.
    name: str = ""
    #: When its holder last changed it or its secret; None for as long as nobody has.
    updated_at: datetime | None = None

    def to_dict(self) -> dict[str, Any]:
        """Make plain JSON values of it, as its holder sees it."""
        return {
            "id": self.id,
            "name": self.name,
            "url": self.url,
            "events": list(self.events),
            "created_at": self.created_at.isoformat(),
            "disabled_at": self.disabled_at and self.disabled_at.isoformat(),
            "disabled_reason": self.disabled_reason,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A message whose time has come, not yet taken by anybody."""

    number: int
    lane: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A message that this process sends now; `token` tells its right to it from a later one's."""

    number: int
    id: str
    token: int
    #: How often it was sent, this time included.
    attempt: int
    #: Attempts of the present round that have failed; a replay begins another round.
    tries: int
    format: str
    url: str
    #: The very bytes of every attempt.
    body: bytes
    #: Why there is no body, and nothing can be sent now; empty if there is one.
    problem: str
    #: Messages to the same receiver share it.
    lane: str
    #: Who signs: the endpoint if there is one, else the key; empty where the server had no keys.
    key_id: str
    endpoint_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of sending a message once."""

    is_delivered: bool
    #: Of HTTP; None if there was no answer.
    status: int | None = None
    #: Why it was no success; empty if it was. Never what the receiver wrote.
    reason: str = ""
    duration_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A line of the delivery log."""

    number: int
    ended_at: datetime
    outcome: Outcome

    def to_dict(self) -> dict[str, Any]:
        """Make plain JSON values of it."""
        return {
            "number": self.number,
            "ended_at": self.ended_at.isoformat(),
            "status": self.outcome.status,
            "reason": self.outcome.reason,
            "duration_ms": round(self.outcome.duration_seconds * 1000),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A message with all that became of it."""

    id: str
    status: MessageStatus
    event: EventType
    format: str
    url: str
    job_id: str | None
    endpoint_id: str | None
    created_at: datetime
    finished_at: datetime | None
    #: None unless it is pending; in the past if it is its turn.
    next_attempt_at: datetime | None
    #: Why it has not been delivered; empty before the first attempt and after success.
    reason: str
    #: Oldest first.
    attempts: tuple[Attempt, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Make plain JSON values of it, as its owner sees it."""
        return {
            "id": self.id,
            "status": self.status.value,
            "event": self.event.value,
            "format": self.format,
            "url": self.url,
            "job_id": self.job_id,
            "endpoint_id": self.endpoint_id,
            "created_at": self.created_at.isoformat(),
            "finished_at": self.finished_at and self.finished_at.isoformat(),
            "next_attempt_at": self.next_attempt_at and self.next_attempt_at.isoformat(),
            "reason": self.reason,
            "attempts": [attempt.to_dict() for attempt in self.attempts],
        }


@dataclass(frozen=True, slots=True)
class DeliveryPage:
    """Some deliveries in order, and whether more follow."""

    deliveries: tuple[Delivery, ...]
    has_more: bool


@dataclass(frozen=True, slots=True)
class Backlog:
    """How much is still to be delivered."""

    num_pending: int
    oldest_seconds: float
