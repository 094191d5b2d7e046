"""Makes docs/images/pocket.jpg: one row per clip, as `vitascope generate` wrote it. `python docs/sheet.py FOLDER`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from vitascope import media

PROMPTS = (
    "a dog walks along the beach",
    "a red balloon floats up at sunset",
    "a car drives to the right in the snow",
    "a butterfly flies to the left over a meadow",
    "a rocket flies up at night",
    "a fish swims to the left in the sea",
)
SEED = 1
COLUMNS = 6


def main(folder: Path) -> None:
    """Generate what is missing in `folder` and put frames side by side."""
    rows = []
    for number, prompt in enumerate(PROMPTS):
        clip = folder / f"{number}.mp4"
        if not clip.exists():
            command = ["vitascope", "generate", prompt, "--seed", str(SEED), "--out", str(clip), "--quiet"]
            subprocess.run(command, check=True)
        frames = media.read_frames(clip)
        rows.extend(frames[np.linspace(0, len(frames) - 1, COLUMNS).round().astype(int)])
    sheet = media.contact_sheet(np.stack(rows), columns=COLUMNS)
    Image.fromarray(sheet).save(Path(__file__).parent / "images" / "pocket.jpg", quality=88)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
