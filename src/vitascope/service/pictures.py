"""Pictures that are no job's: those that clients keep here to name later, and what the detector of unsafe ones says of one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from vitascope import media
from vitascope.domain.access import Caller
from vitascope.domain.errors import InvalidParameter, NotAvailable, UnreadableImage
from vitascope.domain.file import MAX_FILE_SECONDS, MIN_FILE_SECONDS

from .files import Files, Upload
from .inputs import Sent, unreadable

PURPOSE = "vision"
"""Of the files that are kept, as clients of the files' own calls name it."""

MAX_CHECKED_SIDE = 1024
"""Pixels. The detector looks at 224; what is larger is only carried around."""

_STARTS = {"png": b"\x89PNG\r\n\x1a\n", "jpeg": b"\xff\xd8\xff"}


class Pictures:
    """Pictures of clients.

    Args:
        files: where they are kept.
        fetch: fetches what is a URL of what came with a request.
        link_seconds: how long the links to them are good for, and they are kept.
        threshold: the score from which on a picture is unsafe.
    """

    def __init__(
        self,
        files: Files,
        fetch: Callable[[Sent], Awaitable[Sent]],
        *,
        link_seconds: float,
        threshold: float,
    ) -> None:
        self._files = files
        self._fetch = fetch
        self._seconds = min(max(int(link_seconds), MIN_FILE_SECONDS), MAX_FILE_SECONDS)
        self._threshold = threshold

    async def fetched(self, name: str, content: bytes | str) -> bytes:
        """Return the bytes of a picture that may be named by its URL.

        Raises:
            InvalidParameter: named `name`: the URL is not one that is fetched, or there is no file of a bearable size.
            QueueFull: too many are being fetched.
        """
        try:
            found = (await self._fetch(Sent(image=content))).image
        except InvalidParameter as error:
            raise InvalidParameter(name, error.value, error.rule, hint=error.hint) from None
        assert isinstance(found, bytes)
        return found

    def prepare(self, name: str, data: bytes, kind: str, caller: Caller) -> Upload:
        """Check a picture that is to be kept; it goes when its link does. Opens it: not in an event loop.

        Args:
            name: of the parameter that it came in.
            data: the file.
            kind: `png` or `jpeg`, which it must be.
            caller: whose it will be.

        Raises:
            InvalidParameter: it is something else, or cannot be read.
            QueueFull: too many others are being read.
        """
        if not data.startswith(_STARTS[kind]):
            found = next((other for other, start in _STARTS.items() if data.startswith(start)), "neither")
            rule = f"it must be the {kind.upper()} file that it is said to be, and it is {found}"
            raise InvalidParameter(name, f"{len(data)} bytes", rule)
        _opened(name, data)
        return self._files.prepare(data, f"{name}.{kind}", PURPOSE, caller, self._seconds)

    def check_detector(self) -> None:
        """Raise NotAvailable if there is no detector of unsafe pictures."""
        from vitascope import moderation  # only now: most servers are never asked

        if not moderation.is_installed():
            message = "this server has no detector of unsafe pictures"
            raise NotAvailable(message, hint=f"its operator adds one with `{moderation.EXTRA}`")

    def is_unsafe(self, name: str, data: bytes) -> bool:
        """Look whether a picture shows nakedness or sex. Takes tenths of a second: not in an event loop.

        Raises:
            InvalidParameter: it cannot be read.
            QueueFull: too many others are being read.
        """
        from vitascope import moderation

        (score,) = moderation.nsfw_scores([_opened(name, data).frame()])
        return not score < self._threshold  # what is no number is not let through


def _opened(name: str, data: bytes) -> media.Picture:
    try:
        return media.open_picture(data, max_side=MAX_CHECKED_SIDE)
    except UnreadableImage as error:
        raise unreadable(name, data, error) from None
