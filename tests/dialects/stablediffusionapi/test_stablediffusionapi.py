"""stablediffusionapi's text2video and fetch: other limits than ModelsLab's, and HTTP says 200 whatever is wrong."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from PIL import Image

import enterprise
from vitascope.domain.job import Job
from vitascope.domain.schedulers import EIGHTEEN

PATH = "/api/v1/enterprise/text2video"
FETCH = "/api/v1/enterprise/fetch"


def picture() -> str:
    content = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()


@pytest.fixture(scope="module")
def server(serve: Callable[..., Any]) -> Any:
    return serve(engine={"default_model": "every"}, modelslab={"wait_seconds": 0.0})


@pytest.fixture(scope="module")
def working(serve: Callable[..., Any]) -> Any:
    made = serve(engine={"default_model": "small"})
    made.start_worker()
    return made


def made(server: Any, **fields: Any) -> tuple[Job, dict[str, Any]]:
    answer = server.client.post(PATH, json={"prompt": "a dog", **fields})
    told: dict[str, Any] = answer.json()
    assert (answer.status_code, told["status"]) == (200, "processing"), told
    return server.store.get(server.client.get(f"/api/v1/jobs/{told['id']}").json()["id"]), told


def test_the_pages_own_body_is_answered_as_the_page_shows(working: Any) -> None:
    told = enterprise.post(working, PATH, enterprise.STABLEDIFFUSIONAPI).json()
    assert set(told) - {"tip"} == enterprise.SUCCESS_KEYS
    assert (told["status"], type(told["id"])) == ("success", int)
    assert told["output"][0].endswith(".mp4")
    assert httpx.get(told["output"][0], trust_env=False).status_code == 200
    fetched = working.client.post(FETCH, json={"key": "", "request_id": told["id"]}).json()
    assert set(fetched) - {"tip"} == {"status", "id", "output"}
    assert fetched["output"] == told["output"]


def test_what_is_not_said_is_the_models_own(server: Any) -> None:
    plan = made(server)[0].plan
    assert (plan.width, plan.height, plan.num_frames, plan.fps) == (96, 64, 17, 8)
    assert (plan.num_inference_steps, plan.guidance_scale, plan.format) == (12, 4.0, "mp4")


def test_prompts_are_written_out_unless_told_otherwise(server: Any) -> None:
    job, told = made(server)
    assert [choice.value for choice in job.plan.choices if choice.name == "enhance_prompt"] == ["off"]
    assert "enhance_prompt" not in told["tip"], "nobody has asked for it"
    job, told = made(server, enhance_prompt="yes")
    assert "enhance_prompt" in told["tip"], "this server has nothing for it"
    job, told = made(server, enhance_prompt="no")
    assert not [choice for choice in job.plan.choices if choice.name == "enhance_prompt"]


def test_an_init_image_is_changed_by_its_strength(server: Any) -> None:
    job, _ = made(server, init_image=picture(), strength="0.7")
    assert (job.plan.mode, job.plan.strength) == ("video", 0.7)
    job, _ = made(server, init_image=picture())
    assert (job.plan.mode, job.plan.strength) == ("image", None)
    job, told = made(server, model_id="small", init_image=picture(), strength=0.7)
    assert job.plan.mode == "image"
    assert "strength" in told["tip"]


@pytest.mark.parametrize(("asked", "handed_over"), [("yes", True), ("no", False), (None, False)])
def test_the_load_balancer(server: Any, asked: str | None, handed_over: bool) -> None:
    assert made(server, loadbalancer=asked)[0].request.may_hand_over is handed_over


@pytest.mark.parametrize("name", EIGHTEEN)
def test_every_documented_scheduler_is_taken(server: Any, name: str) -> None:
    job, told = made(server, scheduler=name)
    if job.plan.scheduler != name:
        assert name in told["tip"], "which one runs instead is told"


@pytest.mark.parametrize(
    ("name", "value", "used"),
    [
        ("width", "2000", 1024),
        ("height", 1100, 1024),
        ("num_inference_steps", "90", 50),
        ("guidance_scale", 30, 20),
    ],
)
def test_above_a_maximum_is_the_maximum(server: Any, name: str, value: Any, used: float) -> None:
    job, told = made(server, **{name: value})
    assert getattr(job.plan, name) == told["meta"][name] == used


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_inference_steps", 0), ("guidance_scale", 0.9), ("width", 0), ("strength", -0.1), ("prompt", ""),
        ("prompt", "x" * 32_001), ("width", "wide"), ("scheduler", 7), ("webhook", "http://10.0.0.1/"), ("seed", "x"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_an_error_with_http_200(server: Any, name: str, value: Any) -> None:
    answer = server.client.post(PATH, json={"prompt": "a dog", name: value})
    error = answer.json()
    assert (answer.status_code, error["status"]) == (200, "error"), error
    assert error["message"] == error["messege"]
    assert f"`{name}`" in error["message"]


def test_a_clients_mistake_is_not_logged_with_what_it_said(
    server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        answer = server.client.post(PATH, json={"prompt": "a secret", "width": "a secret"})
    assert answer.json()["status"] == "error"
    assert not [record for record in caplog.records if record.exc_info or "secret" in record.getMessage()]


def test_a_model_that_nobody_has_where_the_operator_wants_an_error(serve: Callable[..., Any]) -> None:
    server = serve(server={"unknown_model_falls_back": False})
    for path, status in ((PATH, 200), ("/api/v1/enterprise/video/text2video", 400)):
        answer = server.client.post(path, json={"prompt": "a dog", "model_id": "unheard-of"})
        assert (answer.status_code, answer.json()["status"]) == (status, "error")
        assert "unheard-of" in answer.json()["message"]


def test_fetch_finds_it_by_number_or_text_and_by_path(server: Any) -> None:
    _, told = made(server)
    for value in (told["id"], str(told["id"])):
        assert server.client.post(FETCH, json={"request_id": value}).json()["id"] == told["id"]
    assert told["fetch_result"] == f"{server.url}{FETCH}/{told['id']}"
    assert server.client.post(told["fetch_result"], json={"key": ""}).json()["status"] == "processing"


@pytest.mark.parametrize("value", [None, "", 0, -1, "abc", 1.5, True, [1], {"a": 1}, 10**30])
def test_fetch_of_what_there_is_not(server: Any, value: Any) -> None:
    answer = server.client.post(FETCH, json={"request_id": value})
    error = answer.json()
    assert (answer.status_code, error["status"]) == (200, "error")
    assert error["message"] == error["messege"] != ""
