"""Step caches in the engine: what of each model class is reused, and that nothing of it outlives its request."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from bench.families.checks import inputs_of, modes_of, plan_of
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import Plan
from vitascope.domain.request import ImprovedSampling
from vitascope.domain.speed_levels import _CACHES, StepCache
from vitascope.engine import Clip, Engine, step_caches
from vitascope.engine.calls import Branch, Call
from vitascope.engine.engine import DiffusersEngine
from vitascope.engine.families import wan
from vitascope.engine.step_caches import Caching, FirstBlock, Reuse

Models = dict[str, ModelSpec]

STEPS = 10

#: So large that every forward that may be reused is.
ALWAYS = 1e6

#: One of each model class that has a cache: its other pipelines run the same modules.
CLASSES = [
    "WanPipeline", "Wan 2.2 T2V-A14B", "WanVideoToVideoPipeline", "WanVACEPipeline", "SkyReelsV2Pipeline", "LTXPipeline",
    "LTX2Pipeline", "HunyuanVideoPipeline", "HunyuanVideoImageToVideoPipeline", "HunyuanVideo15Pipeline", "CogVideoXPipeline",
    "MochiPipeline", "AllegroPipeline", "LattePipeline", "CosmosTextToWorldPipeline", "Cosmos2VideoToWorldPipeline",
    "SanaVideoPipeline", "Kandinsky5T2VPipeline",
]  # fmt: skip


def _deeper(name: str) -> Any:
    """Some tiny models have one block, and a cache of the first needs others to leave out."""
    pipe = tiny.BUILDERS[name]()
    config = {**pipe.transformer.config, "num_layers": 2}
    pipe.register_modules(transformer=type(pipe.transformer).from_config(config))
    return pipe


@pytest.fixture(scope="module")
def models(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Models:
    for name in ("LTXPipeline", "CogVideoXPipeline"):
        folder = tiny.build(name, tmp_path_factory.mktemp("deeper"), lambda name=name: _deeper(name))  # type: ignore[misc]
        models[f"{name}, deeper"] = dataclasses.replace(models[name], source=f"folder:{folder}")
    return models


def _spec(models: Models, name: str) -> ModelSpec:
    spec = models[f"{name}, deeper"] if name in ("LTXPipeline", "CogVideoXPipeline") else models[name]
    return dataclasses.replace(spec, dtype="float32")


def _always(plan: Plan) -> Plan:
    assert plan.step_cache is not None
    return dataclasses.replace(plan, step_cache=dataclasses.replace(plan.step_cache, threshold=ALWAYS))


def _made(engine: Engine, spec: ModelSpec, plan: Plan) -> tuple[np.ndarray[Any, Any], dict[str, str]]:
    *_, clip = engine.generate(plan, spec, inputs_of(plan))
    assert isinstance(clip, Clip)
    return clip.frames, {choice.name: choice.value for choice in clip.choices}


def _reused(told: dict[str, str]) -> tuple[int, int]:
    words = told["step_cache"].split()
    return int(words[0]), int(words[2])


@pytest.mark.filterwarnings("ignore:In CPU autocast")  # Mochi's class asks for float32 in it
@pytest.mark.parametrize("name", CLASSES)
def test_a_cache_reuses_what_it_may_and_leaves_nothing(engine: Engine, models: Models, name: str) -> None:
    spec = _spec(models, name)
    mode = modes_of(name, spec)[0]
    whole = plan_of(spec, mode, num_inference_steps=STEPS)
    cached = _always(plan_of(spec, mode, num_inference_steps=STEPS, speed="balanced"))
    before, told = _made(engine, spec, whole)
    assert "step_cache" not in told
    frames, told = _made(engine, spec, cached)
    reused, total = _reused(told)
    assert cached.step_cache is not None
    # of ten steps the first two and the last are computed; of those between one is after each row of reused ones
    expected = {1: 4, 2: 5}[cached.step_cache.max_reused]
    if name == "Wan 2.2 T2V-A14B":
        expected = 4  # its second denoiser begins in the middle, and computes twice before it reuses
    assert (reused, total % STEPS) == (expected * total // STEPS, 0)
    assert not np.array_equal(frames, before)
    assert np.array_equal(_made(engine, spec, whole)[0], before), "what was kept has gone with its request"


def test_every_class_is_in_the_table() -> None:
    assert set(tiny.BUILDERS) <= set(_CACHES)


def test_requests_side_by_side_reuse_their_own(engine: Engine, models: Models) -> None:
    """Of several in turn, and of one that was cancelled in between: each is what it is alone."""
    spec = _spec(models, "WanPipeline")
    plans = [
        plan_of(spec, "text", num_inference_steps=STEPS, seed=seed, speed=speed)
        for seed, speed in ((1, "balanced"), (2, "fast"), (3, None))
    ]
    plans[:2] = [_always(plan) for plan in plans[:2]]
    alone = [_made(engine, spec, plan)[0] for plan in plans]
    cancelled = engine.generate(plans[0], spec)
    for _ in range(20):
        next(cancelled)
    together: list[Clip] = []
    open_ones = [engine.generate(plan, spec) for plan in plans]
    while open_ones:
        for generation in list(open_ones):
            event = next(generation)
            if isinstance(event, Clip):
                together.append(event)
                open_ones.remove(generation)
        cancelled.close()
    made = sorted(clip.frames.tobytes() for clip in together)
    assert made == sorted(frames.tobytes() for frames in alone)


def test_what_was_kept_goes_with_the_pass(
    engine: Engine, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, and not when garbage is looked for."""
    kept: list[weakref.ref[FirstBlock]] = []

    class Noted(FirstBlock):
        def __init__(self, this: Caching) -> None:
            super().__init__(this)
            kept.append(weakref.ref(self))

    monkeypatch.setattr(step_caches, "FirstBlock", Noted)
    gc.disable()
    try:
        spec = _spec(models, "WanPipeline")
        _made(engine, spec, _always(plan_of(spec, "text", num_inference_steps=STEPS, speed="balanced")))
        assert [found() for found in kept] == [None]
    finally:
        gc.enable()


