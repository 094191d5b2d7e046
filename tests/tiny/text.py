"""Tokenizers made without a network, and text encoders of a few channels."""

from __future__ import annotations

import re
from typing import Any

WORDS = ("a", "dog", "cat", "ball", "walks")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCAB_SIZE = 256


def unigrams(template: str = "", special: tuple[str, ...] = ()) -> Any:
    """A unigram tokenizer whose pieces are a few words, the words of `template` and the letters.

    It stands for those of T5, Llama, Qwen and Gemma alike: pipelines only call it.
    """
    from transformers import T5Tokenizer

    words = dict.fromkeys([*WORDS, *re.findall(r"\w+", template)])
    pieces = ["<pad>", "</s>", "<unk>", "▁", *(f"▁{word}" for word in words), *LETTERS]
    vocab = [(piece, -float(rank)) for rank, piece in enumerate(dict.fromkeys(pieces))]
    tokenizer = T5Tokenizer(vocab=vocab, extra_ids=0, additional_special_tokens=list(special))
    assert len(tokenizer) <= VOCAB_SIZE
    return tokenizer


def t5(width: int = 32) -> tuple[Any, Any]:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(vocab_size=64, d_model=width, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
    return unigrams(), T5EncoderModel(config)


def byt5(width: int = 32) -> tuple[Any, Any]:
    from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

    config = T5Config(vocab_size=384, d_model=width, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
    return ByT5Tokenizer(), T5EncoderModel(config)


def clip(width: int = 32) -> tuple[Any, Any]:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    pieces = [*LETTERS, *(f"{c}</w>" for c in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    vocab = {piece: rank for rank, piece in enumerate(pieces)}
    end = vocab["<|endoftext|>"]
    config = CLIPTextConfig(
        vocab_size=len(vocab), hidden_size=width, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=77, bos_token_id=end - 1, eos_token_id=end, pad_token_id=end,
    )  # fmt: skip
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77), CLIPTextModel(config)


def clip_vision(width: int = 4, image_size: int = 8, projection: int = 4) -> Any:
    from transformers import CLIPVisionConfig

    return CLIPVisionConfig(
        hidden_size=width, intermediate_size=16, projection_dim=projection, num_attention_heads=2,
        num_hidden_layers=2, image_size=image_size, patch_size=4,
    )  # fmt: skip


def clip_images(size: int = 8) -> Any:
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(crop_size={"height": size, "width": size}, size={"shortest_edge": size})


def qwen_text() -> dict[str, Any]:
    """Settings of a Qwen 2.5 VL text model of 16 channels."""
    return {
        "vocab_size": VOCAB_SIZE, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]},
    }  # fmt: skip
