"""A job's events as server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import StreamingResponse

from vitascope.dialects import _http
from vitascope.domain.errors import InvalidParameter
from vitascope.domain.job import Job
from vitascope.service.tail import FINAL_KINDS
from vitascope.store import Event

HEARTBEAT_SECONDS = 15.0
"""Proxies cut connections that are silent for a minute or less."""


def stream(request: Request, job: Job) -> StreamingResponse:
    """Send what happened to the job since `Last-Event-ID`, then what happens, until it has ended.

    Raises:
        InvalidParameter: `Last-Event-ID` is no number that this stream gave.
    """
    text = request.headers.get("last-event-id", "").strip() or "0"
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise InvalidParameter(
            "Last-Event-ID", text, "it must be the id of an event of this stream", nearest=0
        )
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(_lines(request, job, int(text)), media_type="text/event-stream", headers=headers)


async def _lines(request: Request, job: Job, after: int) -> AsyncIterator[str]:
    desk = _http.desk_of(request)
    while events := await desk.read(
        desk.service.jobs.events, job.id, after
    ):  # some at a time: a long job has thousands
        for event in events:
            yield _line(event)
            after = event.sequence
            if event.kind in FINAL_KINDS:
                return
    if job.status.is_terminal:
        return
    async for followed in desk.tail.follow(job.id, after, HEARTBEAT_SECONDS):
        yield ": nothing new\n\n" if followed is None else _line(followed)


def _line(event: Event) -> str:
    data = {
        "sequence": event.sequence,
        "kind": event.kind,
        "attempt": event.attempt,
        "percent": event.percent,
        "stage": event.stage,
        "created_at": event.created_at.isoformat(),
    }
    if event.preview is not None:
        data["preview"] = f"data:image/webp;base64,{event.preview}"
    return f"id: {event.sequence}\nevent: {event.kind}\ndata: {json.dumps(data)}\n\n"
