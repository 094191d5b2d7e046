"""The files that a peer has made: fetched, compared with what they are to be, and signed as ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitascope.domain.errors import SigningFailed
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import Plan
from vitascope.domain.video import Picture, Video

from . import described
from .peer_body import Returned

if TYPE_CHECKING:
    from vitascope.media.certificate import Credentials
    from vitascope.media.provenance import SignedFormat

MORE_BYTES = 16 << 20
"""What a file may have beside its frames: their marks, and the container."""

MAX_SIDE = 1 << 16
"""Of a picture beside a video."""

#: Fetches a file: index of the video, variant, where to, its size and its checksum.
Download = Callable[[int, str, Path, int, str], None]

_PICTURES: dict[str, tuple[str, str, SignedFormat]] = {
    "thumbnail": (described.THUMBNAIL_SUFFIX, "image/webp", "webp"),
    "spritesheet": (described.SHEET_SUFFIX, "image/jpeg", "jpeg"),
}


_BEGINNINGS: dict[SignedFormat, tuple[int, bytes]] = {
    "mp4": (4, b"ftyp"),
    "gif": (0, b"GIF8"),
    "webp": (8, b"WEBP"),
    "jpeg": (0, b"\xff\xd8\xff"),
}
"""What stands where at the beginning of a file of each kind."""


@dataclass(frozen=True, slots=True)
class PeerMarks:
    """What this server has to mark files with."""

    #: None signs none.
    credentials: Credentials | None = None
    #: Whether prompts are signed into files.
    with_prompt: bool = False
    #: The operator's picture for a watermark.
    image: Path | None = None


class PeerFiles:
    """The files of one job.

    Args:
        plan: of the job.
        spec: its model's card.
        outs: where each video goes; its pictures go beside it.
        folder: where the storage will have them.
        marks: what they are signed with, if the plan says so.
        download: fetches one.
    """

    def __init__(
        self,
        plan: Plan,
        spec: ModelSpec,
        outs: Sequence[str],
        folder: str,
        marks: PeerMarks,
        download: Download,
    ) -> None:
        self._plan = plan
        self._spec = spec
        self._outs = [Path(out) for out in outs]
        self._folder = folder
        self._marks = marks
        self._download = download

    @property
    def _credentials(self) -> Credentials | None:
        return self._marks.credentials if self._plan.provenance else None

    @property
    def signer(self) -> str | None:
        """Name of the certificate that they are signed with."""
        return None if self._credentials is None else self._credentials.name

    def fetch(self, made: Mapping[str, Any]) -> list[Video]:
        """Fetch what a job of the peer's has made, as the native API shows it.

        Raises:
            Returned: that is not what was asked for.
        """
        if made.get("provenance") and not self._plan.provenance:
            raise Returned("signs what shall not be signed")
        videos = [self._video(shown) for shown in objects(made.get("videos"))]
        if not videos or len({video.index for video in videos}) < len(videos):
            raise Returned("made no video")
        return sorted(videos, key=lambda video: video.index)

    def _video(self, shown: Mapping[str, Any]) -> Video:
        plan, index = self._plan, whole(shown.get("index"), -1)
        asked: dict[str, Any] = {
            "height": plan.height,
            "width": plan.width,
            "num_frames": plan.num_frames,
            "fps": plan.fps,
        }
        wrong = [name for name, value in asked.items() if shown.get(name) != value]
        if wrong or not 0 <= index < plan.num_videos or shown.get("seed") != plan.seed_of(index):
            raise Returned(f"made another video: {', '.join(wrong) or 'of another seed'}")
        out = self._outs[index]
        return Video(
            index=index,
            key=f"{self._folder}/{out.name}",
            media_type=described.MEDIA_TYPES[plan.format],
            **asked,
            **self._file(shown, index, "video", out, plan.format),
            thumbnail=self._picture(shown, index, "thumbnail"),
            spritesheet=self._picture(shown, index, "spritesheet"),
        )

    def _picture(self, video: Mapping[str, Any], index: int, variant: str) -> Picture | None:
        shown = video.get(variant)
        if not isinstance(shown, dict):
            return None
        suffix, media_type, format = _PICTURES[variant]
        path = self._outs[index].with_suffix(suffix)
        content = self._file(shown, index, variant, path, format)
        size: dict[str, Any] = {name: whole(shown.get(name), 0) for name in ("height", "width")}
        if not all(0 < side <= MAX_SIDE for side in size.values()):
            raise Returned(f"made a {variant} of no size")
        return Picture(key=f"{self._folder}/{path.name}", media_type=media_type, **size, **content)

    def _file(
        self, shown: Mapping[str, Any], index: int, variant: str, path: Path, format: SignedFormat
    ) -> dict[str, Any]:
        """Fetch a file and put this server's signature in the place of the peer's."""
        num_bytes = whole(shown.get("num_bytes"), 0)
        if num_bytes > most_bytes(self._plan):
            raise Returned("made a file that is larger than its frames")
        self._download(index, variant, path, num_bytes, str(shown.get("sha256")))
        if not _begins_as(path, format):
            raise Returned(f"made a file that is no {format}")
        if self._credentials is not None:
            from vitascope.media import provenance

            claim = described.claim_of(self._plan, self._spec, with_prompt=self._marks.with_prompt)
            try:
                provenance.sign_again(path, format, claim, self._credentials)
            except SigningFailed:
                raise Returned("made a file that cannot be signed") from None
        return described.content_of(path)


def _begins_as(path: Path, format: SignedFormat) -> bool:
    """Look whether a file is of its kind: it is given to clients as such."""
    at, mark = _BEGINNINGS[format]
    with path.open("rb") as file:
        return file.read(at + len(mark))[at:] == mark


def most_bytes(plan: Plan) -> int:
    """Tell how large no file of a plan is: a peer's word alone must not fill the disk."""
    return MORE_BYTES + 4 * plan.height * plan.width * plan.num_frames


def objects(value: Any) -> list[dict[str, Any]]:
    """Take the objects of what should be a list of them."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def whole(value: Any, default: int) -> int:
    """Take what should be a whole number."""
    return value if isinstance(value, int) and not isinstance(value, bool) else default
