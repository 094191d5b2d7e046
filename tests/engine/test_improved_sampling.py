"""Improved sampling: on every class that takes it, and what it changes where the model's answer is known."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

import tiny
from bench.families.checks import counted, inputs_of, modes_of, plan_of
from tiny import make_plan, run
from vitascope.domain.errors import InvalidParameter
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.request import ImprovedSampling
from vitascope.domain.step import Step, percent
from vitascope.engine import Engine
from vitascope.engine.families import passes
from vitascope.engine.families import wan as families_wan
from vitascope.engine.families.improved_sampling import exchange, low_pass
from vitascope.engine.latents import pack, unpack

Models = dict[str, ModelSpec]


def improved(seed: int = 1, iterations: int = 3) -> ImprovedSampling:
    return ImprovedSampling(seed=seed, iterations=iterations)


# The filter


@pytest.mark.parametrize("shape", [(4, 8, 8), (16, 40, 72), (2, 4, 6)])
def test_the_filter_is_the_authors(shape: tuple[int, int, int]) -> None:
    """As arXiv 2312.07537's code has it: n = 4, d_s = d_t = 0.25, over frequencies with 0 in the middle."""
    t, h, w = torch.meshgrid(*(2 * torch.arange(side) / side - 1 for side in shape), indexing="ij")
    theirs = 1 / (1 + ((t**2 + h**2 + w**2) / 0.25**2) ** 4)
    assert torch.allclose(torch.fft.fftshift(low_pass(shape)), theirs)


@pytest.mark.parametrize("shape", [(5, 24, 24), (3, 5, 7), (1, 8, 8)])
def test_what_never_changes_passes_whole_and_the_highest_frequency_not(shape: tuple[int, int, int]) -> None:
    passed = low_pass(shape)
    assert passed[0, 0, 0] == 1
    assert passed.min() < 1e-3
    assert torch.allclose(passed[0, 1:], passed[0, 1:].flip(0)), "alike in both directions"


def test_an_exchange_takes_slow_changes_from_one_and_quick_ones_from_the_other() -> None:
    numbers = torch.Generator().manual_seed(0)
    low, high = (torch.randn(8, 16, 16, 4, generator=numbers) for _ in range(2))
    mixed = exchange(low, high)
    assert torch.allclose(exchange(low, low), low, atol=1e-5)
    passed = low_pass(low.shape)[..., None]
    of = {
        name: torch.fft.fftn(x, dim=(0, 1, 2)) for name, x in (("low", low), ("high", high), ("mixed", mixed))
    }
    assert torch.allclose(
        (of["mixed"] - of["low"])[(passed > 0.999).expand(low.shape)].abs(), torch.tensor(0.0), atol=0.2
    )
    assert torch.allclose(
        (of["mixed"] - of["high"])[(passed < 1e-6).expand(low.shape)].abs(), torch.tensor(0.0), atol=1e-2
    )


@pytest.mark.parametrize(
    ("pipeline", "shape"),
    [
        ("WanPipeline", (1, 3, 2, 4, 5)),
        ("CogVideoXPipeline", (1, 2, 3, 4, 5)),
        ("Kandinsky5T2VPipeline", (1, 2, 4, 5, 3)),
        ("TextToVideoSDPipeline", (2, 3, 4, 5)),
        ("LTXPipeline", (1, 40, 3)),
        ("LTXConditionPipeline", (1, 50, 3)),
    ],
)
def test_every_layout_is_put_together_as_it_was_taken_apart(pipeline: str, shape: tuple[int, ...]) -> None:
    latents = torch.randn(shape)
    frames = unpack(pipeline, latents, (2, 4, 5))
    assert frames.shape == (2, 4, 5, 3)
    assert torch.equal(pack(pipeline, frames, latents), latents)
    other = pack(pipeline, frames + 1, latents)
    assert torch.equal(unpack(pipeline, other, (2, 4, 5)), frames + 1)


# Every class


@pytest.mark.filterwarnings("ignore:In CPU autocast")  # Mochi's class asks for float32 in it
@pytest.mark.parametrize("name", [*tiny.BUILDERS, *tiny.LAYOUTS])
def test_every_class_and_mode_takes_it_or_says_why_not(engine: Engine, models: Models, name: str) -> None:
    spec = dataclasses.replace(models[name], dtype="float32")
    for mode in modes_of(name, spec):
        asked: dict[str, Any] = {"num_inference_steps": 3, "improved_sampling": improved(iterations=2)}
        if mode == "video" or "Forcing" in name or "AnyFlow" in name:
            with pytest.raises(InvalidParameter, match="improved_sampling"):
                plan_of(spec, mode, **asked)
            continue
        plan = plan_of(spec, mode, **asked)
        with counted() as once:
            plain = run(engine, spec, plan_of(spec, mode, num_inference_steps=3), inputs_of(plan))
        with counted() as calls:
            steps, clip = run(engine, spec, plan, inputs_of(plan))
        assert once.forwards < calls.forwards <= 2 * once.forwards, mode
        assert calls.decodes == once.decodes, "only the last round's clip is decoded"
        done = [step.index for step in steps if step.stage == "denoise"]
        assert (done[-1], plan.total_steps) == (6, 6), mode
        told = [percent(step) for step in steps]
        assert told == sorted(told)
        assert not np.array_equal(clip.frames, plain[1].frames), mode


