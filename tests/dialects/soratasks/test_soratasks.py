"""Sora-style tasks: every field, every refusal, the reply of each state, credits. The vendor's examples are in tests/integration."""

from __future__ import annotations

import base64
import dataclasses
import http.server
import io
import json
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image

from vitascope import app
from vitascope.dialects.soratasks import schema
from vitascope.dialects.soratasks.answers import CODES, code_of, error_response
from vitascope.dialects.soratasks.names import MODELS
from vitascope.domain import errors
from vitascope.domain.access import Scope
from vitascope.domain.errors import VitascopeError
from vitascope.domain.job import Job, JobError
from vitascope.domain.plan import Plan
from vitascope.engine.fake import FakeEngine
from vitascope.service.keys import Keys
from vitascope.store.tables import jobs
from vitascope.worker.produce import Marks, produce
from waiting import eventually

PRO, OLDER = "/api/v1/video/sora-pro", "/api/v1/video/sora-video"
CHECK, CREDITS = "/api/video-generations/check-result", "/api/get-user-credits"
TEXT = {"model": "sora-2-text-to-video", "prompt": "a dog"}
IMAGE = {"model": "sora-2-image-to-video", "prompt": "a dog"}
BOARD = {"model": "sora-2-pro-storyboard"}
FPS = 8


def png(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (200, 120), colour).save(buffer, "PNG")
    return buffer.getvalue()


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64," + base64.b64encode(data).decode()


RED = data_url(png())


