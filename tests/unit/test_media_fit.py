"""Frames come to the asked size and shape."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from vitascope import media
from vitascope.domain.sizes import Fit


def halves(height: int, width: int) -> media.Frame:
    """Red on the left, blue on the right."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[:, : width // 2, 0] = 220
    frame[:, width // 2 :, 2] = 220
    return frame


@pytest.mark.parametrize(("height", "width"), [(22, 16), (540, 960), (1080, 1920)])
def test_rounding_asks_for_no_pixel_outside_of_the_picture(height: int, width: int) -> None:
    """480 lines, scaled to these and back, are 480 and a hair."""
    result = media.fit_frame(halves(480, 832), height=height, width=width, fit="crop")
    assert result.shape == (height, width, 3)


@pytest.mark.parametrize("fit", ["scale", "crop", "pad"])
@pytest.mark.parametrize(("height", "width"), [(90, 160), (160, 90), (31, 17), (720, 1280)])
def test_result_has_exactly_the_asked_size(fit: Fit, height: int, width: int) -> None:
    result = media.fit_frame(halves(64, 64), height=height, width=width, fit=fit)
    assert (result.shape, result.dtype) == ((height, width, 3), np.uint8)


@pytest.mark.parametrize("fit", ["none", "scale", "crop", "pad"])
def test_the_right_size_is_left_alone(fit: Fit) -> None:
    frame = halves(64, 64)
    assert media.fit_frame(frame, height=64, width=64, fit=fit) is frame


def test_none_refuses_another_size() -> None:
    with pytest.raises(ValueError, match="64x32"):
        media.fit_frame(halves(32, 64), height=64, width=64, fit="none")


def test_crop_cuts_equal_parts_and_keeps_the_shape() -> None:
    frame = np.zeros((60, 120, 3), np.uint8)
    frame[20:40, 50:70] = 255  # a square in the middle
    result = media.fit_frame(frame, height=120, width=120, fit="crop")
    rows, columns = np.nonzero(result[..., 0] > 127)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (40, 79, 40, 79)


def test_pad_shows_the_whole_picture_on_a_darker_blur_of_itself() -> None:
    frame = halves(64, 64)
    result = media.fit_frame(frame, height=64, width=128, fit="pad")
    assert np.array_equal(result[:, 32:96], frame)
    left, right = result[:, :32].mean(axis=(0, 1)), result[:, 96:].mean(axis=(0, 1))
    assert 60 < left[0] < 180 and left[2] < 20  # red, and darker
    assert 60 < right[2] < 180 and right[0] < 20
    edges = np.abs(np.diff(result[:, :32].astype(int), axis=1)).max()
    assert edges <= 8  # nothing sharp in the border


def test_frames_are_fitted_one_at_a_time() -> None:
    taken = []

    def frames() -> Iterator[media.Frame]:
        for index in range(3):
            taken.append(index)
            yield halves(16, 16)

    fitted = media.fit_frames(frames(), height=32, width=32, fit="scale")
    assert taken == []
    next(fitted)
    assert taken == [0]
