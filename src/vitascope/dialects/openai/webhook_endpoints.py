"""OpenAI's `/v1/webhook_endpoints`: the same endpoints as `/api/v1/webhooks/endpoints`, by the same sender, in the vendor's words.

Paths, fields and answers are those of the vendor's SDK (openai 3.52.0, `client.webhooks`). Of its event types this server has two;
the others are refused, as nothing would ever be sent for them.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vitascope.dialects import _http
from vitascope.domain.errors import EndpointSilent, InvalidParameter
from vitascope.domain.secret import Secret
from vitascope.domain.webhook import JOB_EVENTS, Delivery, Endpoint, EventType, MessageStatus

from . import schema

PATH = "/webhook_endpoints"
MAX_NAME_CHARS = 255
SECRET_PREFIX = "whsec_"

TEST_SECONDS = 40.0
"""How long a test waits for the receiver's answer: more than twice what it may take for one."""

LOOK_SECONDS = 0.1

PRIVATE = {"cache-control": "no-store"}

EventName = Literal["video.completed", "video.failed"]


class WebhookEndpoint(_http.Described):
    """A receiver that is told how all videos of an API key end."""

    id: str
    object: Literal["webhook_endpoint"]
    created_at: int
    updated_at: int
    name: str
    url: str
    event_types: list[EventName]
    #: The end of the signing secret; null if this server cannot read it.
    signing_secret_hint: str | None
    #: Set once the URL has answered 410 (Gone): nothing is sent until another URL is given.
    disabled_at: int | None
    disabled_reason: str | None


class WebhookEndpointWithSecret(WebhookEndpoint):
    """An endpoint with what its messages are signed with."""

    signing_secret: str


class WebhookEndpointList(_http.Described):
    """Some endpoints, the newest first."""

    object: Literal["list"]
    data: list[WebhookEndpoint]
    first_id: str | None
    last_id: str | None
    has_more: bool


class WebhookEndpointDeleted(_http.Described):
    """An endpoint that is gone."""

    id: str
    object: Literal["webhook_endpoint.deleted"]
    deleted: bool


class WebhookEndpointTest(_http.Described):
    """What the receiver has answered to a sample."""

    object: Literal["webhook_endpoint.test"]
    webhook_endpoint_id: str
    event_type: EventName
    #: Of HTTP, whatever it is.
    status_code: int
    success: Literal[True]


class WebhookEventTypes(_http.Described):
    """What endpoints can be told."""

    object: Literal["list"]
    data: list[EventName]


def add_routes(router: APIRouter) -> None:
    """Put the routes under the dialect's own."""
    add, errors = router.add_api_route, schema.ERRORS
    one = f"{PATH}/{{webhook_endpoint_id}}"
    found = {200: {"model": WebhookEndpoint}, **errors}
    secret = {200: {"model": WebhookEndpointWithSecret}, **errors}
    pages = {200: {"model": WebhookEndpointList}, **errors}
    tested = {200: {"model": WebhookEndpointTest}, **errors}
    add(PATH, create, methods=["POST"], responses=secret, openapi_extra=_body(*_FIELDS, required=_FIELDS))
    add(PATH, page, responses=pages, openapi_extra=schema.LIST)
    add(one, retrieve, responses=found)
    add(one, update, methods=["POST"], responses=found, openapi_extra=_body(*_FIELDS))
    add(one, delete, methods=["DELETE"], responses={200: {"model": WebhookEndpointDeleted}, **errors})
    add(f"{one}/rotate_secret", rotate_secret, methods=["POST"], responses=secret, openapi_extra=_body(KEEP))
    add(f"{one}/test", test, methods=["POST"], responses=tested, openapi_extra=_body("event_type", required=["event_type"]))  # fmt: skip
    add("/webhook_event_types", event_types, responses={200: {"model": WebhookEventTypes}, **errors})


async def create(request: Request) -> Response:
    """Tell a URL how this key's videos end, from now on. Only this answer and that of `rotate_secret` have the signing secret."""
    desk = _http.desk_of(request)
    name, url, events = await _read_endpoint(request)
    for field, value in (("name", name), ("url", url), ("event_types", events)):
        if value is None:
            raise InvalidParameter(field, "missing", _RULES[field])
    assert url is not None
    await desk.service.webhooks.check(url, "url")
    caller = _http.caller_of(request)
    made, secret = await desk.write(desk.service.webhooks.add, url, events or (), caller, name or "")
    return _with_secret(made, secret)


