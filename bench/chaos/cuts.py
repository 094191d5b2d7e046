"""`python -m bench.chaos.cuts`: cut the power while SQLite writes, and look what is left.

    python -m bench.chaos.cuts --cuts 200 --seed 1

Threads create, claim, report, end, cancel and delete jobs through `vitascope.store.Store` on a disk that remembers every write
and every sync (`disk`). Then, for each cut at a random moment, the files are put together as the cut may have left them and
opened: the database must be sound, and everything that was acknowledged before the cut must be true. Half of the cuts fall into
checkpoints, when the database file itself is written.

`--lying-disk` shows that the check can fail: there a sync keeps nothing, and jobs must go missing.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from bench.deployment import scratch_folder
from vitascope.catalog import Catalog
from vitascope.domain.errors import JobNotFound, QueueFull
from vitascope.domain.job import TERMINAL, JobError, Lease
from vitascope.domain.plan import plan
from vitascope.domain.request import GenerationRequest
from vitascope.domain.video import Video
from vitascope.service.ids import new_id
from vitascope.store import Store, maintenance
from vitascope.store.database import connect
from vitascope.store.tables import jobs

from .disk import SURVIVALS, Disk, Image, Note, NotWatchable, Survival, Sync, Told, Write

DATABASE = "vitascope.db"
FILES = (DATABASE, f"{DATABASE}-wal")
LEASE_SECONDS = 60.0
MAX_QUEUED = 20
JOBS_PER_CUT = 3
MAX_EXAMPLES = 5

NOT_WATCHABLE = 77
"""Exit status where this Python's SQLite cannot be watched."""


