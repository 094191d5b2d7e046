"""ModelsLab's calls: what they take, what they answer, and what is refused and how."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import logging
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

import endpoints
import enterprise
import enterprise_golden
from vitascope.catalog import Catalog
from vitascope.dialects._enterprise import create, making, schema
from vitascope.dialects._enterprise.calls import COMMON, V6_META, Call
from vitascope.dialects.modelslab.calls import calls
from vitascope.domain.access import KeyLimits, Scope
from vitascope.domain.errors import InvalidParameter
from vitascope.domain.job import Job, JobError
from vitascope.domain.request import TEMP_SECONDS, GenerationRequest
from vitascope.service.keys import Keys
from waiting import eventually

ENTERPRISE = "/api/v1/enterprise/video"
V6 = "/api/v6/video"
V7 = "/api/v7/video-fusion"

WEBHOOKS = Path(__file__).parent / "golden" / "webhooks"


def png(colour: str = "red") -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(content, "PNG")
    return content.getvalue()


PICTURE = base64.b64encode(png()).decode()


@pytest.fixture(scope="module")
def server(serve: Callable[..., Any]) -> Any:
    """Its default model makes everything; nothing works there but what a test does itself."""
    return serve(
        engine={"default_model": "every"}, modelslab={"wait_seconds": 0.0}, outbound={"allow": ["127.0.0.1"]}
    )


@pytest.fixture(scope="module")
def working(serve: Callable[..., Any]) -> Any:
    made = serve(engine={"default_model": "small"})
    made.start_worker()
    return made


def send(server: Any, path: str, **fields: Any) -> dict[str, Any]:
    """Send a request that is understood."""
    answer = server.client.post(path, json={"prompt": "a dog", **fields})
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    assert told["status"] in ("success", "processing"), told
    return told


def made(server: Any, path: str, **fields: Any) -> tuple[Job, dict[str, Any]]:
    """Return the job of a request, and the reply's `meta`."""
    told = send(server, path, **fields)
    number = told["id"]
    found = server.client.get(f"/api/v1/jobs/{number}").json()
    return server.store.get(found["id"]), told["meta"]


def finish(server: Any, number: int, error: JobError | None = None) -> None:
    """End the job of a number, and those that wait before it."""
    while True:
        lease = server.claim()
        if lease.job.number != number:
            server.store.fail(lease, JobError("cleared", "Cleared."))
        elif error is None:
            return server.finish(lease)
        else:
            return server.store.fail(lease, error)


