"""`/v1/webhook_endpoints` with the vendor's own SDK: every call, what arrives, and what is refused."""

from __future__ import annotations

import http.server
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from vitascope.dialects._http import Fields
from vitascope.dialects._http.body import LARGE_BYTES
from vitascope.dialects.openai import webhook_endpoints as dialect
from vitascope.service.keys import Keys
from waiting import eventually

HERE = "127.0.0.2"
BOTH = ["video.completed", "video.failed"]


class Receiver(http.server.ThreadingHTTPServer):
    """Answers with the status that the path's last word is."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__((HERE, 0), Handler)
        self.got: list[tuple[dict[str, str], bytes]] = []

    def url(self, status: int = 204) -> str:
        return f"http://{HERE}:{self.server_port}/{status}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((dict(self.headers.items()), body))
        self.send_response(int(self.path.rpartition("/")[2]))
        self.end_headers()

    def log_message(self, *_args: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def test_a_large_body_is_read_where_it_keeps_nobody_waiting(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    listing = Fields.listing

    def watched(fields: Fields, name: str, max_length: int) -> Any:
        threads.append(threading.current_thread().name)
        return listing(fields, name, max_length)

    monkeypatch.setattr(Fields, "listing", watched)
    for length in (1, LARGE_BYTES):
        answer = server.client.post("/v1/webhook_endpoints", json={"event_types": f"[{'1,' * length}1]"})
        assert answer.status_code == 400
    assert len(set(threads)) == 2


@pytest.fixture(scope="module")
def server(serve: Callable[..., Any]) -> Any:
    return serve(outbound={"allow": [HERE]})


@pytest.fixture
def sdk(server: Any) -> Iterator[openai.OpenAI]:
    """A client that retries as it comes from the vendor; what it has made is deleted."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any") as client:
        yield client
        for endpoint in client.webhooks.list():
            client.webhooks.delete(endpoint.id)


def deliveries(server: Any, endpoint_id: str) -> list[dict[str, Any]]:
    found = server.client.get("/api/v1/webhooks/deliveries", params={"endpoint": endpoint_id})
    return list(found.json()["deliveries"])


def test_made_changed_listed_and_deleted(sdk: openai.OpenAI, receiver: Receiver, server: Any) -> None:
    before = int(time.time())
    made = sdk.webhooks.create(name="mine", url=receiver.url(), event_types=["video.failed"])
    dialect.WebhookEndpointWithSecret.model_validate(made.to_dict(), extra="forbid")
    assert (made.object, made.name, made.event_types) == ("webhook_endpoint", "mine", ["video.failed"])
    assert made.signing_secret.startswith("whsec_")
    assert made.signing_secret_hint == f"whsec_...{made.signing_secret[-4:]}"
    assert before <= made.created_at == made.updated_at <= time.time()

    shown = sdk.webhooks.retrieve(made.id)
    dialect.WebhookEndpoint.model_validate(shown.to_dict(), extra="forbid")
    assert {**shown.to_dict(), "signing_secret": made.signing_secret} == made.to_dict()

    changed = sdk.webhooks.update(made.id, name="theirs", event_types=["video.failed", "video.completed"])
    assert (changed.name, changed.url, changed.event_types) == ("theirs", made.url, BOTH[::-1])
    assert changed.id == made.id
    assert sdk.webhooks.update(made.id).to_dict() == changed.to_dict(), "nothing given, nothing changed"

    native = server.client.get(f"/api/v1/webhooks/endpoints/{made.id}").json()
    assert (native["name"], native["url"], native["events"]) == ("theirs", made.url, BOTH[::-1]), "one table"

    gone = sdk.webhooks.delete(made.id)
    assert (gone.id, gone.deleted, gone.object) == (made.id, True, "webhook_endpoint.deleted")
    with pytest.raises(openai.NotFoundError) as unknown:
        sdk.webhooks.retrieve(made.id)
    assert unknown.value.code == "endpoint_not_found"
    assert list(sdk.webhooks.list()) == []


