"""All videos of one request, one after the other. Knows nothing of jobs."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitascope.domain.job import JobError
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import Plan
from vitascope.domain.step import Step
from vitascope.engine import Engine

from .opening import NO_GUARDS, Enhanced, Guards, opened
from .produce import NO_MARKS, Marks, Product, StageClock, produce
from .reins import Reins

if TYPE_CHECKING:
    from vitascope.media.resample import Between

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Failed:
    """A video that could not be made."""

    index: int
    error: Exception


def produce_all(
    engine: Engine,
    plan: Plan,
    spec: ModelSpec,
    outs: Sequence[Path],
    *,
    folder: str | None = None,
    between: Between = "motion",
    marks: Marks = NO_MARKS,
    guards: Guards = NO_GUARDS,
    reins: Reins | None = None,
) -> Generator[Step | Enhanced | Product | Failed, None, None]:
    """Make the videos that `plan` asks for, each as `produce` makes it from the plan with its own seed.

    One that fails keeps none of the others from being made. Closing the generator cancels; files that are complete stay.

    Args:
        engine: makes the clips.
        plan: of all.
        spec: the model's card.
        outs: the file of each.
        folder: where the storage will have them, under the same names; then pictures are made of each, too. None makes none.
        between: see `produce`.
        marks: see `produce`.
        guards: what stands around the making.
        reins: by which it is driven beside others; None where it is not.

    Yields:
        Steps that never fall back over all of it, an Enhanced if the prompt was written out, and a Product or a Failed for
        each video.
    """
    reins = reins or Reins()
    clock = StageClock(reins)
    try:
        for_all = yield from clock.over(opened(plan, spec, guards, reins))
    except Exception as error:  # noqa: BLE001  as below: nothing was made
        yield Failed(0, error)
        return
    opening = clock.stop()
    for index, out in enumerate(outs):
        key = "" if folder is None else f"{folder}/{out.name}"
        one = for_all.of_video(index)
        is_wanted = True
        try:
            with closing(
                produce(
                    engine,
                    one,
                    spec,
                    out,
                    key,
                    between,
                    marks,
                    with_pictures=folder is not None,
                    check=guards.frames,
                    reins=reins,
                )
            ) as making:
                for event in making:
                    told: Step | Product
                    if isinstance(event, Product):
                        video = dataclasses.replace(event.video, index=index)
                        told = dataclasses.replace(event, video=video, seconds={**opening, **event.seconds})
                        opening = {}
                    else:
                        told = dataclasses.replace(event, video=index, num_videos=len(outs))
                    is_wanted = False  # unless it is asked for more
                    yield told
                    is_wanted = True
        except Exception as error:
            if not is_wanted:
                logger.warning("an error while a job was given up", exc_info=error)
                return
            yield Failed(index, error)


def details_of(products: Sequence[Product], failed: Iterable[tuple[int, JobError]] = ()) -> dict[str, Any]:
    """What the job's metadata keeps of its videos, at least one of which was made: what was chosen is the same for all.

    Args:
        products: those that were made.
        failed: index of each that was not, and why.
    """
    seconds: Counter[str] = Counter()
    for product in products:
        seconds.update(product.seconds)
    details = dataclasses.replace(products[0], seconds=dict(seconds)).details()
    listed = [{"index": index, "code": error.code, "message": error.message} for index, error in failed]
    return {**details, "failed_videos": listed} if listed else details
