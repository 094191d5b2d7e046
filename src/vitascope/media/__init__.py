"""Frames become files, and files become frames.

Belongs here: writing, reading, measuring and reshaping pictures and videos, with PyAV, Pillow and numpy.
Never here: jobs, models, settings, HTTP, where finished files are kept.

What strangers send is opened in a process of its own (`opener`). Names are imported when they are used: a process that
opens nothing itself, as the web process, loads neither FFmpeg nor Pillow.

Frames are `uint8` RGB arrays in sRGB: one frame is `(height, width, 3)`, a clip is `(num_frames, height, width, 3)`.
What works frame by frame takes and gives iterators, so that a long video at its full size is never in memory:

    small = media.resample_frames(clip, from_fps=8, to_fps=24, num_frames=97)
    large = media.fit_frames(small, height=720, width=1280, fit="crop")
    media.write_video(large, path, fps=24, format="mp4")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .fit import fit_frame, fit_frames
    from .frames import Frame, Frames
    from .image import contact_sheet, image_to_png, save_image
    from .measure import VideoInfo, probe, read_frames
    from .opened import Picture, SentVideo, ShownPicture
    from .opener import MAX_IMAGE_PIXELS, MAX_VIDEO_PIXELS, Limits, Opener
    from .reading import (
        measure_video,
        open_picture,
        picture_of_video,
        read_image,
        read_overlay,
        read_video,
        stream_video,
    )
    from .resample import resample_frames
    from .stills import Stills
    from .target import check_target
    from .verifier import verify
    from .watermark import draw_watermark
    from .write import write_video

_MODULES = {
    "fit": ("fit_frame", "fit_frames"),
    "frames": ("Frame", "Frames"),
    "image": ("contact_sheet", "image_to_png", "save_image"),
    "opened": ("Picture", "SentVideo", "ShownPicture"),
    "opener": ("MAX_IMAGE_PIXELS", "MAX_VIDEO_PIXELS", "Limits", "Opener"),
    "reading": (
        "measure_video",
        "open_picture",
        "picture_of_video",
        "read_image",
        "read_overlay",
        "read_video",
        "stream_video",
    ),
    "measure": ("VideoInfo", "probe", "read_frames"),
    "resample": ("resample_frames",),
    "stills": ("Stills",),
    "target": ("check_target",),
    "verifier": ("verify",),
    "watermark": ("draw_watermark",),
    "write": ("write_video",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "MAX_IMAGE_PIXELS",
    "MAX_VIDEO_PIXELS",
    "Frame",
    "Frames",
    "Limits",
    "Opener",
    "Picture",
    "SentVideo",
    "ShownPicture",
    "Stills",
    "VideoInfo",
    "check_target",
    "contact_sheet",
    "draw_watermark",
    "fit_frame",
    "fit_frames",
    "image_to_png",
    "measure_video",
    "open_picture",
    "picture_of_video",
    "probe",
    "read_frames",
    "read_image",
    "read_overlay",
    "read_video",
    "resample_frames",
    "save_image",
    "stream_video",
    "verify",
    "write_video",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value
