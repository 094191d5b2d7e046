"""Speed levels: how far a video may differ from what every step computed in full would make, for the sake of time.

`lossless` computes every forward of the denoiser. `balanced` and `fast` take some of them from those before (a step cache), where
the model's class allows it and the steps are many enough. Pure rules; `engine.step_caches` carries them out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from .choice import Choice
from .errors import InvalidParameter
from .model_spec import Mode, ModelSpec
from .request import GenerationRequest

SpeedLevel = Literal["lossless", "balanced", "fast"]
SPEED_LEVELS: tuple[SpeedLevel, ...] = get_args(SpeedLevel)

CacheKind = Literal["first_block", "taylor"]

LEAST_STEPS = 10
"""Below so many steps nothing is reused: each changes too much, and distilled models have none to spare."""


@dataclass(frozen=True, slots=True)
class StepCache:
    """When a forward of the denoiser is taken from those before it, and how."""

    level: SpeedLevel
    #: `first_block` runs the first block, and reuses what the others added where its own part has hardly changed (FBCache);
    #: `taylor` goes on with the output along its last change (TaylorSeer), in a fixed rhythm.
    kind: CacheKind
    #: Of `first_block`: relative change below which the rest is reused.
    threshold: float = 0.0
    #: Of `taylor`: of so many forwards one is computed.
    interval: int = 1
    #: Forwards in a row that may be reused.
    max_reused: int = 2
    #: Shares of the steps that are always computed: the first ones lay the picture out, the last ones sharpen it.
    first: float = 0.2
    last: float = 0.1
    #: Share of the whole time that a job is reckoned to take, until such jobs were measured.
    expected_share: float = 1.0

    def must_compute(self, step: int, num_steps: int) -> bool:
        """Tell whether a step is one of those that are never reused.

        Args:
            step: counted from 0.
            num_steps: of the pass, in one round.
        """
        return step < max(2, round(self.first * num_steps)) or step >= num_steps - max(
            1, round(self.last * num_steps)
        )

    @property
    def setting(self) -> str:
        """What decides, in a few words."""
        return f"threshold {self.threshold:g}" if self.kind == "first_block" else f"one of {self.interval}"


_FIRST_BLOCK: dict[SpeedLevel, StepCache] = {
    "balanced": StepCache("balanced", "first_block", threshold=0.08, expected_share=0.75),
    "fast": StepCache("fast", "first_block", threshold=0.15, max_reused=3, expected_share=0.6),
}
"""Source: Wan 2.1 1.3B at 480x832 in 30 steps skips 37 % of its forwards at 0.1 and 57 % at 0.2 (nano-xDiT v0.1.0); ParaAttention's
examples take 0.06 for HunyuanVideo and Mochi, SGLang's and vLLM-Omni's 0.12 with two in a row. Measured on `pocket`: docs/speed.md."""

_TAYLOR: dict[SpeedLevel, StepCache] = {
    "balanced": StepCache("balanced", "taylor", interval=2, max_reused=1, expected_share=0.7),
    "fast": StepCache("fast", "taylor", interval=3, max_reused=2, expected_share=0.55),
}
"""Source: TaylorSeer (arXiv 2503.06923) computes one of 4 to 6 for videos in 50 steps; here fewer are left out, since requests have
fewer steps too. Measured on `pocket`: docs/speed.md."""

_UNET = "its denoiser is a U-Net, which has no row of blocks to leave out"
_FRAME_BY_FRAME = "it denoises each frame by a schedule of its own"
_JUMPS = "it is distilled to a few steps, none of which resembles the one before"

_CACHES: dict[str, dict[SpeedLevel, StepCache] | str] = {
    "WanPipeline": _FIRST_BLOCK,
    "WanImageToVideoPipeline": _FIRST_BLOCK,
    "WanVideoToVideoPipeline": _FIRST_BLOCK,
    "WanVACEPipeline": _TAYLOR,  # between its blocks it adds what its control blocks say
    "AnyFlowPipeline": _JUMPS,
    "SkyReelsV2Pipeline": _TAYLOR,
    "SkyReelsV2ImageToVideoPipeline": _TAYLOR,
    "SkyReelsV2DiffusionForcingPipeline": _FRAME_BY_FRAME,
    "SkyReelsV2DiffusionForcingImageToVideoPipeline": _FRAME_BY_FRAME,
    "LTXPipeline": _FIRST_BLOCK,
    "LTXImageToVideoPipeline": _FIRST_BLOCK,
    "LTXConditionPipeline": _FIRST_BLOCK,
    "LTX2Pipeline": _TAYLOR,  # two rows of tokens, picture and sound, go through its blocks
    "LTX2ImageToVideoPipeline": _TAYLOR,
    "HunyuanVideoPipeline": _FIRST_BLOCK,
    "HunyuanVideoImageToVideoPipeline": _FIRST_BLOCK,
    "HunyuanVideo15Pipeline": _TAYLOR,
    "HunyuanVideo15ImageToVideoPipeline": _TAYLOR,
    "CogVideoXPipeline": _FIRST_BLOCK,
    "CogVideoXImageToVideoPipeline": _FIRST_BLOCK,
    "CogVideoXVideoToVideoPipeline": _FIRST_BLOCK,
    "MochiPipeline": _FIRST_BLOCK,
    "AllegroPipeline": _TAYLOR,
    "LattePipeline": _TAYLOR,  # blocks over space and over time take turns, and their tokens are laid out otherwise
    "CosmosTextToWorldPipeline": _TAYLOR,
    "CosmosVideoToWorldPipeline": _TAYLOR,
    "Cosmos2VideoToWorldPipeline": _TAYLOR,
    "SanaVideoPipeline": _TAYLOR,
    "SanaImageToVideoPipeline": _TAYLOR,
    "Kandinsky5T2VPipeline": _TAYLOR,
    "Kandinsky5I2VPipeline": _TAYLOR,
    "AnimateDiffPipeline": _UNET,
    "AnimateDiffVideoToVideoPipeline": _UNET,
    "TextToVideoSDPipeline": _UNET,
    "VideoToVideoSDPipeline": _UNET,
    "StableVideoDiffusionPipeline": _UNET,
}
"""By pipeline class what each level does, or why nothing can be reused."""


def check_level(asked: str) -> SpeedLevel:
    """Read a level.

    Raises:
        InvalidParameter: there is no such level.
    """
    for level in SPEED_LEVELS:
        if asked == level:
            return level
    rule = f"it must be one of {', '.join(SPEED_LEVELS)}"
    raise InvalidParameter("speed", asked, rule, nearest="lossless")


def settled(request: GenerationRequest, operators: SpeedLevel) -> GenerationRequest:
    """Fill in the operator's level where a request names none."""
    if request.speed is not None or operators == "lossless":
        return request
    return dataclasses.replace(request, speed=operators)


