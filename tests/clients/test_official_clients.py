"""The official OpenAI clients, unmodified, each in a process of its own, against a real server with the embedded model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
from PIL import Image

from vitascope import media
from vitascope.domain.access import Scope
from waiting import eventually

from .conftest import QUICK_EXTRA, Client, ClientError, Receiver, Served

pytestmark = pytest.mark.timeout(900)
"""The first test waits for a server and its model too."""

ENOUGH = {"num_inference_steps": 2}
"""Fewer leave nothing to do for a change of a video."""

NEVER_RETRY = {"max_retries": 0}
QUICK = {"prompt": "a dog", "seconds": "1", "size": "64x64"}


@pytest.fixture(scope="session")
def finished(client: Client) -> dict[str, Any]:
    """A video that the client has made."""
    return client.make(prompt="a dog walks", extra_body={**ENOUGH, "seed": 7, "metadata": {"shot": "12"}})


def error_of(
    caller: Client, call: str, *ids: str, client: dict[str, Any] | None = None, **params: Any
) -> ClientError:
    with pytest.raises(ClientError) as caught:
        caller.call(call, *ids, client=NEVER_RETRY if client is None else client, **params)
    return caught.value


def is_moov_first(data: bytes) -> bool:
    return 0 < data.find(b"moov") < data.find(b"mdat")


def is_red(client: Client, video: dict[str, Any], folder: Path) -> bool:
    """Look at the video's first frame."""
    path = folder / "red.mp4"
    client.call("videos.download_content", video["id"], save=path)
    red, green, blue = media.read_frames(path)[0].astype(float).mean(axis=(0, 1))
    return bool(red > 2 * max(green, blue))


class TestVideos:
    def test_create_and_poll(self, finished: dict[str, Any]) -> None:
        assert (finished["object"], finished["status"], finished["progress"]) == ("video", "completed", 100)
        assert (finished["seconds"], finished["size"], finished["error"]) == ("1", "64x64", None)
        assert finished["prompt"] == "a dog walks"
        assert finished["completed_at"] >= finished["created_at"]
        assert (finished["metadata"]["shot"], finished["metadata"]["seed"]) == ("12", 7)

    def test_retrieve_shows_the_same(self, client: Client, finished: dict[str, Any]) -> None:
        assert client.call("videos.retrieve", finished["id"]) == finished

    def test_progress_only_rises(self, client: Client) -> None:
        video = client.call("videos.create", **QUICK, extra_body={"num_inference_steps": 4})
        assert video["status"] in ("queued", "in_progress")
        seen = [video["progress"]]
        while video["status"] in ("queued", "in_progress"):
            video = client.call("videos.retrieve", video["id"])
            seen.append(video["progress"])
        assert video["status"] == "completed"
        assert seen == sorted(seen)
        assert seen[-1] == 100
        client.call("videos.delete", video["id"])

    def test_the_file_is_what_was_asked_for(
        self, client: Client, finished: dict[str, Any], tmp_path: Path
    ) -> None:
        path = tmp_path / "dog.mp4"
        told = client.call("videos.download_content", finished["id"], save=path)
        assert told == {"content_type": "video/mp4"}
        info = media.probe(path)
        assert (info.width, info.height, info.duration_seconds, info.fps) == (64, 64, 1.0, 8)
        with av.open(path) as container:
            assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
        assert is_moov_first(path.read_bytes())

    @pytest.mark.parametrize(
        ("variant", "media_type", "form"),
        [("thumbnail", "image/webp", "WEBP"), ("spritesheet", "image/jpeg", "JPEG")],
    )
    def test_pictures_of_it(
        self,
        client: Client,
        finished: dict[str, Any],
        tmp_path: Path,
        variant: str,
        media_type: str,
        form: str,
    ) -> None:
        told = client.call(
            "videos.download_content", finished["id"], variant=variant, save=tmp_path / "picture"
        )
        assert told == {"content_type": media_type}
        with Image.open(tmp_path / "picture") as picture:
            picture.load()
            assert (picture.format, picture.width >= 64) == (form, True)

    def test_an_unknown_variant(self, client: Client, finished: dict[str, Any]) -> None:
        error = error_of(client, "videos.download_content", finished["id"], variant="poster")
        assert (error.name, error.code, error.param) == ("BadRequestError", "invalid_parameter", "variant")

    def test_an_input_reference_is_the_first_frame(self, client: Client, tmp_path: Path) -> None:
        picture = tmp_path / "red.png"
        Image.new("RGB", (64, 64), (220, 20, 20)).save(picture)
        video = client.make(input_reference={"file": str(picture)})
        assert is_red(client, video, tmp_path)

    def test_list_walks_all_pages(self, client: Client, served: Served) -> None:
        own = {"api_key": served.new_key()}
        made = [client.call("videos.create", **QUICK, client=own)["id"] for _ in range(5)]
        newest = client.call("videos.list", limit=2, client=own)
        assert [video["id"] for video in newest] == made[::-1]
        oldest = client.call("videos.list", limit=2, order="asc", after=made[0], client=own)
        assert [video["id"] for video in oldest] == made[1:]
        for video_id in made:
            client.call("videos.delete", video_id, client=own)
        assert client.call("videos.list", client=own) == []

    def test_delete(self, client: Client) -> None:
        video = client.call("videos.create", **QUICK)
        assert client.call("videos.delete", video["id"]) == {
            "id": video["id"], "object": "video.deleted", "deleted": True,
        }  # fmt: skip
        error = error_of(client, "videos.retrieve", video["id"])
        assert (error.name, error.status, error.code) == ("NotFoundError", 404, "video_not_found")

    def test_models(self, client: Client) -> None:
        assert client.call("models.list")[0]["id"] == "pocket"


