"""/api/v1/models, /commands and /workers: what there is, for any key; what shall be done with it, for operators.

A model's id may hold one slash, where the operator has named a hub repository instead of a card; no action is a GET or a
DELETE, so that a path is never two things.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vitascope.dialects import _http
from vitascope.domain.access import Scope
from vitascope.domain.command import Command, CommandKind, Errand, WorkerState
from vitascope.domain.errors import PermissionDenied
from vitascope.domain.model_spec import ModelSpec
from vitascope.service.commands import weights_of

from . import schema
from .answers import error_response, model_object

ID = "{model_id:path}"


def router() -> APIRouter:
    """Make the routes."""
    both = APIRouter()
    reads = APIRouter(prefix="/api/v1", tags=["Models"], route_class=_http.route_class(error_response))
    add, errors = reads.add_api_route, schema.ERRORS
    add("/models", page, responses={200: {"model": schema.ModelPage}, **errors})
    add(f"/models/{ID}", show, responses={200: {"model": schema.ModelDescription}, **errors})
    both.include_router(reads)
    admin = _http.route_class(error_response, scope=Scope.ADMIN)
    writes = APIRouter(prefix="/api/v1", tags=["Operators"], route_class=admin)
    add = writes.add_api_route
    command: dict[int | str, dict[str, Any]] = {202: {"model": schema.Command}, **errors}
    for kind, endpoint, body in (
        ("pull", pull, schema.options("repair")),
        ("verify", verify, schema.options()),
        ("load", load, schema.options()),
        ("unload", unload, schema.options()),
    ):
        add(
            f"/models/{ID}/{kind}",
            endpoint,
            methods=["POST"],
            status_code=202,
            responses=command,
            openapi_extra=body,
        )
    add(
        f"/models/{ID}",
        remove,
        methods=["DELETE"],
        status_code=202,
        responses=command,
        openapi_extra=schema.REMOVE,
    )
    for path, about_all, option in (
        ("restart", restart, "process"),
        ("clear-caches", clear_caches, "models"),
    ):
        add(
            f"/workers/{path}",
            about_all,
            methods=["POST"],
            status_code=202,
            responses=command,
            openapi_extra=schema.options(option),
        )
    add("/workers", workers, responses={200: {"model": schema.WorkerList}, **errors})
    add("/commands", commands, responses={200: {"model": schema.CommandList}, **errors})
    add("/commands/{command_id}", show_command, responses={200: {"model": schema.Command}, **errors})
    both.include_router(writes)
    return both


async def page(request: Request) -> Response:
    """List the models with all that they accept, and what there is of each on this machine; the default one first."""
    desk = _http.desk_of(request)
    specs = desk.service.models(_http.caller_of(request))
    return JSONResponse({"models": await _shown(desk, specs)})


async def show(model_id: str, request: Request) -> Response:
    """Show a model, by its id or another of its names."""
    desk = _http.desk_of(request)
    spec = desk.service.spec(model_id)
    if not _http.caller_of(request).may_use(spec.id):
        raise PermissionDenied(f"this API key may not use the model `{spec.id}`")
    (shown,) = await _shown(desk, [spec])
    return JSONResponse(shown)


async def _shown(desk: _http.Desk, specs: Sequence[ModelSpec]) -> list[dict[str, Any]]:
    states = await desk.read(desk.service.commands.workers)
    found = await asyncio.to_thread(lambda: [weights_of(spec) for spec in specs])
    adapters = await asyncio.to_thread(lambda: [desk.service.loras_of(spec) for spec in specs])
    default = desk.service.spec(None).id
    return [
        {
            **model_object(spec),
            "is_default": spec.id == default,
            # a folder's path is the operator's business
            "source": "folder" if spec.source.startswith("folder:") else spec.source,
            "revision": weights.revision,
            "downloaded": weights.is_downloaded,
            "num_bytes_on_disk": weights.num_bytes,
            "problem": weights.problem or problem,
            "loaded_on": [state.id for state in states if spec.id in state.loaded],
            "loras": loras,
            "price": dataclasses.asdict(desk.service.credits.price_of(spec)),
        }
        for spec, weights, (loras, problem) in zip(specs, found, adapters, strict=True)
    ]


async def pull(model_id: str, request: Request) -> Response:
    """Download a model's files on the workers' machines, or go on with it; `repair` also reads what is there."""
    return await _order(request, CommandKind.PULL, model_id, "repair")


async def verify(model_id: str, request: Request) -> Response:
    """Read a model's files and compare them with their checksums."""
    return await _order(request, CommandKind.VERIFY, model_id)


