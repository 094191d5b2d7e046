"""Whether a prompt is written out before its video is made, and which texts of a plan that concerns."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from .choice import Choice
from .model_spec import ModelSpec
from .plan import Plan
from .request import GenerationRequest

ENHANCE = "enhance_prompt"
"""Name of the choices that tell what became of it."""


@dataclass(frozen=True, slots=True)
class PromptRules:
    """What the operator has set."""

    #: Whether there is a language model at all.
    is_there: bool = False
    #: For requests that do not say.
    by_default: bool = False


NO_PROMPT_RULES = PromptRules()


def settled(
    request: GenerationRequest, spec: ModelSpec, rules: PromptRules
) -> tuple[GenerationRequest, tuple[Choice, ...]]:
    """Decide whether a request's prompt is enhanced; where it asks for that in vain, say why."""
    asked = request.enhance_prompt
    wanted = rules.by_default if asked is None else asked
    reason = None
    if request.enhanced_prompts and wanted:
        return request, ()  # made again: what was written is there, whoever wrote it
    if not rules.is_there:
        reason = "this server has no language model for it: the prompt is used as it was sent"
    elif not spec.takes_prompt:
        reason = f"model `{spec.id}` reads no prompt"
    if asked is not None or wanted:
        request = dataclasses.replace(request, enhance_prompt=wanted and reason is None)
    return request, (Choice(ENHANCE, "off", reason),) if asked and reason else ()


def texts_of(plan: Plan) -> tuple[str, ...]:
    """Return what the model reads in the plan's windows: each text once, in their order."""
    return tuple(dict.fromkeys(window.prompt or plan.prompt for window in plan.windows))


def with_texts(plan: Plan, texts: Sequence[str]) -> Plan:
    """Return the plan with others in the place of `texts_of(plan)`."""
    new = dict(zip(texts_of(plan), texts, strict=True))
    windows = tuple(
        dataclasses.replace(window, prompt=new[window.prompt]) if window.prompt else window
        for window in plan.windows
    )
    return dataclasses.replace(plan, prompt=new.get(plan.prompt, plan.prompt), windows=windows)