def refused(answer: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()
    schema.EnterpriseProblem.model_validate(error, extra="forbid")
    assert error["status"] == "error"
    assert error["message"] == error["messege"] != ""
    assert "Traceback" not in error["message"]
    return error


class TestReplies:
    @pytest.mark.parametrize("path", [path for path in enterprise.BODIES if "video/" in path])
    def test_the_pages_own_body_is_answered_with_the_documented_keys(self, working: Any, path: str) -> None:
        answer = enterprise.post(working, path, enterprise.BODIES[path])
        told = answer.json()
        assert (answer.status_code, told["status"]) == (200, "success")
        assert set(told) - {"tip"} == enterprise.SUCCESS_KEYS | enterprise.TOLD_KEYS
        meta = enterprise.OPEN_SORA_META if path.endswith("sora") else enterprise.TEXT_META
        assert set(told["meta"]) == meta
        assert isinstance(told["id"], int)
        assert told["generationTime"] > 0
        assert told["output"] == told["proxy_links"] == told["future_links"]
        suffix = told["meta"]["output_type"]
        assert told["output"][0].endswith(f"/{told['meta']['file_prefix']}.{suffix}")
        assert httpx.get(told["output"][0], trust_env=False).status_code == 200
        schema.EnterpriseVideo.model_validate(told, extra="forbid")

    def test_meta_echoes_the_values_that_were_used(self, working: Any) -> None:
        told = enterprise.post(working, f"{ENTERPRISE}/text2video", enterprise.TEXT2VIDEO).json()
        shown = {
            name: value
            for name, value in told["meta"].items()
            if name not in ("file_prefix", "seed", "model_id")
        }
        assert shown == {
            "base64": "no", "clip_skip": None, "fps": 7, "guidance_scale": 7, "height": 512, "improved_sampling_seed": 42,
            "instant_response": "no", "negative_prompt": "low quality", "num_frames": 16,
            "num_inference_steps": 20, "output_type": "gif", "prompt": "An astronaut riding a horse", "temp": "no",
            "upscale_guidance_scale": 8, "upscale_height": 640, "upscale_num_inference_steps": 20, "upscale_strength": 0.6,
            "upscale_width": 1024, "use_improved_sampling": "no", "width": 512,
        }  # fmt: skip

    def test_a_model_that_is_not_here_is_the_default_one_and_told(self, server: Any) -> None:
        told = send(server, f"{ENTERPRISE}/text2video", model_id="unheard-of")
        assert told["meta"]["model_id"] == "every"
        assert "unheard-of" in told["tip"]

    def test_an_autoencoder_that_is_not_here_is_left_out_and_told(self, server: Any) -> None:
        told = send(server, f"{ENTERPRISE}/text2video", model_id="every", vae="unheard-of")
        assert told["meta"]["model_id"] == "every"
        assert "unheard-of" in told["tip"]

    def test_what_is_still_being_made(self, server: Any) -> None:
        told = send(server, f"{V6}/text2video", seed=7)
        schema.EnterpriseProcessing.model_validate(told, extra="forbid")
        assert isinstance(told["eta"], int)
        assert told["message"] == told["messege"]
        assert told["fetch_result"] == f"{server.url}{V6}/fetch/{told['id']}"
        assert told["output"] == []
        assert set(told["meta"]) == set(V6_META)
        early = httpx.get(told["future_links"][0], trust_env=False)
        assert early.status_code == 404
        assert int(early.headers["retry-after"]) > 0
        waiting = server.client.post(told["fetch_result"], json={"key": ""}).json()
        assert (waiting["status"], waiting["output"]) == ("processing", "")
        assert waiting["meta"] == told["meta"]
        finish(server, told["id"])
        done = server.client.post(told["fetch_result"], json={"key": ""}).json()
        assert (done["status"], done["id"], done["meta"]) == ("success", told["id"], told["meta"])
        ready = httpx.get(told["future_links"][0], trust_env=False)
        assert (ready.status_code, ready.headers["content-type"]) == (200, "image/gif")
        assert httpx.get(done["output"][0], trust_env=False).content == ready.content

    def test_an_instant_reply_waits_for_nothing(self, working: Any) -> None:
        told = send(working, f"{ENTERPRISE}/open_sora", instant_response="yes")
        assert told["status"] == "processing"
        done = eventually(lambda: self.fetched(working, told))
        # a link never promises more than there is: those of temporary files end earlier once that is known
        assert [self.name(link) for link in done["output"]] == [
            self.name(link) for link in told["future_links"]
        ]
        assert httpx.get(told["future_links"][0], trust_env=False).status_code == 200

    def name(self, link: str) -> str:
        return link.rpartition("/")[2]

    def fetched(self, server: Any, told: dict[str, Any]) -> dict[str, Any] | None:
        done: dict[str, Any] = server.client.post(told["fetch_result"], json={"key": ""}).json()
        return done if done["status"] == "success" else None

    def test_a_generation_that_fails(self, working: Any) -> None:
        answer = working.client.post(f"{ENTERPRISE}/text2video", json={"prompt": "fail"})
        told = answer.json()
        schema.EnterpriseFailure.model_validate(told, extra="forbid")
        assert (answer.status_code, told["status"], told["output"]) == (200, "failed", "")
        assert told["message"] == told["messege"] == "The device ran out of memory."
        fetched = working.client.post(f"{ENTERPRISE}/fetch/{told['id']}", json={"key": ""}).json()
        assert fetched == told

    def test_files_as_data(self, working: Any) -> None:
        told = send(working, f"{ENTERPRISE}/text2video", base64="yes", samples=2)
        links = told["proxy_links"]
        assert len(told["output"]) == len(links) == 2
        for data, link in zip(told["output"], links, strict=True):
            head, _, text = data.partition(",")
            assert head == "data:video/mp4;base64"
            assert base64.b64decode(text) == httpx.get(link, trust_env=False).content
        assert told["meta"]["base64"] == "yes"
        assert [link.rpartition("/")[2][-6:] for link in links] == ["-1.mp4", "-2.mp4"]

    @pytest.mark.parametrize(
        "prefix", [ENTERPRISE, V6, V7, "/api/v3", "/api/v6/images", "/api/v1/enterprise/ultra_video"]
    )
    def test_it_is_fetched_at_every_documented_path(self, server: Any, prefix: str) -> None:
        told = send(server, f"{ENTERPRISE}/text2video")
        found = server.client.post(f"{prefix}/fetch/{told['id']}", json={"key": ""}).json()
        assert (found["status"], found["id"]) == ("processing", told["id"])

    def test_it_is_fetched_by_an_id_in_the_body(self, server: Any) -> None:
        told = send(server, f"{ENTERPRISE}/text2video")
        for value in (told["id"], str(told["id"])):
            found = server.client.post(f"{ENTERPRISE}/fetch", json={"request_id": value}).json()
            assert (found["status"], found["id"]) == ("processing", told["id"])
        refused(server.client.post(f"{ENTERPRISE}/fetch", json={}))

    @pytest.mark.parametrize(
        "number",
        [
            "0",
            "999999",
            "-1",
            "1.5",
            "abc",
            "9" * 30,
            "null",
            "b1946ac9-2492-d234-7c62-35c6ee69eac9",
            "%00",
            "é",
        ],
    )
    def test_an_id_that_there_is_not(self, server: Any, number: str) -> None:
        for prefix in (ENTERPRISE, V6, V7, "/api/v1/enterprise"):
            refused(server.client.post(f"{prefix}/fetch/{number}", json={"key": ""}), 200)

    def test_a_video_that_is_not_kept_any_more(self, server: Any) -> None:
        told = send(server, f"{ENTERPRISE}/text2video", temp=True)
        finish(server, told["id"])
        job_id = server.client.get(f"/api/v1/jobs/{told['id']}").json()["id"]
        with contextlib.closing(sqlite3.connect(server.settings.home / "vitascope.db")) as database, database:
            database.execute(
                "UPDATE jobs SET expires_at = '2026-01-01 00:00:00.000000' WHERE id = ?", (job_id,)
            )
        found = server.client.post(f"{ENTERPRISE}/fetch/{told['id']}", json={"key": ""})
        assert (found.status_code, found.json()["status"]) == (200, "failed")
        assert "not kept" in found.json()["message"]

    def test_another_dialects_video_is_fetched_too(self, server: Any) -> None:
        number = server.client.post("/api/v1/jobs", json={"prompt": "a cat"}).json()["number"]
        found = server.client.post(f"{ENTERPRISE}/fetch/{number}", json={"key": ""}).json()
        assert found["fetch_result"] == f"{server.url}{ENTERPRISE}/fetch/{number}"
        assert (found["status"], found["meta"]["prompt"], found["meta"]["model_id"]) == (
            "processing",
            "a cat",
            "every",
        )


class TestDefaults:
    """Of a body that says nothing but the prompt, as each page documents them."""

    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            (f"{ENTERPRISE}/text2video", {"width": 512, "height": 512, "num_frames": 16, "fps": 7, "num_inference_steps": 20,
                                          "guidance_scale": 7.5, "output_type": "mp4", "temp": "no"}),
            (f"{V6}/text2video", {"width": 512, "height": 512, "num_frames": 25, "num_inference_steps": 20,
                                  "guidance_scale": 7, "output_type": "gif", "temp": "no"}),
            (f"{ENTERPRISE}/open_sora", {"width": 576, "height": 320, "num_frames": 25, "fps": 7, "temp": "yes"}),
            (f"{V6}/open_sora", {"width": 576, "height": 320, "num_frames": 25, "fps": 7, "temp": "yes"}),
            ("/api/v1/enterprise/ultra_video/text2video", {"num_frames": 92, "num_inference_steps": 8, "fps": 16,
                                                           "width": 576, "height": 320}),
            (f"{V6}/text2video_ultra", {"num_frames": 81, "num_inference_steps": 25, "width": 848, "height": 480}),
        ],
    )  # fmt: skip
    def test_of(self, server: Any, path: str, expected: dict[str, Any]) -> None:
        job, meta = made(server, path)
        assert {name: meta[name] for name in expected} == expected
        assert (job.plan.width, job.plan.height) == (expected["width"], expected["height"])

    def test_temporary_files_are_kept_for_a_day(self, server: Any) -> None:
        for path, fields, seconds in (
            (f"{ENTERPRISE}/open_sora", {}, TEMP_SECONDS),
            (f"{ENTERPRISE}/open_sora", {"temp": "no"}, None),
            (f"{ENTERPRISE}/text2video", {}, None),
            (f"{ENTERPRISE}/text2video", {"temp": True}, TEMP_SECONDS),
        ):
            job, meta = made(server, path, **fields)
            assert job.request.expires_in_seconds == seconds
            assert meta["temp"] == ("yes" if seconds else "no")


