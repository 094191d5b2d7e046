"""A model hub for this process's own client, and a card of a model that it has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.utils._http import close_session

import hub as hubs
from vitascope.catalog.cards import spec_from
from vitascope.domain.model_spec import ModelSpec


@pytest.fixture
def hub_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[hubs.Hub]:
    """A hub that the client of this process talks to, and a cache of its own."""
    with hubs.running() as running:
        template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100)
        monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _seconds: None)
        yield running
        close_session()


@pytest.fixture
def spec() -> ModelSpec:
    """A model of that hub, of one commit."""
    values = {"id": "tiny", "source": f"hub:{hubs.NAME}", "revision": hubs.COMMIT, "pipeline": "WanPipeline"}
    return spec_from(values)
