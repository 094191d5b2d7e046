"""Several generations open on one engine, advanced in any order: each makes what it makes alone, bit by bit."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FirstBlockCacheConfig

import tiny
from tiny import make_plan
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.step import Step
from vitascope.engine import Clip, Engine, EngineBusy, Inputs
from vitascope.engine.engine import DiffusersEngine
from vitascope.engine.families import passes
from vitascope.engine.generation import pause, run_in_steps
from vitascope.engine.slots import Slot
from vitascope.engine.torch_state import TorchState

Models = dict[str, ModelSpec]
Generation = Generator[Step | Clip, None, None]
Start = Callable[[], Generation]

#: Pipeline class, and the scheduler of another order that the second request takes.
FAMILIES = [
    ("WanPipeline", "UniPCMultistepScheduler"),
    ("ti2v", "UniPCMultistepScheduler"),
    ("LTXPipeline", None),
    ("CogVideoXPipeline", "CogVideoXDPMScheduler"),
    ("TextToVideoSDPipeline", "HeunDiscreteScheduler"),
]


#: So large that every step but a request's first takes what the cache has: whosever it is.
ALWAYS_REUSE = 1e6


@pytest.fixture(scope="module")
def models(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Models:
    """The tiny models; those with one block get another one, as FirstBlockCache needs blocks after the first."""
    found = {name: models[name] for name, _scheduler in FAMILIES}
    for name in ("LTXPipeline", "CogVideoXPipeline"):
        folder = tiny.build(name, tmp_path_factory.mktemp("deeper"), lambda name=name: _deeper(name))  # type: ignore[misc]
        found[name] = dataclasses.replace(models[name], source=f"folder:{folder}")
    return found


def _deeper(name: str) -> Any:
    pipe = tiny.BUILDERS[name]()
    config = {**pipe.transformer.config, "num_layers": 2}
    pipe.register_modules(transformer=type(pipe.transformer).from_config(config))
    return pipe


@pytest.fixture(autouse=True)
def _exact_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare what the pipeline gave, before rounding to bytes hides anything."""
    monkeypatch.setattr(passes, "_to_uint8", lambda frames: frames)


def finish(generation: Generation) -> np.ndarray[Any, Any]:
    *_, clip = generation
    assert isinstance(clip, Clip)
    return clip.frames


