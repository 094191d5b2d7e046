"""OpenRouter's video API: every documented example, the vendor's own SDK as the client, and what is refused.

Examples are those of https://openrouter.ai/docs/guides/overview/multimodal/video-generation and of the reference's pages.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
import http.server
import io
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import openrouter
import pytest
import sqlalchemy as sa
from openrouter import components, errors
from PIL import Image

from vitascope.dialects.openrouter import create, schema
from vitascope.dialects.openrouter.models import model_object
from vitascope.domain.errors import InvalidParameter
from vitascope.domain.job import Job, JobError
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import Plan, plan
from vitascope.domain.video import Video
from vitascope.service.keys import Keys
from vitascope.store.tables import jobs
from waiting import eventually

HERE = "127.0.0.2"
GUIDE = {
    "model": "google/veo-3.1",
    "prompt": "A golden retriever playing fetch on a sunny beach with waves crashing in the background",
}


def png(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (200, 120), colour).save(buffer, "PNG")
    return buffer.getvalue()


def data_url(colour: str = "red") -> str:
    return "data:image/png;base64," + base64.b64encode(png(colour)).decode()


class Other(http.server.ThreadingHTTPServer):
    """Has a picture, and takes webhooks."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__((HERE, 0), Handler)
        self.url = f"http://{HERE}:{self.server_port}"
        self.got: list[tuple[dict[str, str], bytes]] = []


class Handler(http.server.BaseHTTPRequestHandler):
    server: Other

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.end_headers()
        self.wfile.write(png())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def other() -> Iterator[Other]:
    with Other() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def server(serve: Callable[..., Any]) -> Any:
    """The default model makes everything, but nothing works there but what a test does itself."""
    return serve(engine={"default_model": "every"}, outbound={"allow": [HERE]})


@pytest.fixture
def sdk(server: Any) -> Iterator[openrouter.OpenRouter]:
    with openrouter.OpenRouter(api_key="any", server_url=f"{server.url}/api/v1") as client:
        yield client


def submit(server: Any, **body: Any) -> Job:
    """Send what an example sends; returns the job."""
    answer = server.client.post("/api/v1/videos", json=body)
    assert answer.status_code == 202, answer.text
    schema.OpenRouterJob.model_validate(answer.json(), extra="forbid")
    job: Job = server.store.get(answer.json()["id"])
    return job


def refused(server: Any, **body: Any) -> dict[str, Any]:
    answer = server.client.post("/api/v1/videos", json={"prompt": "a dog", **body})
    assert answer.status_code == 400, answer.text
    schema.OpenRouterError.model_validate(answer.json(), extra="forbid")
    error: dict[str, Any] = answer.json()["error"]
    assert error["code"] == 400
    return error


def clear(server: Any) -> None:
    """Cancel what waits."""
    for job in server.client.get("/api/v1/jobs", params={"status": "queued"}).json()["jobs"]:
        server.client.post(f"/api/v1/jobs/{job['id']}/cancel")


# the guide, from its first example to its last


def test_submit_poll_and_download_as_the_guides_python_does(server: Any) -> None:
    clear(server)
    with httpx.Client(headers={"Authorization": "Bearer any"}, trust_env=False, timeout=60) as requests:
        result = requests.post(f"{server.url}/api/v1/videos", json=GUIDE).json()
        assert result == {
            "id": result["id"],
            "polling_url": f"{server.url}/api/v1/videos/{result['id']}",
            "status": "pending",
        }
        lease = server.claim()
        assert requests.get(result["polling_url"]).json()["status"] == "in_progress"
        server.finish(lease)
        status = requests.get(result["polling_url"]).json()
        assert status["status"] == "completed"
        assert status["unsigned_urls"] == [f"{result['polling_url']}/content?index=0"]
        assert status["usage"] == {"cost": 0.0, "is_byok": False}
        video = httpx.get(status["unsigned_urls"][0], trust_env=False)  # as there: without a header
        assert (video.status_code, video.headers["content-type"]) == (200, "video/mp4")
        direct = requests.get(f"{result['polling_url']}/content", headers={"Range": "bytes=0-9"})
        assert (direct.status_code, direct.content) == (206, video.content[:10])
        assert requests.head(status["unsigned_urls"][0]).headers["content-length"] == str(len(video.content))
    job = server.store.get(result["id"])
    assert (job.request.prompt, job.request.model) == (GUIDE["prompt"], "every")
    assert job.plan.choices[0].name == "model", "the fallback is told"


