"""Models, workers and commands of the native API; a row of the store in place of each worker."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from vitascope.dialects.native import schema
from vitascope.domain.command import CommandKind
from vitascope.store.tables import workers

EVERY = frozenset(CommandKind)

HUB_CARD = """
id = "someone/big"
source = "hub:someone/big"
revision = "c0ffee"
pipeline = "WanPipeline"
"""


@pytest.fixture(scope="module")
def server(serve: Callable[..., Any]) -> Any:
    return serve()


@pytest.fixture(scope="module")
def roomy(serve: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server with a model of a hub, and two workers."""
    cards = tmp_path_factory.mktemp("cards")
    (cards / "big.toml").write_text(HUB_CARD)
    (cards / "small.toml").write_text(
        HUB_CARD.replace("someone/big", "small").replace("hub:small", "folder:/nowhere")
    )
    made = serve(cards=str(cards))
    for worker in ("w1", "w2"):
        made.store.worker_seen(worker, "cpu", ["someone/big"] if worker == "w2" else [])
    return made


def call(server: Any, method: str, path: str, **options: Any) -> Any:
    answer: httpx.Response = server.client.request(method, f"/api/v1{path}", **options)
    return answer.json(), answer.status_code


def test_a_model_is_shown_with_what_there_is_of_it(roomy: Any) -> None:
    shown, status = call(roomy, "GET", "/models/someone/big")
    assert status == 200
    model = schema.ModelDescription.model_validate(shown, extra="forbid")
    assert (model.id, model.source, model.downloaded, model.loaded_on) == (
        "someone/big",
        "hub:someone/big",
        False,
        ["w2"],
    )
    assert model.problem == "model `someone/big` is not downloaded"
    assert call(roomy, "GET", "/models/someone%2Fbig")[0] == shown
    listed, _ = call(roomy, "GET", "/models")
    assert shown in listed["models"]
    folder = next(model for model in listed["models"] if model["id"] == "small")
    assert (folder["source"], folder["is_default"]) == ("folder", True)
    assert "/nowhere" not in str(listed)
    pocket = next(model for model in listed["models"] if model["id"] == "pocket")
    assert (pocket["downloaded"], pocket["problem"]) == (True, None)


@pytest.mark.parametrize(
    ("method", "path"), [("GET", ""), ("DELETE", ""), ("POST", "/load"), ("POST", "/pull")]
)
def test_an_unknown_name_is_refused_with_the_nearest(roomy: Any, method: str, path: str) -> None:
    for name in ("pokcet", "a/pokcet/b", "..%2Fetc", "%00"):
        answer, status = call(roomy, method, f"/models/{name}{path}")
        assert (status, answer["error"]["code"]) == (400, "unknown_model"), name
    assert call(roomy, method, f"/models/pokcet{path}")[0]["error"]["hint"] == "did you mean `pocket`?"


@pytest.mark.parametrize("kind", ["load", "unload", "verify", "pull"])
def test_a_command_goes_to_all_workers_or_to_one(roomy: Any, kind: str) -> None:
    command, status = call(roomy, "POST", f"/models/someone/big/{kind}")
    assert status == 202
    schema.Command.model_validate(command, extra="forbid")
    assert (command["kind"], command["model"], command["status"]) == (kind, "someone/big", "queued")
    assert [part["worker"] for part in command["workers"]] == ["w1", "w2"]
    one, _ = call(roomy, "POST", f"/models/someone/big/{kind}", json={"worker": "w1"})
    assert [part["worker"] for part in one["workers"]] == ["w1"]
    answer, status = call(roomy, "POST", f"/models/someone/big/{kind}", json={"worker": "w9"})
    assert (status, answer["error"]["rule"]) == (400, "it must be one that runs: w1, w2")
    answer, status = call(roomy, "POST", f"/models/someone/big/{kind}", json={"wroker": "w1"})
    assert (status, answer["error"]["hint"]) == (400, "did you mean `worker`?")


def test_a_body_of_unknown_length_is_read(roomy: Any) -> None:
    headers = {"content-type": "application/json"}
    made, status = call(
        roomy, "POST", "/models/someone/big/load", content=iter([b'{"worker": ', b'"w1"}']), headers=headers
    )
    assert (status, [part["worker"] for part in made["workers"]]) == (202, ["w1"])
    assert call(roomy, "POST", "/models/someone/big/load", content=iter([b""]))[1] == 202


def test_how_far_a_command_is_can_be_read(roomy: Any) -> None:
    command, _ = call(roomy, "POST", "/models/someone/big/pull", json={"worker": "w1", "repair": "yes"})
    while (
        errand := roomy.store.take_errand("w1", EVERY)
    ) is not None and errand.kind is not CommandKind.PULL:
        roomy.store.end_errand(errand.number)
    while errand is not None and not errand.options:
        roomy.store.end_errand(errand.number)
        errand = roomy.store.take_errand("w1", EVERY)
    assert errand is not None
    assert errand.options == {"repair": True}
    roomy.store.report_errand(errand.number, "downloading", 5, 10)
    shown, _ = call(roomy, "GET", f"/commands/{command['id']}")
    assert shown["status"] == "running"
    assert (shown["workers"][0]["num_bytes"], shown["workers"][0]["total_bytes"]) == (5, 10)
    roomy.store.end_errand(errand.number, "the hub has no such revision", failed=True)
    listed, _ = call(roomy, "GET", "/commands")
    schema.CommandList.model_validate(listed, extra="forbid")
    found = next(each for each in listed["commands"] if each["id"] == command["id"])
    assert (found["status"], found["workers"][0]["message"]) == ("failed", "the hub has no such revision")
    answer, status = call(roomy, "GET", "/commands/unknown")
    assert (status, answer["error"]["code"]) == (404, "command_not_found")