@pytest.mark.parametrize("name", ["WanPipeline", "LTXPipeline", "TextToVideoSDPipeline"])
def test_rounds_leave_nothing_in_memory_and_end_when_they_are_cancelled(
    engine: Engine, models: Models, name: str
) -> None:
    spec = dataclasses.replace(models[name], dtype="float32")
    plan = make_plan(spec, improved_sampling=improved(iterations=3))

    def cancelled() -> None:
        generation = engine.generate(plan, spec)
        for step in generation:
            if isinstance(step, Step) and step.index >= 4:  # in the second round
                break
        generation.close()

    def whole() -> int:
        run(engine, spec, plan)
        gc.collect()
        return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())

    before = whole()
    with counted() as calls:
        cancelled()
    assert calls.decodes == 0
    assert whole() <= before


def test_previews_come_in_every_round(engine: Engine, models: Models) -> None:
    """Here the further rounds have two steps of three, so that the count goes 1, 2, 3, 5, 6, 7, 9."""
    spec = dataclasses.replace(models["WanPipeline"], dtype="float32")
    plan = make_plan(spec, improved_sampling=improved(iterations=3), preview_every=4)
    steps, clip = run(engine, spec, plan)
    done = sorted({step.index for step in steps if step.stage == "denoise"} - {0})
    assert done == [1, 2, 3, 5, 6, 7, 9]
    assert [step.index for step in steps if step.preview] == [5, 9]
    unseen = run(engine, spec, make_plan(spec, improved_sampling=improved(iterations=3)))[1]
    assert np.array_equal(clip.frames, unseen.frames)


def test_windows_are_improved_one_by_one(engine: Engine, models: Models) -> None:
    spec = dataclasses.replace(models["ti2v"], dtype="float32")
    asked: dict[str, Any] = {"num_frames": 13, "num_inference_steps": 2}
    plan = make_plan(spec, **asked, improved_sampling=improved(iterations=2))
    assert [window.mode for window in plan.windows] == ["text", "image"]
    steps, clip = run(engine, spec, plan)
    told = [percent(step) for step in steps]
    assert told == sorted(told)
    assert [step.index for step in steps if step.stage == "denoise"][-1] == 8
    other = make_plan(spec, **asked, improved_sampling=improved(iterations=2, seed=2))
    assert not np.array_equal(clip.frames[9:], run(engine, spec, other)[1].frames[9:])


# Where the model's answer is known

KNOWN = ("WanPipeline", "LTXPipeline", "TextToVideoSDPipeline")
GRIDS = {"WanPipeline": (9, 8, 8), "LTXPipeline": (9, 16, 16), "TextToVideoSDPipeline": (16, 8, 8)}
"""Latent frames, rows and columns of what `known` asks for."""


def variances(shape: tuple[int, ...]) -> torch.Tensor:
    """Of the known data, by frequency: clips that change slowly, over a little that changes quickly."""
    return 0.1 + 400 * low_pass(shape)[..., None]


def clean(x: torch.Tensor, share: float, level: float) -> torch.Tensor:
    """The mean of the known data, given (T, H, W, C) latents of so much of them and so much noise."""
    power = variances(x.shape)
    filtered = torch.fft.fftn(x, dim=(0, 1, 2)) * (share * power / (share**2 * power + level**2))
    return torch.fft.ifftn(filtered, dim=(0, 1, 2)).real


def answer(name: str, x: torch.Tensor, share: float, level: float) -> tuple[torch.Tensor]:
    """Say what a perfect model says of latents in the pipeline's layout: the noise for a UNet, else the velocity."""
    out = torch.empty_like(x)
    for index, one in enumerate(x):
        frames = unpack(name, one[None], GRIDS[name])
        known = clean(frames, share, level)
        said = (frames - (share if name == "TextToVideoSDPipeline" else 1) * known) / level
        out[index] = pack(name, said, one[None])[0]
    return (out,)


