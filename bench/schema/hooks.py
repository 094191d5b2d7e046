"""Runs inside Schemathesis: gives its requests ids of things that exist, and keeps it from locking itself out.

A made-up id is a 404 in nearly every operation; what happens behind it would never be tried.
"""

from __future__ import annotations

import json
import os
import random
from collections import defaultdict
from typing import Any
from urllib.parse import quote

import schemathesis

KNOWN_SHARE = 0.6
"""How many ids in paths and bodies are of things that exist."""

MAX_KNOWN = 40

OWN_KEY = os.environ["VITASCOPE_SCHEMA_OWN_KEY"]
"""Id of the key that the requests are made with: to revoke or exchange it would end the run."""

MODEL = "/api/v1/models/{model_id}"
WRONG_METHOD = "Wrong response to undeclared method"

NUMBERED = "request_id"
"""Of jobs by their whole numbers, which more than one call makes."""

ID_FIELDS = ("id", NUMBERED, "file_id", "input_file_id", "source", "video_id", "character_id", "taskId")

_rng = random.Random(int(os.environ["VITASCOPE_SCHEMA_SEED"]))
_known: dict[str, list[str]] = defaultdict(list)
for _parameter, _ids in json.loads(os.environ["VITASCOPE_SCHEMA_KNOWN"]).items():
    _known[_parameter].extend(_ids)


def before_call(_context: Any, case: Any, _options: dict[str, Any]) -> None:
    """Put ids that exist where an id stands."""
    for name in case.path_parameters or {}:
        if _known[name] and _rng.random() < KNOWN_SHARE:
            case.path_parameters[name] = quote(_rng.choice(_known[name]), safe="")
    if (case.path_parameters or {}).get("key_id") in (OWN_KEY, "self") and case.method != "GET":
        case.path_parameters["key_id"] = "0" * 26
    if isinstance(case.body, dict):
        _fill(case.body)
        case.body.pop("key", None)  # a second key beside the header's is refused
        if case.path.endswith("/workers/restart"):
            case.body.pop("process", None)  # see `run.RESTARTS`


def _fill(body: dict[str, Any]) -> None:
    for name, value in body.items():
        if isinstance(value, dict):
            _fill(value)
        elif isinstance(value, list):
            for item in value:
                if isinstance(item, dict):
                    _fill(item)
        elif name in ID_FIELDS and isinstance(value, str) and _rng.random() < KNOWN_SHARE:
            body[name] = _rng.choice([found for ids in _known.values() for found in ids[-3:]])


def after_call(_context: Any, case: Any, response: Any) -> None:
    """Remember what was made: `POST /things` makes what `/things/{thing_id}` shows."""
    if case.method != "POST" or not 200 <= response.status_code < 300:
        return
    try:
        made = response.json()
    except ValueError:
        return
    if isinstance(made, dict) and isinstance(made.get("id"), int):
        _known[NUMBERED] = [*_known[NUMBERED], str(made["id"])][-MAX_KNOWN:]
        return
    parameter = _parameter_below(case)
    if parameter is not None and isinstance(made, dict) and isinstance(made.get("id"), str):
        known = _known[parameter]
        known.append(made["id"])
        del known[MAX_KNOWN // 2 : max(len(known) - MAX_KNOWN // 2, MAX_KNOWN // 2)]


def filter_failure(_context: Any, failure: Any, case: Any, _response: Any) -> bool:
    """Tell whether a failure counts. A model's id may hold a slash: GET /models/a/load asks for the model `a/load`."""
    return not (
        failure.title == WRONG_METHOD
        and case.path.startswith(MODEL + "/")
        and case.method in ("GET", "DELETE")
    )


def _parameter_below(case: Any) -> str | None:
    prefix = case.path + "/{"
    for path in case.operation.schema.raw_schema["paths"]:
        if path.startswith(prefix) and path.endswith("}") and path.count("{") == prefix.count("{"):
            return str(path[len(prefix) : -1])
    return None


for _hook in (before_call, after_call, filter_failure):
    schemathesis.hook(_hook)
