"""What following jobs looks like: bars on a terminal, lines elsewhere, JSON for machines. Data on stdout."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.progress import Task as Bar
from rich.table import Column
from rich.text import Text

from vitascope.domain.step import STAGE_STARTS

from ._job_text import COLORS, FINAL, Job, duration, one_line, outcome, status_words, wait
from ._terminal import STAGE_WORDS, printable, stderr

PERCENT_PER_LINE = 10

_KIND_WORDS = {"queued": "waiting", "running": "started", "cancel_requested": "asked to stop"}


class JsonLines:
    """One object a line: each event as the server sent it, with its job's id."""

    shows_places = False

    def __init__(self) -> None:
        self._deleted: set[str] = set()

    def event(self, job: Job, event: dict[str, Any]) -> None:
        if event["kind"] == "deleted":
            self._deleted.add(job["id"])
        _say(json.dumps({"job_id": job["id"], **event}))

    def place(self, job: Job) -> None:
        pass

    def ended(self, job: Job) -> None:
        pass

    def deleted(self, job: Job) -> None:
        if job["id"] not in self._deleted:
            _say(json.dumps({"job_id": job["id"], "kind": "deleted"}))

    def notice(self, text: str) -> None:
        _warn(text)


class Lines:
    """A line for each change of status or stage and for every tenth percent, with the time and the job's id."""

    shows_places = False

    def __init__(self) -> None:
        self._said: dict[str, tuple[object, ...]] = {}

    def event(self, job: Job, event: dict[str, Any]) -> None:
        kind, percent = event["kind"], event.get("percent") or 0
        mark = (kind, event.get("attempt"), event.get("stage"), percent // PERCENT_PER_LINE)
        if kind in FINAL or kind in ("deleted", "preview") or mark == self._said.get(job["id"]):
            return
        self._said[job["id"]] = mark
        at = datetime.fromisoformat(event["created_at"]).astimezone()
        done = f"{percent:2d} % " if kind == "progress" else ""
        _say(f"{at:%H:%M:%S}  {job['id']}  {done}{_event_words(job, event)}")

    def place(self, job: Job) -> None:
        pass

    def ended(self, job: Job) -> None:
        at = datetime.fromisoformat(job["finished_at"]).astimezone()
        _say(f"{at:%H:%M:%S}  {job['id']}  {outcome(job)}")

    def deleted(self, job: Job) -> None:
        _say(f"{datetime.now().astimezone():%H:%M:%S}  {job['id']}  deleted")

    def notice(self, text: str) -> None:
        _warn(text)


class Bars:
    """A bar per job that has not ended, below a line per job that has."""

    shows_places = True

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.fields[job_id]}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:>3.0f} %"),
            _WordsColumn(),
            console=console,
            transient=True,
            expand=True,
        )
        self._bars: dict[str, TaskID] = {}
        self._times: dict[str, TimeLeft] = {}

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def event(self, job: Job, event: dict[str, Any]) -> None:
        kind, job_id = event["kind"], job["id"]
        if kind in ("queued", "running"):
            self._times[job_id] = TimeLeft()
            words = status_words(job) if kind == "queued" else _event_words(job, event)
            self._show(job_id, words, completed=0, ready_at=None)
        elif kind == "progress":
            at = datetime.fromisoformat(event["created_at"]).timestamp()
            left = self._times.setdefault(job_id, TimeLeft()).seconds(event["stage"], event["percent"], at)
            ready_at = None if left is None else time.monotonic() + left
            self._show(job_id, _event_words(job, event), completed=event["percent"], ready_at=ready_at)
        elif kind == "cancel_requested":
            self._show(job_id, _event_words(job, event), ready_at=None)

    def place(self, job: Job) -> None:
        self._show(job["id"], status_words(job))

    def ended(self, job: Job) -> None:
        self._remove(job["id"], Text(outcome(job), COLORS.get(job["status"], "")))

    def deleted(self, job: Job) -> None:
        self._remove(job["id"], Text("deleted", "dim"))

    def notice(self, text: str) -> None:
        self._progress.console.print(Text(printable(text), "bold"), soft_wrap=True)

    def _show(self, job_id: str, words: str, **values: Any) -> None:
        if job_id not in self._bars:
            self._bars[job_id] = self._progress.add_task(
                "", total=100, job_id=job_id, words="", ready_at=None
            )
        self._progress.update(self._bars[job_id], words=words, **values)

    def _remove(self, job_id: str, words: Text) -> None:
        if (bar := self._bars.pop(job_id, None)) is not None:
            self._progress.remove_task(bar)
        self._progress.console.print(Text(f"{job_id}  ").append_text(words), soft_wrap=True)


class _WordsColumn(TextColumn):
    """What a job does, and the seconds that are left, counted down between events."""

    def __init__(self) -> None:
        super().__init__("", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1))

    def render(self, task: Bar) -> Text:
        words, ready_at = task.fields["words"], task.fields["ready_at"]
        if ready_at is not None:
            words += f", {duration(ready_at - time.monotonic())} left"
        return Text(words)


@dataclass(slots=True)
class TimeLeft:
    """How fast a job gets on, by the instants of the server's events: a stream that is read late tells the same."""

    #: Percent and instant at which denoising was first seen in this attempt.
    first: tuple[int, float] | None = None

    def seconds(self, stage: str, percent: int, at: float) -> float | None:
        """Return the seconds that are left; None as long as nobody can tell. Loading a model says nothing of the rest."""
        if stage != "denoise":
            return None
        if self.first is None:
            self.first = (percent, at)
        begun_percent, begun_at = self.first
        if percent == begun_percent:
            return None
        return (at - begun_at) / (percent - begun_percent) * (100 - percent)


def _event_words(job: Job, event: dict[str, Any]) -> str:
    kind = event["kind"]
    if kind == "progress":
        return one_line(STAGE_WORDS.get(event["stage"], event["stage"]) + _step(job, event))
    words = [_KIND_WORDS.get(kind, kind)]
    if kind == "queued":
        words.append(wait(job))
    if (event.get("attempt") or 0) > 1:
        words.append(f"attempt {event['attempt']}")
    return one_line(", ".join(word for word in words if word))


def _step(job: Job, event: dict[str, Any]) -> str:
    """Count denoising steps back from the percent, which says them exactly if it has more numbers than there are steps."""
    begin, end = STAGE_STARTS["denoise"], STAGE_STARTS["decode_latents"]
    told = (c["value"] for c in job.get("choices", ()) if c["name"] == "windows")
    windows = next((shapes.count("+") + 1 for shapes in told), len(job.get("shots") or [None]))
    steps = job.get("num_inference_steps", 0) * windows
    if event["stage"] != "denoise":
        return ""
    if (
        count := job.get("num_videos", 1)
    ) > 1:  # the percent counts all of them; half of what its rounding loses is given back
        video = (event["percent"] * count + count // 2 + 1) // STAGE_STARTS["store"]
        return f", video {min(video, count - 1) + 1}/{count}"
    if steps > end - begin:
        return ""
    return f", step {math.ceil((event['percent'] - begin) * steps / (end - begin))}/{steps}"


def _say(line: str) -> None:
    typer.echo(line)


def _warn(text: str) -> None:
    stderr.print(Text(printable(text)), soft_wrap=True)
