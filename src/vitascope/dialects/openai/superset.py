"""What a body holds beyond the parameters that are followed: containers, fields that are told of or refused, unknown ones."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from vitascope.dialects._http import Fields
from vitascope.domain.choice import Choice
from vitascope.domain.errors import InvalidParameter, shorten

from .parameters import FOLLOWED, PARAMETERS, REFUSED, TOLD

CONTAINERS = ("extra_body", "extra_params", "extra_json", "video_params")
"""Objects whose keys are meant as if they stood beside them: what SGLang and vLLM-Omni merge."""

MAX_UNKNOWN = 64
MAX_NAME_CHARS = 60
ALIKE = 0.75
"""From this likeness on a name that nobody knows is taken for a misspelt one."""

_OFF = ("", "false", "no", "null", "none", "default", "[]", "{}")
_ZERO = (0, "0", "0.0")
"""What also asks for nothing where a field is refused: no sound, the start of a video."""

_WHOLE = re.compile(r"[+-]?\d{1,18}", re.ASCII)
_FRACTION = re.compile(r"[+-]?\d{1,17}\.\d{1,17}", re.ASCII)


def unfolded(fields: Fields) -> tuple[Fields, list[Choice]]:
    """Put what is in containers beside them, where it does not stand already.

    Raises:
        InvalidParameter: a container is no object.
    """
    values = dict(fields.values())
    choices: list[Choice] = []
    for container in CONTAINERS:
        inner = fields.mapping(container) if container in values else {}
        values.pop(container, None)
        for name, value in inner.items():
            if name in CONTAINERS:
                raise InvalidParameter(f"{container}[{name}]", "given", "it must not be inside another one")
            if name not in values:
                values[name] = value
            elif values[name] != value:
                reason = f"`{container}` has another one, and the field beside it wins"
                choices.append(Choice(name[:60], shorten(values[name]), reason))
    return Fields(values, fields.num_bytes), choices


def told(fields: Fields) -> Iterator[Choice]:
    """Say of each field that is not followed what is done instead.

    Raises:
        InvalidParameter: there is one without which the video would be another.
    """
    for name, value in fields.values().items():
        if name in FOLLOWED or name not in PARAMETERS or is_off(value):
            continue
        if name in TOLD:
            yield Choice(name, "not followed", f"{shorten(_plain(value))} was asked for, but {TOLD[name]}")
        elif value not in _ZERO:
            raise InvalidParameter(name, "given", REFUSED[name], hint="leave it out")


def is_off(value: Any) -> bool:
    """Whether a field's value asks for nothing."""
    if isinstance(value, str):
        return value.strip().lower() in _OFF
    return value is None or value is False or value in ([], {})


def unknown(fields: Fields) -> dict[str, Any]:
    """Return the fields that nobody knows, for the metadata, as New API's code keeps them: numbers that came as text are numbers.

    Raises:
        InvalidParameter: one of them looks like a misspelt parameter, or is a file, or there are too many.
    """
    found = {name: value for name, value in fields.values().items() if name not in PARAMETERS}
    if len(found) > MAX_UNKNOWN:
        rule = f"there may be at most {MAX_UNKNOWN} fields that the server does not know"
        raise InvalidParameter(next(iter(found))[:60], "given", rule)
    for name, value in found.items():
        near = _meant(name)
        if near:
            hint = f"did you mean `{near}`?"
            raise InvalidParameter(name, "given", "there is no such parameter", hint=hint)
        if isinstance(value, bytes):
            raise InvalidParameter(name[:60], "a file", "there is no such file parameter")
    return {name: _number_or(value) for name, value in found.items()}


def _meant(name: str) -> str | None:
    """Find the parameter that a name is nearly: in other letters' size or order, or with one or two wrong."""
    if len(name) > MAX_NAME_CHARS:  # longer than any, and to compare it would take seconds
        return None
    name = name.lower()
    swapped = (known for known in PARAMETERS if sorted(known) == sorted(name))
    near = difflib.get_close_matches(name, PARAMETERS, n=1, cutoff=ALIKE)
    return near[0] if near else next(swapped, None)


def kept(metadata: Mapping[str, Any], more: Mapping[str, Any]) -> tuple[dict[str, Any], list[Choice]]:
    """Put unknown fields into the metadata, where its own keys win.

    Raises:
        InvalidParameter: together they are too large, or hold what cannot be stored.
    """
    if not more:
        return dict(metadata), []
    names = ", ".join(shorten(name, 40) for name in list(more)[:8]) + (", …" if len(more) > 8 else "")
    whole = Fields({"metadata": {**more, **metadata}}).mapping("metadata")
    return whole, [Choice("metadata", names, "nothing here is called so: kept in the metadata")]


def _number_or(value: Any) -> Any:
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value)
    return float(value) if isinstance(value, str) and _FRACTION.fullmatch(value) else value


def _plain(value: Any) -> Any:
    return "a file" if isinstance(value, bytes) else value
