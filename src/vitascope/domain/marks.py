"""How a file is marked as made by a machine: a signed statement of its origin, and a watermark that can be seen."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import get_args

from .choice import Choice
from .errors import InvalidParameter
from .model_spec import Size
from .request import GenerationRequest, Position, Watermark

POSITIONS: tuple[Position, ...] = get_args(Position)

MAX_TEXT_CHARS = 100
MIN_OPACITY = 0.05
"""Below it nobody sees a watermark."""

OPERATORS_IMAGE = "operator"
"""Instead of a key: the picture that each worker's own settings name."""

MIN_FONT_PIXELS = 8
"""Height of text; below it nothing can be read."""
_CHAR_WIDTH = 0.56
"""Mean width of a letter by the text's height."""

_RANGES = (
    (0x20, 0x7E), (0xA0, 0xAC), (0xAE, 0x24F), (0x370, 0x373), (0x376, 0x377), (0x37B, 0x37D), (0x37F, 0x37F),
    (0x384, 0x38A), (0x38C, 0x38C), (0x38E, 0x3A1), (0x3A3, 0x482), (0x48A, 0x525), (0x1E00, 0x1EFB),
    (0x2010, 0x2027), (0x2030, 0x205E), (0x20A0, 0x20B5), (0x20B8, 0x20BA), (0x20BD, 0x20BD), (0x2100, 0x2109),
    (0x210B, 0x2149), (0x214B, 0x214B), (0x214E, 0x214E), (0x2150, 0x2185), (0x2189, 0x2189), (0x2190, 0x21FF),
    (0x2605, 0x2606),
)  # fmt: skip
"""What `media/fonts` has: Latin, Greek and Cyrillic letters, punctuation, signs, arrows. A test compares it with the font."""
_CHARACTERS = frozenset(chr(code) for first, last in _RANGES for code in range(first, last + 1))


@dataclass(frozen=True, slots=True)
class MarkRules:
    """What the operator wants of all files."""

    #: Files are signed.
    signs: bool = True
    #: Requests may leave that out.
    is_signing_optional: bool = False
    #: On each video whose request has none of its own.
    watermark: Watermark | None = None
    #: No request may have another, or none.
    is_watermark_fixed: bool = False


def is_signed(request: GenerationRequest, rules: MarkRules) -> bool:
    """Whether the file says what it is.

    Raises:
        InvalidParameter: the request wants what the operator does not.
    """
    if request.provenance is None:
        return rules.signs
    if request.provenance and not rules.signs:
        raise InvalidParameter("provenance", request.provenance, "this server signs no videos", nearest=False)
    if not request.provenance and rules.signs and not rules.is_signing_optional:
        rule = "every video of this server says that it was made by a machine"
        raise InvalidParameter("provenance", request.provenance, rule, nearest=True)
    return request.provenance


def watermark_of(
    request: GenerationRequest, rules: MarkRules, size: Size
) -> tuple[Watermark | None, tuple[Choice, ...]]:
    """What is drawn on each frame: the request's own, else the operator's.

    Raises:
        InvalidParameter: it cannot be drawn, or the operator's may not be replaced.
    """
    own = request.watermark
    if own is not None and rules.watermark is not None and rules.is_watermark_fixed:
        rule = "this server puts a watermark of its own on every video"
        raise InvalidParameter("watermark", "given", rule, hint="leave it out")
    if own is not None:
        checked = check_watermark(own)
        return (None, ()) if checked is None else (_fitting(checked, size, "watermark.text"), ())
    if rules.watermark is None:
        return None, ()
    chosen = "a picture" if rules.watermark.text is None else rules.watermark.text
    # what is too long for a small video is drawn as large as it fits: who asked for the video cannot change it
    return rules.watermark, (Choice("watermark", chosen, "the operator of this server wants it"),)


def check_watermark(mark: Watermark, prefix: str = "watermark") -> Watermark | None:
    """Return a watermark that can be drawn; None if it is an empty one.

    Raises:
        InvalidParameter: it cannot be drawn.
    """
    if mark.text is not None and mark.image is not None:
        raise InvalidParameter(
            f"{prefix}.image", "given", "`text` is given too", hint="leave one of them out"
        )
    if mark.position not in POSITIONS:
        near = difflib.get_close_matches(mark.position.replace("_", "-").lower(), POSITIONS, n=1, cutoff=0.0)
        rule = f"it must be one of {', '.join(POSITIONS)}"
        raise InvalidParameter(f"{prefix}.position", mark.position, rule, nearest=near[0])
    if not MIN_OPACITY <= mark.opacity <= 1:
        nearest = MIN_OPACITY if mark.opacity < MIN_OPACITY else 1
        rule = f"it must be from {MIN_OPACITY} to 1 (opaque)"
        raise InvalidParameter(f"{prefix}.opacity", mark.opacity, rule, nearest=nearest)
    if mark.text is not None:
        _check_text(mark.text, f"{prefix}.text")
    return mark if mark.text is not None or mark.image is not None else None


def _check_text(text: str, name: str) -> None:
    if not text.strip():
        raise InvalidParameter(name, text, "it must hold something that can be seen")
    if len(text) > MAX_TEXT_CHARS:
        rule = f"it must have at most {MAX_TEXT_CHARS} characters"
        raise InvalidParameter(name, f"{len(text)} characters long", rule, nearest=text[:MAX_TEXT_CHARS])
    if missing := sorted(set(text) - _CHARACTERS):
        shown = " ".join(ascii(each)[1:-1] if not each.isprintable() else each for each in missing[:5])
        rule = f"the font has no `{shown}`: it has Latin, Greek and Cyrillic letters and some signs"
        raise InvalidParameter(name, text, rule, hint="send a picture with the text instead")


def _fitting(mark: Watermark, size: Size, name: str) -> Watermark:
    if mark.text is None:
        return mark
    most = math.floor(size.width / (MIN_FONT_PIXELS * _CHAR_WIDTH))
    if len(mark.text) > most:
        rule = f"on a video {size.width} pixels wide at most {most} characters can be read"
        raise InvalidParameter(name, mark.text, rule, nearest=mark.text[:most].rstrip())
    return mark
