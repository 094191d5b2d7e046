"""What other servers of `/v1/videos` take beyond its vendor's fields: followed, told of, refused or kept, each as documented."""

from __future__ import annotations

import base64
import json
import random
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from vitascope.dialects.openai.parameters import FOLLOWED, PARAMETERS, QUALITY_LEVELS, REFUSED, TOLD
from vitascope.domain.cost import Speed, effort_of
from vitascope.domain.job import Job
from waiting import eventually

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)
PICTURE = base64.b64encode(PNG).decode()
URL = f"data:image/png;base64,{PICTURE}"


class Client:
    """Sends requests to a server where nothing works."""

    def __init__(self, server: Any) -> None:
        self.server = server

    def post(self, **fields: Any) -> httpx.Response:
        answer: httpx.Response = self.server.client.post("/v1/videos", json={"prompt": "a dog", **fields})
        return answer

    def form(self, files: Any = None, **fields: Any) -> httpx.Response:
        parts = [(name, (None, text)) for name, text in {"prompt": "a dog", **fields}.items()]
        answer: httpx.Response = self.server.client.post("/v1/videos", files=[*parts, *(files or [])])
        return answer

    def job(self, answer: httpx.Response) -> Job:
        assert answer.status_code == 200, answer.text
        job = self.server.store.get(answer.json()["id"].removeprefix("video_"))
        assert isinstance(job, Job)
        return job


@pytest.fixture(scope="module")
def client(serve: Any) -> Client:
    return Client(serve())


def choices(answer: httpx.Response) -> dict[str, dict[str, str]]:
    assert answer.status_code == 200, answer.text
    return {choice["name"]: choice for choice in answer.json()["metadata"]["vitascope"]["choices"]}


def refused(answer: httpx.Response) -> tuple[str, str]:
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["code"] == "invalid_parameter"
    return error["param"], error["message"]


class TestMetadata:
    WAYS = ("object", "text", "bracketed", "beside")

    def send(self, client: Client, way: str, **metadata: str) -> httpx.Response:
        if way == "object":
            return client.post(metadata=metadata)
        if way == "text":
            return client.form(metadata=json.dumps(metadata))
        if way == "bracketed":
            return client.form(**{f"metadata[{name}]": text for name, text in metadata.items()})
        return client.post(**metadata)

    @pytest.mark.parametrize("way", WAYS)
    def test_negative_prompt_style_and_quality_are_followed(self, client: Client, way: str) -> None:
        asked = {"negative_prompt": "rain", "style": "cinematic", "quality_level": "high"}
        answer = self.send(client, way, **asked)
        plan = client.job(answer).plan
        assert (plan.prompt, plan.negative_prompt, plan.num_inference_steps) == (
            "a dog, cinematic",
            "rain",
            18,
        )
        told = choices(answer)
        assert "extends it" in told["prompt"]["reason"]
        assert "high is 1.5 of the model's 12" in told["num_inference_steps"]["reason"]
        body = answer.json()
        assert body["prompt"] == "a dog"
        if way != "beside":
            assert {name: body["metadata"][name] for name in asked} == asked

    @pytest.mark.parametrize("level", QUALITY_LEVELS)
    def test_every_quality_level_is_a_share_of_the_models_steps(self, client: Client, level: str) -> None:
        plan = client.job(client.post(metadata={"quality_level": level.upper()})).plan
        assert plan.num_inference_steps == round(12 * QUALITY_LEVELS[level])

    def test_a_users_own_keys_come_back_unchanged(self, client: Client) -> None:
        own = {"order": 7, "tags": ["a", None], "seed": "mine", "nested": {"a": True}, "style": ""}
        metadata = client.post(metadata=own, seed=3).json()["metadata"]
        assert {name: metadata[name] for name in own} == own
        assert metadata["fps"] == 8

    @pytest.mark.parametrize(
        ("metadata", "param", "words"),
        [
            ({"style": 5}, "metadata[style]", "must be text"),
            ({"style": "x" * 501}, "metadata[style]", "at most 500 characters"),
            ({"negative_prompt": []}, "metadata[negative_prompt]", "must be text"),
            ({"negative_prompt": "x" * 32_001}, "metadata[negative_prompt]", "32001 characters long"),
            ({"quality_level": "best"}, "metadata[quality_level]", "it must be one of low, draft"),
            ({"quality_level": 3}, "metadata[quality_level]", "must be text"),
        ],
        ids=range(6),
    )
    def test_bad_values_name_the_key(
        self, client: Client, metadata: dict[str, Any], param: str, words: str
    ) -> None:
        named, message = refused(client.post(metadata=metadata))
        assert named == param
        assert words in message

    def test_a_style_that_makes_the_prompt_too_long_is_refused(self, client: Client) -> None:
        named, message = refused(client.post(prompt="x" * 31_990, metadata={"style": "cinematic " * 3}))
        assert named == "metadata[style]"
        assert "32000 characters together" in message


