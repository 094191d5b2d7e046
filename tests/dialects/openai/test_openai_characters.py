"""Characters on the wire: kept once, shown to models that later requests name them for."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from vitascope import media
from vitascope.dialects._http.body import _nest
from vitascope.dialects.openai.characters import CharacterObject
from vitascope.domain.access import KeyLimits, Scope
from vitascope.domain.errors import InvalidParameter
from vitascope.domain.job import Job
from vitascope.service.keys import Keys


def png(colour: str = "red", size: tuple[int, int] = (200, 120)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Black, then white; the picture in the middle is grey."""
    path: Path = tmp_path_factory.mktemp("video") / "a.mp4"
    shades = [0] * 5 + [128] + [255] * 5
    frames = (np.full((90, 160, 3), shade, np.uint8) for shade in shades)
    media.write_video(frames, path, fps=10, format="mp4")
    return path.read_bytes()


class Characters:
    def __init__(self, server: Any) -> None:
        self.server = server

    def keep(self, name: str = "Rex", content: bytes | None = None, key: str | None = None) -> httpx.Response:
        answer: httpx.Response = self.server.client.post(
            "/v1/videos/characters",
            data={"name": name},
            files={"video": ("a.mp4", png() if content is None else content, "video/mp4")},
            headers={"Authorization": f"Bearer {key}"} if key else {},
        )
        return answer

    def id(self, **how: Any) -> str:
        answer = self.keep(**how)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def create(self, model: str = "every", key: str | None = None, **options: Any) -> httpx.Response:
        if "data" in options:
            options["data"] = {"prompt": "it runs", "model": model, **options["data"]}
        else:
            options["json"] = {"prompt": "it runs", "model": model, **options["json"]}
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        answer: httpx.Response = self.server.client.post("/v1/videos", headers=headers, **options)
        return answer

    def job(self, answer: httpx.Response) -> Job:
        assert answer.status_code == 200, answer.text
        job: Job = self.server.store.get(answer.json()["id"].removeprefix("video_"))
        return job

    def picture(self, key: str) -> Image.Image:
        with Image.open(self.server.files.path_for(key)) as picture:
            picture.load()
            return picture


@pytest.fixture(scope="module")
def characters(serve: Callable[..., Any]) -> Characters:
    return Characters(serve())


def error_of(answer: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_a_character_is_kept_and_shown(characters: Characters, mp4: bytes) -> None:
    client = openai.OpenAI(base_url=f"{characters.server.url}/v1", api_key="any", max_retries=0)
    made = client.videos.create_character(name="Rex ü", video=("a.mp4", mp4))
    assert (made.name, (made.id or "")[:5]) == ("Rex ü", "char_")
    assert client.videos.get_character(made.id or "").model_dump() == made.model_dump()
    CharacterObject.model_validate(made.model_dump(), extra="forbid")
    kept = characters.picture(f"characters/{(made.id or '').removeprefix('char_')}.png")
    assert kept.size == (160, 90)
    assert 118 < np.asarray(kept).mean() < 138, "the picture in the middle"


def test_a_character_may_be_a_picture(characters: Characters) -> None:
    kept = characters.picture(f"characters/{characters.id(content=png(size=(3000, 1500)))[5:]}.png")
    assert (kept.size, kept.getpixel((5, 5))) == ((1024, 512), (255, 0, 0))
    sent = {"name": "Rex", "video": "data:image/png;base64," + base64.b64encode(png()).decode()}
    assert characters.server.client.post("/v1/videos/characters", json=sent).status_code == 200


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"name": ""}, "name", "from 1 to 80"),
    ({"name": " \t"}, "name", "from 1 to 80"),
    ({"name": "x" * 81}, "name", "from 1 to 80"),
    ({"name": None}, "name", "from 1 to 80"),
    ({"name": 5}, "name", "must be text"),
    ({"video": None}, "video", "must be a file"),
    ({"video": ""}, "video", "must be a file"),
    ({"video": "https://example.com/a.mp4"}, "video", "must be a file"),
    ({"video": base64.b64encode(b"nothing").decode()}, "video", "not a video"),
    ({"video": base64.b64encode(png()[:60]).decode()}, "video", "damaged"),
    ({"video": {"id": "video_x"}}, "video", "a file, a URL or base64"),
    ({"nmae": "x"}, "nmae", "did you mean `name`?"),
]


@pytest.mark.parametrize(("body", "param", "words"), BAD, ids=range(len(BAD)))
def test_a_bad_character_is_refused(
    characters: Characters, body: dict[str, Any], param: str, words: str
) -> None:
    sent = {"name": "Rex", "video": base64.b64encode(png()).decode(), **body}
    error = error_of(characters.server.client.post("/v1/videos/characters", json=sent))
    assert error["param"] == param
    assert words in error["message"] or "did you mean" in words


