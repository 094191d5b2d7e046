"""What remixes, edits and extensions take, as `/openapi.json` describes it."""

from __future__ import annotations

from typing import Any

from .parameters import PARAMETERS, REFERENCE

REMIX_STRENGTH = 0.75
"""How much of its source a remix makes anew: what happens and where stays, what is seen is the prompt's."""

EDIT_STRENGTH = 0.6
"""The same of an edit: shapes and movements stay, colours and surfaces follow the prompt."""

_SOURCE: dict[str, Any] = {
    "anyOf": [
        {
            "type": "object",
            "properties": {"id": {"type": "string"}, "index": PARAMETERS["n"]["anyOf"][0]},
            "required": ["id"],
        },
        {"type": "object", "properties": {"file_id": {"type": "string"}}, "required": ["file_id"]},
        {"type": "string"},
    ],
    "description": "The video to start from: a finished one by its id (of several, `index` says which), an uploaded file by its id, or MP4 "
    "or WebM as an http, https or data: URL or base64.",
}
_FILE: dict[str, Any] = {
    "type": "string",
    "format": "binary",
    "description": "An MP4 or WebM file; or `video[id]`, beside which an empty file is overlooked.",
}


def _said(name: str, text: str) -> dict[str, Any]:
    return {**PARAMETERS[name], "description": text}


def _body(more: dict[str, Any], required: tuple[str, ...], sources: tuple[Any, Any]) -> dict[str, Any]:
    """Describe a body: what a create takes, with other defaults, and the source."""
    own = {"model": _said("model", "By default the source's."), "size": _said("size", "By default the source's."), **more}  # fmt: skip

    def content(source: Any) -> dict[str, Any]:
        of_source = {} if source is None else {"video": source}
        picture = {"input_reference": REFERENCE, "image": REFERENCE}
        properties = {**PARAMETERS, **picture, **own, **of_source}
        return {"schema": {"type": "object", "required": list(required), "properties": properties}}

    json, form = sources
    bodies = {"application/json": content(json), "multipart/form-data": content(form)}
    return {"requestBody": {"required": True, "content": bodies}}


def _strength(default: float) -> dict[str, Any]:
    text = f"How much of the source is made anew, up to 1; by default {default:g}."
    return {"strength": _said("strength", text)}


_length = _said("seconds", "By default the source's.")
_added = _said("seconds", "How many seconds are added, from 1 to 60; the reply's are those of the whole.")

REMIX = _body({"seconds": _length, **_strength(REMIX_STRENGTH)}, ("prompt",), (None, None))
EDIT = _body({"seconds": _length, **_strength(EDIT_STRENGTH)}, ("prompt", "video"), (_SOURCE, _FILE))
EXTEND = _body({"seconds": _added}, ("prompt", "video", "seconds"), (_SOURCE, _FILE))
