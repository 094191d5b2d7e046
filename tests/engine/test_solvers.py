"""Each solver against an answer that is known: data of a normal distribution, whose perfect model is a formula.

Noise is carried to data along straight quantiles, so that what every start must end at can be written down; and a wrong shift,
a wrong prediction type or a last step that stops short shows as a distance that does not go away with more steps.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from perfect import (
    CONSISTENCY,
    DEVIATION,
    MEAN,
    STOCHASTIC,
    PerfectDiscrete,
    clean_of,
    discrete,
    distance,
    end_of,
    flow,
    noise,
    run,
    velocity,
    velocity_backwards,
)
from vitascope.domain.errors import ModelUnavailable
from vitascope.domain.schedulers import NAMES, table
from vitascope.engine.schedulers import family_of, make_scheduler, on_each_step

Sigmas = Any


FLOW = [row.name for row in table("flow") if row.standing == "native"]
SOLVERS = [name for name in FLOW if name not in STOCHASTIC | CONSISTENCY]


CHECKPOINTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "Wan": (flow(shift=3.0), {}),
    "HunyuanVideo": (flow(shift=7.0), {"sigmas": True}),
    "LTX": (
        flow(use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, shift_terminal=0.1),
        {"sigmas": True, "mu": 1.2},
    ),
    "Mochi": (flow(invert_sigmas=True), {"sigmas": True}),
    "pocket": (
        diffusers.UniPCMultistepScheduler(
            use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"
        ),
        {},
    ),
    "SanaVideo": (
        diffusers.DPMSolverMultistepScheduler(
            use_flow_sigmas=True, flow_shift=8.0, prediction_type="flow_prediction"
        ),
        {},
    ),
    "Cosmos 2.5": (
        diffusers.UniPCMultistepScheduler(
            use_flow_sigmas=True, use_karras_sigmas=True, sigma_max=200.0, sigma_min=0.01,
            prediction_type="flow_prediction",
        ),
        {},
    ),
}  # fmt: skip


def over_flow(name: str) -> Any:
    """Ours and not diffusers' own class, which a checkpoint gets that came with it."""
    return make_scheduler(CHECKPOINTS["pocket" if name.startswith("FlowMatchEuler") else "Wan"][0], name)


def flow_distances(checkpoint: str, name: str, counts: tuple[int, ...]) -> list[float]:
    scheduler, given = CHECKPOINTS[checkpoint]
    model = velocity_backwards if checkpoint == "Mochi" else velocity
    distances = []
    for count in counts:
        levels = dict(given)
        if "sigmas" in given:
            levels["sigmas"] = np.linspace(1.0, 1 / count, count)
        end = run(make_scheduler(scheduler, name), model, None if "sigmas" in levels else count, **levels)
        distances.append(distance(end, end_of(noise(), 0.0, 1.0)))
    return distances


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
@pytest.mark.parametrize("name", SOLVERS)
def test_flow_solvers_reach_the_known_end(checkpoint: str, name: str) -> None:
    if name == type(CHECKPOINTS[checkpoint][0]).__name__ and checkpoint != "Wan":
        pytest.skip("diffusers' own class, unchanged")
    # Levels of Karras are few near pure noise, and stretched ones end far from zero: they take more steps.
    coarse, fine = flow_distances(checkpoint, name, (24, 96))
    is_first_order = name == "FlowMatchEulerDiscreteScheduler"
    if (
        checkpoint != "LTX"
    ):  # its levels end at 0.1, and the step from there to zero is as long with more of them
        assert fine < (coarse / 2 if is_first_order else coarse / 4) + 2e-3
    assert fine < (0.05 if is_first_order or checkpoint == "SanaVideo" else 0.02)


@pytest.mark.parametrize("name", [name for name in SOLVERS if not name.startswith("FlowMatchEuler")])
def test_a_higher_order_is_nearer_at_equal_steps(name: str) -> None:
    (own,) = flow_distances("Wan", "FlowMatchEulerDiscreteScheduler", (24,))
    (higher,) = flow_distances("Wan", name, (24,))
    assert higher < own


