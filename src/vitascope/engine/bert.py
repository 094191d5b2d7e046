"""A BERT text encoder and its tokenizer as checkpoints hold them, without transformers.

That library takes 2 s of processor time to import the one class that the embedded model needs of it (docs/experiments.md). Names
of modules and weights, the order of the arithmetic, and so every bit of the result, are those of transformers' `BertModel`.

Source: transformers 5.23, models/bert/modeling_bert.py (Apache-2.0).
"""

# mypy: allow-subclassing-any
from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional

_PLAIN = {"model_type": "bert", "hidden_act": "gelu", "is_decoder": False, "add_cross_attention": False}
"""What a configuration says of an encoder that this one is."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """What the encoder answers."""

    last_hidden_state: torch.Tensor  # (B, L, D)


@dataclass(frozen=True, slots=True)
class Tokens:
    """What the tokenizer answers: for one text numbers, for several a tensor (B, L) or a list of each."""

    input_ids: Any
    attention_mask: Any


class BertTokenizer:
    """Texts to tokens; a call as the pipelines of diffusers make it."""

    def __init__(self, tokenizer: Tokenizer, pad_token: str, model_max_length: int) -> None:
        self._tokenizer = tokenizer
        self._pad = {"pad_id": tokenizer.token_to_id(pad_token), "pad_token": pad_token}
        self.model_max_length = model_max_length

    def __call__(
        self,
        texts: str | Sequence[str],
        *,
        padding: bool | str = False,
        max_length: int | None = None,
        truncation: bool = False,
        add_special_tokens: bool = True,
        return_attention_mask: bool = True,
        return_tensors: str | None = None,
    ) -> Tokens:
        length = self.model_max_length if max_length is None else max_length
        if truncation:
            self._tokenizer.enable_truncation(length)
        else:
            self._tokenizer.no_truncation()
        if padding:
            self._tokenizer.enable_padding(length=length if padding == "max_length" else None, **self._pad)
        else:
            self._tokenizer.no_padding()
        batch = [texts] if isinstance(texts, str) else list(texts)
        found = self._tokenizer.encode_batch(batch, add_special_tokens=add_special_tokens)
        ids, masks = [each.ids for each in found], [each.attention_mask for each in found]
        if return_tensors == "pt":
            return Tokens(torch.tensor(ids), torch.tensor(masks))
        return Tokens(ids[0], masks[0]) if isinstance(texts, str) else Tokens(ids, masks)


class _Linear(nn.Linear):
    """A layer that draws no numbers when it is made: its weights come from a file."""

    def reset_parameters(self) -> None:
        pass


class _Embedding(nn.Embedding):
    """The same of a table; drawing numbers on `meta` would import sympy too, which takes 0.25 s."""

    def reset_parameters(self) -> None:
        pass


class _Embeddings(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width = config["hidden_size"]
        self.word_embeddings = _Embedding(config["vocab_size"], width, padding_idx=config["pad_token_id"])
        self.position_embeddings = _Embedding(config["max_position_embeddings"], width)
        self.token_type_embeddings = _Embedding(config["type_vocab_size"], width)
        self.LayerNorm = nn.LayerNorm(width, eps=config["layer_norm_eps"])

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        found = self.word_embeddings(input_ids) + self.token_type_embeddings(torch.zeros_like(input_ids))
        embeddings: torch.Tensor = self.LayerNorm(found + self.position_embeddings(positions))
        return embeddings


class _SelfAttention(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, self._num_heads = config["hidden_size"], config["num_attention_heads"]
        self.query, self.key, self.value = (_Linear(width, width) for _ in range(3))

    def forward(self, hidden_states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        shape = (*hidden_states.shape[:2], self._num_heads, -1)
        query, key, value = (
            project(hidden_states).view(shape).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return attended.transpose(1, 2).reshape(hidden_states.shape)


class _Added(nn.Module):
    """A linear layer whose result is added to what came before it."""

    def __init__(self, width_in: int, config: dict[str, Any]) -> None:
        super().__init__()
        self.dense = _Linear(width_in, config["hidden_size"])
        self.LayerNorm = nn.LayerNorm(config["hidden_size"], eps=config["layer_norm_eps"])

    def forward(self, hidden_states: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        added: torch.Tensor = self.LayerNorm(self.dense(hidden_states) + before)
        return added


class _Attention(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.self = _SelfAttention(config)
        self.output = _Added(config["hidden_size"], config)

    def forward(self, hidden_states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        attended: torch.Tensor = self.output(self.self(hidden_states, mask), hidden_states)
        return attended


class _Intermediate(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.dense = _Linear(config["hidden_size"], config["intermediate_size"])

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return functional.gelu(self.dense(hidden_states))


class _Layer(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.attention = _Attention(config)
        self.intermediate = _Intermediate(config)
        self.output = _Added(config["intermediate_size"], config)

    def forward(self, hidden_states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        attended = self.attention(hidden_states, mask)
        result: torch.Tensor = self.output(self.intermediate(attended), attended)
        return result


class _Layers(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.layer = nn.ModuleList([_Layer(config) for _ in range(config["num_hidden_layers"])])

    def forward(self, hidden_states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        for layer in self.layer:
            hidden_states = layer(hidden_states, mask)
        return hidden_states


class BertEncoder(nn.Module):
    """Tokens to embeddings, without the pooler that only classifiers need."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.embeddings = _Embeddings(config)
        self.encoder = _Layers(config)

    @property
    def dtype(self) -> torch.dtype:
        return self.embeddings.word_embeddings.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.embeddings.word_embeddings.weight.device

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> Encoded:
        """Encode tokens (B, L); those that the mask has a 0 for are not attended to."""
        mask = None
        if attention_mask is not None and not attention_mask.all():
            batch, length = attention_mask.shape
            mask = attention_mask.bool()[:, None, None, :].expand(batch, 1, length, length)
        return Encoded(self.encoder(self.embeddings(input_ids), mask))


def is_plain(folder: Path) -> bool:
    """Whether a folder's configuration describes an encoder that this one is."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    usual = config.get("position_embedding_type", "absolute") == "absolute"
    files = sorted(path.name for path in folder.glob("*.safetensors*"))
    return usual and files == ["model.safetensors"] and all(config.get(k) == v for k, v in _PLAIN.items())


def load_encoder(folder: Path, dtype: torch.dtype) -> BertEncoder:
    """Load an encoder; its weights are mapped from the file where they have the type already."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    with torch.device("meta"):
        encoder = BertEncoder(config)
    try:
        weights = safetensors.torch.load_file(folder / "model.safetensors")
    except safetensors.SafetensorError as error:
        message = f"its text encoder cannot be read: {error}"
        raise OSError(message) from None
    own = {name: weights[name].to(dtype) for name in encoder.state_dict()}
    encoder.load_state_dict(own, assign=True)
    return encoder


def load_tokenizer(folder: Path) -> BertTokenizer:
    """Load a tokenizer that is kept whole in one file."""
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return BertTokenizer(tokenizer, config["pad_token"], config["model_max_length"])
