"""What becomes of a scheduler's name."""

from __future__ import annotations

import dataclasses

import pytest

from vitascope.domain.errors import InvalidParameter
from vitascope.domain.model_spec import ModelSpec, SchedulerFamily
from vitascope.domain.plan import plan
from vitascope.domain.request import GenerationRequest
from vitascope.domain.schedulers import EIGHTEEN, NAMES, accepted, for_model, for_vendor, resolve, table

FAMILIES: tuple[SchedulerFamily, ...] = ("flow", "discrete", "cogvideox", "edm")
UNUSABLE = {"DDIMInverseScheduler", "KarrasVeScheduler", "ScoreSdeVeScheduler"}


@pytest.fixture
def spec(small_spec: ModelSpec) -> ModelSpec:
    return small_spec


def ask(spec: ModelSpec, name: str | None, **asked: object) -> GenerationRequest:
    return GenerationRequest(prompt="a dog", model=spec.id, seed=1, scheduler=name, **asked)  # type: ignore[arg-type]


def open_spec(spec: ModelSpec, family: SchedulerFamily) -> ModelSpec:
    return dataclasses.replace(spec, schedulers=(), scheduler_family=family)


def test_there_are_eighteen() -> None:
    assert len(set(EIGHTEEN)) == 18
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_name_ends_at_one_that_runs_in_one_step(family: SchedulerFamily) -> None:
    for row in table(family):
        assert (row.standing == "refused") == (row.name in UNUSABLE)
        assert bool(row.reason) == (row.standing != "native")
        if row.standing == "mapped" and row.scheduler is not None:
            assert resolve(row.scheduler, family).standing == "native"
    natives = {row.name for row in table(family) if row.standing == "native"}
    expected = {
        "flow": {"UniPCMultistepScheduler", "DEISMultistepScheduler", "DPMSolverSinglestepScheduler"},
        "discrete": set(EIGHTEEN) - UNUSABLE,
        "cogvideox": (set(EIGHTEEN) - UNUSABLE - {"DDIMScheduler"}) | {"CogVideoXDPMScheduler"},
        "edm": {"EDMDPMSolverMultistepScheduler"},
    }[family]
    assert expected <= natives


def test_capitals_do_not_count(spec: ModelSpec) -> None:
    spec = open_spec(spec, "flow")
    assert plan(ask(spec, " unipcmultistepSCHEDULER "), spec).scheduler == "UniPCMultistepScheduler"


def test_a_mapping_is_in_the_jobs_metadata(spec: ModelSpec) -> None:
    spec = open_spec(spec, "flow")
    made = plan(ask(spec, "HeunDiscreteScheduler"), spec)
    assert made.scheduler == "FlowMatchHeunDiscreteScheduler"
    (choice,) = (choice for choice in made.choices if choice.name == "scheduler")
    assert choice.value == "FlowMatchHeunDiscreteScheduler"
    assert choice.reason == "instead of HeunDiscreteScheduler: Heun's method on a flow"
    for name in (None, "UniPCMultistepScheduler"):
        assert not [each for each in plan(ask(spec, name), spec).choices if each.name == "scheduler"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("asked", "nearest"),
    [
        ("Euler", "EulerDiscreteScheduler"),
        ("DPM++", "DDPMScheduler"),
        ("UniPC", "UniPCMultistepScheduler"),
        ("DDIMInverseScheduler", "DDIMScheduler"),
        ("karrasVEscheduler", "HeunDiscreteScheduler"),
        ("ScoreSdeVeScheduler", "EulerAncestralDiscreteScheduler"),
        ("", None),
        ("💥" * 500, None),
    ],
)
def test_the_nearest_name_of_a_refusal_is_accepted(
    spec: ModelSpec, family: SchedulerFamily, asked: str, nearest: str | None
) -> None:
    spec = open_spec(spec, family)
    with pytest.raises(InvalidParameter) as refusal:
        plan(ask(spec, asked), spec)
    assert refusal.value.parameter == "scheduler"
    assert nearest in (None, refusal.value.nearest)
    plan(ask(spec, str(refusal.value.nearest)), spec)


