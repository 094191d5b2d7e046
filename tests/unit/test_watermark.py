"""A watermark: what is refused before anything is queued, and what is drawn."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from vitascope import media, settings
from vitascope.domain import marks
from vitascope.domain.errors import InvalidParameter, SettingsError
from vitascope.domain.marks import MarkRules, check_watermark
from vitascope.domain.model_spec import Size
from vitascope.domain.request import GenerationRequest, Watermark
from vitascope.media import watermark

GREY = np.full((120, 160, 3), 128, np.uint8)


def drawn(mark: Watermark, frame: np.ndarray = GREY, image: np.ndarray | None = None) -> np.ndarray:
    height, width = frame.shape[:2]
    (result,) = media.draw_watermark([frame], mark, height=height, width=width, image=image)
    return result


def touched(frame: np.ndarray, before: np.ndarray = GREY) -> tuple[int, int, int, int]:
    """First and last row and column that differ."""
    rows, columns = np.nonzero((frame != before).any(axis=2))
    return rows.min(), rows.max(), columns.min(), columns.max()


def test_the_font_has_what_the_rules_say() -> None:
    font = ImageFont.truetype(watermark._FONT, 40)
    assert font.getmask("\uffff").getbbox() is None, "what is not there draws nothing"
    for character in sorted(marks._CHARACTERS - {" ", "\xa0"}):
        assert font.getmask(character).getbbox() is not None, ascii(character)
    for character in "あ中ع\u0301\u200b🎬":
        assert character not in marks._CHARACTERS


@pytest.mark.parametrize("position", marks.POSITIONS)
def test_it_is_where_it_shall_be(position: str) -> None:
    frame = drawn(Watermark(text="AI", position=position))  # type: ignore[arg-type]
    top, bottom, left, right = touched(frame)
    middle_row, middle_column = (top + bottom) / 2, (left + right) / 2
    words = position.split("-")
    assert (middle_row < 40) == ("top" in words)
    assert (middle_row > 80) == ("bottom" in words)
    assert (middle_column < 50) == ("left" in words)
    assert (middle_column > 110) == ("right" in words)
    assert top > 0
    assert left > 0
    assert bottom < 119
    assert right < 159
    assert (GREY == 128).all(), "the given frame stays as it is"


@pytest.mark.parametrize("text", ["Généré par IA", "Создано ИИ", "Φτιαγμένο με μηχανή", "Tạo bởi AI"])
def test_the_unions_languages_can_be_written(text: str) -> None:
    assert check_watermark(Watermark(text=text)) == Watermark(text=text)
    assert (drawn(Watermark(text=text)) != GREY).any()


def test_opacity_is_a_share() -> None:
    grey = np.full((480, 640, 3), 128, np.uint8)
    full = drawn(Watermark(text="AI", opacity=1), grey).astype(int)
    half = drawn(Watermark(text="AI", opacity=0.5), grey).astype(int)
    assert full.max() == 255
    assert np.abs((half - 128) * 2 - (full - 128)).max() <= 3


def test_sizes_follow_the_frame() -> None:
    def height(rows: int, columns: int) -> int:
        grey = np.full((rows, columns, 3), 128, np.uint8)
        top, bottom, _, _ = touched(drawn(Watermark(text="A"), grey), grey)
        return int(bottom - top)

    assert 1.7 < height(720, 1280) / height(360, 640) < 2.3


def test_long_text_fits() -> None:
    _, _, left, right = touched(drawn(Watermark(text="Made by an artificial mind")))
    assert left >= 2
    assert right <= 157


def test_a_picture_keeps_its_transparency_and_its_shape(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (80, 40), (255, 0, 0, 255))
    picture.paste((0, 0, 0, 0), (0, 0, 40, 40))
    picture.save(tmp_path / "a.png")
    overlay = media.read_overlay(tmp_path / "a.png")
    assert overlay.shape == (40, 80, 4)
    frame = drawn(Watermark(image="a", position="top-left", opacity=1), image=overlay)
    top, bottom, left, right = touched(frame)
    assert (bottom - top, right - left) == (15, pytest.approx(16, abs=2)), (
        "a fifth of the width, half of it clear"
    )
    assert tuple(frame[(top + bottom) // 2, right - 3]) == (255, 0, 0)
    assert left >= 14


def test_a_stored_picture_keeps_its_transparency(tmp_path: Path) -> None:
    content = io.BytesIO()
    Image.new("RGBA", (3, 2), (10, 20, 30, 40)).save(content, "PNG")
    png = media.open_picture(content.getvalue(), with_opacity=True).to_png()
    with Image.open(io.BytesIO(png)) as picture:
        assert (picture.mode, picture.getpixel((0, 0))) == ("RGBA", (10, 20, 30, 40))


@pytest.mark.parametrize(
    ("mark", "parameter", "nearest"),
    [
        (Watermark(text="a", opacity=1.5), "watermark.opacity", 1),
        (Watermark(text="a", opacity=0), "watermark.opacity", 0.05),
        (Watermark(text="a", position="bottom_rihgt"), "watermark.position", "bottom-right"),  # type: ignore[arg-type]
        (Watermark(text="  "), "watermark.text", None),
        (Watermark(text="a\nb"), "watermark.text", None),
        (Watermark(text="あ"), "watermark.text", None),
        (Watermark(text="a" * 101), "watermark.text", "a" * 100),
        (Watermark(text="a", image="b"), "watermark.image", None),
    ],
)
def test_what_cannot_be_drawn_is_refused(mark: Watermark, parameter: str, nearest: object) -> None:
    with pytest.raises(InvalidParameter) as refused:
        check_watermark(mark)
    assert (refused.value.parameter, refused.value.nearest) == (parameter, nearest)


def request(watermark: Watermark | None = None, provenance: bool | None = None) -> GenerationRequest:
    return GenerationRequest(prompt="a", model="m", seed=1, watermark=watermark, provenance=provenance)


def test_text_that_nobody_could_read_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="64 pixels wide at most 14 characters") as refused:
        marks.watermark_of(request(Watermark(text="Made by a machine")), MarkRules(), Size(64, 64))
    assert refused.value.nearest == "Made by a mach"


def test_the_operators_is_on_what_has_none_of_its_own() -> None:
    operators, own = Watermark(text="Studio"), Watermark(text="Mine")
    rules, size = MarkRules(watermark=operators), Size(480, 832)
    mark, choices = marks.watermark_of(request(), rules, size)
    assert mark == operators
    assert [(choice.name, choice.value) for choice in choices] == [("watermark", "Studio")]
    assert marks.watermark_of(request(own), rules, size) == (own, ())
    assert marks.watermark_of(request(Watermark()), rules, size) == (None, ())
    fixed = MarkRules(watermark=operators, is_watermark_fixed=True)
    for other in (own, Watermark()):
        with pytest.raises(InvalidParameter, match="a watermark of its own on every video"):
            marks.watermark_of(request(other), fixed, size)


def test_provenance_is_left_out_only_where_the_operator_allows_it() -> None:
    assert marks.is_signed(request(), MarkRules())
    assert not marks.is_signed(request(), MarkRules(signs=False))
    assert not marks.is_signed(request(provenance=False), MarkRules(is_signing_optional=True))
    assert not marks.is_signed(request(provenance=False), MarkRules(signs=False))
    with pytest.raises(InvalidParameter) as refused:
        marks.is_signed(request(provenance=False), MarkRules())
    assert refused.value.nearest is True
    with pytest.raises(InvalidParameter) as refused:
        marks.is_signed(request(provenance=True), MarkRules(signs=False))
    assert refused.value.nearest is False


def test_requests_and_plans_come_back_from_the_store() -> None:
    wanted = request(Watermark(text="a"), provenance=False)
    assert GenerationRequest.from_dict(wanted.to_dict()) == wanted
    assert GenerationRequest.from_dict(request().to_dict()).watermark is None


def test_an_operators_watermark_that_cannot_be_drawn_is_said() -> None:
    for bad in ({"text": "中"}, {"text": "a", "image": "b.png"}):
        with pytest.raises(SettingsError, match=r"setting `watermark\.(text|image)`"):
            _ = settings.load(home="/data", watermark=bad).mark_rules
    rules = settings.load(home="/data", watermark={"image": "b.png", "always": True}).mark_rules
    assert rules.watermark == Watermark(image=marks.OPERATORS_IMAGE)
    assert rules.is_watermark_fixed