class TestParameters:
    def test_each_has_its_effect_on_the_request(self, server: Any) -> None:
        job, meta = made(
            server, f"{ENTERPRISE}/text2video", negative_prompt="blurry", seed=5, width=256, height=128, num_frames=20,
            num_inference_steps=11, guidance_scale=3.5, clip_skip=2, fps=10, output_type="gif", use_improved_sampling="yes",
            improved_sampling_seed=9, scheduler="DDIMScheduler", upscale_height=256, upscale_width=512,
            upscale_strength=0.7, upscale_guidance_scale=2, upscale_num_inference_steps=6, track_id="mine", loadbalancer="yes",
        )  # fmt: skip
        plan, request = job.plan, job.request
        assert (plan.negative_prompt, plan.seed, plan.num_frames, plan.fps) == ("blurry", 5, 20, 10)
        assert (plan.num_inference_steps, plan.guidance_scale, plan.clip_skip) == (11, 3.5, 2)
        assert (plan.format, plan.width, plan.height) == ("gif", 512, 256)
        assert plan.improved_sampling is not None
        assert plan.improved_sampling.seed == 9
        assert plan.upscale is not None
        assert (plan.upscale.strength, plan.upscale.guidance_scale, plan.upscale.num_inference_steps) == (
            0.7,
            2,
            6,
        )
        assert (request.scheduler, request.track_id, request.may_hand_over) == ("DDIMScheduler", "mine", True)
        expected = {"width": 256, "height": 128, "upscale_width": 512, "upscale_height": 256, "clip_skip": 2, "seed": 5,
                    "use_improved_sampling": "yes", "improved_sampling_seed": 9}  # fmt: skip
        assert {name: meta[name] for name in expected} == expected

    def test_numbers_as_text_and_flags_in_every_spelling(self, server: Any) -> None:
        for yes in ("yes", "true", True, "1", 1, "YES", "on"):
            job, meta = made(server, f"{ENTERPRISE}/text2video", width="256", num_frames="10.0", fps=" 8 ", seed="7",
                             guidance_scale="3.5", use_improved_sampling=yes)  # fmt: skip
            assert (job.plan.width, job.plan.num_frames, job.plan.fps, job.plan.seed) == (256, 10, 8, 7)
            assert (job.plan.guidance_scale, meta["use_improved_sampling"]) == (3.5, "yes")
        for no in ("no", "false", False, "0", 0, None, "", "null"):
            assert (
                made(server, f"{ENTERPRISE}/text2video", use_improved_sampling=no)[1]["use_improved_sampling"]
                == "no"
            )

    @pytest.mark.parametrize("nothing", [None, "null", "", -1])
    def test_no_seed_draws_one_which_is_echoed(self, server: Any, nothing: Any) -> None:
        seeds = {made(server, f"{ENTERPRISE}/text2video", seed=nothing)[1]["seed"] for _ in range(2)}
        assert len(seeds) == 2
        assert all(0 <= seed < 2**32 for seed in seeds)

    def test_null_is_the_default(self, server: Any) -> None:
        nothing = dict.fromkeys(set(create.PARAMETERS) - {"prompt"})
        assert made(server, f"{ENTERPRISE}/text2video", **nothing)[1]["num_frames"] == 16

    @pytest.mark.parametrize(
        ("name", "value", "used"),
        [
            ("width", 4000, 512), ("height", "600", 512), ("num_frames", 30, 25), ("num_inference_steps", 75, 50),
            ("guidance_scale", 12, 8), ("fps", 60, 16), ("clip_skip", 5, 2),
        ],
    )  # fmt: skip
    def test_above_a_documented_maximum_is_the_maximum(
        self, server: Any, name: str, value: Any, used: Any
    ) -> None:
        job, meta = made(server, f"{ENTERPRISE}/text2video", **{name: value})
        assert meta[name] == used
        assert getattr(job.plan, name) == used
        assert name in [choice.name for choice in job.plan.choices]

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("width", 0), ("height", -512), ("num_frames", 0), ("num_inference_steps", 0), ("guidance_scale", -0.5),
            ("fps", 0), ("clip_skip", -1), ("upscale_width", 8), ("upscale_strength", -0.1), ("samples", 0),
            ("seed", -7), ("seed", 2**63), ("improved_sampling_seed", -3),
        ],
    )  # fmt: skip
    def test_below_a_minimum_is_an_error_that_names_it(self, server: Any, name: str, value: Any) -> None:
        fields = {"prompt": "a dog", "use_improved_sampling": True, name: value}
        error = refused(server.client.post(f"{ENTERPRISE}/text2video", json=fields))
        assert f"`{name}`" in error["message"]

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("num_frames", "many"), ("width", [512]), ("guidance_scale", {}), ("fps", "7.5"), ("temp", "maybe"),
            ("use_improved_sampling", 7), ("output_type", "avi"), ("seed", "abc"), ("prompt", 7), ("prompt", ["a"]),
            ("negative_prompt", {}), ("model_id", 7), ("webhook", "ftp://x.example/"), ("webhook", "http://10.0.0.1/"),
            ("webhook", 7), ("track_id", {"a": 1}), ("track_id", True), ("prompt", ""), ("prompt", "  "),
            ("negative_prompt", "x" * 32_001), ("prompt", "x" * 32_001), ("duration", "long"), ("aspect_ratio", "wide"), ("aspect_ratio", "0:0"),
            ("resolution", "big"), ("init_image", "no base64!"), ("init_image", "http://10.0.0.1/a.png"),
            ("samples", "two"), ("lora_models", "unknown"), ("prompt", "a\x00b"),
        ],
    )  # fmt: skip
    def test_what_makes_no_sense_is_an_error_that_names_it(self, server: Any, name: str, value: Any) -> None:
        error = refused(server.client.post(f"{ENTERPRISE}/text2video", json={"prompt": "a dog", name: value}))
        assert f"`{name}`" in error["message"] or name == "lora_models", error

    def test_a_scheduler_that_is_another_here_is_told(self, server: Any) -> None:
        told = send(server, f"{ENTERPRISE}/text2video", scheduler="KarrasVeScheduler")
        assert "KarrasVeScheduler cannot make videos" in told["tip"]
        told = send(server, f"{ENTERPRISE}/text2video", scheduler="NoSuchScheduler")
        assert "is not known" in told["tip"]

    def test_what_has_no_effect_is_told(self, server: Any) -> None:
        told = send(server, f"{ENTERPRISE}/text2video", model_id="short", clip_skip=2, motion_bucket_id=20, strngth=0.5,
                    strength=0.5, sample_shift=3, enhance_prompt="yes")  # fmt: skip
        for word in ("clip_skip", "motion_bucket_id", "strngth", "strength", "enhance_prompt"):
            assert word in told["tip"], told["tip"]
        assert told["meta"]["clip_skip"] is None

    @pytest.mark.parametrize(
        ("path", "fields", "name"),
        [
            ("text2video", {"portrait": "yes"}, "portrait"),
            ("text2video", {"portrait": True, "aspect_ratio": "9:16"}, "portrait"),
            ("text2video", {"resolution": 320, "width": 256}, "resolution"),
            ("text2video_ultra", {"portrait": True, "width": 256, "height": 320}, "portrait"),
            ("text2video_ultra", {"aspect_ratio": "9:16", "height": 320}, "aspect_ratio"),
            ("text2video", {"duration": 2, "num_frames": 9}, "duration"),
        ],
    )
    def test_a_size_or_length_that_another_field_says_is_told(
        self, server: Any, path: str, fields: dict[str, Any], name: str
    ) -> None:
        assert f"{name}: no effect, as" in send(server, f"{V6}/{path}", **fields)["tip"]

    @pytest.mark.parametrize(("frames", "seconds"), [(5, 0.208), (24, 1), (480, 20), (None, None)])
    def test_the_nearest_duration_is_one_that_can_be_had(
        self, frames: int | None, seconds: float | None
    ) -> None:
        asked = GenerationRequest(prompt="a dog", model="pocket", fps=24)
        order = create.Order(Call(name="a", prefix="/a"), Catalog.open().resolve("pocket"), asked)
        order.names["num_frames"], order.echo["duration"] = "duration", 0.01
        said = order.in_clients_words(InvalidParameter("num_frames", 1, "it must be more", nearest=frames))
        assert (said.parameter, said.value, said.nearest) == ("duration", 0.01, seconds)

    def test_no_resolution_is_none(self, server: Any) -> None:
        assert send(server, f"{V6}/text2video_ultra")["meta"]["resolution"] is None

    def test_an_adapter_that_is_not_here_is_named_as_it_was_sent(self, server: Any) -> None:
        error = refused(
            server.client.post(f"{V6}/text2video", json={"prompt": "a dog", "lora_models": "a,b"})
        )
        assert error["message"].startswith("`lora_models` is 'a'")

    def test_nothing_is_told_where_all_is_as_asked(self, working: Any) -> None:
        assert "tip" not in send(working, f"{ENTERPRISE}/text2video", model_id="small", enhance_prompt="no")

    def test_what_the_model_cannot_is_left_out_or_made_nearly_and_told(self, server: Any) -> None:
        job, meta = made(
            server, f"{ENTERPRISE}/text2video", model_id="short", num_frames=25, fps=7, guidance_scale=0
        )
        assert (meta["guidance_scale"], job.plan.guidance_scale) == (1, 1)
        assert meta["num_frames"] == job.plan.num_frames < 25

    def test_a_length_that_nobody_makes_is_an_error(self, server: Any) -> None:
        fields = {"prompt": "a dog", "num_frames": 10**9}
        error = refused(server.client.post(f"{ENTERPRISE}/open_sora", json=fields))
        assert "`num_frames`" in error["message"]
        error = refused(
            server.client.post(f"{V7}/text-to-video", json={"prompt": "a dog", "duration": "100s"})
        )
        assert "`duration` is 100" in error["message"]
        assert "nearest legal value is 60" in error["message"]


