"""/api/v1/storage: where new videos go, for operators. The settings say it, until a bucket is named here."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vitascope.dialects import _http
from vitascope.domain.access import Scope
from vitascope.domain.bucket import Bucket
from vitascope.domain.errors import InvalidParameter

from . import schema
from .answers import error_response

SHOWN = ("bucket", "prefix", "endpoint", "region", "path_style", "access_key_id", "public_url")
SECRET = "secret_access_key"
MAX_CHARS = 1000


def router() -> APIRouter:
    """Make the routes."""
    admin = _http.route_class(error_response, scope=Scope.ADMIN)
    made = APIRouter(prefix="/api/v1", tags=["Operators"], route_class=admin)
    answers = {200: {"model": schema.VideoStorage}, **schema.ERRORS}
    add = made.add_api_route
    add("/storage", show, responses=answers)
    add("/storage", use, methods=["POST"], responses=answers, openapi_extra=schema.USE_BUCKET)
    add("/storage", reset, methods=["DELETE"], responses=answers)
    return made


async def show(request: Request) -> Response:
    """Show where new videos go."""
    desk = _http.desk_of(request)
    return _answer(await desk.read(lambda: desk.service.buckets.in_use))


async def use(request: Request) -> Response:
    """Let new videos go to a bucket from now on, once a file was written, read and deleted there; older videos stay where they are."""
    desk = _http.desk_of(request)
    fields = await _http.read_body(request, desk.max_body_bytes)
    fields.check_names((*SHOWN, SECRET))
    bucket = _bucket_of(fields)
    buckets = desk.service.buckets
    await buckets.check_address(bucket)
    used = await asyncio.to_thread(buckets.use, bucket)
    return _answer(used, warning=await buckets.why_not_public(used))


async def reset(request: Request) -> Response:
    """Let new videos go where the settings say. What is in a bucket stays there, and is served."""
    desk = _http.desk_of(request)
    await desk.write(desk.service.buckets.reset)
    return _answer(None)


def _answer(bucket: Bucket | None, warning: str | None = None) -> Response:
    shown: dict[str, Any] | None = None
    if bucket is not None:
        shown = {**{name: getattr(bucket, name) for name in SHOWN}, "folder": bucket.id}
    said = None if warning is None else f"this server could not read a file of it at `public_url`: {warning}"
    return JSONResponse({"is_by_settings": bucket is None, "bucket": shown, "warning": said})


def _bucket_of(fields: _http.Fields) -> Bucket:
    region = _text(fields, "region") or "us-east-1"
    path_style = fields.boolean("path_style")
    return Bucket(
        id="",
        bucket=_text(fields, "bucket"),
        prefix=_text(fields, "prefix").strip("/"),
        endpoint=_text(fields, "endpoint").rstrip("/") or f"https://s3.{region}.amazonaws.com",
        region=region,
        path_style=True if path_style is None else path_style,
        access_key_id=_credential(fields, "access_key_id"),
        secret_access_key=_credential(fields, SECRET),
        public_url=_text(fields, "public_url") or None,
    )


def _text(fields: _http.Fields, name: str) -> str:
    return (fields.text(name, max_chars=MAX_CHARS) or "").strip()


def _credential(fields: _http.Fields, name: str) -> str:
    """Read what no message may show, whatever it is."""
    value = fields.raw(name)
    if value is None:
        raise InvalidParameter(name, "missing", "it is needed")
    if not isinstance(value, str) or len(value) > MAX_CHARS:
        raise InvalidParameter(name, "given", f"it must be text of at most {MAX_CHARS} characters")
    return value
