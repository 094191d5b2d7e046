"""One job at a peer: asked for, followed, fetched, and deleted there; in a thread of the worker's own process."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vitascope import __version__
from vitascope.domain.choice import Choice
from vitascope.domain.job import TERMINAL, JobStatus
from vitascope.domain.marks import OPERATORS_IMAGE
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import Plan
from vitascope.domain.request import GenerationRequest
from vitascope.outbound.peer import Peer, PeerAway, PeerRefused

from .messages import Message
from .peer_body import Returned, body_of, data_url
from .peer_files import PeerFiles, PeerMarks, objects, whole

logger = logging.getLogger(__name__)

STAGE = "hand_over"
"""What a job's progress says while it waits at the peer, and of the time that the way to and fro takes."""

RETRY_SECONDS = 0.5
"""Between two tries to reach the peer."""

MAX_STAGE_SECONDS = 1e6
"""Of what a peer says that it took; estimates are made of it."""

MAX_PREVIEW_CHARS = 1 << 20
_PREVIEW = re.compile(r"data:image/webp;base64,([A-Za-z0-9+/=]+)", re.ASCII)
_CODE = re.compile(r"[a-z_]{1,64}", re.ASCII)
_ENDED_BEFORE = frozenset({JobStatus.FAILED.value, JobStatus.CANCELLED.value})


@dataclass(frozen=True, slots=True)
class Link:
    """How a peer is used."""

    #: Opens a connection to it.
    connect: Callable[[], Peer]
    #: In the place of a device.
    name: str
    #: Finds a model's card by its id.
    resolve: Callable[[str], ModelSpec]
    marks: PeerMarks
    #: How long one that does not answer is waited for.
    patience_seconds: float


class _NotWanted(Exception):
    """The job shall stop, or the worker."""


