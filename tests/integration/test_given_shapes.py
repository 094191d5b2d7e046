"""From a given picture or video of the file's shape to a file of that shape, by a model of another: nothing of it is lost on the way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitascope import media
from vitascope.domain.model_spec import ModelSpec, UpscaleRule
from vitascope.domain.plan import Plan, plan
from vitascope.domain.request import GenerationRequest, Upscale
from vitascope.engine import Clip, Inputs
from vitascope.engine.contract import NO_INPUTS
from vitascope.engine.fake import FakeEngine
from vitascope.service import inputs as sent_inputs
from vitascope.service.inputs import Sent
from vitascope.storage import LocalStorage
from vitascope.worker.produce import Product, produce

SHAPES = [(96, 64), (192, 128), (96, 56), (80, 64), (64, 96), (72, 128), (160, 64)]


class Holds(FakeEngine):
    """A model that shows what it starts from."""

    def generate(self, plan: Plan, spec: ModelSpec, inputs: Inputs = NO_INPUTS, sharing: Any = None) -> Any:
        for event in super().generate(plan, spec, inputs):
            if isinstance(event, Clip):
                inputs = inputs.larger or inputs
                given = inputs.video if inputs.video is not None else inputs.image
                assert given is not None
                event = replace(event, frames=np.broadcast_to(given, event.frames.shape))
            yield event


def framed(width: int, height: int) -> Any:
    """A gradient with a white line around it, the first thing that a cut takes away."""
    frame = np.empty((height, width, 3), np.uint8)
    frame[..., 0] = np.linspace(20, 180, width)
    frame[..., 1] = np.linspace(20, 180, height)[:, None]
    frame[..., 2] = 60
    line = max(2, min(width, height) // 8)
    for edge in (frame[:line], frame[-line:], frame[:, :line], frame[:, -line:]):
        edge[...] = 255
    return frame


def check_whole(frame: Any, width: int, height: int) -> None:
    assert frame.shape == (height, width, 3)
    for edge in (frame[1], frame[-2], frame[:, 1], frame[:, -2]):
        assert np.median(edge) > 190, "the line around it is there, on each side"
    expected = framed(width, height).astype(float)
    assert np.abs(frame.astype(float) - expected).mean() < 14


@pytest.mark.parametrize(("width", "height"), SHAPES)
def test_a_picture_of_the_files_shape_is_whole_in_the_file(
    tmp_path: Path, small_spec: ModelSpec, width: int, height: int
) -> None:
    asked = GenerationRequest(
        prompt="a", model="small", seed=1, image="inputs/a.png", width=width, height=height, num_frames=5
    )
    planned = plan(asked, small_spec)
    files = LocalStorage(tmp_path / "files")
    Image.fromarray(framed(width, height)).save(tmp_path / "a.png")
    sent_inputs.store(Sent(image=(tmp_path / "a.png").read_bytes()), asked, planned, files)
    here = replace(planned, image=str(files.path_for("inputs/a.png")))
    check_whole(made(here, small_spec, tmp_path), width, height)


@pytest.mark.parametrize(("width", "height"), SHAPES)
def test_a_picture_is_as_sharp_as_the_second_pass(
    tmp_path: Path, small_spec: ModelSpec, width: int, height: int
) -> None:
    asked = GenerationRequest(
        prompt="a", model="small", seed=1, image="inputs/a.png", width=width, height=height, num_frames=5,
        upscale=Upscale(height=2 * height, width=2 * width),
    )  # fmt: skip
    spec = replace(small_spec, upscale=UpscaleRule(max_pixels=4 * 96 * 64))
    planned = plan(asked, spec)
    files = LocalStorage(tmp_path / "files")
    Image.fromarray(framed(2 * width, 2 * height)).save(tmp_path / "a.png")
    sent_inputs.store(Sent(image=(tmp_path / "a.png").read_bytes()), asked, planned, files)
    with Image.open(str(files.path_for("inputs/a.png"))) as stored:
        assert planned.second is not None
        assert stored.size == (planned.second.shown.width, planned.second.shown.height)
    here = replace(planned, image=str(files.path_for("inputs/a.png")))
    check_whole(made(here, spec, tmp_path), 2 * width, 2 * height)


@pytest.mark.parametrize(("width", "height"), SHAPES)
def test_a_video_of_the_files_shape_is_whole_in_the_file(
    tmp_path: Path, small_spec: ModelSpec, width: int, height: int
) -> None:
    spec = replace(small_spec, pipelines={**small_spec.pipelines, "video": "WanVideoToVideoPipeline"})
    path = tmp_path / "a.mp4"
    media.write_video([framed(width, height)] * 5, path, fps=8, format="mp4")
    asked = GenerationRequest(
        prompt="a", model="small", seed=1, video=str(path), width=width, height=height, num_frames=5
    )
    check_whole(made(plan(asked, spec), spec, tmp_path), width, height)


def made(planned: Plan, spec: ModelSpec, folder: Path) -> Any:
    """Return the first frame of the file."""
    out = folder / "out.mp4"
    *_, product = produce(Holds(), planned, spec, out)
    assert isinstance(product, Product)
    return media.read_frames(out)[0]
