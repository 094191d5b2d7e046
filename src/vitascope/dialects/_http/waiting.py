"""Answers that wait for a job's end."""

from __future__ import annotations

import contextlib
import time

from starlette.requests import Request

from vitascope.domain.errors import StoreUnavailable
from vitascope.domain.job import Job
from vitascope.service.tail import FINAL_KINDS

from .credentials import caller_of
from .desk import desk_of

LOOK_SECONDS = 1.0
"""How often it is seen whether the client is still there."""


async def ended(request: Request, job: Job, until: float) -> Job:
    """Wait for a job's end for as long as there is time and a client.

    Args:
        request: whose client waits.
        job: the job as it was.
        until: of `time.perf_counter`.

    Returns:
        The job as it is now, which may not have ended.
    """
    desk, caller = desk_of(request), caller_of(request)
    look_seconds = min(LOOK_SECONDS, max(0.0, until - time.perf_counter()))
    following = desk.tail.follow(job.id, 0, look_seconds)  # ends with the job, or with this server
    async with contextlib.aclosing(following):  # type: ignore[type-var]
        while not job.status.is_terminal and time.perf_counter() < until:
            try:
                event = await anext(following)
            except StopAsyncIteration:
                break
            if event is None or event.kind in FINAL_KINDS:
                with contextlib.suppress(StoreUnavailable):
                    job = await desk.read(desk.service.jobs.get, job.id, caller)
            if event is None and await request.is_disconnected():
                break
    return job
