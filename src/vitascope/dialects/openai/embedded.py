"""JSON answers that hold whole files as base64, sent while they are read: however long a video is, it is never in memory."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator
from typing import Any

from starlette.responses import StreamingResponse

from vitascope.service import StoredVideo


class JSONWithFiles(StreamingResponse):
    """An answer in whose body stored files stand where their base64 belongs.

    Args:
        body: JSON values and stored files.
    """

    def __init__(self, body: dict[str, Any]) -> None:
        files: list[StoredVideo] = []
        mark = secrets.token_hex(16)  # nobody can have put it into the job

        def put(value: Any) -> str:
            assert isinstance(value, StoredVideo)
            files.append(value)
            return mark

        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), default=put)
        texts = [part.encode() for part in text.split(mark)]
        num_bytes = sum(map(len, texts)) + sum(-(-file.num_bytes // 3) * 4 for file in files)
        super().__init__(
            _pieces(texts, files), media_type="application/json", headers={"content-length": str(num_bytes)}
        )


def _pieces(texts: list[bytes], files: list[StoredVideo]) -> Iterator[bytes]:
    yield texts[0]
    for file, text in zip(files, texts[1:], strict=True):
        yield from _base64(file.read(0, file.num_bytes))
        yield text


def _base64(pieces: Iterator[bytes]) -> Iterator[bytes]:
    left = b""
    for piece in pieces:
        whole = left + piece
        left = whole[len(whole) // 3 * 3 :]
        yield base64.b64encode(whole[: len(whole) - len(left)])
    yield base64.b64encode(left)
