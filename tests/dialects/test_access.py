"""API keys at the edge: who is let in, what they see, and how much they may do."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import re
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import openai
import pytest

from vitascope.domain.access import KeyLimits, Scope
from vitascope.service.keys import Keys

BODY = {"prompt": "a dog"}


@dataclass
class Closed:
    """A server that has keys."""

    server: Any
    keys: Keys

    def key(self, *scopes: Scope, **limits: Any) -> str:
        return self.keys.create("test", scopes or (Scope.GENERATE,), KeyLimits(**limits))[1]

    def call(self, key: str | None, method: str, path: str, **options: Any) -> httpx.Response:
        headers = options.pop("headers", {})
        if key is not None:
            headers = {"Authorization": f"Bearer {key}", **headers}
        answer: httpx.Response = self.server.client.request(method, path, headers=headers, **options)
        return answer

    def create(self, key: str, **body: Any) -> httpx.Response:
        return self.call(key, "POST", "/api/v1/jobs", json={**BODY, **body})


@pytest.fixture
def closed(serve: Callable[..., Any]) -> Closed:
    server = serve()
    keys = Keys(server.store)
    keys.create("first", (Scope.ADMIN,))
    return Closed(server, keys)


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_without_keys_anything_is_accepted(serve: Callable[..., Any]) -> None:
    client = serve().client
    for headers in (
        {},
        {"Authorization": "Bearer x"},
        {"Authorization": "Basic eDp5"},
        {"X-Api-Key": "a", "Api-Key": "b"},
    ):
        assert client.get("/v1/videos", headers=headers).status_code == 200
        assert client.get("/api/v1/keys", params={"key": ""}, headers=headers).status_code == 200


def test_the_first_key_closes_the_server_at_once(serve: Callable[..., Any]) -> None:
    server = serve()
    made = server.client.post("/api/v1/keys", json={"name": "mine", "scopes": ["admin"]})
    assert made.status_code == 201
    for path in (
        "/v1/videos",
        "/v1/models",
        "/api/v1/jobs",
        "/api/v1/models",
        "/api/v1/queue",
        "/api/v1/gallery",
        "/api/v1/keys",
        "/metrics",
    ):
        answer = server.client.get(path)
        assert code_of(answer) == (401, "invalid_api_key"), path
        assert answer.headers["www-authenticate"] == "Bearer"
    for path in ("/livez", "/readyz", "/health"):
        assert server.client.get(path).status_code in (200, 503)
    assert server.client.get("/api/v1/keys", headers={"X-Api-Key": made.json()["key"]}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "params", "words"),
    [
        ({}, {}, "no API key was sent"),
        ({"Authorization": "Bearer"}, {}, "no API key was sent"),
        ({"Authorization": "Bearer vsk_unknown"}, {}, "not known"),
        ({"Authorization": "Bearer " + "x" * 5000}, {}, "not known"),
        ({"Authorization": b"Bearer \xff\xfe"}, {}, "not known"),
        ({"Authorization": "Basic dnNrOnZzaw=="}, {}, "not of the kind `Bearer`"),
        ({"Authorization": "KEY"}, {}, "not of the kind `Bearer`"),
        ({"Authorization": "Bearer a", "X-Api-Key": "b"}, {}, "two different API keys"),
        ({}, {"api_key": "KEY"}, "in the address"),
        ({}, {"key": "KEY"}, "in the address"),
        ({"Authorization": "Bearer KEY"}, {"api_key": "KEY"}, "in the address"),
        ({"Authorization": "Bearer KEY"}, {"Access_Token": "OTHER"}, "in the address"),
        ({"Authorization": "Bearer CUT"}, {}, "not known"),
        ({"Authorization": "Bearer KEYx"}, {}, "not known"),
        ({"Authorization": "Bearer EXPIRED"}, {}, "has expired"),
        ({"X-Api-Key": "REVOKED"}, {}, "was revoked"),
        ({"Authorization": "Bearer KEY", "Api-Key": "OTHER"}, {}, "two different API keys"),
        ({"Authorization": "Bearer KEY, Bearer OTHER"}, {}, "not known"),
        ({"Authorization": "Token KEY"}, {}, "not of the kind `Bearer`"),
        ({"Cookie": "api_key=KEY; session=KEY"}, {}, "no API key was sent"),
        ({"User-Agent": "KEY", "X-Token": "KEY"}, {}, "no API key was sent"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/videos", "/api/v1/jobs"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_each_bad_credential_has_its_answer(
    bad: BadKeys,
    method: str,
    path: str,
    headers: dict[str, Any],
    params: Any,
    words: str,
) -> None:
    def filled(values: dict[str, Any]) -> dict[str, Any]:
        for name, key in bad.keys.items():
            values = {k: v.replace(name, key) if isinstance(v, str) else v for k, v in values.items()}
        return values

    # a key in the body is in the wrong place too: it is not looked for there
    body = {"json": {**BODY, "key": bad.keys["KEY"], "api_key": bad.keys["KEY"]}} if method == "POST" else {}
    answer = bad.closed.call(None, method, path, headers=filled(headers), params=filled(params), **body)
    assert code_of(answer) == (401, "invalid_api_key")
    assert answer.headers["www-authenticate"] == "Bearer"
    error = answer.json()["error"]
    assert words in error["message"]
    assert set(error) == ({"message", "type", "param", "code"} if path == "/v1/videos" else {"code", "message", "hint"})  # fmt: skip
    assert not [name for name, key in bad.keys.items() if key in answer.text]
    assert bad.closed.call(bad.keys["KEY"], "GET", "/api/v1/jobs").json()["jobs"] == []


@dataclass
class BadKeys:
    """A server that has keys, and texts by the words that stand for them."""

    closed: Closed
    keys: dict[str, str]


@pytest.fixture(scope="module")
def bad(serve: Callable[..., Any]) -> BadKeys:
    """Keys by what is wrong with them; there is nothing wrong with KEY and OTHER."""
    closed = Closed(server := serve(), Keys(server.store))
    expired, expired_key = closed.keys.create("a")
    with closing(sqlite3.connect(closed.server.settings.home / "vitascope.db")) as database:
        past = "2026-01-01 00:00:00.000000"
        database.execute("UPDATE keys SET expires_at = ? WHERE id = ?", (past, expired.id))
        database.commit()
    revoked, revoked_key = closed.keys.create("b")
    closed.keys.revoke(revoked.id)
    key = closed.key()
    keys = {
        "KEY": key,
        "OTHER": closed.key(),
        "CUT": key[:-1],
        "EXPIRED": expired_key,
        "REVOKED": revoked_key,
    }
    return BadKeys(closed, keys)


def test_the_same_key_in_two_places_is_one_key(closed: Closed) -> None:
    key = closed.key()
    assert (
        closed.call(key, "GET", "/v1/videos", headers={"X-Api-Key": key, "Api-Key": key}).status_code == 200
    )
    assert closed.call(key, "GET", "/v1/videos", params={"key": ""}).status_code == 200


def test_a_key_is_good_until_it_ends(closed: Closed) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    kept, key = closed.keys.create("a", (Scope.READ,), expires_at=soon)
    assert closed.call(key, "GET", "/v1/videos").status_code == 200
    assert closed.call(key[:-1], "GET", "/v1/videos").status_code == 401
    with closing(sqlite3.connect(closed.server.settings.home / "vitascope.db")) as database:
        database.execute("UPDATE keys SET expires_at = '2026-01-01 00:00:00.000000' WHERE id = ?", (kept.id,))
        database.commit()
    assert "has expired" in closed.call(key, "GET", "/v1/videos").json()["error"]["message"]
    other, secret = closed.keys.create("b")
    _, rotated = closed.keys.rotate(other.id)
    assert closed.call(secret, "GET", "/v1/videos").status_code == 401
    assert closed.call(rotated, "GET", "/v1/videos").status_code == 200
    closed.keys.revoke(other.id)
    assert "was revoked" in closed.call(rotated, "GET", "/v1/videos").json()["error"]["message"]


def test_the_vendors_sdk_understands(closed: Closed) -> None:
    url = f"{closed.server.url}/v1"
    with openai.OpenAI(base_url=url, api_key=closed.key(), max_retries=0) as client:
        assert client.videos.create(prompt="a dog").status == "queued"
    with (
        openai.OpenAI(base_url=url, api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as error,
    ):
        client.videos.list()
    assert error.value.code == "invalid_api_key"
    with (
        openai.OpenAI(base_url=url, api_key=closed.key(Scope.READ), max_retries=0) as client,
        pytest.raises(openai.PermissionDeniedError),
    ):
        client.videos.create(prompt="a dog")


def test_scopes_decide_what_a_key_may_do(closed: Closed) -> None:
    read, generate, admin = (closed.key(scope) for scope in (Scope.READ, Scope.GENERATE, Scope.ADMIN))
    job_id = closed.create(generate).json()["id"]
    table = [
        ("GET", "/api/v1/jobs", (200, 200, 200)),
        ("POST", "/api/v1/jobs", (403, 201, 201)),
        ("POST", "/v1/videos", (403, 200, 200)),
        ("POST", f"/api/v1/jobs/{job_id}/cancel", (403, 200, 200)),
        ("DELETE", f"/api/v1/jobs/{job_id}", (403, 204, 404)),
        ("GET", "/api/v1/keys", (403, 403, 200)),
        ("POST", "/api/v1/keys", (403, 403, 400)),
        ("GET", "/metrics", (200, 200, 200)),
    ]
    for method, path, statuses in table:
        body = {"json": BODY} if method == "POST" and "cancel" not in path else {}
        found = tuple(closed.call(key, method, path, **body).status_code for key in (read, generate, admin))
        assert found == statuses, (method, path)


def routes_with(paths: dict[str, Any], part: str) -> list[tuple[str, str]]:
    return [(method.upper(), path) for path, methods in paths.items() if part in path for method in methods]


def test_anothers_job_is_an_unknown_one_everywhere(closed: Closed) -> None:
    """Every route of the description that takes an id, with every id of another key."""
    mine, other = closed.key(), closed.key()
    ids = [closed.create(mine).json()["id"] for _ in range(3)]
    closed.server.finish(closed.server.store.claim("w", 60.0))
    closed.call(mine, "POST", f"/api/v1/jobs/{ids[2]}/cancel")
    paths = closed.call(mine, "GET", "/openapi.json").json()["paths"]
    named = {name for path in paths for name in re.findall(r"\{(\w+)\}", path)}
    # of those: test_webhooks.py, openai/test_openai_webhook_endpoints.py
    webhooks = {"endpoint_id", "delivery_id", "webhook_endpoint_id"}
    files = {"file_id", "batch_id"}  # of those: openai/test_openai_files.py, openai/test_openai_batches.py
    numbers = {"request_id"}  # of those: modelslab/test_modelslab.py
    # models are nobody's own, and a link's token is whoever's has it, whatever name stands behind it
    assert (
        named
        == {"job_id", "video_id", "key_id", "command_id", "model_id", "token", "name", "character_id"}
        | webhooks
        | files
        | numbers
    ), "another kind needs its part of this test"
    routes = routes_with(paths, "{job_id}") + routes_with(paths, "{video_id}")
    assert len(routes) >= 9
    unknown = "01" + "0" * 24
    for method, path in routes:
        answers = {}
        for job_id in (unknown, *ids):
            shown = re.sub(r"\{\w+\}", f"video_{job_id}" if "video_id" in path else job_id, path)
            answer = closed.call(other, method, shown)
            headers = {k: v for k, v in answer.headers.items() if k not in ("x-request-id", "date")}
            answers[answer.status_code, answer.text, tuple(sorted(headers.items()))] = job_id
        assert len(answers) == 1, f"{method} {path} tells another key's job from an unknown one"
        assert next(iter(answers))[0] == 404
    keys = [unknown, *(key.id for key in closed.keys.all()[:2])]
    for method, path in routes_with(paths, "{key_id}"):
        tried = [closed.call(other, method, path.replace("{key_id}", key_id)) for key_id in keys]
        assert len({(answer.status_code, answer.text) for answer in tried}) == 1, f"{method} {path}"
        assert tried[0].status_code in (403, 404)
    closed.server.store.worker_seen("w")
    made = closed.call(closed.key(Scope.ADMIN), "POST", "/api/v1/workers/clear-caches").json()["id"]
    for method, path in routes_with(paths, "{command_id}"):
        tried = [closed.call(other, method, path.replace("{command_id}", each)) for each in (made, unknown)]
        assert [answer.status_code for answer in tried] == [403, 403], f"{method} {path} is for operators"
    print(
        f"{len(routes)} routes with ids of jobs, {len(routes_with(paths, '{key_id}'))} with ids of keys: all alike"
    )
    for path in ("/v1/videos", "/api/v1/jobs"):
        assert closed.call(other, "GET", path).json()["has_more"] is False
        assert ids[0] not in closed.call(other, "GET", path).text
        prefix = "video_" if path == "/v1/videos" else ""
        theirs, nobodys = (
            closed.call(other, "GET", path, params={"after": f"{prefix}{job_id}"})
            for job_id in (ids[0], unknown)
        )
        assert theirs.status_code == nobodys.status_code == 400
        assert theirs.text.replace(ids[0], unknown) == nobodys.text
    assert [
        job["id"] for job in closed.call(mine, "GET", "/api/v1/jobs", params={"order": "asc"}).json()["jobs"]
    ] == ids
    assert closed.call(closed.key(Scope.ADMIN), "GET", f"/v1/videos/video_{ids[0]}").status_code == 200


def test_names_of_requests_are_each_keys_own(closed: Closed) -> None:
    headers = {"Idempotency-Key": "order 1"}
    answers = [closed.call(closed.key(), "POST", "/v1/videos", json=BODY, headers=headers) for _ in range(2)]
    assert answers[0].json()["id"] != answers[1].json()["id"]


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_exactly_as_many_requests_as_allowed_pass(
    serve: Callable[..., Any], request: pytest.FixtureRequest, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = request.getfixturevalue("postgres").create_database() if kind == "postgresql" else None
    server = serve(store={"url": url})
    closed = Closed(server, Keys(server.store))
    monkeypatch.setattr("vitascope.store.for_keys.MINUTE_SECONDS", 10**9)  # no minute ends during the test
    key = closed.key(requests_per_minute=10)
    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(lambda _: closed.create(key), range(50)))
    statuses = sorted(answer.status_code for answer in answers)
    print(
        f"{kind}: of {len(statuses)} at once {statuses.count(201)} made a job, {statuses.count(429)} got 429"
    )
    assert statuses == [201] * 10 + [429] * 40
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert code_of(refused) == (429, "rate_limit_exceeded")
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.headers["x-ratelimit-limit-requests"] == "10"
    left = sorted(int(a.headers["x-ratelimit-remaining-requests"]) for a in answers if a.status_code == 201)
    assert left == list(range(10)), "each request that passed was told what it left"
    assert closed.call(key, "GET", "/api/v1/jobs").status_code == 200, "reading is not counted"


def test_counted_requests_are_told_what_is_left_and_others_nothing(
    closed: Closed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitascope.store.for_keys.MINUTE_SECONDS", 10**9)
    key = closed.key(requests_per_minute=6)
    named = {"Idempotency-Key": "order 1"}
    calls: list[tuple[int, dict[str, Any]]] = [
        (201, {"path": "/api/v1/jobs", "json": BODY}),
        (200, {"path": "/v1/videos", "json": BODY, "headers": named}),
        (200, {"path": "/v1/videos", "json": BODY, "headers": named}),  # the same video again
        (400, {"path": "/v1/videos", "json": {**BODY, "input_reference": "data:;base64,AAAA"}}),
        (400, {"path": "/api/v1/jobs", "json": {**BODY, "image": "http://127.0.0.1/a.png"}}),
        (400, {"path": "/api/v1/jobs", "json": {}}),  # not read as a request for a job: not counted
        (409, {"path": "/v1/videos", "json": {"prompt": "a cat"}, "headers": named}),
        (429, {"path": "/v1/videos", "json": BODY}),
    ]
    told = []
    for status, call in calls:
        answer = closed.call(key, "POST", **call)
        assert answer.status_code == status, answer.text
        told.append(answer.headers.get("x-ratelimit-remaining-requests"))
        if told[-1] is not None:
            assert answer.headers["x-ratelimit-limit-requests"] == "6"
            assert re.fullmatch(r"[1-9]\d*s", answer.headers["x-ratelimit-reset-requests"])
    assert told == ["5", "4", "3", "2", "1", None, "0", "0"]
    for free, method in ((key, "GET"), (closed.key(), "POST")):
        body = {"json": BODY} if method == "POST" else {}
        answer = closed.call(free, method, "/v1/videos", **body)
        assert answer.status_code == 200
        assert not [name for name in answer.headers if name.startswith("x-ratelimit")]


def test_each_limit_of_a_key_is_kept(closed: Closed) -> None:
    key = closed.key(max_queued=1)
    assert closed.create(key).status_code == 201
    assert code_of(closed.create(key)) == (429, "queue_full")
    assert closed.create(closed.key()).status_code == 201
    picky = closed.key(models=("short",))
    assert code_of(closed.create(picky)) == (403, "permission_denied")
    assert closed.create(picky, model="short").status_code == 201
    assert [model["id"] for model in closed.call(picky, "GET", "/api/v1/models").json()["models"]] == [
        "short"
    ]
    assert [model["id"] for model in closed.call(picky, "GET", "/v1/models").json()["data"]] == ["short"]


def test_a_key_whose_videos_fill_its_space_makes_no_more(closed: Closed) -> None:
    key = closed.key(max_storage_bytes=1)
    first = closed.create(key).json()["id"]
    lease = closed.server.store.claim("w", 60.0)
    assert lease.job.id == first
    closed.server.finish(lease)
    assert code_of(closed.create(key)) == (403, "storage_limit_reached")
    closed.call(key, "DELETE", f"/api/v1/jobs/{first}")
    assert closed.create(key).status_code == 201


def test_keys_are_made_and_ended_over_the_api(closed: Closed) -> None:
    admin = closed.key(Scope.ADMIN)
    asked = {
        "name": "ci", "scopes": ["read", "generate"], "max_running": 2, "models": ["sora-2"],
        "expires_at": "2099-01-01T00:00:00Z",
    }  # fmt: skip
    made = closed.call(admin, "POST", "/api/v1/keys", json=asked)
    assert made.status_code == 201
    key = made.json()
    assert (key["scopes"], key["max_running"], key["models"]) == (["generate", "read"], 2, ["small"])
    secret = key.pop("key")
    assert (key["prefix"], key["last4"]) == (secret[:8], secret[-4:])
    listed = closed.call(admin, "GET", "/api/v1/keys")
    assert listed.json()["keys"][-1] == key
    assert secret not in listed.text
    rotated = closed.call(admin, "POST", f"/api/v1/keys/{key['id']}/rotate").json()["key"]
    assert closed.call(secret, "GET", "/v1/videos").status_code == 401
    assert closed.call(rotated, "GET", "/v1/videos").status_code == 200
    ended = closed.call(admin, "DELETE", f"/api/v1/keys/{key['id']}").json()
    assert ended["revoked_at"] is not None
    assert closed.call(admin, "DELETE", f"/api/v1/keys/{key['id']}").json() == ended
    assert code_of(closed.call(admin, "POST", f"/api/v1/keys/{key['id']}/rotate")) == (404, "key_not_found")
    assert code_of(closed.call(admin, "DELETE", "/api/v1/keys/none")) == (404, "key_not_found")


def test_a_keys_webhook_secret_is_shown_and_replaced(closed: Closed) -> None:
    admin = closed.key(Scope.ADMIN)
    made, own = closed.keys.create("mine")
    path = f"/api/v1/keys/{made.id}/webhook-secret"
    first = closed.call(own, "GET", path)
    assert first.headers["cache-control"] == "no-store"
    (secret,) = first.json()["secrets"]
    assert 24 <= len(base64.b64decode(secret["secret"].removeprefix("whsec_"), validate=True)) <= 64
    assert secret["expires_at"] is None
    assert closed.call(admin, "GET", path).json() == first.json()
    assert closed.call(own, "GET", "/api/v1/keys/self/webhook-secret").json() == first.json()
    rotated = closed.call(own, "POST", f"{path}/rotate").json()["secrets"]
    assert [one["secret"] == secret["secret"] for one in rotated] == [False, True]
    ends_in = datetime.fromisoformat(rotated[1]["expires_at"]) - datetime.now(UTC)
    assert timedelta(hours=23) < ends_in <= timedelta(hours=24)
    assert closed.call(own, "GET", path).json()["secrets"] == rotated
    assert closed.call(admin, "POST", f"{path}/rotate").json()["secrets"][1]["secret"] == rotated[0]["secret"]
    schema = closed.call(own, "GET", "/openapi.json").json()["components"]["schemas"]["WebhookSecrets"]
    assert set(schema["properties"]) == set(first.json())
    closed.keys.revoke(made.id)
    assert code_of(closed.call(admin, "GET", path)) == (404, "key_not_found")
    assert code_of(closed.call(admin, "POST", f"{path}/rotate")) == (404, "key_not_found")


def test_the_vendors_sdk_verifies_with_a_keys_webhook_secret(closed: Closed) -> None:
    path = "/api/v1/keys/self/webhook-secret"
    secret = closed.call(closed.key(), "GET", path).json()["secrets"][0]["secret"]
    body, now = '{"type": "video.completed"}', str(int(datetime.now(UTC).timestamp()))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, f"msg_1.{now}.{body}".encode(), hashlib.sha256).digest()
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": now,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
    with openai.OpenAI(api_key="any", webhook_secret=secret) as client:
        client.webhooks.verify_signature(body, headers)
        with pytest.raises(openai.InvalidWebhookSignatureError):
            client.webhooks.verify_signature(body + " ", headers)


def test_anothers_webhook_secret_is_an_unknown_one(closed: Closed) -> None:
    theirs, _ = closed.keys.create("theirs")
    reader, generator = closed.key(Scope.READ), closed.key()
    assert closed.call(reader, "GET", "/api/v1/keys/self/webhook-secret").status_code == 200
    rotate = closed.call(reader, "POST", "/api/v1/keys/self/webhook-secret/rotate")
    assert code_of(rotate) == (403, "permission_denied")
    for method, path in (("GET", "webhook-secret"), ("POST", "webhook-secret/rotate")):
        answers = {
            (answer.status_code, answer.text)
            for key_id in (theirs.id, "unknown")
            for answer in [closed.call(generator, method, f"/api/v1/keys/{key_id}/{path}")]
        }
        assert len(answers) == 1
        assert next(iter(answers))[0] == 404


def test_without_keys_the_deployment_has_a_webhook_secret(serve: Callable[..., Any]) -> None:
    client = serve().client
    (secret,) = client.get("/api/v1/keys/self/webhook-secret").json()["secrets"]
    rotated = client.post("/api/v1/keys/self/webhook-secret/rotate").json()["secrets"]
    assert [one["secret"] == secret["secret"] for one in rotated] == [False, True]


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({}, "name"),
        ({"name": "a\x07"}, "name"),
        ({"name": "a" * 256}, "name"),
        ({"name": "a", "scopes": ["root"]}, "scopes"),
        ({"name": "a", "scopes": 7}, "scopes"),
        ({"name": "a", "max_running": 0}, "max_running"),
        ({"name": "a", "requests_per_minute": -1}, "requests_per_minute"),
        ({"name": "a", "expires_at": "tomorrow"}, "expires_at"),
        ({"name": "a", "expires_at": "2020-01-01"}, "expires_at"),
        ({"name": "a", "secret": "mine"}, "secret"),
    ],
)
def test_a_bad_wish_for_a_key_is_refused(closed: Closed, body: dict[str, Any], parameter: str) -> None:
    answer = closed.call(closed.key(Scope.ADMIN), "POST", "/api/v1/keys", json=body)
    assert (answer.status_code, answer.json()["error"].get("parameter")) == (400, parameter)


def test_a_key_is_in_no_log_and_not_in_the_database(closed: Closed, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    key = closed.key()
    closed.create(key)
    closed.call(key, "GET", "/v1/videos", params={"api_key": key})
    closed.call(None, "GET", "/v1/videos", params={"api_key": key})
    ours = "\n".join(record.getMessage() for record in caplog.records if not record.name.startswith("http"))
    assert key not in ours
    for path in closed.server.settings.home.glob("vitascope.db*"):
        assert key.encode() not in path.read_bytes()


def test_with_keys_other_names_are_answered(closed: Closed) -> None:
    key = closed.key()
    assert closed.call(key, "GET", "/v1/videos", headers={"Host": "videos.example"}).status_code == 200
    assert closed.call(None, "GET", "/v1/videos", headers={"Host": "videos.example"}).status_code == 401
