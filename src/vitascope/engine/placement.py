"""How a model is loaded so that it fits: dtype, offloading, quantisation, and how its frames are decoded.

Pure functions of what was measured: the device, the checkpoint's sizes, the largest work. Of all ways that fit, the one that
costs least time is taken, and those that change the picture come last. Knows nothing of torch; `loading` carries it out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

from vitascope.domain.choice import Choice
from vitascope.domain.errors import ModelTooLarge, SettingsError
from vitascope.domain.model_spec import ModelSpec

from .activations import Extent, Work, work_of
from .sizes import ROLES, Component, Sizes

Offload = Literal["none", "model", "group", "sequential"]
"""Where weights wait: on the device; in main memory until their component works; until their block does; until their layer does."""

Quantization = Literal["none", "int8", "fp8"]
"""How the denoisers' and encoders' matrices are kept: as they compute, or in one byte a value, made whole again layer by layer."""

OFFLOADS: tuple[Offload, ...] = get_args(Offload)
QUANTIZATIONS: tuple[Quantization, ...] = get_args(Quantization)

GIB = 2**30

ONE_CLIP = "one clip"
"""Of `Wishes.compile`: `auto`, where the engine makes one clip and goes."""

VALUE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

RESERVE_SHARE, LEAST_RESERVE, MOST_RESERVE = 0.05, GIB // 2, 4 * GIB
"""Memory that is not planned with: for the libraries' own workspace, and for what an allocator cannot join."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What a model is placed on, as it was measured while nothing of ours was loaded."""

    #: "cuda" (also ROCm), "xpu", "mps" or "cpu".
    kind: str
    name: str
    free_bytes: int
    total_bytes: int
    #: Main memory, where offloaded weights wait. On a CPU the same as `free_bytes`.
    free_host_bytes: int
    #: Whether it computes bfloat16 at full rate.
    has_bfloat16: bool = True
    #: What the operator lets models and their work take; None is all.
    budget_bytes: int | None = None

    @property
    def has_own_memory(self) -> bool:
        """Whether offloading gains anything: the CPU and Apple's GPU compute in main memory."""
        return self.kind in ("cuda", "xpu")

    @property
    def usable_bytes(self) -> int:
        """What may be planned with."""
        reserve = min(max(round(self.total_bytes * RESERVE_SHARE), LEAST_RESERVE), MOST_RESERVE)
        usable = max(0, self.free_bytes - reserve)
        return usable if self.budget_bytes is None else min(usable, self.budget_bytes)

    @property
    def usable_host_bytes(self) -> int:
        return max(0, self.free_host_bytes - LEAST_RESERVE)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the operator's settings ask for; `auto` leaves it to what fits."""

    dtype: str = "auto"
    attention: str = "auto"
    vae_tiling: str = "auto"
    vae_channels_last: str = "auto"
    offload: str = "auto"
    quantization: str = "auto"
    compile: str = "auto"

    def for_one_clip(self) -> Wishes:
        """Leave out what pays from the second clip on, but where it was asked for."""
        return replace(self, compile=ONE_CLIP) if self.compile == "auto" else self


NO_WISHES = Wishes()


@dataclass(frozen=True, slots=True)
class Placement:
    """How a model is loaded, and what that takes."""

    dtype: str
    offload: Offload
    quantization: Quantization
    #: The operator's setting: "auto", "on" or "off".
    tiling: str
    #: All weights as they are kept, wherever that is.
    weights_bytes: int
    #: Of these, on the device at the same time: at most, during the steps, and while decoding.
    device_bytes: int
    denoise_bytes: int
    decode_bytes: int
    #: On the device at most, with the work.
    peak_bytes: int
    #: What may be planned with.
    usable_bytes: int
    #: Whether the clip that this was chosen for is decoded in tiles.
    has_tiles: bool
    choices: tuple[Choice, ...]

    @property
    def takes_turns(self) -> bool:
        """Whether only one generation may be open: weights that come and go are in one place at a time."""
        return self.offload != "none"

    def leaves_room_for(self, work: Work) -> bool:
        """Whether a clip's work fits beside the weights, decoded in tiles if need be."""
        decode = work.decode_bytes if self.tiling == "off" else work.tiled_decode_bytes
        peak = max(self.denoise_bytes + work.denoise_bytes, self.decode_bytes + decode)
        return peak <= self.usable_bytes

    def tiles_for(self, work: Work, extent: Extent) -> Choice | None:
        """Choose whether a clip is decoded in tiles; None where nobody asked and all of it fits."""
        if self.tiling != "auto":
            return Choice(TILING, self.tiling, "set by engine.vae_tiling")
        if work.tiled_decode_bytes >= work.decode_bytes:
            return None
        whole = self.decode_bytes + work.decode_bytes
        if whole <= self.usable_bytes:
            return None
        reason = f"to decode {extent} at once takes {_gib(whole)}, in tiles {_gib(self.decode_bytes + work.tiled_decode_bytes)}; {_gib(self.usable_bytes)} may be used"
        return Choice(TILING, "on", reason)