def interleave(
    start: Mapping[str, Start], order: random.Random, cancelled: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Advance all in a random order, closing some after so many of their steps; the frames of the others."""
    running = {name: begin() for name, begin in start.items()}
    taken = dict.fromkeys(start, 0)
    made: dict[str, Any] = {}
    while running:
        name = order.choice(list(running))
        if cancelled and taken[name] == cancelled.get(name):
            running.pop(name).close()
            continue
        event = next(running[name], None)
        taken[name] += 1
        if isinstance(event, Clip):
            made[name] = event.frames
        elif event is None:
            del running[name]
    return made


def requests(engine: Engine, spec: ModelSpec, scheduler: str | None) -> dict[str, Start]:
    """Two different texts with different schedulers, and, where the model can, one that starts from an image."""
    plans = {
        "first": make_plan(spec, seed=1),
        "second": make_plan(spec, prompt="a cat", seed=2, num_inference_steps=4),
    }
    # which schedulers a card names is not the point here
    plans["second"] = dataclasses.replace(plans["second"], scheduler=scheduler)
    found: dict[str, Start] = {
        name: lambda plan=plan: engine.generate(plan, spec)  # type: ignore[misc]
        for name, plan in plans.items()
    }
    if "image" in spec.pipelines:
        grey = np.full((32, 32, 3), 90, np.uint8)
        planned = make_plan(spec, image="given", seed=3)
        found["image"] = lambda: engine.generate(planned, spec, Inputs(image=grey))
    return found


@pytest.fixture(params=["plain", "step cache"])
def steps_are_cached(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """With "step cache", FirstBlockCache is on in every slot, which keeps residuals on the denoiser's modules."""
    make_slot = Slot.__init__

    def with_cache(slot: Slot, *args: Any) -> None:
        make_slot(slot, *args)
        for module in slot.modules().values():
            if hasattr(module, "enable_cache"):
                module.enable_cache(FirstBlockCacheConfig(threshold=ALWAYS_REUSE))

    if request.param == "step cache":
        monkeypatch.setattr(Slot, "__init__", with_cache)
    return bool(request.param == "step cache")


@pytest.mark.parametrize(("name", "scheduler"), FAMILIES)
def test_each_makes_what_it_makes_alone(
    engine: Engine, models: Models, name: str, scheduler: str | None, steps_are_cached: bool
) -> None:
    if steps_are_cached and name == "TextToVideoSDPipeline":
        pytest.skip("diffusers has no FirstBlockCache for its UNet")
    start = requests(engine, models[name], scheduler)
    alone = {name: finish(begin()) for name, begin in start.items()}
    for seed in range(2):
        together = interleave(start, random.Random(seed))
        assert together.keys() == alone.keys()
        for each in alone:
            np.testing.assert_array_equal(together[each], alone[each])


def test_the_step_cache_of_these_tests_does_something(
    engine: Engine, models: Models, steps_are_cached: bool
) -> None:
    spec = models["WanPipeline"]
    cached = finish(engine.generate(make_plan(spec, num_inference_steps=6), spec))
    if steps_are_cached:
        (slot,) = engine._loaded.slots._idle  # type: ignore[attr-defined]
        slot.modules()["transformer"].disable_cache()
    plain = finish(engine.generate(make_plan(spec, num_inference_steps=6), spec))
    assert np.array_equal(cached, plain) != steps_are_cached


@pytest.mark.parametrize(("name", "scheduler"), FAMILIES)
def test_cancelling_some_changes_nothing_for_the_others(
    engine: Engine, models: Models, name: str, scheduler: str | None, steps_are_cached: bool
) -> None:
    if steps_are_cached and name == "TextToVideoSDPipeline":
        pytest.skip("diffusers has no FirstBlockCache for its UNet")
    start = requests(engine, models[name], scheduler)
    alone = finish(start["first"]())
    for seed in range(2):
        order = random.Random(seed)
        cancelled = {each: order.randrange(40) for each in start if each != "first"}
        np.testing.assert_array_equal(interleave(start, order, cancelled)["first"], alone)
    np.testing.assert_array_equal(finish(start["first"]()), alone)


def test_a_cancelled_request_leaves_nothing_in_the_step_cache(
    engine: Engine, models: Models, steps_are_cached: bool
) -> None:
    spec = models["WanPipeline"]
    before = finish(engine.generate(make_plan(spec), spec))
    stopped = engine.generate(make_plan(spec, prompt="a cat", seed=9), spec)
    while next(stopped) != Step("denoise", 2, 3):
        pass
    stopped.close()
    np.testing.assert_array_equal(finish(engine.generate(make_plan(spec), spec)), before)


def test_who_advances_keeps_gradients_and_random_numbers(engine: Engine, models: Models) -> None:
    assert torch.is_grad_enabled(), "making an engine changes nothing either"
    torch.manual_seed(5)
    numbers = torch.get_rng_state()
    spec = models["ti2v"]
    begin = requests(engine, spec, "UniPCMultistepScheduler")
    open_ones = [begin["first"](), begin["image"]()]
    for _ in range(30):
        for generation in open_ones:
            next(generation)
            assert torch.is_grad_enabled()
            assert torch.equal(torch.get_rng_state(), numbers)
    for generation in open_ones:
        generation.close()
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), numbers)


