"""Cancelling takes effect within one block, in every component that a video pipeline has: counted in forward calls."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
import torch

import tiny
from tiny import make_plan
from vitascope.catalog import locate
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.step import Step
from vitascope.engine import Engine, generation
from vitascope.engine.engine import DiffusersEngine
from vitascope.engine.generation import pause_at_blocks, run_in_steps

#: Together they have every kind of component: LTX-2 makes sound too, with connectors, an audio VAE and a vocoder.
PIPELINES = (
    "WanPipeline",
    "LTXPipeline",
    "LTX2Pipeline",
    "CogVideoXPipeline",
    "TextToVideoSDPipeline",
    "HunyuanVideo15Pipeline",
)
STAGES = ("encode_prompt", "denoise", "decode_latents")
Models = dict[str, ModelSpec]


class Forwards:
    """Counts every forward of every module."""

    def __init__(self) -> None:
        #: Class names and ids of the modules, in order.
        self.names: list[str] = []
        self.ids: list[int] = []

    @property
    def count(self) -> int:
        return len(self.ids)

    def __call__(self, module: torch.nn.Module, _inputs: Any, _output: Any) -> None:
        self.ids.append(id(module))
        self.names.append(type(module).__name__)


@pytest.fixture(autouse=True)
def _no_step_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """How often a long step pauses depends on the machine: here only where a test says so."""
    monkeypatch.setattr(generation, "LONG_SECONDS", 1e9)


@pytest.fixture
def forwards() -> Iterator[Forwards]:
    """What has run to its end. A module that was stopped by its own hook has not."""
    counter = Forwards()
    with contextlib.ExitStack() as stack:
        stack.callback(torch.nn.modules.module.register_module_forward_hook(counter).remove)
        yield counter


@pytest.mark.parametrize("name", PIPELINES)
def test_nothing_runs_after_closing_at_any_stage(
    engine: Engine, models: Models, forwards: Forwards, name: str
) -> None:
    spec = models[name]
    plan = make_plan(spec)
    stages = [event.stage for event in engine.generate(plan, spec) if isinstance(event, Step)]
    for stage in STAGES:
        first, last = stages.index(stage), len(stages) - 1 - stages[::-1].index(stage)
        assert last > first, "it pauses more than once"
        for position in (first, (first + last) // 2, last):
            running = engine.generate(plan, spec)
            for _ in range(position + 1):
                next(running)
            before = forwards.count
            running.close()
            assert forwards.count == before


def test_an_autoencoder_of_images_decodes_frame_by_frame(
    engine: Engine, models: Models, forwards: Forwards
) -> None:
    spec = models["TextToVideoSDPipeline"]
    plan = make_plan(spec)
    steps = [event for event in engine.generate(plan, spec) if isinstance(event, Step)]
    num_decoding = len([step for step in steps if step.stage == "decode_latents"])
    assert forwards.names.count("Decoder") == plan.native_num_frames == 9
    assert num_decoding >= 9 * 4, "four blocks and more in each"
    running = engine.generate(plan, spec)
    for _ in range(len(steps) - num_decoding // 2):
        next(running)
    running.close()
    assert forwards.names.count("Decoder") - 9 == 4, "five frames are left, and the one that was begun"


def _t5() -> tuple[torch.nn.Module, Any]:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(vocab_size=16, d_model=8, d_kv=4, d_ff=8, num_layers=3, num_heads=2)
    return T5EncoderModel(config), torch.ones((1, 4), dtype=torch.long)


def _clip_vision() -> tuple[torch.nn.Module, Any]:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=3, num_attention_heads=2, image_size=8, patch_size=4,
        projection_dim=8,
    )  # fmt: skip
    return CLIPVisionModelWithProjection(config), torch.zeros(1, 3, 8, 8)


def _audio_vae() -> tuple[torch.nn.Module, Any]:
    from diffusers import AutoencoderKLLTX2Audio

    vae = AutoencoderKLLTX2Audio(
        base_channels=4, ch_mult=(1, 2), num_res_blocks=1, resolution=32, latent_channels=2, mel_bins=8
    )
    return vae, torch.zeros(1, 2, 16, 8)


def _vocoder() -> tuple[torch.nn.Module, Any]:
    from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder

    vocoder = LTX2Vocoder(
        in_channels=16, hidden_channels=32, out_channels=2, upsample_kernel_sizes=[4, 4], upsample_factors=[2, 2],
        resnet_kernel_sizes=[3], resnet_dilations=[[1, 3, 5]], output_sampling_rate=16000,
    )  # fmt: skip
    return vocoder, torch.zeros(1, 2, 4, 8)


def _connectors() -> tuple[torch.nn.Module, Any]:
    from diffusers.pipelines.ltx2.connectors import LTX2ConnectorTransformer1d

    connector = LTX2ConnectorTransformer1d(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=3,
        num_learnable_registers=None,
        rope_type="split",
    )
    return connector, torch.zeros(1, 4, 16)


def _vae() -> tuple[torch.nn.Module, Any]:
    vae = tiny.wan().vae
    return vae.decoder, torch.zeros(1, 16, 1, 4, 4)


COMPONENTS: dict[str, tuple[str, Callable[[], tuple[torch.nn.Module, Any]]]] = {
    "text_encoder": ("encode_prompt", _t5),
    "text_encoder_2": ("encode_prompt", _t5),
    "text_encoder_3": ("encode_prompt", _t5),
    "image_encoder": ("encode_prompt", _clip_vision),
    "connectors": ("encode_prompt", _connectors),
    "vae": ("decode_latents", _vae),
    "audio_vae": ("decode_latents", _audio_vae),
    "vocoder": ("decode_latents", _vocoder),
}


@pytest.mark.parametrize("name", COMPONENTS)
@torch.no_grad()
def test_each_kind_of_component_stops_at_its_next_block(forwards: Forwards, name: str) -> None:
    stage, make = COMPONENTS[name]
    module, inputs = make()
    pause_at_blocks({name: module})
    blocks = set(map(id, generation._blocks(module)))
    num_pauses = len(list(run_in_steps(lambda: module(inputs))))
    assert num_pauses >= 3
    for stop_at in range(1, num_pauses + 1):
        forwards.ids.clear()
        running = run_in_steps(lambda: module(inputs))
        for _ in range(stop_at):
            assert next(running) == Step(stage)
        running.close()
        assert len([done for done in forwards.ids if done in blocks]) == stop_at - 1


@pytest.mark.parametrize("name", ["WanPipeline", "TextToVideoSDPipeline"])
def test_a_long_step_stops_between_its_blocks(
    models: Models, forwards: Forwards, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Every block of the denoiser is a pause if a step is long; the step that was reached is told again."""
    engine = DiffusersEngine(locate, device="cpu", threads=1)
    spec = models[name]
    plan = make_plan(spec)
    seldom = [event for event in engine.generate(plan, spec) if isinstance(event, Step)]
    monkeypatch.setattr(generation, "LONG_SECONDS", 0.0)
    often = [event for event in engine.generate(plan, spec) if isinstance(event, Step)]
    assert len(often) >= len(seldom) + 2 * 3, "at least two blocks in each of three steps"
    assert list(dict.fromkeys(often)) == list(dict.fromkeys(seldom))
    running = engine.generate(plan, spec)
    for event in running:
        if event == Step("denoise", 1, 3):
            break
    assert next(running) == Step("denoise", 1, 3)
    before = forwards.count
    running.close()
    assert forwards.count == before