def step_cache_of(
    asked: str | None, spec: ModelSpec, modes: Iterable[Mode], num_steps: int
) -> tuple[StepCache | None, tuple[Choice, ...]]:
    """Choose what a request's level does.

    Args:
        asked: the level; None is lossless, without a word.
        spec: of the model.
        modes: what its windows start from.
        num_steps: that run in each of them, in one round.

    Raises:
        InvalidParameter: there is no such level.
    """
    if asked is None:
        return None, ()
    level = check_level(asked)
    if level == "lossless":
        return None, (Choice("speed", level, "every step is computed in full"),)
    if num_steps < LEAST_STEPS:
        reason = f"not {level}: of fewer than {LEAST_STEPS} steps none can be left out, and {num_steps} run"
        return None, (Choice("speed", "lossless", reason),)
    caches = [_CACHES.get(spec.pipelines[mode], _unknown(spec.pipelines[mode])) for mode in modes]
    for found in caches:
        if isinstance(found, str):
            return None, (Choice("speed", "lossless", f"not {level}: {found}"),)
    cache = next(found[level] for found in caches if not isinstance(found, str))
    return cache, (Choice("speed", level, f"{_HOW[cache.kind]}, {cache.setting}"),)


_HOW: dict[CacheKind, str] = {
    "first_block": "where the model's first block says that little changes, a step reuses what the others added before",
    "taylor": "some steps go on along the last change of what the model gave",
}


def _unknown(pipeline: str) -> str:
    return f"nobody has tried it with `{pipeline}`"
