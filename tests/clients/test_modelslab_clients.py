"""ModelsLab's own clients, unmodified, and the bodies of its pages, against a real server with the embedded model."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
from PIL import Image

import enterprise
from vitascope.domain.access import Scope
from waiting import eventually

from .conftest import DRIVERS, INSTALLED, Served

pytestmark = pytest.mark.timeout(900)

PYTHON = ("modelslab-py-0.2.3", "modelslab-0.2")
CLI = INSTALLED / "modelslab-cli-0.2.2" / "modelslab_cli" / "bin" / "modelslab"

QUICK = {
    "model_id": "pocket",
    "prompt": "a dog walks",
    "width": 64,
    "height": 64,
    "num_inference_steps": 2,
    "seed": 7,
}
SEED_SECONDS = 120
"""What a page's own body may take with the embedded model on two cores."""


class ModelsLab:
    """The vendor's Python SDKs, in a process that knows nothing of this project."""

    def __init__(self, served: Served, key: str) -> None:
        self.url, self.key = served.url, key
        folders = [INSTALLED / name for name in PYTHON]
        for folder in folders:
            assert folder.exists(), f"{folder} is missing: run scripts/setup-clients"
        self._process = subprocess.Popen(
            [sys.executable, str(DRIVERS / "modelslab_client.py"), f"{served.url}/api/", key],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PYTHONPATH": os.pathsep.join(map(str, folders)), "NO_PROXY": "127.0.0.1"},
            text=True,
        )
        assert self._process.stdout is not None
        assert json.loads(self._process.stdout.readline()) == "ready"

    def call(self, call: str, *, of: str = "modelslab_py", **order: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"of": of, "call": call, **order}) + "\n")
        self._process.stdin.flush()
        reply = json.loads(self._process.stdout.readline())
        assert "error" not in reply, reply
        return reply["answer"]

    def close(self) -> None:
        self._process.communicate(timeout=30)


@pytest.fixture(scope="module")
def sdk(served: Served) -> Iterator[ModelsLab]:
    made = ModelsLab(served, served.new_key(Scope.ADMIN))
    yield made
    made.close()


class Clip:
    """A file as PyAV sees it."""

    def __init__(self, content: bytes) -> None:
        with av.open(io.BytesIO(content)) as container:
            stream = container.streams.video[0]
            self.format = container.format.name
            self.size = (stream.width, stream.height)
            self.rate = float(stream.average_rate or 0)
            self.frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def downloaded(url: str) -> Clip:
    answer = httpx.get(url, trust_env=False)
    assert answer.status_code == 200, answer.text
    return Clip(answer.content)


def picture() -> str:
    content = io.BytesIO()
    Image.new("RGB", (64, 64), (220, 20, 20)).save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()


class TestPages:
    """Their bodies to the byte, with the key filled in."""

    def made(self, served: Served, path: str, body: str) -> tuple[dict[str, Any], Clip]:
        key = served.new_key()
        begun = time.monotonic()
        with httpx.Client(base_url=served.url, trust_env=False, timeout=60) as client:
            headers = {"Content-Type": "application/json"}
            told = client.post(path, content=enterprise.with_key(body, key), headers=headers).json()

            def is_done() -> bool:
                nonlocal told
                if told["status"] == "processing":
                    told = client.post(told["fetch_result"], json={"key": key}).json()
                return bool(told["status"] != "processing")

            eventually(is_done, timeout_seconds=SEED_SECONDS, pause_seconds=0.2)
        assert told["status"] == "success", told
        assert time.monotonic() - begun < SEED_SECONDS
        return told, downloaded(told["output"][0])

    @pytest.mark.parametrize(
        ("path", "form", "size", "frames", "rate"),
        [
            ("/api/v1/enterprise/video/open_sora", "mp4", (256, 256), 25, 12),
            # a GIF counts time in hundredths of a second
            ("/api/v1/enterprise/video/text2video", "gif", (1024, 640), 16, 100 / 14),
            ("/api/v1/enterprise/text2video", "mp4", (512, 512), 17, 8),
        ],
    )
    def test_are_answered_with_playable_files(
        self, served: Served, path: str, form: str, size: tuple[int, int], frames: int, rate: float
    ) -> None:
        told, clip = self.made(served, path, enterprise.BODIES[path])
        assert form in clip.format
        assert (clip.size, len(clip.frames)) == (size, frames)
        assert clip.rate == pytest.approx(rate, rel=0.01)
        assert told["output"][0].endswith(f".{form}")


