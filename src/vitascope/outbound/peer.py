"""A peer: another server of the operator's, asked over its native API. Its answers are believed no more than a user's file.

No gate stands before it, as before `own_service`: what the operator has written may lead anywhere. The key goes to that server alone.
Knows nothing of jobs here.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import ssl
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from .target import read

CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 10.0
"""For a small answer."""

TRANSFER_SECONDS = 60.0
"""Between bytes, and for the answer to a request that brings pictures."""

STREAM_SECONDS = 20.0
"""Between lines of a job's events: its stream says something every 15 s."""

MAX_ANSWER_BYTES = 4 << 20
"""A job with ten videos is 30 kB; of a long prompt and many shots it is some hundreds."""

MAX_LINE_BYTES = 4 << 20
"""A preview is some tens of kilobytes."""

MAX_RETRY_SECONDS = 600
"""However long a peer wants to be left alone."""

MAX_REDIRECTS = 3
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_ESCAPES = re.compile(rb"\\u(?:d[89a-f]|0000)", re.IGNORECASE)
_UNSTORABLE = re.compile(r"[\ud800-\udfff]|(?<!\\)(?:\\\\)*\\u0000")
"""In JSON text, where NUL is always an escape."""


class PeerAway(Exception):
    """The peer gives no answer, or none that can be used; it may later.

    Args:
        reason: why, as the rest of the sentence "the peer …"; holds neither its key nor what it said.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class PeerRefused(Exception):
    """The peer said no.

    Args:
        status: of HTTP.
        code: its own, as it is documented; empty if it gave none.
        retry_after_seconds: when it may say yes; None if it says nothing of that.
    """

    def __init__(self, status: int, code: str = "", retry_after_seconds: float | None = None) -> None:
        self.status = status
        self.code = code
        self.retry_after_seconds = retry_after_seconds
        super().__init__(f"answered {status} {code}".rstrip())

    @property
    def is_for_now(self) -> bool:
        """Whether it says no to any job, and may say yes to the same one later."""
        return self.status in (401, 403, 408, 429) or self.status >= 500


@dataclass(frozen=True, slots=True)
class PeerState:
    """How a peer is, at one moment."""

    version: str
    #: Of its database.
    deployment: str
    #: Until it would begin with another job; None if it has no worker, or nobody knows.
    wait_seconds: float | None


class Peer:
    """A connection to a peer. `close` may be called from another thread: what runs then ends with PeerAway.

    Every method may raise PeerAway and PeerRefused.

    Args:
        url: where it is.
        key: shown to it if there is one.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url.rstrip("/")
        read(self.url)
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
        # no proxy of the environment: the key goes where the operator has said
        self._http = httpx.Client(
            timeout=timeout,
            trust_env=False,
            verify=_ssl_context(),
            headers={"Accept-Encoding": "identity"},
        )

    def close(self) -> None:
        self._http.close()

    def state(self) -> PeerState:
        """Ask whether it makes jobs, and how long one would wait."""
        ready = self._ask("GET", "/readyz")
        if ready.get("accepts_jobs") is not True:
            raise PeerAway("accepts no jobs now")
        queue = self._ask("GET", "/api/v1/queue")
        waits = queue.get("wait_seconds")
        return PeerState(
            version=str(queue.get("version", ""))[:40],
            deployment=str(queue.get("deployment", ""))[:64],
            wait_seconds=float(waits) if isinstance(waits, int | float) and waits >= 0 else None,
        )

    def model(self, model: str) -> dict[str, Any] | None:
        """Show a model whose files it has; None if it does not know it, or has not all of them."""
        try:
            found = self._ask("GET", f"/api/v1/models/{quote(model)}")
        except PeerRefused as error:
            if error.status in (400, 403, 404):
                return None
            raise
        return found if found.get("downloaded") is True and found.get("problem") is None else None

    def added_models(self) -> list[dict[str, Any]]:
        """Ask what was added there while it ran; only an operator's key is told."""
        found = self._ask("GET", "/api/v1/added-models").get("models")
        if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
            raise PeerAway("answers with something else than a list of models")
        return found

    def plan(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Ask how it would make something."""
        return self._ask("POST", "/api/v1/plan", body)

    def create(self, body: Mapping[str, Any], once: str) -> dict[str, Any]:
        """Make a job of its, once however often this is sent; returns it as it is now.

        Args:
            body: of the request.
            once: the name by which it knows the request.
        """
        return self._ask("POST", "/api/v1/jobs", body, {"Idempotency-Key": once})

    def job(self, job_id: str) -> dict[str, Any]:
        return self._ask("GET", self._path(job_id))

    def cancel(self, job_id: str) -> None:
        self._ask("POST", f"{self._path(job_id)}/cancel", {})

    def delete(self, job_id: str) -> None:
        """Delete a job and its files; one that has not ended is cancelled."""
        with self._answer("DELETE", self._path(job_id)) as answer:
            _read_all(answer)
            _check(answer, b"")

    def events(self, job_id: str, after: int) -> Generator[dict[str, Any] | None, None, None]:
        """Yield what happened to a job after the event of that number, and what happens, until it ends the stream.

        Yields:
            Events as it documents them; None where nothing came for a while.
        """
        headers = {"Last-Event-ID": str(after), "Accept": "text/event-stream"}
        timeout = httpx.Timeout(STREAM_SECONDS, connect=CONNECT_SECONDS)
        path = f"{self._path(job_id)}/events"
        with self._answer("GET", path, headers=headers, timeout=timeout) as answer:
            if answer.status_code != 200:
                _check(answer, _read_all(answer))
            for line in _lines(answer):
                if line.startswith(b"data:"):
                    yield _object(line[5:])
                elif line.startswith(b":"):
                    yield None

    def download(
        self, job_id: str, index: int, variant: str, path: Path, num_bytes: int, sha256: str
    ) -> None:
        """Fetch a file of a job's.

        Args:
            job_id: whose.
            index: of its video.
            variant: the video itself, or which picture of it.
            path: where to; replaced if it exists.
            num_bytes: that it must have.
            sha256: likewise.
        """
        digest, received = hashlib.sha256(), 0
        with self._content(job_id, index, variant) as answer, path.open("wb") as file:
            if answer.status_code != 200:
                _check(answer, _read_all(answer))
                raise PeerAway("sent no file")
            for chunk in answer.iter_raw(1 << 16):
                received += len(chunk)
                if received > num_bytes:
                    break
                digest.update(chunk)
                file.write(chunk)
        if received != num_bytes or digest.hexdigest() != sha256:
            raise PeerAway("sent another file than it had said")

    @contextmanager
    def _content(self, job_id: str, index: int, variant: str) -> Iterator[httpx.Response]:
        """Ask for a file, and follow where the peer's storage has clients fetch it: without the key, which is not theirs."""
        timeout = httpx.Timeout(TRANSFER_SECONDS, connect=CONNECT_SECONDS)
        url = f"{self.url}{self._path(job_id)}/content?index={index}&variant={variant}"
        headers = self._headers
        for _ in range(MAX_REDIRECTS):
            with self._telling(), self._http.stream("GET", url, headers=headers, timeout=timeout) as answer:
                if not answer.has_redirect_location:
                    yield answer
                    return
                url, headers = str(answer.url.join(answer.headers["location"])), {}
        raise PeerAway("leads from one address to the next")

    def _path(self, job_id: str) -> str:
        if not _ID.fullmatch(job_id):
            raise PeerAway("gave its job a name that is none")
        return f"/api/v1/jobs/{job_id}"

    def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        content = None if body is None else json.dumps(body).encode("ascii")
        more = {**(headers or {}), **({} if content is None else {"Content-Type": "application/json"})}
        seconds = TRANSFER_SECONDS if content and len(content) > 1 << 16 else ANSWER_SECONDS
        timeout = httpx.Timeout(seconds, connect=CONNECT_SECONDS)
        with self._answer(method, path, content=content, headers=more, timeout=timeout) as answer:
            data = _read_all(answer)
        _check(answer, data)
        return _object(data)

    @contextmanager
    def _answer(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **how: Any
    ) -> Iterator[httpx.Response]:
        shown = {**self._headers, **(headers or {})}
        with (
            self._telling(),
            self._http.stream(method, f"{self.url}{path}", headers=shown, **how) as answer,
        ):
            yield answer

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Say what the client's errors mean. It is told to nobody whose job it is."""
        try:
            yield
        except httpx.ConnectTimeout as error:
            raise PeerAway("cannot be reached") from error
        except httpx.TimeoutException as error:
            raise PeerAway("gave no answer in time") from error
        except httpx.ConnectError as error:
            raise PeerAway("cannot be reached") from error
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, ssl.SSLError) as error:
            raise PeerAway("gave no whole answer") from error
        except RuntimeError as error:  # it was closed meanwhile, by another thread
            if not self._http.is_closed:
                raise
            raise PeerAway("is asked no more") from error


