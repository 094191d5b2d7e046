"""Jobs of the native API in words."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from vitascope.cli import _job_text as text
from vitascope.cli import _watch_views
from vitascope.cli._watch_views import Bars, TimeLeft
from vitascope.domain.step import Step, percent


def job(**members: Any) -> dict[str, Any]:
    created = datetime.now(UTC) - timedelta(minutes=40)
    return {
        "id": "a", "status": "queued", "progress": 0, "stage": "", "model": "m", "prompt": "p", "attempt": 0, "choices": [],
        "num_inference_steps": 40, "created_at": created.isoformat(), **members,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-3, "0 s"), (99, "99 s"), (100, "2 min"), (5900, "98 min"), (7500, "2 h 5 min"), (3e5, "3 days")],
)
def test_durations(seconds: float, words: str) -> None:
    assert text.duration(seconds) == words


def test_where_a_job_stands() -> None:
    assert text.status_words(job()) == "queued"
    waiting = job(queue_position=3, eta_seconds=130.2)
    assert text.status_words(waiting) == "queued, no. 3 in the queue, ready in about 2 min"
    assert text.progress(waiting) == "no. 3"
    running = job(status="running", progress=40, stage="denoise", attempt=2, cancel_requested=True)
    assert text.status_words(running) == "running, 40 %, denoising, asked to stop, attempt 2"
    assert text.progress(running) == "40 %"
    ended = job(status="cancelled", eta_seconds=3.0, queue_position=None)
    assert (text.status_words(ended), text.progress(ended), text.wait(ended)) == ("cancelled", "", "")
    assert text.age(ended) == "40 min"


def test_details_keep_lines_and_show_what_they_do_not_know() -> None:
    rows = dict(text.detail_rows(job(prompt="one\ntwo\x1b[2J", later={"x": 1}, nothing=None), "http://x"))
    assert rows["prompt"] == "one\ntwo?[2J"
    assert rows["later"] == '{"x": 1}'
    assert "nothing" not in rows
    assert rows["status"] == "queued"


def test_what_was_written_out_stands_beside_the_prompt() -> None:
    rows = text.detail_rows(job(enhance_prompt=True, enhanced_prompt="a long text"), "http://x")
    assert ("written out", "a long text") in rows
    assert "enhance_prompt" not in dict(
        text.detail_rows(job(enhance_prompt=False, enhanced_prompt=None), "http://x")
    )


def test_how_long_files_are_kept() -> None:
    def kept(**members: Any) -> str | None:
        return dict(text.detail_rows(job(**members), "http://x")).get("kept")

    assert kept(expires_in_seconds=None, expires_at=None, expired_at=None) is None
    assert (
        kept(expires_in_seconds=86400, expires_at=None, expired_at=None) == "for 24 h 0 min once it has ended"
    )
    soon, past = ((datetime.now(UTC) + timedelta(hours=hours)).isoformat() for hours in (3, -3))
    assert re.fullmatch(r"until \S+ \S+ \(for 3 h 0 min more\)", str(kept(expires_at=soon, expired_at=None)))
    assert re.fullmatch(r"until \S+ \S+: no more", str(kept(expires_at=past, expired_at=None)))
    assert str(kept(expires_at=past, expired_at=past)).endswith("(3 h 0 min ago)")


def event(kind: str, second: int, **members: Any) -> dict[str, Any]:
    at = datetime(2026, 1, 1, 0, 0, second, tzinfo=UTC).isoformat()
    return {
        "sequence": second, "kind": kind, "attempt": 1, "percent": None, "stage": None, "created_at": at, **members,
    }  # fmt: skip


def test_the_time_left_is_told_from_denoising_alone() -> None:
    left = TimeLeft()
    assert left.seconds("load", 1, at=100.0) is None
    assert left.seconds("denoise", 3, at=160.0) is None, "a minute of loading says nothing"
    assert left.seconds("denoise", 3, at=161.0) is None
    assert left.seconds("denoise", 43, at=170.0) == pytest.approx(57 / 4)
    assert left.seconds("write_video", 96, at=180.0) is None


def test_a_bar_says_stage_step_and_the_time_left_by_the_servers_clock() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, color_system=None)
    running = job(status="running")
    with Bars(console) as bars:
        bars.event(running, event("running", 1))
        bars.event(running, event("progress", 20, percent=3, stage="denoise"))
        bars.event(running, event("progress", 30, percent=46, stage="denoise"))
        bars._progress.refresh()
        bars.place(job(queue_position=2, eta_seconds=50))
        bars._progress.refresh()
        bars.notice("away\x07")
        bars.ended(job(status="failed", error={"code": "worker_lost", "message": "It stopped."}))
    written = screen.getvalue()
    assert re.search(r"46 % denoising, step 20/40, \d+ s left", written)
    assert "queued, no. 2 in the queue, ready in about 50 s" in written
    assert "away?" in written
    assert "a  failed, worker_lost: It stopped." in written


def test_how_a_job_has_ended() -> None:
    times = {"started_at": "2026-01-01T00:00:00+00:00", "finished_at": "2026-01-01T00:00:02.345+00:00"}
    video = {"width": 64, "height": 32, "fps": 8, "duration_seconds": 2.125, "num_bytes": 2_345_678}
    assert text.outcome(job(status="succeeded", video=video, **times)) == (
        "succeeded, 64x32, 2.12 s at 8 fps, 2.3 MB, took 2.3 s"
    )
    both = {"video": video, "videos": [video, video], "num_videos": 3}
    assert text.outcome(job(status="succeeded", **both, **times)) == (
        "succeeded, 2 of 3 videos, 64x32, 2.12 s at 8 fps, 4.7 MB, took 2.3 s"
    )
    assert text.outcome(job(status="cancelled", started_at=None, finished_at="x")) == "cancelled"


@pytest.mark.parametrize("count", range(2, 11))
def test_which_of_several_videos_is_made(count: int) -> None:
    for video in range(count):
        for index in range(41):
            step = Step("denoise", index, 40, video=video, num_videos=count)
            said = _watch_views._step(job(num_videos=count), {"stage": "denoise", "percent": percent(step)})
            assert said == f", video {video + 1}/{count}"


def test_the_steps_of_all_shots_are_counted() -> None:
    running = {"stage": "denoise", "percent": percent(Step("denoise", 20, 24))}
    shots = [{"prompt": "a"}, {"prompt": "b"}]
    assert _watch_views._step(job(num_inference_steps=12, shots=shots), running) == ", step 20/24"
    assert _watch_views._step(job(num_inference_steps=24, shots=[]), running) == ", step 20/24"


def test_every_file_and_every_failure_is_listed() -> None:
    one = {
        "width": 64, "height": 32, "fps": 8, "num_frames": 17, "num_bytes": 1000, "url": "/x", "media_type": "video/mp4",
        "sha256": "00",
    }  # fmt: skip
    failed = [{"index": 1, "code": "out_of_memory", "message": "too large"}]
    rows = text.detail_rows(
        job(videos=[one, {**one, "url": "/y"}], failed_videos=failed, num_videos=3), "http://x"
    )
    assert [value.splitlines()[0] for name, value in rows if name == "file"] == ["http://x/x", "http://x/y"]
    assert ("not made", "1: out_of_memory: too large") in rows
    assert dict(rows)["video"].startswith("3 times ")
    assert dict(text.detail_rows(job(seed=7, num_videos=3), ""))["seed"] == "7 and the 2 that follow"
    assert dict(text.detail_rows(job(seed=7), ""))["seed"] == "7"
