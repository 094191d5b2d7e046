"""One call of a denoiser, taken apart so that several become one: what has a row for each sample, and what is the same for all.

Knows which denoisers can be called so, and nothing of requests.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

LATENTS = "hidden_states"

BY_SAMPLE: Mapping[str, frozenset[str]] = {
    "WanTransformer3DModel": frozenset(
        ("hidden_states", "timestep", "encoder_hidden_states", "encoder_hidden_states_image")
    ),
    "LTXVideoTransformer3DModel": frozenset(
        ("hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask")
    ),
}
"""Arguments with a row for each sample, of the classes whose every sample is computed from its own rows alone."""

CONDITIONS = ("encoder_hidden_states", "encoder_hidden_states_image", "encoder_attention_mask")
"""What tells the two calls of guidance apart."""


@dataclass(slots=True, eq=False)
class Branch:
    """Conditions, which pipelines work out once: of guidance there are two."""

    conditions: dict[str, torch.Tensor]
    #: Asked for after this one, with the same latents.
    following: Branch | None = None
    #: What a denoiser works out from the conditions alone.
    kept: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[tuple[str, int], ...]:
        """The same for the same tensors, as long as they are held."""
        return tuple((name, id(tensor)) for name, tensor in sorted(self.conditions.items()))


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """The arguments of one call; it answers with one tensor.

    Args:
        rows: tensors whose first dimension is the samples', and that change with each step.
        branch: the others with a row for each sample.
        rest: what is the same for all samples.
    """

    rows: dict[str, torch.Tensor]
    branch: Branch
    rest: dict[str, Any]

    @property
    def all_rows(self) -> dict[str, torch.Tensor]:
        return self.rows | self.branch.conditions

    @property
    def num_samples(self) -> int:
        return len(self.rows[LATENTS])

    @property
    def kind(self) -> Hashable:
        """Equal of calls that can be one."""
        shapes = ((name, tensor.shape[1:], tensor.dtype) for name, tensor in sorted(self.all_rows.items()))
        return (*shapes, *sorted(self.rest.items()))

    def by_sample(self) -> list[Call]:
        """One call for each sample."""
        return [
            Call(_row(self.rows, place), Branch(_row(self.branch.conditions, place)), self.rest)
            for place in range(self.num_samples)
        ]

    def is_of_same_step(self, other: Call) -> bool:
        """Whether both differ in their conditions only."""
        return (
            self.rows.keys() == other.rows.keys()
            and all(tensor is other.rows[name] for name, tensor in self.rows.items())
            and self.rest == other.rest
        )


def _row(rows: Mapping[str, torch.Tensor], place: int) -> dict[str, torch.Tensor]:
    return {name: tensor[place : place + 1] for name, tensor in rows.items()}


def read_call(class_name: str, arguments: Mapping[str, Any]) -> Call | None:
    """Take a call apart; None if it cannot be."""
    by_sample = BY_SAMPLE.get(class_name)
    if by_sample is None or arguments.get("return_dict") is not False:
        return None
    rows = {name: value for name, value in arguments.items() if name in by_sample and value is not None}
    rest = {name: value for name, value in arguments.items() if name not in rows}
    if LATENTS not in rows or not all(isinstance(value, torch.Tensor) for value in rows.values()):
        return None
    if len({len(value) for value in rows.values()}) > 1 or not all(map(_is_plain, rest.values())):
        return None
    conditions = {name: rows.pop(name) for name in CONDITIONS if name in rows}
    return Call(rows, Branch(conditions), rest)


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def joined(calls: Sequence[Call]) -> dict[str, Any]:
    """The arguments of one call for all of them, which are of one kind."""
    first = calls[0]
    if len(calls) == 1:
        return first.all_rows | first.rest
    rows = {name: torch.cat([call.all_rows[name] for call in calls]) for name in first.all_rows}
    return rows | first.rest


def parted(answer: torch.Tensor, calls: Sequence[Call]) -> list[torch.Tensor]:
    """Each call's part of an answer to all of them."""
    return [answer] if len(calls) == 1 else list(answer.split([call.num_samples for call in calls]))