def test_an_image_is_the_first_frame(server: Any, other: Other) -> None:
    job = submit(
        server,
        model="alibaba/wan-2.7",
        prompt="A character walking through a forest",
        frame_images=[
            {
                "type": "image_url",
                "image_url": {"url": f"{other.url}/first-frame.png"},
                "frame_type": "first_frame",
            }
        ],
        resolution="1080p",
    )
    assert (job.plan.mode, job.plan.width, job.plan.height) == ("image", 1920, 1080)


def test_an_image_is_a_reference(server: Any, other: Other) -> None:
    job = submit(
        server,
        model="alibaba/wan-2.7",
        prompt="A colossal solar flare beside a planet",
        input_references=[{"type": "image_url", "image_url": {"url": f"{other.url}/style-ref.png"}}],
        resolution="1080p",
    )
    assert (job.plan.mode, len(job.request.references)) == ("reference", 1)


def test_options_of_other_providers_are_ignored_and_ours_are_not(server: Any) -> None:
    options = {"google-vertex": {"parameters": {"personGeneration": "allow", "negativePrompt": "blurry"}}}
    body = {"model": "google/veo-3.1", "prompt": "A time-lapse of a flower blooming"}
    job = submit(server, **body, provider={"options": options})
    assert job.request.negative_prompt == ""
    ours = {"negative_prompt": "blurry", "num_inference_steps": 7, "guidance_scale": 3, "fps": 16}
    job = submit(server, **body, duration=2, provider={"options": {**options, "vitascope": ours}})
    plan = job.plan
    assert (plan.negative_prompt, plan.num_inference_steps, plan.guidance_scale) == ("blurry", 7, 3.0)
    assert (plan.fps, plan.num_frames) == (16, 32)
    error = refused(server, provider={"options": {"vitascope": {"steps": 7}}})
    assert error["metadata"]["parameter"] == "provider.options.vitascope.steps"
    error = refused(server, provider={"options": {"vitascope": {"num_inference_steps": 700}}})
    assert error["metadata"]["parameter"] == "provider.options.vitascope.num_inference_steps"


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled"])
def test_a_callback_tells_the_end_as_the_guide_shows_it(server: Any, other: Other, end: str) -> None:
    clear(server)
    other.got.clear()
    job = submit(server, **GUIDE, callback_url=f"{other.url}/hook")
    if end == "completed":
        server.finish(server.claim())
    elif end == "failed":
        server.store.fail(server.claim(), JobError("invalid_output", "Content policy violation"))
    else:
        server.client.post(f"/api/v1/jobs/{job.id}/cancel")
    eventually(lambda: other.got)
    ((headers, body),) = other.got
    event = httpx.Response(200, content=body).json()
    polled = server.client.get(f"/api/v1/videos/{job.id}").json()
    told: dict[str, Any] = {"id": job.id, "status": end, "generation_id": None, "model": "every"}
    if end == "completed":
        told |= {"unsigned_urls": polled["unsigned_urls"], "usage": {"cost": 0.0, "is_byok": False}}
    else:
        told["error"] = {"failed": "Content policy violation", "cancelled": "Job was cancelled"}[end]
        assert polled["error"] == told["error"]
    assert event == {"type": f"video.generation.{end}", "created_at": event["created_at"], "data": told}
    assert event["created_at"].endswith("Z") and len(event["created_at"]) == len("2026-04-24T12:00:00.000Z")
    assert polled["status"] == end
    assert headers["x-openrouter-idempotency-key"] == f"{job.id}-{end}"
    secret = server.client.get("/api/v1/keys/self/webhook-secret").json()["secrets"][0]["secret"]
    assert is_verified(body, headers["x-openrouter-signature"], secret)
    assert not is_verified(body + b" ", headers["x-openrouter-signature"], secret)
    (delivery,) = server.client.get("/api/v1/webhooks/deliveries", params={"job": job.id}).json()[
        "deliveries"
    ]
    assert (delivery["format"], delivery["id"]) == ("openrouter", headers["webhook-id"])


