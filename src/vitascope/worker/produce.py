"""From a plan to a file: generate, resample, fit, write. Knows nothing of jobs."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from vitascope import media
from vitascope.domain.choice import Choice
from vitascope.domain.errors import UnreadableImage, WriteFailed
from vitascope.domain.marks import OPERATORS_IMAGE
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import Plan
from vitascope.domain.provenance import Claim
from vitascope.domain.step import Step
from vitascope.domain.video import Picture, Video
from vitascope.engine import Clip, Engine, EngineBusy, Inputs, Sharing

from . import given
from .aside import Aside
from .described import MEDIA_TYPES, SHEET_SUFFIX, THUMBNAIL_SUFFIX, claim_of, content_of
from .reins import STOOD_STILL, Reins

if TYPE_CHECKING:
    from vitascope.engine.contract import Frames
    from vitascope.media.certificate import Credentials
    from vitascope.media.provenance import SignedFormat
    from vitascope.media.resample import Between
    from vitascope.media.watermark import Overlay
    from vitascope.moderation import FrameCheck

T = TypeVar("T")
R = TypeVar("R")

ENLARGED = 1.5
"""A file with so many times the pixels that the model made holds no detail of its own."""

LEAST_STOOD_SECONDS = 0.0005
"""Less is not told: whoever drives a making has to look at others too."""


@dataclass(frozen=True, slots=True)
class Marks:
    """What this machine has to mark files with."""

    #: None signs none.
    credentials: Credentials | None = None
    #: Whether prompts are signed into files, where everybody can read them.
    with_prompt: bool = False
    #: The operator's picture for a watermark.
    image: Path | None = None
    #: That picture, if it was read when this process started.
    overlay: Overlay | None = None


NO_MARKS = Marks()


@dataclass(frozen=True, slots=True)
class Product:
    """A written file and how it came about."""

    path: Path
    video: Video
    #: Automatic choices of the plan and of the engine.
    choices: tuple[Choice, ...]
    #: Wall-clock seconds by stage.
    seconds: dict[str, float]
    #: Name of the certificate that it is signed with; None if it is not signed.
    signer: str | None = None

    def details(self) -> dict[str, Any]:
        """What the job's metadata keeps."""
        choices = [{"name": c.name, "value": c.value, "reason": c.reason} for c in self.choices]
        seconds = {k: round(v, 3) for k, v in self.seconds.items()}
        return {"choices": choices, "seconds": seconds, "signer": self.signer}


def produce(
    engine: Engine,
    plan: Plan,
    spec: ModelSpec,
    out: Path,
    key: str = "",
    between: Between = "motion",
    marks: Marks = NO_MARKS,
    *,
    with_pictures: bool = False,
    check: FrameCheck | None = None,
    reins: Reins | None = None,
) -> Generator[Step | Product, None, None]:
    """Make the video that `plan` describes and write it to `out`.

    Closing the generator cancels; then, as after any error, nothing is left at `out` or beside it.

    Args:
        engine: makes the clip.
        plan: made for `spec`; its pictures and its video, if any, are paths here.
        spec: the model's card.
        out: the file to write; replaced if it exists.
        key: the name that the storage will know the file by.
        between: how frames are made where the file has more than the clip; see `media.resample_frames`.
        marks: what the file is marked with, where the plan says so.
        with_pictures: whether a thumbnail and a spritesheet are written beside the file, under its name with other endings.
        check: looks at the frames before anything is written.
        reins: by which it is driven beside others; None where it is not.

    Yields:
        Steps that never fall back, last the Product.

    Raises:
        GenerationError: it could not be made; the subclass says why.
        ContentRejected: it was made, and is not let through.
    """
    reins = reins or Reins()
    clock = StageClock(reins)
    inputs = yield from clock.over(_read_inputs(plan, reins))
    draw = _watermark(plan, marks)
    clip = yield from clock.over(_made(engine, plan, spec, inputs, reins))
    if check is not None:
        clock.enter("check_frames")
        yield Step("check_frames")
        for done, of in check.check("video", clip.frames, float(plan.native_rate)):
            yield Step("check_frames", done, of)
    clock.enter("resample")
    yield Step("resample")
    claim = claim_of(plan, spec, with_prompt=marks.with_prompt)
    origin = _Origin(claim, marks.credentials if plan.provenance else None)
    with contextlib.closing(_file_frames(clip, plan, inputs, between)) as frames:
        clock.enter("write_video")
        marked = _marked(frames, draw, plan.watermark_from)
        writer = _Writer(marked, plan, out, key, origin, with_pictures=with_pictures)
        video = yield from writer.write(reins)
    yield Product(out, video, plan.choices + clip.choices, clock.stop(), origin.signer)


def _read_inputs(plan: Plan, reins: Reins) -> Generator[Step, None, Inputs]:
    """Read what the video starts from, in a thread where that is more than nothing: a long one takes seconds to decode."""
    if not (plan.image or plan.last_image or plan.video or plan.continues or plan.references):
        return given.read_inputs(plan)
    reading = Aside(lambda: given.read_inputs(plan), "read-inputs")
    return (yield from reading.over(reins, lambda: Step("load")))


