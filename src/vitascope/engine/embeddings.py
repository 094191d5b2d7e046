"""What text encoders made of texts, kept for the next request or window with the same text.

Most have the same negative prompt, and every window of a long video reads its text anew. Kept are the outputs of the encoders
themselves, by the numbers that the tokenizer gave, so that it serves whatever a pipeline does with them. Knows nothing of prompts.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import torch

from .slots import Slot
from .standing_in import standing_in

TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")

MOST_NUMBERS = 100_000
"""Longer inputs are no tokens: pictures, or texts that were embedded elsewhere."""

LARGEST_SHARE = 1 / 4
"""Of the whole cache, for one output: encoders that give all of their layers would drive out everything else."""


class Embeddings:
    """The outputs that an engine keeps, on the device; the least recently used go first.

    Args:
        max_bytes: how much of them; 0 keeps none.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self.num_bytes = 0
        self.num_hits = 0

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()
        self.num_bytes = 0

    @contextlib.contextmanager
    def used(self, slot: Slot) -> Iterator[None]:
        """Answer for a slot's text encoders for the time of a request; not for those that an adapter changes."""
        with contextlib.ExitStack() as stack:
            for name, module in slot.modules().items():
                if name in TEXT_ENCODERS and name not in slot.adapted and self._max_bytes:
                    # one object for each time that a model is loaded: its files may have changed since
                    weights = slot.shared.setdefault("weights", object())
                    stack.enter_context(standing_in(module, self._remembering(module, (weights, name))))
            yield

    def _remembering(self, module: Any, weights: Hashable) -> Callable[..., Any]:
        forward = module.forward

        def remembering(*args: Any, **arguments: Any) -> Any:
            given = _readable((args, arguments))
            if given is None:
                return forward(*args, **arguments)
            # a request may leave the encoder's last layers out
            key = (weights, sum(1 for _ in module.parameters()), given)
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                self.num_hits += 1
                return _copied(found[0])
            made = forward(*args, **arguments)
            self._keep(key, made)
            return made

        return remembering

    def _keep(self, key: Hashable, made: Any) -> None:
        try:
            num_bytes = _num_bytes(made)
        except _Other:
            return
        if num_bytes > self._max_bytes * LARGEST_SHARE:
            return
        # two requests may read one text at the same time, and both come here with it
        _, replaced = self._kept.pop(key, (None, 0))
        self._kept[key] = _copied(made), num_bytes
        self.num_bytes += num_bytes - replaced
        while self.num_bytes > self._max_bytes:
            _, (_, freed) = self._kept.popitem(last=False)
            self.num_bytes -= freed


class _Other(Exception):
    """An output has something that is not known to be the same at every use."""


_STATE = "past_key_values"
"""Of language models, for the words that they might go on with: encoders of prompts do not."""


def _readable(given: Any) -> Hashable | None:
    """Tell arguments by their values; None if there are others than numbers and plain words."""
    if isinstance(given, torch.Tensor):
        if given.numel() > MOST_NUMBERS:
            return None
        return given.dtype, tuple(given.shape), given.cpu().contiguous().view(torch.uint8).numpy().tobytes()
    if isinstance(given, Mapping):
        given = tuple(sorted(given.items()))
    if isinstance(given, tuple | list):
        parts = tuple(_readable(part) for part in given)
        return None if any(part is None for part in parts) else parts
    is_plain = given is None or isinstance(given, bool | int | float | str | torch.dtype | torch.device)
    return (type(given), given) if is_plain else None


def _has_fields(made: Any) -> bool:
    """Whether an output is one of transformers' or of `bert`: dataclasses both."""
    return dataclasses.is_dataclass(made) and not isinstance(made, type)


def _fields(made: Any) -> dict[str, Any]:
    given = {field.name: getattr(made, field.name) for field in dataclasses.fields(made)}
    return {name: part for name, part in given.items() if name != _STATE}


def _num_bytes(made: Any) -> int:
    """Count an output's bytes.

    Raises:
        _Other: there is more in it than tensors.
    """
    if isinstance(made, torch.Tensor):
        return int(made.nbytes)
    if _has_fields(made):
        return sum(map(_num_bytes, _fields(made).values()))
    if isinstance(made, tuple | list):
        return sum(map(_num_bytes, made))
    if made is None:
        return 0
    raise _Other


def _copied(made: Any) -> Any:
    """Copy an output: pipelines may write into what they get."""
    if isinstance(made, torch.Tensor):
        return made.clone()
    if _has_fields(made):
        return type(made)(**{name: _copied(part) for name, part in _fields(made).items()})
    if isinstance(made, tuple | list):
        return type(made)(map(_copied, made))
    return made
