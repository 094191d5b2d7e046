"""Loading a model beside what runs: nothing that runs is changed by it."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from tiny import make_plan, run
from vitascope.catalog import Catalog, locate
from vitascope.domain.errors import ModelUnavailable
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.step import Step
from vitascope.engine import Clip, EngineBusy, background
from vitascope.engine.background import Turn, apart
from vitascope.engine.engine import DiffusersEngine
from waiting import eventually

Models = dict[str, ModelSpec]


@pytest.fixture
def engine() -> Iterator[DiffusersEngine]:
    made = DiffusersEngine(locate, device="cpu", threads=1)
    yield made
    made.close()


def has(engine: DiffusersEngine, spec: ModelSpec) -> bool:
    return spec.id in engine.loaded_models


class Untouched:
    """Fails where a loading thread changes, or draws from, what belongs to the whole process without having the turn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_apart = 0
        self.problems: list[str] = []
        self._apart: set[int] = set()
        for name in ("set_default_dtype", "manual_seed", "set_rng_state"):
            monkeypatch.setattr(torch, name, self._watched(name, getattr(torch, name)))
        for name in ("normal_", "uniform_", "random_", "bernoulli_"):
            monkeypatch.setattr(torch.Tensor, name, self._watched(name, getattr(torch.Tensor, name)))
        for name in ("rand", "randn", "randint"):
            monkeypatch.setattr(torch, name, self._watched(name, getattr(torch, name)))
        give, take = background._Loading.give, background._Loading.take

        def given(loading: Any) -> None:
            self.num_apart += 1
            give(loading)
            self._apart.add(threading.get_ident())

        def taken(loading: Any) -> None:
            self._apart.discard(threading.get_ident())
            take(loading)

        monkeypatch.setattr(background._Loading, "give", given)
        monkeypatch.setattr(background._Loading, "take", taken)

    def _watched(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() in self._apart and not (args and getattr(args[0], "is_meta", False)):
                self.problems.append(name)
            return function(*args, **kwargs)

        return watched


@pytest.mark.parametrize("name", ["WanPipeline", "LTXPipeline", "TextToVideoSDPipeline", "CogVideoXPipeline"])
def test_what_runs_makes_what_it_makes_alone(
    engine: DiffusersEngine, models: Models, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """LTX's autoencoder draws from torch's own numbers, and every pipeline makes tensors of the default dtype."""
    coming = models[name]
    running = models["LTXPipeline" if name != "LTXPipeline" else "WanPipeline"]
    plan = make_plan(running, num_inference_steps=8)
    alone = run(engine, running, plan)[1].frames
    untouched = Untouched(monkeypatch)
    numbers = torch.get_rng_state()
    for attempt in range(4):
        generation = engine.generate(plan, running)
        for _ in range(2 + attempt):
            next(generation)
        assert engine.prepare(coming)
        assert not engine.prepare(coming), "it is on its way"
        # a pause now and then, so that steps and the parts of loading alternate
        *_, clip = (_paused(event, engine, coming) for event in generation)
        assert isinstance(clip, Clip)
        np.testing.assert_array_equal(clip.frames, alone)
        eventually(lambda: has(engine, coming))
        assert torch.get_default_dtype() is torch.float32
        assert torch.equal(torch.get_rng_state(), numbers)
        engine.unload(coming.id)
    assert untouched.problems == []
    assert untouched.num_apart >= 4 * 3, "weights of several components, and tokenizers"
    assert engine.residency.loads_ahead == 4


def _paused(event: Any, engine: DiffusersEngine, coming: ModelSpec) -> Any:
    if not has(engine, coming):
        time.sleep(0.002)
    return event


def test_a_prepared_model_makes_what_a_loaded_one_makes(engine: DiffusersEngine, models: Models) -> None:
    for name in ("WanPipeline", "LTXPipeline", "TextToVideoSDPipeline"):
        spec = models[name]
        loaded = run(engine, spec, make_plan(spec))[1].frames
        engine.unload(spec.id)
        assert engine.prepare(spec)
        steps, clip = run(engine, spec, make_plan(spec))
        np.testing.assert_array_equal(clip.frames, loaded)
        assert steps[0] == Step("load")
        assert not engine.prepare(spec), "it is there"
    state = engine.residency
    assert (state.loads, state.loads_ahead, state.hits) == (6, 3, 3)


def test_one_that_waits_for_its_model_can_be_cancelled(
    engine: DiffusersEngine, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = models["WanPipeline"]
    may_go_on = threading.Event()
    load = engine._models.load

    def slow(asked: ModelSpec) -> Any:
        with apart():
            may_go_on.wait(60)
        return load(asked)

    monkeypatch.setattr(engine._models, "load", slow)
    engine.prepare(spec)
    waiting = engine.generate(make_plan(spec), spec)
    assert [next(waiting) for _ in range(3)] == [Step("load")] * 3
    waiting.close()
    assert engine.capacity(spec) == 4
    may_go_on.set()
    run(engine, spec, make_plan(spec))
    assert engine.residency.hits == 1


def test_what_is_loaded_beside_is_not_taken_for_the_work_of_what_runs(
    engine: DiffusersEngine, models: Models
) -> None:
    running, coming = models["WanPipeline"], models["LTXPipeline"]
    generation = engine.generate(make_plan(running), running)
    for _ in range(3):
        next(generation)
    assert engine.prepare(coming)
    eventually(lambda: has(engine, coming))
    *_, clip = generation
    assert isinstance(clip, Clip)
    assert engine.residency.models[running.id].work_bytes is None, "nobody knows whose it was"
    run(engine, running, make_plan(running))
    assert engine.residency.models[running.id].work_bytes is not None


def test_without_room_beside_what_runs_only_files_are_read(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    wan, ltx = models["WanPipeline"], models["LTXPipeline"]
    engine = DiffusersEngine(
        locate, device="cpu", threads=1, memory_gb=3e-4
    )  # one weighs 1.3e-4, the other 2.4e-4
    read: list[str] = []
    reading = engine._background._read
    monkeypatch.setattr(
        engine._background, "_read", lambda path: (read.append(path.parent.name), reading(path))
    )
    running = engine.generate(make_plan(wan), wan)
    next(running)
    next(running)
    assert engine.prepare(ltx)
    *_, clip = running
    assert isinstance(clip, Clip)
    eventually(lambda: not engine._background.is_busy)
    assert engine.loaded_models == (wan.id,)
    assert {"transformer", "vae", "text_encoder"} <= set(read)
    run(engine, ltx, make_plan(ltx))
    assert engine.residency.loads_ahead == 0
    engine.close()


def test_nothing_is_prepared_in_the_way_of_a_generation_that_has_no_model_yet(
    engine: DiffusersEngine, models: Models
) -> None:
    wan, ltx = models["WanPipeline"], models["LTXPipeline"]
    generation = engine.generate(make_plan(wan), wan)
    assert next(generation) == Step("load")
    assert not engine.prepare(ltx)
    assert next(generation) == Step("load", 1)
    assert engine.prepare(ltx)
    *_, clip = generation
    assert isinstance(clip, Clip)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [("in_channels", 99, "could not be loaded"), ("num_layers", 7, "lack `blocks")],
)
def test_what_fails_beside_fails_again_where_it_is_needed(
    engine: DiffusersEngine,
    models: Models,
    tmp_path: Any,
    caplog: pytest.LogCaptureFixture,
    key: str,
    value: int,
    reason: str,
) -> None:
    folder = tiny.build("WanPipeline", tmp_path / "cut")
    config = folder / "transformer" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), key: value}))
    broken, whole = Catalog.open().resolve_local(str(folder)), models["LTXPipeline"]
    running = engine.generate(make_plan(whole), whole)
    next(running)
    next(running)
    assert engine.prepare(broken)
    eventually(lambda: not engine._background.is_busy)
    assert "loading ahead failed" in caplog.text
    *_, clip = running
    assert isinstance(clip, Clip)
    assert engine.residency.loads == 1
    with pytest.raises(ModelUnavailable, match=reason):
        run(engine, broken, make_plan(broken))