class TestInputs:
    @pytest.mark.parametrize("path", [f"{ENTERPRISE}/img2video", f"{V6}/img2video", f"{V6}/img2video_ultra",
                                      "/api/v1/enterprise/image_to_video_ultra/img2video", f"{V7}/image-to-video"])  # fmt: skip
    @pytest.mark.parametrize("form", ["base64", "data"])
    def test_a_picture_is_where_the_video_begins(self, server: Any, path: str, form: str) -> None:
        given = PICTURE if form == "base64" else f"data:image/png;base64,{PICTURE}"
        job, _ = made(server, path, init_image=given)
        assert job.plan.mode == "image"
        assert job.request.image is not None

    def test_a_missing_picture_or_video_is_told(self, server: Any) -> None:
        for path, name in (
            (f"{ENTERPRISE}/img2video", "init_image"),
            (f"{ENTERPRISE}/video2video", "init_video"),
        ):
            error = refused(server.client.post(path, json={"prompt": "a dog"}))
            assert f"`{name}`" in error["message"]

    def test_two_pictures_are_first_and_last_frame(self, server: Any) -> None:
        job, _ = made(server, f"{V7}/image-to-video", init_image=[PICTURE, PICTURE], duration="2s")
        assert (job.plan.mode, job.plan.duration_seconds) == ("last_image", 2.0)

    def test_a_picture_without_a_prompt(self, server: Any) -> None:
        answer = server.client.post(f"{ENTERPRISE}/img2video", json={"init_image": PICTURE})
        assert answer.json()["meta"]["prompt"] == create.PICTURES_PROMPT
        assert "prompt" in answer.json()["tip"]

    def test_guidance_of_a_picture_is_the_higher_of_two(self, server: Any) -> None:
        job, meta = made(
            server, f"{ENTERPRISE}/img2video", init_image=PICTURE, min_guidance_scale=1, max_guidance_scale=4
        )
        assert (job.plan.guidance_scale, meta["min_guidance_scale"], meta["max_guidance_scale"]) == (4, 1, 4)

    def test_a_picture_with_a_strength_is_changed(self, server: Any) -> None:
        job, _ = made(server, f"{ENTERPRISE}/text2video", init_image=PICTURE, strength=0.5)
        assert (job.plan.mode, job.plan.strength) == ("video", 0.5)

    def test_sizes_and_lengths_of_v7(self, server: Any) -> None:
        job, _ = made(server, f"{V7}/text-to-video", aspect_ratio="9:16", resolution="480p", duration=3)
        assert (job.plan.width, job.plan.height, job.plan.duration_seconds) == (480, 848, 3.0)
        job, _ = made(server, f"{V7}/text-to-video", aspect_ratio="1:1")
        assert job.plan.width == job.plan.height
        job, _ = made(server, f"{V6}/text2video_ultra", resolution=320, portrait=True)
        assert (job.plan.width, job.plan.height) == (320, 576)


