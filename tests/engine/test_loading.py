"""Each way of loading, with tiny real models on the CPU: what it keeps, and how near it comes to the plain way."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from torch.nn import Conv2d, Conv3d

from tiny import make_plan, run
from vitascope.catalog import locate
from vitascope.catalog.sources import embedded_folder
from vitascope.domain.errors import ModelTooLarge
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.step import Step
from vitascope.engine import EngineBusy, activations, offloading
from vitascope.engine.activations import Extent, largest_extent
from vitascope.engine.compact import compact, whole
from vitascope.engine.device import measure
from vitascope.engine.engine import DiffusersEngine
from vitascope.engine.generation import pause_at_blocks, run_in_steps
from vitascope.engine.loading import LoadedModel, load_model
from vitascope.engine.placement import OFFLOADS, Machine, Wishes
from vitascope.engine.previews import made_up_clip
from vitascope.engine.slots import Slot

CPU = torch.device("cpu")
PIPELINES = ["LTXPipeline", "TextToVideoSDPipeline", "WanPipeline"]
Models = dict[str, ModelSpec]


@pytest.fixture
def open_engine() -> Iterator[Callable[..., DiffusersEngine]]:
    opened: list[DiffusersEngine] = []

    def make(**wishes: str) -> DiffusersEngine:
        opened.append(DiffusersEngine(locate, device="cpu", threads=1, wishes=Wishes(**wishes)))
        return opened[-1]

    yield make
    for engine in opened:
        engine.close()


def psnr(ours: Any, theirs: Any) -> float:
    error = np.mean((ours.astype(np.float64) - theirs.astype(np.float64)) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def chosen(clip: Any, name: str) -> tuple[str, str] | None:
    return next(((c.value, c.reason) for c in clip.choices if c.name == name), None)


@pytest.mark.parametrize("name", ["CogVideoXPipeline", "Wan 2.2 T2V-A14B", *PIPELINES])
def test_the_files_tell_how_large_each_component_is(models: Models, name: str) -> None:
    """Values by component from headers alone are those of the modules, and none is left out."""
    spec = models[name]
    parts = {part: locate(where) for part, where in spec.parts.items()}
    loaded = load_model(spec, locate(spec), CPU, None, parts)  # type: ignore[arg-type]
    modules = Slot(loaded.pipelines).modules()
    for component in loaded.sizes.components:
        module = modules[component.name]
        parameters = sum(p.numel() for p in module.parameters())
        assert component.num_values == pytest.approx(parameters, rel=0.02, abs=64)
        assert component.num_block_values <= component.num_values
    assert {part.name for part in loaded.sizes.components} == {
        name for name, module in modules.items() if any(True for _ in module.parameters())
    }


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize("quantization", ["int8", "fp8"])
def test_weights_in_bytes_stay_near_the_whole_ones(
    models: Models, open_engine: Callable[..., DiffusersEngine], name: str, quantization: str
) -> None:
    spec = models[name]
    # in float32 what fp8 changes of so small a model is less than frames show
    plain = open_engine(dtype="bfloat16")
    small = open_engine(dtype="bfloat16", quantization=quantization)
    _, whole = run(plain, spec, make_plan(spec))
    _, kept = run(small, spec, make_plan(spec))
    assert chosen(kept, "quantization") == (quantization, "set by engine.quantization")
    assert chosen(whole, "quantization") is None
    assert psnr(kept.frames, whole.frames) > (30 if quantization == "int8" else 20)
    assert not np.array_equal(kept.frames, whole.frames)
    assert small.residency.models[spec.id].weights_bytes < plain.residency.models[spec.id].weights_bytes
    _, again = run(small, spec, make_plan(spec))
    np.testing.assert_array_equal(again.frames, kept.frames)


def test_int8_is_nearer_than_float8() -> None:
    """Why `auto` takes int8: of two ways in one byte the one that changes weights less."""
    torch.manual_seed(0)
    errors = {}
    for kind in ("int8", "fp8"):
        layer = torch.nn.Linear(256, 256, bias=False).requires_grad_(requires_grad=False)
        weight = layer.weight.data.clone()
        holder = torch.nn.ModuleDict({"layer": layer})
        compact(holder, kind)  # type: ignore[arg-type]
        assert layer.weight.element_size() == 1
        errors[kind] = float((layer(torch.eye(256)) - weight.T).norm() / weight.norm())
    assert errors["int8"] < errors["fp8"] / 3
    assert errors["fp8"] < 0.03


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_layers_in_bytes_compute_what_their_whole_weights_would(kind: Any, dtype: torch.dtype) -> None:
    """Matrices and kernels, with a bias and without."""
    torch.manual_seed(0)
    layers = {
        "matrix": (torch.nn.Linear(48, 32), (3, 5, 48)),
        "plain": (torch.nn.Linear(48, 32, bias=False), (2, 48)),
        "line": (torch.nn.Conv1d(8, 16, 3), (2, 8, 9)),
        "picture": (torch.nn.Conv2d(8, 16, 3, padding=1), (2, 8, 6, 7)),
        "clip": (torch.nn.Conv3d(8, 16, (3, 1, 1)), (1, 8, 5, 4, 4)),
    }
    for layer, shape in layers.values():
        layer.to(dtype).requires_grad_(requires_grad=False)
        x = torch.randn(shape).to(dtype)
        bias = None if layer.bias is None else layer.bias.clone()
        holder = torch.nn.ModuleDict({"layer": layer})
        before = layer(x)
        compact(holder, kind)
        after = layer(x)
        error = float((after.float() - before.float()).norm() / before.float().norm())
        assert error < (0.015 if kind == "int8" else 0.05)
        assert (layer.bias is None) == (bias is None)
        assert whole(layer, "weight").dtype == dtype
        assert bias is None or torch.equal(whole(layer, "bias"), bias)
        own = copy.deepcopy(layer)
        own.register_parameter("weight", torch.nn.Parameter(torch.zeros_like(whole(layer, "weight"))))
        nothing = torch.zeros_like(after)
        if bias is not None:
            nothing += bias.view(
                [-1] if isinstance(layer, torch.nn.Linear) else [-1, *[1] * (len(shape) - 2)]
            )
        assert torch.equal(own(x), nothing), "weights of its own are taken as they are"


def test_a_layer_that_fails_keeps_its_bytes() -> None:
    layer = torch.nn.Linear(8, 8)
    holder = torch.nn.ModuleDict({"layer": layer})
    compact(holder, "int8")
    kept = layer.weight.data_ptr()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        layer(torch.zeros(1, 9))
    assert layer.weight.data_ptr() == kept
    assert torch.equal(layer(torch.zeros(1, 8)), layer.bias[None])


def test_a_layer_without_memory_for_its_weights_keeps_all_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = torch.nn.Linear(8, 8).requires_grad_(requires_grad=False)
    holder = torch.nn.ModuleDict({"layer": layer})
    compact(holder, "int8")
    expected = layer(torch.ones(1, 8))

    def fail(*_: Any) -> Any:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(type(layer.kept_in_bytes), "_values", fail)
        with pytest.raises(MemoryError):
            layer(torch.ones(1, 8))
    assert torch.equal(layer(torch.ones(1, 8)), expected)


def test_a_layer_where_a_request_is_cancelled_keeps_its_bytes() -> None:
    """A block may be a single layer: it stands still before its weights are made whole, not after."""
    holder = torch.nn.Module()
    holder.layers = torch.nn.ModuleList([torch.nn.Linear(8, 8)])
    compact(holder, "int8")
    pause_at_blocks({"text_encoder": holder})
    running = run_in_steps(lambda: holder.layers[0](torch.ones(1, 8)))
    next(running)
    assert holder.layers[0].weight.element_size() == 1
    running.close()
    assert holder.layers[0].weight.element_size() == 1


def test_interleaved_requests_share_weights_in_bytes(
    models: Models, open_engine: Callable[..., DiffusersEngine]
) -> None:
    spec = models["WanPipeline"]
    engine = open_engine(quantization="int8")
    alone = [run(engine, spec, make_plan(spec, seed=seed))[1].frames for seed in (1, 2)]
    running = {index: engine.generate(make_plan(spec, seed=index + 1), spec) for index in range(2)}
    together: dict[int, Any] = {}
    while running:
        for index, generation in list(running.items()):
            event = next(generation, None)
            if event is None:
                del running[index]
            else:
                together[index] = event
    for index in range(2):
        np.testing.assert_array_equal(together[index].frames, alone[index])


def test_tiles_are_used_where_the_settings_say_so(
    models: Models, open_engine: Callable[..., DiffusersEngine]
) -> None:
    spec = models["WanPipeline"]
    for tiling in ("on", "off"):
        engine = open_engine(vae_tiling=tiling)
        _, clip = run(engine, spec, make_plan(spec))
        assert chosen(clip, "vae tiling") == (tiling, "set by engine.vae_tiling")
        assert engine._loaded is not None
        with engine._loaded.slots.take(0) as slot:
            vae: Any = slot.modules()["vae"]
            assert vae.use_tiling == (tiling == "on")


@pytest.mark.parametrize("pipeline", ["WanPipeline", "LTXPipeline", "TextToVideoSDPipeline"])
def test_channels_are_last_where_the_settings_say_so(
    pipeline: str, models: Models, open_engine: Callable[..., DiffusersEngine]
) -> None:
    """The order in memory changes the time, and of the frames the lowest bits at most."""
    spec = models[pipeline]
    frames = {}
    for asked in ("on", "off"):
        engine = open_engine(vae_channels_last=asked)
        _, clip = run(engine, spec, make_plan(spec))
        assert chosen(clip, "vae channels last") == (asked, "set by engine.vae_channels_last")
        assert engine._loaded is not None
        with engine._loaded.slots.take(0) as slot:
            (layer, *_) = (m for m in slot.modules()["vae"].modules() if isinstance(m, Conv2d | Conv3d))
            assert layer.weight.is_contiguous() == (asked == "off" or layer.weight[0, 0].numel() == 1)
        frames[asked] = clip.frames.astype(np.int16)
    assert np.abs(frames["on"] - frames["off"]).max() <= 1


def test_channels_are_last_by_themselves_where_that_was_measured(
    models: Models, open_engine: Callable[..., DiffusersEngine]
) -> None:
    for pipeline, value in (("WanPipeline", "on"), ("LTXPipeline", "off")):
        _, clip = run(open_engine(), models[pipeline], make_plan(models[pipeline]))
        assert chosen(clip, "vae channels last")[0] == value


def test_tiles_show_nearly_the_same_pictures() -> None:
    """With the embedded model's autoencoder, which was trained: random weights have nothing to agree on."""
    vae = AutoencoderKLWan.from_pretrained(embedded_folder("pocket") / "vae").eval()
    clip = made_up_clip(5, 320, torch.Generator().manual_seed(0))
    with torch.no_grad():
        latents = vae.encode(clip[None] * 2 - 1).latent_dist.mode()
        whole = vae.decode(latents).sample
        vae.enable_tiling()
        tiled = vae.decode(latents).sample
    assert not torch.equal(whole, tiled)
    error = float(((whole.clamp(-1, 1) - tiled.clamp(-1, 1)) / 2).square().mean())
    assert 10 * np.log10(1 / error) > 30