TILING = "vae tiling"


def check(machine: Machine, wishes: Wishes) -> None:
    """Refuse at start what this device cannot do.

    Raises:
        SettingsError: says which setting, why, and the nearest value that works.
    """
    _offload_of(wishes.offload, machine)
    if wishes.dtype == "float16" and machine.kind == "cpu":
        message = "setting `engine.dtype` is `float16`, but a CPU takes 100 to 400 times as long for it as for `bfloat16`"
        raise SettingsError(f"{message}. The nearest legal value is `{best_dtype(machine).value}`.")


def choose_dtype(spec: ModelSpec, machine: Machine, asked: str = "auto") -> Choice:
    """Take the operator's dtype, else the card's, else bfloat16 where the device computes it fast.

    float16 is never chosen on a CPU: measured 100 to 400 times slower than bfloat16 (docs/experiments.md).
    """
    best = best_dtype(machine)
    if asked != "auto":
        return Choice("dtype", asked, "set by engine.dtype")
    if spec.dtype == "float16" and machine.kind == "cpu":
        reason = f"the model's card says float16, which a CPU computes 100 times slower; {best.reason}"
        return Choice("dtype", best.value, reason)
    if spec.dtype == "bfloat16" and not machine.has_bfloat16:
        return Choice("dtype", best.value, f"the model's card says bfloat16; {best.reason}")
    if spec.dtype != "auto":
        return Choice("dtype", spec.dtype, "the model's card says so")
    return best


