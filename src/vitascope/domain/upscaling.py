"""The second pass: over the first result, resized and noised again, at a larger size.

Whatever size the file is asked to have, the pass works at one that suits the model, as the first pass does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from . import schedulers
from .bounds import steps_that_run, strength_within, within
from .choice import Choice
from .errors import InvalidParameter
from .model_spec import Mode, ModelSpec, Size, UpscaleRule
from .request import GenerationRequest, Upscale
from .sizes import MAX_SIDE, SAME_SHAPE, Fit, fit_of, native_size, nearest_side, shown_part
from .windows import Window

FACTOR = 2
"""How many times larger each side becomes where nothing is said."""

MAX_GROWTH = 4
"""How many times more pixels than in the first pass a model is trusted with where its card does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpscalePass:
    """How the second pass is made."""

    #: At which it works.
    height: int
    width: int
    strength: float
    guidance_scale: float
    num_inference_steps: int
    #: As `Plan.scheduler`, of the checkpoint that makes the pass.
    scheduler: str | None = None
    #: Id of another checkpoint that makes it.
    model: str | None = None
    #: How each of the plan's windows starts: beside the first result, which all start from.
    modes: tuple[Mode, ...]

    @property
    def num_steps(self) -> int:
        """Denoising steps of one window."""
        return steps_that_run(self.num_inference_steps, self.strength)


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstPass:
    """What is known of the pass before."""

    asked: Size
    native: Size
    starts_from_frames: bool
    windows: tuple[Window, ...]
    num_inference_steps: int
    guidance_scale: float


@dataclass(frozen=True, slots=True)
class Upscaled:
    """What becomes of a request that asks for a second pass."""

    upscale: UpscalePass
    #: Of the file, and how the second pass's frames become it.
    size: Size
    fit: Fit
    choices: tuple[Choice, ...]


def upscaled(request: GenerationRequest, spec: ModelSpec, first: FirstPass) -> Upscaled | None:
    """Plan the second pass that a request asks for; None if it asks for none.

    Raises:
        InvalidParameter: it cannot be made.
    """
    asked = request.upscale
    if asked is None:
        return None
    rule = spec.upscale
    if rule is None:
        message = f"model `{spec.id}` cannot make a second pass over its own clips"
        raise InvalidParameter("upscale", "given", message, hint="leave it out or choose another model")
    maker, most_pixels = _maker(spec, rule), max_pixels(spec)
    modes = _modes(first.windows, maker)
    size, size_choices = _file_size(asked, spec, maker, first.asked, most_pixels)
    worked, fit, worked_choices = _size_of_pass(size, spec, maker, most_pixels, first)
    steps = _steps(asked, maker, rule, first)
    scheduler, scheduler_choices = _scheduler(request, maker, modes, steps)
    made = UpscalePass(
        height=worked.height,
        width=worked.width,
        strength=strength_within("upscale.strength", asked.strength, rule.strength, steps),
        guidance_scale=_guidance(asked, maker, rule, first),
        num_inference_steps=steps,
        scheduler=scheduler,
        model=rule.model,
        modes=modes,
    )
    choices = _choices(request, maker, first, modes, rule) + size_choices + worked_choices + scheduler_choices
    return Upscaled(made, size, fit, choices)


def max_pixels(spec: ModelSpec) -> int:
    """Tell the largest picture that a model's second pass denoises; 0 if it makes none."""
    rule = spec.upscale
    if rule is None:
        return 0
    if rule.max_pixels:
        return rule.max_pixels
    maker = spec.second or spec
    largest = max(maker.max_pixels, *(size.pixels for size in maker.sizes))
    return largest if rule.model or _has_own_sizes_only(spec, maker) else MAX_GROWTH * largest


def _has_own_sizes_only(spec: ModelSpec, maker: ModelSpec) -> bool:
    """Whether pictures of other sizes than its own do not look right, and the card does not say that they do."""
    return not maker.max_pixels and not (spec.upscale and spec.upscale.max_pixels)


