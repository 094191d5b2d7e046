"""Answers about webhooks."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from vitascope.dialects import _http


class WebhookSecret(_http.Described):
    """What webhooks are signed with; `expires_at` is set on the one that was replaced."""

    secret: str
    created_at: datetime
    expires_at: datetime | None


class WebhookSecrets(_http.Described):
    """The secrets that are good now, the current one first."""

    key_id: str
    secrets: list[WebhookSecret]


class Endpoint(_http.Described):
    """A receiver of all that happens to a key's jobs."""

    id: str
    #: The holder's own word for it; may be empty.
    name: str
    url: str
    events: list[Literal["video.completed", "video.failed"]]
    created_at: datetime
    #: Set once it has answered 410 (Gone), or nothing has arrived there for days.
    disabled_at: datetime | None
    disabled_reason: str | None


class NewEndpoint(Endpoint):
    """An endpoint with what its messages are signed with."""

    secret: str


class EndpointList(_http.Described):
    """The key's endpoints, oldest first."""

    endpoints: list[Endpoint]


class EndpointSecrets(_http.Described):
    """The secrets that are good now, the current one first."""

    endpoint_id: str
    secrets: list[WebhookSecret]


class Attempt(_http.Described):
    """What came of sending a webhook once."""

    number: int
    ended_at: datetime
    #: Of HTTP; null if there was no answer.
    status: int | None
    #: Empty after success.
    reason: str
    duration_ms: int


class Delivery(_http.Described):
    """A webhook, and what became of it."""

    id: str
    status: Literal["pending", "delivered", "failed"]
    event: Literal["video.completed", "video.failed", "webhook.test"]
    format: str
    url: str
    job_id: str | None
    endpoint_id: str | None
    created_at: datetime
    finished_at: datetime | None
    next_attempt_at: datetime | None
    reason: str
    attempts: list[Attempt]


class DeliveryPage(_http.Described):
    """Some webhooks, by age."""

    deliveries: list[Delivery]
    has_more: bool