class Pictures(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.end_headers()
        self.wfile.write(png("blue"))

    def log_message(self, *_args: Any) -> None:
        pass


HERE = "127.0.0.2"


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[str]:
    """Another server's picture."""
    with http.server.ThreadingHTTPServer((HERE, 0), Pictures) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://{HERE}:{made.server_port}/picture.png"
        made.shutdown()
        thread.join()


@pytest.fixture
def endpoint() -> Iterator[tuple[str, list[bytes]]]:
    """A webhook endpoint, and what it gets."""
    got: list[bytes] = []

    class Hook(Pictures):
        def do_POST(self) -> None:
            got.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

    with http.server.ThreadingHTTPServer((HERE, 0), Hook) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://{HERE}:{made.server_port}/hook", got
        made.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def server(serve: Callable[..., Any]) -> Any:
    return serve(outbound={"allow": [HERE]})


def task_of(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    assert answer.json()["code"] == 0, answer.text
    schema.SoraCreated.model_validate(answer.json(), extra="forbid")
    assert answer.json()["message"] == "ok"
    return str(answer.json()["data"]["taskId"])


def made(server: Any, path: str = PRO, /, **body: Any) -> Job:
    job: Job = server.store.get(task_of(server.client.post(path, json=body)))
    return job


def refused(server: Any, path: str = PRO, /, **body: Any) -> str:
    """Send what cannot be made; returns what is said of it."""
    answer = server.client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    schema.SoraError.model_validate(answer.json(), extra="forbid")
    assert answer.json()["code"] == 40001
    assert answer.json()["data"] is None
    return str(answer.json()["message"])


def told(job: Job) -> dict[str, str]:
    return {choice.name: choice.value for choice in job.plan.choices}


def checked(server: Any, task_id: str, **headers: str) -> dict[str, Any]:
    answer = server.client.post(CHECK, json={"taskId": task_id}, headers=headers)
    assert answer.status_code == 200
    schema.SoraChecked.model_validate(answer.json(), extra="forbid")
    assert list(answer.json()) == ["code", "message", "data"]
    data: dict[str, Any] = answer.json()["data"]
    return data


# what is asked for


@pytest.mark.parametrize("name", MODELS)
def test_each_model_makes_what_its_name_says(server: Any, name: str) -> None:
    kind = MODELS[name]
    more: dict[str, Any] = {"shots": [{"Scene": "a hill", "duration": 5}, {"Scene": "a dog", "duration": 5}]}
    if kind.start != "shots":
        more = {"prompt": "a dog", **({"imageData": RED} if kind.start == "image" else {})}
    job = made(server, model=name, size="high", **more)
    assert job.request.model == "small", "the default model stands in, which is told"
    assert told(job)["model"] == "small"
    assert job.plan.mode == ("image" if kind.start == "image" else "text")
    assert job.plan.num_inference_steps == (18 if kind.is_pro else 12)
    assert (told(job).get("speed") == "lossless") is kind.is_stable
    assert (job.plan.width, job.plan.height) == ((1792, 1024) if kind.has_sizes else (1280, 720))
    assert (job.plan.num_frames, job.plan.fps) == (10 * FPS, FPS)


def test_cards_have_their_say(server: Any, serve: Callable[..., Any], tmp_path: Path) -> None:
    """Of a vendor's name that one has as an alias, and of how many steps its model takes."""
    for path in (server.folder / "cards").iterdir():
        card = path.read_text().replace("maximum = 100", "maximum = 14")
        if path.stem == "every":
            card += 'aliases = ["sora-2-pro-text-to-video"]\n'
        (tmp_path / path.name).write_text(card)
    job = made(serve(cards=str(tmp_path)), model="sora-2-pro-text-to-video", prompt="a dog")
    assert (job.request.model, job.plan.num_inference_steps) == ("every", 14)
    assert "model" not in told(job)


@pytest.mark.parametrize(
    ("asked", "seconds", "of_storyboard"),
    [
        (None, 10, 10), ("", 10, 10), ("10", 10, 10), (10, 10, 10), (15, 15, 15), ("15", 15, 15), (25, 15, 25), ("25", 15, 25),
        (12.5, 10, 10), ("12.6", 15, 15), (20, 15, 15), (20.1, 15, 25), (0, 10, 10), (-7, 10, 10), (1000, 15, 25), (" 15 ", 15, 15),
    ],
    ids=repr,
)  # fmt: skip
def test_lengths_come_to_the_nearest_that_a_model_has(
    server: Any, asked: Any, seconds: int, of_storyboard: int
) -> None:
    job = made(server, **TEXT, nFrames=asked)
    assert job.plan.num_frames == seconds * FPS
    is_said = asked not in (None, "") and float(asked) != seconds
    assert ("nFrames" in told(job)) is is_said
    board = made(server, **BOARD, nFrames=asked, shots=[{"Scene": "a", "duration": 10}])
    assert board.plan.num_frames == of_storyboard * FPS


@pytest.mark.parametrize(
    ("shape", "size", "pixels"),
    [
        (None, None, (1280, 720)), ("landscape", "standard", (1280, 720)), ("portrait", "", (720, 1280)),
        ("landscape", "high", (1792, 1024)), ("portrait", "high", (1024, 1792)), (" Portrait ", "HIGH", (1024, 1792)), ("9:16", None, (720, 1280)),
    ],
)  # fmt: skip
def test_shape_and_size(server: Any, shape: Any, size: Any, pixels: tuple[int, int]) -> None:
    body = {"aspectRatio": shape, "size": size}
    job = made(server, model="sora-2-pro-text-to-video", prompt="a dog", **body)
    assert (job.plan.width, job.plan.height) == pixels
    plain = made(server, **TEXT, **body)
    assert sorted((plain.plan.width, plain.plan.height)) == [720, 1280], "only pro models have sizes"
    assert ("size" in told(plain)) is (size not in (None, "", "standard"))


def test_the_older_call(server: Any, elsewhere: str) -> None:
    job = made(server, OLDER, model="sora-2", prompt="a dog")
    assert (job.plan.width, job.plan.height, job.plan.num_frames) == (720, 1280, 10 * FPS)
    assert (job.plan.mode, job.request.is_public) == ("text", True)
    job = made(
        server, OLDER, model="sora-2-pro", prompt="a dog", aspectRatio="16:9", duration=15, url=elsewhere
    )
    assert (job.plan.width, job.plan.height, job.plan.num_frames) == (1280, 720, 15 * FPS)
    assert (job.plan.mode, job.plan.num_inference_steps) == ("image", 18)
    job = made(server, OLDER, model="sora-2-stable", prompt="a dog", imageData=RED, isPublic=False)
    assert (job.plan.mode, told(job)["speed"], job.request.is_public) == ("image", "lossless", False)


def test_data_wins_over_a_url(server: Any, elsewhere: str) -> None:
    def first_pixel(job: Job) -> Any:
        assert job.request.image is not None
        with server.files.open(job.request.image) as file:
            return Image.open(io.BytesIO(file.read())).convert("RGB").getpixel((50, 50))

    assert first_pixel(made(server, **IMAGE, imageData=RED, imageUrl="http://10.0.0.1/x.png")) == (255, 0, 0)
    for nothing in ("", " ", None):
        assert first_pixel(made(server, **IMAGE, imageData=nothing, imageUrl=elsewhere)) == (0, 0, 255)
    job = made(server, **TEXT, imageUrl="http://10.0.0.1/x.png")
    assert (job.plan.mode, told(job)["imageUrl"]) == ("text", "ignored"), "a text-to-video model reads none"


def test_a_storyboards_shots_follow_each_other(server: Any) -> None:
    shots = [{"Scene": "a hill", "duration": 4}, {"Scene": "a dog", "duration": "6"}]
    job = made(server, **BOARD, prompt="never read", shots=shots)
    assert [(shot.prompt, shot.num_frames) for shot in job.request.shots] == [("a hill", 32), ("a dog", 48)]
    assert "never" not in str(job.plan.to_dict()["windows"]) + job.plan.prompt + job.request.prompt
    assert {window.prompt for window in job.plan.windows} == {"a hill", "a dog"}
    assert told(job)["prompt"] == "ignored"
    overlaps = [(window.shot, window.mode, window.overlap) for window in job.plan.windows]
    assert overlaps[0] == (0, "text", 0)
    assert set(overlaps[1:]) == {(0, "image", 1), (1, "image", 1)}, "each shot goes on from the one before"
    assert {shot.transition for shot in job.request.shots} == {"continue"}


def test_a_storyboard_of_a_model_that_starts_from_text_only_is_cut(serve: Callable[..., Any]) -> None:
    server = serve(engine={"default_model": "short"})
    job = made(server, **BOARD, shots=[{"Scene": f"scene {index}", "duration": 2} for index in range(5)])
    assert (job.plan.num_frames, {window.overlap for window in job.plan.windows}) == (80, {0})
    assert any("cut" in choice.value for choice in job.plan.choices), "which is told"


@pytest.mark.parametrize(
    ("durations", "asked", "expected"),
    [
        ((5, 5), "10", [40, 40]), ((5, 5), 15, [60, 60]), ((1, 3), 10, [20, 60]), ((10, 10, 10), 25, [67, 66, 67]),
        ((0.5, 9.5), 10, [4, 76]), ((0.05, 9.95), 10, [1, 79]), ((1e-9, 1e9, 1e-9), 10, [1, 78, 1]), ((1e-9,) * 16, 10, [5] * 16), ((7,), None, [80]), ((6, 7), None, [55, 65]), ((20, 20), None, [100, 100]),
    ],
)  # fmt: skip
def test_shots_are_scaled_to_the_whole(
    server: Any, durations: tuple[float, ...], asked: Any, expected: list[int]
) -> None:
    job = made(server, **BOARD, nFrames=asked, shots=[{"Scene": "a", "duration": each} for each in durations])
    assert [shot.num_frames for shot in job.request.shots] == expected
    assert job.plan.num_frames == sum(expected)
    assert ("shots" in told(job)) is (sum(expected) != sum(durations) * FPS)


def test_a_size_that_is_not_looked_at_harms_nothing(server: Any) -> None:
    """Half of a character in what is told of it: the job, and every list with it, could not be answered."""
    for odd in ("\ud800", "\x00", 5, {"a": 1}, ["x" * 10_000]):
        content = json.dumps({**TEXT, "size": odd}).encode()
        task = task_of(server.client.post(PRO, content=content, headers={"content-type": "application/json"}))
        assert server.client.get(f"/api/v1/jobs/{task}").status_code == 200
    assert server.client.get("/api/v1/jobs").status_code == 200


def test_watermarks(server: Any, serve: Callable[..., Any]) -> None:
    assert made(server, **TEXT).plan.watermark is None
    assert made(server, **TEXT, removeWatermark=True).plan.watermark is None
    for no in (False, "false"):
        mark = made(server, **TEXT, removeWatermark=no).plan.watermark
        assert mark is not None
        assert mark.text == "Vitascope"
    own = serve(watermark={"text": "Studio"})
    assert made(own, **TEXT).plan.watermark is None, "removed, as the default is"
    mark = made(own, **TEXT, removeWatermark=False).plan.watermark
    assert mark is not None
    assert mark.text == "Studio"
    always = serve(watermark={"text": "Studio", "always": True})
    for value in (None, True, False):
        job = made(always, **TEXT, removeWatermark=value)
        assert job.plan.watermark is not None
        assert told(job)["watermark"] == "Studio"


def test_a_watermark_is_seen_in_the_file(server: Any, tmp_path: Path) -> None:
    job = made(server, **TEXT, removeWatermark=False)
    spec = app.open_catalog(server.settings).resolve("small")

    def frames(plan: Plan, name: str) -> Any:
        out = tmp_path / name
        *_, product = produce(FakeEngine(0), plan, spec, out, "videos/x.mp4", "repeat", Marks())
        assert (product.video.width, product.video.height, product.video.num_frames) == (1280, 720, 80)
        with av.open(str(out)) as container:
            decoded = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
        assert len(decoded) == 80
        return np.stack(decoded[::20]).astype(int)

    marked = frames(job.plan, "marked.mp4")
    plain = frames(dataclasses.replace(job.plan, watermark=None), "plain.mp4")
    corner = np.abs(marked - plain)[:, 540:, 960:]
    assert (corner.reshape(len(corner), -1).max(axis=1) > 40).all(), "on each frame, bottom right"
    assert np.abs(marked - plain)[:, :360, :640].max() < 40, "and nowhere else"


def test_videos_are_public_unless_their_client_says_no(server: Any) -> None:
    assert made(server, **TEXT).request.is_public
    assert made(server, **TEXT, isPublic="true").request.is_public
    assert not made(server, **TEXT, isPublic=False).request.is_public


# what is refused

SHOT = {"Scene": "a", "duration": 5}
NOTHING: dict[str, Any] = {}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"prompt": "a"}, "`model` is missing, but it must be one of sora-2-text-to-video"),
        ({"model": "sora-2", "prompt": "a"}, "it must be one of"),
        ({"model": "sora-2-pro-text-to-vidoe", "prompt": "a"}, "nearest legal value is 'sora-2-pro-text-to-video'"),
        ({"model": "pocket", "prompt": "a"}, "it must be one of"),
        ({"model": 7, "prompt": "a"}, "`model` is 7, but it must be text"),
        ({"model": "sora-2-text-to-video"}, "`prompt` is missing"),
        ({**TEXT, "prompt": " \n"}, "`prompt` is missing"),
        ({**TEXT, "prompt": ["a"]}, "`prompt` is a list"),
        ({**IMAGE}, "`imageData` is missing, but this model needs it, or `imageUrl`"),
        ({**IMAGE, "imageData": "", "imageUrl": None}, "`imageData` is missing"),
        ({**IMAGE, "imageData": "data:image/png;base64,iVBORw0KGgoAAA..."}, "cut short"),
        ({**IMAGE, "imageData": "data:image/png;base64,"}, "`imageData` is"),
        ({**IMAGE, "imageData": "data:image/png,abc"}, "its base64 is broken"),
        ({**IMAGE, "imageData": base64.b64encode(png()).decode()}, "it must be a data URL in base64"),
        ({**IMAGE, "imageData": "https://example.com/x.png"}, "send a URL as `imageUrl`"),
        ({**IMAGE, "imageData": data_url(b"%PDF-1.7 of no picture", "application/pdf")}, "data URL of an image"),
        ({**IMAGE, "imageData": data_url(b"no picture at all")}, "`imageData` is"),
        ({**IMAGE, "imageData": data_url(png()[:60])}, "`imageData` is"),
        ({**IMAGE, "imageData": 7}, "`imageData` is 7, but it must be text"),
        ({**IMAGE, "imageUrl": RED}, "send a data URL as `imageData`"),
        ({**IMAGE, "imageUrl": "ftp://example.com/x.png"}, "it must be an http or https URL"),
        ({**IMAGE, "imageUrl": "file:///etc/passwd"}, "it must be an http or https URL"),
        ({**IMAGE, "imageUrl": "http://127.0.0.1/x.png"}, "`imageUrl` is"),
        ({**IMAGE, "imageUrl": "http://169.254.169.254/latest/meta-data/"}, "`imageUrl` is"),
        ({**IMAGE, "imageUrl": "http://10.0.0.1/x.png"}, "`imageUrl` is"),
        ({**TEXT, "aspectRatio": "square"}, "`aspectRatio` is 'square', but it must be one of landscape, portrait"),
        ({**TEXT, "nFrames": "ten"}, "`nFrames` is 'ten', but it must be a number"),
        ({**TEXT, "nFrames": "10s"}, "`nFrames` is '10s', but it must be a number"),
        ({**TEXT, "nFrames": True}, "`nFrames` is True, but it must be a number"),
        ({**TEXT, "nFrames": [10]}, "`nFrames` is a list"),
        ({**TEXT, "model": "sora-2-pro-text-to-video", "size": "1080p"}, "`size` is '1080p', but it must be one of standard, high"),
        ({**TEXT, "removeWatermark": "perhaps"}, "`removeWatermark` is 'perhaps', but it must be true or false"),
        ({**TEXT, "isPublic": 2}, "`isPublic` is 2"),
        ({**TEXT, "nframes": 10}, "did you mean `nFrames`?"),
        ({**BOARD}, "`shots` is missing, but a storyboard needs at least one {Scene, duration}"),
        ({**BOARD, "prompt": "a", "shots": []}, "`shots` is missing"),
        ({**BOARD, "shots": "a hill"}, "`shots[0]` is 'a hill', but it must be an object"),
        ({**BOARD, "shots": [SHOT, {"duration": 5}]}, "`shots[1].Scene` is missing"),
        ({**BOARD, "shots": [{"scene": "a", "duration": 5}]}, "did you mean `Scene`?"),
        ({**BOARD, "shots": [{"Scene": "  ", "duration": 5}]}, "`shots[0].Scene` is missing"),
        ({**BOARD, "shots": [{"Scene": "a"}]}, "`shots[0].duration` is missing"),
        ({**BOARD, "shots": [SHOT, {"Scene": "a", "duration": 0}]}, "`shots[1].duration` is 0"),
        ({**BOARD, "shots": [{"Scene": "a", "duration": -5}]}, "must be a number of seconds above 0"),
        ({**BOARD, "shots": [{"Scene": "a", "duration": "long"}]}, "`shots[0].duration` is 'long'"),
        ({**BOARD, "shots": [SHOT] * 17}, "it may have 16 entries at most"),
        ({**BOARD, "shots": [SHOT, None]}, "`shots[1]` is null"),
    ],
)  # fmt: skip
def test_what_cannot_be_made_is_refused_with_what_to_change(
    server: Any, body: dict[str, Any], words: str
) -> None:
    before = server.client.get("/api/v1/queue").json()["queued"]
    assert words in refused(server, **body)
    assert server.client.get("/api/v1/queue").json()["queued"] == before, "nothing was queued"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"model": "sora-2-pro-text-to-video", "prompt": "a"}, "it must be one of sora-2, sora-2-pro, sora-2-stable"),
        ({"model": "sora-2"}, "`prompt` is missing"),
        ({"model": "sora-2", "prompt": "a", "duration": "x"}, "`duration` is 'x'"),
        ({"model": "sora-2", "prompt": "a", "url": "here"}, "`url` is 'here'"),
        ({"model": "sora-2", "prompt": "a", "remixTargetId": "s_1"}, "`remixTargetId` is given"),
        ({"model": "sora-2", "prompt": "a", "characters": ["x"]}, "leave it out"),
        ({"model": "sora-2", "prompt": "a", "nFrames": 10}, "there is no such parameter"),
    ],
)  # fmt: skip
def test_the_older_call_refuses_likewise(server: Any, body: dict[str, Any], words: str) -> None:
    assert words in refused(server, OLDER, **body)


