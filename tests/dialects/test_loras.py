"""Adapters over HTTP: the operator's by name, checked before there is a job."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from headers_only import pair, write, write_wan
from vitascope.dialects.native import schema
from vitascope.domain.request import Lora

CARD = """
id = "{id}"
source = "folder:{source}"
pipeline = "WanPipeline"
modes = {{ text = "WanPipeline", video = "WanVideoToVideoPipeline" }}
size = {{ native = ["96x64"], multiple = 32, max_pixels = 0 }}
frames = {{ multiple = 4, offset = 1, minimum = 5, maximum = 17, default = 17 }}
fps = 8
steps = {{ default = 12, minimum = 1, maximum = 100 }}
guidance = {{ default = 4.0, minimum = 1.0, maximum = 20.0 }}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("loras")
    write(made / "pan.safetensors", pair("diffusion_model.blocks.0.self_attn.q"))
    write(made / "zoom.safetensors", pair("transformer.blocks.1.attn1.to_q"))
    write(made / "wide.safetensors", pair("transformer.blocks.1.attn1.to_q", wide=32))
    write(made / "unet.safetensors", pair("unet.down_blocks.0.attn1.to_q"))
    (made / "cut.safetensors").write_bytes((made / "pan.safetensors").read_bytes()[:-1])
    (made / "pickle.pt").write_bytes(b"\x80\x02}q\x00.")
    return made


@pytest.fixture(scope="module")
def server(serve: Callable[..., Any], folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    cards = tmp_path_factory.mktemp("cards")
    source = write_wan(tmp_path_factory.mktemp("model"))
    (cards / "here.toml").write_text(CARD.format(id="here", source=source))
    (cards / "away.toml").write_text(CARD.format(id="away", source="/nowhere"))
    of_card = 'loras = [{ source = "file:pan.safetensors", scale = 0.5 }]\n'
    (cards / "panning.toml").write_text(CARD.format(id="panning", source=source) + of_card)
    bad = 'loras = [{ source = "file:wide.safetensors" }, { source = "file:nowhere.safetensors" }]\n'
    (cards / "bad.toml").write_text(CARD.format(id="bad", source=source) + bad)
    return serve(cards=str(cards), engine={"loras_folder": str(folder), "default_model": "here"})


def create(server: Any, loras: Any, path: str = "/api/v1/jobs", **more: Any) -> httpx.Response:
    answer: httpx.Response = server.client.post(path, json={"prompt": "a dog", "loras": loras, **more})
    return answer


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("pan", [("pan", 1.0)]),
        (["pan", {"name": "zoom", "scale": "0.5"}], [("pan", 1.0), ("zoom", 0.5)]),
        ('[{"name": "pan", "scale": -2}]', [("pan", -2.0)]),
        ([], []),
        (None, []),
    ],
)
def test_a_job_has_the_adapters_that_were_named(
    server: Any, sent: Any, shown: list[tuple[str, float]]
) -> None:
    answer = create(server, sent)
    assert answer.status_code == 201, answer.text
    job = schema.Job.model_validate(answer.json(), extra="forbid")
    assert [(lora.name, lora.scale) for lora in job.loras] == shown
    assert server.store.get(job.id).plan.loras == tuple(Lora(*pair) for pair in shown)
    again = server.client.get(f"/api/v1/jobs/{job.id}").json()
    assert again["loras"] == answer.json()["loras"]


