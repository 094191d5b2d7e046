"""The server itself: what it is doing, its workers and their memory, its queue."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request

from vitascope import __version__
from vitascope.dialects import _http
from vitascope.domain.command import WORKER_STOPPED, Command, CommandKind, CommandStatus
from vitascope.domain.errors import InternalError, NoWorker
from vitascope.domain.schedulers import EIGHTEEN

from .calls import Call, done
from .models import models_here
from .waiting import ended


async def system_details(request: Request, _fields: _http.Fields) -> dict[str, Any]:
    """Tell how many models there are, and in how many seconds a video that was asked for now would begin to be made."""
    desk = _http.desk_of(request)
    service = desk.service
    problem = await desk.read(service.condition.why_not_ready)
    states = await desk.read(service.commands.workers)
    stats = await desk.read(service.condition.queue_stats)
    models = await models_here(request)
    since = min((state.started_at for state in states), default=None)
    return {
        "status": "ok" if problem is None else "error",
        **({} if problem is None else {"message": problem, "messege": problem}),
        "model_count": len(models),
        "queue_time": math.ceil(await desk.queue_seconds()),
        "data": {
            "server_version": __version__,
            "uptime": 0 if since is None else int((datetime.now(UTC) - since).total_seconds()),
            "workers": len(states),
            "devices": sorted(state.device for state in states),
            "loaded_models": sorted({model for state in states for model in state.loaded}),
            "queued": sum(stats.queued.values()),
            "running": sum(stats.running.values()),
        },
    }


async def restart_server(request: Request, _fields: _http.Fields) -> dict[str, Any]:
    """Start all worker processes anew. A running video may finish as at a stop of the server; else it is made again from its beginning."""
    await _order(_http.desk_of(request), CommandKind.RESTART_WORKER)
    return done("server restarting")


async def update_server(_request: Request, _fields: _http.Fields) -> dict[str, Any]:
    """Tell which version runs. Nothing is installed: that is for who runs the machine."""
    return done(f"Vitascope {__version__} is running; updates are installed on the server, by its operator")


async def clear_cache(request: Request, _fields: _http.Fields) -> dict[str, Any]:
    """Unload all models and give back what engines keep for speed only. Waits a moment for it."""
    desk = _http.desk_of(request)
    try:
        command = await ended(desk, await _order(desk, CommandKind.CLEAR_CACHES, "models"))
    except NoWorker:  # nor has anybody a cache
        return done("Cache cleared successfully")
    if command.status in (CommandStatus.QUEUED, CommandStatus.RUNNING):
        return done("Cache is cleared once the workers are free")
    if problems := _problems(command):
        raise InternalError("the cache was not cleared: " + "; ".join(problems))
    return done("Cache cleared successfully")


async def clear_queue(request: Request, _fields: _http.Fields) -> dict[str, Any]:
    """Cancel all videos that wait, webhooks and all, and start the workers anew as `restart_server` does."""
    desk = _http.desk_of(request)
    cancelled = await desk.clear_queue()
    try:
        await _order(desk, CommandKind.RESTART_WORKER)
    except NoWorker:
        return done("Queue cleared, no server is running", cancelled=cancelled)
    return done("Queue cleared, server is restarting", cancelled=cancelled)


async def schedulers_list(_request: Request, _fields: _http.Fields) -> dict[str, Any]:
    """List the names that `scheduler` may have; docs/schedulers.md tells what each is on each kind of model."""
    return {"schedulers": list(EIGHTEEN)}


async def _order(desk: _http.Desk, kind: CommandKind, *options: str) -> Command:
    return await desk.write(desk.service.commands.order, kind, options=options)


def _problems(command: Command) -> list[str]:
    """Tell what was not done; a worker that has ended meanwhile, to be started anew perhaps, has no memory any more."""
    failed = [errand for errand in command.errands if errand.status is CommandStatus.FAILED]
    return [errand.message for errand in failed if errand.message != WORKER_STOPPED]


_DETAILS = {
    "server_version": __version__,
    "uptime": 86400,
    "workers": 1,
    "devices": ["cpu"],
    "loaded_models": ["pocket"],
    "queued": 0,
    "running": 0,
}

CALLS = (
    Call(
        "system_details",
        system_details,
        {"status": "ok", "model_count": 1, "queue_time": 0, "data": _DETAILS},
    ),
    Call("restart_server", restart_server, done("server restarting")),
    Call("update_server", update_server, done(f"Vitascope {__version__} is running; …"), aliases=("update",)),
    Call("clear_cache", clear_cache, done("Cache cleared successfully")),
    Call("clear_queue", clear_queue, done("Queue cleared, server is restarting", cancelled=3)),
    Call("schedulers_list", schedulers_list, {"schedulers": list(EIGHTEEN)}),
)
