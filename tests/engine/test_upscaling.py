"""The second pass over real pipelines of a few channels: what it starts from, what each parameter does, and whose it is."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tiny
from tiny import make_plan, run
from vitascope.catalog import Catalog, locate
from vitascope.domain.errors import ModelUnavailable
from vitascope.domain.model_spec import ModelSpec, Size
from vitascope.domain.request import Upscale
from vitascope.domain.step import Step, percent
from vitascope.engine import Engine, Inputs
from vitascope.engine.courses import begin_at
from vitascope.engine.engine import DiffusersEngine
from vitascope.engine.families import generic, middle, passes
from vitascope.engine.families.generic import enlarged
from vitascope.engine.latents import encode
from vitascope.engine.schedulers import family_of, make_scheduler

#: Flow matching, packed latents, and a UNet.
FAMILIES = ["WanPipeline", "LTXPipeline", "TextToVideoSDPipeline"]

Models = dict[str, ModelSpec]


def differs(one: Any, other: Any) -> float:
    return float(np.abs(one.astype(float) - other.astype(float)).mean())


class Passes:
    """Looks at the autoencoder: what the second pass started from, and the latents that it was made of."""

    def __init__(self, engine: DiffusersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        self._engine = engine
        self._monkeypatch = monkeypatch
        self.decoded: list[torch.Tensor] = []
        self.base: Any = None

        def noted(*args: Any) -> Any:
            self.base = enlarged(*args)
            return self.base

        monkeypatch.setattr(generic, "enlarged", noted)

    def distance(self, spec: ModelSpec, **asked: Any) -> torch.Tensor:
        """Make a clip; how far its latents are from those of the first result, by latent frame."""
        self._engine.load(spec)
        assert self._engine._loaded is not None
        vae = next(iter(self._engine._loaded.pipelines.values())).vae
        kind, self.decoded = type(vae), []
        decode = kind.decode

        def noted(this: Any, latents: Any, *args: Any, **kwargs: Any) -> Any:
            self.decoded.append(latents.detach().float().clone())
            return decode(this, latents, *args, **kwargs)

        with self._monkeypatch.context() as patched:
            patched.setattr(kind, "decode", noted)
            planned = make_plan(spec, **asked)
            run(self._engine, spec, planned, inputs_of(planned))
        with torch.no_grad():
            wanted = encode(vae, torch.from_numpy(self.base).permute(3, 0, 1, 2).float() / 255)
        second = [each for each in self.decoded if each.shape[-2:] == wanted.shape[1:3]]
        made = (
            second[-1][0].permute(1, 2, 3, 0)
            if second[-1].ndim == 5
            else torch.cat(second)[-len(wanted) :].permute(0, 2, 3, 1)
        )
        return (made - wanted).abs().flatten(1).mean(1)


@pytest.fixture
def looked_at(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Passes:
    assert isinstance(engine, DiffusersEngine)
    return Passes(engine, monkeypatch)


def inputs_of(planned: Any) -> Inputs:
    if planned.image is None:
        return Inputs(larger=Inputs())
    small = np.random.default_rng(0).integers(
        0, 255, (planned.native_height, planned.native_width, 3), np.uint8
    )
    large = np.asarray(Image.fromarray(small).resize((planned.made.width, planned.made.height)))
    return Inputs(image=small, larger=Inputs(image=large))


def clip_of(engine: Engine, spec: ModelSpec, upscale: Upscale | None, **asked: Any) -> Any:
    planned = make_plan(spec, **{"num_inference_steps": 4, "upscale": upscale, **asked})
    return run(engine, spec, planned, inputs_of(planned))[1].frames


@pytest.mark.parametrize("name", FAMILIES)
def test_the_less_of_the_first_result_is_made_anew_the_nearer_the_second_is(
    looked_at: Passes, models: Models, name: str
) -> None:
    """In latents: a random autoencoder shows no input."""
    spec = models[name]
    little, half, much = (
        float(looked_at.distance(spec, num_inference_steps=10, upscale=Upscale(strength=strength)).mean())
        for strength in (0.2, 0.5, 0.8)
    )
    assert little < 0.6 * much
    assert little < half < much


@pytest.mark.parametrize("name", FAMILIES)
def test_each_parameter_has_its_effect(rounding_engine: Engine, models: Models, name: str) -> None:
    spec = models[name]
    base = Upscale(height=64, width=64, strength=0.5, guidance_scale=4.0, num_inference_steps=4)
    made = functools.partial(clip_of, rounding_engine, spec)
    usual = made(base, negative_prompt="a ball")
    assert usual.shape == (9, 64, 64, 3)
    assert np.array_equal(usual, made(base, negative_prompt="a ball")), "a seed reproduces"
    for other in (
        replace(base, strength=0.75),
        replace(base, guidance_scale=9.0),
        replace(base, num_inference_steps=6),
    ):
        assert differs(usual, made(other, negative_prompt="a ball")) > 0
    for asked in ({"seed": 4}, {"prompt": "a cat"}, {"negative_prompt": "a cat"}, {"num_inference_steps": 5}):
        assert differs(usual, made(base, **{"negative_prompt": "a ball", **asked})) > 0
    assert made(replace(base, height=96, width=128)).shape == (9, 96, 128, 3)
    without = made(base, guidance_scale=1.0, negative_prompt="a ball")
    assert differs(without, made(base, guidance_scale=1.0, negative_prompt="a cat")) > 0, (
        "the second pass alone is guided"
    )
    unguided = replace(base, guidance_scale=1.0)
    assert np.array_equal(
        made(unguided, guidance_scale=1.0, negative_prompt="a ball"),
        made(unguided, guidance_scale=1.0, negative_prompt="a cat"),
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_steps_of_both_passes_are_counted_and_the_first_result_is_the_same(
    engine: Engine, models: Models, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = models[name]
    firsts: list[Any] = []

    def noted(frames: Any, *rest: Any) -> Any:
        firsts.append(frames)
        return enlarged(frames, *rest)

    monkeypatch.setattr(generic, "enlarged", noted)
    planned = make_plan(spec, num_inference_steps=4, upscale=Upscale(strength=0.5), preview_every=1)
    steps, clip = run(engine, spec, planned, Inputs(larger=Inputs()))
    denoised = {step.index: step for step in steps if step.stage == "denoise"}
    assert list(denoised) == [1, 2, 3, 4, 5, 6]
    assert {step.of for step in denoised.values()} == {6}
    assert all(any(step.preview for step in steps if step.index == index) for index in denoised)
    percents = [percent(step) for step in steps]
    assert percents == sorted(percents)
    assert clip.frames.shape == (9, 64, 64, 3)
    assert np.array_equal(firsts[0], clip_of(engine, spec, None))


@pytest.mark.parametrize("name", ["WanPipeline", "LTXPipeline"])
def test_a_cancel_takes_effect_anywhere(models: Models, name: str) -> None:
    """At each pause, counted in forward calls."""
    engine, spec = DiffusersEngine(locate, device="cpu", threads=1), models[name]
    planned = make_plan(spec, num_inference_steps=2, upscale=Upscale(strength=1.0))
    events = [event for event in engine.generate(planned, spec) if isinstance(event, Step)]
    last_first = max(
        index for index, step in enumerate(events) if step.index == 2 and step.stage == "denoise"
    )
    forwards: list[str] = []
    hook = torch.nn.modules.module.register_module_forward_hook(
        lambda module, *_: forwards.append(str(module))
    )
    try:
        for position in range(last_first - 2, len(events), max(1, (len(events) - last_first) // 12)):
            running = engine.generate(planned, spec)
            for _ in range(position + 1):
                next(running)
            before = len(forwards)
            running.close()
            assert len(forwards) == before
            assert engine.capacity(spec) == 4
    finally:
        hook.remove()
    assert run(engine, spec, planned)[1].frames.shape == (9, 64, 64, 3)


def test_two_requests_step_by_step_make_what_each_makes_alone(engine: Engine, models: Models) -> None:
    spec = models["WanPipeline"]
    plans = [
        make_plan(spec, num_inference_steps=4, upscale=Upscale(strength=0.5)),
        make_plan(spec, num_inference_steps=4, seed=9),
    ]
    alone = [run(engine, spec, planned)[1].frames for planned in plans]
    running: dict[int, Iterator[Any]] = {
        index: engine.generate(planned, spec) for index, planned in enumerate(plans)
    }
    made: dict[int, Any] = {}
    while running:
        for index, generation in list(running.items()):
            event = next(generation)
            if not isinstance(event, Step):
                made[index] = event.frames
                del running[index]
    assert all(np.array_equal(made[index], alone[index]) for index in (0, 1))


def test_a_window_that_continues_does_so_in_the_second_pass_too(
    engine: Engine, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[Any] = []
    start_of = generic.start_of

    def noted(*args: Any) -> Any:
        starts.append(start_of(*args))
        return starts[-1]

    monkeypatch.setattr(generic, "start_of", noted)
    spec = models["ti2v"]
    made = clip_of(engine, spec, Upscale(strength=0.5), num_frames=17, fps=spec.fps)
    assert made.shape == (17, 64, 64, 3)
    assert [start.window.mode for start in starts] == ["text", "image"] * 2
    assert np.array_equal(starts[3].head, made[8:9]), "from the last frame of the larger window before"


def test_the_given_picture_counts_at_the_larger_size(engine: Engine, models: Models) -> None:
    spec = models["WanImageToVideoPipeline"]
    planned = make_plan(spec, image="a.png", num_inference_steps=4, upscale=Upscale(strength=0.5))
    given = inputs_of(planned)
    assert given.larger is not None
    assert given.larger.image is not None
    one = run(engine, spec, planned, given)[1].frames
    other = replace(given, larger=Inputs(image=255 - given.larger.image))
    assert differs(one, run(engine, spec, planned, other)[1].frames) > 0


ROUND_TRIPS = [
    *FAMILIES, "WanImageToVideoPipeline", "SkyReelsV2DiffusionForcingPipeline", "LTXConditionPipeline", "LTX2Pipeline",
    "HunyuanVideoPipeline", "CogVideoXPipeline", "MochiPipeline", "LattePipeline", "SanaVideoPipeline",
    "Kandinsky5T2VPipeline", "AnimateDiffPipeline", "StableVideoDiffusionPipeline", "Wan 2.2 T2V-A14B",
]  # fmt: skip
"""One of each way in which pipelines lay latents out, scale them and prepare them."""


@pytest.mark.filterwarnings("ignore:In CPU autocast")  # Mochi
@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_without_noise_and_steps_the_first_result_comes_back(
    looked_at: Passes, models: Models, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the latents are scaled and laid out as the pipeline's own decoding expects them."""

    def still(*args: Any) -> Any:
        scheduler = make_scheduler(*args)
        own = type(scheduler)

        class Still(own):  # type: ignore[misc,valid-type]
            @functools.wraps(own.step)
            def step(self, output: Any, timestep: Any, sample: Any, *more: Any, **kwargs: Any) -> Any:
                result = super().step(output, timestep, sample, *more, **kwargs)
                if not kwargs.get("return_dict", True):
                    return (sample, *result[1:])
                result.prev_sample = sample
                return result

        Still.__name__ = own.__name__
        scheduler.__class__ = Still
        return scheduler

    monkeypatch.setattr(passes, "make_scheduler", still)
    monkeypatch.setattr(middle, "_noised", lambda _scheduler, _family, clean, _noise: clean)
    spec = replace(models[name], dtype="float32")
    asked = {"image": "a.png"} if "text" not in spec.pipelines else {}
    small = {"num_frames": spec.frames.at_least(9), "fps": spec.fps}
    far = looked_at.distance(spec, num_inference_steps=2, upscale=Upscale(strength=0.5), **small, **asked)
    assert float(far.max()) < 1e-5