@dataclass
class Closed:
    """A server that has keys."""

    server: Any
    key: str
    other: str
    slow: str

    @property
    def client(self) -> httpx.Client:
        client: httpx.Client = self.server.client
        return client


@pytest.fixture(scope="module")
def closed(serve: Callable[..., Any]) -> Closed:
    server = serve(modelslab={"wait_seconds": 0.0})
    keys = Keys(server.store)
    mine, theirs, slow = (
        keys.create(name, (Scope.GENERATE,), KeyLimits(requests_per_minute=limit))[1]
        for name, limit in (("mine", None), ("theirs", None), ("slow", 1))
    )
    return Closed(server, mine, theirs, slow)


class TestKeys:
    @pytest.mark.parametrize("place", ["body", "bearer", "key"])
    def test_it_is_taken_from_where_clients_put_it(self, closed: Closed, place: str) -> None:
        headers = {"bearer": {"Authorization": f"Bearer {closed.key}"}, "key": {"key": closed.key}}.get(
            place, {}
        )
        fields = {"key": closed.key} if place == "body" else {"key": ""}
        answer = closed.client.post(f"{V6}/text2video", json={"prompt": "a dog", **fields}, headers=headers)
        assert (answer.status_code, answer.json()["status"]) == (200, "processing")

    @pytest.mark.parametrize("key", [None, "", "wrong", 7, ["a"], "x" * 600])
    @pytest.mark.parametrize(("path", "status"), [(f"{ENTERPRISE}/text2video", 401), (f"{V6}/open_sora", 401),
                                                  (f"{V7}/text-to-video", 401), ("/api/v1/enterprise/text2video", 200),
                                                  ("/api/v1/enterprise/fetch", 200)])  # fmt: skip
    def test_a_missing_or_wrong_one(self, closed: Closed, key: Any, path: str, status: int) -> None:
        fields = {"prompt": "a dog", "request_id": 1, **({} if key is None else {"key": key})}
        refused(closed.client.post(path, json=fields), status)

    def test_anothers_video_is_none(self, closed: Closed) -> None:
        told = closed.client.post(f"{V6}/text2video", json={"key": closed.key, "prompt": "a dog"}).json()
        own = closed.client.post(told["fetch_result"], json={"key": closed.key})
        theirs = closed.client.post(told["fetch_result"], json={"key": closed.other})
        unknown = closed.client.post(f"{V6}/fetch/999999", json={"key": closed.other})
        assert own.json()["status"] == "processing"
        assert refused(theirs, 200) == refused(unknown, 200)

    def test_one_that_may_only_read_fetches_and_makes_nothing(self, closed: Closed) -> None:
        key = Keys(closed.server.store).create("reader", (Scope.READ,))[1]
        refused(closed.client.post(f"{V6}/text2video", json={"key": key, "prompt": "a dog"}), 403)
        error = refused(closed.client.post(f"{V6}/fetch/999999", json={"key": key}), 200)
        assert error["code"] == "job_not_found"

    def test_too_many_requests(self, closed: Closed) -> None:
        fields = {"key": closed.slow, "prompt": "a dog"}
        answers = [closed.client.post(f"{V6}/text2video", json=fields) for _ in range(3)]
        error = refused(answers[-1], 429)
        assert error["retry_after"] > 0
        answer = closed.client.post("/api/v1/enterprise/text2video", json=fields)
        assert refused(answer, 200)["retry_after"] > 0

    def test_it_is_in_no_reply_job_or_log(self, closed: Closed, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.DEBUG):
            answer = closed.client.post(f"{V6}/text2video", json={"key": closed.key, "prompt": "a dog"})
            wrong = closed.client.post(f"{V6}/text2video", json={"key": closed.key, "width": "x"})
        assert closed.key not in answer.text + wrong.text
        ours = "\n".join(r.getMessage() for r in caplog.records if not r.name.startswith("http"))
        assert closed.key not in ours
        for path in closed.server.settings.home.glob("vitascope.db*"):
            assert closed.key.encode() not in path.read_bytes()


