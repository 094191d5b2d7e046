"""The outbox, endpoints and the delivery log, whatever the database."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from vitascope.domain.access import ApiKey, Scope
from vitascope.domain.errors import (
    DeliveryConflict,
    DeliveryNotFound,
    EndpointNotFound,
    InvalidParameter,
    LeaseLost,
)
from vitascope.domain.job import Job, JobError, Lease
from vitascope.domain.video import Video
from vitascope.domain.webhook import (
    JOB_EVENTS,
    Delivery,
    Endpoint,
    EventType,
    MessageStatus,
    Outcome,
    Outgoing,
    Webhook,
)
from vitascope.store import Cipher, Store, for_webhooks, rows
from vitascope.webhooks.schedule import delay_after

URL = "https://example.com/hooks?token=1"
KEY = bytes(range(32))
OK = Outcome(is_delivered=True, status=200)
AWAY = Outcome(is_delivered=False, status=503, reason="its server answers 503")

Open = Callable[[], Store]
Create = Callable[..., Job]


@pytest.fixture
def open_store(url: str, clock: Any) -> Iterator[Open]:
    opened: list[Store] = []

    def open_one() -> Store:
        opened.append(Store.open(url, clock, cipher=Cipher([KEY])))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


def add_key(store: Store, key_id: str) -> None:
    made = datetime(2026, 1, 1, tzinfo=UTC)
    scopes = frozenset({Scope.GENERATE})
    store.add_key(
        ApiKey(id=key_id, name="x", prefix="vsk_", last4="last", scopes=scopes, created_at=made), key_id
    )


def add_endpoint(
    store: Store, endpoint_id: str = "ep_1", key_id: str = "", events: Any = JOB_EVENTS, url: str = URL
) -> None:
    made = datetime(2026, 1, 1, tzinfo=UTC)
    endpoint = Endpoint(id=endpoint_id, key_id=key_id, url=url, events=tuple(events), created_at=made)
    store.add_endpoint(endpoint, f"whsec_of_{endpoint_id}")


def claimed(store: Store) -> Lease:
    lease = store.claim("w", 15.0)
    assert lease is not None
    return lease


def succeed(store: Store) -> None:
    lease = claimed(store)
    key = f"videos/{lease.job.id}.mp4"
    video = Video(
        key=key,
        media_type="video/mp4",
        num_bytes=10,
        sha256="00",
        height=64,
        width=96,
        num_frames=17,
        fps=8,
    )
    store.succeed(lease, [video], {})


def written(store: Store, owner: str | None = None) -> list[Delivery]:
    return list(store.deliveries(owner, order="asc", limit=100).deliveries)


def render(name: str, event: EventType, job: Job) -> bytes | str:
    return "nobody writes it" if name == "unknown" else f"{name} {event.value} {job.id}".encode()


def take(store: Store, limit: int = 100) -> list[Outgoing]:
    numbers = [due.number for due in store.due_messages(limit)]
    return store.claim_messages(numbers, 60.0, render) if numbers else []


class TestWriting:
    """Messages are written where jobs end, and only there."""

    def test_success_and_failure_are_told(self, store: Store, create: Create) -> None:
        create("a", webhook=Webhook(URL), track_id="t")
        create("b", webhook=Webhook(URL, "modelslab"))
        assert written(store) == []
        succeed(store)
        store.fail(claimed(store), JobError("out_of_memory", "x"))
        found = [(one.job_id, one.event.value, one.format, one.url, one.status) for one in written(store)]
        assert found == [
            ("a", "video.completed", "standard", URL, MessageStatus.PENDING),
            ("b", "video.failed", "modelslab", URL, MessageStatus.PENDING),
        ]
        assert store.get("a").request.webhook == Webhook(URL)
        assert store.get("a").request.track_id == "t"

    def test_every_other_end_is_a_failure(self, store: Store, create: Create, clock: Any) -> None:
        for job_id in "abcde":
            create(job_id, webhook=Webhook(URL))
        store.request_cancel("a")
        assert [one.job_id for one in written(store)] == ["a"], "a queued job ends at once"
        lease = claimed(store)
        store.request_cancel("b")
        assert len(written(store)) == 1, "a wish is no end"
        store.finish_cancelled(lease)
        store.release(claimed(store), count_attempt=True, max_attempts=1)
        claimed(store)
        clock.advance(16)
        store.requeue_lapsed(max_attempts=1)
        store.delete("e")
        assert [one.job_id for one in written(store)] == list("abcde")
        assert {one.event for one in written(store)} == {EventType.FAILED}
        assert len({one.id for one in written(store)}) == 5
        store.request_cancel("a")
        assert len(written(store)) == 5, "what has ended is told once"

    def test_a_job_that_waits_again_is_not_told(self, store: Store, create: Create) -> None:
        create(webhook=Webhook(URL))
        store.release(claimed(store), count_attempt=True)
        assert written(store) == []

    def test_endpoints_get_what_they_asked_for_of_their_keys_jobs(self, store: Store, create: Create) -> None:
        for key_id in ("k1", "k2"):
            add_key(store, key_id)
        add_endpoint(store, "ep_all", "k1")
        add_endpoint(store, "ep_failed", "k1", [EventType.FAILED], "http://failed")
        add_endpoint(store, "ep_other", "k2")
        create("a", key_id="k1", webhook=Webhook(URL))
        succeed(store)
        create("b", key_id="k1")
        store.request_cancel("b")
        assert [(one.job_id, one.endpoint_id) for one in written(store)] == [
            ("a", None),
            ("a", "ep_all"),
            ("b", "ep_all"),
            ("b", "ep_failed"),
        ]
        assert written(store, "k2") == []
        assert len(written(store, "k1")) == 4

    def test_nothing_is_written_if_the_end_is_not(self, store: Store, create: Create, clock: Any) -> None:
        create(webhook=Webhook(URL))
        lease = claimed(store)
        clock.advance(16)
        store.requeue_lapsed(max_attempts=3)
        with pytest.raises(LeaseLost):
            store.fail(lease, JobError("x", "y"))
        assert written(store) == []


class TestSending:
    def test_a_message_is_taken_once_and_its_body_never_changes(
        self, store: Store, create: Create, open_store: Open, clock: Any
    ) -> None:
        create(webhook=Webhook(URL))
        succeed(store)
        due = store.due_messages(8)
        (message,) = store.claim_messages([due[0].number], 60.0, render)
        assert (message.body, message.attempt, message.tries) == (b"standard video.completed a", 1, 0)
        other = open_store()
        assert other.due_messages(8) == []
        assert other.claim_messages([due[0].number], 60.0, render) == [], "looked before, asked after"
        store.end_attempt(message, AWAY, retry_seconds=5.0)
        clock.advance(4.9)
        assert take(other) == []
        clock.advance(0.2)
        numbers = [one.number for one in other.due_messages(8)]
        (again,) = other.claim_messages(numbers, 60.0, lambda *_: b"something else")
        assert (again.id, again.body, again.attempt, again.tries) == (message.id, message.body, 2, 1)
        other.end_attempt(again, OK)
        delivery = store.delivery(message.id, None)
        assert (delivery.status, delivery.reason, delivery.next_attempt_at) == (
            MessageStatus.DELIVERED,
            "",
            None,
        )
        assert [(one.number, one.outcome.status) for one in delivery.attempts] == [(1, 503), (2, 200)]
        clock.advance(10**6)
        assert take(store) == []

    def test_processes_that_look_together_take_each_message_once(
        self, store: Store, create: Create, open_store: Open
    ) -> None:
        for number in range(30):
            create(f"j{number}", webhook=Webhook(URL))
            store.request_cancel(f"j{number}")
        taken: list[str] = []
        start = threading.Barrier(4)

        def work(mine: Store) -> None:
            start.wait()
            while numbers := [one.number for one in mine.due_messages(5)]:
                for message in mine.claim_messages(numbers, 60.0, render):
                    taken.append(message.id)
                    mine.end_attempt(message, OK)

        threads = [threading.Thread(target=work, args=(open_store(),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(taken) == len(set(taken)) == 30
        assert {one.status for one in written(store)} == {MessageStatus.DELIVERED}

    def test_a_dead_senders_message_is_sent_by_another(
        self, store: Store, create: Create, open_store: Open, clock: Any
    ) -> None:
        create(webhook=Webhook(URL))
        succeed(store)
        (message,) = take(store)
        clock.advance(61)
        (again,) = take(open_store())
        assert (again.id, again.attempt, again.tries) == (message.id, 2, 0), "who died has not tried"
        store.end_attempt(message, AWAY, retry_seconds=5.0)
        assert len(store.delivery(message.id, None).attempts) == 1, "who came back writes nothing"
        store.end_attempt(again, OK)
        log = store.delivery(message.id, None).attempts
        assert [(one.number, one.outcome.reason) for one in log] == [
            (1, "the server stopped before it knew the answer"),
            (2, ""),
        ]

    def test_what_a_stopping_sender_leaves_is_due_at_once(
        self, store: Store, create: Create, open_store: Open
    ) -> None:
        create(webhook=Webhook(URL))
        succeed(store)
        taken = take(store)
        store.release_messages(taken)
        store.release_messages(taken)
        (again,) = take(open_store())
        store.end_attempt(again, AWAY, retry_seconds=5.0)
        store.release_messages([again])
        assert [one.number for one in store.delivery(again.id, None).attempts] == [1, 2]

    def test_lanes_take_turns(self, store: Store, create: Create) -> None:
        for number in range(20):
            create(f"a{number}", webhook=Webhook("https://busy.example/x"))
            store.request_cancel(f"a{number}")
        create("b", webhook=Webhook("https://other.example/y"))
        store.request_cancel("b")
        due = store.due_messages(3)
        assert [one.lane for one in due] == [
            "@busy.example",
            "@other.example",
            "@busy.example",
            "@busy.example",
        ]
        assert {one.lane for one in store.due_messages(3, ["@busy.example"])} == {"@other.example"}

    def test_what_nobody_can_write_is_tried_again_with_its_reason(
        self, store: Store, create: Create, clock: Any
    ) -> None:
        create(webhook=Webhook(URL, "unknown"))
        succeed(store)
        (message,) = take(store)
        assert (message.problem, message.body) == ("nobody writes it", b"")
        store.end_attempt(message, Outcome(is_delivered=False, reason=message.problem), retry_seconds=5)
        assert [one.reason for one in written(store)] == ["nobody writes it"]
        clock.advance(6)
        numbers = [due.number for due in store.due_messages(8)]
        (message,) = store.claim_messages(numbers, 60.0, lambda *_: b"a newer server knows it")
        assert (message.problem, message.body) == ("", b"a newer server knows it")

    def test_a_job_that_cannot_be_read_keeps_no_other_message(
        self, store: Store, create: Create, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for job_id in "ab":
            create(job_id, webhook=Webhook(URL))
            store.request_cancel(job_id)

        def job_of(row: Any) -> Job:
            if row.id == "a":
                raise TypeError("a field of the future")
            return rows.job_of(row)

        monkeypatch.setattr(for_webhooks, "job_of", job_of)
        first, second = take(store)
        assert first.problem == "its job could not be read, by an error on the server"
        assert (second.problem, second.body) == ("", b"standard video.failed b")

    def test_a_deleted_jobs_message_is_sent(self, store: Store, create: Create) -> None:
        create(webhook=Webhook(URL))
        succeed(store)
        store.delete("a")
        assert len(take(store)) == 1

    def test_gone_disables_the_endpoint_and_ends_what_waits_for_it(
        self, store: Store, create: Create
    ) -> None:
        add_endpoint(store)
        add_endpoint(store, "ep_2")
        for job_id in "ab":
            create(job_id)
            store.request_cancel(job_id)
        first, *_ = take(store, 1)
        assert first.endpoint_id == "ep_1"
        gone = Outcome(is_delivered=False, status=410, reason="its server answers 410")
        store.end_attempt(first, gone, is_gone=True)
        endpoint = store.endpoint("ep_1", None)
        assert endpoint.disabled_at is not None
        assert endpoint.disabled_reason == "its server answers 410"
        ends = {(one.endpoint_id, one.status, one.reason) for one in written(store)}
        assert ends == {
            ("ep_1", MessageStatus.FAILED, "its server answers 410"),
            ("ep_1", MessageStatus.FAILED, "the endpoint is disabled"),
            ("ep_2", MessageStatus.PENDING, ""),
        }
        create("c")
        store.request_cancel("c")
        assert [one.endpoint_id for one in written(store) if one.job_id == "c"] == ["ep_2"]
        with pytest.raises(DeliveryConflict, match="the endpoint is disabled"):
            store.replay_message(first.id, None)
        assert store.enable_endpoint("ep_1", None).disabled_at is None
        assert store.replay_message(first.id, None).status is MessageStatus.PENDING

    def give_up(self, store: Store) -> list[str]:
        """Give up all that waits; returns why endpoints are disabled for it."""
        days = timedelta(days=5)
        return [why for one in take(store) if (why := store.end_attempt(one, AWAY, failing_for=days))]

    def test_an_endpoint_is_disabled_once_nothing_has_arrived_for_days(
        self, store: Store, create: Create, clock: Any
    ) -> None:
        add_endpoint(store)
        create("a", webhook=Webhook(URL))
        store.request_cancel("a")
        clock.advance(3.2 * 86_400)
        assert self.give_up(store) == []
        assert store.endpoint("ep_1", None).disabled_at is None, "a long weekend"
        for job_id in "bc":
            create(job_id)
            store.request_cancel(job_id)
        clock.advance(2 * 86_400)
        first, second = take(store)
        why = store.end_attempt(first, AWAY, failing_for=timedelta(days=5))
        assert why == "nothing has arrived there for 5 days: its server answers 503"
        assert store.endpoint("ep_1", None).disabled_reason == why
        assert store.end_attempt(second, OK) == ""
        assert [one.reason for one in written(store)] == [AWAY.reason] * 3 + ["the endpoint is disabled"]

    def test_an_endpoint_where_something_arrived_is_not_disabled(
        self, store: Store, create: Create, clock: Any
    ) -> None:
        add_endpoint(store)
        for job_id in "abcd":
            create(job_id)
            store.request_cancel(job_id)
            clock.advance(86_400)
        bad, good, *_ = take(store)
        store.end_attempt(good, OK)
        clock.advance(4.9 * 86_400)
        assert store.end_attempt(bad, AWAY, failing_for=timedelta(days=5)) == ""
        clock.advance(86_400)
        assert self.give_up(store) == [], (
            "the rest is older than what arrived: it says nothing of the time since"
        )
        create("e")
        store.request_cancel("e")
        clock.advance(4.9 * 86_400)
        assert self.give_up(store) == []
        create("f")
        store.request_cancel("f")
        clock.advance(0.2 * 86_400)
        assert len(self.give_up(store)) == 1

    def test_neither_a_sample_nor_what_another_url_has_failed_ends_an_endpoint(
        self, store: Store, create: Create, clock: Any
    ) -> None:
        add_endpoint(store)
        create("a")
        store.request_cancel("a")
        assert self.give_up(store) == []
        clock.advance(5.1 * 86_400)
        store.add_test_message("ep_1", None, b"{}", EventType.FAILED, once=True)
        assert self.give_up(store) == []
        for url, is_disabled in (("https://example.com/new", False), (URL, True)):
            store.change_endpoint("ep_1", None, url=url)
            create(url)
            store.request_cancel(url)
            assert bool(self.give_up(store)) is is_disabled

    def test_what_hangs_on_something_that_ended_meanwhile_is_not_sent(
        self, store: Store, create: Create, open_store: Open
    ) -> None:
        for key_id in ("k1", "k2"):
            add_key(store, key_id)
            add_endpoint(store, f"ep_{key_id}", key_id)
            create(key_id, key_id=key_id, webhook=Webhook(URL))
            store.request_cancel(key_id)
        numbers = [one.number for one in store.due_messages(8)]
        open_store().revoke_key("k1")
        open_store().remove_endpoint("ep_k2", None)
        (left,) = store.claim_messages(numbers, 60.0, render)
        assert (left.key_id, left.endpoint_id) == ("k2", None)
        reasons = {(one.job_id, one.endpoint_id): one.reason for one in written(store)}
        assert reasons == {
            ("k1", None): "the API key was revoked",
            ("k1", "ep_k1"): "the API key was revoked",
            ("k2", None): "",
            ("k2", "ep_k2"): "the endpoint was removed",
        }
        create("late", key_id="k1", webhook=Webhook(URL))
        store.request_cancel("late")
        assert take(store) == [], "a job of a revoked key runs on, but nobody signs for it"
        assert {one.reason for one in written(store) if one.job_id == "late"} == {"the API key was revoked"}


class TestSecrets:
    def test_an_endpoint_signs_with_its_own_and_a_request_with_its_keys(
        self, store: Store, create: Create
    ) -> None:
        add_key(store, "k")
        add_endpoint(store, key_id="k")
        create("a", key_id="k", webhook=Webhook(URL))
        create("b", webhook=Webhook(URL))
        for job_id in "ab":
            store.request_cancel(job_id)
        store.webhook_secrets("k", lambda: "whsec_of_k")
        store.webhook_secrets("", lambda: "whsec_of_all")
        found = {
            (message.key_id, message.endpoint_id): [
                one.value for one in store.signing_secrets(message, lambda: "new")
            ]
            for message in take(store)
        }
        assert found == {
            ("k", None): ["whsec_of_k"],
            ("k", "ep_1"): ["whsec_of_ep_1"],
            ("", None): ["whsec_of_all"],
        }

    def test_two_are_good_while_one_replaces_the_other(self, store: Store, clock: Any) -> None:
        add_endpoint(store)
        rotated = store.endpoint_secrets("ep_1", None, lambda: "2", replace=True)
        assert [one.value for one in rotated] == ["2", "whsec_of_ep_1"]
        clock.advance(24 * 3600)
        assert [one.value for one in store.endpoint_secrets("ep_1", None, lambda: "x")] == ["2"]
        assert [one.value for one in store.webhook_secrets("", lambda: "s")] == ["s"]
        assert [one.value for one in store.replace_webhook_secret("", "t")] == ["t", "s"]

    def test_processes_that_look_together_make_one_for_a_server_without_keys(self, open_store: Open) -> None:
        stores = [open_store() for _ in range(6)]
        start = threading.Barrier(len(stores))
        found: list[str] = []

        def look(number: int) -> None:
            start.wait()
            found.extend(one.value for one in stores[number].webhook_secrets("", lambda: f"s{number}"))

        threads = [threading.Thread(target=look, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 6
        assert len(set(found)) == 1


class TestOwners:
    def test_anothers_is_unknown(self, store: Store, create: Create) -> None:
        for key_id in ("k1", "k2"):
            add_key(store, key_id)
        add_endpoint(store, key_id="k1")
        create("a", key_id="k1")
        store.request_cancel("a")
        (message,) = written(store)
        assert store.delivery(message.id, "k1").id == message.id
        for owner in ("k2", ""):
            for call in (store.delivery, store.replay_message):
                with pytest.raises(DeliveryNotFound):
                    call(message.id, owner)
            for look in (store.endpoint, store.enable_endpoint, store.remove_endpoint):
                with pytest.raises(EndpointNotFound):
                    look("ep_1", owner)
            with pytest.raises(EndpointNotFound):
                store.endpoint_secrets("ep_1", owner, str)
            with pytest.raises(EndpointNotFound):
                store.add_test_message("ep_1", owner, b"{}")
            with pytest.raises(InvalidParameter, match="no delivery has this id"):
                store.deliveries(owner, after=message.id)
            assert store.endpoints(owner) == []
            assert store.deliveries(owner, endpoint_id="ep_1", job_id="a").deliveries == ()
        assert len(store.endpoints("k1")) == 1
        assert store.deliveries("k1", job_id="a", status=MessageStatus.PENDING).deliveries == (message,)

    def test_a_key_may_have_so_many_endpoints(self, store: Store) -> None:
        for number in range(16):
            add_endpoint(store, f"ep_{number}")
        with pytest.raises(InvalidParameter, match="may have 16 endpoints"):
            add_endpoint(store, "ep_17")
        store.remove_endpoint("ep_3", None)
        add_endpoint(store, "ep_17")


class TestLog:
    def test_replay_sends_the_same_message_again(self, store: Store, create: Create) -> None:
        create(webhook=Webhook(URL))
        succeed(store)
        (first,) = take(store)
        assert store.replay_message(first.id, None).status is MessageStatus.PENDING
        assert take(store) == [], "it is being sent"
        store.end_attempt(first, AWAY)
        assert store.delivery(first.id, None).status is MessageStatus.FAILED
        assert store.replay_message(first.id, None).reason == ""
        (again,) = take(store)
        assert (again.id, again.body, again.attempt, again.tries) == (first.id, first.body, 2, 0)
        store.end_attempt(again, OK)
        store.replay_message(first.id, None)
        (third,) = take(store)
        assert (third.id, third.attempt) == (first.id, 3)

    def test_a_test_message_goes_to_its_endpoint_only(self, store: Store) -> None:
        add_endpoint(store)
        made = store.add_test_message("ep_1", None, b"{}")
        assert (made.event, made.job_id, made.endpoint_id) == (EventType.TEST, None, "ep_1")
        (message,) = take(store)
        assert (message.id, message.body) == (made.id, b"{}")

    def test_the_backlog_is_what_waits(self, store: Store, create: Create, clock: Any) -> None:
        assert store.webhook_backlog().num_pending == 0
        create(webhook=Webhook(URL))
        succeed(store)
        clock.advance(7)
        backlog = store.webhook_backlog()
        assert (backlog.num_pending, backlog.oldest_seconds) == (1, 7.0)
        (message,) = take(store)
        store.end_attempt(message, OK)
        assert store.webhook_backlog().num_pending == 0

    def test_what_ended_long_ago_is_forgotten_and_what_waits_is_not(
        self, store: Store, create: Create, clock: Any
    ) -> None:
        for job_id in "ab":
            create(job_id, webhook=Webhook(URL))
            store.request_cancel(job_id)
        first, second = take(store)
        store.end_attempt(first, OK)
        store.end_attempt(second, AWAY, retry_seconds=5.0)
        clock.advance(86_400)
        assert store.prune_messages(timedelta(days=2)) == 0
        clock.advance(86_401)
        assert store.prune_messages(timedelta(days=2)) == 1
        assert [one.id for one in written(store)] == [second.id]
        with pytest.raises(DeliveryNotFound):
            store.delivery(first.id, None)

    def test_pages_follow_each_other(self, store: Store, create: Create) -> None:
        for number in range(5):
            create(f"j{number}", webhook=Webhook(URL))
            store.request_cancel(f"j{number}")
        page = store.deliveries(None, limit=2)
        assert [one.job_id for one in page.deliveries] == ["j4", "j3"]
        assert page.has_more
        rest = store.deliveries(None, limit=5, after=page.deliveries[-1].id)
        assert [one.job_id for one in rest.deliveries] == ["j2", "j1", "j0"]
        assert not rest.has_more


class TestChanging:
    """Endpoints are changed as a whole: no message goes to where nobody wants it any more."""

    def test_another_url_gets_what_waits_and_is_told_again(
        self, store: Store, create: Create, clock: Any
    ) -> None:
        add_key(store, "k1")
        add_endpoint(store, "ep_1", "k1")
        create("a", key_id="k1")
        succeed(store)
        (sent,) = take(store)
        store.end_attempt(sent, AWAY, retry_seconds=5)
        create("b", key_id="k1")
        store.request_cancel("b")
        clock.advance(10)
        changed = store.change_endpoint("ep_1", "k1", url="https://example.com/new", name="new")
        assert (changed.name, changed.url, changed.updated_at) == (
            "new",
            "https://example.com/new",
            clock.now,
        )
        assert {one.url for one in written(store)} == {"https://example.com/new"}
        gone = take(store)[0]
        assert gone.url == "https://example.com/new"
        store.end_attempt(gone, Outcome(is_delivered=False, status=410, reason="gone"), is_gone=True)
        same = store.change_endpoint("ep_1", "k1", url="https://example.com/new")
        assert same.disabled_reason == "gone", "the URL that has answered 410 stays what it is"
        moved = store.change_endpoint("ep_1", "k1", url=URL)
        assert (moved.disabled_at, moved.disabled_reason) == (None, None)
        assert {one.url for one in written(store)} == {"https://example.com/new"}, (
            "what has ended keeps its log"
        )

    def test_what_is_as_it_was_is_no_change(self, store: Store, clock: Any) -> None:
        add_endpoint(store)
        made = store.endpoint("ep_1", None)
        assert (made.name, made.updated_at) == ("", None)
        clock.advance(10)
        assert store.change_endpoint("ep_1", None, url=URL, events=JOB_EVENTS) == made
        store.add_test_message("ep_1", None, b"{}")
        assert store.endpoint("ep_1", None) == made
        changed = store.change_endpoint("ep_1", None, events=[EventType.FAILED])
        assert (changed.events, changed.updated_at) == ((EventType.FAILED,), clock.now)
        with pytest.raises(EndpointNotFound):
            store.change_endpoint("ep_1", "other", name="x")

    def test_a_secret_may_end_at_once(self, store: Store, clock: Any) -> None:
        add_endpoint(store)
        new = iter(f"whsec_{number:04}" for number in range(10)).__next__

        def values() -> list[str]:
            return [secret.value for secret in store.endpoint_secrets("ep_1", None, new)]

        assert store.endpoint_hints(["ep_1", "ep_2"]) == {"ep_1": "ep_1"}
        store.endpoint_secrets("ep_1", None, new, replace=True)
        assert values() == ["whsec_0000", "whsec_of_ep_1"]
        clock.advance(10)
        store.endpoint_secrets("ep_1", None, new, replace=True, keep_old=False)
        assert values() == ["whsec_0001"], "both that were good before have ended"
        assert store.endpoint("ep_1", None).updated_at == clock.now
        assert store.endpoint_hints(["ep_1"]) == {"ep_1": "0001"}

    def test_a_sample_is_sent_once(self, store: Store) -> None:
        add_endpoint(store)
        sample = store.add_test_message("ep_1", None, b"{}", EventType.COMPLETED, once=True)
        (sent,) = take(store)
        assert (sent.id, sent.body) == (sample.id, b"{}")
        assert delay_after(sent.tries + 1, None, 0.0) is None, "a sender makes no other attempt"

    def test_changes_removals_and_gone_receivers_do_not_wait_for_each_other(
        self, open_store: Open, create: Create
    ) -> None:
        """Each in its own process: whoever locks an endpoint and its messages does so in one order."""
        store = open_store()
        add_key(store, "k1")
        for number in range(6):
            add_endpoint(store, f"ep_{number}", "k1")
        for number in range(4):
            create(f"job{number}", key_id="k1")
            store.request_cancel(f"job{number}")
        taken = {one.endpoint_id: one for one in take(store)}
        gone = Outcome(is_delivered=False, status=410, reason="gone")
        numbers = range(6)

        def each(do: Callable[[Store, str], Any], some: Iterable[int] = numbers) -> None:
            own = open_store()
            for number in some:
                with contextlib.suppress(EndpointNotFound):
                    do(own, f"ep_{number}")

        def change(own: Store, name: str) -> None:
            own.change_endpoint(name, "k1", url=f"https://example.com/{name}")

        def answer(own: Store, name: str) -> None:
            own.end_attempt(taken[name], gone, is_gone=True)

        def remove(own: Store, name: str) -> None:
            own.remove_endpoint(name, "k1")

        with ThreadPoolExecutor(3) as threads:
            work = [threads.submit(each, do) for do in (change, answer)]
            work.append(threads.submit(each, remove, numbers[1::2]))
        for done in work:
            done.result()
        assert [one.id for one in store.endpoints("k1")] == ["ep_0", "ep_2", "ep_4"]
