"""`/v1/batches`: many requests for videos in one JSONL file, and their results in another."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Literal

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vitascope.dialects import _http
from vitascope.domain.access import Caller
from vitascope.domain.batch import MAX_LINES, WINDOW, Batch, BatchStatus, Line, LineError, NewLine, Outcome
from vitascope.domain.errors import InvalidParameter, UnreadableBody, VitascopeError
from vitascope.domain.file import MAX_FILE_SECONDS, MIN_FILE_SECONDS
from vitascope.domain.job import Job
from vitascope.service import Parsed, Prepared, Service

from . import schema
from .create import EXPIRE_SECONDS, prepare, to_order
from .file_ids import PREFIX as FILE_PREFIX
from .file_ids import named_file
from .files import expires_seconds
from .manner import DEFAULT, Manner
from .video import job_error, linked, problem_of

PREFIX = "batch_"
ENDPOINTS = ("/v1/videos",)
WINDOWS = ("24h",)
MAX_ERRORS = 50
"""Wrong lines that are told. Whoever has more has one mistake in each."""

MAX_CUSTOM_ID_CHARS = 512
MAX_PAIRS, MAX_KEY_CHARS, MAX_VALUE_CHARS = 16, 64, 512
"""Of a batch's metadata, as the vendor says."""

Status = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
_STATUS: dict[BatchStatus, Status] = {
    BatchStatus.VALIDATING: "validating",
    BatchStatus.RUNNING: "in_progress",
    BatchStatus.FINISHING: "finalizing",
    BatchStatus.SUCCEEDED: "completed",
    BatchStatus.FAILED: "failed",
    BatchStatus.CANCELLED: "cancelled",
    BatchStatus.EXPIRED: "expired",
}


class BatchError(_http.Described):
    """What is wrong with a line of the file."""

    code: str
    line: int | None
    message: str
    param: str | None


class BatchErrors(_http.Described):
    """All of them, or the first ones."""

    object: Literal["list"]
    data: list[BatchError]


class RequestCounts(_http.Described):
    """How far it is."""

    total: int
    completed: int
    failed: int


class BatchObject(_http.Described):
    """A batch and how far it is."""

    id: str
    object: Literal["batch"]
    endpoint: str
    model: str | None
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: Status
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: None
    metadata: dict[str, str] | None


class BatchList(_http.Described):
    """Some batches, the newest first."""

    object: Literal["list"]
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


def add_routes(router: APIRouter) -> None:
    add, errors = router.add_api_route, schema.ERRORS
    one, shown = "/batches/{batch_id}", {200: {"model": BatchObject}, **errors}
    add("/batches", create, methods=["POST"], responses=shown, openapi_extra=_CREATE)
    add("/batches", page, responses={200: {"model": BatchList}, **errors}, openapi_extra=_LIST)
    add(one, retrieve, responses=shown)
    add(f"{one}/cancel", cancel, methods=["POST"], responses=shown)


async def create(request: Request) -> Response:
    """Begin a batch: answers at once; its file is read, and its videos are made, when there is room."""
    desk, caller = _http.desk_of(request), _http.caller_of(request)
    fields = await _http.read_body(request, desk.max_body_bytes)
    fields.check_names(_FIELDS)
    file = named_file(_given(fields, "input_file_id"), "input_file_id")
    endpoint = _one_of(fields, "endpoint", ENDPOINTS)
    _one_of(fields, "completion_window", WINDOWS)
    metadata, seconds = _metadata(fields), expires_seconds(fields, "output_expires_after")
    once = await _http.once_of(request, fields)
    await desk.count(request)
    desk.service.condition.check_space()
    base_url = _http.base_url_of(request)
    try:
        batch = await desk.write(
            desk.service.batches.create,
            file,
            endpoint,
            caller,
            metadata=metadata,
            output_seconds=seconds,
            base_url=base_url,
            once=once,
        )
    except InvalidParameter as error:
        name = "output_expires_after" if error.parameter == "expires_after" else error.parameter
        raise InvalidParameter(name, error.value, error.rule, nearest=error.nearest) from None
    return JSONResponse(batch_object(batch))


