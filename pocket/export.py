"""Put the trained parts together as a diffusers folder that `WanPipeline.from_pretrained` loads.

`python pocket/export.py OUT` writes OUT with weights in bfloat16, a README with sources and licences and
SHA256SUMS. Files are replaced one by one, each by a rename, so a running server never sees half a file.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import torch
from denoiser import draw, pipeline
from diffusers import UniPCMultistepScheduler, WanPipeline
from presets import parser_of, setup_of
from sources import need_space

LIMIT_FILE = 16_000_000
LIMIT_ALL = 56_000_000
SHARD = "15MB"
FLOW_SHIFT = 3.0


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


def tidy(folder: Path) -> None:
    """Take the working machine's paths and settings out of the configurations."""
    tokenizer = folder / "tokenizer/tokenizer_config.json"
    data = json.loads(tokenizer.read_text())
    for key in ("is_local", "local_files_only", "name_or_path"):
        data.pop(key, None)
    tokenizer.write_text(json.dumps(data, indent=2) + "\n")
    for path in folder.rglob("*.json"):
        data = json.loads(path.read_text())
        if isinstance(data, dict) and data.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(data, indent=2) + "\n")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--table", default="evaluation", help="the evaluation's name in WORK")
    args = parser.parse_args()
    setup = setup_of(args)
    need_space(args.work, 0.5)
    for name in ("tokenizer", "text_encoder", "vae", "transformer"):
        if not (args.work / name).is_dir():
            raise SystemExit(f"pocket: {args.work / name} is not there; README.md says which script makes it")
    pipe = pipeline(setup)
    pipe.scheduler = scheduler()
    folder = args.work / "export"
    shutil.rmtree(folder, ignore_errors=True)
    pipe.to("cpu").save_pretrained(folder, max_shard_size=SHARD)
    tidy(folder)
    table = args.work / f"{args.table}.md"
    (folder / "README.md").write_text(card(table.read_text() if table.exists() else "Not measured yet."))
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    sums = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(folder)}" for p in files]
    (folder / "SHA256SUMS").write_text("\n".join(sums) + "\n")

    sizes = {p: p.stat().st_size for p in files}
    if max(sizes.values()) > LIMIT_FILE or sum(sizes.values()) > LIMIT_ALL:
        raise SystemExit(f"pocket: too big: {sum(sizes.values())} bytes, largest {max(sizes.values())}")
    shape = setup.preset.shapes[0]
    check = WanPipeline.from_pretrained(folder, dtype=torch.bfloat16, local_files_only=True)
    video = draw(check, ["a dog"], shape, 1, steps=2)[0]
    if video.shape != (shape.frames, shape.height, shape.width, 3) or video.std() < 1:
        raise SystemExit(f"pocket: the exported folder gave {video.shape}, spread {video.std():.2f}")
    replace(folder, args.out)
    print(
        f"{args.out}: {sum(sizes.values()) / 1e6:.1f} MB, {shape.width}x{shape.height}x{shape.frames} at {setup.preset.fps} fps"
    )


if __name__ == "__main__":
    main()
