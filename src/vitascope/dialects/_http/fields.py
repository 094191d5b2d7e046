"""Fields of a body or a query, read leniently: a number may come as text, nothing may come as null or as empty text."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Collection, Mapping
from typing import Any

from vitascope.domain.errors import InvalidParameter

MAX_INTEGER = 2**64
MAX_DEPTH = 16
MAX_OBJECT_CHARS = 65_536

_NUMBER = re.compile(r"[+-]?(\d{1,400}(\.\d{0,400})?|\.\d{1,400})([eE][+-]?\d{1,4})?", re.ASCII)
_WHOLE = re.compile(r"([+-]?\d{1,400})(\.0{0,400})?", re.ASCII)
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class Fields:
    """Values by the client's own names. All getters raise InvalidParameter under that name."""

    def __init__(self, values: Mapping[str, Any], num_bytes: int = 0) -> None:
        #: Length of the body that they came in.
        self.num_bytes = num_bytes
        self._values = {name: value for name, value in values.items() if value is not None}

    def raw(self, name: str) -> Any:
        """Return the value as it came: None, text, number, list, dict, or the bytes of a file."""
        return self._values.get(name)

    def values(self) -> Mapping[str, Any]:
        """Return all that was given, by name."""
        return self._values

    def check_names(self, known: Collection[str]) -> None:
        """Refuse a field that nobody knows: it may be a misspelt one that matters."""
        for name in self._values:
            if name not in known:
                # to compare one of megabytes would hold the event loop for seconds
                name = printable(name[:60])
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean `{near[0]}`?" if near else None
                raise InvalidParameter(name, "given", "there is no such parameter", hint=hint)

    def first(self, *names: str) -> str:
        """Return the first of these names that has a value, else the first name."""
        return next((name for name in names if self._values.get(name, "") != ""), names[0])

    def text(self, name: str, *, max_chars: int | None = None) -> str | None:
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise InvalidParameter(name, shown(value), "it must be text")
        if max_chars is not None and len(value) > max_chars:
            rule = f"it must have at most {max_chars} characters"
            raise InvalidParameter(name, f"{len(value)} characters long", rule)
        return storable(name, value)

    def integer(self, name: str) -> int | None:
        value = self._values.get(name)
        rule = "it must be a whole number"
        if isinstance(value, str):
            value = value.strip()
            if value in ("", "null"):
                return None
            match = _WHOLE.fullmatch(value)
            if match is None:
                raise InvalidParameter(name, value, rule)
            value = int(match[1])
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            raise InvalidParameter(name, shown(value), rule)
        if abs(value) > MAX_INTEGER:
            raise InvalidParameter(name, value, "it must be a number of at most 64 bits")
        return value

    def number(self, name: str) -> float | None:
        value = self._values.get(name)
        rule = "it must be a number"
        if isinstance(value, str):
            value = value.strip()
            if value in ("", "null"):
                return None
            if not _NUMBER.fullmatch(value):
                raise InvalidParameter(name, value, rule)
            value = float(value)
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise InvalidParameter(name, shown(value), rule)
        if abs(value) > MAX_INTEGER or not math.isfinite(value):
            raise InvalidParameter(name, value, "it is out of range")
        return float(value)

    def boolean(self, name: str) -> bool | None:
        value = self._values.get(name)
        if isinstance(value, str):
            value = {
                "": None,
                "null": None,
                "true": True,
                "yes": True,
                "1": True,
                "false": False,
                "no": False,
                "0": False,
            }.get(value.strip().lower(), value)
        if value is None or isinstance(value, bool):
            return value
        raise InvalidParameter(name, shown(value), "it must be true or false")

    def mapping(self, name: str) -> dict[str, Any]:
        """Return an object, which may also come as JSON text; checked to be storable and not too large."""
        value = self._values.get(name)
        if isinstance(value, str):
            value = _parsed(name, value, "an object")
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise InvalidParameter(name, shown(value), "it must be an object")
        _check(name, value, MAX_DEPTH)
        if len(json.dumps(value)) > MAX_OBJECT_CHARS:
            raise InvalidParameter(
                name, "too long", f"it must have at most {MAX_OBJECT_CHARS} characters as JSON"
            )
        return value

    def listing(self, name: str, max_length: int) -> list[Any]:
        """Return a list, which may also come as JSON text; what is not in a list is a list of one."""
        value = self._values.get(name)
        if isinstance(value, str) and value.lstrip()[:1] == "[":
            value = _parsed(name, value, "a list")
        if value is None or value == "":
            return []
        items = value if isinstance(value, list) else [value]
        if len(items) > max_length:
            raise InvalidParameter(name, f"{len(items)} long", f"it may have {max_length} entries at most")
        return items


def storable(name: str, text: str) -> str:
    """Return the text if every database can keep it."""
    if _UNSTORABLE.search(text):
        raise InvalidParameter(name, text, "it must not hold NUL characters or halves of characters")
    return text


def printable(text: str) -> str:
    """Return the text as an answer can hold it: halves of characters, which JSON can hold and UTF-8 cannot, as JSON writes them."""
    return text.encode("utf-8", errors="backslashreplace").decode()


def _parsed(name: str, text: str, what: str) -> Any:
    if not text.strip():
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidParameter(name, text, f"it must be {what}, or JSON text of one") from None


def _check(name: str, value: Any, depth: int) -> None:
    if depth == 0:
        raise InvalidParameter(name, "nested too deeply", f"it may have {MAX_DEPTH} levels")
    if isinstance(value, str):
        storable(name, value)
    elif isinstance(value, float) and not math.isfinite(value):
        raise InvalidParameter(name, value, "it must hold no numbers that JSON does not have")
    elif isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise InvalidParameter(name, value, "its whole numbers must have at most 64 bits")
    elif isinstance(value, bytes):
        raise InvalidParameter(name, "a file", "it must be text")
    elif isinstance(value, dict):
        for key, inner in value.items():
            storable(name, key)
            _check(name, inner, depth - 1)
    elif isinstance(value, list):
        for inner in value:
            _check(name, inner, depth - 1)


def shown(value: Any) -> Any:
    """What a message says of a value of the wrong type. Long ones are not turned into text only to be cut."""
    if value is None:
        return "null"
    if isinstance(value, bytes):
        return "a file"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return value
