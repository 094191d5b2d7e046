"""Pictures of figures: they are there, and longer bars are longer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from vitascope.media import chart


def test_bars_are_as_long_as_what_they_show(tmp_path: Path) -> None:
    groups = [chart.Group("a step", {"plain": 2.0, "ours": 1.0, "none": None}, most=2.0)]
    chart.bars(tmp_path / "bars.png", "Title", "how", groups, "s")
    with Image.open(tmp_path / "bars.png") as image:
        pixels = np.asarray(image.convert("RGB"))[96:]
    lengths = [
        int((pixels == colour).all(-1).sum(1).max()) for colour in ((0x8D, 0x99, 0xAE), (0x2A, 0x6F, 0xDB))
    ]
    assert abs(lengths[0] - 2 * lengths[1]) <= 2


def test_lines_take_points_that_a_logarithm_does_not_have(tmp_path: Path) -> None:
    chart.lines(
        tmp_path / "lines.png", "Title", "how", {"one": [(0.0, 0.0), (1.0, 0.5), (100.0, 1.0)]}, ("x", "y")
    )
    with Image.open(tmp_path / "lines.png") as image:
        assert image.size == (chart.WIDTH, 520)
