"""How much memory a model's work takes beside its weights: `python -m bench.memory.activations`.

Real architectures run on torch's fake tensors, which have shapes and no numbers: no checkpoint, no device and no memory is
needed, and every tensor that is alive is counted. Kernels' own workspace and fragmentation are not, so that a device needs
some more. `engine/activations.py` has its factors from here.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Peak(TorchDispatchMode):  # type: ignore[misc]
    """Counts the bytes of storages that live, and the most at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.now: int = 0
        self.most: int = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: Any) -> None:
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        size = storage.nbytes()
        self.now += size
        self.most = max(self.most, self.now)

        def gone() -> None:
            self.now -= size
            self._known.discard(key)

        weakref.finalize(storage, gone)


def peak_of(
    build: Callable[[], Any], call: Callable[[Any], Any], *, dtype: torch.dtype = torch.bfloat16
) -> int:
    """Bytes that a call takes at most beside the module's weights, its result included."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            module = build().eval()
            with Peak() as peak:
                call(module)
    finally:
        torch.set_default_dtype(usual)
    return int(peak.most)
