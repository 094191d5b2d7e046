"""After a run: compares what clients were told with the database and the files, without the server's help."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from vitascope.domain.video import Picture, Video
from vitascope.store import maintenance
from vitascope.store.database import connect
from vitascope.store.tables import events, jobs
from vitascope.worker.sweep import MARKER

from .clients import TERMINAL, Record
from .findings import Findings

Row = sa.Row[Any]

HASHED_AT_ONCE = 1 << 20


def audit(url: str, home: Path, records: Mapping[str, Record], max_attempts: int, findings: Findings) -> None:
    """Check every promise that the database and the files can tell; nothing runs any more.

    Args:
        url: of the database.
        home: the data folder.
        records: what clients were told, by job id.
        max_attempts: as the workers were set.
        findings: where broken promises and counts go.
    """
    for problem in maintenance.check(url).problems:
        findings.break_promise("damage in the database", problem)
    with closing(connect(url)) as database, database.read() as connection:
        rows = {row.id: row for row in connection.execute(sa.select(jobs))}
        histories: dict[int, list[Row]] = {}
        for event in connection.execute(sa.select(events).order_by(events.c.job_number, events.c.sequence)):
            histories.setdefault(event.job_number, []).append(event)
    for record in records.values():
        _check_record(record, rows.get(record.id), findings)
    for row in rows.values():
        _check_history(row, histories.get(row.number, []), max_attempts, findings)
    for prompt, number in Counter(row.request["prompt"] for row in rows.values()).items():
        if number > 1:  # each request has a prompt of its own
            findings.break_promise("requests that made two jobs", f"{prompt}: {number}")
    _check_files(home, list(rows.values()), findings)
    _count(rows, records, histories, findings)


def _check_record(record: Record, row: Row | None, findings: Findings) -> None:
    if row is None:
        findings.break_promise("acknowledged jobs lost", f"{record.id} has no row")
    elif record.ended not in (None, row.status):
        text = f"{record.id} was shown as {record.ended} and is {row.status}"
        findings.break_promise("jobs that changed after their end", text)
    elif record.is_deleted != (row.deleted_at is not None):
        text = f"{record.id} is deleted: told {record.is_deleted}, stored {row.deleted_at is not None}"
        findings.break_promise("answers that contradict each other", text)


def _check_history(row: Row, history: Sequence[Row], max_attempts: int, findings: Findings) -> None:
    kinds = [event.kind for event in history]
    ends = [kind for kind in kinds if kind in TERMINAL]
    if row.status not in TERMINAL or not ends:
        findings.break_promise("jobs that did not end", f"{row.id} is {row.status}")
        return
    if len(ends) > 1:
        findings.break_promise("jobs finished twice", f"{row.id}: {kinds}")
    after = [kind for kind in kinds[kinds.index(ends[0]) + 1 :] if kind != "deleted"]
    if ends[0] != row.status or after:
        findings.break_promise("jobs that changed after their end", f"{row.id} is {row.status}: {kinds}")
    if row.attempt > max_attempts:
        text = f"{row.id}: {row.attempt}"
        findings.break_promise("jobs with more attempts than allowed", text)


def _check_files(home: Path, rows: Sequence[Row], findings: Findings) -> None:
    """Each succeeded job has its file and each job its inputs; nothing else is there."""
    there, wanted = _files_there(home), _files_wanted(rows)
    for key in sorted(wanted - there):
        findings.break_promise("files missing or not as stated", f"{key} is missing")
    for key in sorted(there - wanted):
        findings.break_promise("files left over", key)
    both = wanted & there
    for row in rows:
        if row.status == "succeeded" and len(row.videos) != row.request.get("num_videos", 1):
            text = f"{row.id} has {len(row.videos)} videos"
            findings.break_promise("files missing or not as stated", text)
        for file in _files_of(row):
            if file.key in both and not _is_as_stated(home / "files" / file.key, file):
                findings.break_promise("files missing or not as stated", file.key)
    for path in sorted((home / "work").rglob("*")):
        if path.is_file():
            findings.break_promise("files left over", path.relative_to(home).as_posix())


def files_left_over(url: str, home: Path) -> list[Path]:
    """Find files in the storage that belong to no job."""
    with closing(connect(url)) as database, database.read() as connection:
        wanted = _files_wanted(connection.execute(sa.select(jobs)).all())
    return [home / "files" / key for key in sorted(_files_there(home) - wanted)]


def files_kept(url: str) -> list[str]:
    """Find jobs whose files will go, or should have, and are not known to be gone."""
    is_kept = jobs.c.expires_at.is_not(None) & jobs.c.expired_at.is_(None)
    with closing(connect(url)) as database, database.read() as connection:
        return list(connection.scalars(sa.select(jobs.c.id).where(is_kept)))


def _files_there(home: Path) -> set[str]:
    files = home / "files"
    there = {path.relative_to(files).as_posix() for path in files.rglob("*") if path.is_file()}
    return there - {MARKER}


def _files_wanted(rows: Sequence[Row]) -> set[str]:
    kept = [row for row in rows if row.deleted_at is None and row.expired_at is None]
    videos = {file.key for row in kept for file in _files_of(row)}
    return videos | {row.request["image"] for row in kept if row.request.get("image")}


def _files_of(row: Row) -> list[Video | Picture]:
    return [file for values in row.videos or () for file in Video.from_dict(values).files]


def _is_as_stated(path: Path, stated: Video | Picture) -> bool:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return (sha256, path.stat().st_size) == (stated.sha256, stated.num_bytes)


def _count(
    rows: Mapping[str, Row],
    records: Mapping[str, Record],
    histories: Mapping[int, Sequence[Row]],
    findings: Findings,
) -> None:
    for row in rows.values():
        findings.count(f"jobs {row.status}")
        findings.count(f"jobs with {row.attempt} attempts")
        if row.error_code is not None:
            findings.count(f"jobs failed as {row.error_code}")
    findings.count("jobs whose files have expired", sum(row.expired_at is not None for row in rows.values()))
    findings.count("jobs stored but not acknowledged", len(set(rows) - set(records)))
    kinds = Counter(event.kind for history in histories.values() for event in history)
    findings.count("attempts begun", kinds["running"])
    waits = sorted(wait for history in histories.values() for wait in _recoveries(history))
    if waits:
        findings.facts["seconds from the last sign of a lost attempt to the next, median"] = _at(waits, 0.5)
        findings.facts["seconds from the last sign of a lost attempt to the next, most"] = _at(waits, 1.0)


def _recoveries(history: Sequence[Row]) -> list[float]:
    """Seconds between the last event of an attempt that was lost and the start of the next: lease, waiting, and all."""
    waits = []
    for index in range(1, len(history) - 1):
        before, back, again = history[index - 1 : index + 2]
        if back.kind == "queued" and again.kind == "running":
            waits.append((again.created_at - before.created_at).total_seconds())
    return waits


def _at(ordered: Sequence[float], share: float) -> float:
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2)