def test_a_loaded_model_is_removed_by_force_only(roomy: Any) -> None:
    answer, status = call(roomy, "DELETE", "/models/someone/big")
    assert (status, answer["error"]["code"], answer["error"]["message"]) == (
        409,
        "model_in_use",
        "the model is loaded by w2",
    )
    command, status = call(roomy, "DELETE", "/models/someone/big", params={"force": "true", "worker": "w2"})
    assert (status, command["kind"]) == (202, "remove")


def test_what_has_no_download_is_neither_fetched_nor_removed(roomy: Any) -> None:
    for method, path in (
        ("POST", "/models/pocket/pull"),
        ("DELETE", "/models/pocket"),
        ("DELETE", "/models/small"),
    ):
        answer, status = call(roomy, method, path)
        assert (status, answer["error"]["code"]) == (400, "invalid_parameter"), path


def test_workers_and_what_they_are_told(roomy: Any) -> None:
    listed, _ = call(roomy, "GET", "/workers")
    schema.WorkerList.model_validate(listed, extra="forbid")
    assert [(worker["id"], worker["loaded"]) for worker in listed["workers"]] == [
        ("w1", []),
        ("w2", ["someone/big"]),
    ]
    for path, kind in (("restart", "restart"), ("clear-caches", "clear_caches")):
        command, status = call(roomy, "POST", f"/workers/{path}", json={"worker": "w2"})
        assert (status, command["kind"], command["model"]) == (202, kind, None)
    command, _ = call(roomy, "POST", "/workers/restart", json={"process": True})
    assert command["kind"] == "restart_worker"
    schema.Command.model_validate(command, extra="forbid")
    call(roomy, "POST", "/workers/clear-caches", json={"models": "yes"})
    assert roomy.store.commands()[0].errands[0].options == {"models": True}


def test_without_a_worker_nothing_is_promised(server: Any) -> None:
    answer, status = call(server, "POST", "/models/small/load")
    assert (status, answer["error"]["code"]) == (503, "no_worker")
    assert call(server, "GET", "/commands")[0] == {"commands": []}


def test_what_the_only_worker_has_not_done_when_it_dies_has_failed(serve: Callable[..., Any]) -> None:
    server = serve()
    server.store.worker_seen("w", "cpu", [])
    made, _ = call(server, "POST", "/models/pocket/load")
    path = f"/commands/{made['id']}"
    assert call(server, "GET", path)[0]["status"] == "queued"
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    with server.store._database.write() as connection:
        connection.execute(sa.update(workers).values(seen_at=long_ago))
    shown, _ = call(server, "GET", path)
    assert (shown["status"], "The worker stopped" in shown["workers"][0]["message"]) == ("failed", True)
    assert call(server, "GET", "/commands")[0]["commands"] == [shown]


def test_operators_only_may_change_anything(serve: Callable[..., Any]) -> None:
    server = serve()
    server.store.worker_seen("w")
    admin = server.client.post("/api/v1/keys", json={"name": "a", "scopes": ["admin"]}).json()["key"]
    made = server.client.post("/api/v1/keys", json={"name": "b"}, headers={"X-Api-Key": admin}).json()["key"]
    for key, allowed in ((admin, 202), (made, 403)):
        headers = {"X-Api-Key": key}
        assert call(server, "GET", "/models/small", headers=headers)[1] == 200
        assert call(server, "POST", "/models/small/load", headers=headers)[1] == allowed
        assert call(server, "POST", "/workers/restart", headers=headers)[1] == allowed
        assert call(server, "GET", "/commands", headers=headers)[1] == (200 if allowed == 202 else 403)
        assert call(server, "DELETE", "/models/pocket", headers=headers)[1] == (
            400 if allowed == 202 else 403
        )


def test_vendors_clients_get_the_default_model_unless_the_setting_is_off(serve: Callable[..., Any]) -> None:
    body = {"model": "sora-9", "prompt": "a dog", "seconds": "2"}
    strict, lenient = serve(server={"unknown_model_falls_back": False}), serve()
    answer = strict.client.post("/v1/videos", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unknown_model")
    video = lenient.client.post("/v1/videos", json=body).json()
    job = call(lenient, "GET", f"/jobs/{video['id']}")[0]
    assert job["model"] == "small"
    assert job["choices"][0] == {
        "name": "model",
        "value": "small",
        "reason": "there is no model `sora-9` here",
    }
    for server in (strict, lenient):
        answer, status = call(server, "POST", "/jobs", json={"model": "smal", "prompt": "a dog"})
        assert (status, answer["error"]["code"], answer["error"]["hint"]) == (
            400,
            "unknown_model",
            "did you mean `small`?",
        )


def test_vendors_clients_get_the_default_model_where_nobody_has_the_files(serve: Callable[..., Any]) -> None:
    server = serve(engine={"default_model": "pocket"})
    server.store.worker_seen("w", "cpu", [], available=["pocket", "ltx-video"])
    made = [
        server.client.post("/v1/videos", json={"model": name, "prompt": "a dog"}).json()
        for name in ("zeroscope", "ltx-video")
    ]
    jobs = [call(server, "GET", f"/jobs/{video['id']}")[0] for video in made]
    assert [job["model"] for job in jobs] == ["pocket", "ltx-video"]
    reason = "the files of `zeroscope-v2` are on no machine here"
    assert jobs[0]["choices"][0] == {"name": "model", "value": "pocket", "reason": reason}
    assert "model" not in {choice["name"] for choice in jobs[1]["choices"]}
    native = call(server, "POST", "/jobs", json={"model": "zeroscope-v2", "prompt": "a dog"})[0]
    assert native["model"] == "zeroscope-v2", "our own API makes what is asked for, or fails"