def test_listed_page_by_page_the_newest_first(sdk: openai.OpenAI, receiver: Receiver) -> None:
    made = [
        sdk.webhooks.create(name=str(number), url=receiver.url(), event_types=["video.failed"]).id
        for number in range(5)
    ]
    first = sdk.webhooks.list(limit=2)
    dialect.WebhookEndpointList.model_validate(first.to_dict(), extra="forbid")
    assert first.has_more is True
    assert [one.id for one in first] == made[::-1], "the SDK goes on to the last page by itself"
    assert [one.id for one in sdk.webhooks.list(after=made[1])] == made[:1]
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.webhooks.list(after="ep_unknown")
    assert (refused.value.param, refused.value.code) == ("after", "invalid_parameter")


def test_the_end_of_a_video_arrives_and_unwraps(sdk: openai.OpenAI, receiver: Receiver, server: Any) -> None:
    endpoint = sdk.webhooks.create(name="mine", url=receiver.url(), event_types=["video.completed"])
    video = sdk.videos.create(prompt="a dog", seconds="4")
    server.finish(server.claim())
    eventually(lambda: receiver.got)
    headers, body = receiver.got[0]
    event = sdk.webhooks.unwrap(body, headers, secret=endpoint.signing_secret)
    assert (event.type, event.data.id, event.object) == ("video.completed", video.id, "event")
    assert sdk.videos.retrieve(event.data.id).status == "completed"
    with pytest.raises(openai.InvalidWebhookSignatureError):
        sdk.webhooks.unwrap(body + b" ", headers, secret=endpoint.signing_secret)


def test_a_test_sends_a_signed_sample_once_and_tells_the_answer(
    sdk: openai.OpenAI, receiver: Receiver, server: Any
) -> None:
    endpoint = sdk.webhooks.create(name="mine", url=receiver.url(202), event_types=["video.completed"])
    result = sdk.webhooks.test(endpoint.id, event_type="video.failed")
    dialect.WebhookEndpointTest.model_validate(result.to_dict(), extra="forbid")
    assert (result.status_code, result.success, result.event_type) == (202, True, "video.failed")
    assert (result.webhook_endpoint_id, result.object) == (endpoint.id, "webhook_endpoint.test")
    ((headers, body),) = receiver.got
    event = sdk.webhooks.unwrap(body, headers, secret=endpoint.signing_secret)
    assert (event.type, event.data.id) == ("video.failed", "video_test")
    assert sdk.webhooks.retrieve(endpoint.id).updated_at == endpoint.updated_at

    sdk.webhooks.update(endpoint.id, url=receiver.url(500))
    assert sdk.webhooks.test(endpoint.id, event_type="video.completed").status_code == 500
    found = [one["status"] for one in deliveries(server, endpoint.id)]
    assert found == ["failed", "delivered"], "a sample that is refused is not sent again"
    assert len(receiver.got) == 2


def test_a_test_without_an_answer_says_why_and_is_not_repeated(
    sdk: openai.OpenAI, receiver: Receiver, server: Any
) -> None:
    endpoint = sdk.webhooks.create(name="x", url=f"http://{HERE}:9/closed", event_types=["video.failed"])
    with pytest.raises(openai.BadRequestError, match="gave no answer") as silent:
        sdk.webhooks.test(endpoint.id, event_type="video.failed")
    assert silent.value.code == "endpoint_silent"
    sdk.webhooks.update(endpoint.id, url=receiver.url(410))
    assert sdk.webhooks.test(endpoint.id, event_type="video.failed").status_code == 410
    disabled = sdk.webhooks.retrieve(endpoint.id).to_dict()
    assert disabled["disabled_at"] is not None
    with pytest.raises(openai.ConflictError) as conflict:
        sdk.webhooks.test(endpoint.id, event_type="video.failed")
    assert conflict.value.response.headers["x-should-retry"] == "false"
    assert len(deliveries(server, endpoint.id)) == 2
    enabled = sdk.webhooks.update(endpoint.id, url=receiver.url(200)).to_dict()
    assert (enabled["disabled_at"], enabled["disabled_reason"]) == (None, None)
    assert sdk.webhooks.test(endpoint.id, event_type="video.failed").status_code == 200