def test_modules_are_as_they_were(engine: Engine, models: Models) -> None:
    """What runs blocks in another way looks for changes in them: a slot that was used is like a new one."""
    assert isinstance(engine, DiffusersEngine)
    spec = _spec(models, "WanPipeline")
    _made(engine, spec, _always(plan_of(spec, "text", num_inference_steps=STEPS, speed="balanced")))
    loaded = engine._loaded
    assert loaded is not None
    with loaded.slots.take(0) as slot:
        denoiser: Any = slot.modules()["transformer"]
        assert not denoiser.is_cache_enabled
        assert not any("forward" in vars(module) for module in denoiser.modules())


def test_rounds_and_windows_begin_anew(engine: Engine, models: Models) -> None:
    """Each round computes its first two steps and its last one, as a window does."""
    spec = _spec(models, "ti2v")
    rounds = ImprovedSampling(seed=1, iterations=2)
    asked = _always(
        plan_of(spec, "text", num_inference_steps=STEPS, speed="balanced", improved_sampling=rounds)
    )
    # of this model's flow the second round leaves out the first step, and reuses five of the nine
    assert _reused(_made(engine, spec, asked)[1]) == (2 * (5 + 5), 2 * (STEPS + STEPS - 1))
    long = _always(plan_of(spec, "text", num_inference_steps=STEPS, speed="balanced", num_frames=17))
    assert len(long.windows) == 2
    assert _reused(_made(engine, spec, long)[1]) == (2 * 2 * 5, 2 * 2 * STEPS)


def test_where_diffusers_computes_the_denoiser_its_cache_reuses(
    engine: Engine, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on devices that the engine's own forward does not know."""
    monkeypatch.setattr(wan, "DEVICES", ("cuda",))
    spec = _spec(models, "WanPipeline")
    cached = _always(plan_of(spec, "text", num_inference_steps=STEPS, speed="balanced"))
    told = _made(engine, spec, cached)[1]
    assert _reused(told)[0] > 0
    assert told.get("denoiser", "diffusers") == "diffusers"


def test_nothing_is_kept_of_a_round_that_is_over() -> None:
    this = Caching(StepCache("balanced", "first_block", threshold=ALWAYS), Reuse())
    cache, branches = FirstBlock(this), [Branch({}), Branch({})]
    left: list[weakref.ref[torch.Tensor]] = []
    for _ in range(3):
        this.after_step(0, STEPS)  # a round begins
        for branch in branches:
            before = torch.zeros(1, 4, 2)
            stream = before + 1
            assert not cache.reuses([Call({}, branch, {})], before, stream)
            cache.keep(stream + 1)
        del before, stream
        [*stacks] = cache._stacks.values()
        assert all(ref() is None for ref in left)
        assert [stack.output for stack in stacks] == [None, None], (
            "of no use once the others have added theirs"
        )
        left += [
            weakref.ref(part) for stack in stacks for part in (stack.head, stack.tail) if part is not None
        ]
        assert len(left) % 4 == 0
        del stacks


def test_a_branch_keeps_its_tokens_twice_and_of_the_denoiser_that_is_asked() -> None:
    this = Caching(StepCache("balanced", "first_block", threshold=ALWAYS), Reuse())
    this.after_step(5, STEPS)
    early, late = FirstBlock(this), FirstBlock(this)
    branches = [Branch({}), Branch({})]

    def kept(cache: FirstBlock) -> list[int]:
        parts = [part for stack in cache._stacks.values() for part in (stack.head, stack.output, stack.tail)]
        return [part.numel() for part in parts if part is not None]

    for branch in branches:
        before, stream = torch.zeros(1, 4, 2), torch.ones(1, 4, 2)
        assert not early.reuses([Call({}, branch, {})], before, stream)
        early.keep(stream + 2)
    assert kept(early) == [8] * 4
    stream = torch.full((1, 4, 2), 5.0)
    assert early.reuses([Call({}, branches[0], {})], torch.full((1, 4, 2), 4.0), stream)
    assert stream.unique().tolist() == [7.0], "what the others had added, two"
    assert not late.reuses([Call({}, branches[0], {})], torch.zeros(1, 4, 2), torch.ones(1, 4, 2))
    assert kept(early) == [], "Wan 2.2 does not come back to its first denoiser"
