"""How the vendor writes a file's id."""

from __future__ import annotations

from vitascope.dialects._http import shown
from vitascope.domain.errors import InvalidParameter
from vitascope.service import FileId

PREFIX = "file-"


def named_file(text: object, name: str) -> FileId:
    """Read a file's id from a field of that name."""
    if not isinstance(text, str):
        raise InvalidParameter(name, shown(text), "it must be a file's id")
    # one of another form is unknown like any other that nobody has
    return FileId(text.removeprefix(PREFIX) if text.startswith(PREFIX) else "", text)
