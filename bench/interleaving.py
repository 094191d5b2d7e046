"""What it costs to keep several generations open: `python -m bench.interleaving` (about a minute on two cores).

With the embedded model: two requests one after the other and step by step in turn; a slot's time and memory; previews. Seconds are the processor's.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import psutil
import torch

from vitascope.catalog import Catalog, locate
from vitascope.domain.plan import plan
from vitascope.domain.request import GenerationRequest
from vitascope.engine import Clip, previews
from vitascope.engine.engine import DiffusersEngine
from vitascope.engine.slots import Slot, clone_module

REPEATS = 5
SLOTS = 20


def main() -> None:
    engine = DiffusersEngine(locate, device="cpu", threads=1)
    spec = Catalog.open().resolve("pocket")

    def begin(seed: int, **asked: Any) -> Any:
        request = GenerationRequest(
            model="pocket", prompt="a red rocket flies over a city", seed=seed, **asked
        )
        return engine.generate(plan(request, spec), spec)

    def serial() -> None:
        for seed in (1, 2):
            list(begin(seed))

    def in_turn() -> None:
        running = [begin(1), begin(2)]
        while running:
            running = [generation for generation in running if not isinstance(next(generation), Clip)]

    for _ in range(2):
        list(begin(0))  # load, and let the processor's first run be over
    one_after, turns, plain, every, third = _medians(
        serial, in_turn, lambda: list(begin(1)), lambda: list(begin(1, preview_every=1)),
        lambda: list(begin(1, preview_every=3)),
    )  # fmt: skip
    print(
        f"two requests one after the other {one_after:.2f} s, in turn {turns:.2f} s: x{turns / one_after:.3f}"
    )
    print(f"one request {plain:.2f} s, a preview at each step {every:.2f} s, at each third {third:.2f} s")
    assert engine._loaded is not None
    _previews(engine._loaded.pipelines["text"])
    _slots(engine._loaded.pipelines)
    _large_skeleton()


def _medians(*actions: Callable[[], object]) -> list[float]:
    """Processor seconds of each, measured in turn: what else the machine does disturbs them little."""
    seconds: list[list[float]] = [[] for _ in actions]
    for _ in range(REPEATS):
        for action, found in zip(actions, seconds, strict=True):
            begun = time.process_time()
            action()
            found.append(time.process_time() - begun)
    return [sorted(found)[REPEATS // 2] for found in seconds]


def _previews(pipe: Any) -> None:
    torch.set_grad_enabled(False)
    begun = time.perf_counter()
    projection = previews.fit(pipe)
    fitted = time.perf_counter() - begun
    others = previews.explained(projection, *previews.samples(pipe, seed=1))
    frames = projection(torch.randn(4, 3, 3, 24).repeat_interleave(4, 1).repeat_interleave(4, 2))
    (written,) = _medians(lambda: previews.to_webp(frames, 2.0))
    print(
        f"fit {fitted:.2f} s, explains {others:.3f} of the variance of other clips; writing one {1000 * written:.1f} ms"
    )


def _slots(pipelines: Any) -> None:
    gc.collect()
    before, begun = psutil.Process().memory_info().rss, time.perf_counter()
    slots = [Slot(pipelines) for _ in range(SLOTS)]
    seconds = (time.perf_counter() - begun) / SLOTS
    grown = (psutil.Process().memory_info().rss - before) / SLOTS
    weights = sum(
        tensor.nbytes for module in slots[0].modules().values() for tensor in module.state_dict().values()
    )
    shared = {
        tensor.data_ptr() for slot in slots for m in slot.modules().values() for tensor in m.parameters()
    }
    own = {tensor.data_ptr() for m in slots[0].modules().values() for tensor in m.parameters()}
    print(
        f"a slot of pocket {1000 * seconds:.1f} ms and {grown / 1e6:.2f} MB beside {weights / 1e6:.0f} MB of weights; "
        f"{SLOTS} slots have {len(shared)} tensors, one has {len(own)}"
    )


def _large_skeleton() -> None:
    from diffusers import WanTransformer3DModel

    with torch.device("meta"):
        module = WanTransformer3DModel(num_attention_heads=40, ffn_dim=13824, num_layers=40)
    gc.collect()
    before, begun = psutil.Process().memory_info().rss, time.perf_counter()
    clones = [clone_module(module) for _ in range(10)]
    seconds = (time.perf_counter() - begun) / len(clones)
    grown = (psutil.Process().memory_info().rss - before) / len(clones)
    billions = sum(parameter.numel() for parameter in module.parameters()) / 1e9
    print(f"a skeleton of Wan {billions:.1f}B {1000 * seconds:.0f} ms and {grown / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