def best_dtype(machine: Machine) -> Choice:
    """Choose the dtype that the device computes fastest without losing range."""
    if machine.kind == "cpu":
        if machine.has_bfloat16:
            return Choice("dtype", "bfloat16", "this CPU has bfloat16 instructions")
        return Choice("dtype", "float32", "this CPU has no bfloat16 instructions")
    if machine.has_bfloat16:
        return Choice("dtype", "bfloat16", f"{machine.kind} computes it at full rate")
    return Choice("dtype", "float16", "this GPU has no bfloat16 instructions")


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to place a model, reckoned."""

    offload: Offload
    quantization: Quantization
    has_tiles: bool
    weights_bytes: int
    device_bytes: int
    denoise_bytes: int
    decode_bytes: int
    peak_bytes: int
    host_bytes: int

    def fits(self, machine: Machine) -> bool:
        return self.peak_bytes <= machine.usable_bytes and self.is_held_by_host(machine)

    def is_held_by_host(self, machine: Machine) -> bool:
        return not machine.has_own_memory or self.host_bytes <= machine.usable_host_bytes

    def can_be_tried(self, machine: Machine) -> bool:
        """Whether at least the weights, which are known exactly, have room; what the work takes is an estimate."""
        return self.device_bytes < machine.total_bytes and self.device_bytes <= machine.free_bytes


def place(
    spec: ModelSpec,
    sizes: Sizes,
    machine: Machine,
    wishes: Wishes = NO_WISHES,
    extent: Extent | None = None,
    quantization: str = "auto",
) -> Placement:
    """Choose how a model is loaded.

    Args:
        spec: the model.
        sizes: of its checkpoint.
        machine: where it will run.
        wishes: what the operator has set.
        extent: the largest clip of one pass; by default what the card has as default.
        quantization: what a larger clip must not change, because it would change the picture.

    Raises:
        ModelTooLarge: not even its weights have room in any way that the settings allow; says the numbers.
        SettingsError: as `check`.
    """
    check(machine, wishes)
    dtype = choose_dtype(spec, machine, wishes.dtype)
    extent = extent or Extent(spec.default_num_frames, spec.default_size.height, spec.default_size.width)
    value_bytes = VALUE_BYTES[dtype.value]
    work = work_of(sizes, extent, value_bytes=value_bytes)
    asked = next(
        (each for each in (wishes.quantization, spec.quantization, quantization) if each != "auto"), "auto"
    )
    ways = [_reckon(sizes, work, value_bytes, *way) for way in _ways(machine, wishes, work, asked)]
    way = next((way for way in ways if way.fits(machine)), None)
    if way is None:
        tried = [way for way in ways if way.can_be_tried(machine) and way.is_held_by_host(machine)]
        if not tried:
            raise _too_large(spec, machine, ways)
        alike = [
            way for way in tried if way.quantization == ways[0].quantization
        ]  # so at least the picture is
        way = min(alike or tried, key=lambda way: way.peak_bytes)
    choices = (
        dtype,
        _offload_choice(way, ways[0], machine, wishes),
        *_quantization_choice(way, ways[0], machine, wishes, spec),
    )
    return Placement(
        dtype.value, way.offload, way.quantization, wishes.vae_tiling,
        way.weights_bytes, way.device_bytes, way.denoise_bytes, way.decode_bytes, way.peak_bytes,
        machine.usable_bytes, way.has_tiles, choices,
    )  # fmt: skip


def _ways(
    machine: Machine, wishes: Wishes, work: Work, quantization: str
) -> Iterator[tuple[Offload, Quantization, bool]]:
    """All ways that the settings allow, the cheapest first.

    Tiles cost some per cent of the decoding, and a seam that is hardly seen; a component's way to the device some seconds a clip; a
    block's some time at every step. Quantised weights change the picture: they come after all these, but before layer by layer.
    """
    offloads: tuple[Offload, ...] = ("none",)
    if wishes.offload != "auto":
        offloads = (_offload_of(wishes.offload, machine),)
    elif machine.has_own_memory:
        offloads = OFFLOADS
    quantizations: tuple[Quantization, ...] = ("none", "int8")
    if quantization != "auto":
        quantizations = tuple(each for each in QUANTIZATIONS if each == quantization)
    tiles = {"on": (True,), "off": (False,)}.get(wishes.vae_tiling, (False, True))
    if work.tiled_decode_bytes >= work.decode_bytes and wishes.vae_tiling == "auto":
        tiles = (False,)
    quick: tuple[Offload, ...] = tuple(each for each in offloads if each != "sequential")
    slow: tuple[Offload, ...] = tuple(each for each in offloads if each == "sequential")
    for some in (quick, slow):
        for kept, offload, has_tiles in itertools.product(quantizations, some, tiles):
            yield offload, kept, has_tiles


def _offload_of(asked: str, machine: Machine) -> Offload:
    found: Offload = next((each for each in OFFLOADS if each == asked), "none")
    if found != "none" and not machine.has_own_memory:
        message = f"setting `engine.offload` is `{asked}`, but {machine.name} computes in main memory, where weights would wait"
        raise SettingsError(f"{message}. The nearest legal value is `none`.")
    return found


def _reckon(
    sizes: Sizes, work: Work, value_bytes: int, offload: Offload, quantization: Quantization, has_tiles: bool
) -> _Way:
    decode = work.tiled_decode_bytes if has_tiles else work.decode_bytes
    total = sum(weights_bytes(part, value_bytes, quantization) for part in sizes.components)
    there = {role: total for role in ROLES}
    if offload != "none":
        there = {role: _there_at_once(sizes.of(role), value_bytes, quantization, offload) for role in ROLES}
    device, denoiser, autoencoder = max(there.values()), there["denoiser"], there["autoencoder"]
    peak = max(device, denoiser + work.denoise_bytes, autoencoder + decode)
    host = 0 if offload == "none" else total
    return _Way(offload, quantization, has_tiles, total, device, denoiser, autoencoder, peak, host)


def weights_bytes(part: Component, value_bytes: int, quantization: Quantization) -> int:
    """What a component's weights take as they are kept."""
    if quantization == "none" or part.role == "autoencoder":
        return part.num_values * value_bytes + part.other_bytes
    whole = part.num_values - part.num_matrix_values
    return part.num_matrix_values + whole * value_bytes + part.other_bytes


