"""/api/v1/keys: for operators, with a key of the scope `admin`; and what a key may ask about itself."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vitascope.dialects import _http
from vitascope.domain.access import KeyLimits, Scope
from vitascope.domain.errors import InvalidParameter, KeyNotFound
from vitascope.domain.secret import Secret

from . import schema
from .answers import error_response

LIMITS = ("requests_per_minute", "max_running", "max_queued", "max_storage_bytes")
PARAMETERS = ("name", "scopes", "expires_at", "models", *LIMITS)

PRIVATE = {"cache-control": "no-store"}
"""Headers of answers with a secret in them."""

SELF = "self"
"""Stands for the id of the key that asks."""


def router() -> APIRouter:
    """Make the routes."""
    both = APIRouter()
    both.include_router(_for_operators())
    both.include_router(_for_holders())
    return both


def _for_operators() -> APIRouter:
    made = APIRouter(
        prefix="/api/v1/keys", tags=["Keys"], route_class=_http.route_class(error_response, scope=Scope.ADMIN)
    )
    add, errors = made.add_api_route, schema.ERRORS
    new = {201: {"model": schema.NewKey}, **errors}
    add("", create, methods=["POST"], status_code=201, responses=new, openapi_extra=schema.CREATE_KEY)
    add("", page, responses={200: {"model": schema.KeyList}, **errors})
    add("/{key_id}", revoke, methods=["DELETE"], responses={200: {"model": schema.Key}, **errors})
    rotated = {200: {"model": schema.NewKey}, **errors}
    add("/{key_id}/rotate", rotate, methods=["POST"], responses=rotated)
    return made


def _for_holders() -> APIRouter:
    made = APIRouter(prefix="/api/v1/keys", tags=["Keys"], route_class=_http.route_class(error_response))
    add, answers = made.add_api_route, {200: {"model": schema.WebhookSecrets}, **schema.ERRORS}
    add("/{key_id}/webhook-secret", webhook_secret, responses=answers)
    add("/{key_id}/webhook-secret/rotate", rotate_webhook_secret, methods=["POST"], responses=answers)
    return made


async def create(request: Request) -> Response:
    """Make a key. It is in this answer and nowhere else: nobody can show it again."""
    desk = _http.desk_of(request)
    fields = await _http.read_body(request, desk.max_body_bytes)
    fields.check_names(PARAMETERS)
    limits = KeyLimits(
        **{name: fields.integer(name) for name in LIMITS},
        models=tuple(desk.service.spec(name).id for name in _names(fields, "models")),
    )
    name, scopes = fields.text("name") or "", _scopes(fields)
    key, secret = await desk.write(desk.service.keys.create, name, scopes, limits, _expiry(fields))
    return JSONResponse({**key.to_dict(), "key": secret}, status_code=201, headers=PRIVATE)


async def page(request: Request) -> Response:
    """List all keys that ever were, oldest first."""
    desk = _http.desk_of(request)
    return JSONResponse({"keys": [key.to_dict() for key in await desk.read(desk.service.keys.all)]})


async def revoke(key_id: str, request: Request) -> Response:
    """End a key for good. Its jobs stay, and run."""
    desk = _http.desk_of(request)
    return JSONResponse((await desk.write(desk.service.keys.revoke, key_id)).to_dict())


async def rotate(key_id: str, request: Request) -> Response:
    """Give a key another secret; the old one ends at once, jobs and limits stay."""
    desk = _http.desk_of(request)
    key, secret = await desk.write(desk.service.keys.rotate, key_id)
    return JSONResponse({**key.to_dict(), "key": secret}, headers=PRIVATE)


async def webhook_secret(key_id: str, request: Request) -> Response:
    """Show what a key's webhooks are signed with: its own, or any key's with the scope `admin`. `self` is the key that asks."""
    desk, key_id = _http.desk_of(request), allowed(key_id, request)
    return _secrets_answer(key_id, await desk.write(desk.service.keys.webhook_secrets, key_id))


async def rotate_webhook_secret(key_id: str, request: Request) -> Response:
    """Make another secret for a key's webhooks; they are signed with the old one too for 24 hours."""
    desk, key_id = _http.desk_of(request), allowed(key_id, request)
    return _secrets_answer(key_id, await desk.write(desk.service.keys.rotate_webhook_secret, key_id))


def allowed(key_id: str, request: Request) -> str:
    """Return the id that is meant; another's is no other case than an unknown one."""
    caller = _http.caller_of(request)
    if key_id == SELF:
        return caller.key_id
    if caller.owner not in (None, key_id):
        raise KeyNotFound
    return key_id


def _secrets_answer(key_id: str, secrets: tuple[Secret, ...]) -> Response:
    shown = {"key_id": key_id, "secrets": [secret.to_dict() for secret in secrets]}
    return JSONResponse(shown, headers=PRIVATE)


def _names(fields: _http.Fields, name: str) -> list[str]:
    """Read a list of names, or names joined by commas."""
    value = fields.raw(name)
    if value is None:
        return []
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(item, str) for item in names):
        raise InvalidParameter(name, "given", "it must be a list of names")
    return [item.strip() for item in names]


def _scopes(fields: _http.Fields) -> list[Scope]:
    found = []
    for name in _names(fields, "scopes") or [Scope.GENERATE]:
        try:
            found.append(Scope(name))
        except ValueError:
            raise InvalidParameter("scopes", name, f"it must be some of {', '.join(Scope)}") from None
    return found


def _expiry(fields: _http.Fields) -> datetime | None:
    text = fields.text("expires_at")
    if not text:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        rule = "it must be an instant such as 2027-01-31T12:00:00Z"
        raise InvalidParameter("expires_at", text, rule) from None
    return instant if instant.tzinfo is not None else instant.replace(tzinfo=UTC)
