"""What comes before the making of a job's videos, once for all of them: pictures are looked at, the prompt is written out. Knows nothing of jobs."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vitascope.domain.choice import Choice
from vitascope.domain.marks import OPERATORS_IMAGE
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import Plan
from vitascope.domain.prompting import ENHANCE, texts_of, with_texts
from vitascope.domain.step import Step

from .aside import Aside
from .reins import Reins

if TYPE_CHECKING:
    from vitascope.moderation import FrameCheck
    from vitascope.prompting import Enhancer


@dataclass(frozen=True, slots=True)
class Guards:
    """What stands around the making on this machine; None where the operator has not set it up."""

    enhancer: Enhancer | None = None
    frames: FrameCheck | None = None


NO_GUARDS = Guards()


@dataclass(frozen=True, slots=True)
class Enhanced:
    """What the model reads in the place of the texts that were sent: worth keeping, as a second try need not ask again."""

    texts: tuple[str, ...]


def opened(
    plan: Plan, spec: ModelSpec, guards: Guards, reins: Reins | None = None
) -> Generator[Step | Enhanced, None, Plan]:
    """Do what comes before the making; returns the plan that is made then. Closing the generator cancels.

    Yields:
        Steps, and an Enhanced if the prompt was written out.

    Raises:
        ContentRejected: what was sent is not allowed.
        GenerationError: it cannot be read.
    """
    reins = reins or Reins()
    if guards.frames is not None:
        yield from _checked(plan, guards.frames, reins)
        plan = dataclasses.replace(plan, preview_every=0)  # nobody would have looked at them
    if plan.enhance_prompt:
        plan = yield from _enhanced(plan, spec, guards.enhancer, waits=reins.wake is None)
    return plan


def _checked(plan: Plan, check: FrameCheck, reins: Reins) -> Generator[Step, None, None]:
    """Look at all pictures and videos that the job starts from."""
    if not _is_given(plan):
        return
    from vitascope import media

    from . import given

    yield Step("check_inputs")
    reading = Aside(lambda: given.read_inputs(plan), "read-inputs")
    inputs = yield from reading.over(reins, lambda: Step("check_inputs"))
    pictures = {"image": inputs.image, "last_image": inputs.last_image}
    pictures |= {f"references[{index}]": picture for index, picture in enumerate(inputs.references)}
    mark = plan.watermark and plan.watermark.image
    if mark and mark != OPERATORS_IMAGE:
        pictures["watermark.image"] = media.read_image(Path(mark))
    for name, picture in pictures.items():
        if picture is not None:
            check.check_picture(name, picture)
            yield Step("check_inputs")
    if inputs.video is not None:
        for _ in check.check("video", inputs.video, plan.native_fps):
            yield Step("check_inputs")
    if plan.continues is not None:
        for _ in check.check_stream("continues", given.continued_frames(plan, plan.continues), plan.fps):
            yield Step("check_inputs")


def _is_given(plan: Plan) -> bool:
    mark = plan.watermark and plan.watermark.image
    starts = (plan.image, plan.last_image, plan.video, plan.continues, *plan.references)
    return any(starts) or bool(mark and mark != OPERATORS_IMAGE)


def _enhanced(
    plan: Plan, spec: ModelSpec, enhancer: Enhancer | None, *, waits: bool
) -> Generator[Step | Enhanced, None, Plan]:
    texts = plan.enhanced_prompts
    if len(texts) == len(texts_of(plan)):
        choice = Choice(ENHANCE, "on", "as it was written out for an earlier try")
    elif enhancer is None:
        reason = "there is no language model where the video is made: the prompt is used as it was sent"
        return _with_choice(plan, Choice(ENHANCE, "off", reason))
    else:
        outcome = yield from enhancer.enhance(plan, _max_tokens(spec), waits=waits)
        texts, choice = outcome.texts, outcome.choice
    if texts:
        yield Enhanced(texts)
        plan = with_texts(plan, texts)
    return _with_choice(plan, choice)


def _max_tokens(spec: ModelSpec) -> int | None:
    limit = spec.call.get("max_sequence_length")
    return limit if isinstance(limit, int) else None


def _with_choice(plan: Plan, choice: Choice) -> Plan:
    return dataclasses.replace(plan, choices=(*plan.choices, choice))
