"""The composition root: settings in, a running web app or a worker out. Imports no torch.

Here settings meet the rooms: each room is handed the few values that it needs.
"""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import logging
import math
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from . import __version__, media
from .catalog import Catalog
from .dialects import _enterprise, _http, modelslab, native, openai, openrouter, soratasks, stablediffusionapi
from .domain.command import SILENCE_LEASES
from .domain.errors import (
    SecretUnreadable,
    SettingsError,
    StorageError,
    StorageUnavailable,
    UnreadableImage,
    VideoNotReady,
)
from .domain.webhook import STANDARD
from .fleet.supervisor import when_orphaned
from .outbound import AllowList, Outbound
from .outbound.peer import Peer, PeerAway, PeerRefused, shown_url
from .service import Expiry, Feeder, OpenBuckets, OperatorRules, Removal, Service, StillMaking, metrics
from .settings import PeerSettings, Settings, environment_of_engine
from .storage import LocalStorage, Places, S3Storage, Space, Storage
from .store import Cipher, Store
from .webhooks import Deliverer, Format
from .worker.engine_process import EngineProcess
from .worker.parent import Worker, WorkerConfig
from .worker.peer_engine import PeerEngine
from .worker.peer_files import PeerMarks
from .worker.peer_job import Link
from .worker.peer_worker import PeerWorker

if TYPE_CHECKING:
    from .media.certificate import Credentials
    from .moderation import PromptCheck

logger = logging.getLogger(__name__)

NOT_READY_RETRY_SECONDS = 5
"""When to ask again whether the server is ready: starting a worker takes about as long."""

UNKNOWN_LINK_SECONDS, MAX_LINK_SECONDS = 5, 60
"""When to ask again for a file that is being made: where nothing was measured, and at most."""

SHUTDOWN_SECONDS = 10
"""What answers may take that are being sent when the server stops, such as downloads."""

SILENT_SECONDS = 30.0
"""A connection on which no whole request head has ever come is closed after so long. uvicorn alone would wait for ever."""

KEEP_ALIVE_SECONDS = 75
"""One that has had an answer is kept for so long: longer than load balancers keep theirs (60 s mostly). Were ours the shorter time, we might
close a connection in the very moment in which they send a request on it, and their client would be told 502."""

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

LAST_LOOK_SECONDS = 1.0
"""How long a supervised web process outlives the workers: streams and who polls learn how the last jobs ended."""


def open_store(settings: Settings) -> Store:
    """Open the job store; creates the data folder and the database, and upgrades an older one.

    Raises:
        SettingsError: it cannot be opened.
    """
    _make_home(settings)
    return Store.open(settings.database_url, cipher=cipher_of(settings))


def cipher_of(settings: Settings) -> Cipher:
    """Make what secrets are encrypted with; looks for its key when it is used."""
    return Cipher(settings.secrets.keys, settings.key_file)


def open_storage(settings: Settings) -> Storage:
    """Open the place of inputs and videos. Asks nothing of an object storage; `check_storage` does.

    Raises:
        SettingsError: the data folder cannot be written, or object storage is not installed.
    """
    _make_home(settings)
    if settings.storage.kind == "local":
        return LocalStorage(settings.files_folder)
    return _bucket_of(settings)


def _bucket_of(settings: Settings) -> S3Storage:
    chosen = settings.storage
    secret = chosen.secret_access_key
    return S3Storage(
        chosen.bucket,
        chosen.prefix,
        endpoint=chosen.endpoint_url,
        region=chosen.region_name,
        path_style=chosen.is_path_style,
        access_key_id=chosen.access_key_id,
        secret_access_key=None if secret is None else secret.get_secret_value(),
        public_url=chosen.public_url,
    )


def open_places(settings: Settings, store: Store) -> Storage:
    """Open the same, and the buckets that were named while the server ran; none of them before it is asked for a file.

    Raises:
        SettingsError: as `open_storage` does; or an allowed host cannot be read.
    """
    allow = AllowList.of(settings.outbound.allow)

    def outbound() -> Outbound:  # one for each event loop; also where users' URLs are not called any more
        return Outbound(allow, seconds=settings.outbound.max_seconds)

    return Places(open_storage(settings), OpenBuckets(store, outbound))


