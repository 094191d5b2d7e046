"""One block of Wan's denoiser as a formula: tensors in, tensors out, nothing changed in place and nothing asked of the host.

That is what a compiler makes few kernels of: each norm with its modulation and the sum before it, each turn of queries and keys with
the norm before it. All blocks of all slots are one such formula with other weights. `wan` has the same by kernels of its own, for
where nothing is compiled and for layers that adapters or offloading have changed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch.nn import functional

from vitascope.engine.products import Layer, has_onednn, product

KeysValues = tuple[torch.Tensor, torch.Tensor]
"""Each (B, heads, L, d)."""

Compiled = Callable[..., torch.Tensor | None]
"""`block` compiled; None where that does not work."""


MOST_SCORES = 2**21
"""A CPU attends in bfloat16 in less time with all scores at once, as long as they fit into its cache."""


class Attention(NamedTuple):
    """Weights of an attention, of what is asked; keys and values of a text are made before."""

    query: Layer
    query_norm: torch.Tensor
    out: Layer


class Weights(NamedTuple):
    """Of one block: tensors only, so that to a compiler all blocks are the same one."""

    #: (1, 6, D)
    modulation: torch.Tensor
    own: Attention
    key: Layer
    key_norm: torch.Tensor
    value: Layer
    #: Of the norm before the text is attended to; None where there is none.
    text_norm: Layer | None
    text: Attention
    widen: Layer
    narrow: Layer


class Layout(NamedTuple):
    """What is the same for all blocks of a model."""

    heads: int
    eps: float
    #: Of attention, as diffusers names it.
    kernel: Any
    #: Whether oneDNN multiplies.
    by_onednn: bool


class Forward(NamedTuple):
    """What all blocks have in common in one forward."""

    #: (B, R, 6, D), of each run of tokens with one timestep.
    modulation: torch.Tensor
    runs: list[slice]
    #: (1, S, 1, d / 2, 2), cosine and sine by a token's place.
    turns: torch.Tensor
    #: Of products.
    dtype: torch.dtype


class CompiledBlocks:
    """The blocks of one denoiser, by the formula as a compiler has it: of any number of tokens.

    Args:
        blocks: none of whose layers something has changed.
        compiled: `block`; answers with None once that has failed.
        ready: kinds of forwards that were compiled, of all slots with these weights.
        may_be_several: whether forwards of several samples may come after those of one. Both are compiled at the first: who looks at
            how long a step takes expects only the first one of a request to be slow.
    """

    def __init__(
        self, blocks: Any, compiled: Compiled, ready: set[object], *, may_be_several: bool = False
    ) -> None:
        self._blocks = blocks
        self._weights: list[Weights] = []
        self._compiled = compiled
        self._ready = ready
        self._may_be_several = may_be_several

    def __call__(
        self, index: int, stream: torch.Tensor, attended: list[KeysValues], forward: Forward
    ) -> torch.Tensor | None:
        """Compute a block; None if it is to be computed otherwise."""
        if not self._weights:
            self._weights = [weights_of(block) for block in self._blocks]
        kind = (stream.device, forward.dtype, len(forward.runs) > 1, len(attended))
        if self._may_be_several and kind not in self._ready:
            self._ready.add(kind)
            self._run(index, *_first_twice(stream, attended, forward))
            self._run(index, *_first(stream, attended, forward))
        return self._run(index, stream, attended, forward)

    def _run(
        self, index: int, stream: torch.Tensor, attended: list[KeysValues], forward: Forward
    ) -> torch.Tensor | None:
        runs = forward.runs
        run_of = _run_of(runs, stream) if len(runs) > 1 else None
        _mark(stream, attended, forward, run_of)
        layout = layout_of(self._blocks[0], stream, forward.dtype)
        modulation, turns = forward.modulation, forward.turns
        return self._compiled(
            self._weights[index], layout, stream, modulation, run_of, turns, attended, forward.dtype
        )


def _first(
    stream: torch.Tensor, attended: list[KeysValues], forward: Forward
) -> tuple[torch.Tensor, list[KeysValues], Forward]:
    """Of a forward's samples the first alone. Nothing is a view of something else, which a compiler would tell apart."""
    parts = [(key[:1].clone(), value[:1].clone()) for key, value in attended]
    return stream[:1].clone(), parts, forward._replace(modulation=forward.modulation[:1].clone())


def _first_twice(
    stream: torch.Tensor, attended: list[KeysValues], forward: Forward
) -> tuple[torch.Tensor, list[KeysValues], Forward]:
    stream, attended, forward = _first(stream, attended, forward)
    parts = [(torch.cat([key, key]), torch.cat([value, value])) for key, value in attended]
    modulation = torch.cat([forward.modulation, forward.modulation])
    return torch.cat([stream, stream]), parts, forward._replace(modulation=modulation)


def _mark(
    stream: torch.Tensor, attended: list[KeysValues], forward: Forward, run_of: torch.Tensor | None
) -> None:
    """Say which sizes change from forward to forward, so that nothing is compiled for one of them; one sample is always a case of its own."""
    several = [stream, forward.modulation, *itertools.chain(*attended)] if len(stream) > 1 else []
    tokens = [(stream, 1), (forward.turns, 1), *([] if run_of is None else [(run_of, 0)])]
    for tensor, dimension in [*tokens, *((each, 0) for each in several)]:
        torch._dynamo.maybe_mark_dynamic(tensor, dimension)


def _run_of(runs: list[slice], stream: torch.Tensor) -> torch.Tensor:
    """Each token's run, (S,)."""
    places = torch.arange(stream.shape[1], device=stream.device)
    return torch.stack([places >= run.start for run in runs[1:]]).sum(0)


