"""Keys that are counted: quotes, refusals, accounts and the book, as clients and operators see them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest

from vitascope.dialects.native import schema
from vitascope.service.keys import Keys
from waiting import eventually

VIDEO = {"prompt": "a dog", "model": "small", "width": 960, "height": 640, "num_frames": 16, "fps": 8}
"""1.2288 megapixel-seconds."""

PRICE = 13
"""At 10 credits for each, with 12 steps."""


@dataclass
class Counted:
    """A server with keys, one of which is counted."""

    server: Any
    key_id: str
    client: httpx.Client
    operator: httpx.Client

    def grant(self, amount: int, **more: Any) -> dict[str, Any]:
        answer = self.operator.post(f"/api/v1/keys/{self.key_id}/credits", json={"amount": amount, **more})
        assert answer.status_code == 200, answer.text
        return dict(answer.json()["credits"])

    def standing(self) -> tuple[int, int, int]:
        found = self.client.get("/api/v1/keys/self/credits").json()["credits"]
        assert self.server.store.ledger_imbalances() == []
        return found["credits"], found["held"], found["spent"]

    def end(self) -> None:
        self.server.finish(self.server.claim())


@pytest.fixture
def counted(serve: Callable[..., Any]) -> Iterator[Counted]:
    server = serve(credits={"prices": {"expensive": 1000.0}})
    _, admin = Keys(server.store).create("operator", ["admin"])  # type: ignore[list-item]
    key, secret = Keys(server.store).create("client")
    eventually(lambda: httpx.get(f"{server.url}/api/v1/jobs", trust_env=False).status_code == 401)
    with (
        httpx.Client(
            base_url=server.url, trust_env=False, headers={"authorization": f"Bearer {secret}"}
        ) as client,
        httpx.Client(
            base_url=server.url, trust_env=False, headers={"authorization": f"Bearer {admin}"}
        ) as operator,
    ):
        yield Counted(server, key.id, client, operator)


def test_a_quote_is_what_the_job_costs(counted: Counted) -> None:
    quote = counted.client.post("/api/v1/quote", json=VIDEO).json()
    schema.Quote.model_validate(quote, extra="forbid")
    assert (quote["credits"], quote["balance"], quote["is_enough"]) == (PRICE, None, True)
    assert quote["megapixel_seconds"] == pytest.approx(1.2288)
    counted.grant(100)
    job = counted.client.post("/api/v1/jobs", json=VIDEO).json()
    assert job["credits"] == {"price": PRICE, "charged": None}
    assert counted.standing() == (100 - PRICE, PRICE, 0)
    counted.end()
    assert counted.client.get(f"/api/v1/jobs/{job['id']}").json()["credits"] == {
        "price": PRICE,
        "charged": PRICE,
    }
    assert counted.standing() == (100 - PRICE, 0, PRICE)


@pytest.mark.parametrize(
    ("change", "credits"),
    [
        ({"num_frames": 32}, 25), ({"width": 480, "height": 320}, 4), ({"num_videos": 2}, 26),
        ({"num_inference_steps": 4}, 5), ({"num_inference_steps": 50}, 20), ({"width": 32, "height": 32, "num_frames": 1}, 1),
        ({"upscale": {"width": 1920, "height": 1280}}, 50),
    ],
)  # fmt: skip
def test_more_pixels_seconds_steps_and_videos_cost_more(
    counted: Counted, change: dict[str, Any], credits: int
) -> None:
    quote = counted.client.post("/api/v1/quote", json={**VIDEO, **change})
    assert quote.json()["credits"] == credits, quote.text


def test_a_cancelled_job_is_given_back(counted: Counted) -> None:
    counted.grant(100)
    job = counted.client.post("/api/v1/jobs", json=VIDEO).json()
    cancelled = counted.client.post(f"/api/v1/jobs/{job['id']}/cancel").json()
    assert cancelled["credits"] == {"price": PRICE, "charged": 0}
    assert counted.standing() == (100, 0, 0)


def test_too_few_credits_make_nothing(counted: Counted) -> None:
    counted.grant(PRICE - 1)
    assert counted.client.post("/api/v1/quote", json=VIDEO).json()["is_enough"] is False
    answer = counted.client.post("/api/v1/jobs", json=VIDEO)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (402, "insufficient_credits")
    assert (error["credits"], error["balance"]) == (PRICE, PRICE - 1)
    assert error["message"] == f"this costs {PRICE} credits, and the API key has {PRICE - 1}"
    assert counted.client.get("/api/v1/jobs").json()["jobs"] == []
    assert counted.standing() == (PRICE - 1, 0, 0)


def test_openais_sdk_is_told_in_its_own_words_and_asks_once(counted: Counted) -> None:
    counted.grant(0)
    sent: list[httpx.Request] = []
    with httpx.Client(trust_env=False, event_hooks={"request": [sent.append]}) as transport:
        client = openai.OpenAI(
            base_url=f"{counted.server.url}/v1",
            api_key=counted.client.headers["authorization"].removeprefix("Bearer "),
            http_client=transport,
        )
        with pytest.raises(openai.RateLimitError) as error, pytest.warns(DeprecationWarning):
            client.videos.create(prompt="a dog", model="sora-2")
    assert (error.value.code, error.value.type) == ("insufficient_quota", "insufficient_quota")
    assert len(sent) == 1, "it was told that trying again is no use"


def test_openrouters_clients_are_told_with_402(counted: Counted) -> None:
    counted.grant(0)
    answer = counted.client.post("/api/v1/videos", json={"prompt": "a dog", "model": "small"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (402, 402)


def test_clients_of_sora_tasks_are_told_by_a_code_of_its_own(counted: Counted) -> None:
    counted.grant(0)
    body = {"model": "sora-2-text-to-video", "prompt": "a dog"}
    answer = counted.client.post("/api/v1/video/sora-pro", json=body)
    assert (answer.status_code, answer.json()["code"], answer.json()["data"]) == (200, 40201, None)
    assert counted.standing() == (0, 0, 0)


def test_fifty_at_once_with_credits_for_ten(counted: Counted) -> None:
    counted.grant(10 * PRICE)
    with ThreadPoolExecutor(50) as threads:
        answers = list(
            threads.map(lambda _: counted.client.post("/api/v1/jobs", json=VIDEO, timeout=60), range(50))
        )
    statuses = [answer.status_code for answer in answers]
    assert (statuses.count(201), statuses.count(402)) == (10, 40)
    assert counted.standing() == (0, 10 * PRICE, 0)


def test_a_request_that_is_sent_again_is_held_once_even_when_nothing_is_left(counted: Counted) -> None:
    counted.grant(PRICE)
    headers = {"idempotency-key": "one"}
    answers = [counted.client.post("/api/v1/jobs", json=VIDEO, headers=headers) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [201, 200, 200]
    assert counted.standing() == (0, PRICE, 0)


def test_the_account_is_its_holders(counted: Counted) -> None:
    account = counted.client.get("/api/v1/account").json()
    schema.Account.model_validate(account, extra="forbid")
    assert (account["key_id"], account["credits"]) == (counted.key_id, None)
    counted.grant(100)
    counted.client.post("/api/v1/jobs", json=VIDEO)
    counted.client.post("/api/v1/jobs", json=VIDEO)
    lease = counted.server.claim()
    account = counted.client.get("/api/v1/account").json()
    assert account["jobs"] == {"queued": 1, "running": 1}
    assert account["credits"] == {"credits": 100 - 2 * PRICE, "held": 2 * PRICE, "spent": 0, "is_on": True}
    counted.server.finish(lease)
    assert counted.client.get("/api/v1/account").json()["stored_bytes"] > 0
    assert counted.operator.get("/api/v1/account").json()["jobs"] == {"queued": 0, "running": 0}


def test_the_book_is_its_holders_and_the_operators(counted: Counted) -> None:
    counted.grant(50, note="a gift", reference="invoice 7")
    assert counted.grant(50, note="a gift", reference="invoice 7")["credits"] == 50, "made once"
    counted.client.post("/api/v1/jobs", json=VIDEO)
    counted.end()
    own = counted.client.get("/api/v1/keys/self/ledger").json()
    schema.LedgerPage.model_validate(own, extra="forbid")
    moves = [(entry["move"], entry["account"], entry["amount"]) for entry in own["entries"]]
    assert moves == [
        ("settle", "held", -PRICE), ("hold", "held", PRICE), ("hold", "key", -PRICE), ("grant", "key", 50),
    ]  # fmt: skip
    assert own["entries"][-1]["note"] == "a gift"
    assert counted.operator.get(f"/api/v1/keys/{counted.key_id}/ledger").json() == own
    page = counted.client.get("/api/v1/keys/self/ledger", params={"limit": 2}).json()
    assert (len(page["entries"]), page["has_more"]) == (2, True)
    assert counted.client.get("/api/v1/keys/self/ledger", params={"limit": 0}).status_code == 400
    other, _ = Keys(counted.server.store).create("other")
    assert counted.client.get(f"/api/v1/keys/{other.id}/ledger").status_code == 404
    assert counted.client.get(f"/api/v1/keys/{other.id}/credits").status_code == 404


def test_only_operators_grant(counted: Counted) -> None:
    path = f"/api/v1/keys/{counted.key_id}/credits"
    assert counted.client.post(path, json={"amount": 5}).status_code == 403
    assert counted.operator.post(path, json={}).status_code == 400
    assert counted.operator.post(path, json={"amount": 2**60}).status_code == 400
    assert counted.operator.post(path, json={"amount": -1}).json()["error"]["parameter"] == "amount"
    assert counted.operator.post("/api/v1/keys/nobody/credits", json={"amount": 1}).status_code == 404
    assert counted.operator.post(path, json={"amount": 1, "is_on": False}).json()["credits"]["is_on"] is False
    assert counted.client.post("/api/v1/jobs", json=VIDEO).json()["credits"] is None, "it is unlimited again"


def test_a_batchs_lines_are_paid_for_one_by_one(counted: Counted) -> None:
    """A line for which nothing is left is answered so; the others are made."""
    import json

    line = {
        "method": "POST",
        "url": "/v1/videos",
        "body": {"prompt": "a dog", "model": "small", "size": "960x640", "seconds": "2"},
    }
    text = "\n".join(json.dumps({"custom_id": str(number), **line}) for number in range(3))
    file = counted.client.post(
        "/v1/files", data={"purpose": "batch"}, files={"file": ("a.jsonl", text)}
    ).json()
    counted.grant(2 * PRICE)
    asked = {"input_file_id": file["id"], "endpoint": "/v1/videos", "completion_window": "24h"}
    batch = counted.client.post("/v1/batches", json=asked).json()
    counted.server.start_worker()
    done: dict[str, Any] = {}

    def has_ended() -> bool:
        done.update(counted.client.get(f"/v1/batches/{batch['id']}").json())
        return done["status"] == "completed"

    eventually(has_ended, 60)
    assert done["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    assert counted.standing() == (0, 0, 2 * PRICE)
    errors = counted.client.get(f"/v1/files/{done['error_file_id']}/content").json()
    assert errors["response"]["body"]["error"]["code"] == "insufficient_quota"


def test_a_server_without_keys_counts_nobody(server: Any) -> None:
    assert server.client.get("/api/v1/account").json()["credits"] is None
    assert server.client.post("/api/v1/jobs", json=VIDEO).json()["credits"] is None
    assert server.client.post("/api/v1/quote", json=VIDEO).json()["credits"] == PRICE
