"""From the asked length to passes of the model: shots, and windows where a shot is longer than one pass."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from .choice import Choice
from .errors import InvalidParameter
from .model_spec import Mode, ModelSpec
from .request import GenerationRequest, num_frames_for

MAX_FPS = 60
MAX_GIF_FPS = 50
"""GIF counts time in hundredths of a second and viewers slow down below two of them."""

MAX_DURATION_SECONDS = 60
"""Longest file. A minute is the most that any dialect's documentation offers."""

MAX_CONTINUED_SECONDS = 120
"""Longest file that begins with another video: what clients send may last so long, and the vendors' documentation offers no more."""

MAX_SHOTS = 16


@dataclass(frozen=True, slots=True)
class Window:
    """One pass of the model."""

    num_frames: int
    #: What the pass starts from: nothing but text, a first frame, a video, …
    mode: Mode = "text"
    #: Frames that it shares with the end of the window before, which it continues; 0 where something new begins.
    overlap: int = 0
    #: Number of the shot that it is part of.
    shot: int = 0
    #: What it shows; empty means the plan's own prompt.
    prompt: str = ""
    #: Frames at its end that are dropped: the next shot starts from the frame before them.
    surplus: int = 0

    @property
    def continues(self) -> bool:
        return self.overlap > 0

    @property
    def num_new_frames(self) -> int:
        """Frames that it adds to the clip."""
        return self.num_frames - self.overlap - self.surplus


def asked_length(request: GenerationRequest, spec: ModelSpec, mode: Mode) -> tuple[tuple[int, ...], int]:
    """Tell frames of each shot, and the rate, of the file. What is not said lasts as long as the model's default clip.

    Raises:
        InvalidParameter: a length that the model does not reach, or lengths of shots that contradict the whole.
    """
    max_fps = MAX_GIF_FPS if request.format == "gif" else MAX_FPS
    fps = request.fps if request.fps is not None else spec.fps
    if not 1 <= fps <= max_fps:
        rule = f"it must be from 1 to {max_fps} for {request.format}"
        raise InvalidParameter("fps", fps, rule, nearest=min(max(fps, 1), max_fps))
    default = max(1, round(Fraction(spec.default_num_frames, spec.fps) * fps))
    longest = _longest(spec, fps, mode)
    if request.shots:
        return _shot_lengths(request, default, longest, fps), fps
    if request.continues is not None:
        return (_continued_length(request, default, fps),), fps
    num_frames = default if request.num_frames is None else request.num_frames
    _check_count("num_frames", num_frames, longest, f"model `{spec.id}` makes", fps)
    return (num_frames,), fps


def _continued_length(request: GenerationRequest, default: int, fps: int) -> int:
    """Frames of the whole file: those of the video that is continued, and at least one more."""
    given = (
        request.continued_frames or 1
    )  # until it is looked at, nobody knows: then all of this is done once more
    most = min(MAX_DURATION_SECONDS * fps, max(1, MAX_CONTINUED_SECONDS * fps - given))
    if request.num_frames is None and request.added_seconds is not None:
        return given + _added_frames(request.added_seconds, most, fps)
    asked = given + min(default, most) if request.num_frames is None else request.num_frames
    if not given < asked <= given + most:
        rule = f"with the {given} frames that are continued it must be from {given + 1} to {given + most} at {fps} fps"
        nearest = min(max(asked, given + 1), given + most)
        raise InvalidParameter("num_frames", asked, rule, nearest=nearest)
    return asked


def _added_frames(seconds: float, most: int, fps: int) -> int:
    count = num_frames_for(seconds, fps) if 0 < seconds < 2 * MAX_CONTINUED_SECONDS else 0  # for NaN too
    if not 1 <= count <= most:
        rule = f"it must be above 0 and at most {most / fps:g}: a video may last {MAX_CONTINUED_SECONDS} s with what is continued"
        nearest = (1 if seconds <= 0 else most) / fps
        raise InvalidParameter(
            "added_seconds", seconds, rule, nearest=int(nearest) if nearest.is_integer() else nearest
        )
    return count