class TestSdk:
    @pytest.mark.parametrize("enterprise", [True, False])
    def test_text_to_video_and_fetch_until_success(self, sdk: ModelsLab, enterprise: bool) -> None:
        asked = {name: value for name, value in QUICK.items() if name != "num_inference_steps"}
        told = sdk.call(
            "text_to_video",
            enterprise=enterprise,
            schema="Text2Video",
            params={**asked, "num_inference_steps": 4},
        )
        assert told["meta"]["num_frames"] == 25, "it sends 30"
        fetched = sdk.call("fetch", enterprise=enterprise, params={"id": str(told["id"])})
        assert (fetched["status"], fetched["id"]) == ("success", told["id"])
        clip = downloaded(fetched["output"][0])
        assert (clip.size, len(clip.frames)) == ((64, 64), 25)
        assert clip.format == "gif" if not enterprise else "mp4" in clip.format

    @pytest.mark.parametrize("enterprise", [True, False])
    def test_image_to_video(self, sdk: ModelsLab, enterprise: bool) -> None:
        params = {**QUICK, "num_frames": 9, "init_image": picture()}
        told = sdk.call("image_to_video", enterprise=enterprise, schema="Image2Video", params=params)
        fetched = sdk.call("fetch", enterprise=enterprise, params={"id": str(told["id"])})
        red, green, blue = downloaded(fetched["output"][0]).frames[0].astype(float).mean(axis=(0, 1))
        assert red > 2 * max(green, blue)

    @pytest.mark.parametrize("enterprise", [True, False])
    def test_ultra(self, sdk: ModelsLab, enterprise: bool) -> None:
        params = {
            "prompt": "a dog",
            "resolution": 144,
            "num_frames": 9,
            "num_inference_steps": 2,
            "portrait": True,
        }
        told = sdk.call("text_to_video_ultra", enterprise=enterprise, schema="Text2VideoUltra", params=params)
        fetched = sdk.call("fetch", enterprise=enterprise, params={"id": str(told["id"])})
        assert downloaded(fetched["output"][0]).size == (144, 256)
        told = sdk.call(
            "image_to_video_ultra", enterprise=enterprise, schema="Image2VideoUltra", params={**params, "init_image": picture()}
        )  # fmt: skip
        assert told["status"] in ("success", "processing")
        sdk.call("fetch", enterprise=enterprise, params={"id": str(told["id"])})

    def test_a_provider_of_v7(self, sdk: ModelsLab, served: Served) -> None:
        params = {"prompt": "a dog", "aspect_ratio": "16:9", "duration": "1s", "num_inference_steps": 2}
        told = sdk.call("sora_2", params=params)
        fetched = sdk.call("fetch", enterprise=True, params={"id": str(told["id"])})
        clip = downloaded(fetched["output"][0])
        assert len(clip.frames) / clip.rate == pytest.approx(1.0)
        assert clip.size[0] > clip.size[1]

    def test_the_older_one(self, sdk: ModelsLab) -> None:
        asked = {"prompt": "a dog", "height": 64, "width": "64", "num_frames": 9, "fps": 8}
        told = sdk.call("open_sora", of="modelslab", params=asked)
        fetched = sdk.call("fetch", enterprise=True, params={"id": str(told["id"])})
        assert fetched["status"] == "success"
        video = fetched["output"][0]  # a link of this server's is an input too
        changed = sdk.call("video2video", of="modelslab", params={
            "model_id": "pocket", "prompt": "a cat", "negative_prompt": "", "init_video": video, "clip_skip": None,
            "num_inference_steps": 4, "strength": 0.6,
        })  # fmt: skip
        done = sdk.call("fetch", enterprise=True, params={"id": str(changed["id"])})
        before, after = downloaded(video), downloaded(done["output"][0])
        assert (before.size, len(before.frames)) == (after.size, len(after.frames))
        assert not np.array_equal(before.frames, after.frames)