@cache
def _ssl_context() -> ssl.SSLContext:
    """What certificates are checked against: the certifi bundle, or what SSL_CERT_FILE names. Made once: it takes tens of milliseconds."""
    return httpx.create_ssl_context()


def shown_url(url: str) -> str:
    """Say where a peer is, as operators see it: without what stands before an @, which settings refuse anyway."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")


def _read_all(answer: httpx.Response) -> bytes:
    data = bytearray()
    for chunk in answer.iter_raw(1 << 16):
        data += chunk
        if len(data) > MAX_ANSWER_BYTES:
            raise PeerAway(f"answered with more than {MAX_ANSWER_BYTES} bytes")
    return bytes(data)


def _lines(answer: httpx.Response) -> Iterator[bytes]:
    """Yield lines as they come; of one without an end no more is kept than of the longest that is read."""
    begun = bytearray()
    for chunk in answer.iter_raw():
        *whole, rest = chunk.split(b"\n")
        for part in whole:
            yield bytes(begun + part).rstrip(b"\r")
            begun.clear()
        begun += rest
        if len(begun) > MAX_LINE_BYTES:
            raise PeerAway("sent an event of megabytes")


def _check(answer: httpx.Response, data: bytes) -> None:
    if answer.is_success:
        return
    code = ""
    try:
        problem = json.loads(data)["error"]["code"]
        code = problem if isinstance(problem, str) and re.fullmatch(r"[a-z_]{1,64}", problem) else ""
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    wait = answer.headers.get("retry-after", "")
    seconds = float(min(int(wait), MAX_RETRY_SECONDS)) if wait.isdecimal() and len(wait) < 7 else None
    raise PeerRefused(answer.status_code, code, seconds)


def _object(data: bytes) -> dict[str, Any]:
    """Read an object. What it says may come into our database and replies: they take no number that JSON has not, and no half characters."""
    try:
        found = json.loads(data, parse_constant=_finite, parse_float=_finite)
        if _ESCAPES.search(data):
            found = None if _UNSTORABLE.search(json.dumps(found, ensure_ascii=False)) else found
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise PeerAway("answered with something that is not its API's")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("it is out of range")
    return value
