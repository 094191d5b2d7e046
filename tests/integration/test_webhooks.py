"""Delivery over real connections: receivers that answer badly, slowly or never; senders that die."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.webhooks.run import Run
from vitascope.dialects.openai import webhook_body
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import plan
from vitascope.domain.request import GenerationRequest
from vitascope.domain.webhook import JOB_EVENTS, Delivery, Endpoint, MessageStatus, Webhook
from vitascope.outbound import AllowList, Outbound
from vitascope.store import Cipher, Store
from vitascope.webhooks import Deliverer, Format
from waiting import eventually

HERE = "127.0.0.2"
HEAD = b"HTTP/1.1 %s\r\nContent-Length: 0\r\nConnection: close\r\n%s\r\n"
ANSWERS = {
    "ok": HEAD % (b"200 OK", b""),
    "missing": HEAD % (b"404 Not Found", b""),
    "gone": HEAD % (b"410 Gone", b""),
    "moved": HEAD % (b"302 Found", b"Location: /ok\r\n"),
    "later": HEAD % (b"503 Busy", b"Retry-After: 120\r\n"),
    "wild": HEAD % (b"503 Busy", b"Retry-After: Mon, 01 Jan 99999999999999999999 00:00:00 GMT\r\n"),
    "switches": HEAD % (b"101 Switching Protocols", b"Upgrade: h2c\r\n"),
    "long-head": HEAD % (b"200 OK", b"X: " + b"x" * 200_000 + b"\r\n"),
    "hints": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000,
    "garbage": b"\x00\xff not http at all \r\n\r\n",
    "closes": b"",
    "breaks-off": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf",
    "endless": b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n" + b"x" * 100_000,
}


class Receiver:
    """Answers by the path's last word; `/silent` says nothing until it is let go."""

    def __init__(self) -> None:
        self._listener = socket.create_server((HERE, 0))
        self.port = self._listener.getsockname()[1]
        self.asked: Counter[str] = Counter()
        self.let_go = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, name: str) -> str:
        return f"http://{HERE}:{self.port}/{name}"

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            request = connection.recv(65_536)
            if not request:  # who asked has gone
                return
            name = request.split(b" ")[1].decode().rpartition("/")[2]
            self.asked[name] += 1
            if name == "silent":
                self.let_go.wait(30)
            else:
                connection.sendall(ANSWERS[name])

    def close(self) -> None:
        self.let_go.set()
        self._listener.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def store(tmp_path: Path, clock: Any) -> Iterator[Store]:
    made = Store.open(f"sqlite:///{tmp_path / 'jobs.db'}", clock, cipher=Cipher([bytes(32)]))
    yield made
    made.close()


@pytest.fixture
def told(store: Store, small_spec: ModelSpec) -> Callable[..., str]:
    """Ends a job whose webhook leads somewhere; returns the message's id."""
    numbers = iter(range(10**6))

    def tell(url: str, name: str = "standard") -> str:
        request = GenerationRequest(prompt="a", model="small", seed=1, webhook=Webhook(url, name))
        job_id = f"{next(numbers):026}"
        store.create(job_id, request, plan(request, small_spec), 1000)
        store.request_cancel(job_id)
        found = store.deliveries(None, job_id=job_id).deliveries
        return next(one.id for one in found if one.endpoint_id is None)

    return tell


def broken(_event: object, _job: object) -> dict[str, Any]:
    raise ZeroDivisionError


