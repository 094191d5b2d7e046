"""From an HTTP request to what is asked for: the same for a job, a plan and a quote."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from vitascope.dialects import _http
from vitascope.domain.request import GenerationRequest
from vitascope.service import Draft, Sent

from .create import PARAMETERS, to_request


async def read_request(request: Request) -> tuple[_http.Fields, GenerationRequest, Sent]:
    """Read what a job, a plan or a quote is asked of, and what came with it; raises what `to_request` does."""
    desk = _http.desk_of(request)
    fields = await _http.read_body(request, desk.max_body_bytes)
    fields.check_names(PARAMETERS)
    wanted, sent = await _http.in_thread_if_large(
        fields.num_bytes, lambda: to_request(fields, desk.service.spec)
    )
    return fields, wanted, sent


async def read_plan(request: Request) -> Draft:
    """Read a request and plan it for who wants to know only; raises what `Service.prepare_plan` and `check_loras` do."""
    desk, caller = _http.desk_of(request), _http.caller_of(request)
    _, wanted, sent = await read_request(request)
    draft = desk.service.drafts.prepare_plan(wanted, caller, await desk.with_kept(caller, sent))
    if desk.service.drafts.has_loras(draft):
        await asyncio.to_thread(desk.service.drafts.check_loras, draft)
    return draft
