"""What a person sees: progress, errors, log lines. All on stderr; stdout is for data."""

from __future__ import annotations

import logging
import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from vitascope.domain.errors import VitascopeError
from vitascope.domain.step import Step, percent

STAGE_WORDS = {
    "check_inputs": "looking at what was sent",
    "enhance_prompt": "writing the prompt out",
    "load": "loading the model",
    "encode_prompt": "reading the prompt",
    "denoise": "denoising",
    "decode_latents": "decoding frames",
    "check_frames": "looking at the frames",
    "resample": "converting the frame rate",
    "write_video": "writing the file",
    "store": "storing",
}

stderr = Console(stderr=True, highlight=False)


def print_error(error: VitascopeError) -> None:
    """Print one clear line, and a hint on a second one where there is a hint."""
    stderr.print(Text.assemble(("error:", "bold red"), " ", printable(error.message)), soft_wrap=True)
    if error.hint:
        stderr.print(Text.assemble(("hint:", "bold"), " ", printable(error.hint)), soft_wrap=True)


def printable(text: str) -> str:
    """Take control characters, which a terminal would obey, out of user-given text."""
    return "".join(c if c.isprintable() else "?" for c in text)


class ProgressLine:
    """Shows steps: a bar with stage and time left on a terminal, else a line for each that says something new; nothing when quiet."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: Progress | None = None
        self._last: Step | None = None
        self._said = ""
        self._started_at = time.monotonic()

    def __enter__(self) -> ProgressLine:
        if not self._quiet and stderr.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("{task.fields[steps]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=stderr,
                transient=True,
            )
            self._task = self._bar.add_task("starting", total=100, steps="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, step: Step) -> None:
        if self._quiet or step == self._last:
            return
        self._last = step
        words = STAGE_WORDS.get(step.stage, step.stage)
        steps = f"step {step.index}/{step.of}" if step.stage == "denoise" else ""
        if step.num_videos > 1:
            words = f"video {step.video + 1}/{step.num_videos}, {words}"
        if self._bar is not None:
            self._bar.update(self._task, description=words, completed=percent(step), steps=steps)
        elif step.index < step.of or step.stage == "denoise":
            self._say(f"{percent(step):3d}% {words} {steps}".rstrip())

    def _say(self, line: str) -> None:
        if line == self._said:  # a file's frames are steps too, far more than there are percents for them
            return
        self._said = line
        sys.stderr.write(f"{time.monotonic() - self._started_at:6.1f}s {line}\n")
        sys.stderr.flush()


class _KeyValueFormatter(logging.Formatter):
    """One line a record: time, level, logger, sentence, then its extra fields as key=value."""

    _standard = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}

    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{k}={v}" for k, v in vars(record).items() if k not in self._standard)
        line = super().format(record)
        head, newline, rest = line.partition("\n")
        return f"{head} {fields}".rstrip() + newline + rest


def configure_logging(name: str = "info") -> None:
    """Send log records to stderr, one line each, from the level of that name on.

    What other packages would tell of prompts, keys and links is held back, whatever the level.
    """
    level = logging.getLevelNamesMapping()[name.upper()]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_KeyValueFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for chatty in ("alembic", "uvicorn"):  # what they say at INFO is said once, by us
        logging.getLogger(chatty).setLevel(max(level, logging.WARNING))
    # whole URLs, and headers
    for talkative in ("httpx", "httpcore"):
        logging.getLogger(talkative).setLevel(max(level, logging.WARNING))
    # statements, whose parameters the store hides; one level below it would show the rows that were found
    statements = logging.INFO if level == logging.DEBUG else logging.WARNING
    logging.getLogger("sqlalchemy").setLevel(max(level, statements))