def deliver(store: Store, clock: Any, *, allow: tuple[str, ...] = (HERE,), seconds: float = 15.0) -> None:
    """Send what is due now, and wait for its end."""

    async def run() -> None:
        outbound = Outbound(AllowList.of(allow))
        formats = {"standard": Format(webhook_body, seconds), "broken": Format(broken)}
        sender = Deliverer(store, outbound.post, formats, clock=clock, chance=lambda: 0.0)
        while await sender.send_due() or sender.num_in_flight:
            await sender.settle()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("missing", 404, "its server answers 404"),
        ("moved", 302, "its server answers 302, and redirects are not followed"),
        ("later", 503, "its server answers 503"),
        ("wild", 503, "its server answers 503"),
        ("switches", None, "its server gave no whole answer"),
        ("long-head", None, "its server gave no whole answer"),
        ("hints", None, "its server gave no whole answer"),
        ("garbage", None, "its server gave no whole answer"),
        ("closes", None, "its server gave no whole answer"),
        ("silent", None, "its server gave no whole answer within 3 s"),
    ],
)
def test_a_bad_receiver_ends_in_the_log_and_is_tried_again(
    store: Store, receiver: Receiver, told: Any, clock: Any, name: str, status: int | None, reason: str
) -> None:
    message_id = told(receiver.url(name))
    deliver(store, clock, seconds=3.0 if name == "silent" else 15.0)
    delivery = store.delivery(message_id, None)
    (attempt,) = delivery.attempts
    assert (attempt.outcome.status, attempt.outcome.reason) == (status, reason)
    assert delivery.status is MessageStatus.PENDING
    assert delivery.next_attempt_at is not None
    wait = (delivery.next_attempt_at - clock.now).total_seconds()
    assert wait == (120 if name == "later" else 5)
    assert receiver.asked == {name: 1}, "no redirect was followed"


@pytest.mark.parametrize("name", ["ok", "breaks-off", "endless"])
def test_the_status_decides_whatever_follows_it(
    store: Store, receiver: Receiver, told: Any, clock: Any, name: str
) -> None:
    message_id = told(receiver.url(name))
    deliver(store, clock)
    delivery = store.delivery(message_id, None)
    assert (delivery.status, delivery.attempts[0].outcome.status) == (MessageStatus.DELIVERED, 200)


def test_gone_ends_a_requests_webhook_and_disables_an_endpoint(
    store: Store, receiver: Receiver, told: Any, clock: Any
) -> None:
    endpoint = Endpoint(id="ep", key_id="", url=receiver.url("gone"), events=JOB_EVENTS, created_at=clock.now)
    of_request = told(receiver.url("gone"))
    store.add_endpoint(endpoint, "whsec_" + "A" * 44)
    told(receiver.url("ok"))
    deliver(store, clock)
    gone = "its server answers 410 (Gone): it wants nothing any more"
    assert store.delivery(of_request, None).reason == gone
    assert store.endpoint("ep", None).disabled_reason == gone
    assert receiver.asked == {"gone": 2, "ok": 1}


def test_a_dialect_that_fails_is_the_reason(store: Store, receiver: Receiver, told: Any, clock: Any) -> None:
    message_id = told(receiver.url("ok"), "broken")
    deliver(store, clock)
    delivery = store.delivery(message_id, None)
    assert (delivery.status, receiver.asked) == (MessageStatus.PENDING, {})
    assert [one.outcome.reason for one in delivery.attempts] == [
        "its body could not be written, by an error on the server"
    ]


