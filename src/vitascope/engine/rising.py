"""The steps of one generation as its caller sees them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Generator, Iterator
from typing import Any

from vitascope.domain.step import STAGE_STARTS, Step

from .background import Turn
from .contract import Clip, Sharing

_ORDER = list(STAGE_STARTS)


class Rising:
    """The steps of one generation as its caller sees them: the stage never falls back."""

    def __init__(self, turn: Turn, sharing: Sharing | None) -> None:
        self._turn = turn
        #: Whether it waits itself for what is done beside; else whoever drives it has others to advance meanwhile.
        self.waits = sharing is None
        self._sharing = sharing or Sharing()
        self.reached = self._latest = Step("load")
        #: Whether the model works on the second pass; the steps that are done do not tell, before the first of these.
        self.is_in_second = False

    @property
    def stage(self) -> str:
        """What is being done now, also where that was done before."""
        is_denoised = self._latest.stage == "denoise" and self._latest.index == self._latest.of
        return "decode_latents" if is_denoised else self._latest.stage

    def of(self, steps: Generator[Step | None, None, Clip]) -> Generator[Step, None, Clip]:
        """Pass pauses on, but never let the stage fall back.

        The autoencoder also runs before denoising (to read a first frame) and between windows, and every window encodes
        the text again: such a pause repeats the step that was reached, so that cancelling works there too.
        """
        with self._closed_in_turn(steps):
            while True:
                try:
                    with self._turn:
                        step = next(steps)
                except StopIteration as finished:
                    clip: Clip = finished.value
                    return clip
                if step is not None and step.is_waiting:
                    yield dataclasses.replace(self.reached, is_waiting=True)
                    continue
                self._latest = step or self._latest
                if self.stage == "decode_latents":  # which costs something, and no forward follows it at once
                    self._sharing.is_answered, self._sharing.latest_group = False, None
                if step is not None and _is_ahead(step, self.reached):
                    self.reached = dataclasses.replace(step, preview=None)  # told once
                    yield step
                    continue
                if self.reached == Step("load", 1):
                    self.reached = Step("encode_prompt")  # something works, before it has said what
                yield self.reached

    @contextlib.contextmanager
    def _closed_in_turn(self, steps: Generator[Any, None, Any]) -> Iterator[None]:
        try:
            yield
        finally:
            with self._turn:
                steps.close()


def _is_ahead(step: Step, reached: Step) -> bool:
    is_early = step.stage == "decode_latents" and (reached.index < reached.of or reached.stage == "load")
    return not is_early and _place_of(step) >= _place_of(reached)


def _place_of(step: Step) -> tuple[int, float]:
    return _ORDER.index(step.stage), step.index / step.of
