"""The clients: they create jobs, keep what was acknowledged, and look, follow, cancel and delete while servers die."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from bench.client import Answer, Pool, ServerEvent, Unreachable

from .findings import Findings
from .requests import Dialect, Draft, Fate

TERMINAL = frozenset({"succeeded", "failed", "cancelled"})

#: What OpenAI's dialect calls our statuses.
OPENAI_STATUS = {
    "queued": "queued",
    "running": "in_progress",
    "succeeded": "completed",
    "failed": "failed",
    "cancelled": "failed",
}

RETRY_SECONDS = 0.25
DROP_SHARE = 0.05
"""At so many events a follower hangs up by itself, and goes on elsewhere."""


@dataclass
class Record:
    """A job that the server has acknowledged, as its client knows it."""

    #: Without the dialect's prefix.
    id: str
    dialect: Dialect
    fate: Fate
    #: Terminal status that a client has seen; nothing may change it.
    ended: str | None = None
    is_deleted: bool = False

    @property
    def path(self) -> str:
        return f"/v1/videos/video_{self.id}" if self.dialect == "openai" else f"/api/v1/jobs/{self.id}"

    @property
    def native_path(self) -> str:
        """The native API finds a job by the id that any dialect shows."""
        return f"/api/v1/jobs/{'video_' if self.dialect == 'openai' else ''}{self.id}"


@dataclass
class Clients:
    """All clients of a run.

    Args:
        ports: where web processes listen, or will again.
        findings: for what they count and see broken.
        rng: draws which web process is asked.
    """

    ports: list[int]
    findings: Findings
    rng: random.Random
    records: dict[str, Record] = field(default_factory=dict)
    _pools: dict[int, Pool] = field(default_factory=dict)

    def pool(self) -> Pool:
        port = self.rng.choice(self.ports)
        return self._pools.setdefault(port, Pool(port))

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()

    async def ask(self, method: str, path: str) -> Answer:
        """Ask, as often as it takes, until a web process answers with anything else than "not now"."""
        while True:
            try:
                answer = await self._ask_once(method, path)
                if answer.status != 503:
                    return answer
            except Unreachable:
                pass
            await asyncio.sleep(RETRY_SECONDS)

    async def _ask_once(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        try:
            answer = await self.pool().ask(method, path, body, headers)
        except Unreachable:
            self.findings.count("requests without an answer")
            raise
        self._judge(answer, f"{method} {path}")
        return answer

    def _judge(self, answer: Answer, what: str) -> None:
        if answer.status == 503 and "retry-after" in answer.headers:
            self.findings.count("requests answered 503 with Retry-After")
        elif answer.status >= 500:
            self.findings.break_promise("server errors", f"{what}: {answer.status} {answer.body[:200]!r}")

    # creating

    async def create(self, draft: Draft) -> Record | None:
        """Create a job; None if the server said no, or nothing."""
        answer = await self._send(draft)
        if answer is None:
            self.findings.count("creates without an answer")
        elif answer.status == 429:
            self.findings.count("creates refused because the queue was full")
        elif answer.status in (200, 201):
            job_id = answer.json()["id"].removeprefix("video_")
            if job_id in self.records:
                self.findings.break_promise("answers that contradict each other", f"{job_id} was given twice")
            self.records[job_id] = Record(job_id, draft.dialect, draft.fate)
            return self.records[job_id]
        elif answer.status < 500:
            self.findings.break_promise("requests refused without reason", f"{answer.body[:200]!r}")
        return None

    async def _send(self, draft: Draft) -> Answer | None:
        """Send a create; one with a key is repeated until there is an answer."""
        headers = {"content-type": draft.content_type}
        if draft.key is not None:
            headers["idempotency-key"] = draft.key
        while True:
            try:
                answer = await self._ask_once("POST", draft.path, draft.body, headers)
                if draft.key is None or answer.status != 503:
                    return answer
            except Unreachable:
                if draft.key is None:
                    return None
            self.findings.count("creates repeated with their key")
            await asyncio.sleep(RETRY_SECONDS)

    # what clients do with their jobs

    async def live(self, record: Record, draft: Draft) -> None:
        """Do with the job what was drawn for it."""
        if draft.fate == "follow":
            await self._follow(record)
        elif draft.fate == "watch":
            await self._wait(record, draft, TERMINAL)
        elif draft.fate == "cancel":
            await self._wait_for_moment(record, draft)
            answer = await self.ask("POST", record.native_path + "/cancel")
            self.findings.count(f"cancels ({draft.moment})")
            self._note(record, answer)
        elif draft.fate == "delete":
            await self._wait_for_moment(record, draft)
            await self._delete(record)
            self.findings.count(f"deletes ({draft.moment})")

    async def _wait_for_moment(self, record: Record, draft: Draft) -> None:
        if draft.moment == "soon":
            await asyncio.sleep(draft.delay)
        else:
            await self._wait(record, draft, TERMINAL | ({"running"} if draft.moment == "running" else set()))

    async def _wait(self, record: Record, draft: Draft, statuses: frozenset[str]) -> None:
        """Look at the job again and again until it has one of these statuses."""
        while True:
            job = await self.look(record)
            if job is None or job["status"] in statuses:
                return
            await asyncio.sleep(0.1 + draft.delay)

    async def look(self, record: Record) -> dict[str, Any] | None:
        """Read the job, in either API, and compare it with what was seen before; returns it as the native API shows it."""
        answer = await self.ask("GET", record.native_path)
        job = self._note(record, answer)
        if job is not None and record.dialect == "openai":
            other = await self.ask("GET", record.path)
            shown = other.json().get("status")
            if job["status"] in TERMINAL and shown != OPENAI_STATUS[job["status"]]:
                text = f"{record.id} is {job['status']} in one API and {shown} in the other"
                self.findings.break_promise("answers that contradict each other", text)
        return job

    async def look_closely(self, record: Record) -> None:
        """Read the job a last time, and its file."""
        job = await self.look(record)
        if job is None or job["video"] is None:
            return
        path = record.path + "/content"
        answer = await self.ask("GET", path)
        if (answer.status, _code(answer)) == (404, "video_expired"):
            self.findings.count("files told as expired")
            if not job["expires_at"] or datetime.fromisoformat(job["expires_at"]) > datetime.now(UTC):
                self.findings.break_promise(
                    "files missing or not as stated", f"GET {path}: expired too early"
                )
            return
        sha256 = hashlib.sha256(answer.body).hexdigest()
        if (answer.status, sha256) != (200, job["video"]["sha256"]):
            text = f"GET {path}: {answer.status}, {len(answer.body)} bytes"
            self.findings.break_promise("files missing or not as stated", text)

    def _note(self, record: Record, answer: Answer) -> dict[str, Any] | None:
        """Compare an answer that shows the job with what is known of it."""
        if answer.status == 404:
            if not record.is_deleted:
                self.findings.break_promise("acknowledged jobs lost", f"{record.id} is answered 404")
                record.ended = record.ended or "lost"
            return None
        job: dict[str, Any] = answer.json()
        if record.is_deleted:
            text = f"{record.id} is shown after it was deleted"
            self.findings.break_promise("answers that contradict each other", text)
        if record.ended not in (None, job["status"]):
            text = f"{record.id} was {record.ended} and is {job['status']}"
            self.findings.break_promise("jobs that changed after their end", text)
        if (job["progress"] == 100) != (job["status"] == "succeeded"):
            text = f"{record.id} is {job['status']} at {job['progress']} %"
            self.findings.break_promise("answers that contradict each other", text)
        if job["status"] in TERMINAL:
            record.ended = job["status"]
        return job

    async def _delete(self, record: Record) -> None:
        answer = await self.ask("DELETE", record.path)
        record.is_deleted = True  # 404 means that an earlier try did it, whose answer was lost
        if answer.status not in (200, 204, 404):
            text = f"DELETE: {answer.status} {answer.body[:200]!r}"
            self.findings.break_promise("requests refused without reason", text)
        self._note(record, await self.ask("GET", record.native_path))

    # following

    async def _follow(self, record: Record) -> None:
        """Follow the job to its end, from wherever it last was, and compare with what the stream tells from its beginning."""
        self.findings.count("streams")
        seen: list[ServerEvent] = []
        while not seen or seen[-1].data["kind"] not in TERMINAL:
            if not await self._read_stream(record, seen):
                return
        whole: list[ServerEvent] = []
        while not whole or whole[-1].data["kind"] not in TERMINAL:
            whole.clear()
            await self._read_stream(record, whole, may_drop=False)
        self.findings.count("events streamed", len(seen))
        if [(e.id, e.data) for e in seen] != [(e.id, e.data) for e in whole]:
            text = f"{record.id}: saw {[e.id for e in seen]} of {[e.id for e in whole]}"
            self.findings.break_promise("streams with loss or repetition", text)

    async def _read_stream(self, record: Record, seen: list[ServerEvent], *, may_drop: bool = True) -> bool:
        """Read on from the last event seen until the stream ends, for whatever reason. Returns False if there is no job."""
        last = seen[-1].id if seen else 0
        try:
            async with (
                self.pool().connection() as connection,
                aclosing(connection.events(record.native_path + "/events", last)) as events,
            ):
                async for event in events:
                    if isinstance(event, Answer):
                        return await self._no_stream(record, event)
                    if event.id <= last:
                        text = f"{record.id}: {event.id} after {last}"
                        self.findings.break_promise("streams with loss or repetition", text)
                    last = event.id
                    seen.append(event)
                    if may_drop and self.rng.random() < DROP_SHARE:
                        self.findings.count("streams that a client left and resumed")
                        connection.close()
                        return True
        except Unreachable:
            self.findings.count("streams that broke off")
            await asyncio.sleep(RETRY_SECONDS)
        return True

    async def _no_stream(self, record: Record, answer: Answer) -> bool:
        self._judge(answer, "GET events")
        if answer.status == 404:
            self.findings.break_promise("acknowledged jobs lost", f"{record.id}: its events are answered 404")
            return False
        await asyncio.sleep(RETRY_SECONDS)
        return True


def _code(answer: Answer) -> object:
    return answer.json()["error"]["code"] if answer.status == 404 else None