def _made(
    engine: Engine, plan: Plan, spec: ModelSpec, inputs: Inputs, reins: Reins
) -> Generator[Step, None, Clip]:
    """Have the engine make the clip, once it has room for it beside others."""
    while True:
        if reins.wake is not None and not engine.capacity(spec):
            yield Step("load", is_waiting=True)
            continue
        reins.sharing = None if reins.wake is None else Sharing(is_allowed=plan.may_share_forwards)
        reins.is_generating = True
        try:
            with contextlib.closing(engine.generate(plan, spec, inputs, reins.sharing)) as making:
                for event in making:
                    if isinstance(event, Clip):
                        return event
                    yield event
        except EngineBusy:  # its model has no room, although there is a place
            if reins.wake is None:
                raise
        finally:
            reins.sharing, reins.is_generating = None, False
        yield Step("load", is_waiting=True)


@dataclass(frozen=True, slots=True)
class _Origin:
    """What files say of where they come from; nothing, where they are not signed."""

    claim: Claim
    credentials: Credentials | None

    @property
    def signer(self) -> str | None:
        return None if self.credentials is None else self.credentials.name

    @property
    def sentence(self) -> str:
        return "" if self.credentials is None else self.claim.sentence

    def sign(self, path: Path, format: SignedFormat) -> None:
        if self.credentials is not None:
            from vitascope.media import provenance

            provenance.sign(path, format, self.claim, self.credentials)

    @property
    def xmp(self) -> bytes:
        """What pictures hold beside the signature; videos get it when they are signed."""
        if self.credentials is None:
            return b""
        from vitascope.media import xmp

        return xmp.packet(self.claim)


def _watermark(plan: Plan, marks: Marks) -> Callable[[Iterable[Frames]], Iterable[Frames]]:
    """Read what the watermark needs before the engine works; returns what draws it."""
    mark = plan.watermark
    if mark is None:
        return lambda frames: frames
    path = marks.image if mark.image == OPERATORS_IMAGE else mark.image and Path(mark.image)
    if mark.image is not None and not path:
        raise WriteFailed("the picture of the operator's watermark is not on the machine that made the video")
    image = marks.overlay if mark.image == OPERATORS_IMAGE else None
    try:
        if path and image is None:
            image = media.read_overlay(path)
    except UnreadableImage as error:
        raise WriteFailed(f"the watermark's picture cannot be read: {error.message}") from None
    size = {"height": plan.height, "width": plan.width}
    return lambda frames: media.draw_watermark(frames, mark, image=image, **size)


class _Stopped(Exception):
    """The writing was cancelled."""


class _Writer:
    """Writes a video and its pictures in a thread: a long one at a large size takes longer to write than to denoise."""

    def __init__(
        self,
        frames: Iterable[Frames],
        plan: Plan,
        out: Path,
        key: str,
        origin: _Origin,
        *,
        with_pictures: bool,
    ) -> None:
        self._frames = frames
        self._plan, self._out, self._key, self._origin = plan, out, key, origin
        self._with_pictures = with_pictures
        self._is_stopping = False
        self._done = 0

    def write(self, reins: Reins) -> Generator[Step, None, Video]:
        """Write, saying how far it is. Closing it ends that at the next frame and leaves no half-written file."""
        return (yield from Aside(self._write, "write-video", self._stop).over(reins, self._step))

    def _stop(self) -> None:
        self._is_stopping = True

    def _step(self) -> Step:
        return Step("write_video", self._done, self._plan.num_frames)

    def _write(self) -> Video:
        pictures = None
        if self._with_pictures:
            pictures = _Pictures(self._plan.num_frames, self._out, self._key, self._origin)
        try:
            media.write_video(
                self._counted(),
                self._out,
                fps=self._plan.fps,
                format=self._plan.format,
                comment=self._origin.sentence,
                finish=lambda path: self._origin.sign(path, self._plan.format),
                is_enlarged=is_enlarged(self._plan),
                is_kept=not self._key,  # else the storage takes it from there
                stills=None if pictures is None else pictures.stills,
                size=(self._plan.height, self._plan.width),
            )
            video = _describe(self._out, self._plan, self._key)
            return video if pictures is None else pictures.of(video)
        except BaseException:
            if pictures is not None:
                pictures.discard()
                self._out.unlink(missing_ok=True)  # without them it does not stay either
            raise

    def _counted(self) -> Iterator[Frames]:
        for frame in self._frames:
            if self._is_stopping:
                raise _Stopped
            yield frame
            self._done += 1


def is_enlarged(plan: Plan) -> bool:
    """Whether the file has many more pixels than the model made; what a continued video came with is as fine as it is."""
    pixels = plan.made.height * plan.made.width
    return plan.continues is None and plan.height * plan.width >= ENLARGED * pixels