def test_the_text_pipeline_makes_what_the_video_pipeline_makes(engine: Engine, models: Models) -> None:
    """Begun in the middle, Wan's pipeline for texts is its pipeline for videos."""
    import diffusers

    spec = replace(models["WanPipeline"], dtype="float32")
    planned = make_plan(spec, num_inference_steps=5, upscale=Upscale(strength=0.6, num_inference_steps=5))
    made = run(engine, spec, planned)[1].frames
    first = run(engine, spec, make_plan(spec, num_inference_steps=5))[1].frames
    base = enlarged(first, Size(32, 32), Size(64, 64))
    pipe = diffusers.WanVideoToVideoPipeline.from_pretrained(spec.source.partition(":")[2])
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(generic._second_seed(planned.seed))
    torch.randn((1, 16, 3, 8, 8), generator=generator)  # what the text pipeline drew first
    plain = pipe(
        video=[Image.fromarray(frame) for frame in base], prompt="a dog walks", negative_prompt="", height=64, width=64,
        num_inference_steps=5, guidance_scale=5.0, strength=0.6, generator=generator, output_type="np",
    ).frames[0]  # fmt: skip
    assert np.abs(made.astype(int) - np.round(plain * 255)).max() <= 1


DETERMINISTIC = {
    "flow": ["FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "UniPCMultistepScheduler",
             "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "DEISMultistepScheduler", None],
    "discrete": ["DDIMScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler", "KDPM2DiscreteScheduler",
                 "LMSDiscreteScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler",
                 "UniPCMultistepScheduler", "DEISMultistepScheduler", "IPNDMScheduler", None],
}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "name"), [(family, name) for family, names in DETERMINISTIC.items() for name in names]
)
def test_a_model_that_knows_the_noise_finds_the_clip_again(family: str, name: str | None) -> None:
    """From any step on: so the noise that is mixed in is the amount that the first of the steps takes for granted."""
    from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

    checkpoint = FlowMatchEulerDiscreteScheduler(shift=3.0)
    if family == "discrete":
        checkpoint = DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
        )
    numbers = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn((1, 4, 2, 4, 4), generator=numbers) for _ in range(2))
    for num_steps in (1, 3, 7, 10):
        scheduler = make_scheduler(checkpoint, name)
        laid_out: list[bool] = []
        begin_at(scheduler, 10 - num_steps, lambda done=laid_out: done.append(True))
        scheduler.set_timesteps(10)
        assert laid_out == [True]
        sample = middle._noised(scheduler, family_of(checkpoint), clean, noise)
        for time in scheduler.timesteps:
            scheduler.scale_model_input(sample, time) if hasattr(scheduler, "scale_model_input") else None
            output = noise - clean if family == "flow" else noise
            sample = scheduler.step(output, time, sample, return_dict=False)[0]
        assert float((sample - clean).abs().max()) < 0.12, num_steps