class TestUnforeseen:
    @pytest.mark.parametrize(
        ("path", "status"),
        [
            (f"{ENTERPRISE}/text2video", 500),
            (f"{V6}/text2video", 500),
            ("/api/v1/enterprise/text2video", 200),
        ],
    )
    def test_a_fault_of_ours_has_the_vendors_form_too(
        self, server: Any, path: str, status: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(making, "to_order", None)
        refused(server.client.post(path, json={"prompt": "a dog"}), status)

    @pytest.mark.parametrize(
        "path", [f"{ENTERPRISE}/no_such", "/api/v1/enterprise/no_such", f"{V6}/no_such", f"{V7}/no-such"]
    )
    def test_a_call_that_there_is_not(self, server: Any, path: str) -> None:
        refused(server.client.post(path, json={}), 404)

    @pytest.mark.parametrize("path", [f"{ENTERPRISE}/text2video", f"{V6}/fetch/1"])
    def test_another_method(self, server: Any, path: str) -> None:
        answer = server.client.get(path)
        refused(answer, 405)
        assert answer.headers["allow"] == "POST"


class TestBodies:
    @pytest.mark.parametrize("path", [f"{ENTERPRISE}/text2video", f"{V6}/text2video"])
    @pytest.mark.parametrize(
        ("content", "status"),
        [(b"{", 400), (b"[]", 400), (b'"text"', 400), (b"\xff", 400), (b'{"a":1,"a":2}', 400), (b"", 400)],
    )
    def test_what_cannot_be_read(self, server: Any, path: str, content: bytes, status: int) -> None:
        headers = {"Content-Type": "application/json"}
        refused(server.client.post(path, content=content, headers=headers), status)

    @pytest.mark.parametrize("path", [f"{ENTERPRISE}/text2video", f"{V6}/text2video"])
    def test_half_a_character_in_a_name_that_is_given_twice(self, server: Any, path: str) -> None:
        content, headers = b'{"\\ud800":1,"\\ud800":2}', {"Content-Type": "application/json"}
        refused(server.client.post(path, content=content, headers=headers), 400)

    @pytest.mark.parametrize(
        "fields",
        [
            {"\ud800name": 1},
            {"na\x00me": 1},
            {"resolution": "\ud800", "width": 64, "height": 64},
            {"controlnet": "\ud800"},
            {"controlnet": "\x00"},
        ],
    )
    def test_what_no_answer_can_hold_is_in_none(self, server: Any, fields: dict[str, Any]) -> None:
        content = json.dumps({"prompt": "a dog", "instant_response": True, **fields})
        headers = {"Content-Type": "application/json"}
        answer = server.client.post(f"{V6}/text2video", content=content, headers=headers)
        assert answer.status_code == 200, answer.text
        assert not {"\x00", "\ud800"} & set(json.dumps(answer.json(), ensure_ascii=False))
        assert server.client.post(f"{V6}/fetch/{answer.json()['id']}").status_code == 200

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("controlnet_images", "x" * 100_000),
            ("lora_models", "," * 4000),
            ("controlnet", 10**300),
            ("resolution", 10**300),
        ],
    )
    def test_what_is_long_is_not_shown_again(self, server: Any, name: str, value: Any) -> None:
        told = send(server, f"{V6}/text2video", width=64, height=64, **{name: value})
        assert len(json.dumps(told)) < 10_000
        told = send(server, f"{V6}/text2video_ultra", width=64, height=64, **{name: value})
        assert len(json.dumps(told)) < 10_000

    def test_more_adapters_than_anybody_names(self, server: Any) -> None:
        refused(
            server.client.post(f"{V6}/text2video", json={"prompt": "a dog", "lora_models": "," * 5000}), 400
        )

    def test_a_form(self, server: Any) -> None:
        answer = server.client.post(
            f"{ENTERPRISE}/img2video",
            data={"prompt": "a dog", "num_frames": "20"},
            files={"init_image": ("a.png", png(), "image/png")},
        )
        assert answer.json()["meta"]["num_frames"] == 20

    def test_the_same_request_twice_under_one_name_is_one_job(self, server: Any) -> None:
        headers = {"Idempotency-Key": "mine"}
        answers = [
            server.client.post(f"{V6}/text2video", json={"prompt": "a dog"}, headers=headers).json()
            for _ in range(2)
        ]
        assert answers[0]["id"] == answers[1]["id"]
        other = server.client.post(f"{V6}/text2video", json={"prompt": "a cat"}, headers=headers)
        refused(other, 409)


