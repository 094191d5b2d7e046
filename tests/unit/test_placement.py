"""How models are placed on machines that are not here: the sizes of real checkpoints, imagined devices."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vitascope.catalog import Catalog
from vitascope.domain.errors import ModelTooLarge, SettingsError
from vitascope.domain.model_spec import ModelSpec
from vitascope.engine.activations import Extent, work_of
from vitascope.engine.placement import GIB, Machine, Placement, Wishes, place
from vitascope.engine.sizes import Component, Sizes

BILLION = 10**9

WAN_VAE = Component("vae", "autoencoder", 127 * 10**6, 126 * 10**6, 10**6, config={"_class_name": "AutoencoderKLWan", "base_dim": 96, "dim_mult": [1, 2, 4, 4]})  # fmt: skip
UMT5 = Component(
    "text_encoder", "encoder", 5_681_910_784, 4_600_000_000, 193_000_000, 1_050_000_000, 1_050_000_000
)


def wan(num_values: float, heads: int, blocks: int, *names: str) -> Sizes:
    """Wan's parts, with denoisers of so many values each."""
    config = {"_class_name": "WanTransformer3DModel", "num_attention_heads": heads, "attention_head_dim": 128, "patch_size": [1, 2, 2]}  # fmt: skip
    values = round(num_values * BILLION)
    denoisers = [
        Component(
            name,
            "denoiser",
            values,
            round(values * 0.99),
            values // blocks,
            10**7,
            values // blocks // 3,
            config=config,
        )
        for name in names or ("transformer",)
    ]
    return Sizes((UMT5, *denoisers, WAN_VAE))


SMALL, LARGE = wan(1.419, 12, 30), wan(14.29, 40, 40)
A14B = wan(14.29, 40, 40, "transformer", "transformer_2")


def gpu(gib: float, *, free: float | None = None, host: float = 64) -> Machine:
    free_bytes = round((gib - 0.5 if free is None else free) * GIB)
    return Machine("cuda", "a GPU", free_bytes, round(gib * GIB), round(host * GIB))


def cpu(free: float, total: float | None = None, *, has_bfloat16: bool = True) -> Machine:
    size = round(free * GIB)
    return Machine("cpu", "this machine", size, round((total or free) * GIB), size, has_bfloat16)


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.open()


@pytest.fixture(scope="module")
def spec(catalog: Catalog) -> ModelSpec:
    return catalog.resolve("wan2.1-t2v-1.3b")


def value_of(placement: Placement, name: str) -> str | None:
    return next((choice.value for choice in placement.choices if choice.name == name), None)


def reason_of(placement: Placement, name: str) -> str:
    return next(choice.reason for choice in placement.choices if choice.name == name)


@pytest.mark.parametrize(
    ("sizes", "machine", "offload", "quantization", "has_tiles"),
    [
        (SMALL, gpu(139), "none", "none", False),
        (LARGE, gpu(139), "none", "none", False),
        (A14B, gpu(139), "none", "none", False),
        (A14B, gpu(64, host=128), "model", "none", False),
        (SMALL, gpu(24), "none", "none", False),
        (SMALL, gpu(16), "model", "none", False),
        (SMALL, gpu(8), "group", "none", False),
        (LARGE, gpu(24), "group", "none", False),
        (LARGE, gpu(24, host=32), "group", "int8", False),
        (SMALL, gpu(6), "group", "none", False),
        (SMALL, gpu(4), "group", "none", True),
        (SMALL, cpu(24), "none", "none", False),
        (SMALL, cpu(18), "none", "none", True),
        (SMALL, cpu(16), "none", "int8", False),
        (SMALL, cpu(12), "none", "int8", True),
    ],
)
def test_the_cheapest_way_that_fits(
    spec: ModelSpec, sizes: Sizes, machine: Machine, offload: str, quantization: str, *, has_tiles: bool
) -> None:
    placement = place(spec, sizes, machine)
    assert (placement.offload, placement.quantization, placement.has_tiles) == (
        offload,
        quantization,
        has_tiles,
    )
    assert placement.peak_bytes <= machine.usable_bytes
    assert placement.takes_turns == (offload != "none")


def test_reasons_have_the_numbers(spec: ModelSpec) -> None:
    placement = place(spec, SMALL, gpu(16))
    assert reason_of(placement, "offload") == (
        "all of it at once takes 18.2 GiB, more than the 14.7 GiB that may be used; so 10.6 GiB, and each part comes to the"
        " device once a clip"
    )
    clip = Extent(81, 480, 832)
    tiles = place(spec, SMALL, cpu(18)).tiles_for(work_of(SMALL, clip), clip)
    assert tiles is not None
    assert (
        tiles.reason == "to decode 832x480x81 at once takes 18.2 GiB, in tiles 14.8 GiB; 17.1 GiB may be used"
    )


@pytest.mark.parametrize("sizes", [SMALL, LARGE, A14B])
def test_more_memory_never_costs_more_time(spec: ModelSpec, sizes: Sizes) -> None:
    """The order of ways is one of cost: with every GiB more the chosen one is the same, or one before it."""
    order = ["none", "model", "group", "sequential"]
    ranks = []
    for gib in range(4, 100):
        machine = gpu(gib, host=256)
        placement = place(spec, sizes, machine)
        if placement.peak_bytes <= machine.usable_bytes:
            ranks.append((order.index(placement.offload), placement.has_tiles))
    assert ranks == sorted(ranks, reverse=True)
    assert ranks[-1] == (0, False)


