"""Which attention kernels a model's denoiser uses: those that were tried on this device and gave the right numbers.

Never diffusers' `_hub` kernels: those are programs that are downloaded.
"""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from diffusers.models.attention_dispatch import (
    AttentionBackendName,
    _check_attention_backend_requirements,
    dispatch_attention_fn,
)

from vitascope.domain.choice import Choice
from vitascope.domain.errors import SettingsError

from .kernel_times import KERNELS, KernelTimes, length_class

_WITHOUT_MASKS = ("Wan", "SkyReels", "CogVideoX")
"""Denoisers that hand no mask to their attention, so that kernels will do which take none."""

TOLERANCE = 0.02
"""Largest difference from torch's own kernel in a try on random numbers; bfloat16 alone gives 0.004."""


def check_attention(asked: str, device: torch.device) -> None:
    """Refuse at start kernels that do not work on this device.

    Raises:
        SettingsError: says why not.
    """
    problem = None if asked == "auto" else _problem(asked, 64, device, torch.bfloat16, masked=False)
    if problem is not None:
        message = f"setting `engine.attention` is `{asked}`, but {problem}"
        raise SettingsError(f"{message}. The nearest legal value is `native`.")


def choose_attention(
    asked: str,
    denoiser: torch.nn.Module,
    device: torch.device,
    dtype: torch.dtype,
    num_tokens: int = 0,
    kernel_times: KernelTimes | None = None,
) -> Choice:
    """Choose the kernels for a denoiser, by trying them with its head size and dtype.

    Args:
        asked: the operator's setting; `auto` takes the quickest of those that work and compute the same.
        denoiser: the model's.
        device: where it works.
        dtype: which it computes in.
        num_tokens: that it attends to in a clip of its default size.
        kernel_times: what was measured before; without it every loading measures anew.
    """
    if asked != "auto":
        problem = problem_with(asked, denoiser, device, dtype)
        if problem is None:
            return Choice("attention", asked, "set by engine.attention; tried on this device")
        return Choice("attention", "native", f"engine.attention is `{asked}`, but {problem}")
    names = [name for name in _candidates(device) if problem_with(name, denoiser, device, dtype) is None]
    if not names:
        return Choice("attention", "native", _why_native(device))
    length = length_class(num_tokens)
    head_dim = _head_dim(denoiser)
    times = (kernel_times or KernelTimes()).of(["native", *names], head_dim, length, device, dtype)
    quickest = min(times, key=lambda name: times[name])
    told = ", ".join(f"{name} {1000 * seconds:.3g} ms" for name, seconds in times.items())
    reason = f"the quickest of those that compute the same: {told} for {length} tokens and heads of {head_dim}, measured once on this device"
    return Choice("attention", quickest, reason)


def _candidates(device: torch.device) -> tuple[str, ...]:
    """Kernels that may be quicker than torch's choice; all of them compute the same."""
    if device.type != "cuda":
        return ()
    if torch.version.hip:
        return ("flash",)
    is_hopper = torch.cuda.get_device_capability(device) >= (9, 0)
    return ("cudnn", "flash", "flash3") if is_hopper else ("cudnn", "flash")


def _why_native(device: torch.device) -> str:
    if device.type == "cpu":
        return "torch's own is the one that there is for a CPU"
    if _candidates(device):
        return f"torch chooses; {', '.join(_candidates(device))} do not work with this model here"
    return "torch chooses the quickest that there is for this GPU"


def problem_with(
    name: str, denoiser: torch.nn.Module, device: torch.device, dtype: torch.dtype
) -> str | None:
    """Try kernels as a denoiser would use them; say what keeps it from that, None if nothing does."""
    if not _processors(denoiser):
        return (
            None
            if name == "native"
            else f"`{type(denoiser).__name__}` has no attention that can be exchanged"
        )
    return _problem(name, _head_dim(denoiser), device, dtype, masked=_has_masks(denoiser))


def _problem(
    name: str, head_dim: int, device: torch.device, dtype: torch.dtype, *, masked: bool
) -> str | None:
    """Try kernels on small random numbers, with a mask too where there may be one."""
    kernels = AttentionBackendName(KERNELS[name])
    try:
        _check_attention_backend_requirements(kernels)
        for has_mask in {False, masked}:
            difference = _difference(kernels, head_dim, device, dtype, masked=has_mask)
            if not difference <= TOLERANCE:
                return f"its numbers differ from torch's own by {difference:.2g} on this device"
    except (RuntimeError, ValueError, TypeError, ImportError, AttributeError, AssertionError) as error:
        # kernels of others say in many ways that they are not there or not for this device
        reason = str(error).strip().split("\n", 1)[0].rstrip(".")
        return f"it does not work here: {reason[:200] or type(error).__name__}"
    return None


def _has_masks(denoiser: torch.nn.Module) -> bool:
    return not type(denoiser).__name__.startswith(_WITHOUT_MASKS)


def _difference(
    kernels: AttentionBackendName, head_dim: int, device: torch.device, dtype: torch.dtype, *, masked: bool
) -> float:
    numbers = torch.Generator("cpu").manual_seed(0)
    query, key, value = (
        torch.randn(1, length, 2, head_dim, generator=numbers).to(device, dtype) for length in (64, 40, 40)
    )
    mask = torch.ones(1, 1, 64, 40, dtype=torch.bool, device=device) if masked else None
    if mask is not None:
        mask[..., 30:] = False
    with torch.no_grad():
        ours, theirs = (
            dispatch_attention_fn(query, key, value, attn_mask=mask, backend=which)
            for which in (kernels, AttentionBackendName.NATIVE)
        )
    return float((ours.float() - theirs.float()).abs().max())


def _head_dim(denoiser: torch.nn.Module) -> int:
    config: Any = getattr(denoiser, "config", {})
    found = config.get("attention_head_dim", 64)
    return int(found) if isinstance(found, int) else 64


def use(denoiser: torch.nn.Module, choice: Choice) -> None:
    """Have a denoiser's attention use the chosen kernels.

    diffusers' own `set_attention_backend` would make them the default of all other models too.
    """
    for processor in _processors(denoiser):
        processor._attention_backend = AttentionBackendName(KERNELS[choice.value])


def _processors(denoiser: torch.nn.Module) -> list[Any]:
    found = (getattr(module, "processor", None) for module in denoiser.modules())
    is_ours = isinstance(denoiser, diffusers.ModelMixin)
    return [processor for processor in found if hasattr(processor, "_attention_backend")] if is_ours else []