class TestWebhooks:
    """As they arrive: see test_vendor_webhooks for what is signed."""

    @pytest.fixture
    def receiver(self) -> Iterator[list[dict[str, Any]]]:
        with endpoints.serving(endpoints.json_answer({})) as service:
            self.url = service.url
            yield service.asked

    def test_success_and_failure(self, server: Any, receiver: list[dict[str, Any]]) -> None:
        fields = {"webhook": self.url, "track_id": 300}
        job, meta = made(server, f"{V6}/text2video", **fields)
        assert (meta["webhook"], meta["track_id"]) == (self.url, 300)
        finish(server, job.number)
        eventually(lambda: len(receiver) == 1)
        (told,) = receiver
        assert set(told) - {"tip"} == {
            "status",
            "id",
            "output",
            "proxy_links",
            "generationTime",
            "track_id",
            "meta",
        }
        assert (told["status"], told["id"], told["track_id"]) == ("success", job.number, 300)
        assert set(told["meta"]) == set(V6_META)
        assert told["output"][0].startswith(server.url)
        enterprise_golden.check_webhook(WEBHOOKS / "success.json", told)
        assert httpx.get(told["output"][0], trust_env=False).status_code == 200

        failing, _ = made(server, f"{V6}/text2video", prompt="a cat", **fields)
        finish(server, failing.number, JobError("out_of_memory", "The device ran out of memory."))
        eventually(lambda: len(receiver) == 2)
        told = receiver[1]
        assert set(told) == {"status", "id", "message", "messege", "track_id", "meta"}
        assert (told["status"], told["id"], told["track_id"]) == ("failed", failing.number, 300)
        assert told["message"] == "The device ran out of memory."
        enterprise_golden.check_webhook(WEBHOOKS / "failure.json", told)


class TestTable:
    def test_every_range_of_a_call_is_one_that_is_read(self) -> None:
        for path, call in calls():
            assert set(call.own_ranges) <= set(COMMON), path
            for name, limits in call.own_ranges.items():
                most = float("inf") if limits.maximum is None else limits.maximum
                assert limits.default is None or limits.minimum <= limits.default <= most, (path, name)

    def test_every_call_is_described(self, server: Any) -> None:
        paths = server.client.get("/openapi.json").json()["paths"]
        for path, call in calls():
            body = paths[path]["post"]["requestBody"]["content"]["application/json"]["schema"]
            assert set(body["properties"]) - {"key"} <= set(create.PARAMETERS)
            assert body["required"] == [call.needs or "prompt"]