class TestSameness:
    def test_the_same_seed_has_the_same_frames(self, sdk: ModelsLab) -> None:
        clips = []
        for seed in (7, 7, 8):
            params = {**QUICK, "num_frames": 9, "seed": seed}
            told = sdk.call("text_to_video", enterprise=True, schema="Text2Video", params=params)
            done = sdk.call("fetch", enterprise=True, params={"id": str(told["id"])})
            clips.append(downloaded(done["output"][0]).frames)
        assert np.array_equal(clips[0], clips[1])
        assert not np.array_equal(clips[0], clips[2])


@pytest.mark.skipif(not CLI.exists(), reason="there is none for this machine")
class TestCommandLine:
    def run(
        self, served: Served, key: str, folder: Path, *arguments: str
    ) -> subprocess.CompletedProcess[str]:
        command = [
            str(CLI),
            "--no-update-check",
            "--base-url",
            served.url,
            "--api-key",
            key,
            *arguments,
            "-o",
            "json",
        ]
        environment = {"HOME": str(folder), "NO_PROXY": "127.0.0.1", "PATH": os.environ["PATH"]}
        return subprocess.run(
            command, capture_output=True, text=True, env=environment, check=False, timeout=300
        )

    def test_it_waits_for_a_video_and_saves_it(self, served: Served, tmp_path: Path) -> None:
        out = tmp_path / "out"
        done = self.run(served, served.new_key(), tmp_path, "generate", "video", "--prompt", "a dog", "--model", "pocket",
                        "--width", "64", "--height", "64", "--output-dir", str(out))  # fmt: skip
        assert done.returncode == 0, done.stderr
        (file,) = out.iterdir()
        assert Clip(file.read_bytes()).size == (64, 64)

    def test_what_is_wrong_is_said(self, served: Served, tmp_path: Path) -> None:
        done = self.run(
            served, "vsk_wrong", tmp_path, "generate", "video", "--prompt", "a dog", "--model", "pocket"
        )
        assert done.returncode != 0


class TestManagement:
    """The last here: the worker is started anew."""

    def test_the_newest_sdk(self, sdk: ModelsLab) -> None:
        def call(name: str) -> dict[str, Any]:
            answer = sdk.call(name, enterprise=True)
            assert isinstance(answer, dict)
            return answer

        details = eventually(lambda: found if (found := call("system_details"))["status"] == "ok" else None)
        assert (details["model_count"], details["data"]["workers"]) == (1, 1)
        assert "is running" in call("update")["message"]
        # not while the engine is being started
        eventually(lambda: call("clear_cache")["message"] == "Cache cleared successfully")
        (before,) = self.workers(sdk)
        assert call("restart") == {"status": "success", "message": "server restarting"}
        eventually(lambda: (found := self.workers(sdk)) and found != [before])
        assert call("clear_queue")["message"] == "Queue cleared, server is restarting"

    def workers(self, sdk: ModelsLab) -> list[str]:
        headers = {"X-Api-Key": sdk.key}
        found = httpx.get(f"{sdk.url}/api/v1/workers", headers=headers, trust_env=False).json()["workers"]
        return [worker["id"] for worker in found]

    def test_the_older_one(self, sdk: ModelsLab) -> None:
        def call(name: str) -> dict[str, Any]:
            answer = sdk.call(name, of="modelslab", params={})
            assert isinstance(answer, dict)
            return answer

        assert call("system_details")["queue_time"] == 0
        assert call("update_server")["status"] == "success"
        assert call("clear_cache")["status"] == "success"
        # what was cleared above may have waited for a worker that was being started anew
        eventually(lambda: call("system_details")["status"] == "ok")
        assert call("restart_server")["message"] == "server restarting"
        eventually(lambda: call("system_details")["status"] == "ok")
