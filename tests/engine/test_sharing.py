"""Forwards in company: several generations have one together, and each makes what it makes alone up to the lowest bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from engine.together import Start, Together, in_company
from tiny import make_plan, run
from vitascope.catalog import Catalog, locate
from vitascope.domain.errors import InternalError
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.step import Step
from vitascope.engine import Clip, Inputs, Sharing
from vitascope.engine.engine import DiffusersEngine
from vitascope.engine.families import passes
from vitascope.engine.families.wan import Wan
from vitascope.worker.driver import Driver
from vitascope.worker.making import Making
from vitascope.worker.outputs import Failed
from vitascope.worker.reins import Reins

Models = dict[str, ModelSpec]

TOLERANCE = 1e-3
"""Of frames in [0, 1], in float32."""


@pytest.fixture(autouse=True)
def _exact_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare what the pipeline gave, before rounding to bytes hides anything."""
    monkeypatch.setattr(passes, "_to_uint8", lambda frames: frames)


@pytest.fixture(scope="module")
def engine() -> Iterator[DiffusersEngine]:
    opened = DiffusersEngine(locate, device="cpu", threads=1, memory_gb=8)
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def _count_from_here(engine: DiffusersEngine) -> None:
    engine._company.num_shared = engine._company.num_served = 0


def exact(spec: ModelSpec) -> ModelSpec:
    return dataclasses.replace(spec, dtype="float32")


def starts(engine: DiffusersEngine, spec: ModelSpec, *names: str, **asked: Any) -> dict[str, Start]:
    """Requests with texts of different lengths, numbers of steps and seeds; "image" start from a picture."""
    texts = {
        "first": "a dog",
        "second": "a cat on a mat beside a red house",
        "third": "x",
        "image": "a bird",
        "image again": "two birds",
    }
    given = (
        {"height": spec.default_size.height, "width": spec.default_size.width} if spec.id == "pocket" else {}
    )
    found: dict[str, Start] = {}
    for index, name in enumerate(names):
        image = {"image": "given"} if name.startswith("image") else {}
        plan = make_plan(
            spec, prompt=texts[name], seed=index, num_inference_steps=3 + index % 2, **image, **given, **asked
        )
        picture = np.full((plan.native_height, plan.native_width, 3), 90, np.uint8) if image else None
        inputs = Inputs(image=picture)
        found[name] = lambda sharing, plan=plan, inputs=inputs: engine.generate(plan, spec, inputs, sharing)  # type: ignore[misc]
    return found


def alone(start: Start) -> Any:
    *_, clip = start(Sharing())
    assert isinstance(clip, Clip)
    return clip.frames


def watch_forwards(monkeypatch: pytest.MonkeyPatch, watch: Callable[[int], None]) -> None:
    """Tell of each forward how many samples it has."""
    forward = Wan._forward

    def watched(self: Wan, latents: torch.Tensor, *arguments: Any) -> torch.Tensor:
        watch(len(latents))
        return forward(self, latents, *arguments)

    monkeypatch.setattr(Wan, "_forward", watched)


def most_different(one: dict[str, Any], other: dict[str, Any]) -> float:
    assert one.keys() == other.keys()
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


LAYOUTS = [
    ("WanPipeline", ("first", "second", "third")),
    ("ti2v", ("first", "second", "image")),
    ("Wan 2.2 T2V-A14B", ("first", "second")),
    ("WanImageToVideoPipeline", ("image", "image again")),
    ("LTXPipeline", ("first", "second", "third")),
    ("pocket", ("first", "second", "image")),
]


@pytest.mark.parametrize(("name", "who"), LAYOUTS)
def test_in_company_each_makes_what_it_makes_alone(
    engine: DiffusersEngine, models: Models, name: str, who: tuple[str, ...]
) -> None:
    spec = exact(Catalog.open().resolve("pocket") if name == "pocket" else models[name])
    begin = starts(engine, spec, *who)
    expected = {each: alone(start) for each, start in begin.items()}
    together = in_company(begin)
    assert most_different(expected, together) < TOLERANCE
    assert engine._company.num_shared > 0
    assert engine._company.num_served >= 2 * engine._company.num_shared


def test_who_may_not_share_makes_bit_by_bit_what_it_makes_alone(
    engine: DiffusersEngine, models: Models
) -> None:
    begin = starts(engine, exact(models["ti2v"]), "first", "second", "third", "image")
    expected = {each: alone(start) for each, start in begin.items()}
    together = in_company(begin, allowed=lambda name: name in ("first", "second"))
    assert engine._company.num_shared > 0
    for name in ("third", "image"):
        np.testing.assert_array_equal(together[name], expected[name])
    engine._company.num_shared = 0
    in_company(begin, allowed=lambda name: name == "first")
    assert engine._company.num_shared == 0