def weights_of(block: Any) -> Weights:
    """Collect what the formula needs of a block of diffusers'."""
    own, text = block.attn1, block.attn2
    norm = getattr(block.norm2, "weight", None)
    return Weights(
        block.scale_shift_table,
        _attention(own),
        _layer(own.to_k),
        own.norm_k.weight,
        _layer(own.to_v),
        None if norm is None else (norm, block.norm2.bias),
        _attention(text),
        _layer(block.ffn.net[0].proj),
        _layer(block.ffn.net[2]),
    )


def layout_of(block: Any, stream: torch.Tensor, dtype: torch.dtype) -> Layout:
    """Tell what a block has in common with all others of its model."""
    attention = block.attn1
    kernel = attention.processor._attention_backend
    return Layout(attention.heads, block.norm1.eps, kernel, has_onednn(stream.device, dtype))


def _attention(attention: Any) -> Attention:
    return Attention(_layer(attention.to_q), attention.norm_q.weight, _layer(attention.to_out[0]))


def _layer(layer: Any) -> Layer:
    return layer.weight, layer.bias


def block(
    weights: Weights,
    layout: Layout,
    stream: torch.Tensor,
    modulation: torch.Tensor,
    run_of: torch.Tensor | None,
    turns: torch.Tensor,
    attended: list[KeysValues],
    dtype: torch.dtype,
) -> torch.Tensor:
    """What a block makes of the tokens.

    Args:
        weights: the block's.
        layout: the model's.
        stream: (B, S, D), float32
        modulation: (B, R, 6, D), of each run of tokens with one timestep
        run_of: (S,), each token's run; None where there is one
        turns: (1, S, 1, d / 2, 2), cosine and sine by a token's place
        attended: beside each other
        dtype: of products
    """
    changes = (weights.modulation + modulation).unbind(2)
    if run_of is not None:
        changes = [change[:, run_of] for change in changes]  # read where it is used, never written out
    shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = changes  # each (B, 1 or S, D)
    tokens = (_normed(stream, None, layout) * (scale + 1) + shift).to(dtype)
    stream = stream + _among_themselves(tokens, weights, layout, turns).float() * gate
    tokens = stream if weights.text_norm is None else _normed(stream, weights.text_norm, layout)
    stream = stream + _to_text(tokens.to(dtype), weights.text, layout, attended).float()
    tokens = (_normed(stream, None, layout) * (ffn_scale + 1) + ffn_shift).to(dtype)
    inner = product(tokens, weights.widen, gelu=True, by_onednn=layout.by_onednn)
    return stream + product(inner, weights.narrow, by_onednn=layout.by_onednn).float() * ffn_gate


def _normed(stream: torch.Tensor, layer: Layer | None, layout: Layout) -> torch.Tensor:
    weight, bias = (None, None) if layer is None else layer
    return functional.layer_norm(stream, stream.shape[2:], weight, bias, layout.eps)


def _among_themselves(
    tokens: torch.Tensor, weights: Weights, layout: Layout, turns: torch.Tensor
) -> torch.Tensor:
    query, key, value = (
        product(tokens, layer, by_onednn=layout.by_onednn)
        for layer in (weights.own.query, weights.key, weights.value)
    )
    query, key = (
        _turned(_rms_normed(each, norm, layout), turns).to(tokens.dtype)
        for each, norm in ((query, weights.own.query_norm), (key, weights.key_norm))
    )
    attended = attend(query, key, value.unflatten(2, (layout.heads, -1)), layout.kernel)
    return product(attended, weights.own.out, by_onednn=layout.by_onednn)


def _to_text(
    tokens: torch.Tensor, weights: Attention, layout: Layout, attended: list[KeysValues]
) -> torch.Tensor:
    query = product(tokens, weights.query, by_onednn=layout.by_onednn)
    query = _rms_normed(query, weights.query_norm, layout).to(tokens.dtype)
    found = [
        attend(query, key.transpose(1, 2), value.transpose(1, 2), layout.kernel) for key, value in attended
    ]
    both = found[0] if len(found) == 1 else found[0] + found[1]
    return product(both, weights.out, by_onednn=layout.by_onednn)


def _rms_normed(tokens: torch.Tensor, weight: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Norm queries or keys over all their heads, in float32; (B, S, D) to (B, S, heads, d)."""
    tokens = tokens.float()
    normed = tokens * torch.rsqrt(tokens.square().mean(2, keepdim=True) + layout.eps) * weight.float()
    return normed.unflatten(2, (layout.heads, -1))


def _turned(tokens: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Turn pairs of channels; complex numbers are what compilers know nothing of."""
    real, imaginary = tokens.unflatten(3, (-1, 2)).unbind(4)
    cosine, sine = turns.unbind(4)
    turned = (real * cosine - imaginary * sine, real * sine + imaginary * cosine)
    return torch.stack(turned, dim=4).flatten(3)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, kernel: Any) -> torch.Tensor:
    """Attend, each (B, S, heads, d) in any order in memory: kernels of a GPU read them as products make them; (B, S, D) again."""
    num_scores = query.shape[0] * query.shape[1] * query.shape[2] * key.shape[1]
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and num_scores <= MOST_SCORES:
        return _attend_at_once(*(part.transpose(1, 2) for part in (query, key, value)))
    attended: torch.Tensor = dispatch_attention_fn(query, key, value, backend=kernel)
    return attended.flatten(2).type_as(query)


def _attend_at_once(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    flat_query, flat_key, flat_value = (part.flatten(0, 1) for part in (query, key, value))
    scale = query.shape[3] ** -0.5
    scores = torch.baddbmm(query.new_empty(1), flat_query, flat_key.transpose(1, 2), beta=0, alpha=scale)
    attended = torch.bmm(scores.softmax(-1), flat_value)
    return attended.unflatten(0, query.shape[:2]).transpose(1, 2).flatten(2)