def test_a_step_that_is_not_long_pauses_once(models: Models) -> None:
    engine = DiffusersEngine(locate, device="cpu", threads=1)
    spec = models["WanPipeline"]
    steps: list[Any] = list(engine.generate(make_plan(spec), spec))
    assert [step for step in steps if isinstance(step, Step) and step.stage == "denoise"] == [
        Step("denoise", index, 3) for index in (1, 2, 3)
    ]


def test_closing_twice_or_before_the_start_is_fine(engine: Engine, models: Models) -> None:
    spec = models["WanPipeline"]
    running: Generator[Any, None, None] = engine.generate(make_plan(spec), spec)
    running.close()
    running.close()
    assert engine.capacity(spec) == 4


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_cancelled_request_held_is_gone_at_once(models: Models, stage: str) -> None:
    """Feature maps of an autoencoder at full size are large: they do not wait for the garbage collector."""
    engine = DiffusersEngine(locate, device="cpu", threads=1)
    spec = models["WanPipeline"]
    for preview_every in (0, 1):
        running = engine.generate(make_plan(spec, num_inference_steps=5, preview_every=preview_every), spec)
        while next(running).stage != stage:  # type: ignore[union-attr]
            pass
        for _ in range(4):
            next(running)
        gc.collect()
        gc.disable()
        try:
            assert engine._loaded is not None
            held = [weakref.ref(module) for module in _slot_modules(engine)]
            assert held
            running.close()
            assert [ref() for ref in held if ref() is not None] == []
        finally:
            gc.enable()


def _slot_modules(engine: DiffusersEngine) -> list[torch.nn.Module]:
    """The autoencoders that are not the loaded model's own."""
    assert engine._loaded is not None
    own = engine._loaded.pipelines["text"].vae
    return [found for found in gc.get_objects() if type(found) is type(own) and found is not own]
