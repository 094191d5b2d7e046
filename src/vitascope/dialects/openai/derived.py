"""Videos made from videos: remixes, edits and extensions. Each is a job of its own, with the source's video copied to it.

What the client does not say is the source's: model, size, length, rate, steps, guidance, scheduler and negative prompt.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from vitascope.dialects import _http
from vitascope.domain.access import Caller
from vitascope.domain.choice import Choice
from vitascope.domain.errors import InvalidParameter, JobNotFound, RequestError
from vitascope.domain.job import Job
from vitascope.domain.once import Once
from vitascope.service import Draft, OfJob, Sent, Service
from vitascope.service.inputs import Content

from . import schema
from .create import Order, to_order
from .schema import EDIT_STRENGTH, REMIX_STRENGTH
from .video import PREFIX, video_response

LENGTHS = ("seconds", "duration", "num_frames")
SIZES = ("size", "width", "height")

#: What is the source's where the client says nothing, if the model is the same.
INHERITED = ("num_inference_steps", "guidance_scale", "scheduler")

Arrange = Callable[[Order, Service, Content], Sent]
"""Says how the source is used."""


def add_to(router: APIRouter) -> None:
    """Add the routes; before those with an id in the same place."""
    found = {200: {"model": schema.Video}, **schema.ERRORS}
    add = router.add_api_route
    add("/videos/edits", edit, methods=["POST"], responses=found, openapi_extra=schema.EDIT)
    add("/videos/extensions", extend, methods=["POST"], responses=found, openapi_extra=schema.EXTEND)
    add("/videos/{video_id}/remix", remix, methods=["POST"], responses=found, openapi_extra=schema.REMIX)


async def remix(video_id: str, request: Request) -> Response:
    """Make a video of another prompt from a finished one: its frames are where the making begins."""
    content = OfJob(_job_id(video_id))
    try:
        fields = await _read(request)
    except RequestError:  # whoever asks of another's video is told nothing else but that there is none
        desk = _http.desk_of(request)
        await desk.find(_http.caller_of(request), content.job_id)
        raise
    return await _answer(request, fields, content, _remixed)


async def edit(request: Request) -> Response:
    """Change a video, a finished one or one that is sent: it keeps its shapes and movements."""
    fields = await _read(request)

    def arrange(order: Order, _service: Service, source: Content) -> Sent:
        _set_strength(order, EDIT_STRENGTH, "an edit")
        return dataclasses.replace(_sent_with(order), video=source)

    return await _answer(request, fields, _video_of(fields), arrange)


async def extend(request: Request) -> Response:
    """Continue a video, a finished one or one that is sent, from its last frames; the file begins with all of it."""
    fields = await _read(request)
    name = fields.first("seconds", "duration")
    seconds = fields.number(name)
    if seconds is None:
        raise InvalidParameter(name, "missing", "it must say how many seconds are added")
    if fields.integer("num_frames") is not None:
        raise InvalidParameter("num_frames", "given", f"an extension's length is said by `{name}`")

    def arrange(order: Order, _service: Service, source: Content) -> Sent:
        _set(order, num_frames=None, added_seconds=seconds)
        order.names.update(continues="video", num_frames=name, added_seconds=name)
        order.values[name] = fields.raw(name)
        return dataclasses.replace(_sent_with(order), continues=source)

    rest = _http.Fields({key: value for key, value in fields.values().items() if key not in LENGTHS})
    return await _answer(request, fields, _video_of(fields), arrange, rest)


async def _read(request: Request) -> _http.Fields:
    return await _http.read_body(request, _http.desk_of(request).max_body_bytes)


async def _answer(
    request: Request,
    fields: _http.Fields,
    content: Content,
    arrange: Arrange,
    rest: _http.Fields | None = None,
) -> Response:
    """Make a job.

    Args:
        request: of the client.
        fields: of its body.
        content: what it is made from.
        arrange: says how.
        rest: the fields that mean the same as when a video is created; None for all but the source.
    """
    desk, caller = _http.desk_of(request), _http.caller_of(request)
    once = await _http.once_of(request, fields)
    await desk.admit(request, once)
    first = await _made_before(desk, once, caller)
    if first is not None:
        return video_response(first)
    source = await desk.find(caller, content.job_id) if isinstance(content, OfJob) else None
    sent = await desk.with_kept(caller, Sent(video=content))
    assert sent.video is not None
    values = {k: v for k, v in (rest or fields).values().items() if k != "video" and v != ""}
    if source is not None:  # lengths are counted at the rate of this model
        values = {"model": source.request.model, "fps": source.plan.fps, **values}
    wanted = _http.Fields(values, fields.num_bytes)
    order = await _http.in_thread_if_large(
        fields.num_bytes, lambda: to_order(wanted, desk.service.spec_of_vendor)
    )
    _take_from(source, order, wanted)
    try:
        arranged = arrange(order, desk.service, sent.video)
        draft = _prepare(desk.service, order, caller, arranged)
        job = await desk.submit(caller, draft, once, base_url=_http.base_url_of(request))
    except InvalidParameter as error:
        raise _in_clients_words(order, error) from None
    return video_response(job)


async def _made_before(desk: _http.Desk, once: Once, caller: Caller) -> Job | None:
    """Look for the job of a repetition before its source is looked for, which may have gone since."""
    if once.name is None and not once.is_retry:
        return None
    return await desk.write(desk.service.made_before, once, caller)


def _prepare(service: Service, order: Order, caller: Caller, sent: Sent) -> Draft:
    return service.prepare(order.request, caller, sent, order.choices)


def _sent_with(order: Order) -> Sent:
    """What came beside the source; the plan says whether it may."""
    return Sent(image=order.image)


def _take_from(source: Job | None, order: Order, fields: _http.Fields) -> None:
    """Fill in what the client has not said; of a video that was sent, size and length are found when it is read."""
    has_length, has_size = (
        any(fields.raw(name) not in (None, "") for name in names) for names in (LENGTHS, SIZES)
    )
    order.is_length_given = True
    if source is None:
        if not has_length:
            _set(order, num_frames=None)
        return
    plan, asked = source.plan, order.request
    if not has_length:
        seconds = plan.duration_seconds
        fps = max(1, asked.fps or plan.fps)
        _set(order, num_frames=plan.num_frames if fps == plan.fps else max(1, round(seconds * fps)))
        order.values[order.names.get("num_frames", "num_frames")] = f"{seconds:g}"
    if not has_size:
        _set(order, height=plan.height, width=plan.width)
        order.values["size"] = f"{plan.width}x{plan.height}"
        order.names.update(width="size", height="size")
    if source.plan.model == asked.model or source.request.model == asked.model:
        _set(
            order,
            **{name: getattr(source.request, name) for name in INHERITED if getattr(asked, name) is None},
        )
        if not asked.negative_prompt:
            _set(order, negative_prompt=source.request.negative_prompt)


def _remixed(order: Order, service: Service, source: Content) -> Sent:
    """Change the source, or where the model cannot, begin with its first frame."""
    spec, _ = service.spec_of_vendor(order.request.model)
    sent = _sent_with(order)
    if "video" in spec.pipelines:
        _set_strength(order, REMIX_STRENGTH, "a remix")
        return dataclasses.replace(sent, video=source)
    if "image" not in spec.pipelines:
        rule = f"model `{spec.id}` neither changes videos nor starts from a picture, and so makes no remixes"
        raise InvalidParameter("model", order.request.model, rule, hint="choose another model")
    if sent.image is not None:
        rule = "the remix begins with a frame of its source"
        raise InvalidParameter("image", "given", rule, hint="leave it out")
    reason = f"model `{spec.id}` changes no videos: the remix begins with the first frame of its source"
    order.choices.append(Choice("remix", "first frame", reason))
    return dataclasses.replace(sent, image=source)


def _set_strength(order: Order, strength: float, what: str) -> None:
    if order.request.strength is None:
        _set(order, strength=strength)
        reason = f"{what} changes so much of its source where `strength` does not say it"
        order.choices.append(Choice("strength", f"{strength:g}", reason))


def _set(order: Order, **values: Any) -> None:
    order.request = dataclasses.replace(order.request, **values)


def _in_clients_words(order: Order, error: InvalidParameter) -> InvalidParameter:
    if error.parameter == "added_seconds":  # counted in the client's own unit, not in frames
        name = order.names["added_seconds"]
        return InvalidParameter(name, order.values[name], error.rule, nearest=error.nearest)
    return order.in_clients_words(error)


def _video_of(fields: _http.Fields) -> Content:
    """Read what is to be changed or continued: a file, its URL, or a video by its id."""
    value = fields.raw("video")
    if isinstance(value, dict):
        video_id = value.get("id")
        if not isinstance(video_id, str) or not video_id:
            raise InvalidParameter("video[id]", _http.shown(video_id), "it must be the id of a video")
        try:
            index = _http.Fields(value).integer("index") or 0
        except InvalidParameter as error:
            raise InvalidParameter("video[index]", error.value, error.rule) from None
        return OfJob(_job_id(video_id), index)
    if isinstance(value, str) and value.startswith(PREFIX):
        return OfJob(_job_id(value))
    content = _http.picture_of("video", value)
    if content is None:
        raise InvalidParameter("video", "missing", "it must be a video file, or the id of a video")
    return content


def _job_id(video_id: str) -> str:
    if not video_id.startswith(PREFIX):
        raise JobNotFound
    return video_id.removeprefix(PREFIX)
