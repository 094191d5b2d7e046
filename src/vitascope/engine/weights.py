"""What a checkpoint's weights will take, from the headers of its files."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable
from pathlib import Path

import torch

MAX_HEADER_BYTES = 100_000_000
"""A longer header is none: the format's own limit."""


def checkpoint_bytes(folders: Iterable[str], dtype: torch.dtype) -> int:
    """Add up what the tensors of these folders take once they are loaded; files that cannot be read count nothing.

    Args:
        folders: of a pipeline and of its parts that are elsewhere.
        dtype: that floating point tensors will have; others keep theirs.
    """
    return sum(_file_bytes(path, dtype) for folder in folders for path in _files(Path(folder)))


def _files(folder: Path) -> list[Path]:
    """Find the files that are loaded: variants such as `model.fp16.safetensors` are further copies."""
    found = [*folder.glob("*.safetensors"), *folder.glob("*/*.safetensors")]
    return [path for path in found if path.stem.count(".") == 0]


def _file_bytes(path: Path, dtype: torch.dtype) -> int:
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, MAX_HEADER_BYTES)))
        tensors = [entry for name, entry in header.items() if name != "__metadata__"]
        return sum(
            math.prod(entry["shape"]) * dtype.itemsize
            if entry["dtype"] in _FLOATS
            else entry["data_offsets"][1] - entry["data_offsets"][0]
            for entry in tensors
        )
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return 0


_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