def frames_of(client: Client, video: dict[str, Any], folder: Path) -> Any:
    """Download and decode it."""
    path = folder / f"{video['id']}.mp4"
    client.call("videos.download_content", video["id"], save=path)
    return media.read_frames(path).astype(float)


def psnr(these: Any, those: Any) -> float:
    """Likeness of frames in decibels; the same picture, written twice, has more than 30."""
    difference = float(np.square(these - those).mean())
    return 10 * math.log10(255**2 / max(difference, 1e-9))


@pytest.fixture
def deriving(client: Client) -> Client:
    """A client that has calls for edits, extensions and characters."""
    if client.name == "python-2.3.0":
        pytest.skip("this version has no calls for edits, extensions and characters")
    return client


def source_of(client: Client, video: dict[str, Any], empty: Path) -> dict[str, Any]:
    """Name a video as the source: Python's SDK takes a file only, so its users send an empty one beside the id."""
    if client.language == "node":
        return {"video": {"id": video["id"]}}
    empty.write_bytes(b"")
    return {"video": {"file": str(empty)}, "extra_body": {"video": {"id": video["id"]}}}


class TestDerived:
    def test_remix(self, client: Client, finished: dict[str, Any], tmp_path: Path) -> None:
        made = client.call("videos.remix", finished["id"], prompt="a cat walks")
        video = client.poll(made["id"])
        assert (video["status"], video["remixed_from_video_id"]) == ("completed", finished["id"])
        assert (video["prompt"], video["size"], video["seconds"]) == ("a cat walks", "64x64", "1")
        frames = frames_of(client, video, tmp_path)
        assert psnr(frames, frames_of(client, finished, tmp_path)) < 30, "it is another video"

    def test_edit(self, deriving: Client, finished: dict[str, Any], tmp_path: Path) -> None:
        source = source_of(deriving, finished, tmp_path / "empty")
        video = deriving.poll(deriving.call("videos.edit", prompt="a red dog", **source)["id"])
        assert (video["status"], video["remixed_from_video_id"]) == ("completed", finished["id"])

    def test_edit_of_a_file(self, deriving: Client, finished: dict[str, Any], tmp_path: Path) -> None:
        path = tmp_path / "dog.mp4"
        deriving.call("videos.download_content", finished["id"], save=path)
        made = deriving.call("videos.edit", prompt="a red dog", video={"file": str(path)}, extra_body=ENOUGH)
        video = deriving.poll(made["id"])
        assert (video["status"], video["size"]) == ("completed", "64x64")

    def test_extend(self, deriving: Client, finished: dict[str, Any], tmp_path: Path) -> None:
        source = source_of(deriving, finished, tmp_path / "empty")
        made = deriving.call("videos.extend", prompt="a dog walks on", seconds="1", **source)
        video = deriving.poll(made["id"])
        assert (video["status"], video["seconds"], video["size"]) == ("completed", "2", "64x64")
        before, whole = (frames_of(deriving, each, tmp_path) for each in (finished, video))
        assert len(whole) == 2 * len(before)
        assert psnr(whole[: len(before)], before) > 30, "it begins with the source's frames"

    def test_of_what_is_not_there(
        self, client: Client, finished: dict[str, Any], served: Served, tmp_path: Path
    ) -> None:
        error = error_of(client, "videos.remix", "video_unknown", prompt="a cat")
        assert (error.name, error.status, error.code) == ("NotFoundError", 404, "video_not_found")
        foreign = {"api_key": served.new_key(), **NEVER_RETRY}
        error = error_of(client, "videos.remix", finished["id"], prompt="a cat", client=foreign)
        assert (error.name, error.status, error.code) == ("NotFoundError", 404, "video_not_found")
        waiting = client.call("videos.create", **QUICK, extra_body={"num_inference_steps": 100})
        error = error_of(client, "videos.remix", waiting["id"], prompt="a cat")
        assert (error.name, error.status, error.code) == ("NotFoundError", 404, "video_not_ready")
        client.call("videos.delete", waiting["id"])


