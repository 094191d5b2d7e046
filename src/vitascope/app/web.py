"""The web app: the service with every dialect, and what runs beside it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

from vitascope import __version__
from vitascope.catalog import Catalog
from vitascope.dialects import (
    _enterprise,
    _http,
    modelslab,
    native,
    openai,
    openrouter,
    soratasks,
    stablediffusionapi,
)
from vitascope.domain.command import SILENCE_LEASES
from vitascope.domain.webhook import STANDARD
from vitascope.outbound import Outbound
from vitascope.service import (
    Expiry,
    Feeder,
    OperatorRules,
    Removal,
    Service,
)
from vitascope.settings import Settings
from vitascope.storage import Space, Storage
from vitascope.store import Store
from vitascope.webhooks import Deliverer, Format

from .opening import (
    keys_of_peers,
    open_catalog,
    open_credentials,
    open_outbound,
    open_places,
    open_prompt_check,
    open_store,
)
from .operations import file_routes, operation_routes

if TYPE_CHECKING:
    from vitascope.moderation import PromptCheck

CORS_REQUEST_HEADERS = [
    "Authorization", "X-Api-Key", "Api-Key", "Idempotency-Key", "Last-Event-ID", "Range",
    # of OpenRouter's clients
    "HTTP-Referer", "X-Title", "X-OpenRouter-Title", "X-OpenRouter-Categories", "X-Session-Id",
]  # fmt: skip

CORS_ANSWER_HEADERS = [
    "X-Request-Id", "Location", "Retry-After", "Content-Range", "openai-poll-after-ms",
    "X-RateLimit-Limit-Requests", "X-RateLimit-Remaining-Requests", "X-RateLimit-Reset-Requests",
]  # fmt: skip

EXPIRY_STOP_SECONDS = 5.0
"""What the removal of expired files may take for the job that it is at when the server stops."""


def create_web_app(settings: Settings) -> FastAPI:
    """Make the web app. Its store is opened when it starts, and closed when it ends.

    Raises:
        SettingsError: a card, an allowed host or the certificate cannot be read.
    """
    catalog = open_catalog(settings)
    outbound = open_outbound(settings)
    _ = settings.mark_rules  # what is wrong with them shows now
    prompt_check = open_prompt_check(settings)
    credentials = open_credentials(settings)
    certificates = "" if credentials is None else credentials.certificates

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, _http.Desk]]:
        store = open_store(settings)
        files = open_places(settings, store)
        service = _service(settings, store, catalog, files, outbound, prompt_check, certificates)
        catalog.watch(store.added_models)
        await asyncio.to_thread(service.links.warm_up)
        desk = _http.Desk(service, settings.server.max_body_bytes, store.has_quick_reads)
        app.state.tail = desk.tail
        reader = asyncio.create_task(desk.tail.run())
        expiry = Expiry(store, files, others=[Removal(store, files).advance])
        expiring = threading.Thread(target=expiry.run, name="expiry", daemon=True)
        expiring.start()
        deliverer = _deliverer(settings, store, outbound, desk)
        sender = asyncio.create_task(deliverer.run())
        # how the requests of batches are read and answered, by their endpoint
        videos = openai.VideosBatch(service, app.state.openai)
        feeder = Feeder(
            service, store, {videos.endpoint: videos}, desk.with_inputs, read=desk.read_much, write=desk.write
        )
        feeding = asyncio.create_task(feeder.run())
        try:
            yield {"desk": desk}
        finally:
            expiry.stop()
            desk.tail.close()
            deliverer.close()
            feeder.close()
            await reader
            await sender
            await feeding
            await desk.close()
            # it may be waiting for a storage that is away; what it has begun is done again by whoever comes next
            await asyncio.to_thread(expiring.join, EXPIRY_STOP_SECONDS)
            store.close()

    app = FastAPI(
        title="Vitascope",
        version=__version__,
        description="A self-hosted video generation server.",
        lifespan=lifespan,
        # these pages load scripts from elsewhere
        docs_url=None,
        redoc_url=None,
        exception_handlers={HTTPException: _framework_error},  # type: ignore[dict-item]
        redirect_slashes=False,
    )
    app.state.is_stopping = False
    app.state.openai = openai.Manner(**settings.openai.model_dump())
    app.state.enterprise = _enterprise.Manner(**settings.modelslab.model_dump())
    if not settings.server.allow_public:
        app.add_middleware(
            _http.LoopbackGuard,
            render=openai.error_response,
            public_url=settings.server.public_url,
            origins=settings.server.cors_origins,
        )
    if settings.server.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.server.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=CORS_REQUEST_HEADERS,
            expose_headers=CORS_ANSWER_HEADERS,
        )
    app.add_middleware(_http.Edge, render=openai.error_response)
    app.include_router(operation_routes())
    app.include_router(file_routes())
    for dialect in (
        native.NativeDialect(has_open_gallery=settings.gallery.open),
        openai.OpenAIDialect(app.state.openai),
        openrouter.OpenRouterDialect(),
        modelslab.ModelsLabDialect(),
        stablediffusionapi.StableDiffusionApiDialect(),
        soratasks.SoraTasksDialect(),
    ):
        app.include_router(dialect.router())
    return app


def _service(
    settings: Settings,
    store: Store,
    catalog: Catalog,
    files: Storage,
    outbound: Outbound | None,
    prompt_check: PromptCheck | None,
    certificates: str,
) -> Service:
    return Service(
        store,
        catalog,
        files,
        max_queued=settings.store.max_queued,
        max_queued_per_key=settings.store.max_queued_per_key,
        worker_silence_seconds=SILENCE_LEASES * settings.worker.lease_seconds,
        outbound=outbound,
        max_fetched_bytes=settings.outbound.max_bytes,
        unknown_model_falls_back=settings.server.unknown_model_falls_back,
        sends_to_storage=settings.storage.content == "redirect",
        public_url=settings.server.public_url,
        link_seconds=settings.storage.link_seconds,
        rules=OperatorRules(
            marks=settings.mark_rules,
            improved_sampling_iterations=settings.engine.improved_sampling_iterations,
            speed=settings.engine.speed,
            expire_seconds=settings.storage.expire_seconds,
            prompts=settings.prompt_rules,
            shows_previews=not settings.moderation.frames,
        ),
        certificates=certificates,
        prompt_check=prompt_check,
        allowed=catalog.allowed,
        peers=keys_of_peers(settings),
        prices=settings.credits.prices,
        unsafe_from=settings.moderation.threshold,
        space=Space((settings.home, settings.files_folder), settings.storage.min_free_bytes),
    )


#: How the ends of jobs are told, by the name that a request's webhook has for it; each dialect adds its own. Those that
#: tell addresses of files are added where there is a service that makes them.
WEBHOOK_FORMATS = {
    STANDARD: Format(openai.webhook_body),
    openrouter.FORMAT: Format(openrouter.webhook_body, headers=openrouter.webhook_headers),
}


def _deliverer(settings: Settings, store: Store, outbound: Outbound | None, desk: _http.Desk) -> Deliverer:
    formats = {
        **WEBHOOK_FORMATS,
        _enterprise.FORMAT: Format(
            _enterprise.webhook_body(desk.service), seconds=_enterprise.WEBHOOK_SECONDS
        ),
    }
    return Deliverer(
        store,
        None if outbound is None else outbound.post,
        formats,
        read=desk.read_much,  # of a long backlog a look takes tenths of a second
        write=desk.write,
        keep=timedelta(days=settings.webhooks.keep_days),
    )


def _framework_error(request: Request, error: HTTPException) -> Response:
    """Answer what the framework found wrong, such as an unknown path, in its vendor's form or the one that most clients read."""
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    headers = dict(error.headers or {})
    if request.url.path.removeprefix(request.scope.get("root_path", "")).startswith(_enterprise.PREFIXES):
        return _enterprise.unknown_call(error.status_code, code, headers)
    return openai.envelope(error.status_code, str(error.detail), code=code, headers=headers)
