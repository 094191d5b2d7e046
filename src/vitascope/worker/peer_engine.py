"""A peer server in the place of an engine: it is asked for a job's videos, followed, and its files are fetched and signed as ours."""

from __future__ import annotations

import logging
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitascope import __version__
from vitascope.domain.choice import Choice
from vitascope.domain.errors import SigningFailed
from vitascope.domain.job import TERMINAL, JobStatus
from vitascope.domain.marks import OPERATORS_IMAGE
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import Plan
from vitascope.domain.request import GenerationRequest
from vitascope.domain.video import Picture, Video
from vitascope.outbound.peer import Peer, PeerAway, PeerRefused

from . import described
from .messages import Message
from .peer_body import body_of, data_url

if TYPE_CHECKING:
    from vitascope.media.certificate import Credentials
    from vitascope.media.provenance import SignedFormat

logger = logging.getLogger(__name__)

STAGE = "hand_over"
"""What a job's progress says while it waits at the peer, and of the time that the way to and fro takes."""

RETRY_SECONDS = 0.5
"""Between two tries to reach the peer."""

GOODBYE_SECONDS = 2.0
"""What it may take to tell a peer that a job is not wanted any more, when the worker stops."""

MAX_PREVIEW_CHARS = 1 << 20
_PREVIEW = re.compile(r"data:image/webp;base64,([A-Za-z0-9+/=]+)", re.ASCII)
_CODE = re.compile(r"[a-z_]{1,64}", re.ASCII)
_FORMATS: dict[str, SignedFormat] = {"video": "mp4", "thumbnail": "webp", "spritesheet": "jpeg"}


class Returned(Exception):
    """The peer does not make it: the job stays here.

    Args:
        reason: as the rest of the sentence "the peer …", for the log.
        for_now: whether it may make it later.
    """

    def __init__(self, reason: str, *, for_now: bool = False) -> None:
        self.for_now = for_now
        super().__init__(reason)


class _NotWanted(Exception):
    """The job shall stop, or the worker."""


@dataclass(frozen=True, slots=True)
class PeerMarks:
    """What this server has to mark files with."""

    #: None signs none.
    credentials: Credentials | None = None
    #: Whether prompts are signed into files.
    with_prompt: bool = False
    #: The operator's picture for a watermark.
    image: Path | None = None


class PeerEngine:
    """Speaks with a worker as an engine process does, from threads of the worker's own process.

    Args:
        connect: opens a connection to the peer.
        name: of the peer, in the place of a device.
        resolve: finds a model's card by its id.
        marks: what files are marked with.
        patience_seconds: how long a peer that does not answer is waited for.
    """

    def __init__(
        self,
        connect: Callable[[], Peer],
        name: str,
        resolve: Callable[[str], ModelSpec],
        marks: PeerMarks,
        patience_seconds: float,
    ) -> None:
        self._connect = connect
        self._now: Message = {"device": name, "loaded": [], "residency": {}}
        self._resolve = resolve
        self._marks = marks
        self._patience_seconds = patience_seconds
        self._told: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._making: _Making | None = None
        self._is_dead = False
        self._tell({"is": "ready"})

    @property
    def pid(self) -> int:
        return os.getpid()

    def is_alive(self) -> bool:
        return not self._is_dead

    def send(self, message: Message) -> None:
        """Take an order. Models are the peer's own affair: what is said of them has no effect."""
        if message["do"] == "make" and not self._is_dead:
            self._making = _Making(self, message)
            self._making.start()
        elif message["do"] == "cancel" and self._making is not None:
            self._making.give_up()

    def receive(self, timeout_seconds: float) -> Message | None:
        if self._is_dead:
            raise EOFError
        try:
            return self._told.get(timeout=timeout_seconds) if timeout_seconds else self._told.get_nowait()
        except queue.Empty:
            return None

    def kill(self) -> int:
        """Let the peer know, if it can be told soon, that its job is not wanted any more."""
        self._is_dead = True
        if self._making is not None:
            self._making.give_up().join(GOODBYE_SECONDS)
        return 0

    def _tell(self, message: Message) -> None:
        self._told.put(message if message["is"] == "step" else {**message, **self._now})


