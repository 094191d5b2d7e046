"""One run: jobs end while the receiver is away, senders are stopped and killed, the clock is turned until all is told."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa

from vitascope.app import WEBHOOK_FORMATS
from vitascope.dialects._http.writer import GroupWriter
from vitascope.domain.access import ApiKey, Scope
from vitascope.domain.model_spec import Bounds, FrameRule, ModelSpec, Size
from vitascope.domain.plan import plan
from vitascope.domain.request import GenerationRequest
from vitascope.domain.video import Video
from vitascope.domain.webhook import JOB_EVENTS, Endpoint, Webhook
from vitascope.outbound import AllowList, Outbound
from vitascope.store import Cipher, Store
from vitascope.store.database import connect
from vitascope.webhooks import Deliverer, new_secret

from .receiver import HOST, Receiver

SPEC = ModelSpec(
    id="none",
    title="None",
    family="generic",
    source="folder:/nowhere",
    pipelines={"text": "None"},
    sizes=(Size(64, 96),),
    size_multiple=16,
    frames=FrameRule(4, 1, 5, 17),
    default_num_frames=17,
    fps=8,
    num_inference_steps=Bounds(12, 1, 100),
    guidance_scale=Bounds(4.0, 1.0, 20.0),
)
JOBS_TOGETHER = 200
NUM_KEYS = 16
"""Each with an endpoint and a webhook of its requests: 32 lanes, half of which are tried at once while all fail."""


@dataclass(frozen=True)
class Findings:
    """What a run has counted."""

    away_seconds: float
    events: int
    delivered: int
    #: In the receiver's view without repetitions.
    distinct: int
    received: int
    attempts: int
    restarts: int
    kills: int
    #: Of the simulated clock, from the first event to the last new message.
    told_after_seconds: float
    seconds: float
    problems: tuple[str, ...]

    @property
    def repeated(self) -> int:
        """Messages that came once more, under the id and with the body that they had."""
        return self.received - self.distinct

    @property
    def is_good(self) -> bool:
        return not self.problems and self.events == self.delivered == self.distinct


class Clock:
    """Stands still unless it is turned."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


