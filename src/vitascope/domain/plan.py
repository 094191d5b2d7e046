"""How a request is made: from what was asked to what the model does natively, and back.

`plan` is a pure function. Whatever it cannot plan is an `InvalidParameter` with the nearest legal value; whatever it
decides on its own is a `Choice` with its reason.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from . import schedulers
from .bounds import steps_that_run, strength_within, within
from .choice import Choice
from .errors import InvalidParameter
from .improved_sampling import improved_sampling_of
from .loras import loras_of
from .marks import MarkRules, is_signed, watermark_of
from .model_spec import Bounds, Mode, ModelSpec, Size
from .request import (
    MAX_EXPIRES_SECONDS,
    MAX_NUM_VIDEOS,
    MAX_PRIORITY,
    MAX_SEED,
    MIN_EXPIRES_SECONDS,
    OUTPUT_FORMATS,
    TRANSITIONS,
    GenerationRequest,
    ImprovedSampling,
    Lora,
    OutputFormat,
    Transition,
    Watermark,
)
from .sizes import Fit, asked_size, native_size, shown_part
from .speed_levels import SpeedLevel, StepCache, step_cache_of
from .upscaling import FirstPass, UpscalePass, upscaled
from .windows import MAX_SHOTS, Window, asked_length, windows_of

MAX_PROMPT_CHARS = 32_000
"""The longest prompt that the OpenAI Videos API documents. Text encoders read far less and cut the rest."""

MAX_REFERENCES = 8

MAX_PREVIEW_EVERY = 1000

FLOW_SHIFTS = Bounds(1.0, 0.1, 100.0)
"""Models are made with 1 to 17: beyond these ends nearly all steps would be at one level."""

_HALF_CHARACTER = re.compile("[\ud800-\udfff]")


SECOND = "upscale_"
"""Before the names of what is chosen for a second pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that the engine and the file writer need to make a video.

    Of several videos of one request it is the first one's; `of_video` gives those of all.
    """

    model: str
    mode: Mode
    prompt: str
    negative_prompt: str
    image: str | None
    last_image: str | None = None
    video: str | None = None
    #: The video that comes first in the file.
    continues: str | None = None
    #: How many of the file's frames are its.
    continued_frames: int = 0
    references: tuple[str, ...] = ()
    seed: int
    #: Alike but for the seed; what else is counted here (steps, frames) is of one of them.
    num_videos: int = 1
    #: See `GenerationRequest.is_seed_drawn`.
    is_seed_drawn: bool = False
    num_inference_steps: int
    guidance_scale: float
    scheduler: str | None
    flow_shift: float | None = None
    strength: float | None = None
    #: Beside those of the model's card.
    loras: tuple[Lora, ...] = ()
    clip_skip: int | None = None
    #: With its seed and number of rounds; None denoises once.
    improved_sampling: ImprovedSampling | None = None
    preview_every: int = 0
    #: What is reused from step to step; None computes every one in full.
    step_cache: StepCache | None = None
    #: Whether a language model writes the prompt out first; here it is as it was sent.
    enhance_prompt: bool = False
    #: What it has written before, in the place of the texts that the windows show.
    enhanced_prompts: tuple[str, ...] = ()
    #: What the engine chose for an earlier try at the same job, by name, as far as its pictures depend on that: so that a later
    #: one makes the same. What is chosen for a second pass begins with `SECOND`.
    settled: tuple[tuple[str, str], ...] = ()
    #: The second pass, if there is one.
    upscale: UpscalePass | None = None

    native_height: int
    native_width: int
    native_fps: int
    windows: tuple[Window, ...]

    height: int
    width: int
    num_frames: int
    #: Frames of each shot in the file; empty if there is only one.
    shot_num_frames: tuple[int, ...] = ()
    fps: int
    fit: Fit
    format: OutputFormat
    #: Whether the file carries a signed statement of its origin.
    provenance: bool = True
    watermark: Watermark | None = None
    #: The first frame that it is drawn on: a video that is continued may bear it already.
    watermark_from: int = 0
    choices: tuple[Choice, ...]

    @property
    def speed(self) -> SpeedLevel:
        """How far it may differ from what every step computed in full would make: the level in effect."""
        return "lossless" if self.step_cache is None else self.step_cache.level

    @property
    def may_share_forwards(self) -> bool:
        """Whether a forward of the model may be computed together with those of other jobs.

        That changes the lowest bits, which a client who gave a seed does not want; and what a step cache reuses is one job's own.
        """
        return self.is_seed_drawn and self.step_cache is None

    @property
    def shown(self) -> Size:
        """Of the model's frames the part in the middle that the file shows, or that a second pass goes on with."""
        native = Size(self.native_height, self.native_width)
        if self.upscale is not None:
            return shown_part(native, self.made, "crop")
        return shown_part(native, Size(self.height, self.width), self.fit)

    @property
    def native_num_frames(self) -> int:
        """What the model makes; frames that it only starts from are not among them."""
        return sum(window.num_new_frames for window in self.windows)

    @property
    def shots(self) -> tuple[tuple[int, Transition], ...]:
        """Of each shot: frames that it has in the file, and how it begins; the first one as if by a cut."""
        cuts = {0, *(window.shot for window in self.windows if not window.continues)}
        lengths = self.shot_num_frames or (self.num_frames,)
        return tuple((length, "cut" if i in cuts else "continue") for i, length in enumerate(lengths))

    @property
    def takes(self) -> tuple[tuple[int, int], ...]:
        """Of each row of shots without a cut between them: frames that the model makes, and frames in the file."""
        native = [0] * len(self.shots)
        for window in self.windows:
            native[window.shot] += window.num_new_frames
        takes: list[tuple[int, int]] = []
        for made, (length, transition) in zip(native, self.shots, strict=True):
            before = takes.pop() if transition == "continue" else (0, 0)
            takes.append((before[0] + made, before[1] + length))
        return tuple(takes)

    @property
    def native_rate(self) -> Fraction:
        """Rate at which the model's frames are shown.

        It is the model's own, but where the video ends with a given picture: then all its frames are shown in the asked time,
        so that the last one is the last.
        """
        if self.mode == "last_image" and self.num_frames > 1:
            return Fraction((self.native_num_frames - 1) * self.fps, self.num_frames - 1)
        return Fraction(self.native_fps)

    @property
    def steps_per_window(self) -> int:
        """Denoising steps of one pass, in all its rounds: of a video that is changed only the last part, as diffusers counts it."""
        if self.improved_sampling is not None:
            return self.num_inference_steps * (self.improved_sampling.iterations or 1)
        if self.strength is None:
            return self.num_inference_steps
        return steps_that_run(self.num_inference_steps, self.strength)

    @property
    def total_steps(self) -> int:
        """Denoising steps of all windows, in both passes if there are two."""
        if self.upscale is None:
            return self.first_steps
        return self.first_steps + self.upscale.num_steps * len(self.windows)

    @property
    def first_steps(self) -> int:
        """Those before the second pass."""
        return self.steps_per_window * len(self.windows)

    @property
    def made(self) -> Size:
        """Size of the frames that the engine hands over: the native one, or that of the second pass."""
        if self.upscale is not None:
            return Size(self.upscale.height, self.upscale.width)
        return Size(self.native_height, self.native_width)

    @property
    def second(self) -> Plan | None:
        """The second pass as a plan of its own; None if there is none.

        Its frames are what the file is made of, and it starts from the same pictures as the first.
        """
        this = self.upscale
        if this is None:
            return None
        windows = tuple(
            dataclasses.replace(window, mode=mode)
            for window, mode in zip(self.windows, this.modes, strict=True)
        )
        return dataclasses.replace(
            self,
            model=this.model or self.model,
            native_height=this.height,
            native_width=this.width,
            windows=windows,
            strength=this.strength,
            guidance_scale=this.guidance_scale,
            num_inference_steps=this.num_inference_steps,
            scheduler=this.scheduler,
            flow_shift=None if this.model else self.flow_shift,
            loras=() if this.model else self.loras,
            improved_sampling=None,
            step_cache=None,
            settled=tuple(
                (name.removeprefix(SECOND), value) for name, value in self.settled if name.startswith(SECOND)
            ),
            upscale=None,
        )

    @property
    def duration_seconds(self) -> float:
        return self.num_frames / self.fps

    def seed_of(self, index: int) -> int:
        """Return a video's seed, by its index from 0: they count up, and after the highest from 0 again."""
        return _seed_after(self.seed, index)

    def of_video(self, index: int) -> Plan:
        """Return the plan of one of the videos alone, as if it had been asked for with its seed."""
        improved = self.improved_sampling
        if improved is not None:
            seed = _seed_after(improved.seed or 0, index)
            improved = dataclasses.replace(improved, seed=seed)
        seed = self.seed_of(index)
        return dataclasses.replace(self, seed=seed, improved_sampling=improved, num_videos=1)

    def to_dict(self) -> dict[str, Any]:
        """Make plain JSON values of it, for the store and the pipe to the engine process."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """Read it back; also one that was stored before plans had all that they have now."""
        windows = tuple(_window(window, values["mode"]) for window in values["windows"])
        choices = tuple(Choice(**choice) for choice in values["choices"])
        rows: dict[str, Any] = {name: tuple(values.get(name, ())) for name in _ROWS}
        rows["settled"] = tuple((name, value) for name, value in values.get("settled", ()))
        rows["loras"] = tuple(Lora(**lora) for lora in values.get("loras", ()))
        watermark, upscale = values.get("watermark"), values.get("upscale")
        improved, cache = values.get("improved_sampling"), values.get("step_cache")
        objects = {
            "watermark": watermark and Watermark(**watermark),
            "improved_sampling": improved and ImprovedSampling(**improved),
            "step_cache": cache and StepCache(**cache),
            "upscale": upscale and UpscalePass(**{**upscale, "modes": tuple(upscale["modes"])}),
        }
        return cls(**{**values, **rows, **objects, "windows": windows, "choices": choices})


def _seed_after(seed: int, index: int) -> int:
    return (seed + index) % (MAX_SEED + 1)


_ROWS = ("references", "shot_num_frames", "enhanced_prompts")


def _window(values: Mapping[str, Any], plan_mode: Mode) -> Window:
    if "continues" in values:  # before 2026-11-21
        is_continuing = values["continues"]
        return Window(values["num_frames"], "image" if is_continuing else plan_mode, int(is_continuing))
    return Window(**values)


DEFAULT_RULES = MarkRules()


def plan(request: GenerationRequest, spec: ModelSpec, rules: MarkRules = DEFAULT_RULES) -> Plan:
    """Decide how `spec`'s model makes what `request` asks for, on a server that marks its files by `rules`.

    Raises:
        InvalidParameter: the request asks for something that cannot be made.
    """
    _check_text(request, spec)
    _check_numbers(request)
    mode = _mode(request, spec)
    size = asked_size(request, spec)
    starts_from_frames = (
        any((request.image, request.last_image, request.video)) and not request.source_has_border
    )
    native, fit, size_choices = native_size(size, spec, starts_from_frames=starts_from_frames)
    lengths, fps = asked_length(request, spec, mode)
    windows, length_choices = windows_of(request, spec, mode, lengths, fps)
    steps = int(within("num_inference_steps", request.num_inference_steps, spec.num_inference_steps))
    scheduler, scheduler_choices = _scheduler(request, spec, windows, steps)
    guidance_scale = within("guidance_scale", request.guidance_scale, spec.guidance_scale)
    first = FirstPass(
        asked=size,
        native=native,
        starts_from_frames=starts_from_frames,
        windows=windows,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
    )
    larger = upscaled(request, spec, first)
    if larger is not None:
        size, fit = larger.size, larger.fit
        size_choices += larger.choices
    improved, improved_choices = improved_sampling_of(
        request, spec, (window.mode for window in windows), steps
    )
    strength = _strength(request, spec, mode, steps)
    running = steps if strength is None else steps_that_run(steps, strength)
    step_cache, speed_choices = step_cache_of(request.speed, spec, (w.mode for w in windows), running)
    watermark, mark_choices = watermark_of(request, rules, size)
    return Plan(
        model=spec.id,
        mode=mode,
        prompt=_whole_prompt(request),
        negative_prompt=request.negative_prompt.strip(),
        image=request.image,
        last_image=request.last_image,
        video=request.video,
        continues=request.continues,
        continued_frames=(request.continued_frames or 1) if request.continues else 0,
        references=request.references,
        seed=_seed(request),
        is_seed_drawn=request.is_seed_drawn,
        num_videos=request.num_videos,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        scheduler=scheduler,
        flow_shift=_flow_shift(request, spec),
        strength=strength,
        loras=loras_of(request),
        clip_skip=_clip_skip(request, spec),
        improved_sampling=improved,
        preview_every=request.preview_every,
        step_cache=step_cache,
        enhance_prompt=bool(request.enhance_prompt),
        enhanced_prompts=request.enhanced_prompts,
        upscale=None if larger is None else larger.upscale,
        native_height=native.height,
        native_width=native.width,
        native_fps=spec.fps,
        windows=windows,
        height=size.height,
        width=size.width,
        num_frames=sum(lengths),
        shot_num_frames=lengths if len(lengths) > 1 else (),
        fps=fps,
        fit=fit,
        format=request.format,
        provenance=is_signed(request, rules),
        watermark=watermark,
        watermark_from=_watermark_from(request, watermark),
        choices=size_choices
        + length_choices
        + scheduler_choices
        + improved_choices
        + speed_choices
        + mark_choices,
    )


def _check_text(request: GenerationRequest, spec: ModelSpec) -> None:
    if spec.takes_prompt and not request.prompt.strip() and not request.shots:
        raise InvalidParameter("prompt", request.prompt, "it must say what the video shows")
    _check_shots(request)
    texts = {"prompt": request.prompt, "negative_prompt": request.negative_prompt}
    texts |= {f"shots[{index}].prompt": shot.prompt for index, shot in enumerate(request.shots)}
    for name, text in texts.items():
        if len(text) > MAX_PROMPT_CHARS:
            rule = f"it must have at most {MAX_PROMPT_CHARS} characters"
            raise InvalidParameter(name, f"{len(text)} characters long", rule)
        if _HALF_CHARACTER.search(text):
            raise InvalidParameter(name, ascii(text), "it must be UTF-8 text")
    if request.negative_prompt.strip() and not spec.takes_negative_prompt:
        rule = f"model `{spec.id}` takes no negative prompt"
        raise InvalidParameter("negative_prompt", request.negative_prompt, rule, hint="leave it out")
    if request.format not in OUTPUT_FORMATS:
        rule = f"it must be one of {', '.join(OUTPUT_FORMATS)}"
        raise InvalidParameter("format", request.format, rule, nearest="mp4")


def _check_shots(request: GenerationRequest) -> None:
    if len(request.shots) > MAX_SHOTS:
        raise InvalidParameter("shots", f"{len(request.shots)} long", f"there may be at most {MAX_SHOTS}")
    for index, shot in enumerate(request.shots):
        if not shot.prompt.strip():
            raise InvalidParameter(f"shots[{index}].prompt", shot.prompt, "it must say what the shot shows")
        if shot.transition not in (None, *TRANSITIONS):
            rule = f"it must be one of {', '.join(TRANSITIONS)}"
            raise InvalidParameter(f"shots[{index}].transition", shot.transition, rule, nearest="cut")
    num_chars = sum(len(shot.prompt) for shot in request.shots)
    if num_chars > MAX_PROMPT_CHARS:  # every window keeps the text that it shows
        rule = f"all shots together must have at most {MAX_PROMPT_CHARS} characters"
        raise InvalidParameter("shots", f"{num_chars} characters long", rule)


def _watermark_from(request: GenerationRequest, watermark: Watermark | None) -> int:
    if watermark is None or request.continues is None or request.continued_watermark != watermark:
        return 0
    return request.continued_frames or 0


def _whole_prompt(request: GenerationRequest) -> str:
    return request.prompt.strip() or " / ".join(shot.prompt.strip() for shot in request.shots)


def _check_numbers(request: GenerationRequest) -> None:
    if not 1 <= request.num_videos <= MAX_NUM_VIDEOS:
        nearest = min(max(request.num_videos, 1), MAX_NUM_VIDEOS)
        rule = f"it must be from 1 to {MAX_NUM_VIDEOS}"
        raise InvalidParameter("num_videos", request.num_videos, rule, nearest=nearest)
    if abs(request.priority) > MAX_PRIORITY:
        nearest = MAX_PRIORITY if request.priority > 0 else -MAX_PRIORITY
        rule = f"it must be from {-MAX_PRIORITY} to {MAX_PRIORITY}"
        raise InvalidParameter("priority", request.priority, rule, nearest=nearest)
    if not 0 <= request.preview_every <= MAX_PREVIEW_EVERY:
        nearest = min(max(request.preview_every, 0), MAX_PREVIEW_EVERY)
        rule = f"it must be from 0 (no previews) to {MAX_PREVIEW_EVERY} steps"
        raise InvalidParameter("preview_every", request.preview_every, rule, nearest=nearest)
    kept = request.expires_in_seconds
    if kept is not None and not MIN_EXPIRES_SECONDS <= kept <= MAX_EXPIRES_SECONDS:
        nearest = min(max(kept, MIN_EXPIRES_SECONDS), MAX_EXPIRES_SECONDS)
        rule = f"it must be from {MIN_EXPIRES_SECONDS} (a minute) to {MAX_EXPIRES_SECONDS} (ten years)"
        raise InvalidParameter("expires_in_seconds", kept, rule, nearest=nearest)


_STARTS: dict[Mode, tuple[str, str]] = {
    "text": ("prompt", "text"),
    "image": ("image", "an image"),
    "last_image": ("last_image", "a first and a last image"),
    "video": ("video", "a video"),
    "reference": ("references", "reference images"),
}
"""By mode: the parameter that asks for it, and what the video then starts from."""


def _mode(request: GenerationRequest, spec: ModelSpec) -> Mode:
    """Tell what the video starts from; the pictures and videos that are given decide it."""
    if request.continues is not None:
        return _continuing_mode(request, spec)
    mode = _asked_mode(request)
    if mode == "image" and request.strength is not None and "video" in spec.pipelines:
        mode = "video"  # the picture, standing still, is the video that is changed
    if mode in spec.pipelines:
        return mode
    if mode == "text":
        parameter, start = _STARTS[next(iter(spec.pipelines))]
        raise InvalidParameter(parameter, "missing", f"model `{spec.id}` needs {start} to start from")
    starts = " or ".join(_STARTS[known][1] for known in spec.pipelines)
    rule = f"model `{spec.id}` makes videos from {starts} only"
    raise InvalidParameter(_STARTS[mode][0], "given", rule, hint="leave it out or choose another model")


def _continuing_mode(request: GenerationRequest, spec: ModelSpec) -> Mode:
    _refuse_beside(request, "continues", "image", "last_image", "video", "references", "shots")
    mode = spec.continuing_mode("text")
    if mode is None:
        rule = f"model `{spec.id}` cannot start from a picture, and so continues no videos"
        raise InvalidParameter("continues", "given", rule, hint="leave it out or choose another model")
    return mode


def _asked_mode(request: GenerationRequest) -> Mode:
    if request.video is not None:
        _refuse_beside(request, "video", "image", "last_image", "references", "shots")
        return "video"
    if request.references:
        _refuse_beside(request, "references", "image", "last_image")
        if len(request.references) > MAX_REFERENCES:
            rule = f"there may be at most {MAX_REFERENCES}"
            raise InvalidParameter("references", f"{len(request.references)} images", rule)
        return "reference"
    if request.last_image is not None:
        _refuse_beside(request, "last_image", "shots")
        if request.image is None:
            rule = "a video that ends with a given image also needs `image`, which it starts from"
            raise InvalidParameter("last_image", "given", rule)
        return "last_image"
    return "image" if request.image is not None else "text"


def _refuse_beside(request: GenerationRequest, given: str, *others: str) -> None:
    for other in others:
        if getattr(request, other):
            raise InvalidParameter(
                other, "given", f"it cannot be used beside `{given}`", hint="leave one out"
            )


def _strength(request: GenerationRequest, spec: ModelSpec, mode: Mode, steps: int) -> float | None:
    """How much of a given video is made anew: the share of the denoising steps that run."""
    if mode != "video":
        if request.strength is not None:
            rule = "it says how much of a given video is changed, and none is given"
            if request.image is not None:
                rule = f"it says how much of what is given is changed, and model `{spec.id}` starts from pictures as they are"
            raise InvalidParameter("strength", request.strength, rule, hint="leave it out or send `video`")
        return None
    return strength_within("strength", request.strength, spec.strength, steps)


def _flow_shift(request: GenerationRequest, spec: ModelSpec) -> float | None:
    shift = request.flow_shift
    if shift is None:
        return spec.flow_shift
    if spec.scheduler_family != "flow":
        rule = (
            f"the noise levels of model `{spec.id}` are not those of flow matching, which alone have a shift"
        )
        raise InvalidParameter("flow_shift", shift, rule, hint="leave it out")
    return within("flow_shift", shift, FLOW_SHIFTS)


def _clip_skip(request: GenerationRequest, spec: ModelSpec) -> int | None:
    skip = request.clip_skip
    if skip is None:
        return None
    most = spec.clip_layers - 1
    if spec.clip_layers == 0 and skip != 0:
        rule = f"model `{spec.id}` has no CLIP text encoder whose layers could be skipped"
        raise InvalidParameter("clip_skip", skip, rule, nearest=0)
    if not 0 <= skip <= max(most, 0):
        rule = f"the text encoder of model `{spec.id}` has {spec.clip_layers} layers: it must be from 0 to {most}"
        raise InvalidParameter("clip_skip", skip, rule, nearest=min(max(skip, 0), most))
    return skip or None


def _seed(request: GenerationRequest) -> int:
    if request.seed is None:
        message = "plan() needs a drawn seed: draw it where the request enters"
        raise ValueError(message)
    if not 0 <= request.seed <= MAX_SEED:
        nearest = min(max(request.seed, 0), MAX_SEED)
        raise InvalidParameter("seed", request.seed, f"it must be from 0 to {MAX_SEED}", nearest=nearest)
    return request.seed


def _scheduler(
    request: GenerationRequest, spec: ModelSpec, windows: tuple[Window, ...], steps: int
) -> tuple[str | None, tuple[Choice, ...]]:
    """Tell which class's steps run, and why if it is not the one that was asked for."""
    name = spec.scheduler if request.scheduler is None else request.scheduler
    if name is None:
        return None, ()
    modes = [window.mode for window in windows]
    decision = schedulers.for_request(
        name, spec, (spec.pipelines[mode] for mode in modes), from_the_middle="video" in modes
    )
    if decision.max_steps and steps > decision.max_steps:
        rule = f"{decision.value} takes at most {decision.max_steps}"
        raise InvalidParameter("num_inference_steps", steps, rule, nearest=decision.max_steps)
    if decision.standing == "native":
        return decision.scheduler, ()
    reason = f"instead of {decision.name}: {decision.reason}"
    return decision.scheduler, (Choice("scheduler", decision.value, reason),)