def test_users_are_stored_and_given_back(client: Client) -> None:
    answer = client.post(user="user-123")
    assert answer.json()["user"] == "user-123"
    assert client.job(answer).request.user == "user-123"
    assert client.server.client.get(f"/v1/videos/{answer.json()['id']}").json()["user"] == "user-123"


#: Fields, and what of the plan they decide.
DECIDED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"num_frames": 20, "seconds": 4}, {"num_frames": 20}),
    ({"seconds": "3", "duration": 5}, {"num_frames": 24}),
    ({"size": "128x96", "width": 64, "height": 64}, {"width": 128, "height": 96}),
    ({"size": "128x96", "aspect_ratio": "1:1"}, {"width": 128, "height": 96}),
    ({"size": "128x96", "width": 0}, {"width": 128, "height": 96}),
    ({"width": 64, "aspect_ratio": "1:1", "height": 96}, {"width": 64, "height": 96}),
    ({"width": 58, "aspect_ratio": "9:16"}, {"width": 58, "height": 38}),
    ({"steps": 5, "num_inference_steps": 6}, {"num_inference_steps": 6}),
    ({"num_inference_steps": 6, "metadata": {"quality_level": "low"}}, {"num_inference_steps": 6}),
    ({"quality_level": "low", "metadata": {"quality_level": "high"}}, {"num_inference_steps": 6}),
    ({"negative_prompt": "a", "metadata": {"negative_prompt": "b"}}, {"negative_prompt": "a"}),
    ({"seed": 5, "extra_body": {"seed": 6}}, {"seed": 5}),
    ({"n": 1, "num_outputs_per_prompt": 2}, {"num_frames": 32}),
]


@pytest.mark.parametrize(("fields", "decided"), DECIDED, ids=range(len(DECIDED)))
def test_two_fields_that_contradict_each_other_have_one_answer_and_it_is_told(
    client: Client, fields: dict[str, Any], decided: dict[str, Any]
) -> None:
    answer = client.post(**fields)
    plan = client.job(answer).plan
    assert {name: getattr(plan, name) for name in decided} == decided
    reasons = " ".join(choice["reason"] for choice in choices(answer).values())
    assert re.search(r"\bwins?\b|beside", reasons)


@pytest.mark.parametrize(
    ("fields", "width", "height"),
    [
        ({"aspect_ratio": "16:9"}, 104, 58),
        ({"aspect_ratio": "3:2"}, 96, 64),
        ({"aspect_ratio": "9:16"}, 58, 104),
        ({"aspect_ratio": "16:9", "short_edge": 480}, 854, 480),
        ({"aspect_ratio": "9:16", "short_edge": "480"}, 480, 854),
        ({"short_edge": 128}, 192, 128),
        ({"aspect_ratio": "auto"}, 96, 64),
    ],
)
def test_shapes(client: Client, fields: dict[str, Any], width: int, height: int) -> None:
    plan = client.job(client.post(**fields)).plan
    assert (plan.width, plan.height) == (width, height)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"aspect_ratio": "wide"}, "aspect_ratio"),
        ({"aspect_ratio": "0:9"}, "aspect_ratio"),
        ({"aspect_ratio": "9999:1"}, "aspect_ratio"),
        ({"aspect_ratio": 1.5}, "aspect_ratio"),
        ({"short_edge": 481}, "short_edge"),
        ({"short_edge": 2**40}, "short_edge"),
        ({"short_edge": 4000, "aspect_ratio": "16:9"}, "aspect_ratio"),
        ({"size": "128x96x3"}, "size"),
        ({"seed": [1, 3]}, "seed"),
        ({"seed": []}, "seed"),
        ({"seed": ["x"]}, "seed"),
        ({"extra_body": 5}, "extra_body"),
        ({"extra_params": "{"}, "extra_params"),
        ({"extra_body": {"extra_body": {}}}, "extra_body[extra_body]"),
        ({"extra_body": {"seconds": 61}}, "seconds"),
        ({"expires_in_seconds": 5}, "expires_in_seconds"),
        ({"flow_shift": 0}, "flow_shift"),
        ({"flow_shift": 101}, "flow_shift"),
        ({"strength": 0.5}, "strength"),
        ({"num_frames": 8, "seconds": 61}, "seconds"),
        ({"seconds": 4, "duration": 61}, "duration"),
    ],
    ids=range(21),
)
def test_bad_values(client: Client, fields: dict[str, Any], param: str) -> None:
    before = client.server.store.queue_stats().queued
    assert refused(client.post(**fields))[0] == param
    assert client.server.store.queue_stats().queued == before


