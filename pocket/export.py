"""Put the trained parts together as a diffusers folder that `WanPipeline.from_pretrained` loads.

`python pocket/export.py OUT` writes OUT with weights in bfloat16, a README with sources and licences and
SHA256SUMS. Files are replaced one by one, each by a rename, so a running server never sees half a file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path

import torch
from data import FPS, FRAMES, SIZE, default_work
from denoiser import MAX_SEQUENCE_LENGTH, pipeline
from diffusers import UniPCMultistepScheduler, WanPipeline

LIMIT_FILE = 15_000_000
LIMIT_ALL = 38_000_000
FLOW_SHIFT = 3.0
STEPS = 12
GUIDANCE = 3.0


def scheduler() -> UniPCMultistepScheduler:
    """The scheduler Wan ships with, set for flow matching."""
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=FLOW_SHIFT,
        num_train_timesteps=1000,
        solver_order=2,
    )


def card(table: str) -> str:
    """The README of the folder."""
    return (Path(__file__).parent / "card.md").read_text(encoding="utf-8").replace("{{table}}", table)


def replace(source: Path, target: Path) -> None:
    """Copy a tree over another, each file by a rename; remove what is no longer there."""
    names = {p.relative_to(source) for p in source.rglob("*") if p.is_file()}
    for name in sorted(names):
        to = target / name
        to.parent.mkdir(parents=True, exist_ok=True)
        part = to.with_name(to.name + ".part")
        shutil.copyfile(source / name, part)
        part.chmod(0o644)
        part.replace(to)
    for path in target.rglob("*"):
        if path.is_file() and path.relative_to(target) not in names:
            path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--work", type=Path, default=default_work())
    args = parser.parse_args()
    parts = pipeline(args.work)
    pipe = WanPipeline(
        tokenizer=parts.tokenizer,
        text_encoder=parts.text_encoder,
        vae=parts.vae,
        scheduler=scheduler(),
        transformer=parts.transformer,
        expand_timesteps=True,
    )
    folder = args.work / "export"
    shutil.rmtree(folder, ignore_errors=True)
    pipe.save_pretrained(folder)
    tokenizer = json.loads((folder / "tokenizer/tokenizer_config.json").read_text())
    for key in ("is_local", "local_files_only", "name_or_path"):
        tokenizer.pop(key, None)
    (folder / "tokenizer/tokenizer_config.json").write_text(json.dumps(tokenizer, indent=2) + "\n")
    for path in folder.rglob("*.json"):
        data = json.loads(path.read_text())
        if isinstance(data, dict) and data.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(data, indent=2) + "\n")
    table = args.work / "evaluation.md"
    (folder / "README.md").write_text(card(table.read_text() if table.exists() else "Not measured yet."))
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    sums = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(folder)}" for p in files]
    (folder / "SHA256SUMS").write_text("\n".join(sums) + "\n")

    sizes = {p: p.stat().st_size for p in files}
    if max(sizes.values()) > LIMIT_FILE or sum(sizes.values()) > LIMIT_ALL:
        raise SystemExit(f"pocket: too big: {sum(sizes.values())} bytes, largest {max(sizes.values())}")
    check = WanPipeline.from_pretrained(folder, dtype=torch.bfloat16, local_files_only=True)
    video = check("a dog", height=SIZE, width=SIZE, num_frames=FRAMES, num_inference_steps=2,
                  max_sequence_length=MAX_SEQUENCE_LENGTH, guidance_scale=GUIDANCE).frames[0]  # fmt: skip
    if video.shape != (FRAMES, SIZE, SIZE, 3) or not (video == video).all():
        raise SystemExit(f"pocket: the exported folder gave {video.shape}")
    replace(folder, args.out)
    print(f"{args.out}: {sum(sizes.values()) / 1e6:.1f} MB, {SIZE}x{SIZE}x{FRAMES} at {FPS} fps")


if __name__ == "__main__":
    main()