async def load(model_id: str, request: Request) -> Response:
    """Load a model, so that its next job starts at once."""
    return await _order(request, CommandKind.LOAD, model_id)


async def unload(model_id: str, request: Request) -> Response:
    """Unload a model."""
    return await _order(request, CommandKind.UNLOAD, model_id)


async def remove(model_id: str, request: Request) -> Response:
    """Remove a model's download; `force` unloads it first. What was not downloaded by Vitascope or its hub is not touched.

    What was added while the server runs is no longer known then, and unloaded in any case.
    """
    desk = _http.desk_of(request)
    if await desk.read(desk.service.additions.has, model_id):
        command = await desk.write(desk.service.additions.delete, model_id)
        return Response(status_code=204) if command is None else ordered(command)
    return await _order(request, CommandKind.REMOVE, model_id, "force")


async def restart(request: Request) -> Response:
    """Start engine processes anew, between jobs; or, with `process`, the workers themselves, whose jobs are not waited for longer than at a stop."""
    return await _order(request, CommandKind.RESTART, None, "process")


async def clear_caches(request: Request) -> Response:
    """Give back memory that engines keep for speed only; with `models` that of the loaded models too."""
    return await _order(request, CommandKind.CLEAR_CACHES, None, "models")


async def _order(request: Request, kind: CommandKind, model_id: str | None = None, *options: str) -> Response:
    desk = _http.desk_of(request)
    if request.method == "DELETE":
        fields = _http.Fields(dict(request.query_params))
    else:
        fields = await _http.read_body(request, desk.max_body_bytes, may_be_empty=True)
    fields.check_names(("worker", *options))
    chosen = [name for name in options if fields.boolean(name)]
    if "process" in chosen:
        kind, chosen = CommandKind.RESTART_WORKER, []
    spec = None if model_id is None else desk.service.spec(model_id)
    order = desk.service.commands.order
    command = await desk.write(order, kind, spec, worker=fields.text("worker") or None, options=chosen)
    return ordered(command)


def ordered(command: Command) -> Response:
    """Answer with a command that was given."""
    answer = JSONResponse(command_object(command), status_code=202)
    answer.headers["location"] = f"/api/v1/commands/{command.id}"
    return answer


async def workers(request: Request) -> Response:
    """List the workers that live, with what they have loaded, or the peer server that makes their jobs."""
    desk = _http.desk_of(request)
    states = await desk.read(desk.service.commands.all_workers)
    return JSONResponse({"workers": [_worker_object(state) for state in states]})


async def commands(request: Request) -> Response:
    """List the commands of the last day, the newest first."""
    desk = _http.desk_of(request)
    found = await desk.read(desk.service.commands.all)
    return JSONResponse({"commands": [command_object(command) for command in found]})


async def show_command(command_id: str, request: Request) -> Response:
    """Show how far each worker is with a command."""
    desk = _http.desk_of(request)
    return JSONResponse(command_object(await desk.read(desk.service.commands.get, command_id)))


def command_object(command: Command) -> dict[str, Any]:
    return {
        "id": command.id,
        "kind": command.kind.value,
        "model": command.model or None,
        "status": command.status.value,
        "created_at": command.created_at.isoformat(),
        "workers": [_errand_object(errand) for errand in command.errands],
    }


def _errand_object(errand: Errand) -> dict[str, Any]:
    return {
        "worker": errand.worker_id,
        "status": errand.status.value,
        "message": errand.message,
        "num_bytes": errand.num_bytes,
        "total_bytes": errand.total_bytes,
        "started_at": errand.started_at and errand.started_at.isoformat(),
        "finished_at": errand.finished_at and errand.finished_at.isoformat(),
    }


def _worker_object(state: WorkerState) -> dict[str, Any]:
    return {
        "id": state.id,
        "device": state.device,
        "peer": state.peer,
        "loaded": list(state.loaded),
        "available": None if state.available is None else list(state.available),
        "memory": state.residency.to_dict(),
        "started_at": state.started_at.isoformat(),
    }
