"""`vitascope worker`: one worker alone, beside a server on the same store; and the engine process that it starts."""

from __future__ import annotations

import logging
import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from vitascope import settings as settings_module
from vitascope.catalog import Catalog, heard, locate
from vitascope.fleet.supervisor import RESTART_STATUS

from ._terminal import configure_logging

if TYPE_CHECKING:
    from vitascope.worker.parent import Worker

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def worker(
    peer: Annotated[
        int | None,
        typer.Option(help="Hand jobs over to the peer of this number in the setting `peers`, from 1."),
    ] = None,
    supervised: Annotated[bool, typer.Option("--supervised", hidden=True)] = False,
) -> None:
    """Run a worker alone: it takes jobs from the store and makes them on this machine's device, or has a peer make them."""
    from vitascope import app

    settings = settings_module.load()
    configure_logging(settings.log_level)
    opened = app.open_worker(settings) if peer is None else app.open_peer_worker(settings, peer)
    with opened as running:
        signals = 0

        def on_signal(_number: int, _frame: FrameType | None) -> None:
            nonlocal signals
            signals += 1
            running.stop(at_once=signals > 1)

        for number in STOP_SIGNALS:
            signal.signal(number, on_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        if supervised:
            from vitascope.fleet.supervisor import when_orphaned

            when_orphaned(lambda: running.stop(at_once=True))
        running.run()
    if running.shall_restart:
        if supervised:
            raise typer.Exit(RESTART_STATUS)
        _start_anew(running)


def _start_anew(ended: Worker) -> None:
    """Become a new worker under the same process id, which whoever started this one (a shell, systemd, a container) goes on watching."""
    # one that comes from here on waits until the new worker heeds it
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    if ended.shall_restart:
        logging.shutdown()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def engine_process(fd: Annotated[int, typer.Argument()]) -> None:
    """Run the engine for a worker; started by the worker only."""
    from vitascope.engine import Devices, Wishes, open_engine
    from vitascope.worker import child

    from ._guards import open_guards
    from ._marks import open_marks

    settings = settings_module.load()
    configure_logging(settings.log_level)
    settings_module.share_cores()
    settings_module.keep_compiled(settings)
    settings_module.keep_ranks_here()
    engine = settings.engine
    # a card that was broken since the server started must not take the other models with it
    catalog = Catalog.open(
        settings.cards_folder,
        engine.default_model,
        on_problem=lambda error: logger.error("%s", error.message),
        loras_folder=settings.loras_folder,
    )
    child.run(
        fd,
        lambda: open_engine(
            engine.kind,
            locate,
            device=engine.device,
            threads=engine.threads,
            slots=engine.slots,
            memory_gb=engine.memory_gb,
            wishes=Wishes(**engine.wishes),
            fake_step_seconds=engine.fake_step_seconds,
            find_loras=catalog.loras.files,
            lora_cache_bytes=int(engine.lora_cache_gb * 1e9),
            embeddings_cache_bytes=int(engine.embeddings_cache_mb * 1e6),
            notes=settings.engine_notes_folder,
            devices=Devices(engine.devices, engine.parallel, settings.worker.hang_seconds),
        ),
        catalog.resolve,
        nice=settings.worker.nice,
        between=settings.worker.frame_interpolation,
        marks=open_marks(settings),
        make_guards=lambda opened: open_guards(settings, opened),
        know=lambda models: catalog.take(heard(models)),
    )
