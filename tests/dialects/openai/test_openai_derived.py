"""Remixes, edits and extensions on the wire: what is stored for them, what they take from their source, exact refusals."""

from __future__ import annotations

import base64
import io
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import sqlalchemy as sa
from PIL import Image

from vitascope import media
from vitascope.dialects._http import Fields
from vitascope.dialects._http.body import LARGE_BYTES
from vitascope.dialects.openai import derived
from vitascope.domain.access import KeyLimits, Scope
from vitascope.domain.job import Job, JobError
from vitascope.domain.video import Video
from vitascope.service.drafts import Drafts
from vitascope.service.keys import Keys
from vitascope.store.for_expiry import GRACE
from vitascope.store.tables import jobs

EVERY = {"prompt": "a dog runs", "model": "every", "num_inference_steps": 20, "negative_prompt": "cats"}


@pytest.fixture(scope="module")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Two seconds at 12 fps, 128x72, each frame brighter than the one before."""
    path: Path = tmp_path_factory.mktemp("video") / "a.mp4"
    frames = (np.full((72, 128, 3), 10 * i, np.uint8) for i in range(24))
    media.write_video(frames, path, fps=12, format="mp4")
    return path.read_bytes()


class Sources:
    """Finished videos to make others from."""

    def __init__(self, server: Any, folder: Path, mp4: bytes) -> None:
        self.server, self.folder, self.mp4 = server, folder, mp4
        self.source_id = ""

    def create(self, key: str | None = None, **body: Any) -> str:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        answer = self.server.client.post("/v1/videos", json={**EVERY, **body}, headers=headers)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def finished(self, **body: Any) -> str:
        """Make a video as the model would have: of 24 frames at 12 fps, 128x72."""
        asked = {"size": "128x72", "fps": 12, "num_frames": 24, **body}
        video_id = self.create(**asked)
        self.finish(video_id)
        return video_id

    def finish(self, video_id: str) -> None:
        lease = self.server.claim()
        while "video_" + lease.job.id != video_id:
            self.server.store.fail(lease, JobError("internal_error", "not this one"))
            lease = self.server.claim()
        part = self.folder / f"{lease.job.id}.part"
        part.write_bytes(self.mp4)
        plan = lease.job.plan
        key = f"videos/{lease.job.id}.{plan.format}"
        self.server.files.put(part, key)
        kind = {"mp4": "video/mp4", "gif": "image/gif"}[plan.format]
        size = {"height": plan.height, "width": plan.width, "num_frames": plan.num_frames, "fps": plan.fps}
        video = Video(key=key, media_type=kind, num_bytes=len(self.mp4), sha256="c0ffee", **size)
        self.server.store.succeed(lease, [video], {"choices": [], "seconds": {}})

    def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        if body is not None:
            options["json"] = body
        answer: httpx.Response = self.server.client.post(f"/v1/videos{path}", **options)
        return answer

    def job(self, answer: httpx.Response) -> Job:
        assert answer.status_code == 200, answer.text
        job: Job = self.server.store.get(answer.json()["id"].removeprefix("video_"))
        return job

    def stored(self, key: str) -> bytes:
        found: bytes = self.server.files.path_for(key).read_bytes()
        return found


@pytest.fixture
def sources(serve: Any, tmp_path: Path, mp4: bytes) -> Sources:
    return Sources(serve(), tmp_path, mp4)


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def choices_of(answer: httpx.Response) -> dict[str, dict[str, str]]:
    return {choice["name"]: choice for choice in answer.json()["metadata"]["vitascope"]["choices"]}


def test_a_remix_changes_its_sources_frames(sources: Sources) -> None:
    source_id = sources.finished()
    answer = sources.post(f"/{source_id}/remix", {"prompt": "a cat runs"})
    job, source = sources.job(answer), sources.server.store.get(source_id.removeprefix("video_"))
    assert (job.plan.mode, job.plan.strength) == ("video", 0.75)
    assert "where `strength` does not say it" in choices_of(answer)["strength"]["reason"]
    body = answer.json()
    assert (body["remixed_from_video_id"], body["prompt"], body["status"]) == (
        source_id,
        "a cat runs",
        "queued",
    )
    assert (body["model"], body["size"], body["seconds"], body["fps"]) == ("every", "128x72", "2", 12)
    assert (job.plan.num_inference_steps, job.plan.negative_prompt) == (20, "cats"), "as the source's"
    assert job.plan.seed != source.plan.seed
    assert job.request.source == source.id
    assert sources.stored(job.plan.video or "") == sources.mp4, "a copy of its own"
    sources.server.client.delete(f"/v1/videos/{source_id}")
    assert sources.stored(job.plan.video or "") == sources.mp4
    sources.server.client.delete(f"/v1/videos/{body['id']}")
    assert list((sources.server.settings.files_folder / "inputs").iterdir()) == []


def test_what_the_client_says_of_a_remix_wins(sources: Sources) -> None:
    asked = {
        "prompt": "a",
        "strength": "0.5",
        "seed": 7,
        "size": "64x64",
        "seconds": "1",
        "steps": 5,
        "metadata": {"a": "b"},
    }
    answer = sources.post(f"/{sources.finished()}/remix", asked)
    plan = sources.job(answer).plan
    assert (plan.strength, plan.seed, plan.num_inference_steps, plan.num_frames) == (0.5, 7, 5, 12)
    assert (answer.json()["size"], answer.json()["seconds"], answer.json()["metadata"]["a"]) == (
        "64x64",
        "1",
        "b",
    )
    assert "strength" not in choices_of(answer)


def test_an_extension_takes_a_sources_one_step_as_it_is(sources: Sources) -> None:
    source_id = sources.finished(num_inference_steps=1)
    body = {"prompt": "a cat runs", "video": {"id": source_id}, "seconds": 1}
    answer = sources.post("/extensions", body)
    assert sources.job(answer).plan.num_inference_steps == 1
    assert "num_inference_steps" not in choices_of(answer)


def test_a_source_of_one_step_passes_on_two(sources: Sources) -> None:
    source = sources.finished(num_inference_steps=1)
    made = sources.post(f"/{source}/remix", {"prompt": "a cat runs"}).raise_for_status().json()
    assert made["metadata"]["vitascope"]["num_inference_steps"] == 2
    choices = {choice["name"]: choice["value"] for choice in made["metadata"]["vitascope"]["choices"]}
    assert choices["num_inference_steps"] == "2"


def test_a_model_that_changes_no_videos_begins_with_the_sources_first_frame(sources: Sources) -> None:
    source_id = sources.finished(model="small", num_inference_steps=None)
    answer = sources.post(f"/{source_id}/remix", {"prompt": "a cat runs"})
    plan = sources.job(answer).plan
    assert (plan.mode, plan.strength, plan.num_frames) == ("image", None, 24)
    assert "begins with the first frame of its source" in choices_of(answer)["remix"]["reason"]
    with Image.open(io.BytesIO(sources.stored(plan.image or ""))) as picture:
        assert picture.size == (96, 54), "what the file shows of the model's frames"
        assert np.asarray(picture).mean() < 4, "the first frame is black"
    assert answer.json()["remixed_from_video_id"] == source_id


def test_a_model_that_makes_videos_of_text_alone_makes_none_from_others(sources: Sources) -> None:
    source_id = sources.finished(model="short", seconds=1, num_frames=None)
    error = error_of(sources.post(f"/{source_id}/remix", {"prompt": "a"}), 400)
    assert (error["param"], error["code"]) == ("model", "invalid_parameter")
    assert "`short` neither changes videos nor starts from a picture" in error["message"]
    body = {"prompt": "a", "video": {"id": source_id}}
    error = error_of(sources.post("/edits", body), 400)
    assert error["param"] == "video"
    error = error_of(sources.post("/extensions", {**body, "seconds": 1}), 400)
    assert error["param"] == "video"
    assert "continues no videos" in error["message"]


WAYS = ["json", "text", "bracketed", "with an empty file", "with empty text"]


def ask(way: str, video_id: str, **fields: str) -> dict[str, Any]:
    if way == "json":
        return {"json": {**fields, "video": {"id": video_id}}}
    if way == "text":
        return {"data": {**fields, "video": video_id}}
    if way == "bracketed":
        return {"data": {**fields, "video[id]": video_id}}
    empty: Any = ("upload", b"") if way == "with an empty file" else (None, "")
    return {"data": {**fields, "video[id]": video_id}, "files": {"video": empty}}


@pytest.mark.parametrize("way", WAYS)
def test_an_edit_names_its_source_in_many_ways(sources: Sources, way: str) -> None:
    source_id = sources.finished()
    answer = sources.post("/edits", **ask(way, source_id, prompt="at night"))
    job = sources.job(answer)
    assert (job.plan.mode, job.plan.strength, job.plan.num_frames, job.plan.fps) == ("video", 0.6, 24, 12)
    assert "an edit changes so much" in choices_of(answer)["strength"]["reason"]
    assert job.request.source == source_id.removeprefix("video_")


@pytest.mark.parametrize("way", ["file", "data"])
def test_an_edit_of_an_uploaded_video_has_its_size_and_length(sources: Sources, way: str) -> None:
    if way == "file":
        sent: dict[str, Any] = {
            "data": {"prompt": "at night", "model": "every"},
            "files": {"video": ("a.mp4", sources.mp4)},
        }
    else:
        url = "data:video/mp4;base64," + base64.b64encode(sources.mp4).decode()
        sent = {"json": {"prompt": "at night", "model": "every", "video": url}}
    answer = sources.post("/edits", **sent)
    job = sources.job(answer)
    assert (job.plan.mode, job.plan.strength, job.request.source) == ("video", 0.6, None)
    assert (answer.json()["size"], answer.json()["seconds"]) == ("128x72", "2")
    assert answer.json()["remixed_from_video_id"] is None


@pytest.mark.parametrize("way", WAYS)
def test_an_extension_begins_with_all_of_its_source(sources: Sources, way: str) -> None:
    source_id = sources.finished()
    answer = sources.post("/extensions", **ask(way, source_id, prompt="it jumps", seconds="4"))
    job = sources.job(answer)
    plan = job.plan
    assert (plan.mode, plan.continued_frames, plan.num_frames, plan.fps) == ("image", 24, 72, 12)
    assert (answer.json()["seconds"], answer.json()["size"]) == ("6", "128x72"), "the whole length"
    assert plan.native_num_frames >= 4 * 8
    assert plan.windows[0].overlap == 1
    assert sources.stored(plan.continues or "") == sources.mp4


def test_an_extension_of_an_uploaded_video_has_its_size_rate_and_length(sources: Sources) -> None:
    data = {"prompt": "it jumps", "seconds": "1.5", "model": "every"}
    answer = sources.post("/extensions", data=data, files={"video": ("a.mp4", sources.mp4)})
    plan = sources.job(answer).plan
    assert (plan.continued_frames, plan.num_frames, plan.fps) == (24, 42, 12)
    assert (answer.json()["seconds"], answer.json()["size"]) == ("3.5", "128x72")
    assert choices_of(answer)["fps"]["value"] == "12"


def test_an_extension_of_an_extension(sources: Sources) -> None:
    first = sources.post(
        "/extensions", ask("json", sources.finished(), prompt="b", seconds="1")["json"]
    ).json()["id"]
    sources.finish(first)
    answer = sources.post("/extensions", ask("json", first, prompt="c", seconds="1")["json"])
    assert (sources.job(answer).plan.continued_frames, answer.json()["seconds"]) == (36, "4")


BAD_EXTENSIONS: list[tuple[dict[str, Any], str, str]] = [
    ({"seconds": None}, "seconds", "how many seconds are added"),
    ({"seconds": "0"}, "seconds", "seconds must be between 1 and 60 seconds"),
    ({"seconds": None, "duration": 61}, "duration", "nearest legal value is 60"),
    ({"seconds": "1e300"}, "seconds", "out of range"),
    ({"seconds": "soon"}, "seconds", "must be a number"),
    ({"num_frames": 9}, "num_frames", "`seconds`"),
    ({"prompt": None}, "prompt", "what the video shows"),
    ({"size": "32x33"}, "size", "nearest legal value is '32x32'"),
    ({"video": None}, "video", "the id of a video"),
    ({"video": {}}, "video[id]", "the id of a video"),
    ({"video": {"id": 5}}, "video[id]", "the id of a video"),
    ({"video": {"id": "SOURCE", "index": 1}}, "video", "nearest legal value is 0"),
    ({"video": {"file_id": "file-unknown"}}, "video[file_id]", "no file has this id"),
    ({"video_url": "https://example.com/a.mp4"}, "video_url", "is said already"),
    ({"secnds": 3}, "secnds", "no such parameter"),
    ({"video": {"id": "SOURCE", "index": "one"}}, "video[index]", "whole number"),
    ({"video": {"id": "SOURCE", "file_id": "file-a"}}, "video[file_id]", "beside `video[id]`"),
    (
        {"video": {"id": "SOURCE", "video_url": "https://example.com/a.mp4"}},
        "video[video_url]",
        "beside `video[id]`",
    ),
    ({"video": 5}, "video", "a file, a URL or base64"),
    ({"video": ["a"]}, "video", "a file, a URL or base64"),
    ({"video": "not base64!"}, "video", "base64"),
    ({"video": base64.b64encode(b"no video").decode()}, "video", "not a video"),
    ({"input_reference": "iVBORw0KGgo="}, "input_reference", "beside"),
]


@pytest.mark.parametrize(("body", "param", "words"), BAD_EXTENSIONS, ids=range(len(BAD_EXTENSIONS)))
def test_a_bad_value_is_named_as_the_client_named_it(
    bad: Sources, body: dict[str, Any], param: str, words: str
) -> None:
    asked = {"prompt": "it jumps", "seconds": "1", "video": {"id": "SOURCE"}, **body}
    if isinstance(asked["video"], dict) and asked["video"].get("id") == "SOURCE":
        asked["video"] = {**asked["video"], "id": bad.source_id}
    error = error_of(bad.post("/extensions", asked), 400)
    assert (error["param"], error["code"]) == (param, "invalid_parameter")
    assert words in error["message"]


@pytest.fixture(scope="module")
def bad(serve: Any, tmp_path_factory: pytest.TempPathFactory, mp4: bytes) -> Sources:
    sources = Sources(serve(), tmp_path_factory.mktemp("bad"), mp4)
    sources.source_id = sources.finished()
    return sources


def test_a_remix_has_its_source_already(bad: Sources) -> None:
    body = {"prompt": "a cat runs", "video": {"id": bad.source_id}}
    assert error_of(bad.post(f"/{bad.source_id}/remix", body), 400)["param"] == "video"


@pytest.mark.parametrize(
    ("default", "steps", "strength"), [(0.95, 20, 0.9), (0.05, 20, 0.1), (0.2, 3, 0.334), (0.75, 3, 0.75)]
)
def test_the_strength_that_is_chosen_is_one_that_the_model_takes(
    sources: Sources, monkeypatch: pytest.MonkeyPatch, default: float, steps: int, strength: float
) -> None:
    """Or else the client is told of a parameter that it has not sent."""
    monkeypatch.setattr(derived, "REMIX_STRENGTH", default)
    source_id = sources.finished(num_inference_steps=steps)
    answer = sources.post(f"/{source_id}/remix", {"prompt": "a cat runs"})
    assert sources.job(answer).plan.strength == strength
    assert choices_of(answer)["strength"]["value"] == str(strength)


def test_a_remix_in_one_step_would_keep_nothing_of_its_source(bad: Sources) -> None:
    error = error_of(bad.post(f"/{bad.source_id}/remix", {"prompt": "a", "num_inference_steps": 1}), 400)
    assert (error["param"], "none would run" in error["message"]) == ("strength", True)


@pytest.mark.parametrize("call", ["remix", "edits", "extensions"])
def test_a_large_container_is_unfolded_where_it_keeps_nobody_waiting(
    bad: Sources, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    threads: dict[bool, str] = {}
    unfolded = derived.unfolded

    def watched(fields: Fields) -> Any:
        threads[fields.num_bytes > LARGE_BYTES] = threading.current_thread().name
        return unfolded(fields)

    monkeypatch.setattr(derived, "unfolded", watched)
    for length in (1, LARGE_BYTES):
        body = {"prompt": "a", "extra_body": {"a": "x" * length}, "video": {"id": bad.source_id}}
        bad.post(f"/{bad.source_id}/remix" if call == "remix" else f"/{call}", body)
    assert threads[True] != threads[False]


@pytest.mark.parametrize("call", ["remix", "edits", "extensions"])
def test_a_source_that_is_none(sources: Sources, call: str) -> None:
    def refused(video_id: str, status: int = 404) -> dict[str, Any]:
        body = (
            {"prompt": "a"} if call == "remix" else {"prompt": "a", "seconds": "1", "video": {"id": video_id}}
        )
        path = f"/{video_id}/remix" if call == "remix" else f"/{call}"
        return error_of(sources.post(path, body), status)

    for video_id in ("video_0123456789abcdefghjkmnpqrs", "nonsense", "video_"):
        error = refused(video_id)
        assert (error["code"], error["param"]) == ("video_not_found", None)
    waiting = sources.create()
    error = refused(waiting)
    assert error["code"] == "video_not_ready"
    assert "the job is queued at 0 %" in error["message"]
    lease = sources.server.claim()
    sources.server.store.fail(lease, JobError("out_of_memory", "The device ran out of memory."))
    assert refused(waiting)["code"] == "video_failed"
    gone = sources.finished()
    sources.server.client.delete(f"/v1/videos/{gone}")
    assert refused(gone)["code"] == "video_not_found"
    error = refused(sources.finished(output_format="gif"), 400)
    assert (error["param"], "only MP4" in error["message"]) == ("video", True)
    error = refused(sources.finished(size="4096x2160"), 400)
    assert (error["param"], "at most 8294400 pixels" in error["message"]) == ("video", True)
    assert not (sources.server.settings.files_folder / "inputs").exists(), "nothing was stored"


def test_an_expired_source_is_gone(sources: Sources) -> None:
    source_id = sources.finished()
    with sources.server.store._database.write() as connection:
        expired = sa.update(jobs).where(jobs.c.id == source_id.removeprefix("video_"))
        connection.execute(expired.values(expires_at=datetime.now(UTC) - GRACE))
    error = error_of(sources.post(f"/{source_id}/remix", {"prompt": "a"}), 404)
    assert error["code"] == "video_expired"
    assert "it expired at" in error["message"]


def test_a_source_that_goes_while_it_is_copied_is_expired(
    sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    source_id = sources.finished()
    key = sources.server.store.get(source_id.removeprefix("video_")).video.key
    prepare = Drafts.prepare

    def too_late(*args: Any, **kwargs: Any) -> Any:
        sources.server.files.delete(key)
        return prepare(*args, **kwargs)

    monkeypatch.setattr(Drafts, "prepare", too_late)
    assert error_of(sources.post(f"/{source_id}/remix", {"prompt": "a"}), 404)["code"] == "video_expired"


@pytest.mark.parametrize("call", ["remix", "edits", "extensions"])
def test_a_source_whose_file_goes_while_it_is_looked_for_is_expired(sources: Sources, call: str) -> None:
    """As where it is deleted between the look at its job and that at its file."""
    source_id = sources.finished()
    sources.server.files.delete(sources.server.store.get(source_id.removeprefix("video_")).video.key)
    body = {"prompt": "a"} if call == "remix" else {"prompt": "a", "seconds": "1", "video": {"id": source_id}}
    answer = sources.post(f"/{source_id}/remix" if call == "remix" else f"/{call}", body)
    assert error_of(answer, 404)["code"] == "video_expired"


def test_anothers_video_is_an_unknown_one(sources: Sources) -> None:
    keys = Keys(sources.server.store)
    keys.create("first", (Scope.ADMIN,))
    mine, other = (keys.create("test", (Scope.GENERATE,), KeyLimits())[1] for _ in range(2))
    source_id = sources.create(mine, size="128x72", fps=12, num_frames=24)
    sources.finish(source_id)
    calls: list[tuple[str, dict[str, Any]]] = [
        (f"/{source_id}/remix", {"prompt": "a"}),
        ("/edits", {"prompt": "a", "video": {"id": source_id}}),
        ("/extensions", {"prompt": "a", "video": {"id": source_id}, "seconds": 1}),
    ]
    for path, body in calls:
        theirs = sources.post(path, body, headers={"Authorization": f"Bearer {other}"})
        unknown_id = "video_" + "0" * 26
        unknown = sources.post(
            path.replace(source_id, unknown_id),
            {**body, "video": {"id": unknown_id}},
            headers={"Authorization": f"Bearer {other}"},
        )
        assert (theirs.status_code, theirs.json()) == (404, unknown.json())
        assert sources.post(path, body, headers={"Authorization": f"Bearer {mine}"}).status_code == 200


def test_a_repetition_is_answered_with_the_first_job_also_after_its_source_went(sources: Sources) -> None:
    source_id = sources.finished()
    name = {"Idempotency-Key": "once"}
    first = sources.post(f"/{source_id}/remix", {"prompt": "a"}, headers=name)
    sources.server.client.delete(f"/v1/videos/{source_id}")
    again = sources.post(f"/{source_id}/remix", {"prompt": "a"}, headers=name)
    assert again.json()["id"] == first.json()["id"]
    other = sources.post(f"/{source_id}/remix", {"prompt": "b"}, headers=name)
    assert error_of(other, 409)["code"] == "idempotency_conflict"
    assert other.headers["x-should-retry"] == "false"


def test_a_derived_video_can_be_made_again(sources: Sources) -> None:
    answer = sources.post("/extensions", ask("json", sources.finished(), prompt="b", seconds="1")["json"])
    job = sources.job(answer)
    lease = sources.server.claim()
    sources.server.store.fail(lease, JobError("out_of_memory", "The device ran out of memory."))
    again = sources.server.client.post(f"/api/v1/jobs/{job.id}/retry")
    assert again.status_code == 201, again.text
    made = sources.server.store.get(again.json()["id"])
    assert replace(made.plan, continues=None) == replace(job.plan, continues=None, is_seed_drawn=False)
    assert made.plan.continues != job.plan.continues
    assert (again.json()["source"], again.json()["continued_frames"]) == (job.request.source, 24)


def test_the_official_client_makes_them(sources: Sources) -> None:
    client = openai.OpenAI(base_url=f"{sources.server.url}/v1", api_key="any", max_retries=0)
    source_id = sources.finished()
    made = client.videos.remix(source_id, prompt="a cat")
    assert (made.remixed_from_video_id, made.seconds) == (source_id, "2")
    edited = client.videos.edit(video=b"", prompt="at night", extra_body={"video": {"id": source_id}})
    assert edited.status == "queued"
    edited = client.videos.edit(
        video=("a.mp4", sources.mp4), prompt="at night", extra_body={"model": "every"}
    )
    assert edited.size == "128x72"
    longer = client.videos.extend(
        video=b"", prompt="on", seconds="4", extra_body={"video": {"id": source_id}}
    )
    assert longer.seconds == "6"
    with pytest.raises(openai.NotFoundError) as caught:
        client.videos.remix("video_nonsense", prompt="a")
    assert caught.value.code == "video_not_found"


def test_natively_a_video_is_another_jobs_by_its_id(sources: Sources) -> None:
    source_id = sources.finished()

    def create(**body: Any) -> httpx.Response:
        answer: httpx.Response = sources.server.client.post(
            "/api/v1/jobs", json={"prompt": "a", "model": "every", **body}
        )
        return answer

    longer = create(continues={"job": source_id}, num_frames=30).json()
    assert (longer["num_frames"], longer["fps"], longer["width"], longer["continued_frames"]) == (
        30,
        12,
        128,
        24,
    )
    assert longer["source"] == source_id.removeprefix("video_")
    sent = create(continues=base64.b64encode(sources.mp4).decode()).json()
    assert (sent["continued_frames"], sent["fps"], sent["source"]) == (24, 12, None)
    assert sent["num_frames"] == 24 + round(17 / 8 * 12), "the model's default clip follows"
    changed = create(video={"job": source_id}, strength=0.3).json()
    assert (changed["mode"], changed["strength"], changed["width"]) == ("video", 0.3, 128)
    for body, parameter in (
        ({"continues": {"job": source_id}, "num_frames": 24}, "num_frames"),
        ({"continues": {"job": source_id}, "num_frames": 12 * 120}, "num_frames"),
        ({"continues": {"job": source_id}, "duration_seconds": 4}, "duration_seconds"),
        ({"continues": {"job": source_id}, "video": {"job": source_id}}, "video"),
        ({"continues": {"job": source_id}, "shots": ["a"]}, "shots"),
        ({"continues": {"id": source_id}}, "continues.id"),
        ({"continues": {}}, "continues.job"),
        ({"continues": {"job": 5}}, "continues.job"),
    ):
        refused = create(**body)
        assert refused.status_code == 400, body
        assert refused.json()["error"]["parameter"] == parameter
    assert create(continues={"job": "nonsense"}).status_code == 404
    planned = sources.server.client.post(
        "/api/v1/plan",
        json={"prompt": "a", "model": "every", "continues": {"job": source_id}, "num_frames": 30},
    ).json()
    assert (planned["continued_frames"], planned["num_frames"], planned["windows"][0]["overlap"]) == (
        24,
        30,
        1,
    )