class _Making(threading.Thread):
    """One job at the peer."""

    def __init__(self, engine: PeerEngine, order: Message) -> None:
        super().__init__(name="peer", daemon=True)
        self._engine = engine
        self._order = order
        self._id: str = order["job"]
        self._request = GenerationRequest.from_dict(order["request"])
        self._plan = Plan.from_dict(order["plan"])
        self._peer = engine._connect()
        #: The peer's own id of the job.
        self._theirs = ""
        self._theirs_to_delete: str | None = None
        self._is_unwanted = threading.Event()
        self._goodbye = threading.Lock()
        self._percent = 0
        self._heard_at = time.monotonic()
        self._seconds = 0.0

    def give_up(self) -> threading.Thread:
        """Have the peer stop, which ends the stream that is read here. Returns what tells it. Safe to call from any thread."""
        self._is_unwanted.set()
        telling = threading.Thread(target=self._say_goodbye, name="peer-goodbye", daemon=True)
        telling.start()
        return telling

    def run(self) -> None:
        ending = self._ending()
        self._engine._tell({**ending, "job": self._id})
        self._say_goodbye()
        self._peer.close()

    def _ending(self) -> Message:
        """Make it, and say how that ended; nothing that a peer does ends the worker."""
        extra = {"job_id": self._id, "peer": self._engine._now["device"]}
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
            theirs, self._theirs_to_delete = self._theirs_to_delete, None
        if theirs is None:
            return
        peer = self._engine._connect()
        try:
            peer.delete(theirs)
        except (PeerAway, PeerRefused) as error:
            logger.info("not deleted at the peer", extra={"job_id": self._id, "reason": str(error)})
        finally:
            peer.close()

    def _make(self) -> Message:
        begun_at = time.monotonic()
        self._step(STAGE)
        made = self._create()
        self._follow()
        if self._is_unwanted.is_set():
            raise _NotWanted
        made = self._insist(lambda: self._peer.job(self._theirs))
        status = made.get("status")
        if status != JobStatus.SUCCEEDED.value:
            code = (made.get("error") or {}).get("code", "") if status == JobStatus.FAILED.value else ""
            raise Returned(f"ended the job as {status} {code}".rstrip())
        videos, signer = self._fetch(made)
        seconds = {
            str(name)[:40]: float(value) for name, value in dict(made.get("seconds_by_stage") or {}).items()
        }
        way = time.monotonic() - begun_at - sum(seconds.values())
        details = {
            "choices": [asdict(choice) for choice in self._choices(made)],
            "seconds": {**seconds, STAGE: round(max(0.0, way), 3)},
            "signer": signer,
        }
        if failed := _failed(made, self._plan):
            details["failed_videos"] = failed
        return {"is": "made", "videos": [asdict(video) for video in videos], "details": details}

    def _create(self) -> dict[str, Any]:
        body = body_of(self._request, self._plan, self._data_url)
        made = self._insist(lambda: self._peer.create(body, self._id))
        if made.get("status") in (JobStatus.FAILED.value, JobStatus.CANCELLED.value):
            # of an earlier try, which was given up: this one needs a name of its own
            again = f"{self._id}-{self._order['token']}"
            made = self._insist(lambda: self._peer.create(body, again))
        self._theirs = self._theirs_to_delete = str(made.get("id", ""))
        if self._is_unwanted.is_set():
            raise _NotWanted
        if made.get("seed") != self._plan.seed:
            raise Returned("takes another seed")
        return made

    def _data_url(self, path: str) -> str:
        if path == OPERATORS_IMAGE:
            if self._engine._marks.image is None:
                raise Returned("cannot be sent the watermark's picture: it is not on this machine")
            return data_url(self._engine._marks.image.read_bytes())
        return data_url(Path(path).read_bytes())

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
                raise Returned(str(error), for_now=error.is_for_now) from None
            else:
                self._heard_at = time.monotonic()
                return answer

    def _wait_for(self, error: PeerAway) -> None:
        if self._is_unwanted.is_set():
            raise _NotWanted
        if time.monotonic() - self._heard_at > self._engine._patience_seconds:
            raise Returned(f"{error.reason}, for too long", for_now=True) from None
        self._is_unwanted.wait(RETRY_SECONDS)

    def _follow(self) -> None:
        """Pass the job's progress on until it has ended; a peer that is started again goes on where it was.

        Raises:
            Returned: the peer is away for too long, or has nobody who would begin with the job.
            _NotWanted: the job shall stop.
        """
        after = 0
        is_waiting = True
        while True:
            try:
                for event in self._peer.events(self._theirs, after):
                    if self._is_unwanted.is_set():
                        raise _NotWanted
                    self._heard_at = time.monotonic()
                    if event is None:
                        self._step(STAGE if is_waiting else None)
                        if is_waiting and self._peer.state().wait_seconds is None:
                            raise Returned("has no worker", for_now=True)
                        continue
                    after = _whole(event.get("sequence"), after)
                    kind = event.get("kind")
                    if kind in TERMINAL or kind == "deleted":
                        return
                    is_waiting = kind == JobStatus.QUEUED.value
                    self._pass_on(event)
            except PeerAway as error:
                self._wait_for(error)
            except PeerRefused as error:
                raise Returned(str(error), for_now=error.is_for_now) from None

    def _pass_on(self, event: Mapping[str, Any]) -> None:
        stage, percent = event.get("stage"), _whole(event.get("percent"), self._percent)
        self._percent = max(self._percent, min(percent, 99))
        found = _PREVIEW.fullmatch(str(event.get("preview", ""))[:MAX_PREVIEW_CHARS])
        self._step(stage if isinstance(stage, str) and _CODE.fullmatch(stage) else None, found and found[1])

    def _step(self, stage: str | None, preview: str | None = None) -> None:
        told = {"stage": stage or STAGE, "index": 0, "percent": self._percent, "preview": preview}
        self._engine._tell({"is": "step", "job": self._id, **told})

    def _fetch(self, made: Mapping[str, Any]) -> tuple[list[Video], str | None]:
        """Fetch what was made, and sign it; returns it as it is here, and the name of the certificate."""
        credentials = self._engine._marks.credentials if self._plan.provenance else None
        if made.get("provenance") and not self._plan.provenance:
            raise Returned("signs what shall not be signed")
        videos = [self._video(shown, credentials) for shown in _list(made.get("videos"))]
        if not videos or len({video.index for video in videos}) < len(videos):
            raise Returned("made no video")
        return videos, None if credentials is None else credentials.name

    def _video(self, shown: Mapping[str, Any], credentials: Credentials | None) -> Video:
        plan, index = self._plan, _whole(shown.get("index"), -1)
        asked: dict[str, Any] = {
            "height": plan.height,
            "width": plan.width,
            "num_frames": plan.num_frames,
            "fps": plan.fps,
        }
        wrong = [name for name, value in asked.items() if shown.get(name) != value]
        if wrong or not 0 <= index < plan.num_videos or shown.get("seed") != plan.seed_of(index):
            raise Returned(f"made another video: {', '.join(wrong) or 'of another seed'}")
        out = Path(self._order["outs"][index])
        pictures: dict[str, Any] = {
            name: self._picture(shown.get(name), index, name, out.with_suffix(suffix), credentials)
            for name, suffix in (
                ("thumbnail", described.THUMBNAIL_SUFFIX),
                ("spritesheet", described.SHEET_SUFFIX),
            )
        }
        content = self._file(shown, index, "video", out, credentials)
        return Video(
            index=index,
            key=f"{self._order['folder']}/{out.name}",
            media_type=described.MEDIA_TYPES[plan.format],
            **asked,
            **content,
            **pictures,
        )

    def _picture(
        self, shown: Any, index: int, variant: str, path: Path, credentials: Credentials | None
    ) -> Picture | None:
        if not isinstance(shown, dict):
            return None
        content = self._file(shown, index, variant, path, credentials)
        media_type = {"thumbnail": "image/webp", "spritesheet": "image/jpeg"}[variant]
        size: dict[str, Any] = {name: _whole(shown.get(name), 0) for name in ("height", "width")}
        return Picture(key=f"{self._order['folder']}/{path.name}", media_type=media_type, **size, **content)

    def _file(
        self,
        shown: Mapping[str, Any],
        index: int,
        variant: str,
        path: Path,
        credentials: Credentials | None,
    ) -> dict[str, Any]:
        """Fetch a file and put this server's signature in the place of the peer's."""
        num_bytes, sha256 = _whole(shown.get("num_bytes"), 0), str(shown.get("sha256"))

        def fetch() -> dict[str, Any]:
            self._peer.download(self._theirs, index, variant, path, num_bytes, sha256)
            return {}

        self._step(None)
        self._insist(fetch)
        if credentials is not None:
            from vitascope.media import provenance

            claim = described.claim_of(
                self._plan,
                self._engine._resolve(self._plan.model),
                with_prompt=self._engine._marks.with_prompt,
            )
            format: SignedFormat = (
                "gif" if variant == "video" and self._plan.format == "gif" else _FORMATS[variant]
            )
            try:
                provenance.sign_again(path, format, claim, credentials)
            except SigningFailed:
                raise Returned("made a file that cannot be signed") from None
        return described.content_of(path)

    def _choices(self, made: Mapping[str, Any]) -> Iterator[Choice]:
        """What was decided here, what the peer's engine decided, and who has made it."""
        yield from self._plan.choices
        here = {choice.name for choice in self._plan.choices}
        for shown in _list(made.get("choices"))[:100]:
            name, value, reason = (str(shown.get(key, ""))[:500] for key in ("name", "value", "reason"))
            if name not in here:
                yield Choice(name, value, reason)
        version = str(self._order.get("peer_version") or "")
        reason = "this server was busy, and the request may run on another of its operator's"
        if version != __version__:
            reason += f"; that one is of version {version or 'unknown'}, this one {__version__}, whose frames may differ"
        yield Choice("made_by", "a peer server", reason)


def _failed(made: Mapping[str, Any], plan: Plan) -> list[dict[str, Any]]:
    """Tell which videos the peer could not make, although it made others."""
    failed = []
    for shown in _list(made.get("failed_videos")):
        index, code = _whole(shown.get("index"), -1), str(shown.get("code"))
        if 0 <= index < plan.num_videos and _CODE.fullmatch(code):
            failed.append({"index": index, "code": code, "message": str(shown.get("message"))[:500]})
    return failed


def _list(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _whole(value: Any, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else default