@pytest.mark.parametrize("name", [name for name in FLOW if name in STOCHASTIC])
def test_stochastic_flow_solvers_keep_the_distribution(name: str) -> None:
    for checkpoint in ("Wan", "pocket", "Mochi"):
        scheduler, given = CHECKPOINTS[checkpoint]
        levels = {"sigmas": np.linspace(1.0, 1 / 100, 100)} if given else {}
        model = velocity_backwards if checkpoint == "Mochi" else velocity
        end = run(make_scheduler(scheduler, name), model, None if levels else 100, **levels)
        assert end.mean().item() == pytest.approx(MEAN, abs=0.03)
        assert end.std().item() == pytest.approx(DEVIATION, abs=0.05)


@pytest.mark.parametrize("name", ["UniPCMultistepScheduler", "DPMSolverMultistepScheduler"])
def test_noise_levels_are_the_checkpoints(name: str) -> None:
    """Where diffusers can be told the same, the levels are the same; its timesteps are rounded down, ours are not."""
    scheduler = make_scheduler(flow(shift=5.0), name)
    scheduler.set_timesteps(12)
    theirs = diffusers.UniPCMultistepScheduler(
        use_flow_sigmas=True, flow_shift=5.0, prediction_type="flow_prediction"
    )
    theirs.set_timesteps(12)
    assert torch.allclose(scheduler.sigmas, theirs.sigmas, atol=2e-6)
    assert torch.equal(scheduler.timesteps.long(), theirs.timesteps) or torch.allclose(
        scheduler.timesteps, theirs.timesteps.float(), atol=1.0
    )
    assert torch.allclose(scheduler.timesteps, scheduler.sigmas[:-1] * 1000, atol=2e-3)


def test_deis_of_diffusers_ends_above_zero_and_ours_does_not() -> None:
    theirs = diffusers.DEISMultistepScheduler(
        use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"
    )
    theirs.set_timesteps(12)
    assert theirs.sigmas[-1] > 0.2  # a fifth of the picture stays noise
    ours = make_scheduler(flow(shift=3.0), "DEISMultistepScheduler")
    ours.set_timesteps(12)
    assert ours.sigmas[-1] == 0


@pytest.mark.parametrize("name", FLOW)
def test_half_precision_models_are_stepped_in_float32(name: str) -> None:
    ends = []
    for dtype in (torch.float32, torch.bfloat16):
        scheduler = over_flow(name)

        def model(x: torch.Tensor, t: Any, dtype: torch.dtype = dtype) -> torch.Tensor:
            return velocity(x, t).to(dtype)

        ends.append(run(scheduler, model, 12))
    assert ends[1].dtype == torch.float32
    assert distance(*ends) < 0.02


@pytest.mark.parametrize("name", FLOW)
def test_a_given_video_is_mixed_with_noise_as_of_its_timestep(name: str) -> None:
    scheduler = over_flow(name)
    scheduler.set_timesteps(10)
    start = scheduler.timesteps[4 * scheduler.order :][:1]
    scheduler.set_begin_index(4 * scheduler.order)
    level = start.item() / 1000
    video = torch.full((1, 4), 3.0)
    mixed = scheduler.scale_noise(video, start, torch.ones(1, 4))
    assert torch.allclose(mixed, torch.full((1, 4), 3 * (1 - level) + level), atol=1e-4)
    assert torch.equal(mixed, scheduler.add_noise(video, torch.ones(1, 4), start))


@pytest.mark.parametrize("name", FLOW)
def test_timesteps_whose_fractions_were_cut_off_find_their_place(name: str) -> None:
    """SkyReels-V2's diffusion forcing keeps whole numbers in its table of timesteps, for each frame its own."""
    ends = []
    for cut in (float, int):
        scheduler = over_flow(name)
        scheduler.set_timesteps(12)
        x = noise()
        generator = torch.Generator().manual_seed(2)
        for t in scheduler.timesteps:
            x = scheduler.step(velocity(x, t), torch.tensor(cut(t)), x, generator, return_dict=False)[0]
        ends.append(x)
    assert torch.equal(*ends)


DISCRETE_SOLVERS = [
    row.name
    for row in table("cogvideox")
    if row.standing == "native" and row.name not in STOCHASTIC | CONSISTENCY
] + ["DDIMScheduler"]


