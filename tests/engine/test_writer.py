"""The language model on this machine: tiny ones of random weights, which write nonsense, but the same nonsense each time."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tiny import make_plan, run, text
from vitascope.catalog import locate
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.step import Step
from vitascope.engine import Clip
from vitascope.engine.engine import DiffusersEngine
from vitascope.engine.writer import LocalWriter, WriterFailed

MESSAGES = [{"role": "system", "content": "a ball"}, {"role": "user", "content": "a dog walks"}]
TEMPLATE = "{% for m in messages %}{{ m['content'] }} {% endfor %}"


@pytest.fixture
def engine() -> Iterator[DiffusersEngine]:
    made = DiffusersEngine(locate, device="cpu", threads=1)
    yield made
    made.close()


def never() -> bool:
    return False


def talker(folder: Path, *, dtype: torch.dtype = torch.float32, template: str | None = TEMPLATE) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = text.unigrams()
    tokenizer.chat_template = template
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=512, eos_token_id=None, bos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_the_same_prompt_gives_the_same_text(tmp_path: Path) -> None:
    writer = LocalWriter(str(talker(tmp_path)), device="cpu")
    first = writer.write(MESSAGES, seconds=60, stop=never)
    writer.close()
    assert first
    assert writer.write(MESSAGES, seconds=60, stop=never) == first
    other = [MESSAGES[0], {"role": "user", "content": "a cat"}]
    assert writer.write(other, seconds=60, stop=never) != first


def test_a_model_without_a_template_writes_on(tmp_path: Path) -> None:
    writer = LocalWriter(str(talker(tmp_path, template=None)), device="cpu")
    assert writer.write(MESSAGES, seconds=60, stop=never)


def test_one_that_reads_and_writes_apart(tmp_path: Path) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = text.unigrams()
    config = T5Config(
        vocab_size=64, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    writer = LocalWriter(str(tmp_path), device="cpu")
    assert isinstance(writer.write(MESSAGES, seconds=60, stop=never), str)


def test_its_memory_is_free_afterwards(tmp_path: Path) -> None:
    writer = LocalWriter(str(talker(tmp_path)), device="cpu")
    writer.write(MESSAGES, seconds=60, stop=never)
    model = weakref.ref(writer._model)
    writer.close()
    assert model() is None


def test_half_precision_is_not_computed_on_a_cpu(tmp_path: Path) -> None:
    writer = LocalWriter(str(talker(tmp_path, dtype=torch.float16)), device="cpu")
    writer.write(MESSAGES, seconds=60, stop=never)
    assert writer._model.dtype == torch.float32


@pytest.mark.parametrize(("seconds", "stop"), [(0.0, never), (60.0, lambda: True)])
def test_it_ends_when_it_shall(tmp_path: Path, seconds: float, stop: Any) -> None:
    writer = LocalWriter(str(talker(tmp_path)), device="cpu")
    with pytest.raises(WriterFailed, match="in time"):
        writer.write(MESSAGES, seconds=seconds, stop=stop)


def test_what_is_being_made_is_not_changed_by_it(
    engine: DiffusersEngine, models: dict[str, ModelSpec], tmp_path: Path
) -> None:
    """The language model works in a thread, while a generation stands still between two steps: LTX draws from torch's own numbers."""
    spec = models["LTXPipeline"]
    of = make_plan(spec, num_inference_steps=3)
    _, alone = run(engine, spec, of)
    writer = LocalWriter(str(talker(tmp_path)), device="cpu")

    def write() -> None:
        with engine.aside():
            torch.manual_seed(1)
            torch.rand(3)
            writer.write(MESSAGES, seconds=60, stop=never)
            writer.close()

    events = []
    for event in engine.generate(of, spec):
        events.append(event)
        if isinstance(event, Step) and (event.stage, event.index) in (("denoise", 1), ("denoise", 3)):
            thread = threading.Thread(target=write)
            thread.start()
            while thread.is_alive():
                assert engine.loaded_models, "it leaves the engine a turn after each word"
                thread.join(0.01)
    assert isinstance(events[-1], Clip)
    assert np.array_equal(events[-1].frames, alone.frames)


def test_what_cannot_be_loaded_is_told(tmp_path: Path) -> None:
    with pytest.raises(WriterFailed, match="could not be loaded"):
        LocalWriter(str(tmp_path / "nowhere"), device="cpu").write(MESSAGES, seconds=60, stop=never)


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    talker(tmp_path)
    weights = tmp_path / "model.safetensors"
    torch.save(load_file(weights), tmp_path / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(WriterFailed, match="could not be loaded"):
        LocalWriter(str(tmp_path), device="cpu").write(MESSAGES, seconds=60, stop=never)


def test_memory_that_is_not_enough_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = LocalWriter(str(talker(tmp_path)), device="cpu")
    message = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory"

    def no_memory() -> None:
        raise RuntimeError(message)

    monkeypatch.setattr(writer, "_load", no_memory)
    with pytest.raises(WriterFailed, match="did not fit"):
        writer.write(MESSAGES, seconds=60, stop=never)
