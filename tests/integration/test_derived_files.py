"""From a plan to a file where it is made from another video: every part is real but the model."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vitascope import media
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import Plan, plan
from vitascope.domain.request import GenerationRequest, Watermark
from vitascope.engine import Clip, Inputs
from vitascope.engine.contract import NO_INPUTS
from vitascope.engine.fake import FakeEngine
from vitascope.worker.produce import Product, produce


def psnr(one: Any, other: Any) -> float:
    error = np.mean((one.astype(float) - other.astype(float)) ** 2)
    return 99.0 if error == 0 else float(10 * np.log10(255**2 / error))


def picture(height: int, width: int, index: int) -> Any:
    """A gradient with a bright square that wanders to the right: what is moved, cut or stretched is seen."""
    frame = np.empty((height, width, 3), np.uint8)
    frame[..., 0] = np.linspace(20, 200, width)
    frame[..., 1] = np.linspace(20, 200, height)[:, None]
    frame[..., 2] = 60
    left = width // 4 + 2 * index
    frame[height // 3 : 2 * height // 3, left : left + width // 8] = 250
    return frame


def written(path: Path, height: int = 64, width: int = 96, num_frames: int = 12, fps: int = 8) -> Any:
    media.write_video((picture(height, width, i) for i in range(num_frames)), path, fps=fps, format="mp4")
    return media.read_frames(path)


class GoesOn(FakeEngine):
    """A model that holds the last frame that it starts from, and keeps what it was given."""

    def generate(self, plan: Plan, spec: ModelSpec, inputs: Inputs = NO_INPUTS, sharing: Any = None) -> Any:
        self.inputs = inputs
        for event in super().generate(plan, spec, inputs):
            if isinstance(event, Clip) and inputs.before is not None:
                event = replace(event, frames=np.repeat(inputs.before[-1:], len(event.frames), axis=0))
            if isinstance(event, Clip) and inputs.video is not None:
                event = replace(event, frames=inputs.video)
            yield event


def made(spec: ModelSpec, out: Path, engine: FakeEngine | None = None, **asked: Any) -> tuple[Plan, Any]:
    request = GenerationRequest(prompt="a dog", model=spec.id, seed=1, **asked)
    planned = plan(request, spec)
    for event in produce(engine or GoesOn(), planned, spec, out):
        if isinstance(event, Product):
            assert event.video.num_frames == planned.num_frames
            return planned, media.read_frames(out)
    raise AssertionError


def test_an_extension_begins_with_the_sources_frames_and_goes_on_from_the_last(
    small_spec: ModelSpec, tmp_path: Path
) -> None:
    source = written(tmp_path / "a.mp4")
    planned, frames = made(
        small_spec, tmp_path / "b.mp4", continues=str(tmp_path / "a.mp4"), continued_frames=12, num_frames=20
    )
    assert (frames.shape, planned.native_num_frames) == ((20, 64, 96, 3), 8)
    assert psnr(frames[:12], source) > 35
    assert psnr(frames[12:], np.repeat(source[-1:], 8, axis=0)) > 35
    assert media.probe(tmp_path / "b.mp4").fps == 8


@pytest.mark.parametrize(
    ("width", "height", "fit"),
    [
        (96, 64, "none"),
        (192, 128, "scale"),
        (96, 56, "crop"),
        (80, 64, "crop"),
        (64, 96, "pad"),
        (160, 64, "pad"),
    ],
)
def test_nothing_moves_where_the_model_goes_on(
    small_spec: ModelSpec, tmp_path: Path, width: int, height: int, fit: str
) -> None:
    """Whatever was cut away or put around the model's picture to reach the file's shape."""
    first = plan(GenerationRequest(prompt="a", model="small", seed=1, width=width, height=height), small_spec)
    native = (picture(64, 96, i) for i in range(12))
    shown = media.fit_frames(native, height=height, width=width, fit=first.fit)
    media.write_video(shown, tmp_path / "a.mp4", fps=8, format="mp4")
    asked = {"width": width, "height": height, "continued_frames": 12, "num_frames": 20}
    planned, frames = made(small_spec, tmp_path / "b.mp4", continues=str(tmp_path / "a.mp4"), **asked)
    assert planned.fit == fit
    assert psnr(frames[11], frames[12]) > 28
    edited, same = made(small_spec_with_video(small_spec), tmp_path / "c.mp4", video=str(tmp_path / "a.mp4"), source_has_border=fit == "pad", width=width, height=height, num_frames=12)  # fmt: skip
    assert edited.fit == fit
    assert psnr(same, frames[:12]) > 28


def small_spec_with_video(spec: ModelSpec) -> ModelSpec:
    return replace(spec, pipelines={**spec.pipelines, "video": "WanVideoToVideoPipeline"})


def test_a_file_of_another_rate_and_size(small_spec: ModelSpec, tmp_path: Path) -> None:
    source = written(tmp_path / "a.mp4", fps=12, num_frames=24)
    planned, frames = made(
        small_spec, tmp_path / "b.mp4", continues=str(tmp_path / "a.mp4"),
        continued_frames=48, num_frames=96, fps=24, width=192, height=128,
    )  # fmt: skip
    assert (frames.shape, planned.native_num_frames) == ((96, 128, 192, 3), 16)
    small = np.stack(list(media.fit_frames(frames[:48:2], height=64, width=96, fit="scale")))
    assert psnr(small, source) > 28
    assert psnr(frames[1:48:2], frames[:48:2]) > 35, "each is shown twice"
    assert psnr(frames[48:], np.repeat(frames[47:48], 48, axis=0)) > 30


def test_a_model_that_starts_from_several_frames_gets_them_at_its_own_rate(
    small_spec: ModelSpec, tmp_path: Path
) -> None:
    written(tmp_path / "a.mp4", fps=24, num_frames=24)
    spec, engine = replace(small_spec, overlap=4), GoesOn()
    asked = {"continues": str(tmp_path / "a.mp4"), "continued_frames": 24, "num_frames": 48, "fps": 24}
    planned, _ = made(spec, tmp_path / "b.mp4", engine, **asked)
    assert [(window.num_frames, window.overlap) for window in planned.windows] == [(13, 4)]
    assert planned.native_num_frames == 9
    assert engine.inputs.before is not None
    for given, index in zip(engine.inputs.before, (14, 17, 20, 23), strict=True):
        assert psnr(given, picture(64, 96, index)) > 30, index
    made(spec, tmp_path / "c.mp4", engine, **{**asked, "continued_frames": 2, "num_frames": 20})
    assert len(engine.inputs.before) == 4, "a short one's first frame stands for what was before"


def test_a_watermark_is_drawn_once(small_spec: ModelSpec, tmp_path: Path) -> None:
    written(tmp_path / "a.mp4", num_frames=8)
    mark = Watermark(text="MADE BY AI", opacity=0.5)
    plain = {"num_frames": 16, "continues": str(tmp_path / "a.mp4"), "continued_frames": 8}
    _, without = made(small_spec, tmp_path / "b.mp4", **plain)
    _, everywhere = made(small_spec, tmp_path / "c.mp4", **plain, watermark=mark)
    _, behind = made(small_spec, tmp_path / "d.mp4", **plain, watermark=mark, continued_watermark=mark)
    assert psnr(everywhere[:8], without[:8]) < 30
    assert psnr(behind[:8], without[:8]) > 35, "the source bears it already"
    assert psnr(behind[8:], everywhere[8:]) > 35


def test_what_is_continued_is_never_in_memory_as_a_whole(small_spec: ModelSpec, tmp_path: Path) -> None:
    """And a writer that stops leaves no reader behind."""
    written(tmp_path / "a.mp4", num_frames=200)
    before = {thread.name for thread in threading.enumerate()}
    frames = media.stream_video(
        tmp_path / "a.mp4", size=(64, 96), fps=8, num_frames=200, max_frames=1000, max_seconds=60
    )
    assert next(frames).shape == (64, 96, 3)
    assert "read-video" in {thread.name for thread in threading.enumerate()}
    frames.close()  # type: ignore[attr-defined]
    assert {thread.name for thread in threading.enumerate()} <= before
    assert len(list(media.stream_video(tmp_path / "a.mp4", size=(64, 96), fps=8, num_frames=230, max_frames=1000, max_seconds=60))) == 230  # fmt: skip


def test_a_cancel_while_the_sources_frames_are_written(small_spec: ModelSpec, tmp_path: Path) -> None:
    written(tmp_path / "a.mp4", num_frames=200)
    request = GenerationRequest(
        prompt="a", model="small", seed=1, num_frames=230,
        continues=str(tmp_path / "a.mp4"), continued_frames=200,
    )  # fmt: skip
    making = produce(FakeEngine(), plan(request, small_spec), small_spec, tmp_path / "b.mp4")
    for event in making:
        if getattr(event, "stage", "") == "write_video":
            break
    making.close()
    assert not (tmp_path / "b.mp4").exists()
    assert "read-video" not in {thread.name for thread in threading.enumerate()}
