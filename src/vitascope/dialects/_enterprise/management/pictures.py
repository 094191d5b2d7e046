"""Pictures that clients keep here to name them later, and the check of pictures."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from vitascope.dialects import _http
from vitascope.domain.errors import InvalidParameter

from .calls import TEXT, Call, done

KINDS = {"png": "png", "jpeg": "jpeg", "jpg": "jpeg"}

PICTURE = "base64_image"
CHECKED = "init_image"


async def upload_image(request: Request, fields: _http.Fields) -> dict[str, Any]:
    """Keep a picture, for as long as its link is good: anyone who has the link can read it, and calls that take a picture take the link."""
    kind = (fields.text("image_type") or "").strip().lower().removeprefix("image/")
    if kind not in KINDS:
        value = kind or "missing"
        raise InvalidParameter("image_type", value, f"it must be one of {', '.join(KINDS)}")
    data = await _data_of(fields, PICTURE)
    if not isinstance(data, bytes):
        raise InvalidParameter(PICTURE, data or "missing", "it must be a picture as base64")
    return done("image uploaded", image_url=await _kept(request, PICTURE, data, KINDS[kind], kind))


async def nsfw_image_check(request: Request, fields: _http.Fields) -> dict[str, Any]:
    """Tell whether a picture (its URL, or base64) shows nakedness or sex."""
    desk = _http.desk_of(request)
    desk.service.pictures.check_detector()
    content = await _data_of(fields, CHECKED)
    if content is None:
        raise InvalidParameter(CHECKED, "missing", "it must be a picture's URL, or a picture as base64")
    data = await desk.service.pictures.fetched(CHECKED, content)
    is_unsafe = await desk.is_unsafe(CHECKED, data)
    # what came as base64 has no address, and is not kept for one
    return {"images": content if isinstance(content, str) else None, "has_nsfw_concept": [is_unsafe]}


async def _data_of(fields: _http.Fields, name: str) -> bytes | str | None:
    return await _http.in_thread_if_large(fields.num_bytes, lambda: _http.picture_of(name, fields.raw(name)))


async def _kept(request: Request, name: str, data: bytes, kind: str, suffix: str) -> str:
    desk, caller = _http.desk_of(request), _http.caller_of(request)
    service = desk.service
    file = await desk.keep_file(caller, lambda: service.pictures.prepare(name, data, kind, caller))
    base_url = service.links.base_url or _http.base_url_of(request)
    return service.results.link_for_file(file, base_url, suffix).url


_URL = "https://videos.example.com/files/01….0f.1790000000.….png"

CALLS = (
    Call(
        "upload_image",
        upload_image,
        done("image uploaded", image_url=_URL),
        {PICTURE: TEXT, "image_type": {"type": "string", "enum": list(KINDS)}},
        (PICTURE, "image_type"),
    ),
    Call(
        "nsfw_image_check",
        nsfw_image_check,
        {"images": None, "has_nsfw_concept": [False]},
        {CHECKED: TEXT},
        (CHECKED,),
    ),
)
