"""What a user would write with diffusers and its defaults: `python plain.py REQUEST.json`. Imports nothing of Vitascope.

float32, torch's own threads, the same windows as Vitascope plans: the second one starts from the last frame of the first.
Frames are resized one by one. The file is written by diffusers' `export_to_video` where imageio is installed, else with PyAV
and the encoder's defaults, which is quicker than starting a process for it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

started_at = time.perf_counter()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from diffusers import WanImageToVideoPipeline, WanPipeline  # noqa: E402
from diffusers.utils import export_to_video  # noqa: E402
from diffusers.utils.import_utils import is_imageio_available  # noqa: E402
from PIL import Image  # noqa: E402


def main() -> None:
    asked = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    seconds = {"import": time.perf_counter() - started_at}
    begun = time.perf_counter()
    pipe = WanPipeline.from_pretrained(asked["folder"])
    pipe.set_progress_bar_config(disable=True)
    seconds["load"] = time.perf_counter() - begun
    begun = time.perf_counter()
    frames = _frames(pipe, asked)
    seconds["generate"] = time.perf_counter() - begun
    begun = time.perf_counter()
    size = (asked["width"], asked["height"])
    resized = [Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS) for frame in frames]
    if is_imageio_available():
        export_to_video(resized, asked["out"], fps=asked["fps"])
    else:
        _write(resized, asked)
    seconds["write"] = time.perf_counter() - begun
    print(json.dumps(seconds))


def _frames(pipe: Any, asked: dict[str, Any]) -> np.ndarray[Any, Any]:
    generator = torch.Generator("cpu").manual_seed(asked["seed"])
    done: np.ndarray[Any, Any] | None = None
    for num_frames in asked["windows"]:
        given = {name: asked[name] for name in ("prompt", "num_inference_steps", "guidance_scale")}
        given |= {"height": asked["native_height"], "width": asked["native_width"], "num_frames": num_frames}
        given |= {"max_sequence_length": asked["max_sequence_length"]}
        if done is not None:
            pipe = WanImageToVideoPipeline.from_pipe(pipe)
            given["image"] = Image.fromarray(done[-1])
        made = pipe(**given, generator=generator, output_type="np").frames[0]
        made = np.round(made * 255).clip(0, 255).astype(np.uint8)
        done = made if done is None else np.concatenate([done, made[1:]])
    assert done is not None
    return done


def _write(frames: list[Image.Image], asked: dict[str, Any]) -> None:
    import av

    with av.open(asked["out"], "w") as container:
        stream = container.add_stream("libx264", rate=asked["fps"])
        stream.width, stream.height, stream.pix_fmt = asked["width"], asked["height"], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(frame), format="rgb24")))
        container.mux(stream.encode(None))


if __name__ == "__main__":
    main()