class Run:
    """One outage.

    Args:
        folder: for the database, if `url` is None.
        events: messages; half to the keys' endpoints, half to the requests' own webhook.
        away_seconds: of the simulated clock.
        restarts: of the sender, half of them kills, half of them while the receiver is there.
        seed: draws who dies when.
        url: of an empty database.
    """

    def __init__(
        self, folder: Path, events: int, away_seconds: float, restarts: int, seed: int, url: str | None = None
    ) -> None:
        self.clock = Clock()
        self._begun_at = self.clock.now
        self._events = events
        self._away_seconds = away_seconds
        self._random = random.Random(seed)
        self._url = url or f"sqlite:///{folder / f'webhooks-{away_seconds:g}.db'}"
        self._database = connect(self._url)
        self._restarts_there = restarts // 2
        self._plan = _Restarts(restarts - restarts // 2, events)
        self._restarts = self._kills = 0

    async def run(self) -> Findings:
        """Return what was counted."""
        begun = time.monotonic()
        store = self._open()
        receiver = await self._prepare(store)
        await asyncio.to_thread(self._end_jobs, store, receiver.port)
        sender = _Sender(store, self.clock, self._random)
        is_open = False
        while True:
            if not is_open and self._elapsed() >= self._away_seconds:
                await receiver.open()
                is_open = True
                pending = int(str(self._scalar("SELECT count(*) FROM outbox WHERE status = 'pending'")))
                self._plan = _Restarts(self._restarts_there, pending)
            started = await sender.deliverer.send_due()
            if self._plan.is_due(started):
                sender = await self._restart(sender, receiver if is_open else None)
            elif sender.is_busy:
                await sender.deliverer.settle()
            elif not started and not self._turn(is_open):
                break
        await sender.stop()
        await receiver.close()
        try:
            return self._findings(receiver, time.monotonic() - begun)
        finally:
            self._database.close()

    def _elapsed(self) -> float:
        return (self.clock.now - self._begun_at).total_seconds()

    def _open(self) -> Store:
        return Store.open(self._url, self.clock, cipher=Cipher([bytes(32)]))

    async def _prepare(self, store: Store) -> Receiver:
        made = self.clock.now
        secrets: dict[str, str] = {}
        receiver = Receiver(self.clock, secrets)
        for number in range(NUM_KEYS):
            key_id, of_endpoint = f"key{number}", new_secret()
            scopes = frozenset({Scope.GENERATE})
            key = ApiKey(id=key_id, name=key_id, prefix="", last4="", scopes=scopes, created_at=made)
            store.add_key(key, key_id)
            (of_key,) = store.webhook_secrets(key_id, new_secret)
            secrets |= {f"/request/{key_id}": of_key.value, f"/endpoint/{key_id}": of_endpoint}
            url = f"http://{HOST}:{receiver.port}/endpoint/{key_id}"
            endpoint = Endpoint(id=f"ep{number}", key_id=key_id, url=url, events=JOB_EVENTS, created_at=made)
            store.add_endpoint(endpoint, of_endpoint)
        return receiver

    def _end_jobs(self, store: Store, port: int) -> None:
        """End half as many jobs as events: most with a video, some without."""
        wanted = []
        for number in range(NUM_KEYS):
            webhook = Webhook(f"http://{HOST}:{port}/request/key{number}")
            wanted.append(
                GenerationRequest(prompt="a dog", model=SPEC.id, seed=1, webhook=webhook, track_id="t")
            )
        planned = plan(wanted[0], SPEC)
        video = Video(
            key="videos/x",
            media_type="video/mp4",
            num_bytes=1,
            sha256="",
            height=64,
            width=96,
            num_frames=17,
            fps=8,
        )
        numbers = range(self._events // 2)
        for first in numbers[::JOBS_TOGETHER]:
            group = numbers[first : first + JOBS_TOGETHER]
            with store.together():
                for number in group:
                    of_key = number % NUM_KEYS
                    request, key_id = wanted[of_key], f"key{of_key}"
                    store.create(f"{number:026}", request, planned, JOBS_TOGETHER, key_id=key_id)
            with store.together():
                for number in group:
                    if number % 10 == 0:
                        store.request_cancel(f"{number:026}")
                while (lease := store.claim("w", 60.0)) is not None:
                    store.succeed(lease, [video], {})

    async def _restart(self, sender: _Sender, receiver: Receiver | None) -> _Sender:
        """Let a sender die at once or end as it should, by turns, and begin another."""
        self._restarts += 1
        if self._restarts % 2:
            self._kills += 1
            if receiver is None:
                await asyncio.sleep(self._random.random() * 0.01)  # somewhere in the middle of its attempts
            else:
                await receiver.next_message()  # which the sender will not have written down
            await sender.die()
        else:
            await sender.stop()
        return _Sender(self._open(), self.clock, self._random)

    def _turn(self, is_open: bool) -> bool:
        """Turn the clock to when something is due, and a little further, so that several are; False if nothing waits."""
        due = self._scalar("SELECT min(due_at) FROM outbox WHERE status = 'pending'")
        if due is None:
            return False
        due_at = due if isinstance(due, datetime) else datetime.fromisoformat(str(due))
        due_at = due_at if due_at.tzinfo else due_at.replace(tzinfo=UTC)
        wait = max(timedelta(), due_at - self.clock.now)
        now = self.clock.now + wait * 1.05 + timedelta(seconds=1)
        opens_at = self._begun_at + timedelta(seconds=self._away_seconds)
        self.clock.now = now if is_open else min(now, max(opens_at, due_at))
        return True

    def _scalar(self, sql: str) -> object:
        with self._database.read() as connection:
            found: object = connection.scalar(sa.text(sql))
            return found

    def _findings(self, receiver: Receiver, seconds: float) -> Findings:
        problems = list(receiver.problems)
        twice = [event for event, ids in receiver.by_event.items() if len(ids) != 1]
        problems += [f"{path} was told of {video} under two ids" for path, video in twice]
        told_after = receiver.last_new_at - self._begun_at
        return Findings(
            away_seconds=self._away_seconds,
            events=int(str(self._scalar("SELECT count(*) FROM outbox"))),
            delivered=int(str(self._scalar("SELECT count(*) FROM outbox WHERE status = 'delivered'"))),
            distinct=len(receiver.bodies),
            received=receiver.times.total(),
            attempts=int(str(self._scalar("SELECT count(*) FROM attempts"))),
            restarts=self._restarts,
            kills=self._kills,
            told_after_seconds=told_after.total_seconds(),
            seconds=seconds,
            problems=tuple(problems),
        )


class _Restarts:
    """Spreads restarts evenly over attempts.

    Args:
        count: restarts.
        attempts: there are at least so many.
    """

    def __init__(self, count: int, attempts: int) -> None:
        self._at = [attempts * (number + 1) // (count + 1) for number in range(count)]
        self._begun = 0

    def is_due(self, begun: int) -> bool:
        """Count attempts that were just begun; whether their sender is to end now."""
        self._begun += begun
        if not begun or not self._at or self._begun < self._at[0]:
            return False
        del self._at[0]
        return True


class _Sender:
    """What a web process has of delivering."""

    def __init__(self, store: Store, clock: Clock, draw: random.Random) -> None:
        self._store = store
        self._writer = GroupWriter(store.together)
        outbound = Outbound(AllowList.of([HOST]))
        self.deliverer = Deliverer(
            store,
            outbound.post,
            WEBHOOK_FORMATS,
            write=self._writer.run,
            clock=clock,
            chance=draw.random,
        )

    @property
    def is_busy(self) -> bool:
        return self.deliverer.num_in_flight > 0

    async def stop(self) -> None:
        """End as a process does that is told to."""
        self.deliverer.close()
        await self.deliverer.run()
        await self._writer.close()
        self._store.close()

    async def die(self) -> None:
        """End in the middle of what it does, and tell nobody."""
        await self.deliverer.break_off()
        await self._writer.close()
        self._store.close()


def run_one(given: tuple[Path, int, float, int, int, str | None]) -> Findings:
    """Make a run of what `Run` is given, in a process of its own."""
    found = asyncio.run(Run(*given).run())
    sys.stderr.write(f"{found}\n")
    return found
