"""Slots: modules of their own over shared weights."""

from __future__ import annotations

import pytest
import torch
from diffusers import FirstBlockCacheConfig

import tiny
from vitascope.engine.generation import run_in_steps
from vitascope.engine.schedulers import make_scheduler, on_each_step
from vitascope.engine.slots import Slot, clone_module


@pytest.mark.parametrize("name", sorted(tiny.BUILDERS))
def test_a_clone_shares_every_tensor_and_no_module(name: str) -> None:
    pipe = tiny.BUILDERS[name]()
    for module in pipe.components.values():
        if not isinstance(module, torch.nn.Module):
            continue
        clone = clone_module(module)
        theirs = dict(module.named_parameters()) | dict(module.named_buffers())
        ours = dict(clone.named_parameters()) | dict(clone.named_buffers())
        assert ours.keys() == theirs.keys()
        assert all(ours[key] is theirs[key] for key in ours)
        assert not set(map(id, clone.modules())) & set(map(id, module.modules()))


@torch.no_grad()
def test_interleaved_requests_do_not_mix_even_with_a_step_cache() -> None:
    """Pipelines keep caches on their modules; in slots of their own, two at once make what each makes alone."""
    torch.manual_seed(0)
    loaded = tiny.wan()
    loaded.set_progress_bar_config(disable=True)
    loaded.text_encoder.eval()
    slots = [Slot({"text": loaded}), Slot({"text": loaded})]
    for slot in slots:
        slot.pipelines["text"].transformer.enable_cache(FirstBlockCacheConfig(threshold=0.3))

    def call(slot: Slot, seed: int) -> object:
        pipe = slot.pipelines["text"]
        pipe.scheduler = make_scheduler(pipe.scheduler, None)
        generator = torch.Generator().manual_seed(seed)
        return pipe(
            prompt="a dog", height=32, width=32, num_frames=5, num_inference_steps=4, guidance_scale=4.0,
            generator=generator, output_type="pt",
        ).frames  # fmt: skip

    alone = [call(slots[0], 1), call(slots[0], 2)]

    def in_steps(slot: Slot, seed: int):  # type: ignore[no-untyped-def]
        from vitascope.domain.step import Step
        from vitascope.engine.generation import pause

        pipe = slot.pipelines["text"]
        pipe.scheduler = make_scheduler(pipe.scheduler, None)
        on_each_step(pipe.scheduler, lambda done, total, _: pause(Step("denoise", done, total)))
        generator = torch.Generator().manual_seed(seed)
        return (
            yield from run_in_steps(
                lambda: pipe(
                    prompt="a dog", height=32, width=32, num_frames=5, num_inference_steps=4, guidance_scale=4.0,
                    generator=generator, output_type="pt",
                ).frames
            )
        )  # fmt: skip

    running = {1: in_steps(slots[0], 1), 2: in_steps(slots[1], 2)}
    together = {}
    while running:
        for seed, generation in list(running.items()):
            try:
                next(generation)
            except StopIteration as finished:
                together[seed] = finished.value
                del running[seed]
    assert torch.equal(together[1], alone[0])
    assert torch.equal(together[2], alone[1])