def test_calls_that_are_switched_off_are_no_fault_of_an_endpoint(
    store: Store, receiver: Receiver, told: Any, clock: Any
) -> None:
    endpoint = Endpoint(
        id="ep", key_id="", url=receiver.url("missing"), events=JOB_EVENTS, created_at=clock.now
    )
    store.add_endpoint(endpoint, "whsec_" + "A" * 44)
    told(receiver.url("ok"))

    async def run(post: Any) -> None:
        sender = Deliverer(store, post, {"standard": Format(webhook_body)}, clock=clock)
        while await sender.send_due() or sender.num_in_flight:
            await sender.settle()

    for _ in range(10):
        asyncio.run(run(None))
        clock.advance(86_400)
    reasons = {one.reason for one in store.deliveries(None).deliveries}
    assert reasons == {"URLs are not called by this server"}
    assert store.endpoint("ep", None).disabled_at is None
    told(receiver.url("ok"))
    for _ in range(10):
        asyncio.run(run(Outbound(AllowList.of([HERE])).post))
        clock.advance(86_400)
    assert (
        store.endpoint("ep", None).disabled_reason
        == "nothing has arrived there for 5 days: its server answers 404"
    )


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x", "http://[::1]/x", "http://169.254.169.254/latest"])
def test_a_url_that_may_not_be_called_any_more_is_a_failure_in_the_log(
    store: Store, told: Any, clock: Any, url: str
) -> None:
    message_id = told(url)
    deliver(store, clock, allow=())
    (attempt,) = store.delivery(message_id, None).attempts
    assert attempt.outcome.status is None
    assert attempt.outcome.reason in (
        "its host has no public address, or does not answer",
        "its port must be 80, 443, 8080 or 8443",
    )


def test_after_the_tenth_attempt_it_is_given_up(
    store: Store, receiver: Receiver, told: Any, clock: Any
) -> None:
    message_id = told(receiver.url("missing"))
    for _ in range(12):
        deliver(store, clock)
        clock.advance(86_400)
    delivery = store.delivery(message_id, None)
    assert (len(delivery.attempts), delivery.status) == (10, MessageStatus.FAILED)
    store.replay_message(message_id, None)
    deliver(store, clock)
    delivery = store.delivery(message_id, None)
    assert (len(delivery.attempts), delivery.status) == (11, MessageStatus.PENDING)


def test_a_dead_receiver_does_not_hold_up_another(
    store: Store, receiver: Receiver, told: Any, clock: Any
) -> None:
    for _ in range(50):
        told(receiver.url("silent"))
    good = told(receiver.url("ok").replace(HERE, "127.0.0.3"))
    with socket.create_server(("127.0.0.3", receiver.port)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(ANSWERS["ok"])

        thread = threading.Thread(target=answer)
        thread.start()

        async def run() -> None:
            outbound = Outbound(AllowList.of([HERE, "127.0.0.3"]))
            sender = Deliverer(store, outbound.post, {"standard": Format(webhook_body)}, clock=clock)
            while store.delivery(good, None).status is not MessageStatus.DELIVERED:
                await sender.send_due()
                await sender.settle()
            assert receiver.asked["silent"] <= 8
            await sender.break_off()

        asyncio.run(run())
        thread.join()


def test_what_is_under_way_at_the_stop_is_sent_by_the_next(
    store: Store, receiver: Receiver, told: Any, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitascope.webhooks.delivery.DRAIN_SECONDS", 0.05)
    message_id = told(receiver.url("silent"))

    async def run() -> None:
        outbound = Outbound(AllowList.of([HERE]))
        sender = Deliverer(store, outbound.post, {"standard": Format(webhook_body)}, clock=clock)
        running = asyncio.create_task(sender.run())
        await asyncio.to_thread(eventually, lambda: receiver.asked)
        sender.close()
        await running

    asyncio.run(run())
    delivery: Delivery = store.delivery(message_id, None)
    assert [one.outcome.reason for one in delivery.attempts] == [
        "the server stopped before it knew the answer"
    ]
    receiver.let_go.set()
    assert len(store.due_messages(8)) == 1


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_every_event_arrives_after_an_outage_and_restarts(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    """The short form of `python -m bench.webhooks`."""
    url = request.getfixturevalue("postgres").create_database() if kind == "postgresql" else None
    found = asyncio.run(Run(tmp_path, events=32, away_seconds=72 * 3600.0, restarts=4, seed=3, url=url).run())
    assert found.problems == ()
    assert (found.events, found.delivered, found.distinct, found.restarts) == (32, 32, 32, 4)
    assert found.told_after_seconds >= 72 * 3600
    assert found.repeated > 0, "a sender was killed when a message had come, before it had written that down"