def check_storage(settings: Settings) -> str | None:
    """Find out before anything starts whether an object storage takes, gives and deletes files.

    Returns:
        Why it is away, if it does not answer now: jobs wait for it. None if all is well.

    Raises:
        SettingsError: it refuses the credentials, there is no such bucket, or it may not be read or written.
    """
    if settings.storage.kind == "local":
        return None
    try:
        _bucket_of(settings).check()
    except StorageUnavailable as error:
        return f"{error.message} ({error.hint}): jobs wait for it"
    except StorageError as error:
        raise SettingsError(error.message, hint=error.hint) from None
    return None


def _check_storage_and_tell(settings: Settings) -> None:
    if (problem := check_storage(settings)) is not None:
        logger.warning(problem)


def open_catalog(settings: Settings) -> Catalog:
    """Read the model cards.

    Raises:
        SettingsError: a card cannot be read, or there is no such default model.
    """
    return Catalog.open(
        settings.cards_folder,
        settings.engine.default_model,
        loras_folder=settings.loras_folder,
        needs_files=settings.engine.kind != "fake",
        allowed=settings.models.allow,
    )


def open_outbound(settings: Settings) -> Outbound | None:
    """Make the way to URLs that users give; None if it is switched off.

    Raises:
        SettingsError: an allowed host cannot be read.
    """
    allow = AllowList.of(settings.outbound.allow)
    return Outbound(allow, seconds=settings.outbound.max_seconds) if settings.outbound.enabled else None


def open_prompt_check(settings: Settings) -> PromptCheck | None:
    """Make what looks at prompts; None if nothing does.

    Raises:
        SettingsError: the list of words cannot be read, or what is switched on is not installed.
    """
    settings.moderation.check_installed()
    return settings.moderation.prompt_check()


def check_guards(settings: Settings) -> None:
    """Find out before anything starts whether prompts can be written out and content be checked as the settings want it.

    Raises:
        SettingsError: they cannot.
    """
    open_prompt_check(settings)
    _ = settings.prompting_instructions


def open_credentials(settings: Settings) -> Credentials | None:
    """Read what files are signed with, and make it if there is none yet; None if they are not signed.

    Raises:
        SettingsError: it cannot be read or made, or cannot sign.
    """
    wanted = settings.provenance
    if not wanted.enabled:
        return None
    from .media import certificate  # only now: it takes 20 ms

    return certificate.open_credentials(wanted.certificate, wanted.key, settings.certificate_file)


def known_certificates(settings: Settings) -> str:
    """Return the chain that this machine's files are signed with, as PEM; empty if there is none. Makes none.

    Raises:
        SettingsError: it cannot be read.
    """
    own = settings.provenance.certificate is not None
    if not settings.provenance.enabled or not (own or settings.certificate_file.exists()):
        return ""
    credentials = open_credentials(settings)
    return "" if credentials is None else credentials.certificates


def check_marks(settings: Settings) -> None:
    """Find out before anything starts whether files can be signed and marked. Makes the certificate at the first start.

    Raises:
        SettingsError: they cannot.
    """
    _ = settings.mark_rules
    credentials = open_credentials(settings)
    if credentials is not None and settings.provenance.certificate is not None:
        from .media import provenance

        provenance.check(credentials)
    if settings.watermark.image is not None:
        try:
            media.read_overlay(settings.watermark.image)
        except UnreadableImage as error:
            message = (
                f"setting `watermark.image`: `{settings.watermark.image}` cannot be used: {error.message}"
            )
            raise SettingsError(message, hint=error.hint) from None


def _make_home(settings: Settings) -> None:
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"the data folder `{settings.home}` cannot be made: {error.strerror}"
        raise SettingsError(message, hint="set VITASCOPE_HOME to a folder of yours") from None


def create_web_app(settings: Settings) -> FastAPI:
    """Make the web app. Its store is opened when it starts, and closed when it ends.

    Raises:
        SettingsError: a card, an allowed host or the certificate cannot be read.
    """
    catalog = open_catalog(settings)
    outbound = open_outbound(settings)
    marks = settings.mark_rules
    prompt_check = open_prompt_check(settings)
    credentials = open_credentials(settings)
    certificates = "" if credentials is None else credentials.certificates

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, _http.Desk]]:
        store = open_store(settings)
        files = open_places(settings, store)
        service = Service(
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
                marks=marks,
                improved_sampling_iterations=settings.engine.improved_sampling_iterations,
                speed=settings.engine.speed,
                expire_seconds=settings.storage.expire_seconds,
                prompts=settings.prompt_rules,
                shows_previews=not settings.moderation.frames,
            ),
            certificates=certificates,
            prompt_check=prompt_check,
            allowed=catalog.allowed,
            peers=_keys_of_peers(settings),
            prices=settings.credits.prices,
            unsafe_from=settings.moderation.threshold,
            space=Space((settings.home, settings.files_folder), settings.storage.min_free_bytes),
        )
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
    app.include_router(_operations())
    app.include_router(_links())
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