class PeerJob(threading.Thread):
    """Makes one job through a peer and says so, as an engine process does.

    Args:
        link: to the peer.
        order: of the worker; see `messages`.
        tell: takes what is said.
    """

    def __init__(self, link: Link, order: Message, tell: Callable[[Message], None]) -> None:
        super().__init__(name="peer-job", daemon=True)
        self._link = link
        self._order = order
        self._tell = tell
        self._id: str = order["job"]
        self._request = GenerationRequest.from_dict(order["request"])
        self._plan = Plan.from_dict(order["plan"])
        self._peer = link.connect()
        #: The peer's own id of the job; the second is forgotten once it has been deleted there.
        self._theirs = ""
        self._to_delete: str | None = None
        self._is_unwanted = threading.Event()
        self._goodbye = threading.Lock()
        self._stage, self._percent = STAGE, 0
        self._heard_at = time.monotonic()

    def give_up(self) -> threading.Thread:
        """Have the peer stop, which ends the stream that is read here. Returns what tells it. Safe to call from any thread."""
        self._is_unwanted.set()
        telling = threading.Thread(target=self._say_goodbye, name="peer-goodbye", daemon=True)
        telling.start()
        return telling

    def run(self) -> None:
        self._tell({**self._ending(), "job": self._id})
        self._say_goodbye()
        self._peer.close()

    def _ending(self) -> Message:
        """Make it, and say how that ended; nothing that a peer does ends the worker."""
        extra = {"job_id": self._id, "peer": self._link.name}
        try:
            return self._make()
        except _NotWanted:
            return {"is": "cancelled"}
        except Returned as reason:
            logger.warning("job returned", extra={**extra, "reason": str(reason)})
            return {"is": "returned", "for_now": reason.for_now}
        except Exception:
            logger.exception("job returned", extra=extra)
            return {"is": "returned", "for_now": False}

    def _say_goodbye(self) -> None:
        """Delete the job there, whatever has become of it; one that cannot be deleted now goes after an hour on its own."""
        with self._goodbye:
            theirs, self._to_delete = self._to_delete, None
        if theirs is None:
            return
        with contextlib.closing(self._link.connect()) as peer:
            try:
                peer.delete(theirs)
            except (PeerAway, PeerRefused) as error:
                logger.info("not deleted at the peer", extra={"job_id": self._id, "reason": str(error)})

    def _make(self) -> Message:
        begun_at = time.monotonic()
        self._step()
        self._create()
        self._follow()
        made = self._insist(lambda: self._peer.job(self._theirs))
        status = made.get("status")
        if status != JobStatus.SUCCEEDED.value:
            self._check_wanted()
            raise Returned(f"ended the job as {status} {_code_of(made.get('error'))}".rstrip())
        spec, order = self._link.resolve(self._plan.model), self._order
        files = PeerFiles(self._plan, spec, order["outs"], order["folder"], self._link.marks, self._download)
        videos, failed = files.fetch(made), _failed(made, self._plan)
        told = {video.index for video in videos} | {each["index"] for each in failed}
        if told != set(range(self._plan.num_videos)):
            raise Returned("says nothing of some of the videos")
        seconds = _seconds_of(made)
        way = time.monotonic() - begun_at - sum(seconds.values())
        details = {
            "choices": [asdict(choice) for choice in self._choices(made)],
            "seconds": {**seconds, STAGE: round(max(0.0, way), 3)},
            "signer": files.signer,
        }
        if failed:
            details["failed_videos"] = failed
        return {"is": "made", "videos": [asdict(video) for video in videos], "details": details}

    def _create(self) -> None:
        """Ask for it, under a name by which it is found again if this server is started anew meanwhile."""
        body = body_of(self._request, self._plan, self._data_url)
        try:
            made = self._insist(lambda: self._peer.create(body, self._id))
            is_ended = made.get("status") in _ENDED_BEFORE
        except Returned as refused:
            if refused.code != "idempotency_conflict":
                raise
            is_ended = True
        if is_ended:  # an earlier try, which was given up and deleted: this one needs a name of its own
            again = f"{self._id}-{self._order['token']}"
            made = self._insist(lambda: self._peer.create(body, again))
        self._theirs = self._to_delete = str(made.get("id", ""))
        self._check_wanted()
        if made.get("seed") != self._plan.seed:
            raise Returned("takes another seed")

    def _data_url(self, path: str) -> str:
        if path != OPERATORS_IMAGE:
            return data_url(Path(path).read_bytes())
        if self._link.marks.image is None:
            raise Returned("cannot be sent the watermark's picture: it is not on this machine")
        return data_url(self._link.marks.image.read_bytes())

    def _check_wanted(self) -> None:
        if self._is_unwanted.is_set():
            raise _NotWanted

    def _insist(self, ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Ask again and again while the peer is away, for as long as the patience lasts.

        Raises:
            Returned: it lasts no longer, or the peer says no.
            _NotWanted: the job shall stop.
        """
        while True:
            try:
                answer = ask()
            except PeerAway as error:
                self._wait_for(error)
            except PeerRefused as error:
                raise Returned(str(error), code=error.code, for_now=error.is_for_now) from None
            else:
                self._heard_at = time.monotonic()
                return answer

    def _wait_for(self, error: PeerAway) -> None:
        self._check_wanted()
        if time.monotonic() - self._heard_at > self._link.patience_seconds:
            raise Returned(f"{error.reason}, for too long", for_now=True) from None
        self._is_unwanted.wait(RETRY_SECONDS)

    def _follow(self) -> None:
        """Pass the job's progress on until it has ended; a peer that is started again goes on where it was.

        Raises:
            Returned: the peer is away for too long, or has nobody who would begin with the job.
            _NotWanted: the job shall stop.
        """
        after = 0
        while True:
            try:
                with contextlib.closing(self._peer.events(self._theirs, after)) as events:
                    for event in events:
                        self._heard_at = time.monotonic()
                        if event is None:
                            self._look_after()
                            continue
                        after = whole(event.get("sequence"), after)
                        if event.get("kind") in TERMINAL or event.get("kind") == "deleted":
                            self._check_wanted()
                            return
                        self._pass_on(event)
                self._wait_for(PeerAway("ended the job's events before the job"))
            except PeerAway as error:
                self._wait_for(error)
            except PeerRefused as error:
                raise Returned(str(error), for_now=error.is_for_now) from None

    def _look_after(self) -> None:
        """Where nothing was heard for a while: say that the job lives, unless it waits where nobody works."""
        self._step()
        if self._stage == STAGE and self._peer.state().wait_seconds is None:
            raise Returned("has no worker", for_now=True)

    def _pass_on(self, event: Mapping[str, Any]) -> None:
        stage = event.get("stage")
        if event.get("kind") == JobStatus.QUEUED.value:
            self._stage = STAGE
        elif isinstance(stage, str) and _CODE.fullmatch(stage):
            self._stage = stage
        self._percent = max(self._percent, min(whole(event.get("percent"), 0), 99))
        found = _PREVIEW.fullmatch(str(event.get("preview", ""))[:MAX_PREVIEW_CHARS])
        self._step(found and found[1])

    def _step(self, preview: str | None = None) -> None:
        self._check_wanted()
        told = {"stage": self._stage, "index": 0, "percent": self._percent, "preview": preview}
        self._tell({"is": "step", "job": self._id, **told})

    def _download(self, index: int, variant: str, path: Path, num_bytes: int, sha256: str) -> None:
        def fetch() -> dict[str, Any]:
            self._peer.download(self._theirs, index, variant, path, num_bytes, sha256)
            return {}

        self._step()
        self._insist(fetch)

    def _choices(self, made: Mapping[str, Any]) -> Iterator[Choice]:
        """What was decided here, what the peer's engine decided, and who has made it."""
        yield from self._plan.choices
        here = {choice.name for choice in self._plan.choices}
        for shown in objects(made.get("choices"))[:100]:
            name, value, reason = (str(shown.get(key, ""))[:500] for key in ("name", "value", "reason"))
            if name not in here:
                yield Choice(name, value, reason)
        version = str(self._order.get("peer_version") or "")
        reason = "this server was busy, and the request may run on another of its operator's"
        if version != __version__:
            reason += f"; that one is of version {version or 'unknown'}, this one {__version__}, whose frames may differ"
        yield Choice("made_by", "a peer server", reason)


def _code_of(error: Any) -> str:
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, str) and _CODE.fullmatch(code) else ""


def _seconds_of(made: Mapping[str, Any]) -> dict[str, float]:
    told = made.get("seconds_by_stage")
    found = told.items() if isinstance(told, dict) else ()
    return {
        stage: float(value)
        for stage, value in found
        if _CODE.fullmatch(stage) and isinstance(value, int | float) and 0 <= value <= MAX_STAGE_SECONDS
    }


def _failed(made: Mapping[str, Any], plan: Plan) -> list[dict[str, Any]]:
    """Tell which videos the peer could not make, although it made others."""
    failed = []
    for shown in objects(made.get("failed_videos")):
        index, code = whole(shown.get("index"), -1), _code_of(shown)
        if 0 <= index < plan.num_videos and code:
            failed.append({"index": index, "code": code, "message": str(shown.get("message"))[:500]})
    return failed