def is_verified(body: bytes, header: str, secret: str) -> bool:
    """The guide's steps."""
    parts = header.split(",")
    timestamp = next(part for part in parts if part.startswith("t="))[2:]
    mark = next(part for part in parts if part.startswith("v1="))[3:]
    if time.time() - int(timestamp) > 300:
        return False
    expected = hmac.new(secret.encode(), f"{timestamp},".encode() + body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected, mark)


def test_a_rotated_secret_signs_beside_its_successor(server: Any, other: Other) -> None:
    clear(server)
    old = server.client.get("/api/v1/keys/self/webhook-secret").json()["secrets"][0]["secret"]
    rotated = server.client.post("/api/v1/keys/self/webhook-secret/rotate").json()["secrets"]
    other.got.clear()
    job = submit(server, **GUIDE, callback_url=f"{other.url}/hook")
    server.client.post(f"/api/v1/jobs/{job.id}/cancel")
    eventually(lambda: other.got)
    ((headers, body),) = other.got
    first, *marks = headers["x-openrouter-signature"].split(",")
    assert len(marks) == 2
    for mark, secret in zip(marks, (rotated[0]["secret"], old), strict=True):
        assert is_verified(body, f"{first},{mark}", secret)


# the vendor's own SDK


def test_the_sdk_generates_polls_and_downloads(sdk: openrouter.OpenRouter, server: Any) -> None:
    clear(server)
    videos = sdk.video_generation
    made = videos.generate(
        model="google/veo-3.1",
        prompt="A serene mountain landscape at sunset",
        aspect_ratio="16:9",
        duration=8,
        resolution="720p",
    )
    assert (made.status, made.error, made.unsigned_urls) == ("pending", None, None)
    plan = server.store.get(made.id).plan
    assert (plan.width, plan.height, plan.duration_seconds) == (1280, 720, 8.0)
    server.finish(server.claim())
    done = videos.get_generation(job_id=made.id)
    assert done.status == "completed"
    assert done.usage is not None and done.usage.cost == 0
    content = videos.get_video_content(job_id=made.id)
    data = content.read()
    assert done.urls is not None and done.expires_at is not None
    assert httpx.get(done.urls[0], trust_env=False).content == data, "a signed URL needs no key"
    assert done.expires_at > time.time()