def _operations() -> APIRouter:
    """Routes for who runs the server."""
    router = APIRouter(tags=["Operations"], route_class=_http.route_class(openai.error_response))
    probes = APIRouter(
        tags=["Operations"], route_class=_http.route_class(openai.error_response, is_public=True)
    )

    @probes.get("/livez")
    async def livez() -> JSONResponse:
        """Tell that the web process runs."""
        return JSONResponse({"status": "ok"})

    not_ready = {
        503: {"description": "Jobs are not being made, or the server is stopping; `reason` says why."}
    }

    @probes.get("/readyz", responses=not_ready)  # type: ignore[arg-type]
    @probes.get("/health", responses=not_ready)  # type: ignore[arg-type]
    async def readyz(request: Request) -> JSONResponse:
        """Tell whether jobs are being made; 503 with a reason if not. `accepts_jobs` is false, with a reason, where the disk is nearly full."""
        desk = _http.desk_of(request)
        if request.app.state.is_stopping:
            reason: str | None = "the server is stopping"
        else:
            reason = await desk.read(desk.service.condition.why_not_ready)
        if reason is None:
            # ready all the same: deleting is what helps, and a load balancer must let it through
            full = await desk.read(desk.service.condition.why_no_jobs)
            return JSONResponse(
                {"status": "ok", "accepts_jobs": full is None, **({"reason": full} if full else {})}
            )
        headers = {"retry-after": str(NOT_READY_RETRY_SECONDS)}
        return JSONResponse({"status": "unavailable", "reason": reason}, status_code=503, headers=headers)

    @router.get("/metrics", response_class=PlainTextResponse, responses=openai.ERRORS)
    async def prometheus(request: Request) -> Response:
        """Show metrics in Prometheus' text format."""
        desk = _http.desk_of(request)
        text = await desk.read(metrics.render, desk.service)
        return Response(text, media_type=metrics.MEDIA_TYPE)

    router.include_router(probes)
    return router


def _links() -> APIRouter:
    """Files by signed links: who has one needs no key."""
    router = APIRouter(tags=["Files"], route_class=_http.route_class(openai.error_response, is_public=True))

    async def linked_file(token: str, request: Request) -> Response:
        """Download a file by a signed link; understands Range, If-Range and HEAD.

        A link that is not good is 404; so is one whose file is being made, with a `Retry-After`.
        """
        desk = _http.desk_of(request)
        try:
            stored, name = await asyncio.to_thread(desk.service.results.open_linked, token)
        except StillMaking as error:
            eta = (await desk.expectation(error.job)).eta_seconds
            seconds = UNKNOWN_LINK_SECONDS if eta is None else min(max(1, math.ceil(eta)), MAX_LINK_SECONDS)
            answer = openai.error_response(VideoNotReady(error.message))
            answer.headers["retry-after"] = str(seconds)
            return answer
        return _http.VideoFile(stored, name, openai.refuse_range)

    async def named_file(token: str, name: str, request: Request) -> Response:
        """Download a file by a signed link that ends in a name; else as without one."""
        return await linked_file(token, request)

    responses: dict[int | str, dict[str, Any]] = {
        206: {"description": "The part that was asked for."},
        302: {
            "description": "Where the file is, if this server has clients fetch files from the storage itself."
        },
        304: {"description": "Unchanged."},
        "4XX": {
            "description": "The link is not valid (404), or not any more; or the range is not (400, 416)."
        },
        "5XX": {"description": "The storage does not answer (503), or has lost the file."},
    }
    for path, endpoint in (("/files/{token}", linked_file), ("/files/{token}/{name}", named_file)):
        router.add_api_route(path, endpoint, methods=["GET"], response_class=Response, responses=responses)
        router.add_api_route(path, endpoint, methods=["HEAD"], include_in_schema=False)
    return router


def check_address(settings: Settings) -> None:
    """Find out before anything starts whether the address can be listened on.

    Raises:
        SettingsError: it cannot.
    """
    _listen(settings.server.host, settings.server.port).close()


def check_host(settings: Settings, store: Store) -> None:
    """Refuse to be reachable from other machines by mistake.

    Raises:
        SettingsError: the host is not loopback, there are no API keys, and nothing says that this is wanted.
    """
    host = settings.server.host
    if settings.server.allow_public or _is_loopback(host) or store.has_keys():
        return
    message = f"`{host}` can be reached from other machines, and there are no API keys"
    raise SettingsError(
        message,
        hint="make one with `vitascope keys create NAME`, or set VITASCOPE_SERVER__ALLOW_PUBLIC=true if everybody there may use the server",
    )


