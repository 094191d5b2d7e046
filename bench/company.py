"""What native forwards, company and kept texts save: `python -m bench.company` (some minutes on two cores).

With the embedded model, in pairs of one run; seconds and milliseconds are the processor's, the least of some repeats.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers import WanTransformer3DModel

from vitascope.catalog import Catalog, locate
from vitascope.domain.plan import plan
from vitascope.domain.request import GenerationRequest
from vitascope.engine import Clip, Sharing
from vitascope.engine.calls import read_call
from vitascope.engine.engine import DiffusersEngine
from vitascope.engine.families import wan

REPEATS = 5
BATCHES = (1, 2, 4, 8)
TOKENS = 5 * 6 * 6


def main() -> None:
    for dtype in (torch.bfloat16, torch.float32):
        _forwards(dtype)
    _generations()


def least(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Processor seconds of each, called in turn."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(REPEATS):
        for name, call in calls.items():
            start = time.process_time()
            call()
            found[name].append(time.process_time() - start)
    return {name: min(seconds) for name, seconds in found.items()}


def _forwards(dtype: torch.dtype) -> None:
    folder = locate(Catalog.open().resolve("pocket"))
    torch.set_grad_enabled(False)
    module: Any = WanTransformer3DModel.from_pretrained(folder, subfolder="transformer", dtype=dtype).eval()
    native = wan.Wan(module, {})
    for num in BATCHES:
        calls = [read_call(type(module).__name__, _arguments(1, dtype)) for _ in range(num)]
        own = [call for call in calls if call is not None]
        given = _arguments(num, dtype)
        native(own)
        took = least({"diffusers": partial(module, **given), "native": partial(native, own)})
        each = {name: seconds * 1000 / num for name, seconds in took.items()}
        ratio = each["diffusers"] / each["native"]
        print(
            f"{dtype}, forward of {num}: ms a sample in diffusers {each['diffusers']:.1f}, native {each['native']:.1f}: x{ratio:.2f}"
        )


def _arguments(num: int, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(num, 24, 5, 12, 12, dtype=dtype),
        "timestep": torch.full((num, TOKENS), 500.0),
        "encoder_hidden_states": torch.randn(num, 64, 384, dtype=dtype),
        "return_dict": False,
    }


def _generations() -> None:
    engine = DiffusersEngine(locate, device="cpu", threads=2, slots=8, embeddings_cache_bytes=10**8)
    spec = Catalog.open().resolve("pocket")

    def begin(seed: int, sharing: Sharing | None = None) -> Any:
        prompts = ["a red rocket flies over a city", "a cat on a beach", "a dog in the snow", "a fish"]
        request = GenerationRequest(model="pocket", prompt=prompts[seed % len(prompts)], seed=seed)
        return engine.generate(plan(request, spec), spec, sharing=sharing)

    def one_after_the_other(num: int) -> None:
        for seed in range(num):
            list(begin(seed))

    def in_company(num: int) -> None:
        sharings = [Sharing(is_allowed=True) for _ in range(num)]
        running = {index: begin(index, sharing) for index, sharing in enumerate(sharings)}
        while running:
            index = min(
                running, key=lambda each: (not sharings[each].is_answered, sharings[each].group is not None)
            )
            if isinstance(next(running[index]), Clip):
                del running[index]

    for _ in range(2):
        one_after_the_other(4)  # load, and let the processor's first run be over
    for num in (1, 2, 4, 8):
        took = least({"alone": partial(one_after_the_other, num), "company": partial(in_company, num)})
        each = {name: seconds / num for name, seconds in took.items()}
        ratio = each["alone"] / each["company"]
        print(
            f"{num} generations: s each one after the other {each['alone']:.2f}, in company {each['company']:.2f}: x{ratio:.2f}"
        )
    _options(engine, lambda: list(begin(1)))


def _options(engine: DiffusersEngine, run: Callable[[], object]) -> None:
    """One generation without each of what it has."""
    most, why_not = engine._company.most_tokens, wan.why_not
    measured: Any = lambda _module: "measured"  # noqa: E731

    def without_company() -> None:
        engine._company.most_tokens = 0
        run()
        engine._company.most_tokens = most

    def in_diffusers() -> None:
        wan.why_not = measured
        without_company()
        wan.why_not = why_not

    def without_texts() -> None:
        engine._embeddings.clear()
        run()

    took = least(
        {
            "as it is": run,
            "branches of guidance apart": without_company,
            "and in diffusers": in_diffusers,
            "texts read anew": without_texts,
        }
    )
    print(", ".join(f"{name} {seconds:.2f} s" for name, seconds in took.items()))


if __name__ == "__main__":
    main()