def _there_at_once(
    parts: tuple[Component, ...], value_bytes: int, quantization: Quantization, offload: Offload
) -> int:
    """What of components that work one after the other is on the device at the same time."""
    return max((_piece_bytes(part, value_bytes, quantization, offload) for part in parts), default=0)


def _piece_bytes(part: Component, value_bytes: int, quantization: Quantization, offload: Offload) -> int:
    """Two blocks, since one comes while the other works, and what is in no block; or one layer; or all of it."""
    whole = weights_bytes(part, value_bytes, quantization)
    if offload == "model" or part.role == "autoencoder":
        return whole
    if offload == "group":
        return min(whole, (2 * part.num_block_values + part.num_rest_values) * value_bytes)
    return min(whole, part.num_layer_values * value_bytes)


def _too_large(spec: ModelSpec, machine: Machine, ways: list[_Way]) -> ModelTooLarge:
    least = min(ways, key=lambda way: (way.device_bytes, way.weights_bytes))
    kept = "" if least.quantization == "none" else f" in {least.quantization}"
    if not machine.has_own_memory or least.is_held_by_host(machine):
        how = "" if least.offload == "none" else " even with offloading"
        message = f"the weights of model `{spec.id}` take {_gib(least.device_bytes)}{kept}{how}, and {_there(machine)}"
    else:
        message = f"the weights of model `{spec.id}` take {_gib(least.weights_bytes)}{kept}; {_there(machine)}, and {_gib(machine.free_host_bytes)} of main memory"
    return ModelTooLarge(
        message, hint="`vitascope models list` shows what each model needs; a smaller one may fit"
    )


def _there(machine: Machine) -> str:
    return f"{machine.name} has {_gib(machine.free_bytes)} of {_gib(machine.total_bytes)} free"


def _offload_choice(way: _Way, first: _Way, machine: Machine, wishes: Wishes) -> Choice:
    if wishes.offload != "auto":
        return Choice("offload", way.offload, "set by engine.offload")
    there = f"{_gib(machine.usable_bytes)} that may be used"
    if not machine.has_own_memory:
        reason = f"{machine.name} computes in main memory; weights {_gib(way.weights_bytes)}, with the work {_gib(way.peak_bytes)} of {there}"
    elif way.offload == "none":
        reason = f"weights {_gib(way.weights_bytes)}, with the work {_gib(way.peak_bytes)} of {there}"
    else:
        needed = f"all of it at once takes {_gib(first.peak_bytes)}"
        reason = f"{needed}, more than the {there}; so {_gib(way.peak_bytes)}, {_COSTS[way.offload]}"
    if way.peak_bytes > machine.usable_bytes:
        reason += "; it may not fit: no way that the settings allow takes less"
    return Choice("offload", way.offload, reason)


_COSTS: dict[Offload, str] = {
    "model": "and each part comes to the device once a clip",
    "group": "and blocks come to the device at each step",
    "sequential": "and layers come to the device one by one, which is slow",
}


def _quantization_choice(
    way: _Way, first: _Way, machine: Machine, wishes: Wishes, spec: ModelSpec
) -> tuple[Choice, ...]:
    if wishes.quantization != "auto":
        return (Choice("quantization", way.quantization, "set by engine.quantization"),)
    if spec.quantization != "auto":
        return (Choice("quantization", way.quantization, "the model's card says so"),)
    if way.quantization == "none":
        return ()
    reason = f"weights as they compute, and the work, take {_gib(first.peak_bytes)}, more than the {_gib(machine.usable_bytes)} that may be used; one byte a value: {_gib(way.weights_bytes)}"
    return (Choice("quantization", way.quantization, reason),)


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.2f} GiB" if num_bytes < GIB else f"{num_bytes / GIB:.1f} GiB"
