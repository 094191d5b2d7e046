"""Models that are on this server."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

from starlette.requests import Request

from vitascope.dialects import _http
from vitascope.domain.errors import InvalidParameter, UnknownModel
from vitascope.service.commands import weights_of

from .calls import TEXT, Call, done

DATE = "%m/%d/%Y %H:%M:%S"
"""As the vendor writes it; ours are UTC."""


async def verify_model(request: Request, fields: _http.Fields) -> dict[str, Any]:
    """Tell whether a model is on this server, by its id or another of its names."""
    await check_here(request, model_id_of(fields))
    return done("Model exists on server")


async def get_all_models(request: Request, _fields: _http.Fields) -> dict[str, Any]:
    """List the models whose files are on this server. `load_data` is the vendor's word for when they came."""
    here = await models_here(request)
    models = [{"load_data": since.strftime(DATE), "model_id": model_id} for model_id, since in here.items()]
    return {"models": models, "status": "success"}


async def check_here(request: Request, name: str) -> None:
    """Find out whether a model of this name is here; raises UnknownModel."""
    spec = _http.desk_of(request).service.spec(name)
    if spec.id not in await models_here(request):
        raise UnknownModel(f"model `{spec.id}` has a card, but its files are not on this server")


async def models_here(request: Request) -> dict[str, datetime]:
    """Find the models whose files this machine or a worker has, and since when; of another machine's, since its worker runs."""
    desk = _http.desk_of(request)
    specs = desk.service.models(_http.caller_of(request))
    states = await desk.read(desk.service.commands.workers)
    told = {model_id: state.started_at for state in states for model_id in state.available or ()}
    own = await asyncio.to_thread(lambda: {spec.id: weights_of(spec).since for spec in specs})
    found = {spec.id: own[spec.id] or told.get(spec.id) for spec in specs}
    return {model_id: since for model_id, since in found.items() if since is not None}


def model_id_of(fields: _http.Fields) -> str:
    """Return the field that most of these calls need.

    Raises:
        InvalidParameter: it is missing.
    """
    name = (fields.text("model_id") or "").strip()
    if not name:
        raise InvalidParameter("model_id", "missing", "it must name a model")
    return name


CALLS = (
    Call("verify_model", verify_model, done("Model exists on server"), {"model_id": TEXT}, ("model_id",)),
    Call(
        "get_all_models",
        get_all_models,
        {"models": [{"load_data": "01/25/2023 11:52:22", "model_id": "pocket"}], "status": "success"},
    ),
)