@pytest.mark.parametrize("family", ["epsilon", "v_prediction", "cogvideox"])
@pytest.mark.parametrize("name", DISCRETE_SOLVERS)
def test_discrete_solvers_reach_the_known_end(family: str, name: str) -> None:
    if family != "cogvideox" and name.startswith("CogVideoX"):
        pytest.skip("belongs to the other family")
    checkpoint = discrete(family)
    model = PerfectDiscrete(checkpoint)
    distances = []
    for count in (25, 100):
        scheduler = make_scheduler(checkpoint, name)
        end = run(scheduler, model, count)
        distances.append(distance(end, end_of(noise(), *model.share_and_level(scheduler.timesteps[0]))))
    assert distances[1] < max(distances[0] / 2, 0.01)
    assert distances[1] < (0.04 if family == "cogvideox" else 0.02)


@pytest.mark.parametrize("family", ["epsilon", "cogvideox"])
@pytest.mark.parametrize(
    "name", sorted(STOCHASTIC - {"CogVideoXDPMScheduler", "LTXEulerAncestralRFScheduler"})
)
def test_stochastic_discrete_solvers_keep_the_distribution(family: str, name: str) -> None:
    checkpoint = discrete(family)
    end = run(make_scheduler(checkpoint, name), PerfectDiscrete(checkpoint), 100)
    assert end.mean().item() == pytest.approx(MEAN, abs=0.03)
    assert end.std().item() == pytest.approx(DEVIATION, abs=0.07)


def test_linear_multistep_without_scipy_is_exact() -> None:
    """Of derivatives that are a cubic polynomial of the level, four steps' history gives the exact integral."""
    scheduler = make_scheduler(discrete("epsilon"), "LMSDiscreteScheduler")
    scheduler.set_timesteps(8)
    levels = scheduler.sigmas.double().numpy()
    cubic = np.poly1d([0.3, -1.0, 2.0, 0.5])
    got = sum(scheduler.get_lms_coefficient(4, 5, k) * cubic(levels[5 - k]) for k in range(4))
    whole = cubic.integ()
    assert got == pytest.approx(whole(levels[6]) - whole(levels[5]), rel=1e-9)


def test_latents_are_not_clipped_where_the_checkpoint_says_nothing() -> None:
    checkpoint = diffusers.EulerAncestralDiscreteScheduler()  # Allegro's; has no such setting
    for name in ("DDIMScheduler", "DDPMScheduler", "LCMScheduler", "HeunDiscreteScheduler", "IPNDMScheduler"):
        assert make_scheduler(checkpoint, name).config.clip_sample is False
    explicit = diffusers.DDIMScheduler(clip_sample=True)
    assert make_scheduler(explicit, "DDPMScheduler").config.clip_sample is True


def test_a_learned_variance_that_pipelines_cut_off_is_not_asked_for() -> None:
    checkpoint = diffusers.DDIMScheduler.from_config({"variance_type": "learned_range"})  # Latte
    assert make_scheduler(checkpoint, "DDPMScheduler").config.variance_type == "fixed_small"
    assert make_scheduler(checkpoint, "DPMSolverMultistepScheduler").config.variance_type is None


