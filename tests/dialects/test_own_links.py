"""Links of this server's own: with a name at their end, before there is a file, and given back as a picture or video."""

from __future__ import annotations

import io
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from vitascope import app
from vitascope.domain.access import OPEN
from vitascope.domain.cost import Speed, effort_of
from vitascope.service import Service


@pytest.fixture(scope="module")
def service(server: Any) -> Service:
    """What the server's own does, to make links as dialects do."""
    return Service(server.store, app.open_catalog(server.settings), server.files)


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (96, 64), "red").save(buffer, "PNG")
    return buffer.getvalue()


def mp4(num_frames: int = 9) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for index in range(num_frames):
            frame = np.full((64, 96, 3), 20 * index, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def uploaded(server: Any, service: Service, data: bytes, suffix: str) -> str:
    """Upload a file; returns a link to it."""
    files = {"file": ("x", data)}
    body = server.client.post("/v1/files", data={"purpose": "user_data"}, files=files).json()
    file = service.files.get(body["id"].rpartition("-")[2], OPEN)
    url: str = service.results.link_for_file(file, server.url, suffix).url
    return url


def test_a_link_may_end_in_a_name(server: Any, service: Service) -> None:
    server.client.post("/api/v1/jobs", json={"prompt": "a dog"})
    lease = server.claim()
    name = "e53b8d0e-559e-407b-8674-f557c63e09e8.mp4"
    url = service.results.link_for(lease.job, server.url, name=name).url
    assert url.endswith(f".mp4/{name}")
    early = server.client.get(url)
    assert (early.status_code, early.json()["error"]["code"]) == (404, "video_not_ready")
    assert 1 <= int(early.headers["retry-after"]) <= 60
    server.finish(lease)
    answer = server.client.get(url)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "video/mp4")
    assert server.client.get(url.replace(name, "another")).content == answer.content, "it decides nothing"
    assert server.client.get(url[:-6] + "/x/y").status_code == 404
    assert server.client.head(url).headers["content-length"] == str(len(answer.content))


def test_an_early_look_is_told_when_the_file_is_expected(server: Any, service: Service) -> None:
    server.client.post("/api/v1/jobs", json={"prompt": "a dog"})
    measured = server.claim()
    effort = effort_of(measured.job.plan)
    server.finish(measured, Speed(effort.model, effort.work, 30.0 / effort.num_steps, 0.0))
    server.client.post("/api/v1/jobs", json={"prompt": "a dog"})
    lease = server.claim()
    url = service.results.link_for(lease.job, server.url).url
    assert 5 <= int(server.client.get(url).headers["retry-after"]) <= 60


def test_an_uploaded_file_has_a_link(server: Any, service: Service) -> None:
    url = uploaded(server, service, png(), "png")
    assert url.endswith(".png")
    answer = server.client.get(url)
    assert answer.content == png()
    assert answer.headers["content-type"] == "application/octet-stream", "no browser shows what anyone sent"
    assert server.client.get(url.replace(".png", ".jpg")).status_code == 404, "it is part of what is signed"
    file_id = server.client.get("/v1/files").json()["data"][0]["id"]
    server.client.delete(f"/v1/files/{file_id}")
    assert server.client.get(url).status_code == 404


@pytest.mark.parametrize("path", ["/api/v1/jobs", "/v1/videos"])
def test_a_picture_may_be_a_link_of_ours_although_loopback_is_not_fetched(
    server: Any, service: Service, path: str
) -> None:
    url = uploaded(server, service, png(), "png")
    field = "image" if path == "/api/v1/jobs" else "input_reference"
    answer = server.client.post(path, json={"prompt": "a dog", "model": "small", field: url})
    assert answer.status_code < 300, answer.text
    job = server.claim().job
    with server.files.open(job.request.image) as stored:
        assert Image.open(stored).convert("RGB").getpixel((0, 0)) == (255, 0, 0)
    elsewhere = f"http://127.0.0.1:1/{url.rpartition('/')[2]}"
    refused = server.client.post(path, json={"prompt": "a dog", "model": "small", field: elsewhere})
    assert refused.status_code == 400, "another address on this machine is what it was"


def test_a_video_may_be_a_link_of_ours(server: Any, service: Service) -> None:
    url = uploaded(server, service, mp4(), "mp4")
    answer = server.client.post("/api/v1/jobs", json={"prompt": "a cat", "model": "every", "video": url})
    assert answer.status_code == 201, answer.text
    assert (answer.json()["num_frames"], answer.json()["width"]) == (9, 96)
    server.finish(server.claim())


def test_a_link_whose_file_is_not_there_yet_is_refused_with_the_reason(server: Any, service: Service) -> None:
    server.client.post("/api/v1/jobs", json={"prompt": "a dog"})
    lease = server.claim()
    url = service.results.link_for(lease.job, server.url).url
    answer = server.client.post("/api/v1/jobs", json={"prompt": "a", "model": "every", "video": url})
    error = answer.json()["error"]
    assert (answer.status_code, error["parameter"]) == (400, "video")
    assert "not ready yet" in error["message"]
    server.finish(lease)
