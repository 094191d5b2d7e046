"""Pictures and videos that come with a request: fetched, checked and stored before the job is.

Nothing later depends on where they came from, and what is stored was opened once, in a process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vitascope import media
from vitascope.domain.choice import Choice
from vitascope.domain.errors import (
    InvalidParameter,
    StorageError,
    StorageUnavailable,
    UnreadableImage,
    UnreadableVideo,
    UrlRefused,
    VideoExpired,
)
from vitascope.domain.plan import Plan
from vitascope.domain.request import (
    MAX_VIDEO_FRAMES,
    MAX_VIDEO_SECONDS,
    GenerationRequest,
    Watermark,
    num_frames_for,
)
from vitascope.domain.sizes import nearest_side
from vitascope.domain.video import Video
from vitascope.domain.windows import MAX_DURATION_SECONDS, MAX_FPS
from vitascope.outbound import Outbound
from vitascope.storage import Storage


@dataclass(frozen=True, slots=True)
class OfJob:
    """The video of another job, by the id that its client has."""

    job_id: str
    #: Which of its videos.
    output: int = 0


@dataclass(frozen=True, slots=True)
class Kept:
    """A file that is in the storage already. It is copied: whose it is may be deleted before the new job is made."""

    key: str
    #: Of a job's video: then it need not be measured.
    video: Video | None = None
    #: Whose video it is.
    job_id: str | None = None
    #: That this video is marked with.
    watermark: Watermark | None = None
    #: Whether it has a border around what the model made.
    has_border: bool = False


@dataclass(frozen=True, slots=True)
class FileId:
    """A file that its client has uploaded before: see `files`."""

    id: str
    #: The id as the client wrote it.
    shown: str


@dataclass(frozen=True, slots=True)
class CharacterId:
    """A character that its client has had kept before: see `characters`."""

    id: str
    #: The id as the client wrote it.
    shown: str


Content = bytes | str | FileId | CharacterId | OfJob | Kept
"""A file's bytes, the URL from which they are fetched, which of the client's files or characters it is, or whose it is here."""

SOURCE_GONE = "the video that another one is to be made from is not kept any more"

MAX_REFERENCE_SIDE = 1024
"""Pixels. Models look at reference pictures at their own size, which is below this."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What came with a request, by the request's own fields."""

    image: Content | None = None
    last_image: Content | None = None
    video: Content | None = None
    continues: Content | None = None
    references: tuple[Content, ...] = ()
    #: The picture of `watermark.image`.
    watermark: Content | None = None

    def items(self) -> Iterator[tuple[str, Content]]:
        """Each file with its parameter's name."""
        for name in ("image", "last_image", "video", "continues"):
            content = getattr(self, name)
            if content is not None:
                yield name, content
        for index, content in enumerate(self.references):
            yield f"references[{index}]", content
        if self.watermark is not None:
            yield WATERMARK, self.watermark

    def mapped(self, change: Callable[[str, Content], Content]) -> Sent:
        """Return the same with each file replaced by what `change` makes of its parameter's name and of it."""

        def changed(name: str, content: Content | None) -> Content | None:
            return None if content is None else change(name, content)

        references = enumerate(self.references)
        return dataclasses.replace(
            self,
            image=changed("image", self.image),
            last_image=changed("last_image", self.last_image),
            video=changed("video", self.video),
            continues=changed("continues", self.continues),
            references=tuple(change(f"references[{index}]", content) for index, content in references),
            watermark=changed(WATERMARK, self.watermark),
        )

    @property
    def has_urls(self) -> bool:
        return any(isinstance(content, str) for _, content in self.items())

    @property
    def has_jobs_videos(self) -> bool:
        return any(isinstance(content, OfJob) for _, content in self.items())

    @property
    def has_file_ids(self) -> bool:
        return any(isinstance(content, FileId | CharacterId) for _, content in self.items())


NOTHING = Sent()

WATERMARK = "watermark.image"
"""The parameter's name."""


def named(request: GenerationRequest, sent: Sent, job_id: str) -> GenerationRequest:
    """Put the keys into a request under which what was sent will be stored. A key begins with its job's id and a dot."""
    start = f"inputs/{job_id}"
    return dataclasses.replace(
        request,
        image=request.image if sent.image is None else f"{start}.png",
        last_image=request.last_image if sent.last_image is None else f"{start}.last_image.png",
        video=request.video if sent.video is None else f"{start}.video",
        continues=request.continues if sent.continues is None else f"{start}.continues",
        references=tuple(f"{start}.reference-{index}.png" for index, _ in enumerate(sent.references))
        or request.references,
        watermark=_named_watermark(request, sent, start),
    )