def test_a_model_without_room_is_refused_with_the_numbers(spec: ModelSpec) -> None:
    refusals = []
    for sizes, machine in ((A14B, gpu(24, host=32)), (LARGE, cpu(15, 16)), (LARGE, gpu(0.5, free=0.1))):
        with pytest.raises(ModelTooLarge) as caught:
            place(spec, sizes, machine)
        refusals.append(caught.value.message)
    assert refusals == [
        "the weights of model `wan2.1-t2v-1.3b` take 33.4 GiB in int8; a GPU has 23.5 GiB of 24.0 GiB free, and 32.0 GiB of"
        " main memory",
        "the weights of model `wan2.1-t2v-1.3b` take 20.0 GiB in int8, and this machine has 15.0 GiB of 16.0 GiB free",
        "the weights of model `wan2.1-t2v-1.3b` take 2.0 GiB in int8 even with offloading, and a GPU has 0.10 GiB of 0.50 GiB"
        " free",
    ]


def test_an_estimate_alone_refuses_nothing(spec: ModelSpec) -> None:
    """What the work takes is reckoned, what the weights take is known: only these can be too large."""
    placement = place(spec, SMALL, gpu(24), extent=Extent(81, 4096, 4096))
    assert placement.peak_bytes > gpu(24).usable_bytes
    assert "it may not fit" in reason_of(placement, "offload")


def test_float16_is_never_chosen_on_a_cpu(spec: ModelSpec) -> None:
    by_card = replace(spec, dtype="float16")
    assert place(by_card, SMALL, cpu(64)).dtype == "bfloat16"
    assert place(by_card, SMALL, cpu(64, has_bfloat16=False)).dtype == "float32"
    assert place(by_card, SMALL, gpu(24)).dtype == "float16"
    with pytest.raises(SettingsError, match="The nearest legal value is `bfloat16`"):
        place(spec, SMALL, cpu(64), Wishes(dtype="float16"))


def test_gpus_without_bfloat16_compute_float16(spec: ModelSpec) -> None:
    assert place(spec, SMALL, replace(gpu(24), has_bfloat16=False)).dtype == "float16"


@pytest.mark.parametrize("offload", ["none", "model", "group", "sequential"])
@pytest.mark.parametrize("quantization", ["none", "int8", "fp8"])
@pytest.mark.parametrize("tiling", ["on", "off"])
def test_settings_force_each_way(spec: ModelSpec, offload: str, quantization: str, tiling: str) -> None:
    wishes = Wishes(offload=offload, quantization=quantization, vae_tiling=tiling)
    placement = place(spec, SMALL, gpu(24), wishes)
    assert (placement.offload, placement.quantization, placement.has_tiles) == (
        offload,
        quantization,
        tiling == "on",
    )
    for name in ("offload", "quantization"):
        assert reason_of(placement, name).startswith("set by engine.")


@pytest.mark.parametrize("tiling", ["on", "off"])
def test_tiles_can_be_forced(spec: ModelSpec, tiling: str) -> None:
    clip = Extent(5, 64, 64)
    choice = place(spec, SMALL, gpu(24), Wishes(vae_tiling=tiling)).tiles_for(work_of(SMALL, clip), clip)
    assert choice is not None
    assert (choice.value, choice.reason) == (tiling, "set by engine.vae_tiling")


def test_tiles_are_a_matter_of_the_clip(spec: ModelSpec) -> None:
    """The same clip is decoded alike, whatever was made before it."""
    placement = place(spec, SMALL, gpu(12))
    tiled = []
    for side in (256, 512, 1024, 2048):
        clip = Extent(81, side, side)
        choice = placement.tiles_for(work_of(SMALL, clip), clip)
        tiled.append(choice is not None and choice.value == "on")
    assert tiled == [False, False, True, True]


def test_a_larger_clip_changes_where_weights_wait_but_never_what_they_are(spec: ModelSpec) -> None:
    usual = place(spec, SMALL, gpu(24))
    clip = Extent(81, 1088, 1920)
    assert not usual.leaves_room_for(work_of(SMALL, clip))
    larger = place(spec, SMALL, gpu(24), extent=clip, quantization=usual.quantization)
    assert (usual.offload, larger.offload) == ("none", "model")
    assert larger.quantization == usual.quantization == "none"
    assert larger.leaves_room_for(work_of(SMALL, clip))


def test_a_setting_wins_over_the_card(spec: ModelSpec) -> None:
    by_card = replace(spec, quantization="fp8")
    assert place(by_card, SMALL, gpu(24)).quantization == "fp8"
    assert reason_of(place(by_card, SMALL, gpu(24)), "quantization") == "the model's card says so"
    assert place(by_card, SMALL, gpu(24), Wishes(quantization="none")).quantization == "none"


def test_there_is_nothing_to_offload_to_where_a_cpu_computes(spec: ModelSpec) -> None:
    with pytest.raises(SettingsError, match="The nearest legal value is `none`"):
        place(spec, SMALL, cpu(64), Wishes(offload="group"))
