"""What the native API takes beside a prompt: pictures, videos, references, shots, and the numbers that go with them."""

from __future__ import annotations

import base64
import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from vitascope import media
from vitascope.catalog import Catalog
from vitascope.dialects._http.desk import MAX_STORING
from vitascope.dialects.native import schema
from vitascope.domain.cost import Speed, work_of
from vitascope.domain.plan import Plan, plan
from vitascope.domain.request import GenerationRequest
from waiting import eventually


@pytest.fixture
def client(serve: Any) -> Any:
    return serve().client


def png(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (200, 120), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """One second and a half at 12 fps, 128x72."""
    path: Path = tmp_path_factory.mktemp("video") / "a.mp4"
    media.write_video(
        (np.full((72, 128, 3), 10 * i, np.uint8) for i in range(18)), path, fps=12, format="mp4"
    )
    return path.read_bytes()


def text_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def create(client: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = client.post("/api/v1/jobs", json={"prompt": "a dog", "model": "every", **body})
    assert answer.status_code == 201, answer.text
    job: dict[str, Any] = answer.json()
    return job


def refused(client: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = client.post("/api/v1/jobs", json={"prompt": "a dog", "model": "every", **body})
    assert answer.status_code == 400, answer.text
    error: dict[str, Any] = answer.json()["error"]
    return error


def choice(job: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in job["choices"] if each["name"] == name)
    return found


def test_first_and_last_frame_are_stored(serve: Any) -> None:
    server = serve()
    job = create(server.client, image=text_of(png()), last_image=text_of(png("blue")))
    assert job["mode"] == "last_image"
    for name, colour in ((f"{job['id']}.png", (255, 0, 0)), (f"{job['id']}.last_image.png", (0, 0, 255))):
        with Image.open(server.files.path_for(f"inputs/{name}")) as stored:
            assert (stored.size, stored.getpixel((5, 5))) == ((96, 64), colour), "at the model's size"
    server.client.delete(f"/api/v1/jobs/{job['id']}")
    assert list((server.settings.files_folder / "inputs").iterdir()) == []


@pytest.mark.parametrize("encoding", ["json", "form"])
def test_references_are_kept_as_they_are(serve: Any, encoding: str) -> None:
    server = serve()
    if encoding == "json":
        job = create(server.client, references=[text_of(png()), text_of(png("blue"))])
    else:
        files = [("references[]", ("a.png", png())), ("references[]", ("b.png", png("blue")))]
        answer = server.client.post("/api/v1/jobs", data={"prompt": "a", "model": "every"}, files=files)
        assert answer.status_code == 201, answer.text
        job = answer.json()
    assert job["mode"] == "reference"
    with Image.open(server.files.path_for(f"inputs/{job['id']}.reference-1.png")) as stored:
        assert (stored.size, stored.getpixel((5, 5))) == ((200, 120), (0, 0, 255))


def test_many_uploads_keep_no_others_waiting_and_too_many_come_later(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, go_on, opened = serve(), threading.Event(), media.open_picture

    def open_slowly(content: bytes, **how: Any) -> media.Picture:
        assert go_on.wait(60)
        return opened(content, **how)

    monkeypatch.setattr("vitascope.media.open_picture", open_slowly)
    body = {"prompt": "a", "model": "every", "image": text_of(png())}
    statuses: list[int] = []

    def send() -> None:
        answer = httpx.post(f"{server.url}/api/v1/jobs", json=body, trust_env=False, timeout=60)
        statuses.append(answer.status_code)

    with ThreadPoolExecutor(MAX_STORING + 2) as clients:
        try:
            for _ in range(MAX_STORING + 2):
                clients.submit(send)
            eventually(lambda: len(statuses) == 2, 60)
            assert statuses == [429, 429]
            assert server.client.get("/api/v1/models").status_code == 200
        finally:
            go_on.set()
    assert statuses[2:] == [201] * MAX_STORING


def test_a_large_reference_is_kept_in_its_shape_and_upright(serve: Any) -> None:
    server = serve()
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # lying: its left is up
    Image.new("RGB", (3000, 1500), "red").save(buffer, "JPEG", exif=exif)
    job = create(server.client, references=[text_of(buffer.getvalue())])
    with Image.open(server.files.path_for(f"inputs/{job['id']}.reference-0.png")) as stored:
        assert stored.size == (512, 1024)


def test_a_video_decides_size_and_length(serve: Any, mp4: bytes) -> None:
    server = serve()
    job = create(server.client, video=text_of(mp4))
    assert (job["mode"], job["strength"]) == ("video", 0.6)
    assert (job["width"], job["height"], job["num_frames"], job["fps"]) == (128, 72, 12, 8)
    assert "lasts 1.50 s" in choice(job, "num_frames")["reason"]
    assert choice(job, "size")["value"] == "128x72"
    assert server.files.path_for(f"inputs/{job['id']}.video").read_bytes() == mp4
    asked = create(server.client, video=text_of(mp4), width=96, height=64, num_frames=5, strength=0.2)
    assert (asked["width"], asked["num_frames"], asked["strength"]) == (96, 5, 0.2)
    for side, size in (
        ({"width": 64}, (64, 36)),
        ({"height": 36}, (64, 36)),
        ({"width": 4096}, (4096, 2304)),
    ):
        shaped = create(server.client, video=text_of(mp4), **side)
        assert (shaped["width"], shaped["height"]) == size, "of the video's shape, not the model's"
    server.client.post(f"/api/v1/jobs/{job['id']}/cancel")
    again = server.client.post(f"/api/v1/jobs/{job['id']}/retry").json()
    assert server.files.path_for(f"inputs/{again['id']}.video").read_bytes() == mp4
    same = ("width", "num_frames", "strength", "seed", "choices")
    assert {name: again[name] for name in same} == {name: job[name] for name in same}


def test_shots_share_the_length_and_keep_their_prompts(client: httpx.Client) -> None:
    shots = [
        "a dog runs",
        {"prompt": "it sleeps", "duration_seconds": 2},
        {"prompt": "it wakes", "num_frames": "8"},
    ]
    job = create(client, shots=shots, num_frames=30)
    assert [shot["num_frames"] for shot in job["shots"]] == [6, 16, 8]
    assert [shot["prompt"] for shot in job["shots"]] == ["a dog runs", "it sleeps", "it wakes"]
    assert job["num_frames"] == 30
    assert [shot["duration_seconds"] for shot in job["shots"]] == [0.75, 2, 1]
    assert [shot["transition"] for shot in job["shots"]] == ["cut"] * 3
    answer = client.post("/api/v1/jobs", json={"model": "every", "shots": shots})
    assert answer.json()["prompt"] == "a dog runs / it sleeps / it wakes"


def test_a_shot_goes_on_from_the_one_before_where_the_model_can(client: httpx.Client) -> None:
    shots = [
        {"prompt": "a dog runs", "duration_seconds": 1.5, "transition": "continue"},  # nothing to continue
        {"prompt": "it sleeps", "num_frames": 12, "transition": "continue"},
        {"prompt": "it wakes", "num_frames": 12, "transition": None},
    ]
    job = create(client, shots=shots)
    schema.Job.model_validate(job, extra="forbid")
    assert [shot["transition"] for shot in job["shots"]] == ["cut", "continue", "cut"]
    assert (job["num_frames"], job["duration_seconds"]) == (36, 4.5)
    made = client.post("/api/v1/plan", json={"model": "every", "shots": shots}).json()
    schema.Plan.model_validate(made, extra="forbid")
    assert [(w["mode"], w["overlap"]) for w in made["windows"]] == [("text", 0), ("image", 1), ("text", 0)]
    assert made["native_num_frames"] == 12 + 12 + 13
    short = create(client, model="short", shots=shots)
    assert [shot["transition"] for shot in short["shots"]] == ["cut"] * 3
    assert "model `short` cannot start from a picture" in choice(short, "transition")["reason"]


@pytest.mark.parametrize("asked", [True, "true", {}, {"seed": None}, '{"seed": ""}'])
def test_improved_sampling_draws_a_seed_of_its_own(client: httpx.Client, asked: Any) -> None:
    job = create(client, improved_sampling=asked, seed=5)
    schema.Job.model_validate(job, extra="forbid")
    improved = job["improved_sampling"]
    assert (improved["iterations"], improved["seed"] != 5) == (5, True)
    assert choice(job, "improved_sampling")["value"] == "5 rounds of 12 steps"
    client.post(f"/api/v1/jobs/{job['id']}/cancel")
    again = client.post(f"/api/v1/jobs/{job['id']}/retry").json()
    assert again["improved_sampling"] == improved


def test_improved_sampling_is_told_and_costs_all_its_steps(client: httpx.Client) -> None:
    for nothing in (None, False, "false"):
        assert create(client, improved_sampling=nothing)["improved_sampling"] is None
    body = {"prompt": "a dog", "model": "every", "improved_sampling": {"seed": "7"}, "num_videos": 2}
    made = client.post("/api/v1/plan", json=body).json()
    assert made["improved_sampling"] == {"seed": 7, "iterations": 5}
    assert made["total_steps"] == 5 * made["num_inference_steps"]


def test_a_second_pass_is_planned_and_told(client: httpx.Client) -> None:
    assert create(client)["upscale"] is None
    for nothing in (False, "no"):
        assert create(client, upscale=nothing)["upscale"] is None
    job = create(client, upscale=True, num_inference_steps=20, guidance_scale=2)
    schema.Job.model_validate(job, extra="forbid")
    assert (job["width"], job["height"], job["num_inference_steps"]) == (192, 128, 20)
    assert job["upscale"] == {
        "height": 128, "width": 192, "native_height": 64, "native_width": 96, "strength": 0.4, "guidance_scale": 2.0,
        "num_inference_steps": 20, "scheduler": None, "model": "every",
    }  # fmt: skip
    assert choice(job, "upscale_size")["value"] == "192x128"
    said = {"width": "200", "strength": "0.5", "guidance_scale": 3, "num_inference_steps": 8}
    for body in (said, json.dumps(said)):
        asked = create(client, upscale=body)["upscale"]
        assert (asked["width"], asked["native_width"], asked["strength"]) == (200, 96, 0.5)
        assert (asked["guidance_scale"], asked["num_inference_steps"]) == (3.0, 8)
    plan = client.post("/api/v1/plan", json={"prompt": "a", "model": "every", "upscale": {}}).json()
    schema.Plan.model_validate(plan, extra="forbid")
    assert plan["total_steps"] == 12 + 4
    (model,) = [each for each in client.get("/api/v1/models").json()["models"] if each["id"] == "every"]
    assert model["upscale"]["max_pixels"] == 96 * 64, "of its own sizes only"
    assert (model["upscale"]["model"], model["upscale"]["strength"]["default"]) == ("every", 0.4)


@pytest.mark.parametrize(
    ("body", "parameter", "words"),
    [
        ({"upscale": {"width": 64}}, "upscale.width", "from 96, which the first pass has"),
        ({"upscale": {"strength": 2}}, "upscale.strength", "from 0 to 1"),
        ({"upscale": 1}, "upscale", "it must be true, false or an object"),
        ({"upscale": {"steps": 2}}, "upscale.steps", "no such parameter"),
        ({"upscale": {"width": "wide"}}, "upscale.width", "whole number"),
        ({"upscale": "please"}, "upscale", "true, false or an object"),
        ({"upscale": [1]}, "upscale", "must be an object"),
        ({"model": "small", "last_image": "PNG", "image": "PNG"}, "last_image", "from text or an image only"),
        ({"model": "short", "image": "PNG"}, "image", "from text only"),
        ({"last_image": "PNG"}, "last_image", "also needs `image`"),
        ({"video": "MP4", "image": "PNG"}, "image", "cannot be used beside `video`"),
        ({"references": ["PNG"], "image": "PNG"}, "image", "cannot be used beside `references`"),
        ({"references": ["PNG"] * 9}, "references", "8 entries at most"),
        ({"references": ["PNG", "AAAA"]}, "references[1]", "cannot be read"),
        ({"video": "PNG"}, "video", "not a video"),
        ({"image": "MP4"}, "image", "not a picture"),
        ({"strength": 0.5}, "strength", "none is given"),
        ({"video": "MP4", "strength": 0.95}, "strength", "from 0.1 to 0.9"),
        ({"video": "MP4", "strength": 0.1, "num_inference_steps": 5}, "strength", "none would run"),
        ({"clip_skip": 12}, "clip_skip", "from 0 to 11"),
        ({"model": "small", "clip_skip": 1}, "clip_skip", "no CLIP text encoder"),
        ({"improved_sampling": "often"}, "improved_sampling", "true, false, or an object with `seed`"),
        ({"improved_sampling": {"iterations": 3}}, "improved_sampling.iterations", "no such parameter"),
        ({"improved_sampling": {"seed": -1}}, "improved_sampling.seed", "from 0"),
        ({"improved_sampling": {"seed": "x"}}, "improved_sampling.seed", "whole number"),
        ({"improved_sampling": True, "video": "MP4"}, "improved_sampling", "starts from its own frames"),
        ({"preview_every": -1}, "preview_every", "from 0"),
        ({"shots": [{"prompt": "a", "seconds": 3}]}, "shots[0].seconds", "no such parameter"),
        ({"shots": [{"prompt": ""}]}, "shots[0].prompt", "what the shot shows"),
        ({"shots": [{"prompt": "a", "transition": "fade"}]}, "shots[0].transition", "one of continue, cut"),
        ({"shots": [{"prompt": "a", "transition": True}]}, "shots[0].transition", "text"),
        (
            {"shots": [{"prompt": "a", "num_frames": 9, "duration_seconds": 1}]},
            "shots[0].duration_seconds",
            "given too",
        ),
        ({"shots": [3]}, "shots[0]", "text or an object"),
        ({"shots": ["a"] * 17}, "shots", "16 entries at most"),
        ({"shots": ["a", {"prompt": "b", "num_frames": 500}]}, "shots[1].num_frames", "from 1 to 480 frames"),
        ({"shots": ["a", "b"], "num_frames": 1}, "num_frames", "at least one frame"),
        ({"shots": "[not JSON"}, "shots", "JSON text"),
        ({"shots": [None]}, "shots[0]", "is null"),
        ({"video": {"url": "x"}}, "video.url", "no such parameter"),
    ],
)
def test_bad_input_is_refused_exactly(
    client: httpx.Client, mp4: bytes, body: dict[str, Any], parameter: str, words: str
) -> None:
    def filled(value: Any) -> Any:
        if isinstance(value, list):
            return [filled(each) for each in value]
        return (
            {"PNG": text_of(png()), "MP4": text_of(mp4)}.get(value, value)
            if isinstance(value, str)
            else value
        )

    error = refused(client, **{name: filled(value) for name, value in body.items()})
    assert (error["code"], error["parameter"]) == ("invalid_parameter", parameter)
    assert words in error["message"]
    assert client.get("/api/v1/jobs").json()["jobs"] == []


@pytest.mark.parametrize(
    "body",
    [
        {"strength": 0.95, "video": "MP4"},
        {"strength": 0.1, "num_inference_steps": 5, "video": "MP4"},
        {"clip_skip": 12},
        {"preview_every": 5000},
        {"upscale": {"width": 64}},
        {"improved_sampling": {"seed": -1}},
        {"shots": ["a", "b"], "num_frames": 1},
    ],
)
def test_the_nearest_legal_value_is_accepted(client: httpx.Client, mp4: bytes, body: dict[str, Any]) -> None:
    body = {name: text_of(mp4) if value == "MP4" else value for name, value in body.items()}
    error = refused(client, **body)
    name, _, inner = error["parameter"].partition(".")
    create(client, **{**body, name: {**body[name], inner: error["nearest"]} if inner else error["nearest"]})


def test_a_plan_tells_how_it_would_be_made_and_stores_nothing(serve: Any) -> None:
    server = serve()
    body = {
        "prompt": "a dog",
        "model": "small",
        "width": 128,
        "height": 128,
        "duration_seconds": 4,
        "fps": 24,
    }
    made = server.client.post("/api/v1/plan", json=body).json()
    schema.Plan.model_validate(made, extra="forbid")
    assert (made["native_width"], made["native_height"], made["fit"]) == (96, 64, "pad")
    assert (made["num_frames"], made["fps"], made["native_fps"], made["expected_seconds"]) == (
        96,
        24,
        8,
        None,
    )
    assert [window["num_frames"] for window in made["windows"]] == [17, 17]
    assert made["total_steps"] == 24
    assert {choice["name"] for choice in made["choices"]} == {"native_size", "windows", "resample"}
    assert server.client.get("/api/v1/jobs").json()["jobs"] == []
    server.store.worker_seen("test", "cpu")
    plan = server.store.create("01h00000000000000000000000", *_planned(server), 10).plan
    lease = server.claim()
    server.finish(lease, Speed("small", work_of(plan), 0.5, 1.0))
    known = server.client.post("/api/v1/plan", json={"prompt": "a", "model": "small"}).json()
    assert known["expected_seconds"] == pytest.approx(12 * 0.5 + 1.0)
    refused = server.client.post("/api/v1/plan", json={**body, "fps": 99}).json()["error"]
    assert (refused["parameter"], refused["nearest"]) == ("fps", 60)


def test_a_plan_says_what_only_the_video_tells(client: httpx.Client, mp4: bytes) -> None:
    body = {"prompt": "a dog", "model": "every", "video": text_of(mp4)}
    made = client.post("/api/v1/plan", json=body).json()
    assert (made["mode"], choice(made, "size")["value"]) == ("video", "the video's")
    assert "not read for a plan" in choice(made, "num_frames")["reason"]
    made = client.post("/api/v1/plan", json={**body, "width": 96, "height": 64, "num_frames": 5}).json()
    assert made["choices"] == []


def _planned(server: Any) -> tuple[GenerationRequest, Plan]:
    request = GenerationRequest(prompt="a", model="small", seed=1)
    return request, plan(request, Catalog.open(server.settings.cards_folder).resolve("small"))
