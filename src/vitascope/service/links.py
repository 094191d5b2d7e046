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
from vitascope.domain.job import Job
from vitascope.domain.video import Variant

from . import ids

PURPOSE = "signed links"

MAC_BYTES = 18
"""144 bits: nobody guesses one, and the text of it needs no padding."""

GRAINS = 100
"""An end is rounded up to a hundredth of the lifetime, so that a client that polls is mostly told the same link."""

_FORM = re.compile(
    r"([0-9a-z]{26})\.([0-9]{1,3})([ts]?)\.([0-9]{1,12})\.([A-Za-z0-9_-]{24})\.([a-z0-9]{1,5})", re.ASCII
)


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

    def make(self, job: Job, base_url: str = "", output: int = 0, variant: Variant = "video") -> Link:
        """Make a link to a job's file, which need not be there yet.

        Args:
            job: whose file.
            base_url: where a client has reached this server now, for a job that knows no such address.
            output: which of the job's videos.
            variant: the video itself, or which picture of it.
        """
        grain = max(1, int(self._lifetime_seconds / GRAINS))
        end = int(self._clock().timestamp() + self._lifetime_seconds)
        end = -(-end // grain) * grain
        if job.expires_at is not None:  # no link promises more than there is
            end = min(end, int(job.expires_at.timestamp()))
        suffix = _SUFFIXES.get(variant, job.plan.format)
        told = f"{job.id}.{output}{_LETTERS[variant]}.{end}"
        token = f"{told}.{_mac(self._keys[0], told, suffix)}.{suffix}"
        base = self._public_url or job.request.base_url or base_url
        return Link(f"{base.rstrip('/')}/files/{token}", datetime.fromtimestamp(end, UTC))

    def read(self, token: str) -> Linked:
        """Find out where a link leads.

        Raises:
            LinkNotFound: we have not made it, or its time is over.
        """
        found = _FORM.fullmatch(token)
        if found is None:
            raise LinkNotFound
        job_id, output, letter, end, mac, suffix = found.groups()
        told = f"{job_id}.{output}{letter}.{end}"
        is_ours = [hmac.compare_digest(_mac(key, told, suffix), mac) for key in self._keys]
        if not any(is_ours) or int(end) <= self._clock().timestamp() or not ids.is_id(job_id):
            raise LinkNotFound
        return Linked(job_id, int(output), _VARIANTS[letter], suffix)


def _mac(key: bytes, told: str, suffix: str) -> str:
    mac = hmac.digest(key, f"{told}.{suffix}".encode(), "sha256")
    return base64.urlsafe_b64encode(mac[:MAC_BYTES]).decode()
