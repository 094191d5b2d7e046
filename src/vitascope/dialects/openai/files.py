"""`/v1/files`: what is uploaded once and named by its id later, as `file_id` of a request or as the input of a batch."""

from __future__ import annotations

import re
from typing import Any, Literal

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vitascope.dialects import _http
from vitascope.domain.errors import InvalidParameter
from vitascope.domain.file import (
    BATCH_OUTPUT,
    MAX_FILE_SECONDS,
    MIN_FILE_SECONDS,
    UPLOAD_PURPOSES,
    File,
    FilePage,
)
from vitascope.service import Upload

from . import schema
from .file_ids import PREFIX, named_file
from .video import envelope

MAX_LISTED = 10_000
"""Of one page, which is also what a list without a limit has: as the vendor says."""

_FOLDERS = re.compile(r".*[/\\]", re.DOTALL)


class FileObject(_http.Described):
    """A file, without what is in it."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"]
    status_details: None


class FileList(_http.Described):
    """Some files, by age."""

    object: Literal["list"]
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(_http.Described):
    """A file that is gone."""

    id: str
    object: Literal["file"]
    deleted: bool


def add_routes(router: APIRouter) -> None:
    add, errors = router.add_api_route, schema.ERRORS
    one = "/files/{file_id}"
    shown = {200: {"model": FileObject}, **errors}
    add("/files", upload, methods=["POST"], responses=shown, openapi_extra=_UPLOAD)
    add("/files", page, responses={200: {"model": FileList}, **errors}, openapi_extra=_LIST)
    add(one, retrieve, responses=shown)
    add(one, delete, methods=["DELETE"], responses={200: {"model": FileDeleted}, **errors})
    add(f"{one}/content", content, response_class=Response, responses=_CONTENT)
    add(f"{one}/content", content, methods=["HEAD"], include_in_schema=False)


async def upload(request: Request) -> Response:
    """Keep a file. It is looked at when a request names it, not before."""
    desk, caller = _http.desk_of(request), _http.caller_of(request)
    fields = await _http.read_body(request, desk.max_body_bytes)
    fields.check_names(_FIELDS)
    data = fields.raw("file")
    if not isinstance(data, _http.Upload):
        value = "missing or empty" if data is None else _http.shown(data)
        raise InvalidParameter("file", value, "it must be a file in a multipart/form-data body")
    purpose = fields.text("purpose")
    if purpose is None:
        raise InvalidParameter("purpose", "missing", f"it must be one of {', '.join(UPLOAD_PURPOSES)}")
    seconds = expires_seconds(fields, "expires_after")
    name = _FOLDERS.sub("", data.name)

    def prepare() -> Upload:
        return desk.service.files.prepare(data, name, purpose, caller, seconds)

    return JSONResponse(file_object(await desk.keep_file(caller, prepare)))


async def page(request: Request) -> Response:
    """List files, of one purpose or all."""
    desk = _http.desk_of(request)
    query = _http.Fields(dict(request.query_params))
    limit, order = _http.limit_and_order(query, min_limit=1, max_limit=MAX_LISTED, default=MAX_LISTED)
    after, purpose = query.text("after"), query.text("purpose")
    own = None if after is None else named_file(after, "after").id
    list_files, caller = desk.service.files.page, _http.caller_of(request)
    try:
        found = await desk.read_much(list_files, caller, after=own, limit=limit, order=order, purpose=purpose)
    except InvalidParameter as error:
        raise InvalidParameter("after", after, error.rule) from None
    return await _http.in_thread_if_large(len(found.files) * 1000, lambda: _listed(found))


def _listed(found: FilePage) -> Response:
    data = [file_object(file) for file in found.files]
    ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    return JSONResponse({"object": "list", "data": data, **ends, "has_more": found.has_more})


async def retrieve(file_id: str, request: Request) -> Response:
    """Show what is known of a file."""
    return JSONResponse(file_object(await _file(request, file_id)))


async def delete(file_id: str, request: Request) -> Response:
    """Delete a file. Videos that were made with it, and batches that have begun, keep what they have of it."""
    await _http.desk_of(request).delete_file(_http.caller_of(request), _id(file_id))
    return JSONResponse({"id": file_id, "object": "file", "deleted": True})


async def content(file_id: str, request: Request) -> Response:
    """Download a file; understands Range, If-Range and HEAD."""
    file = await _file(request, file_id)
    stored = await _http.desk_of(request).open_file(file)
    return _http.VideoFile(stored, file_id, refuse_range)


def file_object(file: File) -> dict[str, Any]:
    """Show a file as the vendor does."""
    return {
        "id": PREFIX + file.id,
        "object": "file",
        "bytes": file.num_bytes,
        "created_at": int(file.created_at.timestamp()),
        "expires_at": None if file.expires_at is None else int(file.expires_at.timestamp()),
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def expires_seconds(fields: _http.Fields, name: str) -> int | None:
    """Read how long a file shall be kept: `{"anchor": "created_at", "seconds": …}`."""
    given = _http.Fields(fields.mapping(name))
    if not given.values():
        return None
    try:
        return _seconds_of(given)
    except InvalidParameter as error:
        raise InvalidParameter(f"{name}[{error.parameter}]", error.value, error.rule) from None


def _seconds_of(given: _http.Fields) -> int:
    given.check_names(("anchor", "seconds"))
    anchor, seconds = given.text("anchor"), given.integer("seconds")
    if anchor != "created_at":
        raise InvalidParameter("anchor", anchor or "missing", "it must be created_at")
    if seconds is None:
        raise InvalidParameter("seconds", "missing", "it must be a whole number")
    return seconds


def refuse_range(status: int) -> Response:
    """Answer a Range header that cannot be followed."""
    if status == 416:
        return envelope(416, "The file is shorter than the range that was asked for.", code="invalid_range")
    return envelope(400, "The Range header cannot be read.", code="invalid_range")


async def _file(request: Request, file_id: str) -> File:
    desk = _http.desk_of(request)
    return await desk.read(desk.service.files.get, _id(file_id), _http.caller_of(request))


def _id(file_id: str) -> str:
    return named_file(file_id, "file_id").id


_FIELDS: dict[str, dict[str, Any]] = {
    "file": {
        "type": "string",
        "format": "binary",
        "description": "Of at most `server.max_body_bytes` with the rest of the form.",
    },
    "purpose": {
        "type": "string",
        "enum": list(UPLOAD_PURPOSES),
        "description": "What it is for. Any but `batch` may be named in requests for videos; it changes nothing.",
    },
    "expires_after": {
        "type": "object",
        "properties": {
            "anchor": {"type": "string", "enum": ["created_at"]},
            "seconds": {"type": "integer", "minimum": MIN_FILE_SECONDS, "maximum": MAX_FILE_SECONDS},
        },
        "required": ["anchor", "seconds"],
        "description": "By default files of batches are kept for 30 days, all others until they are deleted.",
    },
}
_UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "required": ["file", "purpose"], "properties": _FIELDS}
            }
        },
    }
}
_LIST: dict[str, Any] = {
    "parameters": [
        schema.LIST["parameters"][0] | {"description": "Id of the last file seen."},
        {
            "name": "limit",
            "in": "query",
            "schema": {"type": "integer", "minimum": 1, "maximum": MAX_LISTED, "default": MAX_LISTED},
        },
        schema.LIST["parameters"][2],
        {
            "name": "purpose",
            "in": "query",
            "schema": {"type": "string"},
            "description": f"Only files of this purpose; what batches write has `{BATCH_OUTPUT}`.",
        },
    ]
}
_binary = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_CONTENT: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file.", "content": _binary},
    206: {"description": "The ranges that were asked for.", "content": _binary},
    302: schema.CONTENT_RESPONSES[302],
    304: schema.CONTENT_RESPONSES[304],
    **schema.ERRORS,
}