def test_another_checkpoint_makes_the_second_pass(tmp_path: Path) -> None:
    """As zeroscope's: a first one for text, then one that only changes videos."""
    for name in ("TextToVideoSDPipeline", "VideoToVideoSDPipeline"):
        tiny.build(name, tmp_path / name)
    cards = tmp_path / "cards"
    cards.mkdir()
    head = 'source = "folder:{}"\npipeline = "{}"\nid = "{}"\n'
    first = head.format(tmp_path / "TextToVideoSDPipeline", "TextToVideoSDPipeline", "first")
    (cards / "first.toml").write_text(
        first + 'upscale = { model = "second", strength = { default = 0.5 }, steps = 4 }\n'
    )
    second = head.format(tmp_path / "VideoToVideoSDPipeline", "VideoToVideoSDPipeline", "second")
    (cards / "second.toml").write_text(second)
    catalog = Catalog.open(cards)
    spec = catalog.resolve("first")
    engine = DiffusersEngine(locate, device="cpu", threads=1)

    def made(upscale: Upscale) -> tuple[list[Any], Any]:
        planned = make_plan(spec, num_inference_steps=4, upscale=upscale)
        steps, clip = run(engine, spec, planned, Inputs(larger=Inputs()))
        assert engine.loaded_models[-1] == "second", "the most recent one"
        return steps, clip.frames

    size = Upscale(height=64, width=64)
    steps, frames = made(size)
    assert frames.shape == (9, 64, 64, 3)
    assert list(dict.fromkeys(s.index for s in steps if s.stage == "denoise")) == [1, 2, 3, 4, 5, 6]
    assert np.array_equal(frames, made(size)[1])
    assert differs(frames, made(replace(size, strength=1.0))[1]) > 0
    assert differs(frames, made(replace(size, guidance_scale=2.0))[1]) > 0
    planned = make_plan(spec, upscale=size)
    with pytest.raises(ModelUnavailable, match="model `second`, which makes the second pass, is not"):
        run(engine, replace(spec, second=None), planned, Inputs(larger=Inputs()))


def test_the_embedded_model_keeps_its_first_result_the_more_the_lower_the_strength(engine: Engine) -> None:
    spec = Catalog.open().resolve("pocket")
    asked = {"prompt": "a red car drives in a city", "width": 192, "height": 192, "num_inference_steps": 6}
    first = run(engine, spec, make_plan(spec, **asked))[1].frames
    larger = enlarged(first, Size(192, 192), Size(192, 192))  # which it stays with
    size = Upscale(height=384, width=384)
    little, much = (
        differs(
            larger, run(engine, spec, make_plan(spec, **asked, upscale=replace(size, strength=s)))[1].frames
        )
        for s in (0.2, 0.8)
    )
    assert little < 0.7 * much
