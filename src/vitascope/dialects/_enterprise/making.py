"""The generation calls and what fetches their results."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vitascope.dialects import _http
from vitascope.domain.access import Caller
from vitascope.domain.errors import InvalidParameter, JobNotFound
from vitascope.domain.job import Job, JobStatus
from vitascope.domain.prompting import ENHANCE
from vitascope.domain.request import Upscale
from vitascope.domain.windows import MAX_DURATION_SECONDS
from vitascope.service import Draft, Service
from vitascope.service.outlook import Expectation

from .answers import render_200
from .calls import Call
from .create import Order, to_order
from .replies import Telling, data_urls
from .routes import fields_of

Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]

MAX_ADAPTATIONS = 16
"""More parameters than this there are not that a model could be without."""

NO_NUMBER = 0
"""Jobs are numbered from 1."""

_NUMBER = re.compile(r"\s*([0-9]{1,18})\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Manner:
    """What the settings of the topic `modelslab` say."""

    #: How long a reply waits for its video before it says `processing`.
    wait_seconds: float = 20.0


def _manner_of(request: Request) -> Manner:
    manner: Manner = request.app.state.enterprise
    return manner


def generating(call: Call) -> Endpoint:
    """Make the endpoint of a generation call."""

    async def endpoint(request: Request) -> Response:
        begun = time.perf_counter()
        job, is_instant = await _made(request, call)
        if not is_instant:
            job = await _http.ended(request, job, begun + _manner_of(request).wait_seconds)
        return await _shown(request, job)

    return endpoint


async def _made(request: Request, call: Call) -> tuple[Job, bool]:
    desk, fields, caller = _http.desk_of(request), fields_of(request), _http.caller_of(request)
    service = desk.service
    # which machine has a model's files is read from the store and from disks
    order = await asyncio.to_thread(to_order, fields, call, service.spec_of_vendor)
    once = await _http.once_of(request, fields)
    await desk.admit(request, once)
    try:
        draft = prepared(service, order, caller)
        base_url = service.links.base_url or _http.base_url_of(request)
        return await desk.submit(caller, draft, once, base_url=base_url), order.is_instant
    except InvalidParameter as error:
        raise order.in_clients_words(error) from None


def prepared(service: Service, order: Order, caller: Caller) -> Draft:
    """Plan a request. What its model cannot do, though the vendor documents it for this call, is left out or made nearly, and told.

    Raises:
        VitascopeError: as `Service.prepare`.
    """
    for _ in range(MAX_ADAPTATIONS):
        try:
            draft = service.drafts.prepare(order.noted(), caller, order.sent, order.choices)
        except InvalidParameter as error:
            if not _adapt(order, error):
                raise
        else:
            break
    else:
        draft = service.drafts.prepare(order.noted(), caller, order.sent, order.choices)
    return _with_tips_of_plan(order, draft)


def _with_tips_of_plan(order: Order, draft: Draft) -> Draft:
    """Tell too what only the service knows: that nothing here writes prompts out."""
    if not order.echo["asked_to_enhance"]:
        return draft
    told = [choice.reason for choice in draft.plan.choices if choice.name == ENHANCE]
    if not told:
        return draft
    order.tips += [f"{ENHANCE}: no effect, as {reason}" for reason in told]
    notes = order.noted().notes
    return dataclasses.replace(draft, request=dataclasses.replace(draft.request, notes=notes))


def _adapt(order: Order, error: InvalidParameter) -> bool:
    """Change what the model refuses; False if that is the client's mistake."""
    name, told = error.parameter, order.names.get(error.parameter, error.parameter)
    reason = error.rule
    if name in _LEFT_OUT and not _is_mistake(order, name):
        order.change(**{name: _LEFT_OUT[name]})
        order.tell(told, "no effect", reason)
        return True
    if name in _NEAREST and error.nearest is not None and not _is_mistake(order, name):
        order.change(**{name: error.nearest})
        order.tell(told, str(error.nearest), reason)
        return True
    if name in _NEAREST_OF_SECOND and error.nearest is not None and order.request.upscale is not None:
        part = name.partition(".")[2]
        order.change(upscale=_with_part(order.request.upscale, part, error.nearest))
        order.tell(told, str(error.nearest), reason)
        return True
    return False


def _with_part(upscale: Upscale, part: str, value: Any) -> Upscale:
    return dataclasses.replace(upscale, **{part: value})


def _is_mistake(order: Order, name: str) -> bool:
    """Whether no model here would make so much, and nothing that the vendor documents is the reason."""
    request = order.request
    if name == "negative_prompt":
        return order.spec.takes_negative_prompt  # then something is wrong with the text
    rate = request.fps or order.spec.fps
    return name == "num_frames" and (request.num_frames or 0) > MAX_DURATION_SECONDS * rate


#: What a model may not have at all, by our name.
_LEFT_OUT: dict[str, Any] = {
    "upscale": None,
    "improved_sampling": None,
    "flow_shift": None,
    "negative_prompt": "",
}
#: What it may have in other bounds than the vendor documents.
_NEAREST = frozenset({"num_inference_steps", "guidance_scale", "num_frames", "strength", "clip_skip"})
_NEAREST_OF_SECOND = frozenset({"upscale.strength", "upscale.guidance_scale", "upscale.num_inference_steps"})


async def _shown(request: Request, job: Job) -> Response:
    """Answer who has asked for a video."""
    return await _answered(request, job, Telling.processing, Telling.finished)


async def _fetched(request: Request, number: object) -> Response:
    """Answer who asks what became of a video. Whatever is wrong with the number, HTTP says 200."""
    desk = _http.desk_of(request)
    match = _NUMBER.fullmatch(str(number)) if isinstance(number, str | int) else None
    try:
        job = await desk.find_numbered(_http.caller_of(request), int(match[1]) if match else NO_NUMBER)
    except JobNotFound:
        return render_200(JobNotFound("there is no generation with this id"))
    return await _answered(request, job, Telling.waiting, Telling.fetched)


async def _answered(
    request: Request,
    job: Job,
    unfinished: Callable[[Telling, Expectation], dict[str, Any]],
    finished: Callable[[Telling, Mapping[int, str] | None], dict[str, Any]],
) -> Response:
    """Tell of a job in one of three ways. Where a bucket has a public address, that is looked up: a read like others."""
    desk = _http.desk_of(request)
    prefix = request.url.path.removeprefix(request.scope.get("root_path", "")).partition("/fetch")[0]
    telling = Telling(desk.service, job, _http.base_url_of(request), prefix)
    if not job.status.is_terminal:
        expectation = await desk.expectation(job)
        return JSONResponse(await desk.read(unfinished, telling, expectation))
    if job.status is not JobStatus.SUCCEEDED or telling.is_gone:
        return JSONResponse(telling.failed())
    if not telling.wants_data:
        return JSONResponse(await desk.read(finished, telling, None))
    files = await asyncio.to_thread(data_urls, desk.service, job)
    # of a hundred megabytes the text itself takes a second, which others need not wait
    return await asyncio.to_thread(JSONResponse, await desk.read(finished, telling, files))


async def fetch_by_path(request_id: str, request: Request) -> Response:
    """Tell what became of a video, by the id in the path."""
    return await _fetched(request, request_id)


async def fetch_by_body(request: Request) -> Response:
    """Tell what became of a video, by `request_id` (or `id`) in the body."""
    fields = fields_of(request)
    value = fields.raw(fields.first("request_id", "id"))
    if value is None or value == "":
        raise InvalidParameter("request_id", "missing", "it must be the id of a generation")
    return await _fetched(request, value)