def test_whoever_waits_for_the_turn_is_next() -> None:
    turn = Turn()
    order: list[str] = []
    is_waiting = threading.Event()

    def other() -> None:
        is_waiting.set()
        with turn:
            order.append("other")

    turn.take()
    thread = threading.Thread(target=other)
    thread.start()
    is_waiting.wait(60)
    eventually(turn._gate.locked)
    turn.give()
    with turn:
        order.append("first again")
    thread.join()
    assert order == ["other", "first again"]


@pytest.mark.parametrize("seed", range(2))
def test_any_order_of_requests_makes_what_each_makes_alone(models: Models, seed: int) -> None:
    """Generations of three models in a budget for about two, begun, advanced, cancelled, prepared and unloaded at random."""
    chance = random.Random(seed)
    specs = [models[name] for name in ("WanPipeline", "LTXPipeline", "TextToVideoSDPipeline")]
    engine = DiffusersEngine(
        locate, device="cpu", threads=1, memory_gb=4.5e-4
    )  # they weigh 1.3, 2.4 and 1.7e-4
    alone = {spec.id: run(engine, spec, make_plan(spec))[1].frames for spec in specs}
    running: list[tuple[ModelSpec, Any]] = []
    num_made = num_begun = 0
    while num_begun < 9 or running:
        spec = chance.choice(specs)
        # what the work of tiny models takes is noise, and would leave no room for a second one
        for known in engine._residence._known.values():
            known.work_bytes.clear()
        wish = chance.choice(["begin", "prepare", "unload", "cancel", *["go on"] * 12])
        if wish == "begin" and num_begun < 9 and engine.capacity(spec):
            running.append((spec, engine.generate(make_plan(spec), spec)))
            next(running[-1][1])
            num_begun += 1
        elif wish == "prepare":
            engine.prepare(spec)
        elif wish == "unload" and not [one for one, _ in running if one is spec]:
            engine.unload(spec.id)
        elif wish == "cancel" and running and chance.random() < 0.3:
            running.pop(chance.randrange(len(running)))[1].close()
        elif running:
            place = chance.randrange(len(running))
            model, generation = running[place]
            try:
                event = next(generation)
            except EngineBusy:  # another one was quicker to load its model
                running.pop(place)
                continue
            if isinstance(event, Clip):
                np.testing.assert_array_equal(event.frames, alone[model.id])
                running.pop(place)
                num_made += 1
    state = engine.residency
    assert num_made >= 2
    assert state.out_of_memory == 0
    assert not [memory for memory in state.models.values() if memory.num_open]
    assert engine.capacity(specs[0]) == 4
    engine.close()