def _named_watermark(request: GenerationRequest, sent: Sent, start: str) -> Watermark | None:
    if sent.watermark is None:
        return request.watermark
    return dataclasses.replace(request.watermark or Watermark(), image=f"{start}.watermark.png")


async def fetched(
    sent: Sent, outbound: Outbound | None, max_bytes: int, own: Callable[[str, int], bytes | None]
) -> Sent:
    """Fetch what is a URL.

    Args:
        sent: what came with a request.
        outbound: the way to URLs that users give; None refuses them.
        max_bytes: the largest file that is fetched.
        own: reads the file of an address that is a link of this server's, of so many bytes at most; None if it is none.

    Raises:
        InvalidParameter: the URL is not one that is fetched, or there is no file of a bearable size.
        QueueFull: too many are being fetched.
    """

    async def fetch(name: str, content: Content | None) -> Content | None:
        if not isinstance(content, str):
            return content
        try:
            found = await asyncio.to_thread(own, content, max_bytes)
        except InvalidParameter as error:
            raise InvalidParameter(name, content, error.rule) from None
        if found is not None:
            return found
        if outbound is None:
            hint = "send the file itself, or a data: URL"
            raise InvalidParameter(name, content, "URLs are not fetched by this server", hint=hint)
        try:
            return (await outbound.fetch(content, max_bytes=max_bytes)).data
        except UrlRefused as error:
            raise InvalidParameter(name, content, error.rule, hint=error.hint) from None

    references = [
        await fetch(f"references[{index}]", content) for index, content in enumerate(sent.references)
    ]
    return Sent(
        image=await fetch("image", sent.image),
        last_image=await fetch("last_image", sent.last_image),
        video=await fetch("video", sent.video),
        continues=await fetch("continues", sent.continues),
        references=tuple(content for content in references if content is not None),
        watermark=await fetch(WATERMARK, sent.watermark),
    )


def store(sent: Sent, request: GenerationRequest, plan: Plan, files: Storage) -> None:
    """Check the pictures and the video and store them: pictures as PNG, whatever they were.

    Raises:
        InvalidParameter: one of them cannot be read.
        QueueFull: too many are being read.
    """
    # at the largest size that a model starts from: a photo of 50 megapixels need not be kept or decoded again
    shown = (plan.second or plan).shown
    size = (shown.height, shown.width)
    names = ("image", "last_image", "video", "continues")
    keys: dict[str, str | None] = {name: getattr(request, name) for name in names}
    keys[WATERMARK] = None if request.watermark is None else request.watermark.image
    keys |= {f"references[{index}]": key for index, key in enumerate(request.references)}
    for name, content in sent.items():
        key = keys[name]
        assert key is not None, "they are named first"
        is_video = name in ("video", "continues")
        if isinstance(content, Kept):
            with _still_there(content, files):
                _store_kept(content, key, files, first_frame_size=None if is_video else size)
            continue
        assert isinstance(content, bytes), "they are fetched first"
        # a video was read through by `measured`
        files.put_bytes(content if is_video else _png(name, content, size), key)


def _store_kept(kept: Kept, key: str, files: Storage, first_frame_size: tuple[int, int] | None) -> None:
    """Copy a video that a worker of ours has written, or take its first frame."""
    if first_frame_size is None:
        files.copy(kept.key, key)  # never in memory: it may be a minute of the largest pictures
        return
    with files.open(kept.key) as file:
        video = file.read()
    files.put_bytes(_first_frame(video, first_frame_size), key)


@contextlib.contextmanager
def _still_there(kept: Kept, files: Storage) -> Iterator[None]:
    """Say of a video that went meanwhile that it has expired."""
    try:
        yield
    except StorageUnavailable:
        raise
    except StorageError:
        try:
            files.stat(kept.key)
        except StorageUnavailable:
            raise
        except StorageError:
            raise VideoExpired(SOURCE_GONE) from None
        raise  # what went wrong is the copy, such as that the disk is full


def _first_frame(video: bytes, size: tuple[int, int]) -> bytes:
    picture = media.picture_of_video(
        video, size=size, at_seconds=0, max_frames=MAX_VIDEO_FRAMES, max_seconds=MAX_VIDEO_SECONDS
    )
    return picture.to_png()


def _png(name: str, content: bytes, size: tuple[int, int]) -> bytes:
    try:
        is_watermark = name == WATERMARK
        if is_watermark or name.startswith("references"):
            picture = media.open_picture(content, max_side=MAX_REFERENCE_SIDE, with_opacity=is_watermark)
            return picture.to_png()
        return media.open_picture(content, size=size).to_png()
    except UnreadableImage as error:
        raise unreadable(name, content, error) from None


