"""Opens damaged files one after the other, as the server does, and counts what comes of them."""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from dataclasses import dataclass, field

from vitascope import media
from vitascope.domain.errors import UnreadableImage, UnreadableVideo
from vitascope.media.signature import video_kind

from .files import mutated, valid_files, valid_videos

SIZE = (48, 64)

#: What an error must never hold: addresses, paths, names from inside a program, tracebacks.
TELLTALE = re.compile(r"0x[0-9a-fA-F]{3,}|/\w+/|\\x|Traceback|Error|PIL|libav|<[\w.]+ (object|at) |\n")


@dataclass
class Outcome:
    """What came of the files."""

    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    #: Errors that tell more than they should, or that are none of ours, with the number of the file.
    bad: list[str] = field(default_factory=list)
    started: int = 0
    slowest_seconds: float = 0.0
    slowest: str = ""

    def lines(self) -> list[str]:
        reasons = [f"  {count:6d}  {reason}" for reason, count in self.refused.most_common()]
        total = self.accepted + self.refused.total()
        return [
            f"files {total}: read {self.accepted}, refused {self.refused.total()}, bad {len(self.bad)}",
            *reasons,
            f"opening processes started: {self.started} (one is the least)",
            f"slowest: {self.slowest_seconds * 1000:.0f} ms ({self.slowest})",
            *self.bad,
        ]


def run(num_files: int, seed: int) -> Outcome:
    """Open `num_files` damaged files; the same seed makes the same files."""
    outcome = Outcome()
    sources = {**valid_files(), **valid_videos()}
    names, contents = list(sources), list(sources.values())
    opener = media.Opener(media.Limits(processes=1))
    try:
        opener.open_picture(contents[0])  # so that the slowest is not the one that waited for the process
        for index in range(num_files):
            dice = random.Random(f"{seed}/{index}")
            which = dice.randrange(len(names))
            content = mutated(contents[which], contents, dice)
            _try(opener, content, f"file {index}, {names[which]}", outcome)
        outcome.started = opener.started
    finally:
        opener.close()
    return outcome


def _try(opener: media.Opener, content: bytes, name: str, outcome: Outcome) -> None:
    started = time.perf_counter()
    try:
        pictures = _opened(opener, content)
    except (UnreadableImage, UnreadableVideo) as error:
        reason = re.sub(r"\d+x\d+", "WxH", error.message)
        outcome.refused[reason] += 1
        if TELLTALE.search(error.message) or error.__context__ is not None:
            outcome.bad.append(f"{name}: {error.message!r}")
    else:
        outcome.accepted += 1
        if any(
            (one.height, one.width, len(one.pixels)) != (*SIZE, 3 * SIZE[0] * SIZE[1]) for one in pictures
        ):
            outcome.bad.append(f"{name}: not of the size that was asked for")
    seconds = time.perf_counter() - started
    if seconds > outcome.slowest_seconds:
        outcome.slowest_seconds, outcome.slowest = seconds, name


def _opened(opener: media.Opener, content: bytes) -> list[media.Picture]:
    if video_kind(content) is None:
        return [opener.open_picture(content, size=SIZE)]
    return [one.picture for one in opener.open_video(content, size=SIZE, max_frames=50, max_seconds=60)]