def _file_frames(clip: Clip, plan: Plan, inputs: Inputs, between: Between) -> Generator[Frames, None, None]:
    """All frames of the file: those of a video that is continued as they are, what the model made at the asked rate and size."""
    made = _resampled(clip, plan, between)
    if plan.continues is not None:
        before = (inputs.larger or inputs).before
        assert before is not None
        yield from given.continued_frames(plan, plan.continues)
        made = _following(clip, before[-1:], plan, between)
    if _is_fitted_by_writer(plan):
        yield from made
    else:
        yield from media.fit_frames(made, height=plan.height, width=plan.width, fit=plan.fit)


def _is_fitted_by_writer(plan: Plan) -> bool:
    """Whether the file's frames are those of the model but for their size, and nothing is drawn on them: then it stretches them on the way."""
    return plan.fit == "scale" and plan.watermark is None and plan.continues is None


def _marked(
    frames: Iterator[Frames], draw: Callable[[Iterable[Frames]], Iterable[Frames]], first: int
) -> Iterator[Frames]:
    yield from itertools.islice(frames, first)
    yield from draw(frames)


def _following(clip: Clip, last: Frames, plan: Plan, between: Between) -> Iterator[Frames]:
    """Show what follows a given frame at the asked rate: what moves between the two is drawn as everywhere else."""
    frames = np.concatenate([last, clip.frames])
    num_frames = 1 + plan.num_frames - plan.continued_frames
    shown = media.resample_frames(
        frames, from_fps=plan.native_rate, to_fps=plan.fps, num_frames=num_frames, between=between
    )
    return itertools.islice(shown, 1, None)


def _resampled(clip: Clip, plan: Plan, between: Between) -> Iterator[Frames]:
    """Show what is between cuts at the asked rate on its own: nothing is drawn between the two sides of a cut."""
    at = 0
    for native, asked in plan.takes:
        part = clip.frames[at : at + native]
        yield from media.resample_frames(
            part, from_fps=plan.native_rate, to_fps=plan.fps, num_frames=asked, between=between
        )
        at += native


class _Pictures:
    """The pictures of a video, written beside it and signed as it is, each as soon as its frames have passed."""

    def __init__(self, num_frames: int, out: Path, key: str, origin: _Origin) -> None:
        self._key, self._origin = key, origin
        self._thumbnail, self._sheet = (out.with_suffix(end) for end in (THUMBNAIL_SUFFIX, SHEET_SUFFIX))
        self._showing = Aside(self._write_thumbnail, "write-thumbnail")
        self._tiling = Aside(self._write_sheet, "write-spritesheet")
        self.stills = media.Stills(num_frames, self._showing.start, self._tiling.start)

    def of(self, video: Video) -> Video:
        """Wait for them; returns the video with them."""
        thumbnail, sheet = self._showing.result(), self._tiling.result()
        return dataclasses.replace(video, thumbnail=thumbnail, spritesheet=sheet)

    def discard(self) -> None:
        """Leave nothing of them."""
        for writing in (self._showing, self._tiling):
            if writing.is_alive():
                writing.join()
        for path in (self._thumbnail, self._sheet):
            path.unlink(missing_ok=True)

    def _write_thumbnail(self) -> Picture:
        size = self.stills.save_thumbnail(
            self._thumbnail, xmp=self._origin.xmp, finish=lambda path: self._origin.sign(path, "webp")
        )
        return self._picture(self._thumbnail, THUMBNAIL_SUFFIX, "image/webp", size)

    def _write_sheet(self) -> Picture:
        size = self.stills.save_spritesheet(
            self._sheet, xmp=self._origin.xmp, finish=lambda path: self._origin.sign(path, "jpeg")
        )
        return self._picture(self._sheet, SHEET_SUFFIX, "image/jpeg", size)

    def _picture(self, path: Path, suffix: str, media_type: str, size: tuple[int, int]) -> Picture:
        key = str(PurePosixPath(self._key).with_suffix(suffix))
        return Picture(key=key, media_type=media_type, height=size[0], width=size[1], **content_of(path))


def _describe(path: Path, plan: Plan, key: str) -> Video:
    return Video(
        key=key,
        media_type=MEDIA_TYPES[plan.format],
        **content_of(path),
        height=plan.height,
        width=plan.width,
        num_frames=plan.num_frames,
        fps=plan.fps,
    )


class StageClock:
    """Sums the seconds that each stage takes, and those for which the making stood still apart from them."""

    def __init__(self, reins: Reins) -> None:
        self._reins = reins
        self._stood_before = reins.stood_seconds
        self._seconds: dict[str, float] = {}
        self._stage = ""
        self._since = reins.now()

    def enter(self, stage: str) -> None:
        now = self._reins.now()
        if self._stage:
            self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + now - self._since
        self._stage, self._since = stage, now

    def over(self, steps: Generator[Step | T, None, R]) -> Generator[Step | T, None, R]:
        """Pass steps on, and enter the stage of each."""
        try:
            while True:
                event = next(steps)
                if isinstance(event, Step):
                    self.enter(event.stage)
                yield event
        except StopIteration as finished:
            result: R = finished.value
            return result
        finally:
            steps.close()

    def stop(self) -> dict[str, float]:
        self.enter("")
        stood = self._reins.stood_seconds - self._stood_before
        return self._seconds | ({STOOD_STILL: stood} if stood >= LEAST_STOOD_SECONDS else {})
