"""How a request is made: from what was asked to what the model does natively, and back.

`plan` is a pure function. Whatever it cannot plan is an `InvalidParameter` with the nearest legal value; whatever it
decides on its own is a `Choice` with its reason.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from .choice import Choice
from .errors import InvalidParameter
from .model_spec import Bounds, Mode, ModelSpec, Size
from .request import MAX_PRIORITY, MAX_SEED, OUTPUT_FORMATS, GenerationRequest, OutputFormat

MAX_PROMPT_CHARS = 32_000
"""The longest prompt that the OpenAI Videos API documents. Text encoders read far less and cut the rest."""

MIN_SIDE, MAX_SIDE = 16, 4096
"""Pixels. The upper end is what H.264 level 5.2 players take."""

MAX_FPS = 60
MAX_GIF_FPS = 50
"""GIF counts time in hundredths of a second and viewers slow down below two of them."""

MAX_DURATION_SECONDS = 60
"""Longest file. A minute is the most that any dialect's documentation offers."""

MAX_CROP_LOSS = 0.25
"""Share of the native picture that may be cut away to reach the asked shape; beyond it, borders are added instead."""

Fit = Literal["none", "scale", "crop", "pad"]


@dataclass(frozen=True, slots=True)
class Window:
    """One pass of the model."""

    num_frames: int
    #: Whether it starts from the last frame of the window before (which is then not shown twice).
    continues: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that the engine and the file writer need to make one video."""

    model: str
    mode: Mode
    prompt: str
    negative_prompt: str
    image: str | None
    seed: int
    num_inference_steps: int
    guidance_scale: float
    scheduler: str | None

    native_height: int
    native_width: int
    native_fps: int
    windows: tuple[Window, ...]

    height: int
    width: int
    num_frames: int
    fps: int
    fit: Fit
    format: OutputFormat
    choices: tuple[Choice, ...]

    @property
    def native_num_frames(self) -> int:
        return sum(window.num_frames - window.continues for window in self.windows)

    @property
    def total_steps(self) -> int:
        return self.num_inference_steps * len(self.windows)

    @property
    def duration_seconds(self) -> float:
        return self.num_frames / self.fps

    def to_dict(self) -> dict[str, Any]:
        """Make plain JSON values of it, for the store and the pipe to the engine process."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        windows = tuple(Window(**window) for window in values["windows"])
        choices = tuple(Choice(**choice) for choice in values["choices"])
        return cls(**{**values, "windows": windows, "choices": choices})


def plan(request: GenerationRequest, spec: ModelSpec) -> Plan:
    """Decide how `spec`'s model makes what `request` asks for.

    Raises:
        InvalidParameter: the request asks for something that cannot be made.
    """
    _check_text(request)
    _check_priority(request)
    mode = _mode(request, spec)
    size = _asked_size(request, spec)
    native, fit, size_choices = _native_size(size, spec)
    num_frames, fps = _asked_length(request, spec)
    windows, length_choices = _windows(num_frames, fps, spec)
    return Plan(
        model=spec.id,
        mode=mode,
        prompt=request.prompt.strip(),
        negative_prompt=request.negative_prompt.strip(),
        image=request.image,
        seed=_seed(request),
        num_inference_steps=int(
            _within("num_inference_steps", request.num_inference_steps, spec.num_inference_steps)
        ),
        guidance_scale=_within("guidance_scale", request.guidance_scale, spec.guidance_scale),
        scheduler=_scheduler(request, spec),
        native_height=native.height,
        native_width=native.width,
        native_fps=spec.fps,
        windows=windows,
        height=size.height,
        width=size.width,
        num_frames=num_frames,
        fps=fps,
        fit=fit,
        format=request.format,
        choices=size_choices + length_choices,
    )


def _check_text(request: GenerationRequest) -> None:
    if not request.prompt.strip():
        raise InvalidParameter("prompt", request.prompt, "it must say what the video shows")
    for name in ("prompt", "negative_prompt"):
        text = getattr(request, name)
        if len(text) > MAX_PROMPT_CHARS:
            rule = f"it must have at most {MAX_PROMPT_CHARS} characters"
            raise InvalidParameter(name, f"{len(text)} characters long", rule)
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise InvalidParameter(name, ascii(text), "it must be UTF-8 text")
    if request.format not in OUTPUT_FORMATS:
        rule = f"it must be one of {', '.join(OUTPUT_FORMATS)}"
        raise InvalidParameter("format", request.format, rule, nearest="mp4")