async def page(request: Request) -> Response:
    """List batches, the newest first."""
    desk = _http.desk_of(request)
    query = _http.Fields(dict(request.query_params))
    limit, _ = _http.limit_and_order(query, min_limit=1)
    after = query.text("after")
    own = None if after is None else _id(after)
    caller = _http.caller_of(request)
    try:
        found = await desk.read(desk.service.batches.page, caller, after=own, limit=limit)
    except InvalidParameter as error:
        raise InvalidParameter("after", after, error.rule) from None
    data = [batch_object(batch) for batch in found.batches]
    ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    return JSONResponse({"object": "list", "data": data, **ends, "has_more": found.has_more})


async def retrieve(batch_id: str, request: Request) -> Response:
    """Show how far a batch is."""
    desk = _http.desk_of(request)
    batch = await desk.read(desk.service.batches.get, _id(batch_id), _http.caller_of(request))
    if not batch.is_read:
        desk.note_read(desk.service.batches.mark_read, batch.id, batch.created_at)
    return JSONResponse(batch_object(batch))


async def cancel(batch_id: str, request: Request) -> Response:
    """Let a batch end: videos that are being made stop, and none is begun any more. What is made already stays."""
    desk = _http.desk_of(request)
    batch = await desk.write(desk.service.batches.cancel, _id(batch_id), _http.caller_of(request))
    return JSONResponse(batch_object(batch))


def _id(batch_id: str) -> str:
    return batch_id.removeprefix(PREFIX) if batch_id.startswith(PREFIX) else ""


# the object


def batch_object(batch: Batch) -> dict[str, Any]:
    """Show a batch as the vendor does: all keys are always there."""
    ended = {status: batch.finished_at for status in BatchStatus if status is batch.status}
    is_cancelled = batch.stop is BatchStatus.CANCELLED
    errors = [{"code": e.code, "line": e.line, "message": e.message, "param": e.param} for e in batch.errors]
    return {
        "id": PREFIX + batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model,
        "errors": {"object": "list", "data": errors} if errors else None,
        "input_file_id": FILE_PREFIX + batch.input_file_id,
        "completion_window": WINDOWS[0],
        "status": "cancelling" if is_cancelled and not batch.status.is_terminal else _STATUS[batch.status],
        "output_file_id": _file_id(batch.output_file_id),
        "error_file_id": _file_id(batch.error_file_id),
        "created_at": _seconds(batch.created_at),
        "in_progress_at": _seconds(batch.running_at),
        "expires_at": _seconds(batch.expires_at),
        "finalizing_at": None if is_cancelled else _seconds(batch.finishing_at),
        "completed_at": _seconds(ended.get(BatchStatus.SUCCEEDED)),
        "failed_at": _seconds(ended.get(BatchStatus.FAILED)),
        "expired_at": _seconds(ended.get(BatchStatus.EXPIRED)),
        "cancelling_at": _seconds(batch.stopped_at) if is_cancelled else None,
        "cancelled_at": _seconds(ended.get(BatchStatus.CANCELLED)),
        "request_counts": {
            "total": batch.num_lines,
            "completed": batch.num_succeeded,
            "failed": batch.num_failed,
        },
        "usage": None,
        "metadata": dict(batch.metadata) or None,
    }


def _file_id(file_id: str | None) -> str | None:
    return None if file_id is None else FILE_PREFIX + file_id


def _seconds(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp())


# fields


def _given(fields: _http.Fields, name: str) -> str:
    text = fields.text(name)
    if not text:
        raise InvalidParameter(name, "missing", "it must be given")
    return text


def _one_of(fields: _http.Fields, name: str, legal: tuple[str, ...]) -> str:
    text = _given(fields, name)
    if text not in legal:
        raise InvalidParameter(name, text, f"it must be {' or '.join(legal)}", nearest=legal[0])
    return text


