"""Other servers run code that comes with a checkpoint. Here only diffusers' own classes are named, and only weights are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vitascope.catalog.sources import spec_of_folder
from vitascope.domain.errors import ModelUnavailable, UnknownModel
from vitascope.engine.device import choose_device
from vitascope.engine.loading import load_model

EVIL = "import pathlib\npathlib.Path(__file__).with_name('pwned').touch()\n"


@pytest.mark.parametrize(
    "index",
    [
        {"_class_name": ["pipeline", "EvilPipeline"]},
        {"_class_name": "EvilPipeline"},
        {"_class_name": "WanPipeline", "transformer": ["transformer_code", "Evil"]},
        {
            "_class_name": "WanPipeline",
            "transformer": ["pipeline", "Evil"],
            "auto_map": {"x": "pipeline.Evil"},
        },
    ],
)
def test_code_in_a_folder_is_not_run(tmp_path: Path, index: dict[str, object]) -> None:
    for name in (
        "pipeline.py",
        "transformer_code.py",
        "transformer/transformer_code.py",
        "transformer/pipeline.py",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(EVIL)
    (tmp_path / "transformer" / "config.json").write_text(
        '{"_class_name": "Evil", "auto_map": {"AutoModel": "pipeline.Evil"}}'
    )
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    device, choice = choose_device("cpu")
    with pytest.raises((ModelUnavailable, UnknownModel)):
        load_model(spec_of_folder(tmp_path), str(tmp_path), device, choice)
    assert not list(tmp_path.rglob("pwned"))
