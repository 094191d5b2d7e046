"""What ModelsLab's parameters do to a video: a real server, worker and engine, with a tiny model whose text encoder is CLIP."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import av
import httpx
import numpy as np
import pytest

import tiny
from bench.deployment import Deployment
from vitascope.domain.schedulers import EIGHTEEN
from waiting import eventually

pytestmark = pytest.mark.timeout(600)

CARD = """
id = "tiny"
source = "folder:{folder}"
pipeline = "TextToVideoSDPipeline"
modes = {{ text = "TextToVideoSDPipeline", video = "VideoToVideoSDPipeline" }}
size = {{ native = ["32x32"], multiple = 8, max_pixels = 4096 }}
clip_layers = 2
"""

TEXT2VIDEO = "/api/v1/enterprise/video/text2video"
QUICK = {
    "model_id": "tiny",
    "prompt": "a dog walks",
    "negative_prompt": "blurry",
    "seed": 7,
    "width": 32,
    "height": 32,
    "num_frames": 5,
    "fps": 8,
    "num_inference_steps": 4,
}


class Api:
    """Sends requests and decodes the videos that they make."""

    def __init__(self, url: str) -> None:
        self.client = httpx.Client(base_url=url, trust_env=False, timeout=60)

    def told(self, path: str = TEXT2VIDEO, **fields: Any) -> dict[str, Any]:
        """Return the reply of a video that is there."""
        told: dict[str, Any] = self.client.post(path, json={**QUICK, **fields}).json()
        while told["status"] == "processing":
            told = self.client.post(told["fetch_result"], json={"key": ""}).json()
        assert told["status"] == "success", told
        return told

    def frames(self, told: dict[str, Any]) -> np.ndarray[Any, Any]:
        answer = self.client.get(told["output"][0])
        assert answer.status_code == 200
        with av.open(io.BytesIO(answer.content)) as container:
            return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])

    def made(self, path: str = TEXT2VIDEO, **fields: Any) -> np.ndarray[Any, Any]:
        return self.frames(self.told(path, **fields))


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("effects")
    model = tiny.build("TextToVideoSDPipeline", folder / "model")
    deployment = Deployment(folder, {"VITASCOPE_ENGINE__DEFAULT_MODEL": "tiny"})
    cards = deployment.home / "cards"
    cards.mkdir(parents=True)
    (cards / "tiny.toml").write_text(CARD.format(folder=model))
    deployment.tend()
    made = Api(f"http://127.0.0.1:{deployment.ports[0]}")

    def is_ready() -> bool:
        try:
            return made.client.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    try:
        eventually(is_ready, timeout_seconds=120)
        yield made
    finally:
        made.client.close()
        problems = deployment.stop()
    assert problems == []
    assert "Traceback" not in deployment.log.read_text()


@pytest.fixture(scope="module")
def plain(api: Api) -> np.ndarray[Any, Any]:
    """The video that all others are compared with."""
    return api.made()


def difference(these: np.ndarray[Any, Any], those: np.ndarray[Any, Any]) -> float:
    return float(np.abs(these.astype(float) - those.astype(float)).mean())


class TestEffects:
    def test_the_same_seed_has_the_same_frames_and_another_others(
        self, api: Api, plain: np.ndarray[Any, Any]
    ) -> None:
        assert np.array_equal(api.made(), plain)
        assert difference(api.made(seed=8), plain) > 1

    @pytest.mark.parametrize(
        "change",
        [
            {"prompt": "a cat"},
            {"negative_prompt": "sharp"},
            {"guidance_scale": 2},
            {"num_inference_steps": 6},
            {"clip_skip": 1},
            {"use_improved_sampling": True, "improved_sampling_seed": 3},
            {"scheduler": "EulerAncestralDiscreteScheduler"},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_each_changes_the_frames_and_is_the_same_again(
        self, api: Api, plain: np.ndarray[Any, Any], change: dict[str, Any]
    ) -> None:
        told = api.told(**change)
        assert "tip" not in told
        frames = api.frames(told)
        assert frames.shape == plain.shape
        assert not np.array_equal(frames, plain)
        assert np.array_equal(api.made(**change), frames)

    def test_the_seed_of_improved_sampling_is_one_of_its_own(self, api: Api) -> None:
        first, second = (api.made(use_improved_sampling=True, improved_sampling_seed=seed) for seed in (3, 4))
        assert not np.array_equal(first, second)

    def test_the_second_pass_is_over_the_first_result(self, api: Api, plain: np.ndarray[Any, Any]) -> None:
        size = {"upscale_height": 64, "upscale_width": 64, "upscale_num_inference_steps": 4}
        little, much = (api.made(**size, upscale_strength=strength) for strength in (0.25, 1.0))
        assert little.shape == much.shape == (len(plain), 64, 64, 3)
        assert not np.array_equal(little, much)
        other = api.made(**size, upscale_strength=0.25, upscale_guidance_scale=1)
        assert not np.array_equal(little, other)

    @pytest.mark.parametrize(
        "fields",
        [{}, {"use_improved_sampling": True}, {"upscale_height": 64, "upscale_width": 64}],
        ids=("plain", "improved", "upscaled"),
    )
    def test_generation_time_covers_all_passes_and_rounds(self, api: Api, fields: dict[str, Any]) -> None:
        """No clock is compared: what the reply says is not less than what the worker has measured, stage by stage."""
        told = api.told(**fields)
        seconds = api.client.get(f"/api/v1/jobs/{told['id']}").json()["seconds_by_stage"]
        assert "denoise" in seconds
        assert told["generationTime"] >= round(sum(seconds.values()), 2) - 0.05

    @pytest.mark.parametrize("name", EIGHTEEN)
    def test_every_scheduler_makes_a_video(self, api: Api, plain: np.ndarray[Any, Any], name: str) -> None:
        told = api.told("/api/v1/enterprise/text2video", scheduler=name, enhance_prompt="no", strength=None)
        assert api.frames(told).shape == plain.shape
        runs_another = name in ("DDIMInverseScheduler", "KarrasVeScheduler", "ScoreSdeVeScheduler")
        assert runs_another == (name in told.get("tip", ""))