def _shot_lengths(request: GenerationRequest, default: int, longest: int, fps: int) -> tuple[int, ...]:
    """Share the asked length among the shots that do not say their own.

    What the shots say is checked before the whole, and the whole before what is shared: so every refusal's nearest value is
    legal beside what was checked before.
    """
    most = MAX_DURATION_SECONDS * fps
    said = [shot.num_frames for shot in request.shots]
    _check_shots([1 if count is None else count for count in said], longest, most, fps)
    if request.num_frames is not None:
        _check_count("num_frames", request.num_frames, most, "all shots together have", fps)
    lengths = _shared(request.num_frames, said, default)
    _check_shots(lengths, longest, most, fps)
    if request.num_frames not in (None, sum(lengths)):
        rule = f"the shots have {sum(lengths)} frames together"
        raise InvalidParameter("num_frames", request.num_frames, rule, nearest=sum(lengths))
    return lengths


def _check_shots(lengths: Sequence[int], longest: int, most: int, fps: int) -> None:
    for index, count in enumerate(lengths):
        _check_count(f"shots[{index}].num_frames", count, longest, "a shot has", fps)
    too_many = sum(lengths) - most
    if too_many > 0:
        index = max(range(len(lengths)), key=lengths.__getitem__)
        rule = f"all shots together have at most {most} frames at {fps} fps"
        nearest = max(1, lengths[index] - too_many)
        raise InvalidParameter(f"shots[{index}].num_frames", lengths[index], rule, nearest=nearest)


def _shared(whole: int | None, said: list[int | None], default: int) -> tuple[int, ...]:
    missing = said.count(None)
    if whole is None or not missing:
        return tuple(default if count is None else count for count in said)
    left = whole - sum(count for count in said if count is not None)
    if left < missing:
        rule = "every shot needs at least one frame"
        raise InvalidParameter("num_frames", whole, rule, nearest=whole - left + missing)
    shares = iter(_shares(left, missing))
    return tuple(next(shares) if count is None else count for count in said)


def _shares(whole: int, parts: int) -> Iterator[int]:
    for index in range(parts):
        yield whole * (index + 1) // parts - whole * index // parts


def _check_count(name: str, num_frames: int, longest: int, who: str, fps: int) -> None:
    if not 1 <= num_frames <= longest:
        rule = f"{who} from 1 to {longest} frames at {fps} fps"
        raise InvalidParameter(name, num_frames, rule, nearest=min(max(num_frames, 1), longest))


def _longest(spec: ModelSpec, fps: int, mode: Mode) -> int:
    """Most frames of a shot at `fps`: a minute, or one window where the model cannot continue."""
    if spec.continuing_mode(mode) is not None:
        return MAX_DURATION_SECONDS * fps
    if fps == spec.fps:
        return spec.frames.maximum
    return int(Fraction(spec.frames.maximum - 1, spec.fps) * fps) + 1


