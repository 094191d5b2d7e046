"""Workers: of this machine's device, and those that hand their jobs over to a peer."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from vitascope import __version__
from vitascope.domain.command import SILENCE_LEASES
from vitascope.domain.errors import SettingsError
from vitascope.outbound.peer import Peer, PeerAway, PeerRefused, shown_url
from vitascope.settings import PeerSettings, Settings, environment_of_engine
from vitascope.worker.engine_process import EngineProcess
from vitascope.worker.parent import Worker, WorkerConfig
from vitascope.worker.peer_engine import PeerEngine
from vitascope.worker.peer_files import PeerMarks
from vitascope.worker.peer_job import Link
from vitascope.worker.peer_worker import PeerWorker

from .checks import check_guards, check_marks, check_storage_and_tell
from .opening import open_catalog, open_credentials, open_places, open_store


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
    check_storage_and_tell(settings)
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

    check_storage_and_tell(settings)
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
