"""What a management call is: a row of a table, of which its routes, its aliases and its description are made.

Modules of this package each have a `CALLS`; `management.CALLS` is all of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from vitascope.dialects import _http

Answer = Callable[[Request, _http.Fields], Awaitable[dict[str, Any]]]
"""Does what is asked with the body's fields, and returns the reply's body; an error is raised."""

TEXT: dict[str, Any] = {"type": "string"}
YES_NO: dict[str, Any] = {"anyOf": [{"type": "boolean"}, {"type": "string", "enum": ["yes", "no"]}]}


@dataclass(frozen=True, slots=True)
class Call:
    """A management call.

    Its reply is sent with status 200; what its function raises is worded, and gets the status, that its path stands for.
    """

    #: The last part of its path.
    name: str
    #: Its docstring is the call's description.
    answer: Answer
    #: What the vendor documents as its reply; the keys that every reply has.
    reply: Mapping[str, Any]
    #: JSON schemas of the body's fields, beside `key`.
    fields: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: Those that must be given; who answers checks it.
    required: tuple[str, ...] = ()
    #: Other last parts that clients call.
    aliases: tuple[str, ...] = ()


def done(message: str, **more: Any) -> dict[str, Any]:
    """Make the reply of most calls."""
    return {"status": "success", "message": message, **more}
