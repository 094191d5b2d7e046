"""What the options of `vitascope generate` mean, and what is wrong with them, before the model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from vitascope.domain.errors import InvalidParameter, UnreadableImage
from vitascope.domain.request import (
    OUTPUT_FORMATS,
    ImprovedSampling,
    Lora,
    OutputFormat,
    Position,
    Upscale,
    Watermark,
    num_frames_for,
)

if TYPE_CHECKING:
    from vitascope.media import SentVideo

Format = Literal["mp4", "gif"]


def measured_video(option: str, path: str) -> SentVideo:
    from vitascope.service import inputs

    try:
        content = Path(path).read_bytes()
    except OSError:
        rule = "it cannot be used: there is no such file, or it may not be read"
        raise InvalidParameter(option, path, rule) from None
    try:
        return inputs.measured(content)
    except InvalidParameter as error:
        raise InvalidParameter(option, path, error.rule, hint=error.hint) from None


def checked_image(option: str, path: Path | None) -> str | None:
    """Check a picture before the model is loaded."""
    if path is None:
        return None
    from vitascope import media

    try:
        media.read_image(path)
    except UnreadableImage as error:
        raise InvalidParameter(
            option, str(path), f"it cannot be used: {error.message}", hint=error.hint
        ) from None
    return str(path)


def checked_watermark(
    text: str | None, image: Path | None, position: str, opacity: float
) -> Watermark | None:
    """Check a watermark before the model is loaded; an empty text asks for none."""
    if text is None and image is None:
        return None
    mark = Watermark(
        text=text or None,
        image=None if image is None else str(image),
        position=cast(Position, position),  # an illegal one is refused by the plan
        opacity=opacity,
    )
    if image is not None:
        from vitascope import media

        try:
            media.read_overlay(image)
        except UnreadableImage as error:
            rule = f"it cannot be used: {error.message}"
            raise InvalidParameter("--watermark-image", str(image), rule, hint=error.hint) from None
    return mark


def upscale_of(asked: Upscale, *, is_asked: bool) -> Upscale | None:
    """Any of its options asks for the second pass."""
    return asked if is_asked or asked != Upscale() else None


def improved_sampling_of(is_asked: bool, seed: int | None) -> ImprovedSampling | None:
    """Its seed asks for it too."""
    return ImprovedSampling(seed=seed) if is_asked or seed is not None else None


def lora_of(text: str) -> Lora:
    """Read NAME or NAME:SCALE."""
    name, colon, scale = text.rpartition(":")
    if not colon:
        return Lora(text)
    try:
        return Lora(name, float(scale))
    except ValueError:
        raise InvalidParameter("--lora", text, "what follows the colon must be a number") from None


def num_frames_of(seconds: float | None, num_frames: int | None, fps: int) -> int | None:
    if seconds is None:
        return num_frames
    if num_frames is not None:
        raise InvalidParameter(
            "--seconds", seconds, "--num-frames is given too", hint="leave one of them out"
        )
    if not seconds > 0:
        raise InvalidParameter("--seconds", seconds, "it must be above 0", nearest=1)
    return num_frames_for(min(seconds, 1e6), fps)  # what is too long is refused by the plan


def format_of(out: Path | None, asked: Format | None) -> OutputFormat:
    suffix = out.suffix.lower().lstrip(".") if out else ""
    if asked is not None and suffix in ("", asked):
        return asked
    if asked is not None:
        raise InvalidParameter("--format", asked, f"--out ends in .{suffix}", hint="leave one of them out")
    if not suffix:
        return "mp4"
    if suffix not in OUTPUT_FORMATS:
        rule = f"its name must end in {' or '.join('.' + name for name in OUTPUT_FORMATS)}"
        raise InvalidParameter("--out", str(out), rule, hint="or say --format")
    return suffix