def test_continuous_levels_have_a_second_order_solver() -> None:
    checkpoint = diffusers.EulerDiscreteScheduler(  # Stable Video Diffusion's
        prediction_type="v_prediction", timestep_type="continuous", timestep_spacing="leading",
        use_karras_sigmas=True, sigma_min=0.002, sigma_max=700.0,
    )  # fmt: skip
    assert family_of(checkpoint) == "edm"

    def model(x: torch.Tensor, t: Any) -> torch.Tensor:  # told 0.25 log(level)
        ratio = math.exp(4 * float(t))
        share = 1 / math.sqrt(1 + ratio**2)
        clean = clean_of(x, share, share * ratio)
        return share * (x - share * clean) / (share * ratio) - share * ratio * clean

    by_solver = {}
    for name in ("EulerDiscreteScheduler", "EDMDPMSolverMultistepScheduler"):
        scheduler = make_scheduler(checkpoint, name)
        end = run(scheduler, model, 50)
        start = noise() * float(scheduler.init_noise_sigma)
        by_solver[name] = distance(end, end_of(start, 1.0, 700.0))
    assert by_solver["EDMDPMSolverMultistepScheduler"] < 0.01 < by_solver["EulerDiscreteScheduler"] < 0.1


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("family", ["flow", "epsilon", "cogvideox"])
def test_few_steps_work_and_are_counted_evenly(family: str, steps: int) -> None:
    checkpoint = flow(shift=3.0) if family == "flow" else discrete(family)
    model = velocity if family == "flow" else PerfectDiscrete(checkpoint)
    rows = table("flow" if family == "flow" else "cogvideox" if family == "cogvideox" else "discrete")
    for name in (row.name for row in rows if row.standing == "native"):
        scheduler = make_scheduler(checkpoint, name)
        seen: list[tuple[int, int]] = []
        on_each_step(scheduler, lambda *counts, seen=seen: seen.append(counts[:2]))  # type: ignore[misc]
        run(scheduler, model, steps)
        total = len(scheduler.timesteps)
        assert seen == [(done, total) for done in range(1, total + 1)], name
        whole = [steps * done // total for done, _ in seen]
        assert whole[-1] == steps
        assert max(b - a for a, b in zip([0, *whole], whole, strict=False)) == 1, "no step is left out"


def test_what_starts_in_the_middle_is_counted_from_there() -> None:
    for checkpoint, name in (
        (flow(shift=3.0), "FlowMatchHeunDiscreteScheduler"),
        (flow(shift=3.0), "UniPCMultistepScheduler"),
        (discrete("epsilon"), "DDIMScheduler"),
        (discrete("epsilon"), "KDPM2DiscreteScheduler"),
    ):
        scheduler = make_scheduler(checkpoint, name)
        seen: list[tuple[int, int]] = []
        on_each_step(scheduler, lambda *counts, seen=seen: seen.append(counts[:2]))  # type: ignore[misc]
        scheduler.set_timesteps(10)
        timesteps = scheduler.timesteps[6 * scheduler.order :]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(6 * scheduler.order)
        for t in timesteps:
            x = noise()
            if hasattr(scheduler, "scale_model_input"):
                x = scheduler.scale_model_input(x, t)
            scheduler.step(x, t, x)
        assert seen == [(done, len(timesteps)) for done in range(1, len(timesteps) + 1)], name


def test_copies_of_a_scheduler_step_for_themselves_and_count_once() -> None:
    """LTX-2 copies the scheduler for the sound and steps both."""
    scheduler = make_scheduler(flow(shift=3.0), "UniPCMultistepScheduler")
    seen: list[tuple[int, int]] = []
    on_each_step(scheduler, lambda *counts: seen.append(counts[:2]))
    other = copy.deepcopy(scheduler)
    for each in (scheduler, other):
        each.set_timesteps(3)
    x = y = noise()
    for t in scheduler.timesteps:
        x = scheduler.step(velocity(x, t), t, x, return_dict=False)[0]
        y = other.step(velocity(y, t), t, y, return_dict=False)[0]
    assert torch.equal(x, y)
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_step_that_is_taken_twice_counts_once() -> None:
    """Cosmos asks for the clean video, sets the scheduler back, and steps."""
    scheduler = diffusers.EDMEulerScheduler()
    seen: list[tuple[int, int]] = []
    on_each_step(scheduler, lambda *counts: seen.append(counts[:2]))
    scheduler.set_timesteps(3)
    x = noise()
    for t in scheduler.timesteps:
        scheduler.step(scheduler.scale_model_input(x, t), t, x)
        scheduler._step_index -= 1
        x = scheduler.step(x, t, x, return_dict=False)[0]
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_the_seed_reaches_schedulers_to_which_the_pipeline_hands_no_generator() -> None:
    ends = []
    for _ in range(2):
        scheduler = make_scheduler(flow(shift=3.0), "LTXEulerAncestralRFScheduler")
        on_each_step(scheduler, lambda *_: None, torch.Generator().manual_seed(5))
        scheduler.set_timesteps(4)
        x = noise()
        for t in scheduler.timesteps:
            x = scheduler.step(velocity(x, t), t, x, return_dict=False)[0]
        ends.append(x)
    assert torch.equal(*ends)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_pairing_is_refused_in_a_sentence(name: str) -> None:
    """A card may say the wrong family: then the engine says so, and does not make noise of it."""
    for checkpoint in (flow(), discrete("epsilon"), diffusers.EDMEulerScheduler()):
        try:
            make_scheduler(checkpoint, name)
        except ModelUnavailable as error:
            assert name in error.message
            assert family_of(checkpoint) in (error.hint or "")
