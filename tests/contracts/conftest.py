"""Stores on both databases, and jobs in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vitascope.domain.job import Job
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import plan
from vitascope.domain.request import GenerationRequest
from vitascope.store import Store

LIMIT = 100_000


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'jobs.db'}"
    found: str = request.getfixturevalue("postgres_url")
    return found


@pytest.fixture
def open_store(url: str, clock: Any) -> Iterator[Callable[[], Store]]:
    """Opens the same database again and again, as other processes do."""
    opened: list[Store] = []

    def open_one() -> Store:
        opened.append(Store.open(url, clock))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: Callable[[], Store]) -> Store:
    return open_store()


@pytest.fixture
def create(store: Store, small_spec: ModelSpec) -> Callable[..., Job]:
    """Creates a job: what `Store.create` takes by its name, the rest goes into the request."""

    def create_one(job_id: str = "a", max_queued: int = LIMIT, **given: Any) -> Job:
        names = ("key_id", "max_queued_per_key", "max_storage_bytes", "once", "charge")
        more = {name: given[name] for name in names if name in given}
        asked = {name: value for name, value in given.items() if name not in (*names, "plan_model")}
        request = GenerationRequest(**{"prompt": "a dog", "model": "sora-2", "seed": 1, **asked})
        planned = plan(
            dataclasses.replace(request, prompt="a"), small_spec
        )  # which refuses what the store must keep
        planned = dataclasses.replace(planned, prompt=request.prompt)
        planned = dataclasses.replace(planned, model=given.get("plan_model", planned.model))
        return store.create(job_id, request, planned, max_queued, **more)

    return create_one
