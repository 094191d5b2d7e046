"""What every engine promises, held against the fake one and a real one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tiny
from tiny import make_plan, run
from vitascope.catalog import Catalog, locate
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.request import Upscale
from vitascope.domain.residency import Residency
from vitascope.domain.step import STAGE_STARTS, Step, percent
from vitascope.engine import Engine, EngineBusy, Inputs, open_engine
from waiting import eventually


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    folder = tiny.build("WanPipeline", tmp_path_factory.mktemp("tiny") / "wan")
    return Catalog.open().resolve_local(str(folder))


@pytest.fixture(params=["fake", "diffusers"])
def engine(request: pytest.FixtureRequest) -> Engine:
    return open_engine(request.param, locate, device="cpu", threads=1)


class TestEngineContract:
    def test_steps_come_in_order_and_the_clip_comes_last(self, engine: Engine, spec: ModelSpec) -> None:
        steps, clip = run(engine, spec, make_plan(spec))
        assert all(isinstance(step, Step) for step in steps)
        stages = list(dict.fromkeys(step.stage for step in steps))
        assert stages == [stage for stage in STAGE_STARTS if stage in stages]
        assert {"load", "encode_prompt", "denoise", "decode_latents"} <= set(stages)
        percents = [percent(step) for step in steps]
        assert percents == sorted(percents)
        assert clip.choices

    def test_it_says_what_it_is_and_what_it_has_loaded(self, engine: Engine, spec: ModelSpec) -> None:
        assert engine.device
        run(engine, spec, make_plan(spec))
        assert set(engine.loaded_models) <= {spec.id}
        engine.close()
        assert engine.loaded_models == ()

    def test_each_denoising_step_is_told(self, engine: Engine, spec: ModelSpec) -> None:
        steps, _ = run(engine, spec, make_plan(spec, num_inference_steps=5))
        done = [step for step in dict.fromkeys(steps) if step.stage == "denoise" and step.index]
        assert done == [Step("denoise", index, 5) for index in range(1, 6)]

    def test_frames_have_the_native_shape(self, engine: Engine, spec: ModelSpec) -> None:
        plan = make_plan(spec, width=48, height=32, num_frames=5)
        _, clip = run(engine, spec, plan)
        assert clip.frames.shape == (plan.native_num_frames, 32, 48, 3)
        assert clip.frames.dtype == np.uint8
        assert np.abs(np.diff(clip.frames.astype(int), axis=0)).mean() > 0, "the clip moves"

    def test_a_second_pass_is_counted_and_has_its_size(self, engine: Engine, spec: ModelSpec) -> None:
        plan = make_plan(spec, num_inference_steps=4, upscale=Upscale(strength=0.5))
        steps, clip = run(engine, spec, plan, Inputs(larger=Inputs()))
        done = [step.index for step in dict.fromkeys(steps) if step.stage == "denoise" and step.index]
        assert done == [1, 2, 3, 4, 5, 6]
        percents = [percent(step) for step in steps]
        assert percents == sorted(percents)
        assert clip.frames.shape == (plan.native_num_frames, 64, 64, 3)

    def test_a_seed_reproduces(self, engine: Engine, spec: ModelSpec) -> None:
        first, again, other = (run(engine, spec, make_plan(spec, seed=seed))[1].frames for seed in (1, 1, 2))
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)

    def test_closing_stops_at_once_and_the_next_one_works(self, engine: Engine, spec: ModelSpec) -> None:
        generation = engine.generate(make_plan(spec, num_inference_steps=100), spec)
        while not (isinstance(step := next(generation), Step) and step.stage == "denoise"):
            pass
        generation.close()
        assert list(generation) == []
        run(engine, spec, make_plan(spec))

    def test_what_was_loaded_is_ready_and_what_was_unloaded_is_not(
        self, engine: Engine, spec: ModelSpec
    ) -> None:
        engine.load(spec)
        assert engine.loaded_models == (spec.id,)
        engine.clear_caches()
        engine.load(spec)
        assert engine.loaded_models == (spec.id,)
        run(engine, spec, make_plan(spec))
        assert not engine.unload("another")
        assert engine.loaded_models == (spec.id,)
        assert engine.unload(spec.id)
        assert engine.loaded_models == ()
        assert not engine.unload(spec.id)
        run(engine, spec, make_plan(spec))

    def test_it_tells_what_became_of_its_models(self, engine: Engine, spec: ModelSpec) -> None:
        assert engine.residency == Residency()
        engine.load(spec)
        run(engine, spec, make_plan(spec))
        state = engine.residency
        assert (state.loads, state.hits, state.evictions, state.out_of_memory) == (1, 1, 0, 0)
        assert state.models[spec.id].weights_bytes > 0
        generation = engine.generate(make_plan(spec), spec)
        next(generation)
        while engine.residency.models[spec.id].num_open == 0:
            next(generation)
        with pytest.raises(EngineBusy):
            engine.unload(spec.id)
        generation.close()
        assert engine.residency.models[spec.id].num_open == 0
        engine.unload(spec.id)
        assert engine.residency.models == {}

    def test_what_is_prepared_comes_by_itself(self, engine: Engine, spec: ModelSpec) -> None:
        assert engine.prepare(spec)
        eventually(lambda: engine.loaded_models == (spec.id,))
        eventually(lambda: not engine.prepare(spec))
        run(engine, spec, make_plan(spec))
        state = engine.residency
        assert (state.loads, state.loads_ahead, state.hits) == (1, 1, 1)

    def test_closing_twice_is_fine(self, engine: Engine) -> None:
        engine.close()
        engine.close()


def test_the_fake_engine_needs_no_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from vitascope.engine import open_engine; open_engine('fake', None);"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0