def test_a_model_that_cannot_make_it_says_so_in_the_clients_words(serve: Callable[..., Any]) -> None:
    server = serve(engine={"default_model": "short"})
    assert refused(server, **TEXT) == (
        "`nFrames` is '10', but model `short` makes from 1 to 17 frames at 8 fps. "
        "(model `short` cannot make this length: the server needs another model for it)"
    )
    assert "`shots[0].duration` is '10'" in refused(server, **BOARD, shots=[{"Scene": "a", "duration": 10}])
    assert "`imageData` is given" in refused(server, **IMAGE, imageData=RED)
    strict = serve(server={"unknown_model_falls_back": False})
    answer = strict.client.post(PRO, json=TEXT).json()
    assert (answer["code"], answer["data"]) == (40002, None)


@pytest.mark.parametrize("path", [PRO, OLDER, CHECK])
def test_bodies_that_cannot_be_read(server: Any, path: str) -> None:
    def post(content: bytes, kind: str = "application/json") -> tuple[int, int, Any]:
        answer = server.client.post(path, content=content, headers={"content-type": kind})
        return answer.status_code, answer.json()["code"], answer.json()["data"]

    assert post(b"{") == (200, 40004, None)
    assert post(b"[]") == (200, 40004, None)
    assert post(b'{"model": "a", "model": "b"}') == (200, 40001, None)
    assert post(b"<a/>", "text/xml") == (415, 41501, None)