def test_generations_join_and_leave_between_steps(engine: DiffusersEngine, models: Models) -> None:
    """One comes after another's first step; one goes where it stands before a forward, one where it was just answered."""
    spec = exact(models["ti2v"])
    begin = starts(engine, spec, "first", "second", "third", "image")
    begin["late"] = starts(engine, spec, "third", "second")["second"]
    late, cancelled = begin["late"], {"second", "third"}
    expected = {each: alone(begin[each]) for each in begin if each not in cancelled}
    del begin["late"]
    together = Together()
    together.begin(begin)
    for name, step in together.steps():
        if name == "first" and step == Step("denoise", 1, 3) and "late" not in together.sharings:
            together.begin({"late": late})
        if "second" in together.running and together.sharings["second"].is_answered and step.index == 1:
            together.cancel("second")
        if "third" in together.running and together.sharings["third"].group is not None and step.index == 2:
            together.cancel("third")
    assert most_different(expected, together.made) < TOLERANCE
    assert engine._company.num_served > 2 * engine._company.num_shared, "at times there were more than two"
    assert not engine._company._standing


def test_the_worker_brings_those_together_that_can_share(engine: DiffusersEngine, models: Models) -> None:
    """It lets the job that worked last go on; yet who is open beside it is in each of its forwards, from the first on to its end."""
    spec = exact(models["ti2v"])
    begin = starts(engine, spec, "first", "second", "third")
    expected = {each: alone(start) for each, start in begin.items()}
    made: dict[str, Any] = {}

    def making(name: str) -> Making:
        def events(reins: Reins) -> Generator[Step | Failed, None, None]:
            reins.sharing, reins.is_generating = Sharing(is_allowed=True), True
            for event in begin[name](reins.sharing):
                if isinstance(event, Clip):
                    made[name] = event.frames
                else:
                    yield event
            reins.sharing = None
            yield Failed(0, InternalError())

        plan = dataclasses.replace(make_plan(spec), is_seed_drawn=True).to_dict()
        order = {"making": name, "job": name, "key": "one", "model": spec.id, "seconds": 9.0, "priority": 0}
        return Making({**order, "plan": plan}, events, lambda: None)

    driver = Driver(lambda _message: None)
    for name in begin:
        driver.open(making(name))
    while not driver.is_idle:
        driver.step()
    assert most_different(expected, made) < TOLERANCE
    # two forwards at the first step and one at each other: of three, three and four steps
    assert (engine._company.num_shared, engine._company.num_served) == (4, 12)


def test_no_more_tokens_than_are_worth_it(
    engine: DiffusersEngine, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = exact(models["ti2v"])
    begin = starts(engine, spec, "first", "second", "third", "image")
    one = 3 * 2 * 2  # latent frames and patches of a clip
    seen: list[int] = []
    watch_forwards(monkeypatch, lambda num_samples: seen.append(num_samples * one))
    for most in (one, 2 * one, 5 * one, 8 * one):
        monkeypatch.setattr(engine._company, "most_tokens", most)
        seen.clear()
        in_company(begin)
        assert min(most, 4 * one) <= max(seen) <= most


def test_a_forward_that_fails_for_several_is_run_for_each(
    engine: DiffusersEngine, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = exact(models["ti2v"])
    begin = starts(engine, spec, "first", "second")
    expected = {each: alone(start) for each, start in begin.items()}
    failed = 0

    def fail(num_samples: int) -> None:
        nonlocal failed
        if num_samples > 2:
            failed += 1
            raise torch.OutOfMemoryError("CUDA out of memory")

    watch_forwards(monkeypatch, fail)
    assert most_different(expected, in_company(begin)) < TOLERANCE
    assert failed == 1, "it is not tried again"
    engine._company._less.clear()


class TestGuidance:
    """Both branches in one forward."""

    def test_from_the_second_step_on_one_forward_has_both(
        self, engine: DiffusersEngine, models: Models, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spec = exact(models["WanPipeline"])
        plan = make_plan(spec, num_inference_steps=4)
        seen: list[int] = []
        watch_forwards(monkeypatch, seen.append)
        together = run(engine, spec, plan)[1]
        assert seen == [1, 1, 2, 2, 2]
        assert "guidance" in {choice.name for choice in together.choices}
        monkeypatch.setattr(engine._company, "most_tokens", 0)
        seen.clear()
        apart = run(engine, spec, plan)[1]
        assert seen == [1] * 8
        assert "guidance" not in {choice.name for choice in apart.choices}
        assert np.abs(together.frames - apart.frames).max() < 1e-4

    def test_without_guidance_nothing_is_foreseen(self, engine: DiffusersEngine, models: Models) -> None:
        spec = exact(models["WanPipeline"])
        clip = run(engine, spec, make_plan(spec, guidance_scale=1.0))[1]
        assert "guidance" not in {choice.name for choice in clip.choices}
