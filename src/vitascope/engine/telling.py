"""What a job is told of how it was made, and what another try at it has to know."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from vitascope.domain.choice import Choice
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import SECOND, Plan

from .contract import Sharing
from .loading import AS_BEFORE, LoadedModel
from .parallel import Together, as_split
from .slots import Slot


def settle(sharing: Sharing | None, settled: Mapping[str, str], part: str = "") -> None:
    """Let whoever drives know what was chosen, for another try."""
    if sharing is not None:
        sharing.settled |= {part + name: value for name, value in settled.items()}


def told(
    choices: tuple[Choice, ...], spec: ModelSpec, card: ModelSpec, together: Together
) -> tuple[Choice, ...]:
    """Give the true reason for what is no more than what an earlier try had, and what is otherwise with other devices."""
    choices = tuple(
        as_split(choice, together) if choice.name == "attention" else choice for choice in choices
    )
    return tuple(
        dataclasses.replace(choice, reason=AS_BEFORE)
        if getattr(spec, choice.name, None) != getattr(card, choice.name, None)
        else choice
        for choice in choices
    )


def named_second(choices: Iterable[Choice]) -> tuple[Choice, ...]:
    """Tell what was chosen for the second pass apart from what was for the first."""
    return tuple(dataclasses.replace(choice, name=SECOND + choice.name) for choice in choices)


def computed_in_full(plan: Plan, together: Together) -> Plan:
    """Leave out a step cache where devices share the steps: each would decide by its own part when to reuse."""
    return plan if together.kind == "off" else dataclasses.replace(plan, step_cache=None)


def compile_choice(model: LoadedModel, together: Together) -> Choice:
    if together.kind == "context" and model.compiling.choice.value != "off":
        return Choice(
            model.compiling.choice.name,
            "off",
            "devices tell each other in each block how many tokens they have",
        )
    return model.compiling.choice


def cache_choice(asked: Plan, plan: Plan) -> tuple[Choice, ...]:
    if asked.step_cache == plan.step_cache:
        return ()
    return (Choice("step_cache", "off", "several devices share each step, which is computed in full"),)


def scheduler_choice(plan: Plan, slot: Slot) -> tuple[Choice, ...]:
    if plan.scheduler is not None:
        return ()
    name = type(slot.pipelines[plan.mode].scheduler).__name__
    return (Choice("scheduler", name, "the checkpoint's own"),)
