"""The text encoder that is ours gives bit for bit what transformers' does."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import BertModel, BertTokenizer

from vitascope.catalog import Catalog, locate
from vitascope.engine import bert

TEXTS = [
    "a red car drives along the beach",
    "",
    "Ünïcödé ÀÉ 漢字 😀 and\tcontrol\x00 characters",
    "x" * 300,
    "the dog " * 200,
    "[CLS] a [MASK] b [SEP] [PAD]",
]
CALL = {"padding": "max_length", "truncation": True, "add_special_tokens": True, "return_tensors": "pt"}


@pytest.fixture(scope="module")
def folder() -> Path:
    return Path(locate(Catalog.open().resolve("pocket")))


def test_tokens_are_those_of_transformers(folder):
    theirs = BertTokenizer.from_pretrained(folder / "tokenizer")
    ours = bert.load_tokenizer(folder / "tokenizer")
    assert ours.model_max_length == theirs.model_max_length
    for max_length in (8, 64):
        expected, found = (each(TEXTS, max_length=max_length, **CALL) for each in (theirs, ours))
        assert torch.equal(found.input_ids, expected.input_ids)
        assert torch.equal(found.attention_mask, expected.attention_mask)
    for text in TEXTS[:4]:  # what is longer than the model reads is only counted
        assert ours(text).input_ids == theirs(text).input_ids
    assert ours(TEXTS).input_ids == [ours(text).input_ids for text in TEXTS]
    assert [len(each) for each in ours(TEXTS[:2], padding=True).input_ids] == [9, 9]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_embeddings_are_bit_identical_to_those_of_transformers(folder, dtype):
    theirs = BertModel.from_pretrained(folder / "text_encoder", dtype=dtype).eval()
    ours = bert.load_encoder(folder / "text_encoder", dtype).eval()
    assert ours.dtype == dtype and ours.device == theirs.device
    tokens = bert.load_tokenizer(folder / "tokenizer")(TEXTS, max_length=64, **CALL)
    given = tokens.input_ids, tokens.attention_mask
    with torch.no_grad():
        assert torch.equal(ours(*given).last_hidden_state, theirs(*given).last_hidden_state)
        for one in zip(*(each.split(1) for each in given), strict=True):
            assert torch.equal(ours(*one).last_hidden_state, theirs(*one).last_hidden_state)


def test_modules_have_the_names_that_transformers_gives_them(folder):
    theirs = {
        name
        for name, _ in BertModel.from_pretrained(folder / "text_encoder").named_parameters()
        if not name.startswith("pooler.")
    }
    ours = bert.load_encoder(folder / "text_encoder", torch.float32)
    assert {name for name, _ in ours.named_parameters()} == theirs


def test_another_kind_of_encoder_is_left_to_transformers(folder, tmp_path):
    assert bert.is_plain(folder / "text_encoder")
    shutil.copytree(folder / "text_encoder", tmp_path / "other")
    config = tmp_path / "other" / "config.json"
    config.write_text(config.read_text("utf-8").replace('"hidden_act": "gelu"', '"hidden_act": "relu"'))
    assert not bert.is_plain(tmp_path / "other")
    assert not bert.is_plain(tmp_path / "nothing")


def test_a_damaged_file_is_an_os_error(folder, tmp_path):
    shutil.copytree(folder / "text_encoder", tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(OSError, match="cannot be read"):
        bert.load_encoder(tmp_path / "cut", torch.float32)