@pytest.mark.parametrize(
    "content",
    [
        rb'{"\ud800": 1}', rb'{"\ud800": 1, "\ud800": 2}', rb'{"model": "sora-2-pro-storyboard", "shots": [{"\ud800": 1}]}',
        rb'{"model": "sora-2-pro-storyboard", "shots": "[{\"\\ud800\": 1}]"}',
    ],
)  # fmt: skip
def test_names_that_no_answer_can_hold(server: Any, content: bytes) -> None:
    answer = server.client.post(PRO, content=content, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (200, 40001), answer.text
    assert r"\ud800" in answer.json()["message"]


# how it goes on


def clear(server: Any) -> None:
    """Cancel what waits."""
    for job in server.client.get("/api/v1/jobs", params={"status": "queued", "limit": 100}).json()["jobs"]:
        server.client.post(f"/api/v1/jobs/{job['id']}/cancel")


@pytest.fixture
def idle(server: Any) -> Any:
    """The module's server, where nothing waits."""
    while server.client.get("/api/v1/queue").json()["queued"]:
        clear(server)
    return server


def test_a_task_from_its_beginning_to_its_file(idle: Any) -> None:
    server = idle
    job = made(server, **TEXT)
    waiting = {
        "status": "pending",
        "progress": 0,
        "result_url": "",
        "result_urls": [],
        "failure_reason": "",
        "error_message": None,
        "credits_refunded": False,
        "refund_trans_no": None,
        "result_pid": "",
        "result_pids": [],
        "metadata": {"remixTargetId": None, "characters": []},
    }
    assert checked(server, job.id) == waiting
    lease = server.claim()
    server.store.report(lease, 35, "denoise")
    assert checked(server, f" {job.id} ") == {**waiting, "status": "running", "progress": 35}
    server.finish(lease)
    done = checked(server, job.id)
    url = done["result_url"]
    assert done == {
        **waiting,
        "status": "succeeded",
        "progress": 100,
        "result_url": url,
        "result_urls": [url],
        "result_pid": f"s_{job.id}",
        "result_pids": [f"s_{job.id}"],
    }
    assert url.startswith(server.url)
    assert url.endswith(".mp4")
    file = httpx.get(url, trust_env=False)
    assert (file.status_code, file.headers["content-type"]) == (200, "video/mp4")
    with server.store._database.write() as connection:
        connection.execute(
            sa.update(jobs).values(expires_at=job.created_at - timedelta(days=1)).where(jobs.c.id == job.id)
        )
    gone = checked(server, job.id)
    assert (gone["status"], gone["result_url"], gone["result_urls"]) == ("failed", "", [])
    assert "not kept" in gone["failure_reason"]


def test_a_task_that_fails_or_is_cancelled_says_why(idle: Any) -> None:
    server = idle
    job = made(server, **TEXT)
    server.store.fail(server.claim(), JobError("out_of_memory", "The device ran out of memory."))
    failed = checked(server, job.id)
    assert (failed["status"], failed["failure_reason"]) == ("failed", "The device ran out of memory.")
    assert (failed["error_message"], failed["result_url"]) == ("The device ran out of memory.", "")
    job = made(server, **TEXT)
    server.client.post(f"/api/v1/jobs/{job.id}/cancel")
    cancelled = checked(server, job.id)
    assert (cancelled["status"], cancelled["failure_reason"]) == ("failed", "The task was cancelled.")


@pytest.mark.parametrize(
    "task_id", ["281e5b0f39b9", "x" * 5000, "01arz3ndektsv4rrffq69g5fav", "\x00", "../x", 7]
)
def test_tasks_that_nobody_knows(server: Any, task_id: Any) -> None:
    answer = server.client.post(CHECK, json={"taskId": task_id})
    message = answer.json()["message"]
    assert (answer.status_code, answer.json()["data"]) == (200, None)
    assert answer.json()["code"] == (40001 if task_id == "\x00" else 40401), message


@pytest.mark.parametrize("body", [{}, {"taskId": ""}, {"taskId": None}, {"taskId": ["a"]}, {"taskId": True}])
def test_no_task_id(server: Any, body: dict[str, Any]) -> None:
    answer = server.client.post(CHECK, json=body).json()
    assert (answer["code"], answer["data"]) == (40001, None)
    assert "taskId" in answer["message"]


def test_a_request_that_is_sent_again_makes_no_second_task(idle: Any) -> None:
    server = idle
    body = {**IMAGE, "imageData": RED}
    first = task_of(server.client.post(PRO, json=body, headers={"Idempotency-Key": "one"}))
    assert task_of(server.client.post(PRO, json=body, headers={"Idempotency-Key": "one"})) == first
    other = server.client.post(
        PRO, json={**body, "prompt": "a cat"}, headers={"Idempotency-Key": "one"}
    ).json()
    assert (other["code"], other["data"]) == (40901, None)
    assert server.client.get("/api/v1/queue").json()["queued"] == 1


# keys


def test_without_a_key_nothing_is_answered(serve: Callable[..., Any]) -> None:
    server = serve()
    keys = Keys(server.store)
    mine, others, reader = (
        {"authorization": f"Bearer {keys.create(name, scopes)[1]}"}
        for name, scopes in (
            ("a", (Scope.GENERATE,)),
            ("b", (Scope.GENERATE,)),
            ("c", (Scope.READ,)),
        )
    )
    for path in (PRO, OLDER, CHECK, CREDITS):
        for headers in ({}, {"authorization": "Bearer sk-wrong"}):
            answer = eventually(
                lambda path=path, headers=headers: (
                    (found := server.client.post(path, json=TEXT, headers=headers)).status_code == 401
                    and found
                )
            )
            assert answer.json() == {"code": -1, "message": "no auth", "data": None}
    made = server.client.post(PRO, json=TEXT, headers=mine)
    task = task_of(made)
    assert checked(server, task, **mine)["status"] == "pending"
    for headers in (others, reader):
        assert server.client.post(CHECK, json={"taskId": task}, headers=headers).json()["code"] == 40401
    answer = server.client.post(PRO, json=TEXT, headers=reader)
    assert (answer.status_code, answer.json()["code"]) == (403, 40301)
    assert server.client.post(CREDITS, json={}, headers=reader).json()["code"] == 0


def test_credits_are_told_held_and_given_back(serve: Callable[..., Any]) -> None:
    server = serve()
    keys = Keys(server.store)
    key, secret = keys.create("client")
    admin = {"authorization": f"Bearer {keys.create('operator', (Scope.ADMIN,))[1]}"}
    mine = {"authorization": f"Bearer {secret}"}

    def left(content: bytes = b"{}") -> int:
        answer = server.client.post(CREDITS, content=content, headers=mine)
        assert answer.status_code == 200
        schema.SoraCredits.model_validate(answer.json(), extra="forbid")
        return int(answer.json()["data"]["left_credits"])

    eventually(lambda: server.client.get("/api/v1/jobs").status_code == 401)
    assert left() == left(b"") == 1_000_000_000, "not counted"
    grant = {"amount": 100}
    server.client.post(f"/api/v1/keys/{key.id}/credits", json=grant, headers=admin).raise_for_status()
    assert left() == 100
    task = task_of(server.client.post(PRO, json=TEXT, headers=mine))
    price = 100 - left()
    assert price == 93, "9.216 megapixel-seconds of 10 credits each"
    answer = server.client.post(PRO, json=TEXT, headers=mine)
    assert (answer.status_code, answer.json()["code"], answer.json()["data"]) == (200, 40201, None)
    assert "93 credits" in answer.json()["message"]
    assert server.client.get("/api/v1/queue", headers=mine).json()["queued"] == 1
    server.store.fail(server.claim(), JobError("internal_error", "It broke."))
    assert checked(server, task, **mine)["credits_refunded"] is True
    assert left() == 100
    task = task_of(server.client.post(PRO, json=TEXT, headers=mine))
    server.finish(server.claim())
    assert checked(server, task, **mine)["credits_refunded"] is False
    assert left() == 7
    assert server.store.ledger_imbalances() == []


def test_endpoints_of_the_key_hear_of_tasks(
    serve: Callable[..., Any], endpoint: tuple[str, list[bytes]]
) -> None:
    server = serve(outbound={"allow": [HERE]})
    url, got = endpoint
    server.client.post("/api/v1/webhooks/endpoints", json={"url": url}).raise_for_status()
    job = made(server, **TEXT)
    server.finish(server.claim())
    eventually(lambda: got)
    assert job.id in got[0].decode()


def test_every_error_has_a_number() -> None:
    def kinds(of: type[VitascopeError]) -> Iterator[type[VitascopeError]]:
        for kind in of.__subclasses__():
            yield kind
            yield from kinds(kind)

    numbers = list(CODES.values())
    assert len(set(numbers)) == len(numbers)
    for kind in kinds(VitascopeError):
        error = kind.__new__(kind)
        VitascopeError.__init__(error)
        error.__dict__ |= {"retry_after_seconds": 1, "limit": 1}
        answer = error_response(error)
        assert code_of(error) not in (0, None)
        assert answer.status_code in (200, code_of(error) // 100, 401), kind
        if issubclass(kind, errors.GenerationError | errors.StorageError):
            assert answer.status_code >= 500