async def page(request: Request) -> Response:
    """List the key's endpoints, the newest first."""
    desk = _http.desk_of(request)
    query = _http.Fields(dict(request.query_params))
    limit, order = _http.limit_and_order(query, min_limit=0)
    found = await desk.read(desk.service.webhooks.endpoints, _http.caller_of(request))
    if order == "desc":
        found.reverse()
    shown = _after(found, query.text("after"))
    data = await _shown(desk, shown[:limit])
    ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    return JSONResponse({"object": "list", "data": data, **ends, "has_more": len(shown) > limit})


async def retrieve(webhook_endpoint_id: str, request: Request) -> Response:
    """Show an endpoint."""
    desk = _http.desk_of(request)
    found = await desk.read(desk.service.webhooks.endpoint, webhook_endpoint_id, _http.caller_of(request))
    return JSONResponse((await _shown(desk, [found]))[0])


async def update(webhook_endpoint_id: str, request: Request) -> Response:
    """Change what is given of an endpoint. Another URL gets what is still to be sent, and is told even if the old one answered 410."""
    desk, caller = _http.desk_of(request), _http.caller_of(request)
    name, url, events = await _read_endpoint(request)
    await desk.read(desk.service.webhooks.endpoint, webhook_endpoint_id, caller)
    if url is not None:
        await desk.service.webhooks.check(url, "url")
    change = desk.service.webhooks.change
    changed = await desk.write(change, webhook_endpoint_id, caller, name=name, url=url, events=events)
    return JSONResponse((await _shown(desk, [changed]))[0])


async def delete(webhook_endpoint_id: str, request: Request) -> Response:
    """Forget an endpoint; what was still to be sent there is not."""
    desk = _http.desk_of(request)
    await desk.write(desk.service.webhooks.remove, webhook_endpoint_id, _http.caller_of(request))
    gone = {"id": webhook_endpoint_id, "object": "webhook_endpoint.deleted", "deleted": True}
    return JSONResponse(gone)


async def rotate_secret(webhook_endpoint_id: str, request: Request) -> Response:
    """Give an endpoint another secret. The old one ends now, or signs too for 24 hours if that is asked for."""
    desk, caller = _http.desk_of(request), _http.caller_of(request)
    fields = await _http.read_body(request, desk.max_body_bytes, may_be_empty=True)
    fields.check_names((KEEP,))
    keep = fields.boolean(KEEP) or False
    rotate = desk.service.webhooks.rotate
    good = await desk.write(rotate, webhook_endpoint_id, caller, keep_old=keep)
    endpoint = await desk.read(desk.service.webhooks.endpoint, webhook_endpoint_id, caller)
    return _with_secret(endpoint, good[0])


async def test(webhook_endpoint_id: str, request: Request) -> Response:
    """Send an endpoint a signed sample, once, and tell what it has answered; 400 if it gives no answer."""
    desk, caller = _http.desk_of(request), _http.caller_of(request)
    fields = await _http.read_body(request, desk.max_body_bytes)
    fields.check_names(("event_type",))
    name = fields.text("event_type")
    if not name:
        raise InvalidParameter("event_type", "missing", _EVENT_RULE)
    event = EventType(_known("event_type", name))
    send = desk.service.webhooks.test_with
    sent = await desk.write(send, webhook_endpoint_id, caller, event, _sample(event))
    status = await _answer_to(request, sent)
    shown = {"webhook_endpoint_id": webhook_endpoint_id, "event_type": event.value, "status_code": status}
    return JSONResponse({"object": "webhook_endpoint.test", **shown, "success": True})


async def event_types(request: Request) -> Response:
    """List what endpoints can be told."""
    return JSONResponse({"object": "list", "data": [event.value for event in JOB_EVENTS]})


async def _answer_to(request: Request, sent: Delivery) -> int:
    """Wait for the first attempt to deliver a message; returns the status of its answer, or raises EndpointSilent."""
    desk, caller = _http.desk_of(request), _http.caller_of(request)
    until = time.monotonic() + TEST_SECONDS
    while not sent.attempts and sent.status is MessageStatus.PENDING and time.monotonic() < until:
        await asyncio.sleep(LOOK_SECONDS)
        sent = await desk.read(desk.service.webhooks.delivery, sent.id, caller)
    if sent.attempts and sent.attempts[0].outcome.status is not None:
        return sent.attempts[0].outcome.status
    reason = sent.attempts[0].outcome.reason if sent.attempts else sent.reason or "nobody has sent it yet"
    raise EndpointSilent(f"the webhook endpoint gave no answer: {reason}")