class TestPictures:
    @pytest.mark.parametrize(
        "fields",
        [
            {"reference_url": URL},
            {"image_url": URL},
            {"image_reference": {"image_url": URL}},
            {"image_reference": json.dumps({"image_url": URL})},
            {"image_reference": [{"image_url": URL}]},
            {"images": [PICTURE]},
            {"images": json.dumps([URL])},
            {"input_references": [URL]},
            {"input_reference": json.dumps({"image_url": URL})},
            {"input_reference": URL, "image": "", "images": []},
        ],
        ids=range(10),
    )
    def test_one_is_the_first_frame(self, client: Client, fields: dict[str, Any]) -> None:
        plan = client.job(client.post(**fields)).plan
        assert (plan.mode, plan.references) == ("image", ())

    def test_files_and_texts_may_be_mixed_in_a_list(self, client: Client) -> None:
        files = [("input_references[]", ("a", PNG)), ("input_references[]", (None, URL))]
        plan = client.job(client.form(files, model="every")).plan
        assert (plan.mode, len(plan.references)) == ("reference", 2)

    def test_one_reference_is_a_reference_where_the_model_takes_them(self, client: Client) -> None:
        assert client.job(client.post(input_references=[URL], model="every")).plan.mode == "reference"
        answer = client.post(input_references=[URL])
        assert choices(answer)["input_references"]["value"] == "the first frame"

    def test_several_need_a_model_that_takes_references(self, client: Client) -> None:
        param, message = refused(client.post(images=[URL, URL]))
        assert param == "images"
        assert "makes videos from text or an image only" in message

    def test_a_bad_one_in_a_list_is_named(self, client: Client) -> None:
        for bad in ("%%%", "aGVsbG8=", 5, {"image_url": "ftp://a/b"}, "", {}):
            param, _ = refused(client.post(images=[URL, bad], model="every"))
            assert param.startswith("images[1]")

    @pytest.mark.parametrize("name", ["video_url", "video_reference"])
    def test_a_video_that_is_changed(self, client: Client, name: str, clip: bytes) -> None:
        url = "data:video/mp4;base64," + base64.b64encode(clip).decode()
        value = url if name == "video_url" else {"video_url": url}
        job = client.job(client.post(**{name: value}, model="every", strength=0.5))
        assert (job.plan.mode, job.plan.strength) == ("video", 0.5)
        assert (job.plan.width, job.plan.height, job.plan.num_frames) == (96, 64, 16), "as the video's"
        longer = client.job(client.post(**{name: value}, model="every", seconds=1))
        assert longer.plan.num_frames == 8

    def test_a_model_that_changes_no_videos_says_so(self, client: Client, clip: bytes) -> None:
        url = "data:video/mp4;base64," + base64.b64encode(clip).decode()
        assert refused(client.post(video_url=url))[0] == "video_url"

    @pytest.mark.parametrize(
        "fields",
        [
            {"input_reference": URL, "images": [URL]},
            {"image": URL, "video_url": "https://example.com/a.mp4"},
            {"images": [URL], "input_references": [URL]},
        ],
        ids=range(3),
    )
    def test_only_one_start_is_taken(self, client: Client, fields: dict[str, Any]) -> None:
        assert "must not be given beside" in refused(client.post(**fields))[1]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Two seconds, 8 frames a second."""
    import av
    import numpy as np

    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for index in range(16):
            frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), index * 10, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path.read_bytes()


class TestOtherServersFields:
    @pytest.mark.parametrize("name", TOLD)
    def test_what_is_not_followed_is_told(self, client: Client, name: str) -> None:
        answer = client.post(**{name: 2})
        choice = choices(answer)[name]
        assert choice["value"] == "not followed"
        assert choice["reason"] == f"2 was asked for, but {TOLD[name]}"

    @pytest.mark.parametrize("name", [*TOLD, *REFUSED])
    @pytest.mark.parametrize("value", [None, "", False, "false", [], {}], ids=repr)
    def test_what_is_switched_off_is_nothing(self, client: Client, name: str, value: Any) -> None:
        assert name not in choices(client.post(**{name: value}))

    @pytest.mark.parametrize("value", [0, 0.0, "0", "0.0"], ids=repr)
    def test_a_number_that_asks_for_nothing_is_not_refused(self, client: Client, value: Any) -> None:
        """vLLM-Omni's clients send `start_time_seconds` of 0, and forms say 0 for no."""
        client.job(client.post(start_time_seconds=value, generate_sound=value))

    @pytest.mark.parametrize("name", REFUSED)
    def test_what_would_make_another_video_is_refused(self, client: Client, name: str) -> None:
        for value in (True, "/etc/passwd", {"name": "a"}):
            param, message = refused(client.post(**{name: value}))
            assert param == name
            assert REFUSED[name] in message

    @pytest.mark.parametrize("container", ["extra_body", "extra_params", "extra_json", "video_params"])
    def test_containers_are_as_if_their_keys_stood_beside_them(self, client: Client, container: str) -> None:
        inner = {"num_frames": 9, "fps": 4, "order": "x"}
        for answer in (client.post(**{container: inner}), client.form(**{container: json.dumps(inner)})):
            plan = client.job(answer).plan
            assert (plan.num_frames, plan.fps) == (9, 4)
            assert answer.json()["metadata"]["order"] == "x"

    def test_a_request_as_vllm_omnis_readme_sends_it(self, client: Client) -> None:
        answer = client.form(
            [("input_reference", ("bear.png", PNG, "image/png"))],
            prompt="A bear playing with yarn, smooth motion",
            negative_prompt="low quality, blurry, static",
            width="832",
            height="480",
            num_frames="33",
            fps="16",
            num_inference_steps="40",
            guidance_scale="1.0",
            guidance_scale_2="1.0",
            boundary_ratio="0.875",
            flow_shift="12.0",
            seed="42",
        )
        plan = client.job(answer).plan
        assert (plan.width, plan.height, plan.num_frames, plan.fps) == (832, 480, 33, 16)
        assert (plan.num_inference_steps, plan.guidance_scale, plan.seed) == (40, 1.0, 42)
        assert plan.flow_shift == 12.0
        assert {"guidance_scale_2", "boundary_ratio"} <= set(choices(answer))

    def test_a_list_of_seeds_of_one(self, client: Client) -> None:
        assert client.job(client.post(seed=[7])).plan.seed == 7


