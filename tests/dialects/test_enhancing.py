"""`enhance_prompt` in each dialect: who decides, what the reply says, and that a retry has the same text."""

from __future__ import annotations

from typing import Any

import pytest

from vitascope.dialects.native import schema

MODEL = {"model": "talker", "url": "http://127.0.0.1:9/v1"}
LONG = "A brown dog walks along a beach."


@pytest.fixture(scope="module")
def enhancing(serve: Any) -> Any:
    return serve(prompting=MODEL)


@pytest.fixture(scope="module")
def plain(serve: Any) -> Any:
    return serve()


def native(server: Any, **fields: Any) -> dict[str, Any]:
    answer = server.client.post("/api/v1/jobs", json={"prompt": "a dog", **fields})
    assert answer.status_code == 201, answer.text
    schema.Job.model_validate(answer.json(), extra="forbid")
    return answer.json()


def told(job: dict[str, Any]) -> list[str]:
    return [choice["value"] for choice in job["choices"] if choice["name"] == "enhance_prompt"]


@pytest.mark.parametrize(("asked", "becomes"), [(True, True), ("yes", True), (False, False), (None, False)])
def test_a_request_decides(enhancing: Any, asked: Any, becomes: bool) -> None:
    job = native(enhancing, enhance_prompt=asked)
    assert (job["enhance_prompt"], job["enhanced_prompt"], told(job)) == (becomes, None, [])


def test_where_it_says_nothing_the_operator_decides(serve: Any) -> None:
    server = serve(prompting={**MODEL, "by_default": True})
    assert native(server)["enhance_prompt"] is True
    assert native(server, enhance_prompt=False)["enhance_prompt"] is False


def test_a_server_without_a_model_says_so(plain: Any) -> None:
    job = native(plain, enhance_prompt=True)
    assert (job["enhance_prompt"], told(job)) == (False, ["off"])
    assert told(native(plain)) == []


def test_what_is_neither_yes_nor_no_is_refused(plain: Any) -> None:
    answer = plain.client.post("/api/v1/jobs", json={"prompt": "a dog", "enhance_prompt": 7})
    assert (answer.status_code, answer.json()["error"]["parameter"]) == (400, "enhance_prompt")


def test_a_job_that_is_made_again_has_the_same_text(serve: Any) -> None:
    server = serve(prompting=MODEL)
    job = native(server, enhance_prompt=True)
    lease = server.claim()
    server.store.keep_prompts(lease, [LONG])
    shown = server.client.get(f"/api/v1/jobs/{job['id']}").json()
    assert (shown["prompt"], shown["enhanced_prompt"]) == ("a dog", LONG)
    server.store.finish_cancelled(lease)
    again = server.client.post(f"/api/v1/jobs/{job['id']}/retry").json()
    assert (again["enhance_prompt"], again["enhanced_prompt"]) == (True, LONG)
    assert server.store.get(again["id"]).plan.enhanced_prompts == (LONG,)


def test_openais_clients_find_it_in_the_metadata(serve: Any) -> None:
    server = serve(prompting=MODEL)
    made = server.client.post("/v1/videos", json={"prompt": "a dog", "enhance_prompt": "true"}).json()
    lease = server.claim()
    assert lease.job.plan.enhance_prompt
    server.store.keep_prompts(lease, [LONG])
    body = server.client.get(f"/v1/videos/{made['id']}").json()
    assert (body["prompt"], body["metadata"]["vitascope"]["enhanced_prompt"]) == ("a dog", LONG)


def test_openais_clients_are_told_where_there_is_none(plain: Any) -> None:
    body = plain.client.post("/v1/videos", json={"prompt": "a dog", "enhance_prompt": True}).json()
    assert told(body["metadata"]["vitascope"]) == ["off"]
    assert "enhanced_prompt" not in body["metadata"]["vitascope"]


def test_openrouters_clients_ask_in_their_own_options(serve: Any) -> None:
    server = serve(prompting=MODEL)
    options = {"options": {"vitascope": {"enhance_prompt": True}}}
    answer = server.client.post(
        "/api/v1/videos", json={"model": "small", "prompt": "a dog", "provider": options}
    )
    assert answer.status_code < 300, answer.text
    assert server.claim().job.plan.enhance_prompt