def test_a_damaged_video_is_no_character(characters: Characters, mp4: bytes) -> None:
    before = set(characters.server.files.files_in("characters"))
    for content in (mp4[: len(mp4) // 2], mp4[:40]):
        assert error_of(characters.keep(content=content))["param"] == "video"
    assert {each.key for each in before} == {
        each.key for each in characters.server.files.files_in("characters")
    }


WAYS: list[Callable[[str, str], dict[str, Any]]] = [
    lambda a, b: {"json": {"characters": [{"id": a}, {"id": b}]}},
    lambda a, b: {"json": {"characters": [a, b]}},
    lambda a, b: {"data": {"characters[][id]": [a, b]}},
    lambda a, b: {"data": {"characters[0][id]": a, "characters[1][id]": b}},
    lambda a, b: {"data": {"characters[]": [a, b]}},
    lambda a, b: {"data": {"characters": f'[{{"id": "{a}"}}, {{"id": "{b}"}}]'}},
    lambda a, b: {"data": {"characters[][id]": [a, b]}, "files": {"nothing": ("", b"")}},
]


@pytest.mark.parametrize("way", WAYS, ids=range(len(WAYS)))
def test_characters_are_reference_pictures(
    characters: Characters, way: Callable[[str, str], dict[str, Any]]
) -> None:
    red, blue = characters.id(), characters.id(content=png("blue"))
    job = characters.job(characters.create(**way(red, blue)))
    assert job.plan.mode == "reference"
    assert [characters.picture(key).getpixel((5, 5)) for key in job.plan.references] == [
        (255, 0, 0),
        (0, 0, 255),
    ]


def test_where_a_model_takes_no_references_the_video_starts_from_the_character(
    characters: Characters,
) -> None:
    red, blue = characters.id(), characters.id(content=png("blue"))
    answer = characters.create("small", json={"characters": [{"id": red}]})
    job = characters.job(answer)
    assert job.plan.mode == "image"
    assert characters.picture(job.plan.image or "").size == (96, 64), "at the model's size"
    choices = {choice["name"]: choice for choice in answer.json()["metadata"]["vitascope"]["choices"]}
    assert choices["characters"]["value"] == "the first frame"
    error = error_of(characters.create("small", json={"characters": [{"id": red}, {"id": blue}]}))
    assert (error["param"], "one character only" in error["message"]) == ("characters", True)
    error = error_of(characters.create("short", json={"characters": [{"id": red}]}))
    assert (error["param"], "shows no characters" in error["message"]) == ("characters", True)


def test_a_deleted_character_is_unknown_and_jobs_keep_its_picture(characters: Characters) -> None:
    client, red = characters.server.client, characters.id()
    job = characters.job(characters.create(json={"characters": [{"id": red}]}))
    assert client.delete(f"/v1/videos/characters/{red}").json() == {
        "id": red,
        "object": "character.deleted",
        "deleted": True,
    }
    for answer in (client.get(f"/v1/videos/characters/{red}"), client.delete(f"/v1/videos/characters/{red}")):
        assert error_of(answer, 404)["code"] == "character_not_found"
    error = error_of(characters.create(json={"characters": [{"id": red}]}))
    assert (error["param"], "no character has this id" in error["message"]) == ("characters[0][id]", True)
    assert characters.picture(job.plan.references[0]).getpixel((5, 5)) == (255, 0, 0)
    assert f"characters/{red[5:]}.png" not in {
        file.key for file in characters.server.files.files_in("characters")
    }


@pytest.mark.parametrize(
    ("sent", "param"),
    [
        ([{"id": "char_" + "0" * 26}], "characters[0][id]"),
        ([{"id": "nonsense"}], "characters[0][id]"),
        ([{"id": 5}], "characters[0][id]"),
        ([{}], "characters[0][id]"),
        ([5], "characters[0][id]"),
        (["RED", {"id": "char_x"}], "characters[1][id]"),
        (["RED", "RED", "RED"], "characters"),
        ("[", "characters"),
    ],
)
def test_bad_characters_of_a_request(characters: Characters, sent: Any, param: str) -> None:
    red = characters.id()
    if isinstance(sent, list):
        sent = [red if each == "RED" else each for each in sent]
    assert error_of(characters.create(json={"characters": sent}))["param"] == param


def test_characters_beside_another_start_are_refused(characters: Characters) -> None:
    red, picture = characters.id(), base64.b64encode(png()).decode()
    assert error_of(characters.create(json={"characters": [red], "image": picture}))["param"] == "characters"


def test_anothers_character_is_an_unknown_one(serve: Callable[..., Any]) -> None:
    characters = Characters(serve())
    keys = Keys(characters.server.store)
    keys.create("first", (Scope.ADMIN,))
    mine, other, full = (
        keys.create("test", (Scope.GENERATE,), limits)[1]
        for limits in (KeyLimits(), KeyLimits(), KeyLimits(max_storage_bytes=50))
    )
    red, unknown = characters.id(key=mine), "char_" + "0" * 26

    def seen(character_id: str, method: str) -> tuple[int, str]:
        answer = characters.server.client.request(
            method, f"/v1/videos/characters/{character_id}", headers={"Authorization": f"Bearer {other}"}
        )
        return answer.status_code, answer.text

    for method in ("GET", "DELETE"):
        assert seen(red, method) == seen(unknown, method)
        assert seen(red, method)[0] == 404
    theirs, nobodys = (
        characters.create(key=other, json={"characters": [each]}).text.replace(each, "")
        for each in (red, unknown)
    )
    assert theirs == nobodys
    assert characters.create(key=mine, json={"characters": [red]}).status_code == 200
    assert error_of(characters.keep(key=full), 403)["code"] == "storage_limit_reached"
    assert len(list(characters.server.files.files_in("characters"))) == 1


def test_lists_of_objects_in_forms() -> None:
    assert _nest([("a[][id]", "1"), ("a[][b]", "2"), ("a[][id]", "3")]) == {
        "a": [{"id": "1", "b": "2"}, {"id": "3"}]
    }
    assert _nest([("a[0][id]", "1"), ("a[1][id]", "3"), ("a[0][b]", "2")]) == {
        "a": [{"id": "1", "b": "2"}, {"id": "3"}]
    }
    for pairs in (
        [("a[1][id]", "1")],
        [("a[0][id]", "1"), ("a[0][id]", "2")],
        [("a[]", "1"), ("a[0][id]", "2")],
        [("a[b]", "1"), ("a[0][id]", "2")],
        [("a", "1"), ("a[0][id]", "2")],
    ):
        with pytest.raises(InvalidParameter, match="`a"):
            _nest(pairs)
