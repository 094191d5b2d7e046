"""A picture that comes with a strength: standing still, it is the video that is changed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitascope.domain.errors import InvalidParameter
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import plan
from vitascope.domain.request import GenerationRequest, Upscale
from vitascope.worker.given import read_inputs


@pytest.fixture
def spec(small_spec: ModelSpec) -> ModelSpec:
    return dataclasses.replace(
        small_spec, pipelines={**small_spec.pipelines, "video": "WanVideoToVideoPipeline"}
    )


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "red.png"
    Image.new("RGB", (96, 64), (200, 30, 30)).save(path)
    return str(path)


def test_it_is_a_video_of_as_many_frames_as_the_model_makes(spec: ModelSpec, picture: str) -> None:
    request = GenerationRequest(
        prompt="a dog", model="small", image=picture, strength=0.5, seed=1, num_frames=40
    )
    planned = plan(request, spec)
    assert (planned.mode, planned.strength) == ("video", 0.5)
    assert {window.mode for window in planned.windows} == {"video"}
    inputs = read_inputs(planned)
    assert inputs.image is None
    assert inputs.video is not None
    assert len(inputs.video) == planned.native_num_frames
    assert np.array_equal(inputs.video[0], inputs.video[-1])
    assert inputs.video[0][0, 0, 0] > 150


def test_the_second_pass_starts_from_the_first_result_alone(spec: ModelSpec, picture: str) -> None:
    request = GenerationRequest(
        prompt="a dog", model="small", image=picture, strength=0.5, seed=1, upscale=Upscale()
    )
    larger = read_inputs(plan(request, spec)).larger
    assert larger is not None
    assert larger.image is larger.video is None


def test_without_a_strength_it_is_the_first_frame(spec: ModelSpec, picture: str) -> None:
    planned = plan(GenerationRequest(prompt="a dog", model="small", image=picture, seed=1), spec)
    assert (planned.mode, planned.strength) == ("image", None)
    assert read_inputs(planned).image is not None


def test_a_model_that_changes_no_videos_takes_no_strength(small_spec: ModelSpec, picture: str) -> None:
    request = GenerationRequest(prompt="a dog", model="small", image=picture, strength=0.5, seed=1)
    with pytest.raises(InvalidParameter, match="starts from pictures as they are") as error:
        plan(request, small_spec)
    assert error.value.parameter == "strength"