class TestErrors:
    """The SDK's own exception, with the code that a program looks at."""

    def test_bad_request(self, client: Client) -> None:
        error = error_of(client, "videos.create", **{**QUICK, "seconds": "61"})
        assert (error.name, error.status, error.type) == ("BadRequestError", 400, "invalid_request_error")
        assert (error.code, error.param) == ("invalid_parameter", "seconds")
        assert "60" in error.message

    def test_bad_key(self, client: Client) -> None:
        error = error_of(client, "videos.list", client={"api_key": "vsk_wrong"})
        assert (error.name, error.status, error.code) == ("AuthenticationError", 401, "invalid_api_key")

    def test_a_key_that_may_not(self, client: Client, served: Served) -> None:
        error = error_of(client, "videos.create", **QUICK, client={"api_key": served.new_key(Scope.READ)})
        assert (error.name, error.status, error.code) == ("PermissionDeniedError", 403, "permission_denied")

    @pytest.mark.parametrize("call", ["videos.retrieve", "videos.delete", "videos.download_content"])
    def test_not_found(self, client: Client, call: str) -> None:
        error = error_of(client, call, "video_unknown")
        assert (error.name, error.status, error.code) == ("NotFoundError", 404, "video_not_found")
        error = error_of(client, call, "video/unknown")  # which the SDK escapes
        assert (error.name, error.status) == ("NotFoundError", 404)

    def test_the_video_of_another_key_is_not_found(
        self, client: Client, served: Served, finished: dict[str, Any]
    ) -> None:
        error = error_of(client, "videos.retrieve", finished["id"], client={"api_key": served.new_key()})
        assert (error.name, error.status, error.code) == ("NotFoundError", 404, "video_not_found")

    def test_a_file_that_is_not_ready(self, client: Client) -> None:
        video = client.call("videos.create", **QUICK, extra_body={"num_inference_steps": 100})
        error = error_of(client, "videos.download_content", video["id"])
        assert (error.name, error.status, error.code) == ("NotFoundError", 404, "video_not_ready")
        client.call("videos.delete", video["id"])

    def test_conflict(self, client: Client) -> None:
        """The client's own retries are left on: the server says that they would not help."""
        headers = {"Idempotency-Key": f"once {client.name}"}
        first = client.call("videos.create", **QUICK, extra_headers=headers)
        assert client.call("videos.create", **QUICK, extra_headers=headers)["id"] == first["id"]
        error = error_of(
            client, "videos.create", **{**QUICK, "prompt": "a cat"}, extra_headers=headers, client={}
        )
        assert (error.name, error.status, error.code) == ("ConflictError", 409, "idempotency_conflict")
        client.call("videos.delete", first["id"])

    def test_rate_limit(self, client: Client, served: Served) -> None:
        own = {"api_key": served.new_key(requests_per_minute=1), **NEVER_RETRY}
        with pytest.raises(ClientError) as caught:
            for _ in range(3):  # one more than the end of a minute lets through
                video = client.call("videos.create", **QUICK, client=own)
                client.call("videos.delete", video["id"], client=own)
        error = caught.value
        assert (error.name, error.status, error.code) == ("RateLimitError", 429, "rate_limit_exceeded")


