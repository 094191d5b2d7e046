"""Signed links: good until they say, for what they say, and for nothing else."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from vitascope.domain.errors import LinkNotFound, SettingsError
from vitascope.domain.job import Job, JobStatus
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import plan
from vitascope.domain.request import GenerationRequest
from vitascope.domain.video import Variant
from vitascope.service import Links, ids
from vitascope.store import Cipher, Store

KEYS = (b"k" * 32, b"old" * 11)


@pytest.fixture
def job(small_spec: ModelSpec) -> Job:
    request = GenerationRequest(prompt="a dog", model="small", seed=1, base_url="https://first.example/base")
    return Job(
        id=ids.new_id(),
        number=1,
        status=JobStatus.QUEUED,
        request=request,
        plan=plan(request, small_spec),
        cancel_requested=False,
        progress=0,
        stage="",
        attempt=0,
        created_at=datetime.now(UTC),
    )


def links(clock: Any = None, keys: tuple[bytes, ...] = KEYS, public_url: str | None = None) -> Links:
    return Links(lambda: keys, public_url, 3600, clock or (lambda: datetime.now(UTC)))


def token_of(url: str) -> str:
    return url.rpartition("/")[2]


def test_a_link_leads_to_its_file_until_its_end(job: Job, clock: Any) -> None:
    made = links(clock).make(job, output=2)
    assert made.url.startswith("https://first.example/base/files/")
    assert made.url.endswith(".mp4"), "clients guess the kind of a file by its address"
    assert timedelta(hours=1) <= made.expires_at - clock() < timedelta(hours=1, seconds=37)
    found = links(clock).read(token_of(made.url))
    assert (found.job_id, found.output, found.suffix) == (job.id, 2, "mp4")
    clock.advance((made.expires_at - clock()).total_seconds() - 1)
    links(clock).read(token_of(made.url))
    clock.advance(1)
    with pytest.raises(LinkNotFound):
        links(clock).read(token_of(made.url))


@pytest.mark.parametrize(
    ("variant", "suffix"), [("video", "mp4"), ("thumbnail", "webp"), ("spritesheet", "jpg")]
)
def test_a_link_names_one_file(job: Job, variant: Variant, suffix: str) -> None:
    made = links().make(job, output=1, variant=variant)
    found = links().read(token_of(made.url))
    assert (found.output, found.variant, found.suffix) == (1, variant, suffix)
    assert made.url.endswith(f".{suffix}")


def test_who_polls_is_mostly_told_the_same_link(job: Job, clock: Any) -> None:
    told = set()
    for _ in range(36):
        told.add(links(clock).make(job).url)
        clock.advance(1)
    assert len(told) <= 2


def test_links_begin_as_the_settings_say_else_as_the_client_came(job: Job) -> None:
    assert (
        links(public_url="https://videos.example/").make(job).url.startswith("https://videos.example/files/")
    )
    unknown = dataclasses.replace(job, request=dataclasses.replace(job.request, base_url=""))
    assert links().make(unknown, "http://now:1").url.startswith("http://now:1/files/")
    assert links().make(job, "http://now:1").url.startswith("https://first.example/base/files/")


def test_every_changed_character_is_noticed(job: Job) -> None:
    token = token_of(links().make(job).url)
    for at, char in enumerate(token):
        for other in {"0", "1", "a", "Z", ".", "-"} - {char}:
            with pytest.raises(LinkNotFound):
                links().read(token[:at] + other + token[at + 1 :])


@pytest.mark.parametrize(
    "token", ["", "a", "a" * 5000, "../../etc/passwd", "٣" * 26 + ".0.9999999999." + "A" * 24 + ".mp4", "%00"]
)
def test_what_is_no_link_is_the_same_as_a_bad_one(token: str) -> None:
    with pytest.raises(LinkNotFound):
        links().read(token)


def test_an_exchanged_key_leaves_old_links_good_while_it_is_kept(job: Job) -> None:
    old = token_of(links(keys=KEYS[1:]).make(job).url)
    links(keys=KEYS).read(old)
    with pytest.raises(LinkNotFound):
        links(keys=KEYS[:1]).read(old)


def test_keys_are_the_deployments_and_no_others(tmp_path: Path) -> None:
    opened = [
        Store.open(f"sqlite:///{tmp_path / 'a.db'}", cipher=Cipher((), tmp_path / "secrets.key"))
        for _ in range(2)
    ]
    first, second = (store.derived_keys("a") for store in opened)
    assert first == second
    assert first != opened[0].derived_keys("b")
    other = Store.open(f"sqlite:///{tmp_path / 'b.db'}", cipher=Cipher((), tmp_path / "other.key"))
    assert other.derived_keys("a") != first
    keyless = Store.open(f"sqlite:///{tmp_path / 'c.db'}")
    with pytest.raises(SettingsError):
        keyless.derived_keys("a")
    for store in (*opened, other, keyless):
        store.close()


def test_a_link_ends_with_its_file(job: Job, clock: Any) -> None:
    kept = replace(job, expires_at=clock() + timedelta(minutes=5))
    assert links(clock).make(kept).expires_at == (clock() + timedelta(minutes=5)).replace(microsecond=0)