def _sample(event: EventType) -> Mapping[str, Any]:
    """Write what is told of a video that nobody has made."""
    now = datetime.now(UTC)
    return {
        "id": f"evt_test_{secrets.token_hex(8)}",
        "object": "event",
        "created_at": int(now.timestamp()),
        "type": event.value,
        "timestamp": now.isoformat(),
        "data": {"id": "video_test"},
    }


async def _read_endpoint(request: Request) -> tuple[str | None, str | None, list[str] | None]:
    fields = await _http.read_body(request, _http.desk_of(request).max_body_bytes, may_be_empty=True)
    return await _http.in_thread_if_large(fields.num_bytes, lambda: _endpoint_of(fields))


def _endpoint_of(fields: _http.Fields) -> tuple[str | None, str | None, list[str] | None]:
    fields.check_names(_FIELDS)
    name, url = fields.text("name", max_chars=MAX_NAME_CHARS), fields.text("url")
    for field, text in (("name", name), ("url", url)):
        if text is not None and not text.strip():
            raise InvalidParameter(field, "empty", _RULES[field])
    if fields.raw("event_types") is None:
        return name, url, None
    events = [_known("event_types", event) for event in fields.listing("event_types", 100)]
    if not events:
        raise InvalidParameter("event_types", "empty", _RULES["event_types"])
    return name, url, events


def _known(field: str, event: object) -> str:
    if event not in tuple(JOB_EVENTS):
        raise InvalidParameter(field, _http.shown(event), _EVENT_RULE)
    return str(event)


def _after(found: list[Endpoint], endpoint_id: str | None) -> list[Endpoint]:
    if not endpoint_id:
        return found
    ids = [endpoint.id for endpoint in found]
    if endpoint_id not in ids:
        raise InvalidParameter("after", endpoint_id, "no webhook endpoint has this id")
    return found[ids.index(endpoint_id) + 1 :]


async def _shown(desk: _http.Desk, endpoints: Sequence[Endpoint]) -> list[dict[str, Any]]:
    hints = await desk.read(desk.service.webhooks.hints, endpoints)
    return [_endpoint(endpoint, hints.get(endpoint.id)) for endpoint in endpoints]


def _with_secret(endpoint: Endpoint, secret: Secret) -> Response:
    shown = {**_endpoint(endpoint, secret.value[-4:]), "signing_secret": secret.value}
    return JSONResponse(shown, headers=PRIVATE)


def _endpoint(endpoint: Endpoint, hint: str | None) -> dict[str, Any]:
    return {
        "id": endpoint.id,
        "object": "webhook_endpoint",
        "created_at": int(endpoint.created_at.timestamp()),
        "updated_at": int((endpoint.updated_at or endpoint.created_at).timestamp()),
        "name": endpoint.name,
        "url": endpoint.url,
        "event_types": [event.value for event in endpoint.events],
        "signing_secret_hint": None if hint is None else f"{SECRET_PREFIX}...{hint}",
        # ours: the SDKs keep what they do not know
        "disabled_at": endpoint.disabled_at and int(endpoint.disabled_at.timestamp()),
        "disabled_reason": endpoint.disabled_reason,
    }


KEEP = "keep_old_secret_active_for_24_hours"
_FIELDS = ("name", "url", "event_types")
_EVENT_RULE = f"it must be one of {', '.join(JOB_EVENTS)}: this server has no other events"
_RULES = {
    "name": "it must be your own word for the endpoint",
    "url": "it must say where webhooks are sent",
    "event_types": f"it must name at least one of {', '.join(JOB_EVENTS)}",
}
_event = {"type": "string", "enum": [event.value for event in JOB_EVENTS]}
_SCHEMAS: dict[str, dict[str, Any]] = {
    "name": {"type": "string", "minLength": 1, "maxLength": MAX_NAME_CHARS, "description": "Your own word for it."},
    "url": {"type": "string", "minLength": 1, "description": "An http or https URL."},
    "event_types": {"type": "array", "items": _event, "minItems": 1, "description": "All that it is told."},
    "event_type": {**_event, "description": "What the sample says has happened."},
    KEEP: {"type": "boolean", "default": False, "description": "Let the old secret sign too for so long."},
}  # fmt: skip


def _body(*names: str, required: Sequence[str] = ()) -> dict[str, Any]:
    described: dict[str, Any] = {
        "type": "object",
        "properties": {name: _SCHEMAS[name] for name in names},
        "additionalProperties": False,
    }
    if required:
        described["required"] = list(required)
    return {"requestBody": {"required": bool(required), "content": {"application/json": {"schema": described}}}}  # fmt: skip
