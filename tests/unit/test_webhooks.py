"""The schedule of attempts and the signatures of webhooks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from openai import OpenAI
from standardwebhooks import Webhook

from vitascope.domain.secret import Secret
from vitascope.webhooks import new_secret, signed_headers
from vitascope.webhooks.schedule import DELAYS, MAX_RETRY_AFTER_SECONDS, delay_after, retry_after_of

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def test_the_schedule_is_that_of_standard_webhooks() -> None:
    delays = [delay_after(tries, None, 0.0) for tries in range(1, 11)]
    assert delays == [5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400, None]
    assert sum(DELAYS) == timedelta(hours=75, minutes=35, seconds=5).total_seconds()


@pytest.mark.parametrize("tries", range(1, 10))
def test_jitter_only_ever_adds(tries: int) -> None:
    least, most = delay_after(tries, None, 0.0), delay_after(tries, None, 1.0)
    assert least == DELAYS[tries - 1]
    assert most == pytest.approx(DELAYS[tries - 1] * 1.1)


@pytest.mark.parametrize(
    ("asked", "delay"), [(None, 5), (3.0, 5), (120.0, 120.0), (10**9, MAX_RETRY_AFTER_SECONDS)]
)
def test_a_receiver_may_put_it_off_but_not_hurry_nor_for_ever(asked: float | None, delay: float) -> None:
    assert delay_after(1, asked, 0.0) == delay
    assert delay_after(10, asked, 0.0) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        ("9" * 500, 999_999_999.0),
        ("Sat, 21 Nov 2026 12:02:00 GMT", 120.0),
        ("Sat, 21 Nov 2026 11:00:00 GMT", 0.0),
        ("Sat, 21 Nov 2026 12:02:00", 120.0),
        ("soon", None),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        ("Mon, 01 Jan 2027 99999999999999999999:00:00 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 -1200", 251607081599.0),
        ("-5", None),
        ("١٢", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str, seconds: float | None) -> None:
    assert retry_after_of({"retry-after": text}, NOW) == seconds
    assert retry_after_of({}, NOW) is None


def test_two_libraries_verify_with_either_secret() -> None:
    body = '{"type":"video.completed","data":{"id":"video_1","track_id":"ü"}}'.encode()
    now = datetime.now(timezone(timedelta(hours=-7)))
    good = [Secret(value=new_secret(), created_at=NOW) for _ in range(2)]
    headers = signed_headers("msg_1", body, now, good)
    assert abs(int(headers["webhook-timestamp"]) - now.timestamp()) < 1
    for secret in good:
        assert Webhook(secret.value).verify(body, headers)["type"] == "video.completed"
        event = OpenAI(api_key="none").webhooks.unwrap(body, headers, secret=secret.value)
        assert event.type == "video.completed"
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(new_secret()).verify(body, headers)
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(good[0].value).verify(body + b" ", headers)
