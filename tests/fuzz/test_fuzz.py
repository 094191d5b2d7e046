"""Damaged files and bombs on the way in; `python -m bench.fuzz` is the long form."""

from __future__ import annotations

import pytest

from bench.fuzz import files
from bench.fuzz.run import run
from vitascope import media
from vitascope.domain.errors import UnreadableImage


def test_damaged_files_are_read_or_refused_in_one_clean_sentence() -> None:
    outcome = run(300, seed=20261121)
    assert outcome.bad == []
    assert outcome.started == 1, "no file takes the opening process down"
    assert outcome.accepted + outcome.refused.total() == 300
    assert outcome.accepted > 30, "too damaged to try the decoders"


def test_the_files_are_the_same_each_time() -> None:
    assert files.valid_files() == files.valid_files()


@pytest.mark.parametrize("name", files.valid_files())
def test_undamaged_files_are_read(name: str) -> None:
    assert len(media.open_picture(files.valid_files()[name], size=(16, 24)).pixels) == 3 * 16 * 24


@pytest.mark.parametrize("name", files.bombs())
def test_bombs_are_refused_or_defused(name: str) -> None:
    """With half of the usual memory, so that nothing is inflated that need not be."""
    content, reason = files.bombs()[name]
    opener = media.Opener(media.Limits(memory_bytes=640 << 20))
    try:
        if reason:
            with pytest.raises(UnreadableImage, match=reason):
                opener.open_picture(content, size=(16, 24))
        else:
            assert opener.open_picture(content, size=(16, 24)).height == 16
    finally:
        opener.close()
