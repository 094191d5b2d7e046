"""Denoising: the only room that imports torch, diffusers and transformers.

Belongs here: loading checkpoints, running them step by step, choosing dtype and device, the noise schedulers by name.
Never here: jobs, files, HTTP, prompts' fate after the text encoder. Importing this package does not import torch; making
a diffusers engine does.

Shapes in this room: `B` batch, `C` latent channels, `T` latent frames, `H` `W` latent height and width, `L` text tokens,
`D` embedding width. Pixel video is uint8 `(num_frames, height, width, 3)`, RGB in [0, 255].
"""

from .contract import Clip, DeviceLost, Devices, Engine, Inputs, Sharing, open_engine
from .placement import Wishes
from .places import EngineBusy

__all__ = [
    "Clip",
    "DeviceLost",
    "Devices",
    "Engine",
    "EngineBusy",
    "Inputs",
    "Sharing",
    "Wishes",
    "open_engine",
]