def _check_priority(request: GenerationRequest) -> None:
    if abs(request.priority) > MAX_PRIORITY:
        nearest = MAX_PRIORITY if request.priority > 0 else -MAX_PRIORITY
        rule = f"it must be from {-MAX_PRIORITY} to {MAX_PRIORITY}"
        raise InvalidParameter("priority", request.priority, rule, nearest=nearest)


def _mode(request: GenerationRequest, spec: ModelSpec) -> Mode:
    if request.image is not None:
        if "image" not in spec.pipelines:
            rule = f"model `{spec.id}` makes videos from text only"
            raise InvalidParameter("image", "given", rule, hint="leave the image out or choose another model")
        return "image"
    if "text" not in spec.pipelines:
        rule = f"model `{spec.id}` needs an image to start from"
        raise InvalidParameter("image", "missing", rule)
    return "text"


def _seed(request: GenerationRequest) -> int:
    if request.seed is None:
        message = "plan() needs a drawn seed: draw it where the request enters"
        raise ValueError(message)
    if not 0 <= request.seed <= MAX_SEED:
        nearest = min(max(request.seed, 0), MAX_SEED)
        raise InvalidParameter("seed", request.seed, f"it must be from 0 to {MAX_SEED}", nearest=nearest)
    return request.seed


def _within(name: str, value: float | None, bounds: Bounds) -> float:
    if value is None:
        return bounds.default
    if not bounds.minimum <= value <= bounds.maximum:  # also catches NaN
        nearest = bounds.maximum if value > bounds.maximum else bounds.minimum
        rule = f"it must be from {bounds.minimum:g} to {bounds.maximum:g}"
        raise InvalidParameter(
            name, value, rule, nearest=int(nearest) if nearest == int(nearest) else nearest
        )
    return value


def _scheduler(request: GenerationRequest, spec: ModelSpec) -> str | None:
    if request.scheduler is None or request.scheduler in spec.schedulers:
        return request.scheduler
    known = ", ".join(spec.schedulers) or "none by name"
    raise InvalidParameter("scheduler", request.scheduler, f"model `{spec.id}` accepts {known}")


def _asked_size(request: GenerationRequest, spec: ModelSpec) -> Size:
    """Size of the file: as asked; a missing side follows the model's default shape."""
    default = spec.default_size
    height, width = request.height, request.width
    if height is None and width is None:
        return default
    if height is None:
        height = nearest_side(_side("width", width) * default.height / default.width)
    if width is None:
        width = nearest_side(_side("height", height) * default.width / default.height)
    return Size(_side("height", height), _side("width", width))


def nearest_side(side: float) -> int:
    """The legal height or width that is nearest, in pixels."""
    return min(max(round(side / 2) * 2, MIN_SIDE), MAX_SIDE)


def _side(name: str, side: int | None) -> int:
    if side is None or side % 2 or not MIN_SIDE <= side <= MAX_SIDE:
        rule = f"it must be an even number of pixels from {MIN_SIDE} to {MAX_SIDE}"
        raise InvalidParameter(name, side, rule, nearest=nearest_side(side or 0))
    return side


def _native_size(asked: Size, spec: ModelSpec) -> tuple[Size, Fit, tuple[Choice, ...]]:
    """Choose the size at which the model works, and how its frames become the asked size."""
    multiple = spec.size_multiple
    if asked in spec.sizes:
        return asked, "none", ()
    if asked.pixels <= spec.max_pixels and not (asked.height % multiple or asked.width % multiple):
        return asked, "none", ()
    native = _nearest_shape(asked, spec)
    fit = _fit(native, asked)
    reason = {
        "none": "the model makes this size",
        "scale": f"{asked} has the same shape: frames are resized",
        "crop": f"{asked} has nearly this shape: frames are resized and their edges cut",
        "pad": f"{asked} has another shape: frames are resized and set on a blurred border",
    }[fit]
    return native, fit, (Choice("native_size", str(native), reason),)


