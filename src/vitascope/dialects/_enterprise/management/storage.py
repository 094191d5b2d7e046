"""Where new videos go: the client's own bucket, or what the settings of the server say.

The vendor's details name no bucket. Its endpoint does: in its path (`https://host/BUCKET`), or in its host name, as the vendor's own example
has it (`https://BUCKET.s3.amazonaws.com`). Where it does not, the directory's first name is the bucket, as in the vendor's example for Google.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from starlette.requests import Request

from vitascope.dialects import _http
from vitascope.domain.bucket import Bucket
from vitascope.domain.errors import InvalidParameter

from .calls import TEXT, Call, done

MAX_CHARS = 1000

DEPLOY_TYPE = "video"
"""The one kind of server that this is."""

#: In their names for ours.
_NAMES = {
    "endpoint": "endpoint_url",
    "bucket": "bucket_name",
    "prefix": "image_directory",
    "region": "region_name",
    "access_key_id": "aws_access_key_id",
    "secret_access_key": "aws_secret_access_key",
}

#: Hosts of storages that have each bucket under a name of its own, and under their own name with the bucket in the path, too.
_HOSTED = re.compile(
    r"(?:(?P<bucket>[a-z0-9][a-z0-9.-]*)\.)?"
    r"(?P<host>"
    r"s3(?:[.-][a-z0-9-]+)*\.amazonaws\.com(?:\.cn)?"
    r"|[a-z0-9-]+\.digitaloceanspaces\.com"
    r"|storage\.googleapis\.com"
    r"|s3\.[a-z0-9-]+\.backblazeb2\.com"
    r"|s3(?:\.[a-z0-9-]+)?\.wasabisys\.com"
    r"|[0-9a-f]{32}(?:\.[a-z]+)?\.r2\.cloudflarestorage\.com"
    r")"
)
_AWS = "s3.amazonaws.com"
"""Sends on to a bucket's region, which is not followed."""

#: Hosts of one that has buckets only so.
_HOSTED_ONLY = re.compile(r"(?P<bucket>[a-z0-9][a-z0-9-]*)\.oss-[a-z0-9-]+\.aliyuncs\.com")


class Place(NamedTuple):
    """Where videos go."""

    endpoint: str
    bucket: str
    #: Folder in the bucket.
    prefix: str
    path_style: bool = True


async def update_s3(request: Request, fields: _http.Fields) -> dict[str, Any]:
    """Let new videos go to a bucket from now on. The details are tried with a file of its own before they are accepted; older videos stay where they are."""
    desk = _http.desk_of(request)
    bucket = _bucket_of(fields)
    deploy_type = fields.text("deploy_type", max_chars=MAX_CHARS)
    try:
        await desk.service.buckets.check_address(bucket)
        used = await asyncio.to_thread(desk.service.buckets.use, bucket)
    except InvalidParameter as error:
        name = _NAMES.get(error.parameter, error.parameter)
        raise InvalidParameter(
            name, error.value, error.rule, nearest=error.nearest, hint=error.hint
        ) from None
    folder = "/".join(filter(None, (used.prefix, used.id)))
    tips = [f"new videos go to `{folder}/` in the bucket `{used.bucket}`"]
    if used.public_url is None:
        tips.append("without `public_url` they are linked to through this server")
    elif (reason := await desk.service.buckets.why_not_public(used)) is not None:
        tips.append(f"this server could not read a file of it at `public_url`: {reason}")
    return done("S3 details updated successfully", tip="; ".join(tips + _of_type(deploy_type)))


async def reset_s3(request: Request, fields: _http.Fields) -> dict[str, Any]:
    """Let new videos go where the server's settings say. Videos that are in a bucket stay there, and are served."""
    desk = _http.desk_of(request)
    deploy_type = fields.text("deploy_type", max_chars=MAX_CHARS)
    is_change = await desk.write(desk.service.buckets.reset)
    tips = [] if is_change else ["no bucket was named"]
    tip = "; ".join(tips + _of_type(deploy_type))
    return done("S3 details reset successfully", **({"tip": tip} if tip else {}))


def _of_type(deploy_type: str | None) -> list[str]:
    return [] if deploy_type in (None, "", DEPLOY_TYPE) else ["this server makes videos only"]


