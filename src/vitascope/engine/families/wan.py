"""Wan's denoiser computed directly: the same numbers as diffusers' `WanTransformer3DModel`, over the same weights, in less time.

What diffusers does anew at each step is done once: the rotary tables for a shape, the keys and values of the text for a branch of
guidance. Where all tokens, or all of a few runs of them, have one timestep (Wan 2.2 TI2V gives one for each token) it is embedded
once and not for each token. Norms with their modulation are one kernel, the residual stays in float32 between them, and on a CPU
oneDNN multiplies, with the activation in the same kernel, and several calls are computed beside each other (docs/experiments.md).

Source: diffusers 0.42, models/transformers/transformer_wan.py (Apache-2.0).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from vitascope.engine.calls import LATENTS, Call
from vitascope.engine.products import come, linear
from vitascope.engine.side_by_side import cut, side_by_side

from . import wan_block
from .wan_block import CompiledBlocks, KeysValues, attend

CLASS = "WanTransformer3DModel"

TEXT_CONTEXT = 512
"""Of what is attended to in models that see a picture, the last so many are the text's: diffusers has the number so."""

DEVICES = ("cpu", "cuda")
"""Kinds on which it was tried."""

MOST_RUNS = 4
"""Runs of tokens with one timestep: a given first frame makes two."""

MOST_SHAPES = 4
"""Rotary tables that are kept."""

MOST_BESIDE = 2e10
"""Products of tokens and weights of a forward whose calls are computed beside each other: some half a second on two cores. What takes
longer is cut among cores as well, and there may be a cancel between its blocks."""

TEXT_SHARE = 1 / 20
"""Keys and values of a text are kept if it has so many tokens for each of the video's: else they save little, and take memory."""


def why_not(module: Any) -> str | None:
    """Say what keeps a denoiser from being computed here; None if nothing does."""
    if type(module).__name__ != CLASS:
        return f"`{type(module).__name__}` is computed by diffusers"
    kind = next(module.parameters()).device.type
    if kind not in (*DEVICES, "meta"):  # weights that wait elsewhere tell nothing
        return f"on {kind} diffusers computes it"
    parts: list[Any] = list(module.modules())[1:]
    if any(map(_is_changed, parts)):
        return "its blocks are compiled, or something else changes what they do"
    if any(getattr(getattr(part, "processor", None), "_parallel_config", None) for part in parts):
        return "several devices work on it"
    return None


def _is_changed(part: Any) -> bool:
    """Whether a part does other than its class says. What brings or adapts layers is told by hooks, which work here too."""
    is_replaced = "forward" in vars(part) or part._compiled_call_impl is not None
    is_fused = getattr(part, "fused_projections", False)
    is_listened_to = bool(part._forward_hooks) and not isinstance(part, torch.nn.Linear | torch.nn.Conv3d)
    has_others = part._forward_pre_hooks_with_kwargs or part._forward_hooks_with_kwargs
    return bool(is_replaced or is_fused or is_listened_to or has_others)


