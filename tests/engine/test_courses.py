"""Courses: a pipeline that begins at a later step, or walks all steps several times, over every scheduler."""

from __future__ import annotations

import copy
from typing import Any

import diffusers
import pytest
import torch

from perfect import STOCHASTIC, PerfectDiscrete, discrete, distance, end_of, flow, noise, run, velocity
from vitascope.domain.schedulers import table
from vitascope.engine.courses import begin_at, in_rounds
from vitascope.engine.schedulers import make_scheduler, on_each_step

FAMILIES = {
    "flow": flow(shift=3.0),
    "discrete": discrete("epsilon"),
    "cogvideox": discrete("cogvideox"),
}
SCHEDULERS = [(family, row.name) for family in FAMILIES for row in table(family) if row.standing == "native"]


def made(family: str, name: str) -> Any:
    return make_scheduler(FAMILIES[family], name)


def model_of(family: str) -> Any:
    return velocity if family == "flow" else PerfectDiscrete(FAMILIES[family])


@pytest.mark.parametrize(("family", "name"), SCHEDULERS)
def test_a_round_leaves_nothing_behind_for_the_next(family: str, name: str) -> None:
    """Rounds that begin alike end alike: no scheduler remembers a round's steps in the next."""
    once = run(made(family, name), model_of(family), 4)
    scheduler, renewed, seen = made(family, name), [], []

    def again(number: int, first: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        renewed.append(number)
        if name not in STOCHASTIC and "LCM" not in name:
            assert torch.equal(last, once)
        return first

    in_rounds(scheduler, 3, again)
    on_each_step(scheduler, lambda done, total, _: seen.append((done, total)))
    end = run(scheduler, model_of(family), 4)
    assert renewed == [1, 2]
    total = 3 * len(made_timesteps(family, name, 4))
    assert seen == [(done, total) for done in range(1, total + 1)]
    if name not in STOCHASTIC and "LCM" not in name:
        assert torch.equal(end, once)


def made_timesteps(family: str, name: str, steps: int) -> torch.Tensor:
    scheduler = made(family, name)
    scheduler.set_timesteps(steps)
    return scheduler.timesteps


@pytest.mark.parametrize(("family", "name"), SCHEDULERS)
def test_a_later_step_takes_latents_of_its_own_noise_level_to_the_end(family: str, name: str) -> None:
    if name in STOCHASTIC or "LCM" in name:
        pytest.skip("where it ends depends on what it draws")
    model = model_of(family)
    scheduler = made(family, name)
    begin_at(scheduler, 20)
    scheduler.set_timesteps(50)
    first = scheduler.timesteps[0]
    assert first == made_timesteps(family, name, 50)[20 * scheduler.order]
    if family == "flow":
        share, level = 1 - float(first) / 1000, float(first) / 1000
    else:
        share, level = model.share_and_level(first)
    start = share * 0.9 + level * noise()
    clean = torch.full_like(noise(), 0.9)
    if hasattr(scheduler, "scale_noise"):
        mixed = scheduler.scale_noise(clean, first[None], noise())
    else:
        mixed = scheduler.add_noise(clean, noise(), first[None])
    scale = float(getattr(scheduler, "init_noise_sigma", 1.0))
    is_karras = scale > 1.5  # then noise is added to data that keep their size
    assert torch.allclose(mixed, start / share if is_karras else start, atol=2e-3)
    end = run(scheduler, model, 50, start=mixed)
    # of first order, or over levels that CogVideoX moves far towards noise
    assert distance(end, end_of(start, share, level)) < (0.1 if family == "cogvideox" else 0.04)


def test_copies_walk_all_rounds_too_and_begin_each_as_they_began() -> None:
    """LTX-2 steps its sound with a copy: that has no frames whose frequencies could be exchanged."""
    scheduler = make_scheduler(flow(shift=3.0), "UniPCMultistepScheduler")
    begun: list[torch.Tensor] = []

    def renew(_number: int, first: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        begun.append(first + last)
        return begun[-1]

    in_rounds(scheduler, 2, renew)
    other = copy.deepcopy(scheduler)
    for each in (scheduler, other):
        each.set_timesteps(3)
    x = y = noise()
    ends = []
    for t in scheduler.timesteps:
        x = scheduler.step(velocity(x, t), t, x, return_dict=False)[0]
        y = other.step(velocity(y, t), t, y, return_dict=False)[0]
        ends.append((x, y))
    assert len(begun) == 1
    assert torch.equal(ends[2][0], begun[0])
    assert torch.equal(ends[2][1], noise())


def test_a_step_that_is_taken_twice_ends_a_round_once() -> None:
    """Cosmos asks for the clean video, sets the scheduler back, and steps; and it writes into the last noise level."""
    scheduler = diffusers.EDMEulerScheduler()
    in_rounds(scheduler, 2, lambda _number, first, _last: first)
    seen: list[tuple[int, int]] = []
    on_each_step(scheduler, lambda done, total, _: seen.append((done, total)))
    scheduler.set_timesteps(3)
    scheduler.sigmas[-1] = scheduler.sigmas[-2]
    x = start = noise()
    inputs = []
    for index, t in enumerate(scheduler.timesteps):
        inputs.append(x)
        assert scheduler.sigmas[index] == scheduler.sigmas[index % 3]
        scheduler.step(scheduler.scale_model_input(x, t), t, x)
        scheduler._step_index -= 1
        x = scheduler.step(x, t, x, return_dict=False)[0]
    assert seen == [(done, 6) for done in range(1, 7)]
    assert torch.equal(inputs[3], start)
    assert torch.equal(inputs[4], inputs[1])
    assert torch.equal(inputs[5], inputs[2])
    assert not torch.equal(x, start)
