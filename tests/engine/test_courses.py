"""Courses: a pipeline that begins at a later step, or walks all steps several times, over every scheduler."""

from __future__ import annotations

import copy
from typing import Any

import diffusers
import pytest
import torch

from perfect import STOCHASTIC, PerfectDiscrete, discrete, distance, end_of, flow, noise, run, velocity
from vitascope.domain.schedulers import table
from vitascope.engine.courses import End, begin_at, in_rounds
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


class Renewing:
    """Rounds that begin alike, at any step; the ends of the rounds before are kept."""

    def __init__(self, count: int, start: torch.Tensor, begin: int = 0) -> None:
        self.count = count
        self.ends: list[End] = []
        self._start, self._begin = start, begin

    def first_step(self, _scheduler: Any) -> int:
        return self._begin

    def renewed(self, end: End) -> torch.Tensor:
        self.ends.append(end)
        return self._start


def is_exact(name: str) -> bool:
    """Whether two runs from the same start end alike."""
    return name not in STOCHASTIC and "LCM" not in name


@pytest.mark.parametrize(("family", "name"), SCHEDULERS)
def test_a_round_leaves_nothing_behind_for_the_next(family: str, name: str) -> None:
    """Rounds that begin alike end alike: no scheduler remembers a round's steps in the next."""
    once = run(made(family, name), model_of(family), 4)
    scheduler = made(family, name)
    scheduler.set_timesteps(4)
    start = noise() * float(getattr(scheduler, "init_noise_sigma", 1.0))
    renewing, seen = Renewing(3, start), []
    in_rounds(scheduler, renewing)
    on_each_step(scheduler, lambda done, total, _: seen.append((done, total)))
    end = run(scheduler, model_of(family), 4)
    assert [each.number for each in renewing.ends] == [1, 2]
    total = 3 * len(made_timesteps(family, name, 4))
    assert seen == [(done, total) for done in range(1, total + 1)]
    assert all(torch.equal(each.first, start) for each in renewing.ends)
    if is_exact(name):
        assert torch.equal(end, once)
        assert all(torch.equal(each.last, once) for each in renewing.ends)


@pytest.mark.parametrize(("family", "name"), SCHEDULERS)
def test_further_rounds_may_begin_at_a_later_step(family: str, name: str) -> None:
    once = made(family, name)
    begin_at(once, 2)
    last = run(once, model_of(family), 5, start=noise())
    scheduler, renewing, seen = made(family, name), Renewing(3, noise(), begin=2), []
    in_rounds(scheduler, renewing)
    on_each_step(scheduler, lambda done, total, _: seen.append((done, total)))
    end = run(scheduler, model_of(family), 5)
    row = made_timesteps(family, name, 5)
    later = row[2 * scheduler.order :]
    assert torch.equal(scheduler.timesteps, torch.cat([row, later, later]))
    total = len(row) + 2 * len(later)
    assert seen == [(done, total) for done in range(1, total + 1)]
    assert {each.position for each in renewing.ends} == {2 * scheduler.order}
    if is_exact(name):
        assert torch.equal(end, last)


def made_timesteps(family: str, name: str, steps: int) -> torch.Tensor:
    scheduler = made(family, name)
    scheduler.set_timesteps(steps)
    return scheduler.timesteps


@pytest.mark.parametrize(("family", "name"), SCHEDULERS)
def test_a_later_step_takes_latents_of_its_own_noise_level_to_the_end(family: str, name: str) -> None:
    if not is_exact(name):
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


def test_copies_walk_all_rounds_too_and_are_told_apart() -> None:
    """LTX-2 steps its sound with a copy: that has no frames whose frequencies could be exchanged."""
    scheduler = make_scheduler(flow(shift=3.0), "UniPCMultistepScheduler")
    renewing = Renewing(2, noise())
    in_rounds(scheduler, renewing)
    other = copy.deepcopy(scheduler)
    for each in (scheduler, other):
        each.set_timesteps(3)
    x = y = noise()
    ends = []
    for t in scheduler.timesteps:
        x = scheduler.step(velocity(x, t), t, x, return_dict=False)[0]
        y = other.step(velocity(y, t), t, y, return_dict=False)[0]
        ends.append((x, y))
    assert [(end.is_of_copy, end.number) for end in renewing.ends] == [(False, 1), (True, 1)]
    assert torch.equal(renewing.ends[0].last, renewing.ends[1].last)
    assert all(torch.equal(x, y) for x, y in ends)
    assert torch.equal(ends[2][0], noise())
    assert not torch.equal(ends[5][0], noise())


def test_a_step_that_is_taken_twice_ends_a_round_once() -> None:
    """Cosmos asks for the clean video, sets the scheduler back, and steps; and it writes into the last noise level."""
    scheduler = diffusers.EDMEulerScheduler()
    in_rounds(scheduler, Renewing(2, noise()))
    seen: list[tuple[int, int]] = []
    on_each_step(scheduler, lambda done, total, _: seen.append((done, total)))
    scheduler.set_timesteps(3)
    scheduler.sigmas[-1] = scheduler.sigmas[-2]
    x = start = noise()
    inputs = []
    for index, t in enumerate(scheduler.timesteps):
        inputs.append(x)
        assert scheduler.sigmas[index] == scheduler.sigmas[index % 3]
        both = torch.cat([x, x])  # with guidance, and without
        scheduler.step(scheduler.scale_model_input(both, t), t, both)
        scheduler._step_index -= 1
        x = scheduler.step(x, t, x, return_dict=False)[0]
    assert seen == [(done, 6) for done in range(1, 7)]
    assert torch.equal(inputs[3], start)
    assert torch.equal(inputs[4], inputs[1])
    assert torch.equal(inputs[5], inputs[2])
    assert not torch.equal(x, start)
