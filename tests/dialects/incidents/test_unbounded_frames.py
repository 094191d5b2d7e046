"""Other servers make as many frames as they are asked for, or decode as many as a file claims. Here both are bounded before."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image


@pytest.mark.parametrize(
    "asked",
    [
        {"num_frames": 10**9}, {"num_frames": 2**64}, {"duration_seconds": 1e9}, {"fps": 10**6}, {"width": 10**6},
        {"num_inference_steps": 10**6}, {"num_frames": -1}, {"height": 2**63},
    ],
)  # fmt: skip
def test_an_enormous_wish_is_refused_before_anything_is_stored(server: Any, asked: dict[str, Any]) -> None:
    before = server.client.get("/api/v1/jobs").json()["jobs"]
    answer = server.client.post("/api/v1/jobs", json={"prompt": "a", **asked})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_parameter")
    assert server.client.get("/api/v1/jobs").json()["jobs"] == before


def test_an_animation_of_thousands_of_frames_is_refused(server: Any) -> None:
    frames = [Image.new("P", (2, 2), number % 256) for number in range(1500)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=10, optimize=False)
    answer = server.client.post(
        "/api/v1/jobs", data={"prompt": "a"}, files={"image": ("a.gif", buffer.getvalue())}
    )
    assert (answer.status_code, answer.json()["error"]["parameter"]) == (400, "image")
