"""Makes the pictures of the embedded model, of clips as `vitascope generate` wrote them: `python docs/sheet.py FOLDER`.

docs/images/pocket.jpg has one row per clip, docs/images/pocket.webp three of them side by side as they move.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from vitascope import media

PROMPTS = (
    "a dog walks along the beach",
    "a robot floats up in space",
    "a panda jumps in the snow",
    "a red balloon floats up at sunset",
    "a bus drives to the right in the city",
    "a penguin walks to the left in the forest",
    "a fish swims to the left in the sea",
    "a ghost flies to the left at night",
)
SEED = 1
COLUMNS = 6
MOVING = 3
"""How many clips of the list move side by side."""
FPS = 8


def main(folder: Path) -> None:
    """Generate what is missing in `folder`, put frames side by side, and let the first three move."""
    images = Path(__file__).parent / "images"
    clips = [_frames(folder / f"{number}.mp4", prompt) for number, prompt in enumerate(PROMPTS)]
    rows = [clip[np.linspace(0, len(clip) - 1, COLUMNS).round().astype(int)] for clip in clips]
    sheet = media.contact_sheet(np.concatenate(rows), columns=COLUMNS)
    Image.fromarray(sheet).save(images / "pocket.jpg", quality=88)
    length = min(len(clip) for clip in clips[:MOVING])
    moving = [Image.fromarray(np.concatenate([clip[k] for clip in clips[:MOVING]], 1)) for k in range(length)]
    first, *others = moving
    first.save(
        images / "pocket.webp", save_all=True, append_images=others, duration=1000 // FPS, loop=0, quality=70
    )


def _frames(clip: Path, prompt: str) -> np.ndarray:
    if not clip.exists():
        command = ["vitascope", "generate", prompt, "--seed", str(SEED), "--out", str(clip), "--quiet"]
        subprocess.run(command, check=True)
    return media.read_frames(clip)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
