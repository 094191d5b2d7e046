"""What an adapter (LoRA) costs: `python -m bench.adapters` (about a minute on two cores).

With the embedded model: a request without one, with one and with two, the first reading of a file and the next use. With names and
shapes of Wan 14B: the check before a job is queued, and hanging an adapter onto a slot. Seconds are the processor's.
"""

from __future__ import annotations

import contextlib
import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from vitascope.catalog import Catalog, Loras, locate
from vitascope.catalog.loras import parameters_of
from vitascope.domain import lora_names
from vitascope.domain.lora_names import ModelLayers
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import plan
from vitascope.domain.request import GenerationRequest, Lora
from vitascope.engine.adapters import Adapter, _add_products, _Product
from vitascope.engine.engine import DiffusersEngine

REPEATS = 5
ADAPTED = ("to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2")


def main() -> None:
    spec = Catalog.open().resolve("pocket")
    with tempfile.TemporaryDirectory() as folder:
        for name, rank in (("a", 16), ("b", 16), ("large", 64)):
            _write(Path(folder) / f"{name}.safetensors", spec, rank)
        _requests(spec, Path(folder))
    _large()


def _write(path: Path, spec: ModelSpec, rank: int) -> None:
    parameters = parameters_of(spec)
    assert parameters is not None
    tensors = {}
    for name, shape in parameters["transformer"].items():
        layer = name.removesuffix(".weight")
        if layer.endswith(ADAPTED) and len(shape) == 2:
            tensors[f"transformer.{layer}.lora_A.weight"] = torch.randn(rank, shape[1]) / 100
            tensors[f"transformer.{layer}.lora_B.weight"] = torch.randn(shape[0], rank) / 100
    save_file(tensors, path)
    print(f"{path.stem}: rank {rank}, {len(tensors) // 2} layers, {path.stat().st_size / 1e6:.1f} MB")


def _requests(spec: ModelSpec, folder: Path) -> None:
    engine = DiffusersEngine(
        locate, device="cpu", threads=1, find_loras=Loras(folder).files, lora_cache_bytes=10**9
    )

    def make(*names: str) -> None:
        loras = tuple(Lora(name) for name in names)
        request = GenerationRequest(
            model="pocket", prompt="a red rocket flies over a city", seed=1, loras=loras
        )
        list(engine.generate(plan(request, spec), spec))

    for names in ((), ("a",), ("b",), ("large",)):
        make(*names)  # load, and let the first run be over
    cases = {"none": (), "one": ("a",), "two": ("a", "b"), "one of rank 64": ("large",)}
    found = _medians(*(lambda names=names: make(*names) for names in cases.values()))
    for case, seconds in zip(cases, found, strict=True):
        print(f"a clip with {case}: {seconds:.2f} s, x{seconds / found[0]:.3f}")

    assert engine._loaded is not None
    with engine._loaded.slots.take(1) as slot:

        def hang(*, is_new: bool) -> None:
            if is_new:
                engine._adapters.clear()
            with engine._adapters.attached((Lora("large"),), spec, slot):
                pass

        first, again = _medians(lambda: hang(is_new=True), lambda: hang(is_new=False))
    print(
        f"an adapter of rank 64 read and hung on {first * 1000:.0f} ms, hung on again {again * 1000:.1f} ms"
    )
    engine.close()


def _large() -> None:
    from diffusers import WanTransformer3DModel

    with torch.device("meta"):
        transformer = WanTransformer3DModel(
            num_layers=40, num_attention_heads=40, attention_head_dim=128, ffn_dim=13824
        )
    shapes = {name: tuple(parameter.shape) for name, parameter in transformer.named_parameters()}
    layers = [
        name.removesuffix(".weight") for name in shapes if name.removesuffix(".weight").endswith(ADAPTED)
    ]
    tensors: dict[str, tuple[int, ...]] = {}
    for layer in layers:
        tensors[f"transformer.{layer}.lora_A.weight"] = (64, shapes[f"{layer}.weight"][1])
        tensors[f"transformer.{layer}.lora_B.weight"] = (shapes[f"{layer}.weight"][0], 64)
    known = ModelLayers({"transformer": shapes})
    build, check = _medians(
        lambda: ModelLayers({"transformer": shapes}), lambda: lora_names.fit(tensors, {}, known)
    )
    product = _Product(torch.empty(0), torch.empty(0), None, 1.0)
    adapter = Adapter({("transformer", layer): product for layer in layers}, {}, "")

    def hang() -> None:
        with contextlib.ExitStack() as stack:
            _add_products([(adapter, 1.0)], {"transformer": transformer}, stack)

    (hung,) = _medians(hang)
    print(
        f"Wan 14B, {len(layers)} layers: its names {build * 1000:.0f} ms once, a file compared {check * 1000:.1f} ms, "
        f"an adapter hung on and taken off {hung * 1000:.1f} ms"
    )


def _medians(*calls: Callable[[], Any]) -> list[float]:
    """Time the calls in turn, so that what else the machine does meets all of them."""
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(REPEATS):
        for call, found in zip(calls, seconds, strict=True):
            gc.collect()
            started = time.process_time()
            call()
            found.append(time.process_time() - started)
    return [statistics.median(found) for found in seconds]


if __name__ == "__main__":
    main()
