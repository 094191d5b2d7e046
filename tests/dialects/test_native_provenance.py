"""Provenance and watermarks in the native API: what may be asked for, what is stored, what is read back."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitascope import app
from vitascope.cli._marks import open_marks
from vitascope.domain.errors import SettingsError
from vitascope.domain.plan import Plan
from vitascope.domain.video import Video
from vitascope.engine.fake import FakeEngine
from vitascope.service import ids
from vitascope.worker.produce import Marks, Product, produce


def logo() -> bytes:
    buffer = io.BytesIO()
    picture = Image.new("RGBA", (60, 30), (255, 0, 0, 255))
    picture.paste((0, 0, 0, 0), (0, 0, 30, 30))
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def create(server: Any, **body: Any) -> dict[str, Any]:
    answer = server.client.post("/api/v1/jobs", json={"prompt": "a dog", **body})
    assert answer.status_code == 201, answer.text
    job: dict[str, Any] = answer.json()
    return job


def refused(server: Any, **body: Any) -> dict[str, Any]:
    answer = server.client.post("/api/v1/jobs", json={"prompt": "a dog", **body})
    assert answer.status_code == 400, answer.text
    error: dict[str, Any] = answer.json()["error"]
    return error


def make(server: Any, marks: Marks | None = None) -> None:
    """Make the next job as a worker does: really written, really signed."""
    lease = server.claim()
    plan: Plan = lease.job.plan
    spec = app.open_catalog(server.settings).resolve(plan.model)
    out = server.folder / f"made.{plan.format}"
    key = f"videos/{lease.job.id}.{plan.format}"
    marks = marks or open_marks(server.settings)
    *_, product = produce(FakeEngine(0), plan, spec, out, key, "repeat", marks, with_pictures=True)
    assert isinstance(product, Product)
    assert isinstance(product.video, Video)
    for file in product.video.files:
        server.files.put(out.with_suffix(file.key.removeprefix(f"videos/{lease.job.id}")), file.key)
    server.store.succeed(lease, [product.video], product.details(), speed=None, device="cpu")


@pytest.mark.parametrize("format", ["mp4", "gif"])
def test_a_video_made_with_defaults_is_valid(serve: Any, format: str) -> None:
    server = serve()
    job = create(server, format=format)
    assert (job["provenance"], job["watermark"]) == (True, None)
    path = f"/api/v1/jobs/{job['id']}/provenance"
    assert server.client.get(path).json()["error"]["code"] == "video_not_ready"
    make(server)
    found = server.client.get(path).json()
    assert (found["state"], found["is_known"], found["problems"]) == ("valid", True, [])
    assert (found["model"], found["model_source"], found["prompt"]) == ("small", "folder", None)
    assert found["message"].startswith("Made by this server")
    content = server.client.get(f"/api/v1/jobs/{job['id']}/content").content
    assert str(server.folder).encode() not in content
    assert b"a dog" not in content, "the prompt is told only where the operator wants it"


@pytest.mark.parametrize("variant", ["thumbnail", "spritesheet"])
def test_so_are_its_pictures(serve: Any, variant: str) -> None:
    server = serve()
    job = create(server)
    path = f"/api/v1/jobs/{job['id']}"
    make(server)
    found = server.client.get(f"{path}/provenance", params={"variant": variant}).json()
    assert (found["state"], found["is_known"], found["model"], found["problems"]) == (
        "valid",
        True,
        "small",
        [],
    )
    content = server.client.get(f"{path}/content", params={"variant": variant}).content
    assert b"trainedAlgorithmicMedia" in content, "XMP says it too"
    assert b"a dog" not in content
    key = f"videos/{job['id']}." + {"thumbnail": "thumbnail.webp", "spritesheet": "spritesheet.jpg"}[variant]
    shown = content.rindex(b"VP8 ") + 50 if variant == "thumbnail" else len(content) - 50
    server.files.put_bytes(content[:shown] + bytes([content[shown] ^ 1]) + content[shown + 1 :], key)
    found = server.client.get(f"{path}/provenance", params={"variant": variant}).json()
    assert found["state"] == "tampered"
    error = server.client.get(f"{path}/provenance", params={"variant": "poster"}).json()["error"]
    assert error["parameter"] == "variant"


def test_pictures_are_signed_as_their_video_only(serve: Any) -> None:
    server = serve(provenance={"optional": True})
    job = create(server, provenance=False)
    make(server)
    found = server.client.get(f"/api/v1/jobs/{job['id']}/provenance", params={"variant": "thumbnail"}).json()
    assert (found["state"], found["problems"]) == ("none", [])


def test_a_changed_file_is_told(serve: Any) -> None:
    server = serve()
    job = create(server)
    make(server)
    path = server.files.path_for(f"videos/{job['id']}.mp4")
    content = bytearray(path.read_bytes())
    content[-200] ^= 1
    path.write_bytes(content)
    found = server.client.get(f"/api/v1/jobs/{job['id']}/provenance").json()
    assert (found["state"], found["is_known"]) == ("tampered", False)


def test_the_statement_is_left_out_only_where_the_operator_allows_it(serve: Any) -> None:
    strict, lenient = serve(), serve(provenance={"optional": True, "include_prompt": True})
    error = refused(strict, provenance=False)
    assert (error["parameter"], error["nearest"]) == ("provenance", True)
    job = create(lenient, provenance=False)
    assert job["provenance"] is False
    make(lenient)
    found = lenient.client.get(f"/api/v1/jobs/{job['id']}/provenance").json()
    assert (found["state"], found["message"]) == (
        "none",
        "The file carries no signed statement of its origin.",
    )
    job = create(lenient)
    make(lenient)
    assert lenient.client.get(f"/api/v1/jobs/{job['id']}/provenance").json()["prompt"] == "a dog"


def test_a_server_that_signs_nothing_says_so(serve: Any) -> None:
    server = serve(provenance={"enabled": False})
    job = create(server)
    assert job["provenance"] is False
    make(server)
    assert server.client.get(f"/api/v1/jobs/{job['id']}/provenance").json()["state"] == "none"
    assert not server.settings.certificate_file.exists()


def test_an_unknown_job_has_no_provenance(serve: Any) -> None:
    assert serve().client.get(f"/api/v1/jobs/{ids.new_id()}/provenance").status_code == 404


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("Made by AI", {"kind": "text", "text": "Made by AI", "position": "bottom-right", "opacity": 0.5}),
        (
            {"text": "AI", "position": "top", "opacity": "0.9"},
            {"kind": "text", "text": "AI", "position": "top", "opacity": 0.9},
        ),
        ('{"text": "AI"}', {"kind": "text", "text": "AI", "position": "bottom-right", "opacity": 0.5}),
        (False, None),
        ("", None),
    ],
)
def test_a_watermark_is_planned(server: Any, given: object, shown: object) -> None:
    assert create(server, watermark=given)["watermark"] == shown


@pytest.mark.parametrize(
    ("given", "parameter", "nearest"),
    [
        ({"text": "AI", "position": "top_left"}, "watermark.position", "top-left"),
        ({"text": "AI", "opacity": 2}, "watermark.opacity", 1),
        ({"text": "AI", "image": base64.b64encode(logo()).decode()}, "watermark.image", None),
        ({"text": "AI", "size": 3}, "watermark.size", None),
        ({}, "watermark", None),
        ({"image": "!!"}, "watermark.image", None),
        ({"image": base64.b64encode(b"no picture").decode()}, "watermark.image", None),
        ("中", "watermark.text", None),
        (True, "watermark", None),
        (3, "watermark", None),
        ([1], "watermark", None),
    ],
)
def test_a_watermark_that_cannot_be_drawn_is_refused(
    server: Any, given: object, parameter: str, nearest: object
) -> None:
    error = refused(server, watermark=given)
    assert (error["parameter"], error["nearest"]) == (parameter, nearest)


@pytest.mark.parametrize("form", ["json", "file"])
def test_a_picture_is_stored_drawn_and_removed(serve: Any, form: str) -> None:
    server = serve()
    if form == "json":
        mark = {"image": base64.b64encode(logo()).decode(), "opacity": 1, "position": "bottom-right"}
        job = create(server, watermark=mark, fps=8)
    else:
        answer = server.client.post(
            "/api/v1/jobs", data={"prompt": "a dog"}, files={"watermark": ("logo.png", logo())}
        )
        assert answer.status_code == 201, answer.text
        job = answer.json()
    assert job["watermark"]["kind"] == "image"
    stored = server.files.path_for(f"inputs/{job['id']}.watermark.png")
    with Image.open(stored) as picture:
        assert (picture.mode, picture.size, picture.getpixel((5, 5))[3]) == ("RGBA", (60, 30), 0)
    again = server.client.post(f"/api/v1/jobs/{job['id']}/cancel")
    assert again.json()["status"] == "cancelled"
    copy = server.client.post(f"/api/v1/jobs/{job['id']}/retry").json()
    assert server.files.path_for(f"inputs/{copy['id']}.watermark.png").exists(), "a retry has its own"
    server.client.delete(f"/api/v1/jobs/{job['id']}")
    server.client.delete(f"/api/v1/jobs/{copy['id']}")
    assert list((server.settings.files_folder / "inputs").iterdir()) == []


def test_the_operators_watermark_is_on_every_video(serve: Any) -> None:
    server = serve(watermark={"text": "Studio", "always": True})
    job = create(server)
    assert job["watermark"]["text"] == "Studio"
    assert {"name": "watermark", "value": "Studio", "reason": "the operator of this server wants it"} in job[
        "choices"
    ]
    assert refused(server, watermark="Mine")["parameter"] == "watermark"
    assert refused(server, watermark=False)["parameter"] == "watermark"


def test_the_operators_picture_is_needed_when_a_worker_starts_and_not_later(
    serve: Any, tmp_path: Path
) -> None:
    picture = tmp_path / "logo.png"
    picture.write_bytes(logo())
    server = serve(watermark={"image": str(picture)})
    marks = open_marks(server.settings)
    picture.unlink()
    create(server)
    make(server, marks)
    with (
        pytest.raises(SettingsError, match=r"setting `watermark.image`: .* there is no such picture file"),
        app.open_worker(server.settings),
    ):
        pass


def test_a_watermark_is_in_the_file(serve: Any) -> None:
    import av

    server = serve()
    pictures = []
    for mark in (False, {"text": "AI", "opacity": 1, "position": "center"}):
        job = create(server, watermark=mark, seed=7)
        make(server)
        content = server.client.get(f"/api/v1/jobs/{job['id']}/content").content
        with av.open(io.BytesIO(content)) as container:
            pictures.append(
                [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
            )
    for plain, marked in zip(*pictures, strict=True):
        changed = np.abs(plain - marked).max(axis=2) > 60
        assert changed[20:44, 30:66].any(), "each frame has it"
        assert not changed[:10].any()
