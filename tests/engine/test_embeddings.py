"""Text embeddings that are kept: the same videos with and without, bit by bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput

from tiny import loras, make_plan, run
from vitascope.catalog import Loras, locate
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.request import Lora
from vitascope.engine.embeddings import Embeddings
from vitascope.engine.engine import DiffusersEngine
from vitascope.engine.slots import Slot

Models = dict[str, ModelSpec]

#: With one text encoder, two of which one gives all its layers, a language model, and CLIP.
PIPELINES = ("WanPipeline", "HunyuanVideoPipeline", "LTX2Pipeline", "TextToVideoSDPipeline")


@pytest.fixture(scope="module")
def loras_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("loras")


@pytest.fixture(scope="module")
def engine(loras_folder: Path) -> Iterator[DiffusersEngine]:
    opened = DiffusersEngine(
        locate,
        device="cpu",
        threads=1,
        memory_gb=8,
        find_loras=Loras(loras_folder).files,
        embeddings_cache_bytes=10**7,
    )
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def embeddings(engine: DiffusersEngine) -> Embeddings:
    engine._embeddings.clear()
    engine._embeddings.num_hits = 0
    return engine._embeddings


@pytest.mark.parametrize("name", PIPELINES)
def test_a_text_that_is_known_makes_the_same_video(
    engine: DiffusersEngine, models: Models, embeddings: Embeddings, name: str
) -> None:
    spec = models[name]
    how: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 20.0}  # or texts count for too little
    plan = make_plan(spec, **how)
    first = run(engine, spec, plan)[1].frames
    again = run(engine, spec, plan)[1].frames
    assert embeddings.num_hits > 0
    embeddings.clear()
    anew = run(engine, spec, plan)[1].frames
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, anew)
    hits = embeddings.num_hits
    other = run(engine, spec, make_plan(spec, prompt="a cat", **how))[1].frames
    assert not np.array_equal(first, other)
    if name in ("WanPipeline", "TextToVideoSDPipeline"):  # guidance of the others is no second text
        assert embeddings.num_hits == hits + 1, "the negative prompt is the same"


def test_an_adapter_of_the_text_encoder_has_its_own(
    engine: DiffusersEngine, models: Models, embeddings: Embeddings, loras_folder: Path
) -> None:
    spec = models["TextToVideoSDPipeline"]
    loras.write(loras_folder / "text.safetensors", spec, "text_encoder", pattern=r"[qkv]_proj$")
    plan = make_plan(spec, num_inference_steps=2)
    adapted = make_plan(spec, num_inference_steps=2, loras=(Lora("text"),))
    plain = run(engine, spec, plan)[1].frames
    first = run(engine, spec, adapted)[1].frames
    assert embeddings.num_hits == 0
    np.testing.assert_array_equal(run(engine, spec, adapted)[1].frames, first)
    assert not np.array_equal(first, plain)
    np.testing.assert_array_equal(run(engine, spec, plan)[1].frames, plain)


def test_a_shortened_encoder_has_its_own(
    engine: DiffusersEngine, models: Models, embeddings: Embeddings
) -> None:
    spec = models["TextToVideoSDPipeline"]
    made = [
        run(engine, spec, make_plan(spec, num_inference_steps=2, clip_skip=skipped))[1].frames
        for skipped in (None, 1, 1, None)
    ]
    assert embeddings.num_hits > 0
    np.testing.assert_array_equal(made[1], made[2])
    np.testing.assert_array_equal(made[0], made[3])


def test_a_model_that_is_loaded_again_begins_anew(
    engine: DiffusersEngine, models: Models, embeddings: Embeddings
) -> None:
    spec = models["WanPipeline"]
    plan = make_plan(spec, num_inference_steps=2)
    run(engine, spec, plan)
    engine.unload(spec.id)
    run(engine, spec, plan)
    assert embeddings.num_hits == 0


class Encoder(torch.nn.Module):
    """Counts how often it works."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.num_calls = 0

    def forward(self, ids: torch.Tensor, mask: Any = None) -> Any:
        self.num_calls += 1
        return BaseModelOutput(last_hidden_state=ids[..., None].float() * self.weight.data)


def slot_of(encoder: Encoder) -> Slot:
    slot = Slot.__new__(Slot)
    slot.pipelines, slot.shared, slot.adapted = {}, {}, frozenset()
    slot.modules = lambda: {"text_encoder": encoder}  # type: ignore[method-assign]
    return slot


def test_the_least_recently_used_go_and_large_ones_are_not_kept() -> None:
    encoder = Encoder()
    kept = Embeddings(max_bytes=400)  # of ten numbers, ten; an output may have a fourth of it

    def ask(first: int, length: int = 10) -> None:
        ids = torch.arange(first, first + length)
        assert torch.equal(encoder(ids).last_hidden_state[:, 0], ids.float())

    with kept.used(slot_of(encoder)):
        for first in range(10):
            ask(first)
        assert (encoder.num_calls, kept.num_bytes) == (10, 400)
        ask(0)
        ask(10)
        assert (encoder.num_calls, kept.num_bytes, kept.num_hits) == (11, 400, 1)
        ask(0)
        assert encoder.num_calls == 11, "it was used last but one"
        ask(1)
        assert encoder.num_calls == 12, "it went"
        ask(0, 30)
        ask(0, 30)
        assert (encoder.num_calls, kept.num_bytes) == (14, 400)
        encoder(torch.arange(10), mask=object())
        encoder(torch.arange(10), mask=object())
        assert encoder.num_calls == 16, "nobody knows whether they are the same"
    kept.clear()
    assert kept.num_bytes == 0
    assert "forward" not in vars(encoder)


def test_what_is_kept_cannot_be_written_into() -> None:
    encoder = Encoder()
    kept = Embeddings(max_bytes=400)
    with kept.used(slot_of(encoder)):
        for _ in range(3):
            made = encoder(torch.arange(3)).last_hidden_state
            assert torch.equal(made[:, 0], torch.arange(3).float())
            made.zero_()
    assert encoder.num_calls == 1


class Interrupted(Encoder):
    """Stands still in its first forward, while another request's encoder with the same weights does the whole."""

    def __init__(self, other: Encoder) -> None:
        super().__init__()
        self.others = [other]

    def forward(self, ids: torch.Tensor, mask: Any = None) -> Any:
        if self.others:
            self.others.pop()(ids)
        return super().forward(ids, mask)


def test_two_that_read_a_text_at_the_same_time_keep_it_once() -> None:
    other = Encoder()
    encoder = Interrupted(other)
    kept = Embeddings(max_bytes=40)
    one, two = slot_of(encoder), slot_of(other)
    two.shared = one.shared
    with kept.used(two), kept.used(one):
        encoder(torch.arange(2))
        assert kept.num_bytes == 8
        for first in range(10):
            encoder(torch.arange(first, first + 2))
    assert kept.num_bytes == 40
