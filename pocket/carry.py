"""What travels between this checkout and a machine with a GPU that has no network.

There, `bring` puts WORK together from the carried folder and from the shipped model: the pack, a text encoder with
the pack's words, and whatever weights of the preset's sizes exist. `send OUT` writes the weights in half precision
as one archive in parts of 15 MiB. Back here, `unpack PARTS` puts them into WORK, for `export.py` or the next run.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import torch
from autoencoder import replace_folder
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from presets import Setup, parser_of, setup_of
from safetensors.torch import load_file, save_file

PART = 15 << 20
WORDS = "embeddings.word_embeddings.weight"
SHIPPED = Path(__file__).parent.parent / "src/vitascope/catalog/embedded/pocket"
CARRIED = Path(__file__).parent.parent / ".pocket"
CLASSES = {"vae": AutoencoderKLWan, "transformer": WanTransformer3DModel}


def prepare(setup: Setup) -> None:
    """Fill the carried folder here with what the shipped model does not have: it travels anyway."""
    shutil.rmtree(CARRIED, ignore_errors=True)
    CARRIED.mkdir()
    shutil.copyfile(setup.work / "pack.zip", CARRIED / "pack.zip")
    table = "tokenizer/tokenizer.json"
    if (setup.work / table).read_bytes() != (SHIPPED / table).read_bytes():
        state = load_file(setup.work / "text_encoder/model.safetensors")
        save_file({WORDS: state[WORDS]}, CARRIED / "words.safetensors")
        shutil.copytree(setup.work / "tokenizer", CARRIED / "tokenizer")
    for name in CLASSES:
        if fits(setup.work / name, name, setup) and not fits(SHIPPED / name, name, setup):
            _half(setup.work / name, CARRIED / name, name)
    total = sum(p.stat().st_size for p in CARRIED.rglob("*") if p.is_file())
    print(f"{CARRIED}: {total / 1e6:.1f} MB")


def bring(setup: Setup) -> None:
    """Fill WORK there; what WORK already has stays."""
    work = setup.work
    if not (work / "pack.zip").exists():
        if not (CARRIED / "pack.zip").exists():
            raise SystemExit(f"pocket: {CARRIED}/pack.zip is not there; carry the folder .pocket")
        shutil.copyfile(CARRIED / "pack.zip", work / "pack.zip")
    if not (work / "text_encoder").exists():
        source = CARRIED if (CARRIED / "tokenizer").exists() else SHIPPED
        shutil.copytree(source / "tokenizer", work / "tokenizer", dirs_exist_ok=True)
        _join_words(SHIPPED / "text_encoder", CARRIED / "words.safetensors", work / "text_encoder")
    for name in CLASSES:
        for source in (CARRIED / name, SHIPPED / name):
            if not (work / name).exists() and fits(source, name, setup):
                shutil.copytree(source, work / name)
                print(f"{name}: from {source}", flush=True)


def _join_words(source: Path, words: Path, target: Path) -> None:
    """The shipped text encoder, with other word pieces where some are carried: its layers are the same."""
    part = target.with_name("text_encoder.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    state = load_file(source / "model.safetensors")
    if words.exists():
        state.update(load_file(words))
    config = json.loads((source / "config.json").read_text())
    config["vocab_size"] = state[WORDS].shape[0]
    (part / "config.json").write_text(json.dumps(config))
    save_file(state, part / "model.safetensors", {"format": "pt"})
    part.rename(target)


def fits(folder: Path, name: str, setup: Setup) -> bool:
    """Whether a model folder has the preset's sizes."""
    if not (folder / "config.json").is_file():
        return False
    config = json.loads((folder / "config.json").read_text())
    channels = setup.preset.vae["z_dim"]
    wanted: dict[str, Any] = setup.preset.vae
    if name == "transformer":
        wanted = {**setup.preset.transformer, "in_channels": channels}
    return all(config.get(k) == v for k, v in wanted.items())


def _half(source: Path, target: Path, name: str) -> None:
    model = CLASSES[name].from_pretrained(source, dtype=torch.bfloat16)
    replace_folder(model, target, shard="15MB")


def send(setup: Setup, out: Path) -> None:
    """Weights and logs, each file below 16 MiB."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name in CLASSES:
            if (setup.work / name).exists():
                _half(setup.work / name, setup.work / f"half-{name}", name)
                tar.add(setup.work / f"half-{name}", name)
        for log in setup.work.glob("*.jsonl"):
            tar.add(log, log.name)
    blob = data.getvalue()
    for index in range(0, len(blob), PART):
        (out / f"part-{index // PART:02d}").write_bytes(blob[index : index + PART])
    print(f"{len(blob) / 1e6:.1f} MB in {-(-len(blob) // PART)} parts", flush=True)


def unpack(setup: Setup, parts: Path) -> None:
    """Put what came back into WORK and into the carried folder; a checkpoint of older weights goes."""
    files = sorted(parts.glob("part-*"))
    if not files:
        raise SystemExit(f"pocket: no part-* in {parts}")
    with tarfile.open(fileobj=io.BytesIO(b"".join(f.read_bytes() for f in files))) as tar:
        names = {Path(m.name).parts[0] for m in tar.getmembers()}
        for name in names & set(CLASSES):
            shutil.rmtree(setup.work / name, ignore_errors=True)
        tar.extractall(setup.work, filter="data")
    for old in ("denoiser.pt", "autoencoder.pt"):
        (setup.work / old).unlink(missing_ok=True)
    print("unpacked", ", ".join(sorted(names)))


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("what", choices=("prepare", "bring", "send", "unpack"))
    parser.add_argument("folder", type=Path, nargs="?", help="OUT of send, PARTS of unpack")
    args = parser.parse_args()
    setup = setup_of(args)
    if args.what in ("prepare", "bring"):
        (prepare if args.what == "prepare" else bring)(setup)
    elif args.folder is None:
        parser.error(f"{args.what} needs a folder")
    else:
        (send if args.what == "send" else unpack)(setup, args.folder)


if __name__ == "__main__":
    main()