@pytest.mark.parametrize("keep", [True, False])
def test_a_rotated_secret_ends_or_signs_beside_its_successor(
    sdk: openai.OpenAI, receiver: Receiver, keep: bool
) -> None:
    old = sdk.webhooks.create(name="mine", url=receiver.url(), event_types=["video.failed"])
    asked: dict[str, Any] = {"keep_old_secret_active_for_24_hours": True} if keep else {}
    new = sdk.webhooks.rotate_secret(old.id, **asked)
    dialect.WebhookEndpointWithSecret.model_validate(new.to_dict(), extra="forbid")
    assert new.id == old.id
    assert new.signing_secret != old.signing_secret
    assert sdk.webhooks.retrieve(old.id).signing_secret_hint == new.signing_secret_hint
    sdk.webhooks.test(old.id, event_type="video.failed")
    ((headers, body),) = receiver.got
    assert sdk.webhooks.unwrap(body, headers, secret=new.signing_secret).type == "video.failed"
    assert len(headers["webhook-signature"].split()) == (2 if keep else 1)
    if keep:
        sdk.webhooks.verify_signature(body, headers, secret=old.signing_secret)
    else:
        with pytest.raises(openai.InvalidWebhookSignatureError):
            sdk.webhooks.verify_signature(body, headers, secret=old.signing_secret)


def test_event_types_are_those_that_are_sent(sdk: openai.OpenAI) -> None:
    found = sdk.webhooks.event_types.list()
    dialect.WebhookEventTypes.model_validate(found.to_dict(), extra="forbid")
    assert found.data == BOTH


GOOD: dict[str, Any] = {"name": "x", "url": "https://example.com/hook", "event_types": BOTH}


@pytest.mark.parametrize(
    ("changes", "param", "words"),
    [
        ({"name": None}, "name", "missing"),
        ({"name": "  "}, "name", "empty"),
        ({"name": "x" * 256}, "name", "255 characters"),
        ({"name": ["x"]}, "name", "it must be text"),
        ({"url": None}, "url", "missing"),
        ({"url": "http://169.254.169.254/"}, "url", "no public address"),
        ({"url": "ftp://example.com"}, "url", "http"),
        ({"event_types": None}, "event_types", "missing"),
        ({"event_types": []}, "event_types", "at least one"),
        ({"event_types": ["video.completed", "response.completed"]}, "event_types", "response.completed"),
        ({"event_types": ["webhook.test"]}, "event_types", "video.completed, video.failed"),
        ({"event_types": [{"a": 1}]}, "event_types", "an object"),
        ({"event_type": "video.failed"}, "event_type", "event_types"),
    ],
)
def test_what_is_wrong_is_named(server: Any, changes: dict[str, Any], param: str, words: str) -> None:
    body = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    answer = server.client.post("/v1/webhook_endpoints", json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["code"], error["type"]) == (
        param,
        "invalid_parameter",
        "invalid_request_error",
    )
    assert words in error["message"]


def test_another_keys_endpoint_is_an_unknown_one(serve: Callable[..., Any], receiver: Receiver) -> None:
    server = serve(outbound={"allow": [HERE]})
    keys = Keys(server.store)
    mine, other = ({"Authorization": f"Bearer {keys.create(name)[1]}"} for name in ("mine", "other"))
    made = server.client.post("/v1/webhook_endpoints", json={**GOOD, "url": receiver.url()}, headers=mine)
    endpoint = made.json()["id"]
    assert made.headers["cache-control"] == "no-store"
    paths = server.client.get("/openapi.json", headers=mine).json()["paths"]
    routes = [(method, path) for path, methods in paths.items() if "{webhook_endpoint_id}" in path for method in methods]  # fmt: skip
    assert len(routes) == 5
    for method, path in routes:
        body = {"json": {"event_type": "video.failed"}} if path.endswith("/test") else {}
        answers = {
            server.client.request(method, re.sub(r"\{\w+\}", one, path), headers=other, **body).text
            for one in (endpoint, endpoint[:-1] + "_")
        }
        assert len(answers) == 1, f"{method} {path} tells another key's from an unknown one"
        assert "endpoint_not_found" in answers.pop()
    assert server.client.get("/v1/webhook_endpoints", headers=other).json()["data"] == []
    after = server.client.get("/v1/webhook_endpoints", params={"after": endpoint}, headers=other)
    assert (after.status_code, after.json()["error"]["param"]) == (400, "after")
    (seen,) = server.client.get("/v1/webhook_endpoints", headers=mine).json()["data"]
    assert seen["id"] == endpoint
