"""The vendor's own SDK, unmodified, as the client of `/v1/videos`."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from openai.types import Video
from PIL import Image

from vitascope.domain.job import JobStatus


@pytest.fixture(scope="module")
def working(serve: Callable[..., Any]) -> Any:
    server = serve()
    server.start_worker()
    return server


def sdk_of(server: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)


@pytest.fixture
def sdk(working: Any) -> Iterator[openai.OpenAI]:
    with sdk_of(working) as client:
        yield client


@pytest.fixture
def idle(server: Any) -> Iterator[openai.OpenAI]:
    """A client of a server where nothing works."""
    with sdk_of(server) as client:
        yield client


def test_create_poll_and_download(sdk: openai.OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int]] = []
    retrieve = sdk.videos.with_raw_response.retrieve

    def watch(*args: Any, **kwargs: Any) -> Any:
        response = retrieve(*args, **kwargs)
        video = response.parse()
        seen.append((video.status, video.progress))
        if video.status in ("queued", "in_progress"):
            assert 500 <= int(response.headers["openai-poll-after-ms"]) <= 2000
        return response

    monkeypatch.setattr(sdk.videos.with_raw_response, "retrieve", watch)
    video = sdk.videos.create_and_poll(prompt="a dog", model="sora-2", seconds="4", size="1280x720")
    assert (video.status, video.progress, video.error) == ("completed", 100, None)
    assert (video.seconds, video.size, video.model, video.object) == ("4", "1280x720", "sora-2", "video")
    assert [progress for _, progress in seen] == sorted(progress for _, progress in seen)
    content = sdk.videos.download_content(video.id)
    assert content.response.headers["content-type"] == "video/mp4"
    data = content.read()
    assert len(data) == 256 * 40


def test_a_failed_video_is_returned_not_raised(sdk: openai.OpenAI) -> None:
    video = sdk.videos.create_and_poll(prompt="fail")
    assert video.status == "failed"
    assert video.error is not None
    assert video.error.code == "out_of_memory"
    with pytest.raises(openai.NotFoundError) as error:
        sdk.videos.download_content(video.id)
    assert error.value.code == "video_failed"
    assert "ran out of memory" in error.value.message


def test_retrieve_shows_every_key(idle: openai.OpenAI) -> None:
    made = idle.videos.create(prompt="a dog")
    raw = idle.videos.with_raw_response.retrieve(made.id)
    body = raw.http_response.json()
    assert set(Video.model_fields) <= set(body)
    assert body["metadata"]["vitascope"]["model"] == "small"
    assert raw.headers["x-request-id"].startswith("req_")
    assert raw.parse() == made


def test_extra_body_reaches_the_model(idle: openai.OpenAI) -> None:
    extra = {
        "fps": 16,
        "seed": 7,
        "steps": 3,
        "negative_prompt": "rain",
        "metadata": {"a": "b"},
        "unknown": 1,
    }
    video = idle.videos.create(prompt="a dog", seconds="8", extra_body=extra)
    assert (video.seconds, video.fps, video.seed) == ("8", 16, 7)  # type: ignore[attr-defined]
    assert video.metadata["a"] == "b"  # type: ignore[attr-defined]


def test_input_reference_as_a_file(idle: openai.OpenAI, server: Any) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (96, 64), "red").save(picture, "JPEG")
    video = idle.videos.create(prompt="a dog", input_reference=picture.getvalue())
    job = server.store.get(video.id.removeprefix("video_"))
    assert job.plan.mode == "image"
    with Image.open(server.files.path_for(job.plan.image)) as stored:
        assert (stored.format, stored.size) == ("PNG", (96, 64))
    idle.videos.delete(video.id)
    assert not (server.settings.files_folder / job.plan.image).exists()


def test_list_walks_all_pages(idle: openai.OpenAI) -> None:
    made = [idle.videos.create(prompt=f"dog {number}").id for number in range(5)]
    newest = [video.id for video, _ in zip(idle.videos.list(limit=2), range(5), strict=False)]
    assert newest == made[::-1]
    after = [video.id for video in idle.videos.list(limit=2, order="asc", after=made[0])]
    assert after == made[1:]


def test_delete_cancels_what_has_not_begun(idle: openai.OpenAI, server: Any) -> None:
    video = idle.videos.create(prompt="a dog")
    deleted = idle.videos.delete(video.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (video.id, True, "video.deleted")
    for call in (idle.videos.retrieve, idle.videos.delete, idle.videos.download_content):
        with pytest.raises(openai.NotFoundError) as error:
            call(video.id)
        assert error.value.code == "video_not_found"
    events = server.store.events(video.id.removeprefix("video_"))
    assert [event.kind for event in events] == ["queued", "cancelled", "deleted"]


def test_a_video_cancelled_elsewhere_shows_as_failed(idle: openai.OpenAI, server: Any) -> None:
    video = idle.videos.create(prompt="a dog")
    job = server.store.request_cancel(video.id.removeprefix("video_"))
    assert job.status is JobStatus.CANCELLED
    shown = idle.videos.poll(video.id)
    assert shown.status == "failed"
    assert shown.error is not None
    assert shown.error.code == "cancelled"


def test_content_that_is_not_ready_is_not_found(idle: openai.OpenAI) -> None:
    video = idle.videos.create(prompt="a dog")
    with pytest.raises(openai.NotFoundError) as error:
        idle.videos.download_content(video.id)
    assert error.value.code == "video_not_ready"


def test_a_bad_value_is_the_sdks_bad_request(idle: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        idle.videos.create(prompt="a dog", seconds="100")  # type: ignore[arg-type]
    assert (error.value.code, error.value.param) == ("invalid_parameter", "seconds")
    assert "nearest legal value is 60" in error.value.message
    assert error.value.request_id is not None


def test_a_full_queue_is_the_sdks_rate_limit(serve: Callable[..., Any]) -> None:
    server = serve(store={"max_queued": 1})
    with sdk_of(server) as client:
        client.videos.create(prompt="a dog")
        with pytest.raises(openai.RateLimitError) as error:
            client.videos.create(prompt="a dog")
    assert error.value.code == "queue_full"
    assert error.value.response.headers["retry-after"] == "10"


def test_models_lists_what_is_served(idle: openai.OpenAI) -> None:
    models = idle.models.list().data
    assert models[0].id == "small"  # the default one first
    assert "short" in {model.id for model in models}