class TestUnknownFields:
    def test_they_are_kept_in_the_metadata_and_told(self, client: Client) -> None:
        answer = client.post(cfg_rescale=0.7, order={"a": 1}, metadata={"order": "mine"})
        metadata = answer.json()["metadata"]
        assert (metadata["cfg_rescale"], metadata["order"]) == (0.7, "mine")
        assert choices(answer)["metadata"]["value"] == "'cfg_rescale', 'order'"

    def test_numbers_that_came_as_text_are_numbers_as_new_api_keeps_them(self, client: Client) -> None:
        metadata = client.form(camera="5", drift="0.5", zip="01e5", long="9" * 30).json()["metadata"]
        assert [metadata[name] for name in ("camera", "drift", "zip", "long")] == [5, 0.5, "01e5", "9" * 30]

    @pytest.mark.parametrize(
        ("name", "meant"),
        [
            ("num_frame", "num_frames"),
            ("sedd", "seed"),
            ("prompts", "prompt"),
            ("SEED", "seed"),
            ("hieght", "height"),
            ("model_id", "model"),
            ("guidance_scal", "guidance_scale"),
            ("durations", "duration"),
            ("negativeprompt", "negative_prompt"),
            ("input_refrence", "input_reference"),
        ],
    )
    def test_a_misspelt_one_is_refused(self, client: Client, name: str, meant: str) -> None:
        param, message = refused(client.post(**{name: "5"}))
        assert param == name
        assert f"did you mean `{meant}`?" in message

    def test_they_are_bounded(self, client: Client) -> None:
        assert "at most 64" in refused(client.post(**{f"zz{i}qx": i for i in range(65)}))[1]
        assert refused(client.post(zzqx="x" * 70_000))[0] == "metadata"
        assert refused(client.post(zzqx=10**30))[0] == "metadata"
        assert refused(client.post(zzqx="\x00"))[0] == "metadata"
        assert refused(client.form([("zzqx", ("a", b"a file"))]))[0] == "zzqx"
        client.job(client.post(**{"y" * 60_000: 1}))


