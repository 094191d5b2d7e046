"""Sora-style task APIs, as freesoragenerator.com and its kin have them: create a task, ask for its result, ask for credits.

Belongs here: that vendor's field names, model names, envelope and code numbers. Never here: anything that another dialect needs.
The credits themselves are `service.credits`, and the gallery is the native API's.

How sure each fact is. Nothing was tried against the vendor's host.

| fact | source |
| --- | --- |
| `/api/v1/video/sora-pro`, its fields, the seven models, `{code, message, data}` with `taskId` | the vendor's page (S3), with three examples |
| `/api/v1/video/sora-video`: `sora-2`, `sora-2-pro`, `sora-2-stable`, `duration`, ratios as 9:16 and 16:9, the first by default | the vendor's older page, and a client |
| `nFrames` is a number of seconds; text or number; brought to what the model allows | the page ("normalized"), its prices, clients |
| which allowed value, its default | not documented: the nearest, of two the lower; 10, or what the shots of a storyboard come closest to |
| pixels of `standard` and `high` | not documented: 1280x720 and 1792x1024 |
| check-result: its path, which has no /v1; what clients read of it | clients; the whole reply is that of a kindred API |
| status `pending`, `running`, `succeeded`, `failed` | the same. A job that was cancelled, or whose video is not kept any more, is `failed` here, and `failure_reason` says why |
| get-user-credits | clients |
| code numbers | none is known but 0, and -1 beside 401. Ours: `answers.CODES` |
| HTTP 200 beside most errors | the vendor's page. Ours has 401, 403, 408, 413, 415, 429 and 5xx as all of HTTP does |
| unknown fields | not documented; refused here, as a misspelt one could change the video |
| remix targets and characters of the older call | documented as for VIPs, without names that we know; refused |
"""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vitascope.dialects import _http
from vitascope.domain.access import Scope
from vitascope.domain.errors import ContentRejected, InvalidParameter

from . import schema
from .answers import UNCOUNTED_CREDITS, error_response, success, task_object
from .create import Order, Reader, read_older, read_pro

__all__ = ["SoraTasksDialect"]

CHECK_RESULT = "/api/video-generations/check-result"
CREDITS = "/api/get-user-credits"


class SoraTasksDialect:
    """The routes."""

    def router(self) -> APIRouter:
        """Make the routes."""
        both = APIRouter()
        making = APIRouter(tags=["Sora tasks"], route_class=_http.route_class(error_response))
        schema.add(making, "/api/v1/video/sora-pro", self.sora_pro, schema.CREATE, schema.SoraCreated)
        schema.add(making, "/api/v1/video/sora-video", self.sora_video, schema.OLDER, schema.SoraCreated)
        both.include_router(making)
        # they only read, though they are POST
        reading = APIRouter(
            tags=["Sora tasks"], route_class=_http.route_class(error_response, scope=Scope.READ)
        )
        schema.add(reading, CHECK_RESULT, self.check_result, schema.CHECK, schema.SoraChecked)
        schema.add(reading, CREDITS, self.credits, schema.NOTHING, schema.SoraCredits)
        both.include_router(reading)
        return both

    async def sora_pro(self, request: Request) -> Response:
        """Make a video or a storyboard: answers at once, with a task that survives whatever happens to the server."""
        return await _create(request, read_pro)

    async def sora_video(self, request: Request) -> Response:
        """Make a video by the older call, which knows three models and takes an image with each."""
        return await _create(request, read_older)

    async def check_result(self, request: Request) -> Response:
        """Tell how far a task is, and where its video is once it is there."""
        desk = _http.desk_of(request)
        fields = await _http.read_body(request, desk.max_body_bytes)
        job = await desk.find(_http.caller_of(request), _task_id(fields))
        base_url = _http.base_url_of(request)
        return success(
            task_object(job, lambda index: desk.service.results.link_for(job, base_url, index).url),
            message="Success",
        )

    async def credits(self, request: Request) -> Response:
        """Tell how many credits the key has left; of a key that is not counted, a number that no program runs out of."""
        desk, caller = _http.desk_of(request), _http.caller_of(request)
        balance = await desk.read(desk.service.credits.balance, caller.key_id)
        left = UNCOUNTED_CREDITS if balance is None else balance.credits
        return success({"left_credits": left, "is_vip": False})


async def _create(request: Request, read: Callable[[_http.Fields, Reader], Order]) -> JSONResponse:
    desk = _http.desk_of(request)
    fields = await _http.read_body(request, desk.max_body_bytes)
    reader = Reader(desk.service.spec_of_vendor, desk.service.marks)
    order = await _http.in_thread_if_large(fields.num_bytes, lambda: read(fields, reader))
    once = await _http.once_of(request, fields)
    caller = _http.caller_of(request)
    await desk.admit(request, once)
    base_url = desk.service.links.base_url or _http.base_url_of(request)  # links begin so
    try:
        draft = desk.service.drafts.prepare(order.request, caller, order.sent, order.choices)
        job = await desk.submit(caller, draft, once, base_url=base_url)
    except InvalidParameter as error:
        raise order.in_clients_words(error) from None
    except ContentRejected as error:
        name = order.names.get(error.parameter, error.parameter)
        raise ContentRejected(name, error.value, error.rule, reasons=error.reasons) from None
    return success({"taskId": job.id})


def _task_id(fields: _http.Fields) -> str:
    given = fields.raw("taskId")
    if isinstance(given, int) and not isinstance(given, bool):
        return str(given)
    task_id = (fields.text("taskId") or "").strip()
    if not task_id:
        raise InvalidParameter(
            "taskId", "missing", "it must be the taskId that a create call has answered with"
        )
    return task_id
