"""What the command line shows of its work."""

from __future__ import annotations

import pytest

from vitascope.cli._terminal import ProgressLine
from vitascope.domain.step import Step


def test_elsewhere_than_on_a_terminal_no_line_says_the_same_as_the_one_before(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with ProgressLine(quiet=False) as line:
        for index in (1, 2):
            line.show(Step("denoise", index, 2))
        for index in range(96):
            line.show(Step("write_video", index, 96))
    said = [text.split("s ", 1)[1].strip() for text in capsys.readouterr().err.splitlines()]
    assert said == [
        "46% denoising step 1/2",
        "90% denoising step 2/2",
        "96% writing the file",
        "97% writing the file",
    ]
