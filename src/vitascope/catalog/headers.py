"""Headers of safetensors files: names, shapes and lengths of tensors. Nothing here reads the tensors themselves."""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checkpoint import MAX_HEADER_BYTES

_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "I64": 64, "I32": 32, "I16": 16,
    "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8,
}  # fmt: skip
FLOATS = frozenset(name for name in _BITS if "F" in name)

_PICKLED = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK")
"""What a pickle begins with, or the archive that torch puts it into."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself."""

    #: By tensor.
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    metadata: Mapping[str, str]


class UnreadableHeader(ValueError):
    """The file is no safetensors file, or not a whole one; says why, as the rest of the sentence "it …"."""


def read_header(path: Path) -> Header:
    """Read a file's header, and compare what it says of the tensors with the file's length.

    Raises:
        UnreadableHeader: it is missing, cut, damaged, or of another kind.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # to open a pipe would wait for its other end
            raise UnreadableHeader("is no file")  # noqa: TRY301
        num_bytes = found.st_size
        with path.open("rb") as file:
            header_bytes = _header_bytes(file.read(8), num_bytes)
            values = json.loads(file.read(header_bytes))
        return _header(values, num_bytes - 8 - header_bytes)
    except FileNotFoundError:
        raise UnreadableHeader("is missing") from None
    except OSError as error:
        raise UnreadableHeader(f"cannot be read: {error.strerror}") from None
    except UnreadableHeader:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError):
        raise UnreadableHeader("cannot be read as a safetensors file") from None


def _header_bytes(start: bytes, num_bytes: int) -> int:
    if start[:2] in _PICKLED:
        raise UnreadableHeader("is a pickle, which can run code, under another name")
    header_bytes = int.from_bytes(start, "little")
    if not 0 < header_bytes <= min(MAX_HEADER_BYTES, num_bytes - 8):
        raise UnreadableHeader("is cut, or no safetensors file")
    return header_bytes


def _header(values: dict[str, Any], num_bytes: int) -> Header:
    metadata = {str(name): str(value) for name, value in values.pop("__metadata__", {}).items()}
    ends = [int(value["data_offsets"][1]) for value in values.values()]
    if num_bytes != max(ends, default=0):
        raise UnreadableHeader(f"is cut: {num_bytes} bytes of tensors are there of {max(ends, default=0)}")
    shapes = {name: tuple(int(side) for side in value["shape"]) for name, value in values.items()}
    dtypes = {name: str(value["dtype"]) for name, value in values.items()}
    for name, value in values.items():
        bits = _BITS.get(dtypes[name])
        begin, end = value["data_offsets"]
        if bits is not None and (end - begin) * 8 != math.prod(shapes[name]) * bits:
            raise UnreadableHeader("is damaged: the length of a tensor is not that of its shape")
    return Header(shapes, dtypes, metadata)
