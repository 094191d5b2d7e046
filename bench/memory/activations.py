"""How much memory a model's work takes beside its weights.

Real architectures run on torch's fake tensors, which have shapes and no numbers: no checkpoint, no device and no memory is
needed, and every tensor that is alive is counted. Kernels' own workspace and fragmentation are not, so that a device needs
some more. `engine/activations.py` has its factors from here.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import diffusers
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vitascope.engine.activations import BYTES_PER_PIXEL_OUT, Extent, work_of
from vitascope.engine.sizes import Component, Sizes

GIB = 2**30


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


Shape = tuple[int, int, int]
_VAES: list[tuple[str, int, int, int, list[Shape]]] = [
    ("AutoencoderKLWan", 16, 8, 4, [(17, 480, 832), (81, 480, 832), (17, 720, 1280)]),
    ("AutoencoderKLLTXVideo", 128, 32, 8, [(17, 512, 704), (97, 512, 704)]),
    ("AutoencoderKLCogVideoX", 16, 8, 4, [(17, 480, 720), (49, 480, 720)]),
    ("AutoencoderKLHunyuanVideo", 16, 8, 4, [(17, 480, 832), (61, 480, 832)]),
    ("AutoencoderKLMochi", 12, 8, 6, [(19, 480, 848)]),
]
"""Class, latent channels, how much smaller latents are in space and in time, and clips. Each as its class builds it by default."""


def measure_all() -> list[dict[str, Any]]:
    """Measure each architecture, beside what the engine reckons for it."""
    rows = []
    for name, channels, space, time, shapes in _VAES:
        for shape in shapes:
            for has_tiles in (False, True) if shape == shapes[-1] else (False,):
                measured = _decode_peak(name, channels, space, time, shape, has_tiles=has_tiles)
                rows.append(
                    _row(
                        name + (" in tiles" if has_tiles else ""),
                        shape,
                        measured,
                        _reckoned(name, shape, has_tiles=has_tiles),
                    )
                )
    return rows


def _decode_peak(name: str, channels: int, space: int, time: int, shape: Shape, *, has_tiles: bool) -> int:
    frames, height, width = shape

    def build() -> Any:
        vae = getattr(diffusers, name)()
        if has_tiles:
            vae.enable_tiling()
        return vae

    def decode(vae: Any) -> Any:
        latent = (1, channels, (frames - 1) // time + 1, height // space, width // space)
        return vae.decode(torch.empty(latent, dtype=torch.bfloat16), return_dict=False)

    return peak_of(build, decode)


def _reckoned(name: str, shape: Shape, *, has_tiles: bool) -> int:
    """What the engine expects, without the finished frames' way out, which the autoencoder has no part in."""
    with torch.device("meta"):
        config = dict(getattr(diffusers, name)().config) | {"_class_name": name}
    work = work_of(Sizes((Component("vae", "autoencoder", 1, 1, 1, config=config),)), Extent(*shape))
    out = BYTES_PER_PIXEL_OUT * shape[0] * shape[1] * shape[2]
    return (work.tiled_decode_bytes if has_tiles else work.decode_bytes) - out


def _row(name: str, shape: Shape, measured: int, reckoned: int) -> dict[str, Any]:
    frames, height, width = shape
    return {
        "what": name,
        "clip": f"{width}x{height}x{frames}",
        "measured GiB": round(measured / GIB, 2),
        "reckoned GiB": round(reckoned / GIB, 2),
        "bytes a pixel of one frame": round(measured / (height * width)),
    }
