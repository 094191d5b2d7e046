"""Videos made from videos: remixes, edits and extensions. Each is a job of its own, with the source's video copied to it.

What the client does not say is the source's: model, size, length, rate, steps, guidance, scheduler, adapters and negative prompt.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from vitascope.dialects import _http
from vitascope.domain.access import Caller
from vitascope.domain.choice import Choice
from vitascope.domain.errors import InvalidParameter, RequestError
from vitascope.domain.job import Job
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.once import Once
from vitascope.domain.request import num_frames_for
from vitascope.service import Content, OfJob, Sent, Service

from . import schema
from .create import Order, prepare, to_order
from .derived_schema import EDIT, EDIT_STRENGTH, EXTEND, REMIX, REMIX_STRENGTH
from .pictures import named
from .shapes import asked_seconds
from .superset import unfolded
from .video import PREFIX, job_id_of, video_response

LENGTHS = ("seconds", "duration", "num_frames")

#: What is the source's where the client says nothing, if the model is the same.
INHERITED = ("num_inference_steps", "guidance_scale", "scheduler", "flow_shift")

LEAST_STEPS = 2
"""Of one step, none would run at the strengths of remixes and edits: they take two of a source of one step."""

Arrange = Callable[[Order, Service, Content], None]
"""Puts the source into an order."""


def add_to(router: APIRouter) -> None:
    """Add the routes; before those with an id in the same place."""
    found = {200: {"model": schema.Video}, **schema.ERRORS}
    add = router.add_api_route
    add("/videos/edits", edit, methods=["POST"], responses=found, openapi_extra=EDIT)
    add("/videos/extensions", extend, methods=["POST"], responses=found, openapi_extra=EXTEND)
    add("/videos/{video_id}/remix", remix, methods=["POST"], responses=found, openapi_extra=REMIX)


async def remix(video_id: str, request: Request) -> Response:
    """Make a video of another prompt from a finished one: its frames are where the making begins."""
    content = OfJob(job_id_of(video_id))
    try:
        body = await _read(request)
    except RequestError:  # whoever asks of another's video is told nothing else but that there is none
        desk = _http.desk_of(request)
        await desk.find(_http.caller_of(request), content.job_id)
        raise
    return await _answer(request, body, content, _remixed)


async def edit(request: Request) -> Response:
    """Change a video, a finished one or one that is sent: it keeps its shapes and movements."""
    body = await _read(request)
    fields = body.fields
    name, content = await _http.in_thread_if_large(fields.num_bytes, lambda: _video_of(fields))

    def arrange(order: Order, service: Service, source: Content) -> None:
        order.names["video"] = name
        spec, _ = service.spec_of_vendor(order.request.model)
        _set_strength(order, spec, EDIT_STRENGTH, "an edit")
        order.sent = dataclasses.replace(order.sent, video=source)

    return await _answer(request, body, content, arrange, ("video",))


async def extend(request: Request) -> Response:
    """Continue a video, a finished one or one that is sent, from its last frames; the file begins with all of it."""
    body = await _read(request)
    fields = body.fields
    source_name, content = await _http.in_thread_if_large(fields.num_bytes, lambda: _video_of(fields))
    if fields.integer("num_frames") is not None:
        raise InvalidParameter("num_frames", "given", "an extension's length is said by `seconds`")

    def arrange(order: Order, _service: Service, source: Content) -> None:
        name, seconds = asked_seconds(order, fields)
        if seconds is None:
            raise InvalidParameter(name, "missing", "it must say how many seconds are added")
        order.change(num_frames=None, added_seconds=seconds)
        order.names.update(continues=source_name, num_frames=name, added_seconds=name)
        order.values[name] = fields.raw(name)
        order.sent = dataclasses.replace(order.sent, continues=source)

    return await _answer(request, body, content, arrange, ("video", *LENGTHS))


@dataclass(frozen=True, slots=True)
class _Body:
    """A decoded body without containers, and what was decided when they were emptied."""

    fields: _http.Fields
    choices: list[Choice]


async def _read(request: Request) -> _Body:
    fields = await _http.read_body(request, _http.desk_of(request).max_body_bytes)
    # a container of 24 MB held the event loop for 3.4 s
    return _Body(*await _http.in_thread_if_large(fields.num_bytes, lambda: unfolded(fields)))


async def _answer(
    request: Request, body: _Body, content: Content, arrange: Arrange, own: tuple[str, ...] = ()
) -> Response:
    """Make a job.

    Args:
        request: of the client.
        body: of the request.
        content: what it is made from.
        arrange: puts that into the order.
        own: fields that mean something else than when a video is created; the route reads them itself.
    """
    desk, caller, fields = _http.desk_of(request), _http.caller_of(request), body.fields
    once = await _http.once_of(request, fields)
    await desk.admit(request, once)
    first = await _made_before(desk, once, caller)
    if first is not None:
        return await video_response(request, first)
    source = await desk.find(caller, content.job_id) if isinstance(content, OfJob) else None
    kept = (await desk.with_kept(caller, Sent(video=content))).video
    assert kept is not None
    wanted = _wanted(fields, own, source)
    order = await _http.in_thread_if_large(
        fields.num_bytes, lambda: to_order(wanted, desk.service.spec_of_vendor)
    )
    order.choices[:0] = body.choices
    if order.sent.video is not None:
        raise InvalidParameter(order.names["video"], "given", "the video to start from is said already")
    _take_from(source, order)
    arrange(order, desk.service, kept)
    try:
        draft = prepare(desk.service, order, caller)
        job = await desk.submit(caller, draft, once, base_url=_http.base_url_of(request))
    except InvalidParameter as error:
        raise _in_clients_words(order, error) from None
    return await video_response(request, job)


def _wanted(fields: _http.Fields, without: tuple[str, ...], source: Job | None) -> _http.Fields:
    """Return the fields that mean the same as when a video is created, with the source's model and rate below them."""
    values = {name: value for name, value in fields.values().items() if name not in without and value != ""}
    if source is not None:  # lengths are counted at that rate
        values = {"model": source.request.model, "fps": source.plan.fps, **values}
    return _http.Fields(values, fields.num_bytes)