def test_when_to_ask_again_comes_from_the_expected_time(serve: Any) -> None:
    server = serve()
    server.store.worker_seen("w", "cpu")
    first = server.client.post("/v1/videos", json={"prompt": "a"})
    assert first.headers["openai-poll-after-ms"] == "1000", "nothing was measured"
    lease = server.store.claim("w", 60.0)
    effort = effort_of(lease.job.plan)
    path = f"/v1/videos/{first.json()['id']}"
    assert "openai-poll-after-ms" in server.client.get(path).headers
    server.finish(lease, Speed(effort.model, effort.work, 0.5, 0.0))  # 24 steps: 12 s
    assert "openai-poll-after-ms" not in server.client.get(path).headers

    def after(**fields: Any) -> int:
        made = server.client.post("/v1/videos", json={"prompt": "a", **fields}).json()["id"]
        path = f"/v1/videos/{made}"
        job_id = made.removeprefix("video_")
        eventually(lambda: server.client.get(f"/api/v1/jobs/{job_id}").json()["eta_seconds"] is not None)
        found = int(server.client.get(path).headers["openai-poll-after-ms"])
        server.client.delete(path)
        return found

    assert 1000 <= after() <= 1200
    assert after(num_inference_steps=1) == 500
    assert after(num_inference_steps=100) == 2000


def test_every_answer_has_a_request_id_of_its_own(client: Client) -> None:
    made = client.post().json()["id"]
    web = client.server.client
    answers = [
        client.post(),
        client.post(seconds=61),
        web.get("/v1/videos"),
        web.get(f"/v1/videos/{made}"),
        web.get("/v1/videos/video_x"),
        web.get(f"/v1/videos/{made}/content"),
        web.post("/v1/video/generations", json={}),
        web.get("/v1/video/generations/x"),
        web.get("/v1/nothing"),
        web.delete(f"/v1/videos/{made}"),
    ]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert len(set(ids)) == len(ids)


def test_every_parameter_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "openai.md").read_text()
    missing = [name for name in PARAMETERS if f"`{name}`" not in page]
    kin = {"num_profiled_timesteps", "profile_all_stages"}
    assert set(missing) <= kin
    assert not set(FOLLOWED) & set(TOLD)
    assert not set(FOLLOWED) & set(REFUSED)
    assert not set(TOLD) & set(REFUSED)


NASTY: list[Any] = [
    None, "", " ", "\x00", "a\x00b", "\ud800", "\u0661", "1e999", "nan", "-0", "0x10", "9" * 400, 10**30, -(2**63), 2**64, 0, -1, 1.5,
    1e308, True, False, [], {}, [[]], [None], ["\x00"], {"": ""}, {"\x00": 1}, {"\ud800": "\ud800"}, "[", "{", "[[[[", "{}", "[]", "[1]",
    '{"image_url": 5}', {"image_url": None}, {"image_url": ["a"]}, {"file_id": 5}, {"file_id": "file-x"}, {"video_url": {}}, "x" * 40_000,
    "https://", "http://[", "data:", "data:;base64,", "16:9", "1280x720", "4", "url", "high", "null", "none", [1, 2, 3], list(range(2000)),
]  # fmt: skip


def test_nothing_that_a_field_may_hold_makes_a_500(client: Client) -> None:
    rng = random.Random(8)
    names = [
        *PARAMETERS,
        *(f"metadata[{name}]" for name in ("style", "quality_level", "negative_prompt")),
        "zzqx",
    ]
    statuses: set[int] = set()
    for _ in range(400):
        fields = {name: rng.choice(NASTY) for name in rng.sample(names, rng.choice((1, 1, 2, 6)))}
        whole = {"prompt": "a dog", **fields}
        path = rng.choice(("/v1/videos", "/v1/videos", "/v1/video/generations"))
        if rng.random() < 0.7:
            content = json.dumps(whole).encode()
            sent = {"content": content, "headers": {"content-type": "application/json"}}
        else:
            texts = {
                name: value if isinstance(value, str) else json.dumps(value)
                for name, value in whole.items()
                if value is not None
            }
            parts = {
                name: (rng.choice((None, None, None, "a.png")), text.encode(errors="surrogatepass"))
                for name, text in texts.items()
            }
            sent = {"files": parts}
        answer = client.server.client.post(path, **sent)
        assert answer.status_code in (200, 400), (answer.text, fields)
        if answer.status_code == 200:
            assert client.server.client.get(f"/v1/videos/{answer.json()['id']}").status_code == 200
            client.server.client.delete(f"/v1/videos/{answer.json()['id']}")
        else:
            assert answer.json()["error"]["message"]
        statuses.add(answer.status_code)
    assert statuses == {200, 400}