def _metadata(fields: _http.Fields) -> dict[str, str]:
    given = fields.mapping("metadata")
    if len(given) > MAX_PAIRS:
        raise InvalidParameter("metadata", f"{len(given)} pairs", f"it may have {MAX_PAIRS}")
    for key, value in given.items():
        if not isinstance(value, str):
            raise InvalidParameter("metadata", _http.shown(value), "its values must be text")
        if len(key) > MAX_KEY_CHARS or len(value) > MAX_VALUE_CHARS:
            rule = f"its keys may have {MAX_KEY_CHARS} characters, its values {MAX_VALUE_CHARS}"
            raise InvalidParameter("metadata", f"longer at {key[:20]}", rule)
    return given


# what feeders need: the requests in a file, and their results


class VideosBatch:
    """Requests for videos, one a line, as `service.BatchFormat` asks for it.

    Args:
        service: plans them.
        manner: how videos are shown.
    """

    endpoint = ENDPOINTS[0]

    def __init__(self, service: Service, manner: Manner = DEFAULT) -> None:
        self._service = service
        self._manner = manner

    def parse(self, data: bytes) -> Parsed:
        reader = _Reader(self.endpoint)
        if data.startswith(b"\xef\xbb\xbf"):
            data = data[3:]
        for number, text in enumerate(_lines(data), start=1):
            if text.strip():
                reader.read(number, text)
            if len(reader.errors) >= MAX_ERRORS or len(reader.lines) > MAX_LINES:
                break
        return reader.parsed()

    def prepare(self, body: str, caller: Caller) -> Prepared:
        fields = _http.Fields(json.loads(body), len(body))
        order = to_order(fields, self._service.spec_of_vendor)
        if order.request.expires_in_seconds is None and self._service.drafts.rules.expire_seconds is None:
            # the first ones too are there for as long once all are made
            order.change(expires_in_seconds=EXPIRE_SECONDS + int(WINDOW.total_seconds()))
        try:
            return Prepared(prepare(self._service, order, caller), order.in_clients_words)
        except InvalidParameter as error:
            raise order.in_clients_words(error) from None

    def refusal(self, error: VitascopeError) -> dict[str, Any]:
        status, problem = problem_of(error)
        return {"status_code": status, "body": {"error": problem}}

    def result(self, batch: Batch, line: Line, job: Job | None) -> tuple[bytes, bool]:
        response, error = self._told(batch, line, job)
        if response is not None:
            response = {"request_id": f"req_{batch.id}_{line.number}", **response}
        told = {
            "id": f"batch_req_{batch.id}_{line.number}",
            "custom_id": line.custom_id,
            "response": response,
            "error": error,
        }
        return json.dumps(told).encode("ascii"), line.outcome is not Outcome.SUCCEEDED

    def _told(
        self, batch: Batch, line: Line, job: Job | None
    ) -> tuple[dict[str, Any] | None, dict[str, str] | None]:
        """Return the response of a request, and its error."""
        if line.outcome in _NOT_DONE:
            code, message = _NOT_DONE[line.outcome]
            return None, {"code": code, "message": message}
        if job is None:
            return dict(line.refusal or {}), None
        body = linked(job, self._service, self._manner, batch.base_url)
        return {"status_code": 200, "body": body}, job_error(job)


_NOT_DONE: dict[Outcome | None, tuple[str, str]] = {
    Outcome.DELETED: ("video_deleted", "The video was deleted by its client before the batch had ended."),
    Outcome.CANCELLED: ("batch_cancelled", "This request was not carried out: the batch was cancelled."),
    Outcome.EXPIRED: (
        "batch_expired",
        "This request could not be carried out before the completion window expired.",
    ),
}