async def _made_before(desk: _http.Desk, once: Once, caller: Caller) -> Job | None:
    """Look for the job of a repetition before its source is looked for, which may have gone since."""
    if once.name is None and not once.is_retry:
        return None
    return await desk.write(desk.service.jobs.made_before, once, caller)


def _take_from(source: Job | None, order: Order) -> None:
    """Fill in what the client has not said; of a video that was sent, size and length are found when it is read."""
    has_length, order.is_length_given = order.is_length_given, True
    if source is None:
        if not has_length:
            order.change(num_frames=None)
        return
    plan, asked = source.plan, order.request
    if not has_length:
        seconds = plan.duration_seconds
        fps = max(1, asked.fps or plan.fps)
        order.change(num_frames=plan.num_frames if fps == plan.fps else num_frames_for(seconds, fps))
        order.values[order.names.get("num_frames", "num_frames")] = f"{seconds:g}"
    if asked.height is None and asked.width is None:
        order.change(height=plan.height, width=plan.width)
        order.values["size"] = f"{plan.width}x{plan.height}"
        order.names.update(width="size", height="size")
    if asked.model in (plan.model, source.request.model):
        given = source.request
        order.inherited = frozenset(name for name in INHERITED if getattr(asked, name) is None)
        order.change(**{name: getattr(given, name) for name in order.inherited})
        if "loras" not in order.names:
            order.change(loras=given.loras)
        if not asked.negative_prompt:
            order.change(negative_prompt=given.negative_prompt)


def _remixed(order: Order, service: Service, source: Content) -> None:
    """Change the source, or where the model cannot, begin with its first frame."""
    spec, _ = service.spec_of_vendor(order.request.model)
    if "video" in spec.pipelines:
        _set_strength(order, spec, REMIX_STRENGTH, "a remix")
        order.sent = dataclasses.replace(order.sent, video=source)
        return
    if "image" not in spec.pipelines:
        rule = f"model `{spec.id}` neither changes videos nor starts from a picture, and so makes no remixes"
        raise InvalidParameter("model", order.request.model, rule, hint="choose another model")
    if order.sent.image is not None:
        raise InvalidParameter(order.names["image"], "given", "the remix begins with a frame of its source", hint="leave it out")  # fmt: skip
    reason = f"model `{spec.id}` changes no videos: the remix begins with the first frame of its source"
    order.tell("remix", "first frame", reason)
    order.sent = dataclasses.replace(order.sent, image=source)


def _set_strength(order: Order, spec: ModelSpec, strength: float, what: str) -> None:
    """Say how much is changed where the client does not: what the model takes, and enough for one step."""
    if "num_inference_steps" in order.inherited and order.request.num_inference_steps == 1:
        order.change(num_inference_steps=LEAST_STEPS)
        order.tell("num_inference_steps", LEAST_STEPS, "the source's one step cannot be run in part")
    if order.request.strength is not None:
        return
    steps = max(1, order.request.num_inference_steps or int(spec.num_inference_steps.default))
    # the only one of one step would leave nothing of the source: the plan refuses that
    one_step = math.ceil(1000 / steps) / 1000 if steps > 1 else 0.0
    strength = min(max(strength, one_step, spec.strength.minimum), spec.strength.maximum)
    reason = f"{what} changes so much of its source where `strength` does not say it"
    order.change(strength=strength)
    order.tell("strength", f"{strength:g}", reason)


def _in_clients_words(order: Order, error: InvalidParameter) -> InvalidParameter:
    if error.parameter == "added_seconds":  # counted in the client's own unit, not in frames
        name = order.names["added_seconds"]
        return InvalidParameter(name, order.values[name], error.rule, nearest=error.nearest)
    return order.in_clients_words(error)


def _video_of(fields: _http.Fields) -> tuple[str, Content]:
    """Read what is to be changed or continued, with the client's name of it: a file, its URL or id, or a video by its id."""
    value = fields.raw("video")
    if isinstance(value, str) and value.lstrip()[:1] == "{":
        value = fields.mapping("video")
    if isinstance(value, str) and value.startswith(PREFIX):
        return "video", OfJob(job_id_of(value))
    if isinstance(value, dict):
        others = [name for name in ("file_id", "video_url") if value.get(name)]
        if not others:
            return "video", _by_id(value)
        if value.get("id"):
            rule = "it must not be given beside `video[id]`"
            raise InvalidParameter(f"video[{others[0]}]", "given", rule)
    name, content = named("video", value, "video_url")
    if content is None:
        raise InvalidParameter("video", "missing", "it must be a video file, or the id of a video")
    return name, content


def _by_id(value: dict[str, Any]) -> OfJob:
    video_id = value.get("id")
    if not isinstance(video_id, str) or not video_id:
        raise InvalidParameter("video[id]", _http.shown(video_id), "it must be the id of a video")
    try:
        index = _http.Fields(value).integer("index") or 0
    except InvalidParameter as error:
        raise InvalidParameter("video[index]", error.value, error.rule) from None
    return OfJob(job_id_of(video_id), index)
