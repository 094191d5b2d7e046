"""Signed links: addresses of files that need no API key, for as long as they say.

Whoever has one has the file: they are for replies whose readers fetch a bare URL, and are in no log. Nothing is kept of them.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

from vitascope.domain.errors import LinkNotFound
from vitascope.domain.file import File
from vitascope.domain.job import Job
from vitascope.domain.video import Variant

from . import ids

PURPOSE = "signed links"

MAC_BYTES = 18
"""144 bits: nobody guesses one, and the text of it needs no padding."""

GRAINS = 100
"""An end is rounded up to a hundredth of the lifetime, so that a client that polls is mostly told the same link."""

_FORM = re.compile(
    r"([0-9a-z]{26})\.([0-9]{1,3})([tsf]?)\.([0-9]{1,12})\.([A-Za-z0-9_-]{24})\.([a-z0-9]{1,5})", re.ASCII
)

_PATH = re.compile(r"https?://[^/?#]+(?:/[^?#]*)?/files/([^/?#]+)(?:/[^/?#]*)?(?:[?#].*)?", re.IGNORECASE)
"""Of addresses that may be links of ours: what the token is."""

_OF_FILE = "f"
"""Where links of jobs have their variant's letter, links of uploaded files have this."""


_LETTERS: dict[Variant, str] = {"video": "", "thumbnail": "t", "spritesheet": "s"}
_VARIANTS = {letter: variant for variant, letter in _LETTERS.items()}
_SUFFIXES: dict[Variant, str] = {"thumbnail": "webp", "spritesheet": "jpg"}


@dataclass(frozen=True, slots=True)
class Link:
    """Where anyone can fetch a file, and until when."""

    url: str
    #: Aware UTC.
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Linked:
    """What a good link leads to."""

    job_id: str
    #: Which of the job's videos, from 0.
    output: int
    #: The video itself, or which picture of it.
    variant: Variant
    #: End of its name, without a dot.
    suffix: str


@dataclass(frozen=True, slots=True)
class LinkedFile:
    """An uploaded file to which a good link leads."""

    file_id: str
    #: End of its name, without a dot.
    suffix: str


class Links:
    """Makes links and reads them.

    Args:
        keys: the deployment's keys for them; asked for once. The first signs, all are good.
        public_url: with what links begin; None takes what is known of the client.
        lifetime_seconds: of a link.
        clock: the time now.
    """

    def __init__(
        self,
        keys: Callable[[], tuple[bytes, ...]],
        public_url: str | None,
        lifetime_seconds: float,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._find_keys = keys
        self._public_url = public_url
        self._lifetime_seconds = lifetime_seconds
        self._clock = clock

    @cached_property
    def _keys(self) -> tuple[bytes, ...]:
        return self._find_keys()

    @property
    def base_url(self) -> str:
        """With what all addresses begin; empty where that is what is known of each client."""
        return (self._public_url or "").rstrip("/")

    def warm_up(self) -> None:
        """Look for the keys now: the first look may write to the database."""
        assert self._keys

    def make(
        self,
        job: Job,
        base_url: str = "",
        output: int = 0,
        variant: Variant = "video",
        name: str | None = None,
    ) -> Link:
        """Make a link to a job's file, which need not be there yet.

        Args:
            job: whose file.
            base_url: where a client has reached this server now, for a job that knows no such address.
            output: which of the job's videos.
            variant: the video itself, or which picture of it.
            name: with what the address ends, for clients that call the file so; it decides nothing.
        """
        suffix = _SUFFIXES.get(variant, job.plan.format)
        base = self._public_url or job.request.base_url or base_url
        return self._made(base, f"{job.id}.{output}{_LETTERS[variant]}", suffix, job.expires_at, name)

    def make_for_file(self, file: File, base_url: str, suffix: str) -> Link:
        """Make a link to a file that a client has uploaded.

        Args:
            file: which.
            base_url: where a client has reached this server now.
            suffix: end of its name, without a dot.
        """
        return self._made(self._public_url or base_url, f"{file.id}.0{_OF_FILE}", suffix, file.expires_at)

    def _made(
        self, base: str, what: str, suffix: str, expires_at: datetime | None, name: str | None = None
    ) -> Link:
        grain = max(1, int(self._lifetime_seconds / GRAINS))
        end = int(self._clock().timestamp() + self._lifetime_seconds)
        end = -(-end // grain) * grain
        if expires_at is not None:  # no link promises more than there is
            end = min(end, int(expires_at.timestamp()))
        told = f"{what}.{end}"
        token = f"{told}.{_mac(self._keys[0], told, suffix)}.{suffix}"
        path = token if name is None else f"{token}/{name}"
        return Link(f"{base.rstrip('/')}/files/{path}", datetime.fromtimestamp(end, UTC))

    def read(self, token: str) -> Linked | LinkedFile:
        """Find out where a link leads.

        Raises:
            LinkNotFound: we have not made it, or its time is over.
        """
        found = _FORM.fullmatch(token)
        if found is None:
            raise LinkNotFound
        its_id, output, letter, end, mac, suffix = found.groups()
        told = f"{its_id}.{output}{letter}.{end}"
        is_ours = [hmac.compare_digest(_mac(key, told, suffix), mac) for key in self._keys]
        if not any(is_ours) or int(end) <= self._clock().timestamp() or not ids.is_id(its_id):
            raise LinkNotFound
        if letter == _OF_FILE:
            return LinkedFile(its_id, suffix)
        return Linked(its_id, int(output), _VARIANTS[letter], suffix)

    def token_in(self, url: str) -> str | None:
        """Return the token of an address that is a link of ours and still good, whatever host it names; else None."""
        found = _PATH.fullmatch(url)
        if found is None:
            return None
        try:
            self.read(found[1])
        except LinkNotFound:
            return None
        return found[1]


def _mac(key: bytes, told: str, suffix: str) -> str:
    mac = hmac.digest(key, f"{told}.{suffix}".encode(), "sha256")
    return base64.urlsafe_b64encode(mac[:MAC_BYTES]).decode()
