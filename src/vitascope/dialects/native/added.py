"""Models that operators add while the server runs: `POST /api/v1/models`, `GET /api/v1/added-models`.

They are removed as others are, by `DELETE /api/v1/models/{id}`.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vitascope.dialects import _http
from vitascope.domain.access import Scope
from vitascope.domain.added import AddedModel, ModelKind
from vitascope.domain.errors import InvalidParameter
from vitascope.service import Wish

from . import schema
from .answers import error_response
from .models import ordered

FIELDS = ("id", "source", "kind", "revision", "webhook")


def router() -> APIRouter:
    """Make the routes; for operators."""
    admin = _http.route_class(error_response, scope=Scope.ADMIN)
    made = APIRouter(prefix="/api/v1", tags=["Operators"], route_class=admin)
    made.add_api_route(
        "/models",
        add,
        methods=["POST"],
        status_code=202,
        responses={202: {"model": schema.Command}, **schema.ERRORS},
        openapi_extra=schema.ADD_MODEL,
    )
    made.add_api_route(
        "/added-models", page, responses={200: {"model": schema.AddedModelList}, **schema.ERRORS}
    )
    return made


async def add(request: Request) -> Response:
    """Add a model from a hub, a folder or a URL that the operator's settings allow: workers fetch it, look what it is, and load it."""
    desk = _http.desk_of(request)
    fields = await _http.read_body(request, desk.max_body_bytes)
    fields.check_names(FIELDS)
    source, name = fields.text("source") or "", fields.text("id")
    kind = fields.text("kind") or ModelKind.PIPELINE.value
    if not source:
        raise InvalidParameter("source", "missing", "it must say where the files are")
    if kind not in [each.value for each in ModelKind]:
        raise InvalidParameter("kind", kind, f"it must be one of {', '.join(ModelKind)}")
    webhook = fields.text("webhook") or None
    if webhook is not None:
        await desk.service.webhooks.check(webhook)
    wish = Wish(
        id=name or _usual_id(source, ModelKind(kind)),
        source=source,
        kind=ModelKind(kind),
        revision=fields.text("revision") or None,
        webhook=webhook,
    )
    return ordered(await desk.write(desk.service.additions.add, wish, _http.caller_of(request)))


async def page(request: Request) -> Response:
    """List what was added and not removed, the oldest first; also what is still being fetched."""
    desk = _http.desk_of(request)
    found = await desk.read(desk.service.additions.all)
    return JSONResponse({"models": [added_object(model) for model in found]})


def added_object(model: AddedModel) -> dict[str, Any]:
    """Show what was added; where on this machine a folder is, is for who has added it."""
    return {
        "id": model.id,
        "kind": model.kind.value,
        "source": model.source,
        "revision": model.revision,
        "command": model.command_id,
        "created_at": model.created_at.isoformat(),
        "ready_at": model.ready_at and model.ready_at.isoformat(),
    }


def _usual_id(source: str, kind: ModelKind) -> str:
    """Name it as the last part of where it is from is called; a hub's model by its whole name."""
    name = source.rstrip("/").removesuffix(".safetensors")
    if kind is ModelKind.PIPELINE and not name.startswith(("/", "http")):
        return name.removeprefix("hub:")
    return name.rpartition("/")[2]