def test_the_sdk_sends_frames_and_references(sdk: openrouter.OpenRouter, server: Any) -> None:
    def frame(kind: str, colour: str) -> components.FrameImageTypedDict:
        return {"type": "image_url", "image_url": {"url": data_url(colour)}, "frame_type": kind}  # type: ignore[typeddict-item]

    made = sdk.video_generation.generate(
        model="every",
        prompt="a dog",
        frame_images=[frame("last_frame", "blue"), frame("first_frame", "red")],
        input_references=[{"type": "image_url", "image_url": {"url": data_url()}}],
        seed=7,
        session_id="chat 1",
        user="anna",
        trace={"trace_id": "t1", "team": "films"},
        generate_audio=False,
    )
    job = server.store.get(made.id)
    assert (job.plan.mode, job.plan.seed, job.request.user) == ("last_image", 7, "anna")
    assert job.request.metadata == {
        "session_id": "chat 1",
        "trace": {"trace_id": "t1", "team": "films"},
    }
    choices = {choice.name: choice.value for choice in job.plan.choices}
    assert choices["input_references"] == "ignored", "frames win"
    made = sdk.video_generation.generate(
        model="every",
        prompt="a dog",
        input_references=[
            {"type": "audio_url", "audio_url": {"url": "https://example.com/a.mp3"}},
            {"type": "image_url", "image_url": {"url": data_url()}},
            {"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}},
        ],
    )
    job = server.store.get(made.id)
    assert (job.plan.mode, len(job.request.references)) == ("reference", 1)
    ignored = [choice.name for choice in job.plan.choices if choice.value == "ignored"]
    assert ignored == ["input_references[0]", "input_references[2]"]


def test_the_sdk_lists_models_with_what_they_take(sdk: openrouter.OpenRouter, server: Any) -> None:
    answer = server.client.get("/api/v1/videos/models")
    schema.OpenRouterModelList.model_validate(answer.json(), extra="forbid")
    models = {model.id: model for model in sdk.video_generation.list_videos_models().data}
    assert next(iter(models)) == "every"
    assert models["every"].supported_frame_images == ["first_frame", "last_frame"]
    assert models["short"].supported_frame_images is None
    assert models["short"].supported_durations == [1, 2]
    assert models["every"].supported_durations == list(range(1, 61))
    for model in models.values():
        assert model.supported_sizes is not None
        assert not {"5040x2160"} & set(model.supported_sizes), "nobody can make that"
    assert (models["every"].supported_sizes or [None])[0] == "96x64", "the model's own is the first"
    assert (models["every"].generate_audio, models["every"].seed) == (False, True)


def test_all_that_the_list_says_can_be_asked_for(small_spec: ModelSpec) -> None:
    shown = model_object(small_spec)

    def planned(**body: Any) -> Plan:
        order = create.to_order(create.Fields({"prompt": "a", **body}), lambda _: (small_spec, ()))
        return plan(dataclasses.replace(order.request, seed=1), small_spec)

    for size in shown["supported_sizes"]:
        made = planned(size=size)
        assert f"{made.width}x{made.height}" == size
    for resolution in shown["supported_resolutions"]:
        assert planned(resolution=resolution).height == create.RESOLUTIONS[resolution]
    for ratio in shown["supported_aspect_ratios"]:
        assert planned(aspect_ratio=ratio)
    assert [planned(duration=seconds).duration_seconds for seconds in shown["supported_durations"]] == shown[
        "supported_durations"
    ]
    with pytest.raises(InvalidParameter):
        planned(duration=shown["supported_durations"][-1] + 1)


@pytest.mark.parametrize(
    ("kind", "status", "body"),
    [
        (errors.BadRequestResponseError, 400, {"duration": 1000}),
        (errors.UnauthorizedResponseError, 401, {}),
        (errors.PayloadTooLargeResponseError, 413, {"prompt": "x" * 200_000}),
        (errors.TooManyRequestsResponseError, 429, {}),
    ],
)
def test_the_sdk_raises_its_own_errors(
    serve: Callable[..., Any], kind: Any, status: int, body: dict[str, Any]
) -> None:
    server = serve(server={"max_body_bytes": 100_000}, store={"max_queued": 1})
    if status == 429:
        submit(server, prompt="the only one that may wait")
    if status == 401:
        Keys(server.store).create("another")
    sdk = openrouter.OpenRouter(api_key="unknown", server_url=f"{server.url}/api/v1")
    with sdk as client, pytest.raises(kind) as raised:
        client.video_generation.generate(**{"model": "every", "prompt": "a dog", **body})
    assert raised.value.data.error.code == raised.value.status_code == status


def test_content_that_is_not_there_says_why(sdk: openrouter.OpenRouter, server: Any) -> None:
    clear(server)
    content = sdk.video_generation.get_video_content
    with pytest.raises(errors.NotFoundResponseError):
        content(job_id="job-abc123")
    with pytest.raises(errors.NotFoundResponseError):
        sdk.video_generation.get_generation(job_id="video_01" + "0" * 24)
    job = submit(server, prompt="a", model="every")
    with pytest.raises(errors.BadRequestResponseError, match="not ready"):
        content(job_id=job.id)
    lease = server.claim()
    server.finish(lease)
    with pytest.raises(errors.BadRequestResponseError, match="`index` is 1"):
        content(job_id=job.id, index=1)
    wrong = server.client.get(f"/api/v1/videos/{job.id}/content", headers={"Range": "bytes=999999-"})
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (416, 416)


# sizes


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        ({"resolution": "480p"}, (854, 480)),
        ({"resolution": "720p", "aspect_ratio": "9:16"}, (720, 1280)),
        ({"resolution": "768p", "aspect_ratio": "16:9"}, (1366, 768)),
        ({"resolution": "1080p", "aspect_ratio": "1:1"}, (1080, 1080)),
        ({"resolution": "1080P", "aspect_ratio": "21:9"}, (2520, 1080)),
        ({"resolution": "2k", "aspect_ratio": "4:3"}, (1920, 1440)),
        ({"resolution": "4K", "aspect_ratio": "2:3"}, (2160, 3240)),
        ({"size": "1280x720", "resolution": "480p"}, (1280, 720)),
        ({"aspect_ratio": "3:2"}, (96, 64)),
        ({"aspect_ratio": "2:3"}, (64, 96)),
        ({"aspect_ratio": "16:9"}, (104, 58)),
        ({}, (96, 64)),
    ],
)
def test_sizes(server: Any, asked: dict[str, str], size: tuple[int, int]) -> None:
    job = submit(server, prompt="a", model="every", **asked)
    assert (job.plan.width, job.plan.height) == size
    told = {choice.name for choice in job.plan.choices}
    is_open = len(asked) == 1 and "size" not in asked
    assert (bool({"aspect_ratio", "size"} & told)) is (is_open or (len(asked) == 2 and "size" in asked))


