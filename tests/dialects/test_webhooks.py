"""Webhooks over the native API: asked for, refused, delivered, read and repeated; another key's are unknown."""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from standardwebhooks import Webhook

from vitascope.dialects.native import schema
from vitascope.service.keys import Keys
from waiting import eventually

HERE = "127.0.0.2"


class Receiver(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__((HERE, 0), Handler)
        self.url = f"http://{HERE}:{self.server_port}/hook"
        self.got: list[tuple[dict[str, str], bytes]] = []


class Handler(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((dict(self.headers.items()), body))
        self.send_response(204)
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


@pytest.fixture
def server(serve: Callable[..., Any]) -> Any:
    return serve(outbound={"allow": [HERE]})


def delivered(server: Any, headers: dict[str, str], **query: str) -> dict[str, Any]:
    def look() -> Any:
        found = server.client.get("/api/v1/webhooks/deliveries", params=query, headers=headers).json()
        return [one for one in found["deliveries"] if one["status"] == "delivered"]

    return eventually(look)[0]


def test_a_requests_webhook_is_told_and_verifies(server: Any, receiver: Receiver) -> None:
    asked = {"prompt": "a dog", "webhook": {"url": receiver.url}, "track_id": "order 1"}
    job = server.client.post("/api/v1/jobs", json=asked).json()
    assert (job["webhook"], job["track_id"]) == (receiver.url, "order 1")
    server.finish(server.claim())
    delivery = delivered(server, {}, job=job["id"])
    schema.Delivery.model_validate(delivery, extra="forbid")
    ((headers, body),) = receiver.got
    secrets = server.client.get("/api/v1/keys/self/webhook-secret").json()["secrets"]
    event = Webhook(secrets[0]["secret"]).verify(body, headers)
    assert headers["webhook-id"] == delivery["id"]
    assert (event["type"], event["object"]) == ("video.completed", "event")
    assert event["data"] == {"id": f"video_{job['id']}", "track_id": "order 1"}
    assert server.client.get(f"/v1/videos/{event['data']['id']}").json()["status"] == "completed"
    again = server.client.post(f"/api/v1/webhooks/deliveries/{delivery['id']}/replay")
    assert again.status_code == 202
    eventually(lambda: len(receiver.got) == 2)
    assert receiver.got[1][0]["webhook-id"] == delivery["id"]
    assert receiver.got[1][1] == body
    eventually(lambda: "vitascope_webhooks_pending 0.0" in server.client.get("/metrics").text)


@pytest.mark.parametrize("webhook", ["http://127.0.0.1:9/x", "http://169.254.169.254/", "ftp://x/", "x", {"url": 5}, {"uri": "http://x"}])  # fmt: skip
def test_a_url_that_may_not_be_called_is_refused_at_create(server: Any, webhook: Any) -> None:
    answer = server.client.post("/api/v1/jobs", json={"prompt": "a", "webhook": webhook})
    assert answer.status_code == 400
    assert answer.json()["error"]["parameter"].partition(".")[0] == "webhook"
    if isinstance(webhook, str):
        endpoint = server.client.post("/api/v1/webhooks/endpoints", json={"url": webhook})
        assert (endpoint.status_code, endpoint.json()["error"]["parameter"]) == (400, "url")


def test_another_keys_endpoints_and_deliveries_are_unknown_ones(server: Any, receiver: Receiver) -> None:
    keys = Keys(server.store)
    mine, other = ({"Authorization": f"Bearer {keys.create(name)[1]}"} for name in ("mine", "other"))
    client = server.client
    made = client.post("/api/v1/webhooks/endpoints", json={"url": receiver.url}, headers=mine)
    assert made.status_code == 201
    schema.NewEndpoint.model_validate(made.json(), extra="forbid")
    endpoint = made.json()
    tried = client.post(f"/api/v1/webhooks/endpoints/{endpoint['id']}/test", headers=mine).json()
    assert tried["event"] == "webhook.test"
    delivered(server, mine, endpoint=endpoint["id"])
    assert (
        Webhook(endpoint["secret"]).verify(receiver.got[0][1], receiver.got[0][0])["type"] == "webhook.test"
    )
    paths = client.get("/openapi.json", headers=mine).json()["paths"]
    routes = [(method, path) for path, methods in paths.items() for method in methods if "/webhooks/" in path and "{" in path]  # fmt: skip
    assert len(routes) == 8
    for method, path in routes:
        own = tried["id"] if "delivery_id" in path else endpoint["id"]
        answers = {
            client.request(method, re.sub(r"\{\w+\}", one, path), headers=other).text
            for one in (own, own[:-1] + "_")
        }
        assert len(answers) == 1, f"{method} {path} tells another key's from an unknown one"
        assert json.loads(answers.pop())["error"]["code"].endswith("_not_found")
    for path in ("endpoints", "deliveries"):
        assert next(iter(client.get(f"/api/v1/webhooks/{path}", headers=other).json().values())) == []
    rotated = client.post(f"/api/v1/webhooks/endpoints/{endpoint['id']}/rotate", headers=mine).json()
    assert [one["secret"] == endpoint["secret"] for one in rotated["secrets"]] == [False, True]
    assert client.delete(f"/api/v1/webhooks/endpoints/{endpoint['id']}", headers=mine).status_code == 204