class TestSeveral:
    def test_each_of_two_can_be_fetched(self, client: Client, tmp_path: Path) -> None:
        pair = client.make(extra_body={"n": 2, "seed": 5, "response_format": "url"})
        assert [entry["index"] for entry in pair["data"]] == [0, 1]
        files = []
        for entry in pair["data"]:
            index = entry["index"]
            path = tmp_path / f"{index}.mp4"
            client.call("videos.download_content", pair["id"], extra_query={"index": index}, save=path)
            files.append(path.read_bytes())
            assert httpx.get(entry["url"], trust_env=False).content == files[-1]
        assert files[0] != files[1]
        error = error_of(client, "videos.download_content", pair["id"], extra_query={"index": 2})
        assert (error.name, error.param) == ("BadRequestError", "index")


class TestCharacters:
    def test_a_character_from_create_to_use(
        self, deriving: Client, finished: dict[str, Any], tmp_path: Path
    ) -> None:
        path = tmp_path / "dog.mp4"
        deriving.call("videos.download_content", finished["id"], save=path)
        made = deriving.call("videos.create_character", name="Rex", video={"file": str(path)})
        assert made["name"] == "Rex"
        assert deriving.call("videos.get_character", made["id"]) == made
        video = deriving.make(extra_body={"characters": [{"id": made["id"]}]})
        names = [choice["name"] for choice in video["metadata"]["vitascope"]["choices"]]
        assert "characters" in names, "what was done with it is told"
        error = error_of(deriving, "videos.get_character", "char_unknown")
        assert (error.name, error.status, error.code) == ("NotFoundError", 404, "character_not_found")


