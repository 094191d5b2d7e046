"""The vendor's three examples, byte for byte, against a real server with the embedded model, which takes few steps here."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import av
import httpx
import numpy as np
import pytest
from PIL import Image

from serving import Server
from vitascope import catalog
from waiting import eventually

TEXT = b"""{
"model": "sora-2-pro-text-to-video",
"prompt": "A cinematic shot of a futuristic city at sunset.",
"aspectRatio": "landscape",
"nFrames": "10",
"size": "high",
"removeWatermark": true,
"isPublic": true
}"""

IMAGE = b"""{
"model": "sora-2-image-to-video-stable",
"prompt": "Turn this image into a dynamic 15s clip.",
"imageData": "data:image/png;base64,iVBORw0KGgoAAA...",
"aspectRatio": "portrait",
"nFrames": "15"
}"""
"""As the page has it, whose picture is cut short."""

STORYBOARD = b"""{
"model": "sora-2-pro-storyboard",
"shots": [
{ "Scene": "Establishing shot of a city skyline at dusk", "duration": 5 },
{ "Scene": "Close-up of a runner splashing through puddles", "duration": 5 }
],
"aspectRatio": "landscape",
"nFrames": "10"
}"""

HEADERS = {
    "authorization": "Bearer YOUR_API_KEY",
    "content-type": "application/json",
    "user-agent": "curl/8.5.0",
}

pytestmark = pytest.mark.timeout(900)

GREEN = (0, 200, 60)

POCKET = Path(catalog.__file__).parent / "cards" / "pocket.toml"


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (360, 640), GREEN).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    server = Server(tmp_path_factory.mktemp("sora"))
    cards = server.home / "cards"
    cards.mkdir(parents=True)
    card = (
        POCKET.read_text("utf-8")
        .replace('id = "pocket"', 'id = "quick"')
        .replace("default = 12", "default = 2")
    )
    assert "default = 2" in card
    (cards / "quick.toml").write_text(card.partition("aliases")[0])
    server.start(VITASCOPE_ENGINE__DEFAULT_MODEL="quick")
    with httpx.Client(base_url=server.url, trust_env=False, timeout=60, headers=HEADERS) as made:
        yield made
    server.stop()


def made(client: httpx.Client, body: bytes) -> tuple[np.ndarray, float]:
    """Send what the example sends and wait as its clients do; returns the frames, and how long they last."""
    answer = client.post("/api/v1/video/sora-pro", content=body)
    assert (answer.status_code, answer.json()["code"], answer.json()["message"]) == (200, 0, "ok"), (
        answer.text
    )
    task_id = answer.json()["data"]["taskId"]

    def result() -> dict[str, object] | None:
        reply = client.post("/api/video-generations/check-result", json={"taskId": task_id}).json()
        assert reply["code"] == 0
        task: dict[str, object] = reply["data"]
        assert task["status"] in ("pending", "running", "succeeded"), task
        return task if task["status"] == "succeeded" else None

    task = eventually(result, 600, 0.5)
    assert task["progress"] == 100
    url = str(task["result_url"])
    assert url.endswith(".mp4")
    assert task["result_urls"] == [url]
    file = httpx.get(url, trust_env=False, timeout=60)
    assert file.status_code == 200
    with av.open(io.BytesIO(file.content)) as container:
        stream = container.streams.video[0]
        frames = np.stack([frame.to_ndarray(format="rgb24")[::8, ::8] for frame in container.decode(stream)])
        assert (stream.frames, stream.average_rate) == (len(frames), 8)
        assert container.duration is not None
        size = (stream.width, stream.height)
    assert size == {TEXT: (1792, 1024), STORYBOARD: (1280, 720)}.get(body, (720, 1280))
    return frames, len(frames) / 8


def test_text_to_video_of_the_larger_size(client: httpx.Client) -> None:
    frames, seconds = made(client, TEXT)
    assert seconds == 10
    listed = client.get("/api/v1/gallery").json()["videos"]
    assert [video["prompt"] for video in listed] == ["A cinematic shot of a futuristic city at sunset."]
    assert frames.std() > 1, "there is something to see"


def test_image_to_video_upright(client: httpx.Client) -> None:
    refused = client.post("/api/v1/video/sora-pro", content=IMAGE)
    assert (refused.status_code, refused.json()["data"]) == (200, None)
    assert "imageData" in refused.json()["message"], "the page's own picture is cut short"
    body = IMAGE.replace(b"iVBORw0KGgoAAA...", base64.b64encode(picture()))
    frames, seconds = made(client, body)
    assert seconds == 15
    first = np.median(frames[0].reshape(-1, 3), axis=0)
    assert np.abs(first - GREEN).max() < 60, "it begins with the picture, in colours that the model knows"


def test_a_storyboard(client: httpx.Client) -> None:
    _, seconds = made(client, STORYBOARD)
    assert seconds == 10