def measured(content: bytes, name: str = "video") -> media.SentVideo:
    """Read a video through and tell what it is.

    Args:
        content: the file.
        name: of the parameter that it came in.

    Raises:
        InvalidParameter: it cannot be read.
        QueueFull: too many others are being read.
    """
    try:
        return media.measure_video(content, max_frames=MAX_VIDEO_FRAMES, max_seconds=MAX_VIDEO_SECONDS)
    except UnreadableVideo as error:
        raise unreadable(name, content, error) from None


def measured_before(video: Video) -> media.SentVideo:
    """Tell the same of a video that a worker of ours has written and measured."""
    seconds = (video.num_frames - 1) / video.fps
    return media.SentVideo(video.height, video.width, video.num_frames, seconds)


def unreadable(name: str, content: bytes, error: UnreadableImage | UnreadableVideo) -> InvalidParameter:
    """Say of a parameter that its file cannot be read."""
    rule = f"it cannot be read: {error.message}"
    return InvalidParameter(name, f"{len(content)} bytes", rule, hint=error.hint)


def not_followed(request: GenerationRequest) -> tuple[Choice, ...]:
    """Say what `following` would decide of a request whose video is not read."""
    if request.video is None and (request.continues is None or request.continued_frames is not None):
        return ()
    asked = {"size": request.height and request.width, "num_frames": request.num_frames}
    reason = "the job takes it from the video, which is not read for a plan: here it is the model's"
    return tuple(Choice(name, "the video's", reason) for name, value in asked.items() if value is None)


def following(
    request: GenerationRequest, video: media.SentVideo, default_fps: int
) -> tuple[GenerationRequest, tuple[Choice, ...]]:
    """Take size and length, where they were not asked for, from the video that is to be changed."""
    choices = []
    if request.height is None or request.width is None:
        what = "size" if request.height is request.width else "shape"
        request = _of_its_shape(request, video)
        reason = f"the video that was sent has this {what}"
        choices.append(Choice("size", f"{request.width}x{request.height}", reason))
    if request.num_frames is None:
        fps = default_fps if request.fps is None else request.fps
        # the last picture is shown as long as the others
        seconds = video.seconds + (1 / video.fps if video.fps else 1 / fps)
        num_frames = num_frames_for(min(seconds, MAX_DURATION_SECONDS), max(1, fps))
        request = dataclasses.replace(request, num_frames=num_frames)
        reason = f"the video that was sent lasts {seconds:.2f} s"
        choices.append(Choice("num_frames", str(num_frames), reason))
    return request, tuple(choices)


def continuing(
    request: GenerationRequest, video: media.SentVideo
) -> tuple[GenerationRequest, tuple[Choice, ...]]:
    """Take from the video that is to be continued what was not asked for, and count its frames at the file's rate."""
    choices = []
    if request.height is None or request.width is None:
        request = _of_its_shape(request, video)
        reason = "the video that is continued has this size"
        choices.append(Choice("size", f"{request.width}x{request.height}", reason))
    if request.fps is None:
        fps = min(max(1, round(video.fps)), MAX_FPS) if video.fps else None
        if fps is not None:
            request = dataclasses.replace(request, fps=fps)
            choices.append(Choice("fps", str(fps), "the video that is continued has this rate"))
    if request.continued_frames is None:
        fps = max(1, request.fps or 1)
        # the last picture is shown as long as the others
        seconds = video.seconds + (1 / video.fps if video.fps else 1 / fps)
        count = num_frames_for(min(seconds, MAX_VIDEO_SECONDS), fps)
        request = dataclasses.replace(request, continued_frames=count)
        reason = f"the video that is continued lasts {seconds:.2f} s"
        choices.append(Choice("continued_frames", str(count), reason))
    return request, tuple(choices)


def following_kept(
    request: GenerationRequest, sent: Sent, default_fps: int
) -> tuple[GenerationRequest, tuple[Choice, ...]]:
    """Do what `following` and `continuing` do where what was sent is known without being read: another job's video."""
    given = next((content for _, content in sent.items() if isinstance(content, Kept)), None)
    if given is None or given.video is None:
        return request, ()
    request = dataclasses.replace(request, source=given.job_id, source_has_border=given.has_border)
    if sent.video is given:
        return following(request, measured_before(given.video), default_fps)
    if sent.continues is given:
        request = dataclasses.replace(request, continued_watermark=given.watermark)
        return continuing(request, measured_before(given.video))
    return request, ()


def _of_its_shape(request: GenerationRequest, video: media.SentVideo) -> GenerationRequest:
    """Take the video's size, or the missing side from its shape."""
    scale = 1.0
    if request.height is not None:
        scale = request.height / video.height
    elif request.width is not None:
        scale = request.width / video.width
    height = nearest_side(video.height * scale) if request.height is None else request.height
    width = nearest_side(video.width * scale) if request.width is None else request.width
    return dataclasses.replace(request, height=height, width=width)