def test_numbers_that_a_module_draws_from_torch_belong_to_its_request() -> None:
    """LTX's autoencoder draws noise without a generator: the seed decides, not who else runs."""

    def draw(seed: int) -> Generator[Step | None, None, list[float]]:
        def call() -> list[float]:
            drawn = []
            for index in range(3):
                drawn.append(float(torch.rand(())))
                pause(Step("denoise", index, 3))
            return drawn

        return run_in_steps(call, TorchState(seed, torch.device("cpu")))

    def result(generation: Iterator[Any]) -> list[float]:
        while True:
            try:
                next(generation)
            except StopIteration as finished:
                return list(finished.value)

    alone = result(draw(1))
    first, second = draw(1), draw(2)
    next(first)
    next(second)
    next(first)
    assert result(second) != alone
    assert result(first) == alone


def test_weights_are_in_memory_once(engine: DiffusersEngine, models: Models) -> None:
    """Four open generations have four sets of modules over the same storages; other tensors that live are small."""
    spec = models["ti2v"]
    plan = make_plan(spec, num_inference_steps=9)
    open_ones = [engine.generate(plan, spec) for _ in range(4)]
    for generation in open_ones:
        while next(generation) != Step("denoise", 2, 9):
            pass
    assert engine._loaded is not None
    loaded = engine._loaded.pipelines["text"].components
    for name, module in loaded.items():
        if not isinstance(module, torch.nn.Module):
            continue
        weights = {tensor.data_ptr() for tensor in [*module.parameters(), *module.buffers()]}
        num_modules = 0
        for other in _modules_like(module):
            tensors = [*other.parameters(), *other.buffers()]
            assert {tensor.data_ptr() for tensor in tensors} == weights, name
            num_modules += 1
        assert num_modules == 5, "one that never runs, and one for each generation"
    for generation in open_ones:
        generation.close()


def _modules_like(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """All living modules over the same first tensor."""
    import gc

    first = next(module.parameters()).data_ptr()
    for found in gc.get_objects():
        if type(found) is type(module) and next(found.parameters()).data_ptr() == first:
            yield found


class TestPlaces:
    """How many may be open, on both engines."""

    @pytest.fixture(params=["diffusers", "fake"])
    def engine(self, request: pytest.FixtureRequest) -> Engine:
        from vitascope.catalog import locate
        from vitascope.engine import open_engine

        return open_engine(request.param, locate, device="cpu", threads=1, slots=2)

    def test_a_place_is_taken_at_the_first_step_and_given_back(self, engine: Engine, models: Models) -> None:
        spec = models["WanPipeline"]
        generations = [engine.generate(make_plan(spec), spec) for _ in range(3)]
        assert engine.capacity(spec) == 2
        next(generations[0])
        next(generations[1])
        assert engine.capacity(spec) == 0
        with pytest.raises(EngineBusy, match="2 of 2 places run `"):
            next(generations[2])
        generations[0].close()
        assert engine.capacity(spec) == 1
        finish(generations[1])
        assert engine.capacity(spec) == 2

    def test_the_clip_comes_when_the_place_is_free(self, engine: Engine, models: Models) -> None:
        spec = models["WanPipeline"]
        for event in engine.generate(make_plan(spec), spec):
            if isinstance(event, Clip):
                assert engine.capacity(spec) == 2

    def test_an_open_generation_keeps_its_model_loaded(self, engine: Engine, models: Models) -> None:
        spec = models["WanPipeline"]
        running = engine.generate(make_plan(spec), spec)
        next(running)
        next(running)
        with pytest.raises(EngineBusy, match=f"cannot unload `{spec.id}`: 1 of its generations"):
            engine.unload(spec.id)
        with pytest.raises(EngineBusy, match="cannot unload: 1 of 2 places run"):
            engine.close()
        assert engine.loaded_models == (spec.id,)
        finish(running)
        engine.close()
        assert engine.loaded_models == ()

    def test_an_error_gives_the_place_back(self, models: Models, tmp_path: Any) -> None:
        from vitascope.domain.errors import ModelUnavailable

        engine = DiffusersEngine(lambda _spec: str(tmp_path), device="cpu", threads=1)
        spec = models["WanPipeline"]
        with pytest.raises(ModelUnavailable):
            finish(engine.generate(make_plan(spec), spec))
        assert engine.capacity(spec) == 4