def first_of(timestep: Any) -> float:
    return float(torch.as_tensor(timestep).reshape(-1)[0])


@pytest.fixture
def _known_answers(monkeypatch: pytest.MonkeyPatch, models: Models) -> None:
    """Put the perfect model in the place of the tiny denoisers."""
    folder = Path(models["TextToVideoSDPipeline"].source.partition(":")[2])
    table = diffusers.DDIMScheduler.from_pretrained(folder / "scheduler").alphas_cumprod

    def wan(_self: Any, hidden_states: torch.Tensor, timestep: Any, **_more: Any) -> tuple[torch.Tensor]:
        level = first_of(timestep) / 1000
        return answer("WanPipeline", hidden_states, 1 - level, level)

    def ltx(_self: Any, hidden_states: torch.Tensor, timestep: Any, **_more: Any) -> tuple[torch.Tensor]:
        level = first_of(timestep) / 1000
        return answer("LTXPipeline", hidden_states, 1 - level, level)

    def unet(_self: Any, sample: torch.Tensor, timestep: Any, **_more: Any) -> tuple[torch.Tensor]:
        share = float(table[int(first_of(timestep))])
        return answer("TextToVideoSDPipeline", sample, share**0.5, (1 - share) ** 0.5)

    monkeypatch.setattr(families_wan, "why_not", lambda _module: "its answers are known")
    monkeypatch.setattr(diffusers.WanTransformer3DModel, "forward", wan)
    monkeypatch.setattr(diffusers.LTXVideoTransformer3DModel, "forward", ltx)
    monkeypatch.setattr(diffusers.UNet3DConditionModel, "forward", unet)


@pytest.fixture
def last_latents(
    monkeypatch: pytest.MonkeyPatch, models: Models, _known_answers: None
) -> Callable[..., torch.Tensor]:
    """Run a tiny pipeline whose denoiser knows the data: what it ends with, as (T, H, W, C)."""
    seen: list[torch.Tensor] = []
    counting = passes.on_each_step

    def noted(scheduler: Any, after: Any, generator: Any) -> None:
        def both(done: int, total: int, latents: torch.Tensor) -> None:
            seen.append(latents)
            after(done, total, latents)

        counting(scheduler, both, generator)

    monkeypatch.setattr(passes, "on_each_step", noted)

    def run_known(engine: Engine, name: str, **asked: Any) -> torch.Tensor:
        spec = dataclasses.replace(models[name], dtype="float32")
        num_frames = 33 if name != "TextToVideoSDPipeline" else 16
        size = {"height": 64, "width": 64, "num_frames": num_frames, "num_inference_steps": 12}
        plan = make_plan(spec, **size, **asked)
        generation = engine.generate(plan, spec)
        for step in generation:
            if step == Step("denoise", plan.total_steps, plan.total_steps):
                break
        generation.close()  # nothing is decoded
        return unpack(name, seen[-1], GRIDS[name]).float()

    return run_known


def flicker(latents: torch.Tensor) -> float:
    """How much a clip changes from frame to frame: mean absolute difference, over its standard deviation."""
    return float(latents.diff(dim=0).abs().mean() / latents.std())


@pytest.mark.parametrize("name", KNOWN)
def test_each_round_lowers_the_flicker(
    engine: Engine, last_latents: Callable[..., torch.Tensor], name: str
) -> None:
    plain = last_latents(engine, name)
    by_rounds = [
        flicker(last_latents(engine, name, improved_sampling=improved(2, count))) for count in (2, 3, 5)
    ]
    assert flicker(plain) > by_rounds[0] > by_rounds[1] > by_rounds[2]


@pytest.mark.parametrize("name", KNOWN)
def test_its_seed_decides_the_quick_changes_and_the_seed_the_slow_ones(
    engine: Engine, last_latents: Callable[..., torch.Tensor], name: str
) -> None:
    first, again, other = (
        last_latents(engine, name, improved_sampling=improved(seed, 2)) for seed in (2, 2, 3)
    )
    elsewhere = last_latents(engine, name, seed=4, improved_sampling=improved(2, 2))
    assert torch.equal(first, again)
    nothing = torch.zeros_like(first)

    def alike(a: torch.Tensor, b: torch.Tensor) -> tuple[float, float]:
        """Correlation of the low and of the high frequencies."""
        parts = [(exchange(a, nothing), exchange(b, nothing)), (exchange(nothing, a), exchange(nothing, b))]
        low, high = (float(torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1]) for x, y in parts)
        return low, high

    low, high = alike(first, other)
    assert low > 0.9
    assert abs(high) < 0.4
    low, high = alike(first, elsewhere)
    assert abs(low) < 0.5
    assert high > 0.6
