"""Figures as a PNG: bars and lines, drawn with Pillow. For benchmarks; knows nothing of what it shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

WIDTH = 1000
_INK, _GREY, _PAPER = "#1f2430", "#c9ced8", "#ffffff"
_COLOURS = ("#8d99ae", "#2a6fdb", "#e07a2f", "#3a9d5d", "#9b5de5")
_LEFT, _RIGHT, _TOP, _ROW = 230, 150, 96, 24


@dataclass(frozen=True, slots=True)
class Group:
    """Bars that are compared with each other."""

    label: str
    #: By name of the series; None where there is no figure.
    values: Mapping[str, float | None]
    #: What the longest bar that there could be stands for; None is the largest value.
    most: float | None = None


def bars(path: Path, title: str, note: str, groups: Sequence[Group], unit: str = "") -> None:
    """Draw groups of horizontal bars, one colour for each series, each group on a scale of its own unless it names one.

    Args:
        path: of the PNG.
        title: what is shown.
        note: how it was measured, in smaller letters.
        groups: from top to bottom.
        unit: written after each figure.
    """
    names = list(dict.fromkeys(name for group in groups for name in group.values))
    height = _TOP + sum(len(group.values) * _ROW + 18 for group in groups) + 20
    image, draw = _sheet(title, note, names, height)
    y = _TOP
    for group in groups:
        largest = max((value for value in group.values.values() if value is not None), default=0.0)
        most = largest if group.most is None else group.most
        draw.text((20, y + (len(group.values) - 1) * _ROW / 2), group.label, _INK, font=_font(15))
        for name, value in group.values.items():
            length = 0.0 if value is None or most <= 0 else value / most * (WIDTH - _LEFT - _RIGHT)
            draw.rectangle((_LEFT, y + 2, _LEFT + length, y + _ROW - 4), _colour(names, name))
            said = "-" if value is None else f"{_figure(value)} {unit}".rstrip()
            draw.text((_LEFT + length + 8, y + 2), said, _INK, font=_font(14))
            y += _ROW
        y += 18
    image.save(path, optimize=True)


def lines(
    path: Path,
    title: str,
    note: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    axes: tuple[str, str],
) -> None:
    """Draw curves over a logarithmic axis; upwards it is linear and begins at 0.

    Args:
        path: of the PNG.
        title: what is shown.
        note: how it was measured, in smaller letters.
        series: by name, its points from left to right; those at 0 or below are left out.
        axes: what x and y are.
    """
    image, draw = _sheet(title, note, list(series), 520)
    points = [point for these in series.values() for point in these if point[0] > 0]
    low, high = (math.log10(pick(x for x, _ in points)) for pick in (min, max))
    most = max(y for _, y in points)
    left, right, top, bottom = 70, WIDTH - 30, _TOP, 460

    def at(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - low) / ((high - low) or 1.0)
        return left + across * (right - left), bottom - y / most * (bottom - top)

    for exponent in range(math.ceil(low), math.floor(high) + 1):
        x, _ = at(10.0**exponent, 0)
        draw.line((x, top, x, bottom), _GREY)
        draw.text((x, bottom + 6), _figure(10.0**exponent), _INK, font=_font(13), anchor="ma")
    for quarter in range(5):
        _, y = at(10.0**low, most * quarter / 4)
        draw.line((left, y, right, y), _GREY)
        draw.text((left - 8, y), _figure(most * quarter / 4), _INK, font=_font(13), anchor="rm")
    draw.text(((left + right) / 2, bottom + 28), axes[0], _INK, font=_font(14), anchor="ma")
    draw.text((20, top - 22), axes[1], _INK, font=_font(14))
    for name, these in series.items():
        draw.line([at(x, y) for x, y in these if x > 0], _colour(list(series), name), width=3)
    image.save(path, optimize=True)


def _sheet(
    title: str, note: str, names: Sequence[str], height: int
) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (WIDTH, height), _PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((20, 12), title, _INK, font=_font(20))
    draw.text((20, 42), note, "#5b6475", font=_font(13))
    x = WIDTH - 20.0
    for name in reversed(names):
        x -= _font(14).getlength(name)
        draw.text((x, 66), name, _INK, font=_font(14))
        draw.rectangle((x - 20, 68, x - 6, 82), _colour(names, name))
        x -= 38
    return image, draw


def _colour(names: Sequence[str], name: str) -> str:
    return _COLOURS[names.index(name) % len(_COLOURS)]


def _figure(value: float) -> str:
    """Three digits, and no more zeros than needed."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(__file__).parent / "fonts" / "DejaVuSans.ttf", size)
