"""Tiny real models, built once a run and loaded through the catalog like any other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import tiny
from vitascope.catalog import Catalog, locate
from vitascope.domain.model_spec import ModelSpec
from vitascope.engine import Engine, open_engine
from vitascope.engine.lazy_packages import make_lazy
from vitascope.engine.placement import Wishes
from vitascope.engine.postponed import postpone

# before the tests import anything of diffusers: so it is in every process that makes videos
postpone()
make_lazy()

TI2V_CARD = """
id = "ti2v"
source = "folder:."
pipeline = "WanPipeline"
modes = { text = "WanPipeline", image = "WanImageToVideoPipeline" }
frames = { multiple = 4, offset = 1, minimum = 5, maximum = 9, default = 9 }
"""


class Models(dict[str, ModelSpec]):
    """Specs of tiny models by pipeline class or layout, each built when it is first asked for."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root
        self._catalog = Catalog.open()

    def __missing__(self, name: str) -> ModelSpec:
        if name == "ti2v":
            folder = tiny.build("WanPipeline", self._root / name, tiny.wan_ti2v)
            (folder / "vitascope.toml").write_text(TI2V_CARD)
        else:
            folder = tiny.build(name, self._root / name)
        self[name] = self._catalog.resolve_local(str(folder))
        return self[name]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelSpec]:
    """Tiny models: one of each pipeline class, the layouts, and "ti2v", a Wan that starts from a text or an image."""
    return Models(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def engine() -> Iterator[Engine]:
    opened = open_engine("diffusers", locate, device="cpu", threads=1)
    yield opened
    opened.close()


@pytest.fixture
def rounding_engine() -> Iterator[Engine]:
    """In bfloat16 whatever the CPU: what an input changes of so small a model is less than a value of frames in float32."""
    opened = open_engine("diffusers", locate, device="cpu", threads=1, wishes=Wishes(dtype="bfloat16"))
    yield opened
    opened.close()
