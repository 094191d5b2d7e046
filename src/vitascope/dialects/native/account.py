"""/api/v1/account, /api/v1/quote and keys' credits: what a key has and may, and what things cost."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vitascope.dialects import _http
from vitascope.domain.access import Scope
from vitascope.domain.errors import InvalidParameter
from vitascope.domain.money import Balance

from . import schema
from .answers import error_response
from .keys import allowed
from .reading import read_plan

DEFAULT_LIMIT = 100

GRANT = ("amount", "note", "reference", "is_on")


def router() -> APIRouter:
    """Make the routes."""
    both = APIRouter()
    own = APIRouter(prefix="/api/v1", tags=["Credits"], route_class=_http.route_class(error_response))
    add, errors = own.add_api_route, schema.ERRORS
    add("/account", account, responses={200: {"model": schema.Account}, **errors})
    quoted = {200: {"model": schema.Quote}, **errors}
    add("/quote", quote, methods=["POST"], responses=quoted, openapi_extra=schema.PLAN)
    add("/keys/{key_id}/credits", credits_of, responses={200: {"model": schema.Credits}, **errors})
    page = {200: {"model": schema.LedgerPage}, **errors}
    add("/keys/{key_id}/ledger", ledger, responses=page, openapi_extra=schema.LEDGER_PAGE)
    both.include_router(own)
    admin = _http.route_class(error_response, scope=Scope.ADMIN)
    operators = APIRouter(prefix="/api/v1", tags=["Credits"], route_class=admin)
    granted = {200: {"model": schema.Credits}, **errors}
    operators.add_api_route(
        "/keys/{key_id}/credits", grant, methods=["POST"], responses=granted, openapi_extra=schema.GRANT
    )
    both.include_router(operators)
    return both


async def account(request: Request) -> Response:
    """Show what the key that asks may, has and uses: credits, jobs that wait and run, files, and its limits."""
    desk, caller = _http.desk_of(request), _http.caller_of(request)
    use = await desk.read(desk.service.use_of, caller)
    balance = await desk.read(desk.service.credits.balance, caller.key_id)
    limits = caller.limits
    return JSONResponse(
        {
            "key_id": caller.key_id or None,
            "scopes": sorted(caller.scopes),
            "credits": _standing(balance),
            "jobs": {"queued": use.num_queued, "running": use.num_running},
            "stored_bytes": use.stored_bytes,
            "limits": {
                "requests_per_minute": limits.requests_per_minute,
                "max_running": limits.max_running,
                "max_queued": limits.max_queued,
                "max_storage_bytes": limits.max_storage_bytes,
                "models": list(limits.models),
            },
        }
    )


async def quote(request: Request) -> Response:
    """Tell what a request would cost, and whether the key that asks has so much; takes what `POST /api/v1/jobs` takes, and stores nothing."""
    desk = _http.desk_of(request)
    caller = _http.caller_of(request)
    draft = await read_plan(request)
    if draft.sent.has_urls:
        await desk.count(request)  # what is fetched is a job's work
    draft = await desk.with_measured_video(caller, draft)  # its size and length may be what is paid for
    balance = await desk.read(desk.service.credits.balance, caller.key_id)
    found = desk.service.quote(draft)
    is_enough = balance is None or balance.credits >= found.credits
    return JSONResponse(
        {"model": draft.plan.model, **found.to_dict(), "balance": _standing(balance), "is_enough": is_enough}
    )


async def credits_of(key_id: str, request: Request) -> Response:
    """Show where a key stands: its own, or any with the scope `admin`. `self` is the key that asks; null stands for one that is not counted."""
    return await _shown(request, allowed(key_id, request))


async def grant(key_id: str, request: Request) -> Response:
    """Give a key credits, or take some back (`amount` below zero), or count it no more (`is_on` false).

    A grant with a `reference` is made once, however often it is sent.
    """
    desk = _http.desk_of(request)
    fields = await _http.read_body(request, desk.max_body_bytes)
    fields.check_names(GRANT)
    amount, is_on = fields.integer("amount"), fields.boolean("is_on")
    note = fields.text("note") or ""
    reference = fields.text("reference")
    if amount is None and is_on is None:
        raise InvalidParameter("amount", "missing", "it must say how many credits are given")
    if amount is not None:
        await desk.write(desk.service.credits.grant, key_id, amount, note=note, reference=reference)
    if is_on is not None:
        await desk.write(desk.service.credits.count, key_id, is_on=is_on)
    return await _shown(request, key_id)


async def ledger(key_id: str, request: Request) -> Response:
    """List what has moved on a key's accounts, the newest first: its own, or any with the scope `admin`. `self` is the key that asks."""
    desk, key_id = _http.desk_of(request), allowed(key_id, request)
    query = _http.Fields(dict(request.query_params))
    query.check_names(("before", "limit"))
    limit, before = query.integer("limit"), query.integer("before")
    limit = DEFAULT_LIMIT if limit is None else limit
    found = await desk.read(desk.service.credits.entries, key_id, before=before, limit=limit)
    entries = [entry.to_dict() for entry in found.entries]
    return JSONResponse({"entries": entries, "has_more": found.has_more})


async def _shown(request: Request, key_id: str) -> Response:
    desk = _http.desk_of(request)
    if key_id:
        await desk.read(desk.service.keys.get, key_id)
    balance = await desk.read(desk.service.credits.any_balance, key_id)
    return JSONResponse({"key_id": key_id or None, "credits": _standing(balance)})


def _standing(balance: Balance | None) -> dict[str, Any] | None:
    return None if balance is None else balance.to_dict()
