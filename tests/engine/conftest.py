"""Tiny real models, built once a run and loaded through the catalog like any other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import tiny
from vitascope.catalog import Catalog, locate
from vitascope.domain.model_spec import ModelSpec
from vitascope.engine import Engine, open_engine

TI2V_CARD = """
id = "ti2v"
source = "folder:."
pipeline = "WanPipeline"
modes = { text = "WanPipeline", image = "WanImageToVideoPipeline" }
frames = { multiple = 4, offset = 1, minimum = 5, maximum = 9, default = 9 }
"""


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelSpec]:
    """Specs of tiny models: one of each pipeline class, and "ti2v", which also starts from an image."""
    root = tmp_path_factory.mktemp("tiny")
    folders = {name: tiny.build(name, root / name) for name in tiny.BUILDERS}
    folders["ti2v"] = tiny.build("WanPipeline", root / "ti2v", tiny.wan_ti2v)
    (folders["ti2v"] / "vitascope.toml").write_text(TI2V_CARD)
    catalog = Catalog.open()
    return {name: catalog.resolve_local(str(folder)) for name, folder in folders.items()}


@pytest.fixture
def engine() -> Iterator[Engine]:
    opened = open_engine("diffusers", locate, device="cpu", threads=1)
    yield opened
    opened.close()