@pytest.mark.parametrize("offload", [each for each in OFFLOADS if each != "none"])
@pytest.mark.parametrize("name", PIPELINES)
def test_offloaded_weights_make_the_same_frames_and_come_home(
    models: Models,
    name: str,
    offload: str,
    open_engine: Callable[..., DiffusersEngine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The CPU stands for a device of its own: what is brought there is a copy."""
    monkeypatch.setattr(offloading, "fetch", lambda tensor, _device: tensor.clone())
    spec = models[name]
    # said, as a GPU takes another one than a CPU where there is no bfloat16
    _, plain = run(open_engine(dtype="float32"), spec, make_plan(spec))
    engine = open_engine()
    machine = Machine("cuda", "a GPU", 10**12, 10**12, 10**12, measure(CPU).has_bfloat16)
    monkeypatch.setattr("vitascope.engine.keeper.measure", lambda *_: machine)
    engine._models._wishes = Wishes(offload=offload, dtype="float32")
    assert engine.capacity(spec) == 1
    engine.load(spec)
    model: LoadedModel = engine._loaded  # type: ignore[assignment]
    before = {id(p): p.data_ptr() for p in parameters_of(model)}
    for _ in range(2):
        _, clip = run(engine, spec, make_plan(spec))
        np.testing.assert_array_equal(clip.frames, plain.frames)
        assert {id(p): p.data_ptr() for p in parameters_of(model)} == before
    assert chosen(clip, "offload") == (offload, "set by engine.offload")
    running = engine.generate(make_plan(spec), spec)
    while next(running).stage != "denoise":  # type: ignore[union-attr]
        pass
    assert engine.capacity(spec) == 0
    with pytest.raises(EngineBusy, match="one at a time"):
        list(engine.generate(make_plan(spec), spec))
    running.close()
    assert {id(p): p.data_ptr() for p in parameters_of(model)} == before
    assert engine.capacity(spec) == 1


@pytest.mark.parametrize("offload", ["model", "group"])
def test_a_cancelled_request_over_offloaded_weights_leaves_nothing(
    models: Models, offload: str, open_engine: Callable[..., DiffusersEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its autoencoder keeps from frame to frame is gigabytes on a GPU, and must not wait for garbage to be collected."""
    monkeypatch.setattr(offloading, "fetch", lambda tensor, _device: tensor.clone())
    machine = Machine("cuda", "a GPU", 10**12, 10**12, 10**12, measure(CPU).has_bfloat16)
    monkeypatch.setattr("vitascope.engine.keeper.measure", lambda *_: machine)
    engine, spec = open_engine(), models["WanPipeline"]
    engine._models._wishes = Wishes(offload=offload)
    made: list[weakref.ref[torch.nn.Module]] = []
    make_slot = Slot.__init__

    def noted(slot: Slot, *args: Any) -> None:
        make_slot(slot, *args)
        made.append(weakref.ref(slot.modules()["vae"]))

    monkeypatch.setattr(Slot, "__init__", noted)
    plain = run(engine, spec, make_plan(spec))[1].frames
    running = engine.generate(make_plan(spec), spec)
    while next(running) != Step("decode_latents"):
        pass
    gc.collect()
    gc.disable()
    try:
        running.close()
        assert [found() for found in made] == [None]
    finally:
        gc.enable()
    np.testing.assert_array_equal(run(engine, spec, make_plan(spec))[1].frames, plain)


def parameters_of(model: LoadedModel) -> list[torch.nn.Parameter]:
    pipe = next(iter(model.pipelines.values()))
    modules = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    return [parameter for module in modules for parameter in module.parameters()]


def test_a_larger_clip_has_its_model_placed_anew(
    models: Models, open_engine: Callable[..., DiffusersEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that was loaded for small clips makes room for a large one, and nothing of the picture changes."""
    monkeypatch.setattr(offloading, "fetch", lambda tensor, _device: tensor.clone())
    spec = models["WanPipeline"]
    engine = open_engine()
    free = 2**30 + 2**20
    machine = Machine("cuda", "a GPU", free, free, 10**12, measure(CPU).has_bfloat16)
    monkeypatch.setattr("vitascope.engine.keeper.measure", lambda *_: machine)
    monkeypatch.setattr(
        "vitascope.engine.keeper.largest_extent",
        lambda _spec, plan=None: Extent(9, 64, 64) if plan is None else largest_extent(_spec, plan),
    )
    _, small = run(engine, spec, make_plan(spec))
    assert chosen(small, "offload")[0] == "none"  # type: ignore[index]
    assert engine.residency.loads == 1

    def much(*_given: Any, **_more: Any) -> activations.Work:
        weights = engine._models._placements[spec.id].placement.weights_bytes
        return activations.Work(machine.usable_bytes - weights // 2, 0, 0)

    monkeypatch.setattr("vitascope.engine.keeper.work_of", much)
    monkeypatch.setattr("vitascope.engine.placement.work_of", much)
    _, large = run(engine, spec, make_plan(spec))
    assert chosen(large, "offload")[0] != "none"  # type: ignore[index]
    assert engine.residency.loads == 2
    np.testing.assert_array_equal(large.frames, small.frames)
    run(engine, spec, make_plan(spec))
    assert engine.residency.loads == 2, "it stays so"


def test_a_model_that_this_machine_cannot_hold_is_refused_before_it_is_loaded(
    models: Models, open_engine: Callable[..., DiffusersEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = models["WanPipeline"]
    engine = open_engine()
    machine = Machine("cpu", "this machine", 1000, 1000, 1000)
    with monkeypatch.context() as patched:
        patched.setattr("vitascope.engine.keeper.measure", lambda *_: machine)
        for ask in (engine.load, lambda spec: run(engine, spec, make_plan(spec))):
            with pytest.raises(ModelTooLarge, match=r"this machine has 0\.00 GiB of 0\.00 GiB free"):
                ask(spec)
        assert engine.loaded_models == ()
    run(engine, spec, make_plan(spec))
    assert engine.loaded_models == (spec.id,), "when there is room, it is loaded"
