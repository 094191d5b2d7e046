"""Pictures and frames are looked at before anything is stored or shown: the real detector, plain colours that it tells apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import working
from vitascope import media
from vitascope.domain.errors import ContentRejected
from vitascope.domain.job import JobStatus
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import Plan, plan
from vitascope.domain.request import GenerationRequest, Watermark
from vitascope.engine.fake import FakeEngine
from vitascope.moderation import FrameCheck, nsfw_scores
from vitascope.worker.opening import Guards, opened
from vitascope.worker.outputs import Failed, produce_all
from vitascope.worker.produce import Product

SKIN, RED = (210, 150, 120), (255, 0, 0)
"""Plain pictures of these colours score 0.27 and 0.04."""

CHECK = FrameCheck(threshold=0.2)


def picture(path: Path, color: tuple[int, int, int]) -> str:
    Image.new("RGB", (96, 64), color).save(path, "PNG")
    return str(path)


def video(path: Path, *colors: tuple[int, int, int]) -> str:
    frames = [np.full((64, 96, 3), color, np.uint8) for color in colors]
    media.write_video(iter(frames), path, fps=8, format="mp4")
    return str(path)


@pytest.fixture
def every(small_spec: ModelSpec) -> ModelSpec:
    modes = {"text": "A", "image": "B", "last_image": "C", "video": "D", "reference": "E"}
    return dataclasses.replace(small_spec, pipelines=modes)  # type: ignore[arg-type]


def planned(spec: ModelSpec, **asked: Any) -> Plan:
    return plan(GenerationRequest(**{"prompt": "a dog", "model": "small", "seed": 1, **asked}), spec)


GIVEN: dict[str, Callable[[Path, tuple[int, int, int]], dict[str, Any]]] = {
    "image": lambda folder, color: {"image": picture(folder / "a.png", color)},
    "last_image": lambda folder, color: {
        "image": picture(folder / "a.png", RED),
        "last_image": picture(folder / "b.png", color),
    },
    "references[1]": lambda folder, color: {
        "references": (picture(folder / "a.png", RED), picture(folder / "b.png", color))
    },
    "watermark.image": lambda folder, color: {"watermark": Watermark(image=picture(folder / "a.png", color))},
    "video": lambda folder, color: {"video": video(folder / "a.mp4", *[RED] * 16, color)},
    "continues": lambda folder, color: {
        "continues": video(folder / "a.mp4", color, *[RED] * 8),
        "continued_frames": 9,
    },
}


@pytest.mark.parametrize("name", GIVEN)
def test_whatever_is_sent_is_looked_at(tmp_path: Path, every: ModelSpec, name: str) -> None:
    good, bad = (tmp_path / part for part in ("good", "bad"))
    good.mkdir()
    bad.mkdir()
    steps = list(opened(planned(every, **GIVEN[name](good, RED)), every, Guards(frames=CHECK)))
    assert {step.stage for step in steps} == {"check_inputs"}  # type: ignore[union-attr]
    with pytest.raises(ContentRejected) as refusal:
        list(opened(planned(every, **GIVEN[name](bad, SKIN)), every, Guards(frames=CHECK)))
    assert refusal.value.parameter == name


def test_a_request_of_words_alone_has_nothing_to_be_looked_at(every: ModelSpec) -> None:
    assert list(opened(planned(every), every, Guards(frames=CHECK))) == []


def test_one_bad_video_of_several_is_not_given_out(tmp_path: Path, small_spec: ModelSpec) -> None:
    of = planned(small_spec, num_videos=2, num_frames=5)
    engine = FakeEngine()
    clips = [list(engine.generate(of.of_video(index), small_spec))[-1].frames for index in range(2)]  # type: ignore[union-attr]
    first, second = (max(nsfw_scores(frames)) for frames in clips)
    assert first != second
    check = FrameCheck((first + second) / 2, frames_per_second=100)
    outs = [tmp_path / "0.mp4", tmp_path / "1.mp4"]
    events = list(produce_all(engine, of, small_spec, outs, guards=Guards(frames=check)))
    (failed,) = (event for event in events if isinstance(event, Failed))
    (product,) = (event for event in events if isinstance(event, Product))
    bad = 0 if first > second else 1
    assert (failed.index, product.video.index) == (bad, 1 - bad)
    assert isinstance(failed.error, ContentRejected)
    assert [out.exists() for out in outs] == [bad != 0, bad != 1]
    assert "check_frames" in product.seconds


def checking(folder: Path, threshold: float) -> Any:
    return working.working(
        folder, VITASCOPE_MODERATION__FRAMES="true", VITASCOPE_MODERATION__THRESHOLD=str(threshold)
    )


def test_a_rejected_video_is_stored_nowhere(tmp_path: Path) -> None:
    with checking(tmp_path, 0.000001) as bench:
        job = bench.ended(bench.submit("job1"))
        assert job.error is not None
        assert (job.status, job.error.code, job.videos) == (JobStatus.FAILED, "content_rejected", ())
        assert "not given out" in job.error.message
        assert job.progress < 100
        work = [path for path in (tmp_path / "work").rglob("*") if path.suffix != ".lock" and path.is_file()]
        assert work == []
    assert not any((tmp_path / "files").rglob("*.mp4"))
    assert not any((tmp_path / "files").rglob("*.webp"))


def test_what_passes_is_made_without_previews(tmp_path: Path) -> None:
    with checking(tmp_path, 1.0) as bench:
        job = bench.ended(bench.submit("job1", preview_every=1))
        assert job.status is JobStatus.SUCCEEDED
        assert job.details is not None
        assert job.details["seconds"]["check_frames"] > 0
        assert "preview" not in {event.kind for event in bench.store.events(job.id)}


def test_a_rejected_picture_costs_no_denoising(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    picture(path, SKIN)
    with checking(tmp_path, 0.2) as bench:
        bench.step_seconds = 60.0
        bench.files.put_bytes(path.read_bytes(), "inputs/job1.png")
        job = bench.ended(bench.submit("job1", image="inputs/job1.png"))
        assert job.error is not None
        assert (job.error.code, job.error.message) == (
            "content_rejected",
            "`image` is refused: the content check found it unsafe",
        )