def _nearest_shape(asked: Size, spec: ModelSpec) -> Size:
    """Of the sizes that the model makes, the one whose shape, then whose area, is nearest."""
    candidates = list(spec.sizes)
    if spec.max_pixels:
        candidates.append(_largest_of_shape(asked, spec))

    def distance(size: Size) -> tuple[float, int]:
        kept = _kept_share(size, asked)
        return (-round(kept, 2), abs(size.pixels - asked.pixels))

    return min(candidates, key=distance)


def _largest_of_shape(asked: Size, spec: ModelSpec) -> Size:
    """The asked shape in legal multiples: at its own size where that fits, else as large as the model goes."""
    scale = min(1.0, (spec.max_pixels / asked.pixels) ** 0.5)
    multiple = spec.size_multiple
    height = max(multiple, int(asked.height * scale) // multiple * multiple)
    width = max(multiple, int(asked.width * scale) // multiple * multiple)
    return Size(height, width)


def _kept_share(native: Size, asked: Size) -> float:
    """Share of the native picture that is left after cutting it to the asked shape."""
    ratio = (native.width * asked.height) / (native.height * asked.width)
    return min(ratio, 1 / ratio)


def _fit(native: Size, asked: Size) -> Fit:
    if native == asked:
        return "none"
    kept = _kept_share(native, asked)
    if kept > 0.99:  # the difference of a pixel or two: stretching it is invisible
        return "scale"
    return "crop" if 1 - kept <= MAX_CROP_LOSS else "pad"


def _asked_length(request: GenerationRequest, spec: ModelSpec) -> tuple[int, int]:
    """Frames and rate of the file. Without a frame count it lasts as long as the model's default clip."""
    max_fps = MAX_GIF_FPS if request.format == "gif" else MAX_FPS
    fps = request.fps if request.fps is not None else spec.fps
    if not 1 <= fps <= max_fps:
        rule = f"it must be from 1 to {max_fps} for {request.format}"
        raise InvalidParameter("fps", fps, rule, nearest=min(max(fps, 1), max_fps))
    num_frames = request.num_frames
    if num_frames is None:
        num_frames = max(1, round(Fraction(spec.default_num_frames, spec.fps) * fps))
    longest = _longest(spec, fps)
    if not 1 <= num_frames <= longest:
        rule = f"model `{spec.id}` makes from 1 to {longest} frames at {fps} fps"
        raise InvalidParameter("num_frames", num_frames, rule, nearest=min(max(num_frames, 1), longest))
    return num_frames, fps


def _longest(spec: ModelSpec, fps: int) -> int:
    """Most frames of a file at `fps`: a minute, or one window where the model cannot continue."""
    if spec.continues:
        return MAX_DURATION_SECONDS * fps
    if fps == spec.fps:
        return spec.frames.maximum
    return int(Fraction(spec.frames.maximum - 1, spec.fps) * fps) + 1


def _windows(num_frames: int, fps: int, spec: ModelSpec) -> tuple[tuple[Window, ...], tuple[Choice, ...]]:
    """Split the asked length into passes of the model that together reach its last frame."""
    needed = -(-(num_frames - 1) * spec.fps // fps) + 1  # native frames from the first to the last instant
    first = spec.frames.at_least(needed)
    windows = [Window(first)]
    covered = first
    while covered < needed:
        length = spec.frames.at_least(needed - covered + 1)
        windows.append(Window(length, continues=True))
        covered += length - 1
    choices: list[Choice] = []
    if len(windows) > 1:
        shapes = "+".join(str(window.num_frames) for window in windows)
        reason = f"the model makes at most {spec.frames.maximum} frames: each window starts from the last frame before"
        choices.append(Choice("windows", shapes, reason))
    elif covered > needed:
        reason = f"the model makes {spec.frames} frames: the rest is cut"
        choices.append(Choice("native_num_frames", str(covered), reason))
    if fps != spec.fps:
        reason = f"the model's motion is made for {spec.fps} fps and is converted to {fps}"
        choices.append(Choice("resample", f"{spec.fps} -> {fps} fps", reason))
    return tuple(windows), tuple(choices)
