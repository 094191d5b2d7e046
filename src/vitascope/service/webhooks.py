"""Webhooks: who is told how jobs end, and what became of what they were told."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from vitascope.domain.access import Caller
from vitascope.domain.errors import InvalidParameter, UrlRefused
from vitascope.domain.secret import Secret
from vitascope.domain.webhook import (
    JOB_EVENTS,
    Delivery,
    DeliveryPage,
    Endpoint,
    EventType,
    MessageStatus,
)
from vitascope.outbound import Outbound
from vitascope.store import Store
from vitascope.webhooks import SWITCHED_OFF, encoded, new_secret

from . import ids


class Webhooks:
    """Endpoints of keys, and deliveries. Another's is an unknown one, but to operators.

    Args:
        store: where they are.
        outbound: the way to URLs that users give; None refuses them.
    """

    def __init__(self, store: Store, outbound: Outbound | None) -> None:
        self._store = store
        self._outbound = outbound

    async def check(self, url: str, name: str = "webhook") -> None:
        """Find out whether a URL may be called; it is looked at anew before each delivery.

        Args:
            url: what a user gave.
            name: what the user calls it.

        Raises:
            InvalidParameter: it may not, or its host has no address.
        """
        if self._outbound is None:
            raise InvalidParameter(
                name, url, SWITCHED_OFF, hint="an operator can switch it on: VITASCOPE_OUTBOUND__ENABLED"
            )
        try:
            await self._outbound.check(url)
        except UrlRefused as error:
            raise InvalidParameter(name, url, error.rule, hint=error.hint) from None

    def add(
        self, url: str, events: Collection[str], caller: Caller, name: str = ""
    ) -> tuple[Endpoint, Secret]:
        """Tell this URL of the caller's jobs from now on; `check` it first.

        Args:
            url: where to.
            events: what is told; empty means all.
            caller: whose jobs.
            name: the caller's own word for it.

        Raises:
            InvalidParameter: there is no such event, or the caller has too many endpoints.
        """
        endpoint = Endpoint(
            id=f"ep_{ids.new_id()}",
            key_id=caller.key_id,
            url=url,
            events=_events(events),
            created_at=datetime.now(UTC),
            name=name,
        )
        secret = Secret(value=new_secret(), created_at=endpoint.created_at)
        self._store.add_endpoint(endpoint, secret.value)
        return endpoint, secret

    def endpoints(self, caller: Caller) -> list[Endpoint]:
        """Return the caller's endpoints, oldest first."""
        return self._store.endpoints(caller.owner)

    def endpoint(self, endpoint_id: str, caller: Caller) -> Endpoint:
        """Return an endpoint, or raise EndpointNotFound."""
        return self._store.endpoint(endpoint_id, caller.owner)

    def hints(self, endpoints: Collection[Endpoint]) -> dict[str, str]:
        """Return the last characters of each endpoint's secret, by its id; nothing of one that cannot be read."""
        return self._store.endpoint_hints([endpoint.id for endpoint in endpoints])

    def change(
        self,
        endpoint_id: str,
        caller: Caller,
        *,
        name: str | None = None,
        url: str | None = None,
        events: Collection[str] | None = None,
    ) -> Endpoint:
        """Change what is given; `check` a URL first. Another URL is told what is still to be sent, and enables its endpoint.

        Raises:
            InvalidParameter: there is no such event.
            EndpointNotFound: there is none of that id.
        """
        known = None if events is None else _events(events)
        return self._store.change_endpoint(endpoint_id, caller.owner, name=name, url=url, events=known)

    def remove(self, endpoint_id: str, caller: Caller) -> None:
        """Forget an endpoint; what was still to be sent there is not. Raises EndpointNotFound."""
        self._store.remove_endpoint(endpoint_id, caller.owner)

    def enable(self, endpoint_id: str, caller: Caller) -> Endpoint:
        """Let an endpoint that was disabled be told again, of what happens from now on. Raises EndpointNotFound."""
        return self._store.enable_endpoint(endpoint_id, caller.owner)

    def secrets(self, endpoint_id: str, caller: Caller) -> tuple[Secret, ...]:
        """Return what an endpoint's messages are signed with, the current secret first. Raises EndpointNotFound."""
        return self._store.endpoint_secrets(endpoint_id, caller.owner, new_secret)

    def rotate(self, endpoint_id: str, caller: Caller, *, keep_old: bool = True) -> tuple[Secret, ...]:
        """Give an endpoint another secret; the old one signs too for a day, or ends now. Raises EndpointNotFound."""
        return self._store.endpoint_secrets(
            endpoint_id, caller.owner, new_secret, replace=True, keep_old=keep_old
        )

    def test_with(
        self, endpoint_id: str, caller: Caller, event: EventType, body: Mapping[str, Any]
    ) -> Delivery:
        """Send an endpoint a sample of what is told of jobs, once.

        Args:
            endpoint_id: of the endpoint.
            caller: whose it must be.
            event: that of the sample.
            body: the sample, as plain JSON values.

        Raises:
            EndpointNotFound: there is none of that id.
            DeliveryConflict: it is disabled, or its key was revoked.
        """
        return self._store.add_test_message(endpoint_id, caller.owner, encoded(body), event, once=True)

    def test(self, endpoint_id: str, caller: Caller) -> Delivery:
        """Send an endpoint a message that is about no job.

        Raises:
            EndpointNotFound: there is none of that id.
            DeliveryConflict: it is disabled, or its key was revoked.
        """
        now = datetime.now(UTC)
        body = {"type": EventType.TEST, "timestamp": now.isoformat(), "data": {"endpoint_id": endpoint_id}}
        return self._store.add_test_message(endpoint_id, caller.owner, encoded(body))

    def delivery(self, message_id: str, caller: Caller) -> Delivery:
        """Return a message with all its attempts, or raise DeliveryNotFound."""
        return self._store.delivery(message_id, caller.owner)

    def deliveries(
        self,
        caller: Caller,
        *,
        after: str | None = None,
        limit: int = 20,
        order: Literal["asc", "desc"] = "desc",
        status: MessageStatus | None = None,
        job_id: str | None = None,
        endpoint_id: str | None = None,
    ) -> DeliveryPage:
        """List messages by age, all or some.

        Raises:
            InvalidParameter: no message has the id `after`.
        """
        return self._store.deliveries(
            caller.owner,
            after=after,
            limit=limit,
            order=order,
            status=status,
            job_id=job_id,
            endpoint_id=endpoint_id,
        )

    def replay(self, message_id: str, caller: Caller) -> Delivery:
        """Send a message once more, with its id and body; a new round of attempts begins.

        Raises:
            DeliveryNotFound: there is none of that id, or it was long ago.
            DeliveryConflict: its endpoint is gone or disabled, or its key was revoked.
        """
        return self._store.replay_message(message_id, caller.owner)


def _events(names: Collection[str]) -> tuple[EventType, ...]:
    known = {event.value: event for event in JOB_EVENTS}
    for name in names:
        if name not in known:
            raise InvalidParameter("events", name, f"it must be some of {', '.join(known)}")
    return tuple(known[name] for name in dict.fromkeys(names or known))