def test_a_cards_list_narrows_what_is_taken(spec: ModelSpec) -> None:
    spec = dataclasses.replace(
        spec, schedulers=("UniPCMultistepScheduler", "FlowMatchEulerDiscreteScheduler")
    )
    assert accepted(spec) == ("UniPCMultistepScheduler", "FlowMatchEulerDiscreteScheduler")
    assert plan(ask(spec, "DDIMScheduler"), spec).scheduler == "FlowMatchEulerDiscreteScheduler"
    for name in ("DEISMultistepScheduler", "DDIMInverseScheduler", "HeunDiscreteScheduler", "nonsense"):
        with pytest.raises(InvalidParameter, match="accepts UniPCMultistepScheduler, FlowMatch") as refusal:
            plan(ask(spec, name), spec)
        if name != "DDIMInverseScheduler":
            plan(ask(spec, str(refusal.value.nearest)), spec)
    assert for_vendor("DEISMultistepScheduler", spec)[0] is None


@pytest.mark.parametrize("narrowed", [False, True])
def test_a_models_description_is_what_plan_does(spec: ModelSpec, narrowed: bool) -> None:
    spec = spec if narrowed else open_spec(spec, "flow")
    rows = for_model(spec)
    assert [row.name for row in rows] == list(NAMES)
    for row in rows:
        if row.standing == "refused":
            with pytest.raises(InvalidParameter):
                plan(ask(spec, row.name), spec)
        else:
            assert plan(ask(spec, row.name), spec).scheduler == row.scheduler
        assert set(row.to_dict()) == {"name", "standing", "scheduler", "reason"}


def test_some_pipelines_run_their_own_scheduler_only(spec: ModelSpec) -> None:
    pipelines = {"text": "CosmosTextToWorldPipeline"}
    spec = dataclasses.replace(open_spec(spec, "edm"), pipelines=pipelines)  # type: ignore[arg-type]
    made = plan(ask(spec, "UniPCMultistepScheduler", num_frames=5), spec)
    assert made.scheduler is None
    assert made.choices[-1].value == "the checkpoint's own"
    assert "clean video before each step" in made.choices[-1].reason
    assert accepted(spec) == ()


def test_lcm_takes_fifty_steps_at_most(spec: ModelSpec) -> None:
    many = dataclasses.replace(spec.num_inference_steps, maximum=200)
    spec = dataclasses.replace(open_spec(spec, "discrete"), num_inference_steps=many)
    with pytest.raises(InvalidParameter, match="LCMScheduler takes at most 50") as refusal:
        plan(ask(spec, "LCMScheduler", num_inference_steps=51), spec)
    nearest = refusal.value.nearest
    assert plan(ask(spec, "LCMScheduler", num_inference_steps=nearest), spec).scheduler == "LCMScheduler"
    assert plan(ask(spec, "DDIMScheduler", num_inference_steps=51), spec).num_inference_steps == 51


def test_pndm_does_not_start_in_the_middle() -> None:
    assert resolve("PNDMScheduler", "discrete").standing == "native"
    assert resolve("PNDMScheduler", "discrete", from_the_middle=True).scheduler == "IPNDMScheduler"
    assert resolve("PNDMScheduler", "flow", from_the_middle=True).scheduler == "DEISMultistepScheduler"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", [*NAMES, "nonsense", ""])
def test_vendors_names_are_never_refused(spec: ModelSpec, family: SchedulerFamily, name: str) -> None:
    spec = open_spec(spec, family)
    wanted, sentence = for_vendor(name.lower(), spec)
    made = plan(ask(spec, wanted), spec)
    assert (sentence is None) == (made.scheduler == name)
    if sentence is not None:
        assert (made.scheduler or "own") in sentence