class Workload:
    """What a deployment does with its store, in three threads; each tells what was acknowledged once the call returned.

    Args:
        store: on the disk that is watched.
        disk: is told what was acknowledged.
        num_jobs: how many are created.
        seed: draws what happens to them.
    """

    def __init__(self, store: Store, disk: Disk, num_jobs: int, seed: int) -> None:
        self._store = store
        self._disk = disk
        self._num_jobs = num_jobs
        self._seed = seed
        self._known: list[str] = []
        self._is_created = threading.Event()
        self._problems: list[BaseException] = []

    def run(self) -> None:
        acts = (self._create, self._work, self._meddle)
        threads = [threading.Thread(target=self._guarded, args=(act,)) for act in acts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._problems:
            raise self._problems[0]

    def _guarded(self, act: Callable[[random.Random], None]) -> None:
        try:
            act(random.Random(f"{self._seed}/{act.__name__}"))
        except BaseException as error:  # noqa: BLE001  raised again by `run`
            self._problems.append(error)
            self._is_created.set()

    def _create(self, rng: random.Random) -> None:
        spec = Catalog.open().resolve("pocket")
        while len(self._known) < self._num_jobs and not self._problems:
            prompt = "a dog " * rng.randint(1, 500)
            request = GenerationRequest(prompt=prompt, model="pocket", seed=rng.randrange(1000))
            job_id = new_id()
            try:
                self._store.create(job_id, request, plan(request, spec), MAX_QUEUED)
            except QueueFull:
                continue
            self._disk.tell(job_id, "exists")
            self._known.append(job_id)
        self._is_created.set()

    def _work(self, rng: random.Random) -> None:
        """Be a worker: take jobs, write progress down, end them in every way there is."""
        while not self._problems:
            is_last = self._is_created.is_set()
            lease = self._store.claim("worker", LEASE_SECONDS)
            if lease is not None:
                for percent in range(0, 100, rng.randint(10, 60)):
                    self._store.report(lease, percent, "denoise")
                self._store.renew(lease, LEASE_SECONDS)
                self._end(lease, rng.random())
            elif is_last:
                return

    def _end(self, lease: Lease, draw: float) -> None:
        job_id = lease.job.id
        if draw < 0.1:
            self._store.release(lease, count_attempt=True)
        elif draw < 0.2:
            self._store.fail(lease, JobError("out_of_memory", "The device ran out of memory."))
            self._disk.tell(job_id, "failed")
        elif draw < 0.3:
            self._store.finish_cancelled(lease)
            self._disk.tell(job_id, "cancelled")
        else:
            video = Video(key=f"videos/{job_id}.mp4", media_type="video/mp4", num_bytes=1, sha256="0" * 64, height=32, width=32, num_frames=5, fps=8)  # fmt: skip
            was_deleted = self._store.succeed(lease, [video], {})
            self._disk.tell(job_id, "cancelled" if was_deleted else "succeeded")

    def _meddle(self, rng: random.Random) -> None:
        """Be a client that cancels and deletes."""
        while not self._is_created.is_set():
            if not self._known:
                continue
            job_id = rng.choice(self._known[-2 * MAX_QUEUED :])
            try:
                if rng.random() < 0.5:
                    self._store.delete(job_id)
                    self._disk.tell(job_id, "deleted")
                else:
                    job = self._store.request_cancel(job_id)
                    self._disk.tell(job_id, job.status.value if job.status in TERMINAL else "wished")
            except JobNotFound:
                pass


@dataclass
class Outcome:
    """What the cuts showed."""

    counts: Counter[str]
    examples: list[str]

    def miss(self, what: str, example: str) -> None:
        self.counts[what] += 1
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(example)

    @property
    def is_good(self) -> bool:
        return self.counts["acknowledged facts missing"] == self.counts["databases damaged"] == 0


def record(folder: Path, num_jobs: int, seed: int) -> tuple[list[Note], int]:
    """Run the workload; returns the disk's notes, and how many of them are from making the database."""
    disk = Disk(folder)
    with disk.watching():
        store = Store.open(f"sqlite:///{folder / DATABASE}")
        begun = len(disk.notes)
        Workload(store, disk, num_jobs, seed).run()
        notes = list(disk.notes)  # before the files are tidied up
        store.close()
    return notes, begun


def cut(
    notes: Sequence[Note], begun: int, num_cuts: int, seed: int, folder: Path, *, is_lying: bool
) -> Outcome:
    """Cut the power at random moments and look at each outcome."""
    rng = random.Random(f"{seed}/cuts")
    moments = sorted(_moments(notes, begun, num_cuts, rng))
    outcome = Outcome(Counter(), [])
    image, facts = Image({}, []), dict[str, set[str]]()
    for position, note in enumerate(notes):
        while moments and moments[0] == position:
            moments.pop(0)
            survival = rng.choice(SURVIVALS)
            _look(image, survival, facts, folder, rng, outcome)
            outcome.counts["cuts"] += 1
            sys.stderr.write(f"cut {outcome.counts['cuts']}/{num_cuts}\r")
        if isinstance(note, Told):
            facts.setdefault(note.job_id, set()).add(note.fact)
        elif not (is_lying and position >= begun and isinstance(note, Sync)):
            image.advance(note)
    return outcome


def _moments(notes: Sequence[Note], begun: int, num_cuts: int, rng: random.Random) -> list[int]:
    """Draw positions in the notes: half of them anywhere, half where the database file itself is being written."""
    checkpoints, is_writing = [], False
    for position, note in enumerate(notes):
        if not isinstance(note, Told) and note.name == DATABASE:
            is_writing = isinstance(note, Write)
        if is_writing and position >= begun:
            checkpoints.append(position)
    anywhere = range(begun, len(notes))
    return [rng.choice(checkpoints if number % 2 and checkpoints else anywhere) for number in range(num_cuts)]


def _look(
    image: Image,
    survival: Survival,
    facts: dict[str, set[str]],
    folder: Path,
    rng: random.Random,
    outcome: Outcome,
) -> None:
    """Put the files together as the cut may have left them, open them, and compare."""
    outcome.counts[f"cuts that leave {survival} of what was not synced"] += 1
    outcome.counts["writes not synced at the cuts"] += len(image.unsure)
    outcome.counts["cuts in a checkpoint"] += any(note.name == DATABASE for note in image.unsure)
    for path in folder.iterdir():
        path.unlink()
    for name, content in image.cut(survival, rng).items():
        if name in FILES:
            (folder / name).write_bytes(content)
    url = f"sqlite:///{folder / DATABASE}"
    try:
        Store.open(url).close()
        problems = maintenance.check(url).problems
    except Exception as error:  # noqa: BLE001  whatever it is, the database cannot be used
        problems = (f"{type(error).__name__}: {error}",)
    if problems:
        outcome.miss("databases damaged", f"{survival}: {problems[0]}")
        return
    with closing(connect(url)) as database, database.read() as connection:
        rows = {row.id: row for row in connection.execute(sa.select(jobs))}
    for job_id, told in facts.items():
        for fact in told:
            outcome.counts["acknowledged facts checked"] += 1
            if not _is_true(fact, rows.get(job_id)):
                outcome.miss("acknowledged facts missing", f"{survival}: {job_id} {fact}")


def _is_true(fact: str, row: sa.Row[tuple[object, ...]] | None) -> bool:
    if row is None:
        return False
    if fact == "deleted":
        return row.deleted_at is not None
    if fact == "wished":
        return bool(row.cancel_requested)
    return fact in ("exists", row.status)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.chaos.cuts", description="Cut the power while SQLite writes."
    )
    parser.add_argument("--cuts", type=int, default=200)
    parser.add_argument("--jobs", type=int, help=f"by default {JOBS_PER_CUT} a cut")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lying-disk", action="store_true", help="syncs keep nothing: the check must fail")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with scratch_folder("cuts") as folder:
        (folder / "live").mkdir()
        (folder / "cut").mkdir()
        try:
            notes, begun = record(folder / "live", options.jobs or JOBS_PER_CUT * options.cuts, options.seed)
        except NotWatchable:
            sys.stderr.write("this Python has SQLite built in, where its writes cannot be watched\n")
            return NOT_WATCHABLE
        outcome = cut(notes, begun, options.cuts, options.seed, folder / "cut", is_lying=options.lying_disk)
    outcome.counts["writes recorded"] = sum(isinstance(note, Write) for note in notes)
    outcome.counts["syncs recorded"] = sum(isinstance(note, Sync) for note in notes)
    _print(outcome, as_json=options.json)
    return 0 if outcome.is_good else 1


def _print(outcome: Outcome, *, as_json: bool) -> None:
    counts = {"acknowledged facts missing": 0, "databases damaged": 0, **dict(sorted(outcome.counts.items()))}
    if as_json:
        sys.stdout.write(json.dumps({"counts": counts, "examples": outcome.examples}, indent=2) + "\n")
        return
    table = Table("what happened", "number", title="Power cuts")
    table.columns[1].justify = "right"
    for name, number in counts.items():
        table.add_row(name, str(number))
    console = Console()
    console.print(table)
    for example in outcome.examples:
        console.print(example, style="red", markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
