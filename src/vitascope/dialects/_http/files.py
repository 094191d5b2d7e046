"""Video files as answers: ranges, validators, HEAD."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import FileResponse, Response
from starlette.types import Message, Receive, Scope, Send

from vitascope.domain.video import Video


class VideoFile(FileResponse):
    """A file with ranges (206, 416), an ETag of its content, If-Range and HEAD.

    Args:
        path: where it is.
        video: what it is.
        name: what a browser shall call it.
        refuse: makes the answer to a Range header that cannot be followed, in the dialect's form.
    """

    def __init__(self, path: Path, video: Video, name: str, refuse: Callable[[int], Response]) -> None:
        headers = {"etag": f'"{video.sha256}"', "cache-control": "private, max-age=86400"}
        super().__init__(path, headers=headers, media_type=video.media_type, filename=name)
        self._refuse = refuse
        self._etag = headers["etag"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file; where Starlette would refuse in plain text, refuse in the dialect's words."""
        known = [
            tag.strip().removeprefix("W/") for tag in Headers(scope=scope).get("if-none-match", "").split(",")
        ]
        if self._etag in known or "*" in known:
            headers = {name: self.headers[name] for name in ("etag", "cache-control")}
            await Response(status_code=304, headers=headers)(scope, receive, send)
            return
        refusal: Response | None = None

        async def send_or_refuse(message: Message) -> None:
            nonlocal refusal
            if message["type"] == "http.response.start" and message["status"] >= 400:
                refusal = self._refuse(message["status"])
                kept = [(name, value) for name, value in message["headers"] if name == b"content-range"]
                refusal.raw_headers.extend(kept)
            elif refusal is None:
                await send(message)

        await super().__call__(scope, receive, send_or_refuse)
        if refusal is not None:
            await refusal(scope, receive, send)
