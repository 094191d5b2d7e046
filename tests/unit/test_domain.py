"""Errors, steps and jobs: the small shared pieces."""

from __future__ import annotations

import itertools

import pytest

from vitascope.domain import errors
from vitascope.domain.errors import InvalidParameter, shorten
from vitascope.domain.job import TERMINAL, TRANSITIONS, JobStatus
from vitascope.domain.step import STAGE_STARTS, Step, percent


def _leaves(cls: type[errors.VitascopeError]) -> list[type[errors.VitascopeError]]:
    return [cls, *itertools.chain.from_iterable(_leaves(sub) for sub in cls.__subclasses__())]


def test_error_codes_are_unique_and_drawn_in_the_tree() -> None:
    classes = _leaves(errors.VitascopeError)
    codes = [cls.code for cls in classes]
    assert len(set(codes)) == len(codes)
    assert errors.QueueFull.code == "queue_full"
    for cls in classes:
        assert cls.__name__ in (errors.__doc__ or ""), f"{cls.__name__} is missing in the module's tree"


def test_an_error_without_words_says_its_docstring() -> None:
    assert errors.JobNotFound().message == "There is no such job."


def test_progress_never_falls_over_the_stages() -> None:
    steps = [Step(stage, index, of) for stage in STAGE_STARTS for of in (7,) for index in range(of + 1)]
    percents = [percent(step) for step in steps]
    assert percents == sorted(percents)
    assert percents[0] == 0
    assert percents[-1] == 99, "100 is for a file that can be fetched"


@pytest.mark.parametrize("num_videos", [2, 3, 10])
def test_progress_never_falls_over_several_videos(num_videos: int) -> None:
    steps = [
        Step(stage, index, 7, video=video, num_videos=num_videos)
        for video in range(num_videos)
        for stage in STAGE_STARTS
        if stage != "store"
        for index in range(8)
    ]
    percents = [percent(step) for step in [*steps, Step("store")]]
    assert percents == sorted(percents)
    assert (percents[0], percents[-1]) == (0, 98)
    starts = [percent(Step("load", video=video, num_videos=num_videos)) for video in range(num_videos)]
    assert starts == [98 * video // num_videos for video in range(num_videos)], "each has an equal share"


def test_percent_counts_denoising_steps() -> None:
    rising = [percent(Step("denoise", index, 12)) for index in range(13)]
    assert len(set(rising)) == 13


@pytest.mark.parametrize("status", JobStatus)
def test_nothing_leaves_a_terminal_status(status: JobStatus) -> None:
    ways_out = [new for old, new in TRANSITIONS if old == status]
    assert (not ways_out) == (status in TERMINAL) == status.is_terminal


def test_a_long_text_is_cut_before_it_is_quoted() -> None:
    """Quoting 32 MB held the event loop for 0.4 s."""

    class Long(str):
        __slots__ = ()

        def __repr__(self) -> str:
            raise AssertionError

    assert shorten(Long("a" * 100)) == "'" + "a" * 58 + "…"
    assert [shorten("a" * length) for length in (58, 59)] == ["'" + "a" * 58 + "'", "'" + "a" * 58 + "…"]


@pytest.mark.parametrize(
    ("value", "shown"), [("missing", "missing"), ("given", "given"), ("lost", "'lost'"), (7, "7")]
)
def test_a_refusal_quotes_what_was_sent_and_nothing_else(value: object, shown: str) -> None:
    assert (
        InvalidParameter("size", value, "it must be text").message
        == f"`size` is {shown}, but it must be text."
    )
