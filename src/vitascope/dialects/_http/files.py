"""Video files as answers: ranges, validators, HEAD. The same wherever the file is."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from email.utils import format_datetime

from starlette.datastructures import Headers
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from vitascope.domain.errors import InvalidParameter
from vitascope.domain.video import VARIANTS, Variant
from vitascope.service import StoredVideo

from . import ranges
from .fields import Fields

MAX_AGE_SECONDS = 86_400
"""A file never changes, but it may be deleted."""


def file_asked(query: Fields) -> tuple[int, Variant]:
    """Read which of a job's files is asked for: `index` counts its videos, `variant` names the video or a picture of it.

    Raises:
        InvalidParameter: there can be no such file.
    """
    variant = query.text("variant") or "video"
    if variant not in VARIANTS:
        rule = f"it must be one of {', '.join(VARIANTS)}"
        raise InvalidParameter("variant", variant, rule, nearest="video")
    return query.integer("index") or 0, variant


class VideoFile(Response):
    """A file with ranges (206, 416), an ETag of its content, If-Range, If-None-Match and HEAD; or the way to it (302). Whole after a POST.

    Args:
        stored: what it is and how it is read.
        name: what a browser shall call it.
        refuse: makes the answer to a Range header that cannot be followed, in the dialect's form, from its status.
    """

    def __init__(self, stored: StoredVideo, name: str, refuse: Callable[[int], Response]) -> None:
        super().__init__(
            headers={
                "etag": f'"{stored.sha256}"',
                "last-modified": format_datetime(stored.written_at.replace(microsecond=0), usegmt=True),
                "accept-ranges": "bytes",
                "cache-control": f"private, max-age={min(MAX_AGE_SECONDS, stored.seconds_left or MAX_AGE_SECONDS)}",
                "content-disposition": f'attachment; filename="{name}"',
                "content-length": str(stored.num_bytes),
            },
            media_type=stored.media_type,
        )
        self._stored = stored
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = Headers(scope=scope)
        if scope["method"] not in (
            "GET",
            "HEAD",
        ):  # ranges and conditions are for those alone: RFC 9110, 13.1.2 and 14.2
            await self._whole()(scope, receive, send)
            return
        answer = self._unchanged(asked) or self._elsewhere(scope["method"])
        if answer is None:
            answer = self._part(asked) if self._asks_for_part(asked) else self._whole()
        if scope["method"] == "HEAD" and isinstance(answer, StreamingResponse):
            answer = _headers_of(answer)
        await answer(scope, receive, send)

    def _unchanged(self, asked: Headers) -> Response | None:
        known = [tag.strip().removeprefix("W/") for tag in asked.get("if-none-match", "").split(",")]
        if self.headers["etag"] not in known and "*" not in known:
            return None
        headers = {name: self.headers[name] for name in ("etag", "cache-control")}
        return Response(status_code=304, headers=headers)

    def _elsewhere(self, method: str) -> Response | None:
        """Send a client to the storage itself; its address is good for GET only, and for a while."""
        if self._stored.url is None or method != "GET":
            return None
        return Response(
            status_code=302, headers={"location": self._stored.url, "cache-control": "private, no-store"}
        )

    def _asks_for_part(self, asked: Headers) -> bool:
        if "range" not in asked:
            return False
        condition = asked.get("if-range")
        return condition is None or condition in (self.headers["etag"], self.headers["last-modified"])

    def _whole(self) -> Response:
        return self._streamed(self._stored.read(0, self._stored.num_bytes), 200, {})

    def _part(self, asked: Headers) -> Response:
        size = self._stored.num_bytes
        try:
            wanted = ranges.wanted(asked["range"], size)
        except ranges.MalformedRange:
            return self._refuse(400)
        except ranges.NoSuchRange:
            refusal = self._refuse(416)
            refusal.headers["content-range"] = f"bytes */{size}"
            return refusal
        if not wanted:
            return self._whole()
        if len(wanted) > 1:
            return self._parts(wanted)
        ((start, end),) = wanted
        changed = {"content-range": f"bytes {start}-{end - 1}/{size}", "content-length": str(end - start)}
        return self._streamed(self._stored.read(start, end), 206, changed)

    def _parts(self, wanted: list[tuple[int, int]]) -> Response:
        boundary = secrets.token_hex(13)
        kind, size = self.headers["content-type"], self._stored.num_bytes
        heads = [
            f"--{boundary}\r\nContent-Type: {kind}\r\nContent-Range: bytes {start}-{end - 1}/{size}\r\n\r\n".encode()
            for start, end in wanted
        ]
        tail = f"--{boundary}--".encode()

        def body() -> Iterator[bytes]:
            for head, (start, end) in zip(heads, wanted, strict=True):
                yield head
                yield from self._stored.read(start, end)
                yield b"\r\n"
            yield tail

        total = sum(
            len(head) + end - start + 2 for head, (start, end) in zip(heads, wanted, strict=True)
        ) + len(tail)
        changed = {"content-type": f"multipart/byteranges; boundary={boundary}", "content-length": str(total)}
        return self._streamed(body(), 206, changed)

    def _streamed(self, body: Iterator[bytes], status: int, changed: dict[str, str]) -> StreamingResponse:
        """Send pieces as the client takes them; each is read in a thread."""
        return StreamingResponse(body, status_code=status, headers={**dict(self.headers), **changed})


def _headers_of(answer: StreamingResponse) -> Response:
    return Response(status_code=answer.status_code, headers=dict(answer.headers))