class Wan:
    """The forward of one denoiser.

    Args:
        module: as `why_not` wants it.
        shared: of all slots with its weights.
        compiled: computes its blocks, as long as it can.
    """

    def __init__(self, module: Any, shared: dict[str, Any], compiled: CompiledBlocks | None = None) -> None:
        self._module = module
        self._compiled = compiled
        self._tables: dict[object, torch.Tensor] = shared.setdefault("wan_rotary_tables", {})
        self._patch: tuple[int, int, int] = tuple(module.config.patch_size)
        self._num_weights = sum(parameter.numel() for parameter in module.parameters())
        #: Layers that something listens to do more than to compute, for one call after the other.
        self._is_plain = not any(part._forward_hooks for part in module.modules())

    def __call__(self, calls: Sequence[Call]) -> list[torch.Tensor] | None:
        """Answer several calls of one kind at once; None if they are of a kind that is diffusers' to answer."""
        has_other = any(value is not None for name, value in calls[0].rest.items() if name != "return_dict")
        if has_other or calls[0].rows[LATENTS].device.type not in DEVICES:
            return None
        timestep = torch.cat([call.rows["timestep"] for call in calls])
        runs = _runs(timestep)
        if len(runs) > MOST_RUNS:
            return None
        if not self._has_beside(calls):
            return self._answers(runs, calls)
        self._table(self._grid(calls[0].rows[LATENTS]), calls[0].rows[LATENTS].device)  # once for all parts
        answers = side_by_side(functools.partial(self._answers, runs), cut(calls))
        return list(itertools.chain(*answers))

    def _has_beside(self, calls: Sequence[Call]) -> bool:
        """Whether these calls are small, and nothing is kept or brought on the way that they would get into each other's hands."""
        module, latents = self._module, calls[0].rows[LATENTS]
        if latents.device.type != "cpu" or self._compiled is not None or not self._is_plain:
            return False
        if hasattr(module, "_hf_hook") or getattr(module, "first_block_cache", None) is not None:
            return False
        num_samples = sum(call.num_samples for call in calls)
        work: float = num_samples * math.prod(self._grid(latents)) * self._num_weights
        return work <= MOST_BESIDE

    def _answers(self, runs: list[slice], calls: Sequence[Call]) -> list[torch.Tensor]:
        """Answer calls whose tokens have one timestep in each of these runs, in one forward."""
        latents, timestep = (torch.cat([call.rows[name] for call in calls]) for name in (LATENTS, "timestep"))
        answer = self._forward(latents, _at_runs(timestep, runs), runs, calls)
        return list(answer.split([call.num_samples for call in calls]))

    def _forward(
        self, latents: torch.Tensor, times: torch.Tensor, runs: list[slice], calls: Sequence[Call]
    ) -> torch.Tensor:
        """One forward.

        Args:
            latents: (B, C, T, H, W)
            times: (B, R), of each run of tokens
            runs: of tokens, which have one timestep each
            calls: whose conditions are attended to
        """
        module = self._module
        if hasattr(module, "_hf_hook"):  # brings weights that wait elsewhere
            module._hf_hook.pre_forward(module)
        grid = self._grid(latents)
        # no view of something else: a compiler tells these apart
        stream = self._patches(latents, grid).to(torch.float32, copy=True)  # (B, S, D)
        first = calls[0].branch.conditions["encoder_hidden_states"]
        embedded, modulation = self._embedded_times(times, first)  # (B, R, D), (B, R, 6, D)
        table = self._table(grid, latents.device)
        texts = [self._text(call, stream.shape[1]) for call in calls]
        cache = getattr(module, "first_block_cache", None)  # see `step_caches`
        before = None if cache is None else stream.clone()
        forward = wan_block.Forward(modulation, runs, table, latents.dtype)
        for index, block in enumerate(module.blocks):
            come(block)
            attended = self._attended(texts, index)
            made = None if self._compiled is None else self._compiled(index, stream, attended, forward)
            if made is not None:
                stream = made
            else:
                self._block(block, stream, attended, forward)
            if cache is not None and index == 0 and cache.reuses(calls, before, stream):
                break
        else:
            if cache is not None:
                cache.keep(stream)
        shift, scale = (module.scale_shift_table + embedded.unsqueeze(2)).float().unbind(2)
        normed = _modulated(stream, scale + 1, shift, runs, module.norm_out.eps, latents.dtype)
        return self._whole(linear(normed, module.proj_out), grid)

    def _grid(self, latents: torch.Tensor) -> tuple[int, int, int]:
        """Tell how many tokens there are along time, height and width."""
        (t, h, w), (frames, height, width) = self._patch, latents.shape[2:]
        return frames // t, height // h, width // w

    def _patches(self, latents: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
        """Make tokens of latents: a convolution whose kernels do not overlap is a product with what each covers."""
        layer = self._module.patch_embedding
        if layer._forward_hooks:  # an adapter's, which convolves too
            tokens: torch.Tensor = layer(latents)
            return tokens.flatten(2).transpose(1, 2).contiguous()
        (t, h, w) = self._patch
        cut = latents.unflatten(4, (-1, w)).unflatten(3, (-1, h)).unflatten(2, (-1, t))
        cut = cut.permute(0, 2, 4, 6, 1, 3, 5, 7)  # (B, T', H', W', C, t, h, w)
        return linear(cut.reshape(len(latents), grid[0] * grid[1] * grid[2], -1), layer)

    def _whole(self, tokens: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
        whole = tokens.reshape(len(tokens), *grid, *self._patch, -1).permute(0, 7, 1, 4, 2, 5, 3, 6)
        return whole.flatten(6, 7).flatten(4, 5).flatten(2, 3)

    def _embedded_times(self, times: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        embedder = self._module.condition_embedder
        numbers = embedder.timesteps_proj(times.flatten())
        dtype = embedder.time_embedder.linear_1.weight.dtype
        numbers = numbers.to(dtype) if dtype.is_floating_point else numbers  # else it is kept in bytes
        embedded = embedder.time_embedder(numbers).type_as(like)
        modulation = embedder.time_proj(embedder.act_fn(embedded))
        modulation = modulation.view(*times.shape, 6, -1)
        return embedded.unflatten(0, times.shape), modulation.to(torch.float32, copy=True)

    def _table(self, grid: tuple[int, int, int], device: torch.device) -> torch.Tensor:
        """The turns of a token's pairs of channels by its place, cosine and sine, (1, S, 1, d / 2, 2)."""
        found = self._tables.get((grid, device))
        if found is None:
            size = [length * patch for length, patch in zip(grid, self._patch, strict=True)]
            cosines, sines = self._module.rope(torch.empty(1, 1, *size, device=device))
            found = torch.stack([cosines[..., 0::2].float(), sines[..., 1::2].float()], dim=-1)
            while len(self._tables) >= MOST_SHAPES:
                del self._tables[next(iter(self._tables))]
            self._tables[grid, device] = found
        return found

    def _text(self, call: Call, num_tokens: int) -> _Text:
        kept = call.branch.kept.get("text")
        if isinstance(kept, _Text):
            return kept
        conditions = call.branch.conditions
        embedder = self._module.condition_embedder
        text = embedder.text_embedder(conditions["encoder_hidden_states"])
        if "encoder_hidden_states_image" in conditions:
            image = embedder.image_embedder(conditions["encoder_hidden_states_image"])
            text = torch.cat([image, text], dim=1)
        found = _Text(text, is_worth_keeping=text.shape[1] >= TEXT_SHARE * num_tokens)
        call.branch.kept["text"] = found
        return found

    def _attended(self, texts: list[_Text], index: int) -> list[KeysValues]:
        """What a block's tokens attend to beside each other: the text, and a picture where the model sees one."""
        attention = self._module.blocks[index].attn2
        found = [text.keys_values(attention, index) for text in texts]
        if len(found) == 1:
            return found[0]
        return [
            (torch.cat([key for key, _ in parts]), torch.cat([value for _, value in parts]))
            for parts in zip(*found, strict=True)
        ]

    def _block(
        self,
        block: Any,
        stream: torch.Tensor,
        attended: list[KeysValues],
        forward: wan_block.Forward,
    ) -> None:
        """Add what a block says to the stream, in place."""
        runs, dtype = forward.runs, forward.dtype
        changes = (block.scale_shift_table + forward.modulation).unbind(2)
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = changes  # each (B, R, D)
        normed = _modulated(stream, scale + 1, shift, runs, block.norm1.eps, dtype)
        _add(stream, _self_attention(block.attn1, normed, forward.turns), gate, runs)
        stream += _cross_attention(block.attn2, block.norm2(stream).to(dtype), attended)
        normed = _modulated(stream, ffn_scale + 1, ffn_shift, runs, block.norm3.eps, dtype)
        inner = linear(normed, block.ffn.net[0].proj, gelu=True)
        _add(stream, linear(inner, block.ffn.net[2]), ffn_gate, runs)


class _Text:
    """What is attended to in one branch, with its keys and values in each block.

    Args:
        embedded: (B, L, D)
    """

    def __init__(self, embedded: torch.Tensor, *, is_worth_keeping: bool) -> None:
        self._embedded = embedded
        self._is_worth_keeping = is_worth_keeping
        self._kept: dict[int, list[KeysValues]] = {}

    def keys_values(self, attention: Any, index: int) -> list[KeysValues]:
        found = self._kept.get(index)
        if found is None:
            found = self._made(attention)
            if self._is_worth_keeping:
                self._kept[index] = found
        return found

    def _made(self, attention: Any) -> list[KeysValues]:
        text, image = self._embedded, None
        if attention.add_k_proj is not None:
            image, text = text[:, : text.shape[1] - TEXT_CONTEXT], text[:, text.shape[1] - TEXT_CONTEXT :]
        found = [_keys_values(text, attention, attention.to_k, attention.norm_k, attention.to_v)]
        if image is not None:
            layers = (attention.add_k_proj, attention.norm_added_k, attention.add_v_proj)
            found.append(_keys_values(image, attention, *layers))
        return found


def _keys_values(tokens: torch.Tensor, attention: Any, to_key: Any, norm: Any, to_value: Any) -> KeysValues:
    key = _in_heads(_rms_normed(linear(tokens, to_key), norm), attention)
    value = _in_heads(linear(tokens, to_value), attention)
    # in one order in memory, always: a compiler tells others apart
    return _by_head(key, tokens.dtype).contiguous(), _by_head(value, tokens.dtype).contiguous()


def _runs(timestep: torch.Tensor) -> list[slice]:
    """Find the runs of tokens that have one timestep in every sample, (B,) or (B, S)."""
    if timestep.ndim == 1:
        return [slice(None)]
    changes = (timestep[:, 1:] != timestep[:, :-1]).any(0).nonzero().flatten().tolist()
    ends = [0, *(change + 1 for change in changes), timestep.shape[1]]
    return [slice(begin, end) for begin, end in itertools.pairwise(ends)]


def for_diffusers(arguments: dict[str, Any]) -> dict[str, Any]:
    """Change the arguments of a call of diffusers' own forward, so that it computes the same with less.

    One timestep for each token, all of a sample alike, as Wan 2.2 TI2V is given for a text, makes six modulations for each
    token in each block.
    """
    timestep = arguments["timestep"]
    if timestep.ndim == 1 or len(_runs(timestep)) > 1:
        return arguments
    return {**arguments, "timestep": timestep[:, 0]}


def _at_runs(timestep: torch.Tensor, runs: list[slice]) -> torch.Tensor:
    """The timestep of each run, (B, R)."""
    return timestep[:, None] if timestep.ndim == 1 else timestep[:, [run.start for run in runs]]


def _modulated(
    stream: torch.Tensor,
    scale: torch.Tensor,
    shift: torch.Tensor,
    runs: list[slice],
    eps: float,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Norm tokens, and scale and shift them by sample and run.

    On a CPU that is one kernel for each of these, a norm with weights of its own; a GPU would wait for so many small ones.
    """
    normed = torch.empty(stream.shape, dtype=dtype, device=stream.device)
    if stream.device.type == "cpu":
        for sample, (at, run) in itertools.product(range(len(stream)), enumerate(runs)):
            weight, bias = scale[sample, at], shift[sample, at]
            normed[sample, run] = functional.layer_norm(stream[sample, run], weight.shape, weight, bias, eps)
        return normed
    return _modulated_at_once(
        functional.layer_norm(stream, stream.shape[2:], eps=eps), scale, shift, runs, normed
    )


def _modulated_at_once(
    plain: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, runs: list[slice], out: torch.Tensor
) -> torch.Tensor:
    for at, run in enumerate(runs):
        out[:, run] = torch.addcmul(shift[:, at : at + 1], plain[:, run], scale[:, at : at + 1])
    return out


def _add(stream: torch.Tensor, change: torch.Tensor, gate: torch.Tensor, runs: list[slice]) -> None:
    for at, run in enumerate(runs):
        stream[:, run].addcmul_(change[:, run], gate[:, at : at + 1])


def _self_attention(attention: Any, tokens: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    query, key = (
        _by_head(_turned(_rms_normed(linear(tokens, layer), norm), attention, table), tokens.dtype)
        for layer, norm in ((attention.to_q, attention.norm_q), (attention.to_k, attention.norm_k))
    )
    value = _by_head(_in_heads(linear(tokens, attention.to_v), attention), tokens.dtype)
    return linear(_attend(query, key, value, attention), attention.to_out[0])


def _cross_attention(attention: Any, tokens: torch.Tensor, attended: list[KeysValues]) -> torch.Tensor:
    query = _rms_normed(linear(tokens, attention.to_q), attention.norm_q)
    query = _by_head(_in_heads(query, attention), tokens.dtype)
    found = [_attend(query, key, value, attention) for key, value in attended]
    return linear(found[0] if len(found) == 1 else found[0] + found[1], attention.to_out[0])


def _rms_normed(tokens: torch.Tensor, norm: Any) -> torch.Tensor:
    """Norm queries or keys, which are this function's to change, in float32: torch has no one kernel for it on a CPU."""
    come(norm)
    if tokens.device.type != "cpu":
        return functional.rms_norm(tokens, norm.normalized_shape, norm.weight, norm.eps).float()
    tokens = tokens.float()
    length = torch.linalg.vector_norm(tokens, dim=2, keepdim=True)
    factor = torch.rsqrt(length.square_().div_(tokens.shape[2]).add_(norm.eps))
    return tokens.mul_(factor).mul_(norm.weight.float())


def _in_heads(tokens: torch.Tensor, attention: Any) -> torch.Tensor:
    """(B, S, D) to (B, S, heads, d)."""
    return tokens.unflatten(2, (attention.heads, -1))


def _by_head(tokens: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(B, S, heads, d) to (B, heads, S, d), in one copy."""
    return tokens.transpose(1, 2).to(dtype, memory_format=torch.contiguous_format)


def _turned(tokens: torch.Tensor, attention: Any, table: torch.Tensor) -> torch.Tensor:
    """Turn the pairs of channels of queries or keys by their tokens' places, (B, S, heads, d)."""
    pairs = tokens.unflatten(2, (attention.heads, -1, 2))
    return torch.view_as_real(torch.view_as_complex(pairs).mul_(torch.view_as_complex(table))).flatten(3)


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention: Any) -> torch.Tensor:
    """Attend, (B, heads, S, d) to (B, S, D)."""
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    return attend(query, key, value, attention.processor._attention_backend)