@pytest.mark.parametrize(
    ("sent", "parameter", "message"),
    [
        (["pan", "wide"], "loras[1].name", "as 32x32, and the model has 24x24"),
        ("unet", "loras[0].name", "the model has no layer `unet.down_blocks.0.attn1.to_q`"),
        ("cut", "loras[0].name", "the file is cut"),
        ("pickle", "loras[0].name", "its file is a pickle, which can run code"),
        ("nobody", "loras[0].name", "the server's operator has put no such adapter on it"),
        ("/etc/passwd", "loras[0].name", "no such adapter"),
        ("https://example.com/x.safetensors", "loras[0].name", "no such adapter"),
        (["pan"] * 2, "loras[1].name", "it is named twice"),
        (["pan", "zoom", "a", "b", "c"], "loras", "it may have 4 entries at most"),
        ([{"name": "pan", "scale": 5}], "loras[0].scale", "it must be from -4 to 4"),
        ([{"name": "pan", "scale": "x"}], "loras[0].scale", "it must be a number"),
        ([{"name": "pan", "strength": 1}], "loras[0].strength", "there is no such parameter"),
        ([{"scale": 1}], "loras[0].name", "it must be an adapter's name"),
        ([3], "loras[0]", "it must be a name or an object with `name`"),
    ],
)
@pytest.mark.parametrize("path", ["/api/v1/jobs", "/api/v1/plan"])
def test_what_cannot_be_applied_is_refused_before_there_is_a_job(
    server: Any, path: str, sent: Any, parameter: str, message: str
) -> None:
    before = server.client.get("/api/v1/queue").json()["queued"]
    answer = create(server, sent, path)
    assert answer.status_code == 400, answer.text
    error = schema.ErrorAnswer.model_validate(answer.json()).error
    assert (error.code, error.parameter) == ("invalid_parameter", parameter)
    assert message in error.message
    assert "/loras" not in answer.text.replace("/api/v1", "")  # no path of the server
    assert server.client.get("/api/v1/queue").json()["queued"] == before


def test_a_plan_tells_them(server: Any) -> None:
    planned = create(server, "pan", "/api/v1/plan").json()
    assert planned["loras"] == [{"name": "pan", "scale": 1.0}]


def test_where_the_model_is_not_here_only_the_files_are_checked(server: Any) -> None:
    assert create(server, "wide", model="away").status_code == 201
    assert create(server, "cut", model="away").status_code == 400


def test_a_model_tells_which_fit_and_which_its_card_has(server: Any, folder: Path) -> None:
    def shown(name: str) -> schema.ModelDescription:
        answer = server.client.get(f"/api/v1/models/{name}")
        return schema.ModelDescription.model_validate(answer.json(), extra="forbid")

    assert shown("here").loras == ["pan", "zoom"]
    assert shown("here").card_loras == []
    assert shown("away").loras == []
    assert shown("panning").card_loras == [schema.Lora(name="pan", scale=0.5)]
    write(folder / "new.safetensors", pair("transformer.blocks.1.attn1.to_q"))
    assert shown("here").loras == ["new", "pan", "zoom"]
    (folder / "new.safetensors").unlink()


def test_a_card_with_an_adapter_of_another_model_is_refused_before_there_is_a_job(server: Any) -> None:
    answer = create(server, None, model="bad")
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["parameter"] == "model"
    assert error["rule"].startswith("the adapter `wide` of its card was made for another architecture")
    assert error["rule"] == server.client.get("/api/v1/models/bad").json()["problem"]
    assert create(server, None, model="panning").status_code == 201


def test_a_job_is_made_again_with_its_adapters_as_long_as_they_are_there(server: Any, folder: Path) -> None:
    path = write(folder / "gone.safetensors", pair("transformer.blocks.1.attn1.to_q"))
    headers = {"idempotency-key": "once"}
    body = {"prompt": "a dog", "loras": ["gone"]}
    job_id = server.client.post("/api/v1/jobs", json=body, headers=headers).json()["id"]
    server.client.post(f"/api/v1/jobs/{job_id}/cancel")
    again = server.client.post(f"/api/v1/jobs/{job_id}/retry")
    assert again.json()["loras"] == [{"name": "gone", "scale": 1.0}]
    server.client.post(f"/api/v1/jobs/{again.json()['id']}/cancel")
    path.unlink()
    assert server.client.post(f"/api/v1/jobs/{job_id}/retry").status_code == 400
    repeated = server.client.post("/api/v1/jobs", json=body, headers=headers)
    assert (repeated.status_code, repeated.json()["id"]) == (200, job_id)