def check_secrets(store: Store) -> None:
    """Find out before anything starts whether this machine can read the secrets in the database.

    Raises:
        SettingsError: it has another key than the machine that wrote them, or none.
    """
    try:
        store.check_key()
    except SecretUnreadable as error:
        raise SettingsError(error.message, hint=error.hint) from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def open_worker(settings: Settings) -> Iterator[Worker]:
    """Make a worker of this machine's device; its store is open for as long as the block.

    Raises:
        SettingsError: the data folder or the database cannot be used, or files cannot be signed or marked.
    """
    check_marks(settings)  # what is wrong with them shows here, not in each job
    check_guards(settings)
    environment = environment_of_engine(settings)

    def command(fd: int) -> list[str]:
        return [sys.executable, "-m", "vitascope", "engine-process", str(fd)]

    config = _worker_config(settings)
    _check_storage_and_tell(settings)
    store, models = open_store(settings), open_catalog(settings)
    models.watch(store.added_models)
    try:
        yield Worker(
            store,
            open_places(settings, store),
            lambda: EngineProcess(command, environment, models.news()),
            config,
            models,
        )
    finally:
        store.close()


def _worker_config(settings: Settings) -> WorkerConfig:
    # containers may share a name and process ids
    worker_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    return WorkerConfig(
        worker_id=worker_id,
        work_folder=settings.home / "work" / worker_id,
        lease_seconds=settings.worker.lease_seconds,
        poll_seconds=settings.worker.poll_seconds,
        max_attempts=settings.worker.max_attempts,
        hang_seconds=settings.worker.hang_seconds,
        drain_seconds=settings.worker.drain_seconds,
        patience_seconds=settings.storage.patience_seconds,
        min_free_bytes=settings.storage.min_free_bytes,
        slots=settings.engine.slots,
    )


def _keys_of_peers(settings: Settings) -> list[tuple[str, str | None]]:
    return [(peer.url, None if peer.key is None else peer.key.get_secret_value()) for peer in settings.peers]


def why_no_peers(settings: Settings) -> str | None:
    """Say why no job is handed over although there are peers; None if it may be."""
    if settings.peers and settings.moderation.frames:
        return "this server looks at the frames of its videos itself: no job is handed over to its peers"
    return None


def check_peer(peer: PeerSettings) -> tuple[str, bool]:
    """Ask a peer how it is; returns what that means, and whether jobs can be handed over to it."""
    asked = _connect(peer)
    try:
        state = asked.state()
    except PeerAway as error:
        return f"it {error.reason}: jobs stay here", False
    except PeerRefused as error:
        wrong = "its key is wrong" if error.status in (401, 403) else f"it {error}"
        return f"{wrong}: jobs stay here", False
    finally:
        asked.close()
    if state.wait_seconds is None:
        return "it has no worker: jobs stay here", False
    other = "" if state.version == __version__ else f", of version {state.version or 'unknown'}"
    return f"ready{other}; a job would wait {state.wait_seconds:.0f} s there", True


def _connect(peer: PeerSettings) -> Peer:
    return Peer(peer.url, None if peer.key is None else peer.key.get_secret_value())


@contextmanager
def open_peer_worker(settings: Settings, number: int) -> Iterator[PeerWorker]:
    """Make a worker that hands its jobs over to a peer; its store is open for as long as the block.

    Args:
        settings: all of them.
        number: of the peer, from 1, as they are listed.

    Raises:
        SettingsError: there is no such peer, or none is used; or what `open_worker` raises.
    """
    if not 1 <= number <= len(settings.peers):
        raise SettingsError(f"there is no peer {number}: setting `peers` names {len(settings.peers)}")
    if (reason := why_no_peers(settings)) is not None:
        raise SettingsError(reason)
    check_marks(settings)
    peer = settings.peers[number - 1]
    marks = PeerMarks(
        open_credentials(settings), settings.provenance.include_prompt, settings.watermark.image
    )
    config, catalog = _worker_config(settings), open_catalog(settings)
    name = f"peer {shown_url(peer.url)}"[:255]

    patience_seconds = SILENCE_LEASES * config.lease_seconds
    link = Link(lambda: _connect(peer), name, catalog.resolve, marks, patience_seconds)

    _check_storage_and_tell(settings)
    store = open_store(settings)
    catalog.watch(store.added_models)
    try:
        files = open_places(settings, store)
        yield PeerWorker(
            store,
            files,
            lambda: PeerEngine(link),
            config,
            catalog,
            peer=shown_url(peer.url),
            connect=link.connect,
        )
    finally:
        store.close()


