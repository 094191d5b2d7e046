"""Wan's denoiser computed directly: what diffusers' computes, in all layouts, alone and in company."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FirstBlockCacheConfig, WanTransformer3DModel

from tiny import loras, make_plan, run
from tiny.wan import _settings
from vitascope.catalog import Loras, locate
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.request import Lora
from vitascope.engine import Inputs, generation, products
from vitascope.engine.calls import Call, read_call
from vitascope.engine.compact import compact
from vitascope.engine.engine import DiffusersEngine
from vitascope.engine.families import passes, wan, wan_block
from vitascope.engine.generation import pause_at_blocks, run_in_steps

Models = dict[str, ModelSpec]

TOLERANCE = 1e-4
"""Of latents, in float32."""

LAYERS = {"text": {}, "picture": {"in_channels": 36, "image_dim": 4, "added_kv_proj_dim": 24}}


def transformer(kind: str = "text", dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    made = WanTransformer3DModel(**_settings(**LAYERS[kind])).eval().requires_grad_(requires_grad=False)
    with torch.no_grad():  # norms that do nothing would hide that they are left out
        for name, parameter in made.named_parameters():
            if "norm" in name or "bias" in name:
                parameter.add_(torch.randn_like(parameter) / 4)
    return made.to(dtype)


def arguments(kind: str, timestep: torch.Tensor, seed: int = 0, **more: Any) -> dict[str, Any]:
    """Of a call for as many samples as there are timesteps, of 3 x 2 x 4 tokens."""
    torch.manual_seed(seed)
    num, channels = len(timestep), 16 if kind == "text" else 36
    picture = {} if kind == "text" else {"encoder_hidden_states_image": torch.randn(num, 5, 4)}
    text = torch.randn(num, 512 if picture else 20, 32)
    latents = torch.randn(num, channels, 3, 4, 8)
    return {
        "hidden_states": latents, "timestep": timestep, "encoder_hidden_states": text, **picture,
        "attention_kwargs": None, "return_dict": False, **more,
    }  # fmt: skip


def call(given: dict[str, Any]) -> Call:
    found = read_call("WanTransformer3DModel", given)
    assert found is not None
    return found


#: One timestep for each sample; one for each token: the same; 0 for a given first frame; two frames given in the second sample.
TIMESTEPS = {
    "of samples": torch.tensor([900.0, 250.0]),
    "of tokens": torch.tensor([[900.0] * 24, [250.0] * 24]),
    "first frame": torch.tensor([[0.0] * 8 + [900.0] * 16, [0.0] * 8 + [250.0] * 16]),
    "unlike": torch.tensor([[0.0] * 8 + [900.0] * 16, [0.0] * 16 + [250.0] * 8]),
}


@pytest.mark.parametrize("is_formula", [False, True], ids=["by kernels", "as a formula"])
@pytest.mark.parametrize("times", TIMESTEPS)
@pytest.mark.parametrize("kind", LAYERS)
def test_it_computes_what_diffusers_computes(kind: str, times: str, is_formula: bool) -> None:
    module = transformer(kind)
    assert wan.why_not(module) is None
    formula = wan_block.CompiledBlocks(module.blocks, wan_block.block, set(), may_be_several=True)
    native = wan.Wan(module, {}, formula if is_formula else None)
    for seed in range(2):
        given = arguments(kind, TIMESTEPS[times], seed)
        with torch.no_grad():
            (expected,) = module(**given)
            found = native([call(given)])
        assert found is not None
        assert (found[0] - expected).abs().max() < TOLERANCE


def test_in_company_each_call_has_its_own_answer() -> None:
    """Two samples of one call and one of another: each attends to its own text and has its own timestep."""
    module = transformer()
    given = [arguments("text", TIMESTEPS["first frame"], 1), arguments("text", TIMESTEPS["of tokens"][:1], 2)]
    with torch.no_grad():
        found = wan.Wan(module, {})([call(each) for each in given])
        assert found is not None
        for each, answer in zip(given, found, strict=True):
            assert (answer - module(**each)[0]).abs().max() < TOLERANCE


def test_in_bfloat16_it_is_no_farther_from_the_truth() -> None:
    given = arguments("text", TIMESTEPS["of tokens"])
    narrow = {
        name: value.bfloat16() if isinstance(value, torch.Tensor) and name != "timestep" else value
        for name, value in given.items()
    }
    module = transformer().bfloat16()
    whole = transformer().bfloat16().float()
    for each in (module, whole):  # as diffusers loads it
        for name, part in each.named_modules():
            if any(kept in name for kept in WanTransformer3DModel._keep_in_fp32_modules):
                part.float()
    with torch.no_grad():
        truth = whole(
            **{name: value.float() if torch.is_tensor(value) else value for name, value in narrow.items()}
        )[0]
        theirs = (module(**narrow)[0] - truth).square().mean().sqrt()
        answer = wan.Wan(module, {})([call(narrow)])
    assert answer is not None
    assert answer[0].dtype == torch.bfloat16
    assert (answer[0] - truth).square().mean().sqrt() < theirs * 1.1


def test_a_text_is_worked_out_once_where_that_is_worth_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    module = transformer()
    native = wan.Wan(module, {})
    texts = []
    module.condition_embedder.text_embedder.register_forward_hook(lambda *_: texts.append(1))
    this = call(arguments("text", TIMESTEPS["of tokens"]))
    with torch.no_grad():
        first = native([this])
        again = native([this])
        assert first is not None
        assert again is not None
        assert torch.equal(first[0], again[0])
        assert len(texts) == 1
        assert len(this.branch.kept["text"]._kept) == 2, "of each block"
        monkeypatch.setattr(wan, "TEXT_SHARE", 2)
        large = call(arguments("text", TIMESTEPS["of tokens"]))
        answer = native([large])
        assert answer is not None
        assert torch.equal(answer[0], first[0])
        assert not large.branch.kept["text"]._kept


def test_as_on_a_gpu_norms_are_modulated_at_once() -> None:
    torch.manual_seed(0)
    stream, (scale, shift) = torch.randn(2, 6, 8), torch.randn(2, 2, 2, 8)
    runs = [slice(0, 4), slice(4, 6)]
    by_sample = wan._modulated(stream, scale, shift, runs, 1e-6, torch.float32)
    plain = torch.nn.functional.layer_norm(stream, (8,), eps=1e-6)
    at_once = wan._modulated_at_once(plain, scale, shift, runs, torch.empty(2, 6, 8))
    torch.testing.assert_close(by_sample, at_once)


def test_what_only_diffusers_computes_is_left_to_it() -> None:
    native = wan.Wan(transformer(), {})
    rising = torch.arange(48.0).view(2, 24)
    assert native([call(arguments("text", rising))]) is None, "a timestep of its own for each token"
    scaled = arguments("text", TIMESTEPS["of samples"]) | {"attention_kwargs": None, "other": 3}
    assert native([call(scaled)]) is None


def test_diffusers_is_not_asked_for_a_timestep_of_each_token_that_are_all_alike() -> None:
    module = transformer()
    for times, ndim in (("of samples", 1), ("of tokens", 1), ("first frame", 2)):
        given = arguments("text", TIMESTEPS[times])
        less = wan.for_diffusers(given)
        assert less["timestep"].ndim == ndim
        with torch.no_grad():
            assert (module(**less)[0] - module(**given)[0]).abs().max() < TOLERANCE


def test_changed_modules_are_left_to_diffusers() -> None:
    listened, fused, cached = (transformer() for _ in range(3))
    listened.blocks[1].register_forward_hook(lambda *_: None)
    fused.fuse_qkv_projections()
    cached.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    for module in (listened, fused, cached):
        assert wan.why_not(module) is not None
    plain = transformer()
    pause_at_blocks({"transformer": plain})
    assert wan.why_not(plain) is None


@pytest.mark.parametrize("quantization", ["int8", "fp8"])
def test_weights_that_are_kept_in_bytes_give_the_same(quantization: Any) -> None:
    module = transformer()
    compact(module, quantization)
    given = arguments("text", TIMESTEPS["first frame"])
    with torch.no_grad():
        answer = wan.Wan(module, {})([call(given)])
        assert answer is not None
        assert (answer[0] - module(**given)[0]).abs().max() < TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_torchs_own_where_onednn_does_not_do(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = torch.nn.Linear(32, 48).to(dtype).requires_grad_(requires_grad=False)
    tokens = torch.randn(2, 7, 32).to(dtype)
    expected = torch.nn.functional.gelu(layer(tokens), approximate="tanh")
    quick = products.linear(tokens, layer, gelu=True)
    assert (quick.float() - expected.float()).abs().max() < products.TOLERANCE[dtype]
    monkeypatch.setattr(products, "_has_onednn", lambda _dtype: False)
    assert torch.equal(products.linear(tokens, layer, gelu=True), expected)


def test_a_long_forward_pauses_before_each_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "LONG_SECONDS", 0.0)
    module = transformer()
    pause_at_blocks({"transformer": module})
    native = wan.Wan(module, {})
    given = call(arguments("text", TIMESTEPS["of samples"]))
    with torch.no_grad():
        assert len(list(run_in_steps(lambda: native([given])))) == 2


class TestInAnEngine:
    """Which requests have it, and that it makes the same."""

    @pytest.fixture
    def engine(self, tmp_path: Path) -> Iterator[DiffusersEngine]:
        opened = DiffusersEngine(locate, device="cpu", threads=1, find_loras=Loras(tmp_path).files)
        yield opened
        opened.close()

    @pytest.fixture
    def latents(self, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
        """What each step made, in order."""
        seen: list[torch.Tensor] = []
        on_each_step = passes.on_each_step

        def noting(scheduler: Any, after: Any, generator: Any) -> None:
            def noted(done: int, total: int, made: torch.Tensor) -> None:
                seen.append(made.clone())
                after(done, total, made)

            on_each_step(scheduler, noted, generator)

        monkeypatch.setattr(passes, "on_each_step", noting)
        return seen

    @pytest.mark.parametrize(
        "name",
        ["WanPipeline", "ti2v", "Wan 2.2 T2V-A14B", "WanImageToVideoPipeline", "WanVideoToVideoPipeline"],
    )
    def test_latents_are_diffusers_own(
        self,
        engine: DiffusersEngine,
        models: Models,
        name: str,
        latents: list[torch.Tensor],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        spec = dataclasses.replace(models[name], dtype="float32")
        grey = np.full((32, 32, 3), 90, np.uint8)
        given: dict[str, Any] = {}
        inputs = Inputs()
        if "text" not in spec.pipelines or name == "ti2v":
            mode = "image" if "image" in spec.pipelines else "video"
            given = {mode: "given"}
            inputs = Inputs(image=grey) if mode == "image" else Inputs(video=np.stack([grey] * 9))
        plan = make_plan(spec, num_inference_steps=4, **given)
        told = {choice.name: choice.value for choice in run(engine, spec, plan, inputs)[1].choices}
        assert told["denoiser"] == "native"
        native, latents[:] = list(latents), []
        monkeypatch.setattr(wan, "why_not", lambda _module: "a test says so")
        monkeypatch.setattr(engine._company, "most_tokens", 0)
        told = {choice.name: choice.value for choice in run(engine, spec, plan, inputs)[1].choices}
        assert told["denoiser"] == "diffusers"
        assert len(native) == len(latents) == 4
        for ours, theirs in zip(native, latents, strict=True):
            assert (ours - theirs).abs().max() < TOLERANCE

    def test_an_adapter_does_the_same(
        self,
        engine: DiffusersEngine,
        models: Models,
        tmp_path: Path,
        latents: list[torch.Tensor],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """On all layers that have a weight, the one that makes the tokens too."""
        spec = dataclasses.replace(models["WanPipeline"], dtype="float32")
        loras.write(
            tmp_path / "x.safetensors",
            spec,
            "transformer",
            pattern=r"to_[qkv]$|proj$|net\.2$|patch_embedding$",
        )
        plan = make_plan(spec, loras=(Lora("x"),))
        run(engine, spec, make_plan(spec))
        plain, latents[:] = list(latents), []
        run(engine, spec, plan)
        native, latents[:] = list(latents), []
        monkeypatch.setattr(wan, "why_not", lambda _module: "a test says so")
        run(engine, spec, plan)
        assert (plain[-1] - latents[-1]).abs().max() > 100 * TOLERANCE
        for ours, theirs in zip(native, latents, strict=True):
            assert (ours - theirs).abs().max() < TOLERANCE
