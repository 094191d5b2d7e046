"""What a job's heartbeat does while the store is away."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vitascope.catalog import Catalog
from vitascope.domain.errors import StoreUnavailable
from vitascope.domain.plan import plan
from vitascope.domain.request import GenerationRequest
from vitascope.store import Store
from vitascope.worker.heartbeat import Heartbeat


def test_what_another_try_needs_is_written_down_once_the_store_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("vitascope.worker.heartbeat.time", SimpleNamespace(monotonic=lambda: now))
    with closing(Store.open(f"sqlite:///{tmp_path / 'jobs.db'}")) as store:
        request = GenerationRequest(prompt="a dog", model="pocket", seed=1)
        store.create("a", request, plan(request, Catalog.open().resolve("pocket")), max_queued=10)
        lease = store.claim("w1", 600.0)
        assert lease is not None
        heartbeat = Heartbeat(lease, now, 600.0, store)

        def away(*_: Any, **__: Any) -> None:
            raise StoreUnavailable("the database does not answer")

        with monkeypatch.context() as gone:
            for name in ("renew", "report", "keep_prompts", "keep_settled"):
                gone.setattr(store, name, away)
            heartbeat.keep_prompts(["a red dog"])  # finds out that it is away
            heartbeat.keep_settled({"dtype": "float32"})
            now += 10.0
            heartbeat.beat()
            assert heartbeat.is_store_away
        now += 10.0
        heartbeat.beat()
        kept = store.get("a")
        assert (kept.enhanced_prompts, kept.settled) == (("a red dog",), (("dtype", "float32"),))
