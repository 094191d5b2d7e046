"""Frames become files, and files become frames.

Belongs here: writing, reading, measuring and reshaping pictures and videos, with PyAV, Pillow and numpy.
Never here: jobs, models, settings, HTTP, where finished files are kept.

Frames are `uint8` RGB arrays in sRGB: one frame is `(height, width, 3)`, a clip is `(num_frames, height, width, 3)`.
What works frame by frame takes and gives iterators, so that a long video at its full size is never in memory:

    small = media.resample_frames(clip, from_fps=8, to_fps=24, num_frames=97)
    large = media.fit_frames(small, height=720, width=1280, fit="crop")
    media.write_video(large, path, fps=24, format="mp4")
"""

from .fit import fit_frame, fit_frames
from .frames import Frame, Frames
from .image import MAX_IMAGE_PIXELS, contact_sheet, image_to_png, read_image, save_image
from .probe import VideoInfo, probe, read_frames
from .resample import resample_frames
from .target import check_target
from .write import write_video

__all__ = [
    "MAX_IMAGE_PIXELS",
    "Frame",
    "Frames",
    "VideoInfo",
    "check_target",
    "contact_sheet",
    "fit_frame",
    "fit_frames",
    "image_to_png",
    "probe",
    "read_frames",
    "read_image",
    "resample_frames",
    "save_image",
    "write_video",
]