def _maker(spec: ModelSpec, rule: UpscaleRule) -> ModelSpec:
    """The model of the pass: the other checkpoint's card, where one is named.

    Raises:
        InvalidParameter: this server does not have it.
    """
    if rule.model is None:
        return spec
    if spec.second is None:
        message = f"model `{spec.id}` makes its second pass with model `{rule.model}`, which this server does not have"
        raise InvalidParameter("upscale", "given", message, hint="leave it out or choose another model")
    return spec.second


def _modes(windows: Sequence[Window], maker: ModelSpec) -> tuple[Mode, ...]:
    """Tell how each window of the second pass starts: as in the first where that is possible.

    Raises:
        InvalidParameter: the model of the pass makes no windows like these.
    """
    rule = maker.frames
    for window in windows:
        count = window.num_frames
        if (count - rule.offset) % rule.multiple or not rule.minimum <= count <= rule.maximum:
            message = f"model `{maker.id}`, which makes the second pass, does not make {count} frames at once"
            raise InvalidParameter("upscale", "given", message, hint="leave it out")
    return tuple(_mode(window.mode, maker) for window in windows)


def _mode(mode: Mode, maker: ModelSpec) -> Mode:
    possible: tuple[Mode, ...] = (mode, "text", "video")
    found = next((each for each in possible if each in maker.pipelines), None)
    if found is None:
        message = f"model `{maker.id}`, which makes the second pass, does not start as the first pass does"
        raise InvalidParameter("upscale", "given", message, hint="leave it out")
    return found


def _file_size(
    asked: Upscale, spec: ModelSpec, maker: ModelSpec, first: Size, most_pixels: int
) -> tuple[Size, tuple[Choice, ...]]:
    """Tell the file's size: as asked, and never smaller than the first pass was asked for.

    Raises:
        InvalidParameter: it is.
    """
    if asked.height is None and asked.width is None:
        return _default_size(spec, maker, first, most_pixels)
    height, width = asked.height, asked.width
    if height is None:
        height = max(
            nearest_side(_side("width", width, first.width) * first.height / first.width), first.height
        )
    if width is None:
        width = max(
            nearest_side(_side("height", height, first.height) * first.width / first.height), first.width
        )
    return Size(_side("height", height, first.height), _side("width", width, first.width)), ()


def _side(name: str, side: int | None, least: int) -> int:
    if side is None or side % 2 or not least <= side <= MAX_SIDE:
        rule = f"it must be an even number of pixels from {least}, which the first pass has, to {MAX_SIDE}"
        raise InvalidParameter(f"upscale.{name}", side, rule, nearest=max(nearest_side(side or 0), least))
    return side


def _default_size(
    spec: ModelSpec, maker: ModelSpec, first: Size, most_pixels: int
) -> tuple[Size, tuple[Choice, ...]]:
    """Twice the first size, as far as the pass goes; or the own size of another checkpoint, if it has that shape."""
    for own in () if maker is spec else maker.sizes:
        is_alike = abs(own.width * first.height / (own.height * first.width) - 1) <= SAME_SHAPE
        if is_alike and own.pixels > first.pixels and own.height >= first.height and own.width >= first.width:
            return own, (Choice("upscale_size", str(own), f"model `{maker.id}` is made for this size"),)
    # a model of its own sizes only works at one of them, whatever the file's size is
    room = FACTOR if _has_own_sizes_only(spec, maker) else (most_pixels / first.pixels) ** 0.5
    longest = MAX_SIDE / max(first.height, first.width)
    factor = max(1.0, min(FACTOR, room, longest))
    size = Size(*(max(side, nearest_side(int(side * factor))) for side in (first.height, first.width)))
    if factor == FACTOR:
        return size, (Choice("upscale_size", str(size), f"{FACTOR} times the asked size"),)
    reason = f"{FACTOR} times the asked size is more than the {most_pixels} pixels that the pass goes to"
    return size, (Choice("upscale_size", str(size), reason),)