# what is refused


@pytest.mark.parametrize(
    ("body", "parameter", "words"),
    [
        ({"prompt": None}, "prompt", "missing"),
        ({"prompt": " "}, "prompt", "what the video shows"),
        ({"duration": 0}, "duration", "above 0"),
        ({"duration": 61}, "duration", "nearest legal value is 60"),
        ({"duration": "soon"}, "duration", "a number"),
        ({"duration_seconds": 5}, "duration_seconds", "no such parameter"),
        ({"resolution": "8K"}, "resolution", "360p, 480p"),
        ({"aspect_ratio": "5:4"}, "aspect_ratio", "16:9"),
        ({"resolution": "4K", "aspect_ratio": "21:9"}, "resolution", "nearest legal value is '2K'"),
        ({"size": "big"}, "size", "WIDTHxHEIGHT"),
        ({"size": "1281x720"}, "size", "its width must be an even number"),
        ({"size": "9000x720"}, "size", "4096x720"),
        ({"seed": -1}, "seed", "seed"),
        ({"generate_audio": True}, "generate_audio", "sound"),
        ({"previous_job_id": "job-abc123"}, "previous_job_id", "continues"),
        ({"creativity": 3}, "creativity", "upscaling"),
        ({"callback_url": "http://169.254.169.254/"}, "callback_url", "no public address"),
        ({"provider": 5}, "provider", "an object"),
        ({"provider": {"options": {"vitascope": 5}}}, "provider.options.vitascope", "an object"),
        ({"session_id": "x" * 257}, "session_id", "256"),
        ({"frame_images": ["x"]}, "frame_images[0].frame_type", "first_frame"),
        ({"frame_images": [{"frame_type": ["first_frame"]}]}, "frame_images[0].frame_type", "a list"),
        ({"frame_images": [{"frame_type": "middle"}]}, "frame_images[0].frame_type", "middle"),
        ({"frame_images": [{"frame_type": "first_frame"}]}, "frame_images[0].image_url", "missing"),
        ({"frame_images": [{"frame_type": "first_frame", "image_url": {"url": [1]}}]}, "frame_images[0].image_url.url", "a list"),
        ({"input_references": [{"type": ["text"]}]}, "input_references[0]", "image_url"),
        ({"provider": {"options": {"vitascope": {"fps": "x"}}}}, "provider.options.vitascope.fps", "whole number"),
        ({"provider": {"options": []}}, "provider.options", "an object"),
        ({"input_references": [{"type": "text"}]}, "input_references[0]", "image_url"),
        ({"input_references": [{"type": "image_url", "image_url": {"url": "x"}}]}, "input_references[0].image_url.url", "base64"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(server: Any, body: dict[str, Any], parameter: str, words: str) -> None:
    error = refused(server, **{"model": "every", **body})
    assert error["metadata"]["parameter"] == parameter
    assert words in error["message"]


def test_a_picture_that_cannot_be_read_is_named_as_it_was_sent(server: Any) -> None:
    def frame(kind: str, url: str) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": url}, "frame_type": kind}

    broken = "data:image/png;base64,aGVsbG8="
    frames = [frame("first_frame", data_url()), frame("last_frame", broken)]
    error = refused(server, model="every", frame_images=frames)
    assert error["metadata"]["parameter"] == "frame_images[1].image_url.url"
    error = refused(server, model="every", frame_images=frames[1:])
    assert "a first_frame" in error["message"]
    error = refused(server, model="every", frame_images=[frames[0], frames[0]])
    assert "given once" in error["message"]
    error = refused(server, model="short", frame_images=frames[:1])
    assert error["metadata"]["parameter"] == "frame_images[0].image_url.url"
    references = [{"image_url": {"url": data_url()}}, {"image_url": broken}]
    error = refused(server, model="every", input_references=references)
    assert error["metadata"]["parameter"] == "input_references[1].image_url"


def test_the_same_request_twice_is_one_job(server: Any) -> None:
    headers = {"Idempotency-Key": "once"}
    first, second = (server.client.post("/api/v1/videos", json=GUIDE, headers=headers) for _ in range(2))
    assert first.json() == second.json()
    other = server.client.post("/api/v1/videos", json={**GUIDE, "seed": 1}, headers=headers)
    assert other.status_code == 409


def test_the_session_of_the_header_is_kept_where_the_body_has_none(server: Any) -> None:
    for body, kept in (({}, "header"), ({"session_id": "body"}, "body")):
        answer = server.client.post(
            "/api/v1/videos", json={**GUIDE, **body}, headers={"X-Session-Id": "header"}
        )
        assert server.store.get(answer.json()["id"]).request.metadata == {"session_id": kept}


def test_the_table_of_sizes_is_the_vendors() -> None:
    for name, sizes in {
        "480p": ("854x480", "480x854", "480x480", "640x480", "480x640", "720x480", "480x720", "1120x480", "480x1120"),
        "768p": ("1366x768", "768x1366", "768x768", "1024x768", "768x1024", "1152x768", "768x1152", "1792x768", "768x1792"),
    }.items():  # fmt: skip
        made = tuple("{}x{}".format(*create.size_of(name, ratio)) for ratio in create.RATIOS)
        assert made == sizes


def test_a_video_that_is_not_kept_any_more_is_expired(sdk: openrouter.OpenRouter, server: Any) -> None:
    clear(server)
    job = submit(server, prompt="a", model="every")
    server.finish(server.claim())
    past = datetime.now(UTC) - timedelta(days=1)
    with server.store._database.write() as connection:
        connection.execute(sa.update(jobs).where(jobs.c.id == job.id).values(expires_at=past))
    shown = sdk.video_generation.get_generation(job_id=job.id)
    assert (shown.status, shown.unsigned_urls, shown.urls) == ("expired", None, None)
    assert shown.error == "The video is not kept any more"
    with pytest.raises(errors.GoneResponseError, match="expired at"):
        sdk.video_generation.get_video_content(job_id=job.id)


def test_each_video_of_a_job_has_its_address(sdk: openrouter.OpenRouter, server: Any) -> None:
    """Its own requests make one video; what another dialect has asked for is shown too."""
    clear(server)
    body = {"prompt": "a", "num_videos": 3, "duration_seconds": 2}
    job_id = server.client.post("/api/v1/jobs", json=body).json()["id"]
    lease, videos = server.claim(), []
    for index in range(3):
        key, data = f"videos/{job_id}-{index}.mp4", bytes([index]) * 10
        server.files.put_bytes(data, key)
        shape = {"height": 64, "width": 96, "num_frames": 16, "fps": 8}
        kind = {"media_type": "video/mp4", "num_bytes": 10, "sha256": str(index)}
        videos.append(Video(index=index, key=key, **kind, **shape))
    server.store.succeed(lease, videos, {})
    shown = sdk.video_generation.get_generation(job_id=job_id)
    addresses = [f"{server.url}/api/v1/videos/{job_id}/content?index={index}" for index in range(3)]
    assert shown.unsigned_urls == addresses
    assert len(set(shown.urls or ())) == 3
    contents = [httpx.get(url, trust_env=False) for url in (*addresses, *(shown.urls or ()))]
    assert [content.content[:1] for content in contents] == [b"\0", b"\1", b"\2"] * 2
    assert sdk.video_generation.get_video_content(job_id=job_id, index=2).read() == contents[2].content
