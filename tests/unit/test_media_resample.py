"""Another frame rate shows the same motion at the same speed."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from vitascope import media

SPEED = 3.0  # pixels per frame of the clip


def clip_of_square(num_frames: int = 8, height: int = 48, width: int = 80) -> media.Frames:
    clip = np.full((num_frames, height, width, 3), 40, np.uint8)
    texture = (150 + 60 * np.sin(np.arange(20) / 3)).astype(np.uint8)
    for index in range(num_frames):
        left = round(6 + SPEED * index)
        clip[index, 14:34, left : left + 20] = np.minimum.outer(texture, texture)[..., None]
    return clip


def centre(frame: media.Frame) -> float:
    """Where the square is: the mean column of what differs from the background."""
    weight = np.clip(frame.astype(float).mean(axis=2) - 50, 0, None).sum(axis=0)
    return float((weight * np.arange(len(weight))).sum() / weight.sum())


def resample(clip: media.Frames, from_fps: int, to_fps: int, num_frames: int) -> media.Frames:
    return np.stack(
        list(media.resample_frames(clip, from_fps=from_fps, to_fps=to_fps, num_frames=num_frames))
    )


@pytest.mark.parametrize(("from_fps", "to_fps"), [(8, 24), (8, 12), (16, 24), (24, 25)])
def test_upwards_each_frame_is_at_its_own_time(from_fps: int, to_fps: int) -> None:
    clip = clip_of_square()
    num_frames = 7 * to_fps // from_fps + 1
    result = resample(clip, from_fps, to_fps, num_frames)
    start = centre(clip[0])
    expected = [start + SPEED * index * from_fps / to_fps for index in range(num_frames)]
    assert [centre(frame) for frame in result] == pytest.approx(expected, abs=0.8)
    assert len(result) == num_frames


def test_frames_that_meet_the_new_rate_are_unchanged() -> None:
    clip = clip_of_square()
    result = resample(clip, 8, 24, 22)
    assert np.array_equal(result[::3], clip)


def test_motion_compensation_is_sharper_than_blending() -> None:
    clip = clip_of_square(9)
    half = resample(clip[::2], 4, 8, 9)
    blended = (clip[2].astype(int) + clip[4]) / 2
    assert np.abs(half[3].astype(int) - clip[3]).mean() < 0.5 * np.abs(blended - clip[3]).mean()


def test_the_same_clip_gives_the_same_frames() -> None:
    clip = clip_of_square(4)
    assert np.array_equal(resample(clip, 8, 24, 12), resample(clip, 8, 24, 12))


def test_equal_rates_take_the_first_frames_and_repeat_the_last() -> None:
    clip = clip_of_square(4)
    assert np.array_equal(resample(clip, 8, 8, 3), clip[:3])
    assert np.array_equal(resample(clip, 8, 8, 6), clip[[0, 1, 2, 3, 3, 3]])


def test_downwards_takes_the_nearest() -> None:
    clip = clip_of_square(7)
    assert np.array_equal(resample(clip, 24, 8, 3), clip[[0, 3, 6]])
    assert np.array_equal(resample(clip, 24, 16, 4), clip[[0, 2, 3, 5]])


def test_beyond_the_end_the_last_frame_is_repeated() -> None:
    clip = clip_of_square(3)
    result = resample(clip, 8, 12, 9)
    assert len(result) == 9
    assert np.array_equal(result[3], clip[2])
    assert all(np.array_equal(frame, clip[2]) for frame in result[3:])


@pytest.mark.parametrize("shape", [(1, 16, 16, 3), (2, 16, 30, 3), (2, 6, 10, 3), (3, 50, 34, 3)])
def test_any_size_and_length_can_be_resampled(shape: tuple[int, ...]) -> None:
    clip = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert resample(clip, 8, 24, 3 * shape[0]).shape == (3 * shape[0], *shape[1:])


def test_frames_between_can_be_blended_or_repeated() -> None:
    clip = clip_of_square(4)
    blended, repeated = (
        np.stack(list(media.resample_frames(clip, from_fps=8, to_fps=16, num_frames=7, between=between)))
        for between in ("blend", "repeat")
    )
    assert np.array_equal(blended[::2], clip)
    assert np.abs(blended[1] - (clip[0].astype(int) + clip[1]) / 2).mean() < 1
    assert np.array_equal(repeated, clip[[0, 1, 1, 2, 2, 3, 3]])


def test_a_clip_is_spread_over_a_time_that_is_not_its_own() -> None:
    """A video that ends with a given picture shows all frames of the model in the asked time."""
    clip = clip_of_square(9)
    rate = Fraction(8 * 24, 20)  # nine frames over 21
    result = np.stack(list(media.resample_frames(clip, from_fps=rate, to_fps=24, num_frames=21)))
    assert np.array_equal(result[0], clip[0])
    assert np.array_equal(result[-1], clip[-1])
    centres = [centre(frame) for frame in result]
    assert centres == pytest.approx(np.linspace(centres[0], centres[-1], 21), abs=0.8)
