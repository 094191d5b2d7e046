"""What improved sampling may be asked for, and of which models."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

from .choice import Choice
from .errors import InvalidParameter
from .model_spec import Mode, ModelSpec
from .request import MAX_SEED, GenerationRequest, ImprovedSampling

DEFAULT_ITERATIONS = 5
"""As many rounds as FreeInit's authors use; they recommend three to five (arXiv 2312.07537)."""

MAX_ITERATIONS = 10

_FRAME_BY_FRAME = (
    "denoises each frame by a schedule of its own, so that no step has the frequencies of the whole clip"
)
_JUMPS = "jumps from each step to a noise level that it is told of, which it must not leave for another round"
_NOT_OF = {
    "AnyFlowPipeline": _JUMPS,
    "SkyReelsV2DiffusionForcingPipeline": _FRAME_BY_FRAME,
    "SkyReelsV2DiffusionForcingImageToVideoPipeline": _FRAME_BY_FRAME,
}
"""Pipeline classes that cannot do it, and why; all others can (tests/engine/test_improved_sampling.py runs them)."""


def drawn(request: GenerationRequest, iterations: int, draw: Callable[[], int]) -> GenerationRequest:
    """Fill in what improved sampling was not asked for explicitly: a seed of its own, and the operator's number of rounds."""
    wanted = request.improved_sampling
    if wanted is None:
        return request
    seed = draw() if wanted.seed is None else wanted.seed
    rounds = iterations if wanted.iterations is None else wanted.iterations
    return dataclasses.replace(request, improved_sampling=ImprovedSampling(seed=seed, iterations=rounds))


def improved_sampling_of(
    request: GenerationRequest, spec: ModelSpec, modes: Iterable[Mode], steps: int
) -> tuple[ImprovedSampling | None, tuple[Choice, ...]]:
    """Tell how a request's passes are repeated.

    Args:
        request: with what `drawn` filled in.
        spec: of its model.
        modes: what its windows start from.
        steps: of one round.

    Raises:
        InvalidParameter: it cannot be done, or not with this seed.
    """
    wanted = request.improved_sampling
    if wanted is None:
        return None, ()
    if wanted.seed is None or wanted.iterations is None:
        message = (
            "plan() needs improved sampling's seed and rounds: `drawn` fills them in where the request enters"
        )
        raise ValueError(message)
    _check_model(spec, set(modes))
    if not 0 <= wanted.seed <= MAX_SEED:
        nearest = min(max(wanted.seed, 0), MAX_SEED)
        rule = f"it must be from 0 to {MAX_SEED}"
        raise InvalidParameter("improved_sampling.seed", wanted.seed, rule, nearest=nearest)
    reason = "each round begins from the low frequencies of what the one before made: as often as this server is set to"
    value = f"{wanted.iterations} rounds of {steps} steps"
    return wanted, (Choice("improved_sampling", value, reason),)


def _check_model(spec: ModelSpec, modes: set[Mode]) -> None:
    if "video" in modes:
        rule = "a video that is changed starts from its own frames and not from noise alone, which is what this improves"
        raise InvalidParameter("improved_sampling", "given", rule, hint="leave it out")
    for mode in modes:
        reason = _NOT_OF.get(spec.pipelines[mode])
        if reason is not None:
            rule = f"model `{spec.id}` {reason}"
            raise InvalidParameter("improved_sampling", "given", rule, hint="leave it out")