class TestBatches:
    def test_a_batch_from_file_to_file(self, client: Client, tmp_path: Path) -> None:
        path = tmp_path / "night.jsonl"
        bodies = [{**QUICK, **QUICK_EXTRA, "prompt": prompt} for prompt in ("a dog", "a cat")] + [
            {"prompt": ""}
        ]
        lines = [
            {"custom_id": f"line {number}", "method": "POST", "url": "/v1/videos", "body": body}
            for number, body in enumerate(bodies)
        ]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        sent = client.call("files.create", file={"file": str(path)}, purpose="batch")
        batch = client.call(
            "batches.create", input_file_id=sent["id"], endpoint="/v1/videos", completion_window="24h"
        )
        assert batch["object"] == "batch"
        assert batch["id"] in [each["id"] for each in client.call("batches.list", limit=1)]

        def has_ended() -> bool:
            nonlocal batch
            batch = client.call("batches.retrieve", batch["id"])
            return batch["status"] in ("completed", "failed", "expired", "cancelled")

        eventually(has_ended, timeout_seconds=240, pause_seconds=0.2)
        assert batch["status"] == "completed", batch
        assert batch["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
        out, wrong = (
            self.lines_of(client, batch[name], tmp_path) for name in ("output_file_id", "error_file_id")
        )
        assert sorted(line["custom_id"] for line in out) == ["line 0", "line 1"]
        assert {line["response"]["body"]["status"] for line in out} == {"completed"}
        assert [line["custom_id"] for line in wrong] == ["line 2"]

    def lines_of(self, client: Client, file_id: str, folder: Path) -> list[dict[str, Any]]:
        client.call("files.content", file_id, save=folder / "lines")
        return [json.loads(line) for line in (folder / "lines").read_text().splitlines()]

    def test_cancel(self, client: Client, tmp_path: Path) -> None:
        path = tmp_path / "night.jsonl"
        body = {**QUICK, "num_inference_steps": 100}
        line = {"custom_id": "a", "method": "POST", "url": "/v1/videos", "body": body}
        path.write_text(json.dumps(line) + "\n")
        sent = client.call("files.create", file={"file": str(path)}, purpose="batch")
        batch = client.call(
            "batches.create", input_file_id=sent["id"], endpoint="/v1/videos", completion_window="24h"
        )
        told = client.call("batches.cancel", batch["id"])
        assert told["status"] in ("cancelling", "cancelled")
        eventually(lambda: client.call("batches.retrieve", batch["id"])["status"] == "cancelled", 60)


class TestFiles:
    def test_a_file_from_upload_to_delete(self, client: Client, tmp_path: Path) -> None:
        path = tmp_path / "notes.txt"
        path.write_bytes(bytes(range(256)))
        made = client.call("files.create", file={"file": str(path)}, purpose="user_data")
        assert (made["object"], made["bytes"], made["filename"]) == ("file", 256, "notes.txt")
        assert client.call("files.retrieve", made["id"]) == made
        assert made in client.call("files.list", limit=1)
        client.call("files.content", made["id"], save=tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == path.read_bytes()
        assert client.call("files.delete", made["id"])["deleted"] is True
        error = error_of(client, "files.retrieve", made["id"])
        assert (error.name, error.status, error.code) == ("NotFoundError", 404, "file_not_found")

    def test_an_uploaded_picture_is_the_first_frame(self, client: Client, tmp_path: Path) -> None:
        picture = tmp_path / "red.png"
        Image.new("RGB", (64, 64), (220, 20, 20)).save(picture)
        made = client.call("files.create", file={"file": str(picture)}, purpose="vision")
        reference = {"input_reference": {"file_id": made["id"]}}
        assert is_red(client, client.make(extra_body=reference), tmp_path)
        client.call("files.delete", made["id"])
        error = error_of(client, "videos.create", **QUICK, extra_body=reference)
        assert (error.name, error.param) == ("BadRequestError", "input_reference[file_id]")


@pytest.fixture
def newest(client: Client) -> Client:
    """A client that can set up webhooks; the older ones can only check what arrives."""
    if client.name not in ("python-3.54.0", "node-7.57.0"):
        pytest.skip("this version has no calls for webhook endpoints")
    return client


class TestWebhooks:
    def test_an_endpoint_from_create_to_delete(
        self, newest: Client, served: Served, receiver: Receiver
    ) -> None:
        own = {"api_key": served.new_key()}
        asked = {"name": "mine", "url": receiver.url, "event_types": ["video.completed", "video.failed"]}
        made = newest.call("webhooks.create", **asked, client=own)
        secret = made.pop("signing_secret")
        assert secret.startswith("whsec_")
        assert {name: made[name] for name in asked} == asked
        assert newest.call("webhooks.retrieve", made["id"], client=own) == made
        assert newest.call("webhooks.list", client=own) == [made]
        renamed = newest.call("webhooks.update", made["id"], name="ours", client=own)
        assert renamed["name"] == "ours"
        tested = newest.call("webhooks.test", made["id"], event_type="video.completed", client=own)
        assert (tested["success"], tested["status_code"]) == (True, 204)
        headers, body = receiver.wait()
        event = newest.call("webhooks.unwrap", payload=body, headers=headers, secret=secret)
        assert event["type"] == "video.completed"
        rotated = newest.call("webhooks.rotate_secret", made["id"], client=own)
        assert rotated["signing_secret"] != secret
        assert newest.call("webhooks.delete", made["id"], client=own)["deleted"] is True
        error = error_of(newest, "webhooks.retrieve", made["id"], client=own)
        assert (error.name, error.status) == ("NotFoundError", 404)

    def test_unwrap_verifies_what_arrives(self, client: Client, served: Served, receiver: Receiver) -> None:
        key = served.new_key()
        with httpx.Client(base_url=served.url, headers={"Authorization": f"Bearer {key}"}) as native:
            endpoint = native.post("/api/v1/webhooks/endpoints", json={"url": receiver.url}).json()
        video = client.call("videos.create", **QUICK, client={"api_key": key})
        client.poll(video["id"], {"api_key": key})
        headers, body = receiver.wait()
        event = client.call("webhooks.unwrap", payload=body, headers=headers, secret=endpoint["secret"])
        assert (event["type"], event["data"]["id"]) == ("video.completed", video["id"])
        error = error_of(
            client, "webhooks.unwrap", payload=body + " ", headers=headers, secret=endpoint["secret"]
        )
        assert error.name == "InvalidWebhookSignatureError"
