"""An engine without a model: the same contract, a test pattern instead of a picture."""

from __future__ import annotations

import contextlib
import hashlib
import io
import time
from collections.abc import Generator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from vitascope.domain.choice import Choice
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import Plan
from vitascope.domain.residency import Residency
from vitascope.domain.step import Step

from .contract import NO_INPUTS, Clip, Inputs, Sharing
from .places import Places
from .residence import GB, Residence

if TYPE_CHECKING:
    from .contract import Frames


class FakeEngine:
    """Draws a moving test pattern that depends on prompt and seed only, at a set pace.

    For client developers, load tests and the tests of every room above: no weights, no torch.

    Args:
        step_seconds: how long one denoising step takes.
        slots: generations that may be open at the same time.
        memory_gb: what models may take, each of which counts as 1 GB; 0 sets no bound.
    """

    def __init__(self, step_seconds: float = 0.0, slots: int = 4, memory_gb: float = 0.0) -> None:
        self.step_seconds = step_seconds
        self._places = Places(slots)
        self._residence = Residence(_NoModels(round(memory_gb * GB)))

    runs_on_cpu = True

    @property
    def device(self) -> str:
        return f"fake {self.step_seconds:g} s a step"

    @property
    def loaded_models(self) -> tuple[str, ...]:
        return self._residence.ids

    @property
    def residency(self) -> Residency:
        return self._residence.state()

    def capacity(self, spec: ModelSpec) -> int:
        return self._residence.room_for(spec, self._places.free)

    def generate(
        self, plan: Plan, spec: ModelSpec, inputs: Inputs = NO_INPUTS, sharing: Sharing | None = None
    ) -> Generator[Step | Clip, None, None]:
        with self._places.take(spec.id), self._residence.use(spec):
            if sharing is not None:
                sharing.settled = {"pattern": dict(plan.settled).get("pattern", "stripes")}
            yield Step("load", 1)
            yield Step("encode_prompt", 1)
            yield Step("denoise", 0, plan.total_steps)
            for index in range(plan.total_steps):
                time.sleep(self.step_seconds)
                done = index + 1
                is_shown = plan.preview_every and done % plan.preview_every == 0
                yield Step("denoise", done, plan.total_steps, _preview(plan, done) if is_shown else None)
            yield Step("decode_latents")
            frames = _enlarged(_started_from(inputs, _pattern(plan), plan), plan)
        reason = "the server runs with --engine fake: no model is loaded"
        yield Clip(frames, (Choice("engine", "fake", reason),))

    def load(self, spec: ModelSpec) -> None:
        with self._places.take(spec.id):
            self._residence.bring(spec)

    def prepare(self, spec: ModelSpec) -> bool:
        if not self._residence.reserve(spec):
            return False
        self._residence.bring_ahead(spec)
        return True

    def unload(self, model_id: str) -> bool:
        return self._residence.evict(model_id)

    def aside(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def clear_caches(self) -> None:
        """Nothing is held."""

    def close(self) -> None:
        self._places.require_idle("unload")
        self._residence.clear()


class _NoModels:
    """Models that are nothing but a size.

    Args:
        budget_bytes: what they may take; 0 sets no bound.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes or None

    def free_bytes(self, _weights_bytes: int) -> int:
        return 10**6 * GB

    def estimate(self, _spec: ModelSpec) -> int:
        return GB

    def guess_work(self, _spec: ModelSpec, _weights_bytes: int) -> int:
        return 0

    def load(self, _spec: ModelSpec) -> None:
        """There is nothing to load."""

    def weigh(self, _model: None) -> int:
        return GB

    def reclaim(self) -> None:
        """There is nothing to give back."""


def _started_from(inputs: Inputs, frames: Frames, plan: Plan) -> Frames:
    """Put what was given where a model would."""
    if inputs.image is not None:
        frames[0] = inputs.image
    if inputs.last_image is not None:
        frames[-1] = inputs.last_image
    if inputs.video is not None and plan.strength is not None:
        frames = (inputs.video * (1 - plan.strength) + frames * plan.strength).astype(np.uint8)
    return frames


def _enlarged(frames: Frames, plan: Plan) -> Frames:
    """Resize frames where a second pass would make them anew."""
    if plan.upscale is None:
        return frames
    size = (plan.made.width, plan.made.height)
    return np.stack([np.asarray(Image.fromarray(frame).resize(size)) for frame in frames])


def _preview(plan: Plan, num_steps: int) -> bytes:
    """The first frame in small, coming out of grey."""
    small = Image.fromarray(_pattern(plan)[0])
    small.thumbnail((128, 128))
    share = num_steps / plan.total_steps
    file = io.BytesIO()
    small.point(lambda value: 128 + (value - 128) * share).save(file, "WEBP", quality=50)
    return file.getvalue()


def _pattern(plan: Plan) -> Frames:
    """Diagonal stripes in two colours of the prompt and the seed, moving one sixteenth of their period a frame."""
    digest = hashlib.sha256(f"{plan.prompt}\0{plan.seed}".encode()).digest()
    colours = np.frombuffer(digest[:6], np.uint8).reshape(2, 3)
    period = max(8, plan.native_height // 4)
    diagonal = np.add.outer(np.arange(plan.native_height), np.arange(plan.native_width))
    frames = np.empty((plan.native_num_frames, plan.native_height, plan.native_width, 3), np.uint8)
    for index, frame in enumerate(frames):
        frame[:] = colours[(diagonal + index * max(1, period // 16)) // (period // 2) % 2]
    return frames