def _lines(data: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(data):
        end = data.find(b"\n", start)
        end = len(data) if end < 0 else end
        yield data[start:end]
        start = end + 1


class _Reader:
    """Gathers the requests of a file, and what is wrong with it."""

    def __init__(self, endpoint: str) -> None:
        self.lines: list[NewLine] = []
        self.errors: list[LineError] = []
        self._endpoint = endpoint
        self._ids: set[str] = set()
        self._models: set[str | None] = set()

    def parsed(self) -> Parsed:
        if self.errors:
            return Parsed(errors=self.errors)
        if not self.lines:
            return Parsed(errors=[LineError("empty_file", "The file holds no requests.")])
        if len(self.lines) > MAX_LINES:
            message = f"The file holds more than {MAX_LINES} requests."
            return Parsed(errors=[LineError("too_many_requests", message)])
        model = self._models.pop() if len(self._models) == 1 else None
        return Parsed(self.lines, model=model)

    def read(self, number: int, text: bytes) -> None:
        try:
            values = _http.json_object(text)
        except (UnreadableBody, InvalidParameter) as error:
            reason = error.message.replace("the request body", "it")
            message = f"This line is not a JSON object: {reason}."
            self.errors.append(LineError("invalid_json_line", message, number))
            return
        problem = next((found for check in self._checks() if (found := check(values))), None)
        if problem is not None:
            code, param, message = problem
            self.errors.append(LineError(code, message, number, param))
            return
        custom_id, body = values["custom_id"], values["body"]
        self._ids.add(custom_id)
        model = body.get("model")
        self._models.add(model if isinstance(model, str) and len(model) <= MAX_CUSTOM_ID_CHARS else None)
        self.lines.append(NewLine(number, custom_id, json.dumps(body)))

    def _checks(self) -> tuple[Callable[[Mapping[str, Any]], tuple[str, str, str] | None], ...]:
        return (self._missing, self._wrong_custom_id, self._wrong_method, self._wrong_url, self._wrong_body)

    def _missing(self, values: Mapping[str, Any]) -> tuple[str, str, str] | None:
        for name in ("custom_id", "method", "url", "body"):
            if values.get(name) is None:
                return "missing_required_parameter", name, f"Missing required parameter: '{name}'."
        return None

    def _wrong_custom_id(self, values: Mapping[str, Any]) -> tuple[str, str, str] | None:
        custom_id = values["custom_id"]
        if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= MAX_CUSTOM_ID_CHARS:
            message = f"The custom_id must be text of 1 to {MAX_CUSTOM_ID_CHARS} characters."
            return "invalid_custom_id", "custom_id", message
        if custom_id in self._ids:
            message = f"The custom_id {custom_id[:60]!r} is that of another request of this file."
            return "duplicate_custom_id", "custom_id", message
        return None

    def _wrong_method(self, values: Mapping[str, Any]) -> tuple[str, str, str] | None:
        return (
            None if values["method"] == "POST" else ("invalid_method", "method", "The method must be POST.")
        )

    def _wrong_url(self, values: Mapping[str, Any]) -> tuple[str, str, str] | None:
        if values["url"] == self._endpoint:
            return None
        return "invalid_url", "url", f"The url must be the batch's endpoint, {self._endpoint}."

    def _wrong_body(self, values: Mapping[str, Any]) -> tuple[str, str, str] | None:
        if isinstance(values["body"], dict):
            return None
        return "invalid_body", "body", "The body must be an object."


# the description

_FIELDS: dict[str, dict[str, Any]] = {
    "input_file_id": {
        "type": "string",
        "description": f"A file with the purpose `batch`: JSONL, up to {MAX_LINES} requests.",
    },
    "endpoint": {"type": "string", "enum": list(ENDPOINTS)},
    "completion_window": {"type": "string", "enum": list(WINDOWS)},
    "metadata": {
        "type": "object",
        "maxProperties": MAX_PAIRS,
        "additionalProperties": {"type": "string", "maxLength": MAX_VALUE_CHARS},
        "description": "Given back with the batch.",
    },
    "output_expires_after": {
        "type": "object",
        "properties": {
            "anchor": {"type": "string", "enum": ["created_at"]},
            "seconds": {"type": "integer", "minimum": MIN_FILE_SECONDS, "maximum": MAX_FILE_SECONDS},
        },
        "required": ["anchor", "seconds"],
        "description": "How long the files of results are kept; by default 30 days.",
    },
}
_body = {
    "type": "object",
    "required": ["input_file_id", "endpoint", "completion_window"],
    "properties": _FIELDS,
}
_CREATE: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": _body}}}
}
_LIST: dict[str, Any] = {
    "parameters": [
        schema.LIST["parameters"][0] | {"description": "Id of the last batch seen."},
        {
            "name": "limit",
            "in": "query",
            "schema": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
        },
    ]
}