def run_web(settings: Settings, *, supervised: bool = False) -> None:
    """Serve until a signal says to stop; then go on for a while, unready, and finish the answers that are being sent.

    Args:
        settings: all of them.
        supervised: go on until the supervisor closes standard input, which it does when the workers have ended.

    Raises:
        SettingsError: the address, the data folder or the database cannot be used.
    """
    app = create_web_app(settings)
    # what is wrong with the store shows here as one sentence, not as a traceback in the lifespan
    with closing(open_store(settings)) as store:
        check_host(settings, store)
        check_secrets(store)
    _check_storage_and_tell(settings)
    listener = _listen(settings.server.host, settings.server.port)
    config = uvicorn.Config(
        app,
        log_config=None,  # who starts the process has set up logging
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.server.trusted_proxies),
        forwarded_allow_ips=list(settings.server.trusted_proxies),
        lifespan="on",
        ws="none",
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )
    host, port = listener.getsockname()[:2]
    logger.info("listening", extra={"url": f"http://{f'[{host}]' if ':' in host else host}:{port}"})
    _collect_seldom()
    server = _Server(config, app, math.inf if supervised else settings.server.drain_seconds)
    if supervised:
        when_orphaned(server.end_soon)
    with listener:
        server.run(sockets=[listener])


def _collect_seldom() -> None:
    """Let Python look for cyclic garbage seldom: each full look stopped all answers for some 100 ms at 1,000 pollers.

    Measured there, once all were connected: p99 of a GET 138 ms with Python's own thresholds, 11 to 28 ms with these
    (docs/reliability.md), at the same memory.
    """
    gc.collect()
    gc.freeze()  # what the start has made stays
    gc.set_threshold(50_000, 20, 100)


class _Server(uvicorn.Server):
    """At the first signal it becomes unready but goes on answering; a second one ends it at once.

    Args:
        config: uvicorn's.
        app: the web app, which is told.
        drain_seconds: how long it goes on; then it ends as uvicorn does, with that first signal.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, drain_seconds: float) -> None:
        super().__init__(config)
        self._app = app
        self._drain_seconds = drain_seconds
        self._signal: int = signal.SIGTERM
        self._end_at: float | None = None
        #: Connections on which nothing is being answered: their last request, and since when.
        self._silent: dict[Any, tuple[Any, float]] = {}

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # only notes: what follows must not happen in the middle of whatever the signal interrupted
        if self._end_at is None:
            self._signal = sig
            self._end_at = time.monotonic() + self._drain_seconds
        else:
            self._end_at = 0.0
            self.force_exit = True

    def end_soon(self) -> None:
        """End as soon as clients had a moment to learn the last news. Safe to call from any thread."""
        end_at = math.inf if self._end_at is None else self._end_at
        self._end_at = min(end_at, time.monotonic() + LAST_LOOK_SECONDS)

    def _close_silent_connections(self) -> None:
        """Close what has been open without a request for too long; what is being answered has its request."""
        now = time.monotonic()
        silent: dict[Any, tuple[Any, float]] = {}
        for connection in list(self.server_state.connections):
            cycle = getattr(connection, "cycle", None)
            if cycle is None or cycle.response_complete:
                last_cycle, since = self._silent.get(connection, (None, now))
                if cycle is not last_cycle:  # there has been a request since the last look
                    since = now
                silent[connection] = cycle, since
                if now - since > (SILENT_SECONDS if cycle is None else KEEP_ALIVE_SECONDS):
                    connection.transport.close()
        self._silent = silent

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:  # once a second
            self._close_silent_connections()
        if self._end_at is not None and not self._app.state.is_stopping:
            self._app.state.is_stopping = True
            logger.info("stopping: requests are answered for a while; the same signal again ends at once")
        if self._end_at is not None and time.monotonic() >= self._end_at and not self.should_exit:
            self._app.state.tail.close()  # else the shutdown would wait for the event streams
            super().handle_exit(self._signal, None)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if (
            self.force_exit
        ):  # then uvicorn leaves this out: writes that have begun would be cut, and a traceback logged
            await self.lifespan.shutdown()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise SettingsError(
            f"cannot listen on `{host}` port {port}: {error.strerror}", hint="choose another port"
        ) from None
