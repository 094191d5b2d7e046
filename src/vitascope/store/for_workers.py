"""What workers ask of the store: claim, renew, report, end, hand back, and tidying up."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from vitascope.domain.beside import Beside
from vitascope.domain.command import SILENCE_LEASES
from vitascope.domain.cost import Speed
from vitascope.domain.job import Job, JobError, JobStatus, Lease
from vitascope.domain.residency import Residency
from vitascope.domain.video import Video, stored_keys

from . import changes, history, queue
from .base import Base
from .database import JobNews
from .for_characters import CHARACTERS, unowned_characters
from .for_files import FILES, unowned_files
from .once import ONCE_KEPT
from .rows import Lapsed, job_of, storage_keys, video_values
from .tables import commands, deployment, idempotency, jobs, workers

_PERCENT = sa.bindparam("percent", type_=sa.Integer)

_RENEWED = changes.touching(lease_expires_at=sa.bindparam("until"), stood_seconds=sa.bindparam("stood"))
_REPORTED = changes.touching(
    progress=sa.case((jobs.c.progress < _PERCENT, _PERCENT), else_=jobs.c.progress),
    stage=sa.bindparam("at_stage"),
    last_event=changes.NEXT_EVENT,
)
_SHOWN = changes.touching(last_event=changes.NEXT_EVENT)
_KEPT = changes.touching(details=sa.bindparam("kept"))


class ForWorkers(Base):
    """Jobs as workers see them.

    The methods that take the lease which `claim` gave raise LeaseLost, having written nothing, once the job is another's.
    """

    def claim(
        self,
        worker_id: str,
        lease_seconds: float,
        *,
        device: str = "",
        warm_models: frozenset[str] = frozenset(),
        job_id: str | None = None,
    ) -> Lease | None:
        """Take the job whose turn it is, as `domain.arbiter` says; None if none waits.

        A job whose model's files only other living workers have is left to them.

        Args:
            worker_id: who asks.
            lease_seconds: the job is the worker's for so long.
            device: the worker's kind of device, by which it is estimated how long jobs take.
            warm_models: models that the worker has loaded.
            job_id: takes this one only, if it still waits and its key may have one more running.
        """
        # an idle worker asks often: do not make writers wait for it
        with self._database.read() as connection:
            if queue.is_empty(connection):
                return None
        now = self._now()
        with self._database.write() as connection:
            self._database.lock_claims(connection)
            lease_now = self._lease_time(connection)
            estimate = queue.estimate_on(connection, [device])
            if job_id is None:
                seen_after = lease_now - SILENCE_LEASES * timedelta(seconds=lease_seconds)
                among = queue.not_better_elsewhere(connection, worker_id, seen_after)
                row = queue.lock_next(connection, now, lease_now, estimate, warm_models, among)
            else:
                row = queue.lock_one(connection, job_id)
            if row is None:
                return None
            expires_at = lease_now + timedelta(seconds=lease_seconds)
            values = {"worker_id": worker_id, "lease_expires_at": expires_at}
            values |= {"claimed_at": lease_now, "stood_seconds": 0.0}
            counts = {"attempt": row.attempt + 1, "token": row.token + 1}
            started_at = row.started_at or now
            row = changes.move(
                connection, row, JobStatus.RUNNING, now, started_at=started_at, **values, **counts
            )
            seconds = estimate(queue.effort_of(row))
        return Lease(job=job_of(row), token=row.token, expires_at=expires_at, expected_seconds=seconds)

    def watch_jobs(self) -> JobNews:
        """Hear of jobs that are added or have ended, by whatever process; for one caller at a time."""
        return self._database.watch_jobs()

    def next_model(self, *, device: str = "", warm_models: frozenset[str] = frozenset()) -> str | None:
        """Tell the model of the job that `claim` would give now, with the same arguments; None if none waits.

        By the time of the claim another may be first. Costs a read.
        """
        with self._database.read() as connection:
            if queue.is_empty(connection):
                return None
            lease_now = self._lease_time(connection)
            return queue.next_model(connection, self._now(), lease_now, device, warm_models)

    def next_beside(self, beside: Beside, *, device: str = "") -> str | None:
        """Return the id of the job that is worth to be begun beside those which are open in a worker, for `claim`; None if none is.

        Costs a read of a small index where nobody waits.

        Args:
            beside: what is open there.
            device: the worker's kind of device.
        """
        with self._database.read() as connection:
            if queue.is_empty(connection):
                return None
            lease_now = self._lease_time(connection)
            return queue.next_beside(connection, self._now(), lease_now, device, beside)

    def next_to_hand_over(self, *, device: str = "", without: Collection[str] = ()) -> Job | None:
        """Return the job that goes next of those that a peer may make, as things stand; None if none waits.

        Costs a read of a small index where there is none.

        Args:
            device: the peer's name, by which it is estimated how long jobs take there.
            without: ids of jobs that are not meant.
        """
        with self._database.read() as connection:
            waits = sa.select(jobs.c.number).where(queue.is_queued, queue.may_be_handed_over)
            if connection.execute(waits.limit(1)).first() is None:
                return None
            lease_now = self._lease_time(connection)
            job_id = queue.next_to_hand_over(connection, self._now(), lease_now, device, without)
            if job_id is None:
                return None
            return job_of(connection.execute(sa.select(jobs).where(jobs.c.id == job_id)).one())

    def renew(self, lease: Lease, lease_seconds: float, *, stood_seconds: float = 0.0) -> bool:
        """Keep the job for `lease_seconds` from now, and be seen as a worker.

        Args:
            lease: the worker's right to it.
            lease_seconds: from now.
            stood_seconds: as of `fail`, so far: what is still running counts for its key as if it had ended now.

        Returns:
            Whether the job shall stop.
        """
        with self._database.write_soon() as connection:
            now = self._lease_time(connection)
            expires_at = now + timedelta(seconds=lease_seconds)
            row = changes.touch(connection, lease, _RENEWED, until=expires_at, stood=stood_seconds)
            changes.see_worker(connection, row.worker_id, now)
        return bool(row.cancel_requested)

    def report(self, lease: Lease, percent: int, stage: str) -> bool:
        """Write progress down, as an event. It never falls within an attempt, and only `succeed` makes it 100.

        Each call costs a transaction and a row that stays until it is pruned: the caller decides how often is enough.

        Returns:
            Whether the job shall stop.
        """
        percent = max(0, min(percent, 99))
        with self._database.write_soon() as connection:
            row = changes.touch(connection, lease, _REPORTED, percent=percent, at_stage=stage)
            data = {"percent": row.progress, "stage": stage}
            changes.add_event(connection, row, history.PROGRESS, self._now(), data)
        return bool(row.cancel_requested)

    def show(self, lease: Lease, percent: int, stage: str, preview: str) -> None:
        """Write a preview down, as an event; the job's earlier ones go.

        Args:
            lease: the worker's right to the job.
            percent: as in `report`, which has told it before.
            stage: as there.
            preview: a small WebP, as base64.
        """
        with self._database.write_soon() as connection:
            row = changes.touch(connection, lease, _SHOWN)
            history.delete_previews(connection, row.number)
            data = {"percent": min(percent, 99), "stage": stage, "preview": preview}
            changes.add_event(connection, row, history.PREVIEW, self._now(), data)

    def keep_prompts(self, lease: Lease, texts: Sequence[str]) -> None:
        """Write down what the model reads in the place of the texts that were sent, for whoever makes the job now or later."""
        self._keep(lease, enhanced_prompts=list(texts))

    def keep_settled(self, lease: Lease, settled: Mapping[str, str]) -> None:
        """Write down what the engine chose for the job, so that another try chooses the same; see `Plan.settled`."""
        self._keep(lease, settled=dict(settled))

    def _keep(self, lease: Lease, **details: Any) -> None:
        with self._database.write_soon() as connection:
            row = changes.held(connection, lease)
            changes.touch(connection, lease, _KEPT, kept={**(row.details or {}), **details})

    def succeed(
        self,
        lease: Lease,
        videos: Sequence[Video],
        details: dict[str, Any],
        *,
        speed: Speed | None = None,
        device: str = "",
    ) -> list[str]:
        """End the job with its videos, whose files the storage must have by now.

        Args:
            lease: the worker's right to it.
            videos: at least one, by index.
            details: what was chosen and measured.
            speed: what the job took, to estimate others by.
            device: the kind of device on which it took that.

        Returns:
            Storage keys that nobody needs any more: all of them, if the job was deleted while it ran.
        """
        values = {**video_values(videos), "details": details, "progress": 100, "stage": ""}
        with self._database.write() as connection:
            row = changes.held(connection, lease)
            stood_seconds = details.get("seconds", {}).get("stand_still", 0.0)
            queue.charge(connection, row, self._lease_time(connection), stood_seconds)
            if speed is not None:
                queue.learn_speed(connection, device, speed)
            if row.deleted_at is not None:
                changes.move(connection, row, JobStatus.CANCELLED, self._now())
                return [*storage_keys(row), *stored_keys(videos)]
            changes.move(connection, row, JobStatus.SUCCEEDED, self._now(), **values)
            self._database.tell_watchers(connection)
        return []

    def fail(self, lease: Lease, error: JobError, *, stood_seconds: float = 0.0) -> list[str]:
        """End the job without a video, and say why. Returns storage keys, as `succeed` does.

        Args:
            lease: the worker's right to it.
            error: why.
            stood_seconds: for which others had the device: its key did not.
        """
        return self._end(lease, JobStatus.FAILED, stood_seconds, **changes.error_values(error))

    def finish_cancelled(self, lease: Lease, *, stood_seconds: float = 0.0) -> list[str]:
        """End the job because it was asked to stop. Arguments as of `fail`; returns storage keys, as `succeed` does."""
        return self._end(lease, JobStatus.CANCELLED, stood_seconds)

    def _end(self, lease: Lease, status: JobStatus, stood_seconds: float, **values: Any) -> list[str]:
        with self._database.write() as connection:
            row = changes.held(connection, lease)
            queue.charge(connection, row, self._lease_time(connection), stood_seconds)
            changes.move(connection, row, status, self._now(), **values)
            self._database.tell_watchers(connection)
        return [] if row.deleted_at is None else storage_keys(row)

    def release(
        self, lease: Lease, *, count_attempt: bool, max_attempts: int = 3, stood_seconds: float = 0.0
    ) -> list[str]:
        """Hand the job back: it waits again, unless it shall stop. Returns storage keys, as `succeed` does.

        Args:
            lease: the worker's right to it.
            count_attempt: False if the job is not to blame, as when the worker is told to stop.
            max_attempts: a job that was tried so often fails as `worker_lost`, if the attempt counts.
            stood_seconds: as of `fail`.
        """
        limit = max_attempts if count_attempt else None
        with self._database.write() as connection:
            row = changes.held(connection, lease)
            queue.charge(connection, row, self._lease_time(connection), stood_seconds)
            changes.give_back(connection, row, self._now(), max_attempts=limit)
        return [] if row.deleted_at is None else storage_keys(row)

    def requeue_lapsed(self, max_attempts: int, *, without: Collection[str] = ()) -> Lapsed:
        """Take running jobs from workers whose lease ran out, as `release` does.

        Args:
            max_attempts: as for `release`.
            without: ids of jobs that the asking worker has itself: while the store was away their leases ran out, and it
                knows what is to become of them.
        """
        with self._database.read() as connection:
            lapsed = _lapsed(self._lease_time(connection))
            if without:
                lapsed = lapsed.where(jobs.c.id.not_in(sorted(without)))
            if connection.execute(lapsed.with_only_columns(jobs.c.number).limit(1)).first() is None:
                return Lapsed(0, ())
        now = self._now()
        last_event = changes.NEXT_EVENT + changes.LOST_EVENTS
        with self._database.write() as connection:
            rows = connection.execute(lapsed.with_for_update(skip_locked=True)).all()
            # every such transaction takes the locks of keys' balances in one order, and none waits for another in a ring
            rows = sorted(rows, key=lambda row: (row.key_id, row.number))
            for row in rows:
                changes.give_back(connection, row, now, max_attempts=max_attempts, last_event=last_event)
        unneeded = [key for row in rows if row.deleted_at is not None for key in storage_keys(row)]
        return Lapsed(len(rows), unneeded)

    def prune(self, *, progress_after_seconds: float = 300.0) -> int:
        """Delete the progress events and previews of jobs that ended so long ago, the other events stay; and old Idempotency-Keys.

        Progress is for those who watch: later its only use would be its place on the disk. Each call prunes a bounded
        number of jobs and costs little if there are none, so that every worker may call it every few seconds.

        Returns:
            How many events were deleted.
        """
        ended_before = self._now() - timedelta(seconds=progress_after_seconds)
        forget_before = self._now() - ONCE_KEPT
        with self._database.read() as connection:
            is_old = sa.select(idempotency.c.name).where(idempotency.c.created_at < forget_before).limit(1)
            has_old = connection.execute(is_old).first() is not None
            has_progress = connection.execute(history.to_prune(ended_before).limit(1)).first() is not None
        if has_old:
            with self._database.write_soon() as connection:
                connection.execute(sa.delete(idempotency).where(idempotency.c.created_at < forget_before))
        if not has_progress:
            return 0
        with self._database.write_soon() as connection:
            return history.prune(connection, ended_before)

    def deployment_id(self) -> str:
        """Return this database's own name; a copy of it has the same."""
        with self._database.read() as connection:
            return str(connection.scalars(sa.select(deployment.c.id)).one())

    def unowned(self, keys: Collection[str]) -> set[str]:
        """Tell which of these files nobody needs or will need. Made for a few hundred at once.

        The name of a job's file begins with the job's id, up to the first dot. A job that has not ended needs all that bear
        its name. Files of jobs that are unknown here and would be older than the first one are another database's. What
        clients have uploaded is below a folder of its own, and needs a row that says so.
        """
        job_ids = {key: key.rpartition("/")[2].partition(".")[0] for key in keys}
        named = sa.select(jobs).where(jobs.c.id.in_(set(job_ids.values())))
        with self._database.read() as connection:
            rows = {row.id: row for row in connection.execute(named)}
            first_id = connection.scalar(sa.select(jobs.c.id).order_by(jobs.c.number).limit(1))
            uploads = {key: file_id for key, file_id in job_ids.items() if key.startswith(FILES)}
            unneeded = unowned_files(connection, uploads, first_id) if uploads else set()
            shown = {key: its_id for key, its_id in job_ids.items() if key.startswith(CHARACTERS)}
            unneeded |= unowned_characters(connection, shown, first_id) if shown else set()

        def is_needed(key: str, job_id: str) -> bool:
            if (row := rows.get(job_id)) is None:
                return first_id is None or job_id < first_id  # ids sort by time
            if not JobStatus(row.status).is_terminal:
                return True
            return row.deleted_at is None and row.expired_at is None and key in storage_keys(row)

        return unneeded | {
            key
            for key, job_id in job_ids.items()
            if key not in uploads and key not in shown and not is_needed(key, job_id)
        }

    def worker_seen(
        self,
        worker_id: str,
        device: str | None = None,
        loaded: Collection[str] | None = None,
        residency: Residency | None = None,
        *,
        available: Collection[str] | None = None,
        peer: str | None = None,
    ) -> None:
        """Note that a worker is alive; the first time makes it known.

        Args:
            worker_id: who.
            device: its kind of device, once that is known.
            loaded: ids of the models that it has loaded, once that is known.
            residency: what they take, and counts, once that is known.
            available: ids of the models whose files it has, once that is known.
            peer: URL of the server that makes its jobs; None of a worker with a device of its own.
        """
        told = None if residency is None else residency.to_dict()
        with self._database.write_soon() as connection:
            now = self._lease_time(connection)
            changes.see_worker(connection, worker_id, now, device, loaded, told, available, peer)

    def worker_stopped(self, worker_id: str) -> None:
        """Note that a worker has ended on purpose; what it was told to do and has not done fails."""
        stopped = sa.update(workers).where(workers.c.id == worker_id)
        with self._database.write_soon() as connection:
            connection.execute(stopped.values(stopped_at=self._lease_time(connection)))
            changes.fail_commands(connection, commands.c.worker_id == worker_id, self._now())


def _lapsed(now: datetime) -> sa.Select[Any]:
    return sa.select(jobs).where(jobs.c.status == JobStatus.RUNNING.value, jobs.c.lease_expires_at < now)
