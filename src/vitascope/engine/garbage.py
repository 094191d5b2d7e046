"""When Python looks for garbage. Importing and loading make hundreds of thousands of objects, nearly all of which stay."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected(*, keep: bool = False) -> Iterator[None]:
    """Look for none meanwhile: a fifth of the processor time of a first clip (docs/experiments.md).

    Args:
        keep: what there is by the end, and before, stays as long as the process: no later look passes over it.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        if keep:
            gc.freeze()
    finally:
        if was_enabled:
            gc.enable()
