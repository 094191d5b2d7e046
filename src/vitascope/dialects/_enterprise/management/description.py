"""What `/openapi.json` says of management calls, made from the table."""

from __future__ import annotations

from typing import Any

from vitascope.dialects import _http

from .calls import Call


class EnterpriseError(_http.Described):
    """Every answer that is not a success; some paths send it with status 200."""

    status: str
    message: str
    #: The same; some clients read the misspelt one.
    messege: str
    #: Ours: which error it is, in a word.
    code: str


ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": EnterpriseError, "description": "The request cannot be carried out as it stands."},
    "5XX": {"model": EnterpriseError, "description": "The server cannot carry it out now."},
}

_KEY = {"type": "string", "description": "The API key; a bearer header or one called `key` does as well."}


def responses_of(call: Call) -> dict[int | str, dict[str, Any]]:
    """Describe a call's replies by the vendor's example."""
    content = {"application/json": {"schema": _schema_of(call.reply), "example": call.reply}}
    return {200: {"description": "It is done, or begun; or an error.", "content": content}, **ERRORS}


def body_of(call: Call) -> dict[str, Any]:
    """Describe what a call reads."""
    schema: dict[str, Any] = {"type": "object", "properties": {"key": _KEY, **call.fields}}
    if call.required:
        schema["required"] = list(call.required)
    content = {"application/json": {"schema": schema}}
    return {"requestBody": {"required": bool(call.required), "content": content}}


def _schema_of(example: Any) -> dict[str, Any]:
    """Name the kinds of what is in an example; what a reply must have is said by the 200 that is no error."""
    if isinstance(example, dict):
        return {
            "type": "object",
            "properties": {name: _schema_of(value) for name, value in example.items()},
        }
    if isinstance(example, list):
        return {"type": "array", "items": _schema_of(example[0]) if example else {}}
    if example is None:
        return {"anyOf": [{"type": "string"}, {"type": "null"}]}
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string"}
    return {"type": kinds[type(example)]}