class TestOpenAI:
    @pytest.mark.parametrize(
        ("sent", "loras"),
        [
            ("pan", (Lora("pan"),)),
            ({"name": "pan", "scale": 0.5}, (Lora("pan", 0.5),)),
            ({"lora_name": "pan", "lora_scale": "0.5"}, (Lora("pan", 0.5),)),
            ('{"name": "pan", "int_id": 1}', (Lora("pan"),)),
            ([{"name": "pan"}, "zoom"], (Lora("pan"), Lora("zoom"))),
            ('["pan", {"name": "zoom", "scale": 2}]', (Lora("pan"), Lora("zoom", 2.0))),
            ({}, ()),
            ("", ()),
        ],
    )
    def test_the_forms_of_other_servers_are_read(
        self, server: Any, sent: Any, loras: tuple[Lora, ...]
    ) -> None:
        for answer in (
            server.client.post("/v1/videos", json={"prompt": "a dog", "lora": sent}),
            server.client.post(
                "/v1/videos",
                files={
                    "prompt": (None, "a dog"),
                    "lora": (None, sent if isinstance(sent, str) else json.dumps(sent)),
                },
            ),
        ):
            assert answer.status_code == 200, answer.text
            job = server.store.get(answer.json()["id"].rpartition("_")[2])
            assert job.plan.loras == loras

    def test_a_path_is_not_opened_and_that_is_told(self, server: Any) -> None:
        lora = {"name": "pan", "path": "/models/evil.safetensors", "scale": 1.0}
        answer = server.client.post("/v1/videos", json={"prompt": "a dog", "lora": lora}).json()
        (choice,) = (c for c in answer["metadata"]["vitascope"]["choices"] if c["name"] == "lora")
        assert choice["value"] == "pan"
        assert "'/models/evil.safetensors' of the client is not opened" in choice["reason"]

    @pytest.mark.parametrize(
        ("sent", "param", "message"),
        [
            (
                {"path": "/models/x.safetensors"},
                "lora[name]",
                "must name an adapter of the server's operator",
            ),
            ({"name": "wide"}, "lora[name]", "another architecture"),
            (["pan", {"name": "cut"}], "lora[1][name]", "is cut"),
            ({"name": "pan", "scale": 9}, "lora[scale]", "it must be from -4 to 4"),
            ({"name": "pan", "scale": []}, "lora[scale]", "it must be a number"),
            ({"name": "pan", "weight": 1}, "lora[weight]", "there is no such parameter"),
            (3, "lora", "it must be an adapter's name or an object"),
            (["a", "b", "c", "d", "e"], "lora", "4 entries at most"),
        ],
    )
    def test_what_cannot_be_applied_is_refused(
        self, server: Any, sent: Any, param: str, message: str
    ) -> None:
        answer = server.client.post("/v1/videos", json={"prompt": "a dog", "lora": sent})
        assert answer.status_code == 400, answer.text
        error = answer.json()["error"]
        assert error["param"] == param
        assert message in error["message"]

    def test_a_remix_has_its_sources(self, server: Any) -> None:
        made = server.client.post(
            "/v1/videos", json={"prompt": "a dog", "lora": "pan", "seconds": "1"}
        ).json()
        lease = next(
            lease for lease in iter(server.claim, None) if lease.job.id == made["id"].rpartition("_")[2]
        )
        server.finish(lease)
        path = f"/v1/videos/{made['id']}/remix"
        remix = server.client.post(path, json={"prompt": "a cat"}).json()
        assert server.store.get(remix["id"].rpartition("_")[2]).plan.loras == (Lora("pan"),)
        other = server.client.post(path, json={"prompt": "a cat", "lora": "zoom"}).json()
        assert server.store.get(other["id"].rpartition("_")[2]).plan.loras == (Lora("zoom"),)
        for off in ([], False, "none"):
            none = server.client.post(path, json={"prompt": "a cat", "lora": off}).json()
            assert server.store.get(none["id"].rpartition("_")[2]).plan.loras == ()