def windows_of(
    request: GenerationRequest, spec: ModelSpec, mode: Mode, lengths: tuple[int, ...], fps: int
) -> tuple[tuple[Window, ...], tuple[Choice, ...]]:
    """Split shots into passes of the model that together reach each shot's last frame.

    Args:
        request: whose shots and prompt the windows show.
        spec: of the model.
        mode: what the video starts from.
        lengths: frames of each shot in the file.
        fps: of the file.
    """
    if request.continues is not None:
        needed = -(-(lengths[0] - (request.continued_frames or 1)) * spec.fps // fps)
        passes = list(_more(spec, mode, needed, spec.overlap, Window(0)))
        return tuple(passes), _length_choices(spec, passes, 1, is_cut=False, fps=fps)
    windows, is_cut = _shots(request, spec, mode, lengths, fps)
    if mode == "last_image":
        windows = [*(replace(w, mode="image") for w in windows[:-1]), replace(windows[-1], mode="last_image")]
        is_cut = False  # its last frame is what was asked for: see `Plan.native_rate`
    num_shots = len({window.shot for window in windows})
    choices = _length_choices(spec, windows, num_shots, is_cut=is_cut, fps=fps)
    return tuple(windows), _transition_choices(request, spec, mode) + choices


def _shots(
    request: GenerationRequest, spec: ModelSpec, mode: Mode, lengths: tuple[int, ...], fps: int
) -> tuple[list[Window], bool]:
    """Split each shot into passes; tell also whether the model makes frames that nobody sees.

    What is between two cuts is one clip: a shot that continues starts from the frame that the shot before shows last.
    """
    windows: list[Window] = []
    is_cut = False
    continuing = _continuing(request, spec, mode, len(lengths))
    made = shown = 0  # since the last cut: frames of the model, and of the file
    for index, length in enumerate(lengths):
        if not continuing[index]:
            made = shown = 0
        shown += length
        # up to the shot's last instant; a shot that continues and is shorter than a native frame needs none
        needed = -(-(shown - 1) * spec.fps // fps) + 1 - made
        like = Window(0, mode, 0, index, request.text_of_shot(index) if request.shots else "")
        if continuing[index]:
            passes = list(_more(spec, spec.continuing_mode(mode), needed, made, like))
        else:
            passes = list(_first_and_more(spec, needed, like))
        made += needed
        surplus = sum(window.num_new_frames for window in passes) - needed
        is_cut = is_cut or surplus > 0
        if surplus and continuing[index + 1]:
            passes[-1] = replace(passes[-1], surplus=surplus)
        windows += passes
    return windows, is_cut


def _continuing(request: GenerationRequest, spec: ModelSpec, mode: Mode, num_shots: int) -> list[bool]:
    """Tell of each shot, and of the one after the last, whether it starts from the one before."""
    if _why_cut(spec, mode) is not None:
        return [False] * (num_shots + 1)
    asked = [shot.transition == "continue" for shot in request.shots[1:]]
    return [False, *asked, False]


def _why_cut(spec: ModelSpec, mode: Mode) -> str | None:
    """Say why no shot can continue the one before; None if it can."""
    if mode == "video":
        return "each shot is made from what was given, and so not from the last frame of the shot before"
    if spec.continuing_mode(mode) is None:
        return f"model `{spec.id}` cannot start from a picture, and so not from the last frame of the shot before"
    return None


def _transition_choices(request: GenerationRequest, spec: ModelSpec, mode: Mode) -> tuple[Choice, ...]:
    reason = _why_cut(spec, mode)
    is_asked = any(shot.transition == "continue" for shot in request.shots[1:])
    return (Choice("transition", "cut", reason),) if is_asked and reason else ()


def _first_and_more(spec: ModelSpec, needed: int, like: Window) -> Iterator[Window]:
    num_frames, mode = spec.frames.at_least(needed), like.mode
    # a cut begins from the text, where the model can do that: the first frame belongs to the first shot
    if like.shot and mode in ("image", "last_image") and "text" in spec.pipelines:
        mode = "text"
    yield replace(like, num_frames=num_frames, mode=mode)
    yield from _more(spec, spec.continuing_mode(mode), needed - num_frames, num_frames, like)


def _more(spec: ModelSpec, mode: Mode | None, needed: int, made: int, like: Window) -> Iterator[Window]:
    """Yield passes that each start from the end of the one before, until so many frames are added.

    Args:
        spec: of the model.
        mode: of the passes; None makes none.
        needed: frames that are missing; none or less need no pass.
        made: frames that are there to start from.
        like: shows the same.
    """
    while needed > 0 and mode is not None:
        overlap = spec.overlap if made >= spec.overlap else 1
        # a pass that only just reaches beyond its overlap would still add something
        length = spec.frames.at_least(needed + overlap)
        yield replace(like, num_frames=length, mode=mode, overlap=overlap)
        needed -= length - overlap
        made += length - overlap


def scaled_lengths(durations: Sequence[float], num_frames: int) -> tuple[int, ...]:
    """Share frames among shots in the proportion of their durations; each gets one at least.

    Args:
        durations: above 0 and finite, in any unit; no more of them than frames.
        num_frames: of the file.
    """
    whole = sum(map(Fraction, durations))
    ends = [0]
    for index, until in enumerate(itertools.accumulate(map(Fraction, durations)), start=1):
        latest = num_frames - (len(durations) - index)
        ends.append(min(max(round(until * num_frames / whole), ends[-1] + 1), latest))
    return tuple(end - start for start, end in itertools.pairwise(ends))


def _length_choices(
    spec: ModelSpec, windows: list[Window], num_shots: int, *, is_cut: bool, fps: int
) -> tuple[Choice, ...]:
    choices: list[Choice] = []
    if len(windows) > num_shots:
        shapes = "+".join(str(window.num_frames) for window in windows)
        shared = "the last frame" if spec.overlap == 1 else f"the last {spec.overlap} frames"
        reason = (
            f"the model makes at most {spec.frames.maximum} frames: each window starts from {shared} before"
        )
        choices.append(Choice("windows", shapes, reason))
    elif is_cut:
        counts = "+".join(str(window.num_frames) for window in windows)
        choices.append(
            Choice("native_num_frames", counts, f"the model makes {spec.frames} frames: the rest is cut")
        )
    if fps != spec.fps:
        reason = f"the model's motion is made for {spec.fps} fps and is converted to {fps}"
        choices.append(Choice("resample", f"{spec.fps} -> {fps} fps", reason))
    return tuple(choices)
