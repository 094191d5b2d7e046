"""What compiling gains of Wan's forward: `python -m bench.compiled [--blocks 2] [--size 240x208x17] [--samples 1,2] [--device cuda]`.

Without `--blocks` it is the embedded model's; with it, so many blocks of Wan 2.1 1.3B with random weights. Prints milliseconds a forward
(of the processor on a CPU, else of the clock), the least of some repeats in turn, with TFLOP/s, and how far the numbers are from diffusers'.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from diffusers import WanTransformer3DModel

from vitascope.catalog import Catalog, locate
from vitascope.domain.choice import Choice
from vitascope.engine.calls import Call, read_call
from vitascope.engine.compiling import Compiling
from vitascope.engine.families import wan, wan_block
from vitascope.engine.measuring.arithmetic import Counted, synchronize

Forwards = Mapping[str, Callable[[], torch.Tensor]]


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("--blocks", type=int)
    reader.add_argument("--size")
    reader.add_argument("--samples", default="1,2")
    reader.add_argument("--device", default="cpu")
    reader.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    reader.add_argument("--repeats", type=int, default=10)
    asked = reader.parse_args()
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    device, dtype = torch.device(asked.device), getattr(torch, asked.dtype)
    module = _module(asked.blocks, dtype).to(device)
    size = asked.size or ("192x192x17" if asked.blocks is None else "240x208x17")
    compiling, theirs = Compiling(Choice("compile", "blocks", "measured")), copy.deepcopy(module)
    for block in theirs.blocks:
        block.forward = torch.compile(block.forward)
    formula = compiling.formula(wan_block.block)
    assert formula is not None
    native = wan.Wan(module, {})
    quick = wan.Wan(module, {}, wan_block.CompiledBlocks(module.blocks, formula, set()))
    for num in map(int, asked.samples.split(",")):
        given = _arguments(module, num, _latent(asked.blocks, size), device, dtype)
        call = read_call(wan.CLASS, given)
        assert call is not None
        forwards = {
            "diffusers": partial(_theirs, module, given),
            "its blocks compiled": partial(_theirs, theirs, given),
            "native": partial(_ours, native, call),
            "native, compiled": partial(_ours, quick, call),
        }
        print(f"{size}, {asked.dtype}, samples: {num}")
        _measure(module, forwards, device, asked.repeats)
    print(f"compile: {compiling.choice.value} ({compiling.choice.reason})")


def _module(num_blocks: int | None, dtype: torch.dtype) -> Any:
    if num_blocks is not None:
        made = WanTransformer3DModel(num_attention_heads=12, num_layers=num_blocks, ffn_dim=8960)
        return made.to(dtype).eval()
    folder = locate(Catalog.open().resolve("pocket"))
    return WanTransformer3DModel.from_pretrained(folder, subfolder="transformer", dtype=dtype).eval()


def _latent(num_blocks: int | None, size: str) -> tuple[int, int, int]:
    width, height, num_frames = map(int, size.split("x"))
    scale = 16 if num_blocks is None else 8
    return (num_frames - 1) // 4 + 1, height // scale, width // scale


def _arguments(
    module: Any, num: int, latent: tuple[int, int, int], device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    config = module.config
    text = torch.randn(num, 64 if config.text_dim == 384 else 512, config.text_dim)
    return {
        "hidden_states": torch.randn(num, config.in_channels, *latent).to(device, dtype),
        "timestep": torch.full((num,), 500.0, device=device),
        "encoder_hidden_states": text.to(device, dtype),
        "return_dict": False,
    }


def _theirs(module: Any, given: dict[str, Any]) -> torch.Tensor:
    answer: torch.Tensor = module(**given)[0]
    return answer


def _ours(forward: wan.Wan, call: Call) -> torch.Tensor:
    answers = forward([call])
    assert answers is not None
    return answers[0]


def _measure(module: Any, forwards: Forwards, device: torch.device, repeats: int) -> None:
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    with Counted().of([module], with_flops=True) as counted:
        truth = forwards["diffusers"]()
    taken: dict[str, list[float]] = {name: [] for name in forwards}
    for turn in range(repeats + 1):
        for name, forward in forwards.items():
            begun = clock()
            answer = forward()
            synchronize(device)
            taken[name].append(clock() - begun)
            if turn == 0:  # which compiles
                print(
                    f"  {name}: first {taken[name].pop():.1f} s, difference {float((answer - truth).abs().max()):.3g}"
                )
    for name, seconds in taken.items():
        rate = (counted.flops or 0) / min(seconds) / 1e12
        print(f"  {name}: {1000 * min(seconds):.1f} ms, {rate:.3g} TFLOP/s", flush=True)


if __name__ == "__main__":
    main()