def _bucket_of(fields: _http.Fields) -> Bucket:
    region = _needed(fields, "region_name").lower()  # Google's are written in capitals
    place = place_of(
        _needed(fields, "endpoint_url"),
        region,
        _text(fields, "image_directory"),
        _text(fields, fields.first("bucket_name", "bucket")),
    )
    return Bucket(
        id="",
        bucket=place.bucket,
        prefix=place.prefix,
        endpoint=place.endpoint,
        region=region,
        path_style=place.path_style,
        access_key_id=_credential(fields, "aws_access_key_id"),
        secret_access_key=_credential(fields, "aws_secret_access_key"),
        public_url=_text(fields, "public_url") or None,
    )


def place_of(url: str, region: str, directory: str, bucket: str = "") -> Place:
    """Find out which bucket is meant.

    Args:
        url: the endpoint, which may name the bucket, and folders in it.
        region: where one endpoint is that of all regions.
        directory: folder in the bucket; or the bucket, and a folder in it, where nothing else names one.
        bucket: its name, where it is given.

    Raises:
        InvalidParameter: the URL is none, or nothing names a bucket.
    """
    try:
        parts = urlsplit(url if "://" in url else f"https://{url}")
    except ValueError:
        raise InvalidParameter("endpoint_url", url, "it must be a URL such as https://host/BUCKET") from None
    host, path, directory = parts.netloc.lower(), parts.path.strip("/"), directory.strip("/")
    if bucket:
        return Place(f"{parts.scheme}://{host}{f'/{path}' if path else ''}", bucket, directory)
    if (own := _HOSTED_ONLY.fullmatch(host)) is not None:
        return Place(f"{parts.scheme}://{host}", own["bucket"], _joined(path, directory), path_style=False)
    known = _HOSTED.fullmatch(host)
    if known is not None:
        bucket, host = known["bucket"] or "", known["host"]
    if not bucket and path:
        bucket, _, path = path.partition("/")
    if not bucket:
        bucket, _, directory = directory.partition("/")
    if not bucket:
        rule = "the bucket is named in `endpoint_url`, as in https://host/BUCKET, or here"
        raise InvalidParameter("bucket_name", "missing", rule)
    if host == _AWS:
        host = f"s3.{region}.amazonaws.com"
    return Place(f"{parts.scheme}://{host}", bucket, _joined(path, directory))


def _joined(*folders: str) -> str:
    return "/".join(filter(None, folders))


def _text(fields: _http.Fields, name: str) -> str:
    return (fields.text(name, max_chars=MAX_CHARS) or "").strip()


def _needed(fields: _http.Fields, name: str) -> str:
    if not (value := _text(fields, name)):
        raise InvalidParameter(name, "missing", "it is needed")
    return value


def _credential(fields: _http.Fields, name: str) -> str:
    """Read what no message may show, whatever it is."""
    value = fields.raw(name)
    if value is None or value == "":
        raise InvalidParameter(name, "missing", "it is needed")
    if not isinstance(value, str) or len(value) > MAX_CHARS:
        raise InvalidParameter(name, "given", f"it must be text of at most {MAX_CHARS} characters")
    return value.strip()


_FIELDS = {
    "deploy_type": TEXT,
    "public_url": {**TEXT, "description": "Where anyone can read the bucket, or the directory in it."},
    "region_name": TEXT,
    "endpoint_url": {
        **TEXT,
        "description": "Of the object storage; with the bucket in its path or host name.",
    },
    "bucket_name": {**TEXT, "description": "Ours: the bucket, where the endpoint does not name it."},
    "aws_access_key_id": TEXT,
    "aws_secret_access_key": {**TEXT, "format": "password"},
    "image_directory": {**TEXT, "description": "Folder in the bucket."},
}

CALLS = (
    Call(
        "update_s3",
        update_s3,
        done(
            "S3 details updated successfully", tip="new videos go to `generations/…/` in the bucket `videos`"
        ),
        fields=_FIELDS,
        required=("region_name", "endpoint_url", "aws_access_key_id", "aws_secret_access_key"),
        aliases=("update_s3_details",),
    ),
    Call(
        "reset_s3",
        reset_s3,
        done("S3 details reset successfully"),
        fields={"deploy_type": TEXT},
        aliases=("reset_s3_details",),
    ),
)