def _size_of_pass(
    file: Size, spec: ModelSpec, maker: ModelSpec, most_pixels: int, first: FirstPass
) -> tuple[Size, Fit, tuple[Choice, ...]]:
    """Tell the size at which the pass works: what the file shows of the first result, as large as in the file if it can.

    Never smaller than in the first result, where a file is smaller than that.
    """
    fit = fit_of(first.native, file, starts_from_frames=first.starts_from_frames)
    seen = shown_part(first.native, file, fit)
    wanted = file
    if fit == "pad":
        scale = min(file.height / seen.height, file.width / seen.width)
        wanted = Size(round(seen.height * scale), round(seen.width * scale))
    if wanted.pixels < seen.pixels:
        wanted = seen
    if _has_own_sizes_only(spec, maker):
        size, _, _ = native_size(wanted, maker)
        reason = f"model `{maker.id}` makes good pictures of its own sizes only"
    else:
        size = _legal(wanted, maker.size_multiple, max(most_pixels, seen.pixels))
        reason = f"of multiples of {maker.size_multiple} and at most {most_pixels} pixels this is the nearest to {file}"
    if size == file:
        return size, "none", ()
    fit = "pad" if fit == "pad" else fit_of(size, file)
    return size, fit, (Choice("upscale_native_size", str(size), f"{reason}: frames are resized"),)


def _legal(wanted: Size, multiple: int, most_pixels: int) -> Size:
    """The nearest size of that shape in multiples, within a number of pixels."""
    scale = min(1.0, (most_pixels / wanted.pixels) ** 0.5)
    height, width = (max(1, round(side * scale / multiple)) for side in (wanted.height, wanted.width))
    while height * width * multiple**2 > most_pixels and max(height, width) > 1:
        if height * wanted.width > width * wanted.height:  # the side that was rounded up more
            height -= 1
        else:
            width -= 1
        height, width = max(height, 1), max(width, 1)
    return Size(height * multiple, width * multiple)


def _steps(asked: Upscale, maker: ModelSpec, rule: UpscaleRule, first: FirstPass) -> int:
    bounds = maker.num_inference_steps
    default = rule.num_inference_steps or (bounds.default if rule.model else first.num_inference_steps)
    return int(
        within("upscale.num_inference_steps", asked.num_inference_steps, replace(bounds, default=default))
    )


def _guidance(asked: Upscale, maker: ModelSpec, rule: UpscaleRule, first: FirstPass) -> float:
    bounds, default = maker.guidance_scale, rule.guidance_scale
    if default is None:
        default = bounds.default if rule.model else first.guidance_scale
    return within("upscale.guidance_scale", asked.guidance_scale, replace(bounds, default=default))


def _scheduler(
    request: GenerationRequest, maker: ModelSpec, modes: Sequence[Mode], steps: int
) -> tuple[str | None, tuple[Choice, ...]]:
    """Tell which class's steps run in the second pass: those that were asked for, as far as its model has them."""
    name = maker.scheduler if request.scheduler is None else request.scheduler
    if name is None:
        return None, ()
    classes = [maker.pipelines[mode] for mode in modes]
    try:
        decision = schedulers.for_request(name, maker, classes, from_the_middle=True)
    except InvalidParameter as error:  # the first pass takes it
        return None, (Choice("upscale_scheduler", schedulers.OWN, error.rule),)
    if decision.max_steps and steps > decision.max_steps:
        rule = f"{decision.value} takes at most {decision.max_steps}"
        raise InvalidParameter("upscale.num_inference_steps", steps, rule, nearest=decision.max_steps)
    if decision.standing == "native":
        return decision.scheduler, ()
    reason = f"instead of {decision.name}: {decision.reason}"
    return decision.scheduler, (Choice("upscale_scheduler", decision.value, reason),)


def _choices(
    request: GenerationRequest, maker: ModelSpec, first: FirstPass, modes: Sequence[Mode], rule: UpscaleRule
) -> tuple[Choice, ...]:
    made: tuple[Choice, ...] = ()
    if rule.model is not None:
        made = (Choice("upscale_model", maker.id, "the model's card names it for the second pass"),)
        if request.loras:
            reason = f"they are for model `{request.model}`, and model `{maker.id}` makes the pass"
            made += (Choice("upscale_loras", "none", reason),)
    before = {window.mode for window in first.windows}
    if any(mode not in before for mode in modes) and before != {"text"}:
        reason = (
            f"model `{maker.id}` does not start from what the first pass starts from: only its result counts"
        )
        made += (Choice("upscale_mode", " ".join(dict.fromkeys(modes)), reason),)
    return made
