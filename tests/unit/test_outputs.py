"""The videos of one request: what ends one of them, and what ends all."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from vitascope.domain.errors import OutOfMemory
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import plan
from vitascope.domain.request import GenerationRequest
from vitascope.engine.fake import FakeEngine
from vitascope.worker.outputs import Failed, produce_all
from vitascope.worker.produce import Product


class FailsAtItsEnd(FakeEngine):
    """Meets an error where it is given up, as a pipeline may that frees what it has."""

    def generate(self, *given: Any) -> Generator[Any, None, None]:
        try:
            yield from super().generate(*given)
        except GeneratorExit:
            raise OutOfMemory("no memory to free memory") from None


class FailsOnce(FakeEngine):
    num_begun = 0

    def generate(self, *given: Any) -> Generator[Any, None, None]:
        self.num_begun += 1
        if self.num_begun == 1:
            raise OutOfMemory("no memory")
        yield from super().generate(*given)


def test_an_error_of_what_is_given_up_is_only_logged(
    small_spec: ModelSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Who closes a making wants nothing more of it: neither another video nor an error, which would end the engine's process."""
    planned = plan(GenerationRequest(prompt="a", model="small", seed=1, num_videos=2), small_spec)
    making = produce_all(FailsAtItsEnd(), planned, small_spec, [tmp_path / "a.mp4", tmp_path / "b.mp4"])
    next(making)
    making.close()
    assert "no memory to free memory" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_one_that_fails_keeps_none_of_the_others_from_being_made(
    small_spec: ModelSpec, tmp_path: Path
) -> None:
    planned = plan(GenerationRequest(prompt="a", model="small", seed=1, num_videos=2), small_spec)
    events = list(produce_all(FailsOnce(), planned, small_spec, [tmp_path / "a.mp4", tmp_path / "b.mp4"]))
    assert [event.index for event in events if isinstance(event, Failed)] == [0]
    assert [event.video.index for event in events if isinstance(event, Product)] == [1]
