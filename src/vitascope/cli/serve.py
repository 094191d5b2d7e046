"""`vitascope serve`: the server, from one command."""

from __future__ import annotations

import signal
import sys
from contextlib import closing
from typing import Annotated, Any, Literal

import typer
from rich.text import Text

from vitascope import settings as settings_module
from vitascope.catalog import Catalog, weights_of

from ._terminal import configure_logging, stderr


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="TCP port.")] = None,
    model: Annotated[str | None, typer.Option(help="Model of requests that name none.")] = None,
    engine: Annotated[
        Literal["diffusers", "fake"] | None,
        typer.Option(help="`fake` draws a test pattern at a set pace: for client developers and load tests."),
    ] = None,
    fake_step_seconds: Annotated[
        float | None, typer.Option(help="Seconds of a step of the fake engine.")
    ] = None,
) -> None:
    """Serve the API on this machine: a web process, and a worker with its engine."""
    from vitascope import app
    from vitascope.fleet.supervisor import Supervisor, lock_folder

    overrides: dict[str, Any] = {
        "server": _given(host=host, port=port),
        "engine": _given(kind=engine, default_model=model, fake_step_seconds=fake_step_seconds),
    }
    settings = settings_module.load(**{name: values for name, values in overrides.items() if values})
    configure_logging(settings.log_level)
    app.check_address(settings)
    app.open_outbound(
        settings
    )  # what is wrong with its setting shows here, not in a process that is started again and again
    if (problem := app.check_storage(settings)) is not None:
        stderr.print(Text(problem, "yellow"), soft_wrap=True)
    app.check_marks(settings)
    app.check_guards(settings)
    default_model = Catalog.open(settings.cards_folder, settings.engine.default_model).resolve(None)
    if (problem := app.why_no_peers(settings)) is not None:
        stderr.print(Text(problem, "yellow"), soft_wrap=True)
    if settings.engine.kind != "fake" and (found := weights_of(default_model)).problem:
        hint = f": {found.hint}" if found.hint else ""
        stderr.print(Text(f"{found.problem}{hint}", "yellow"), soft_wrap=True)  # it may come while this runs
    with lock_folder(settings.home):
        with closing(app.open_store(settings)) as store:  # upgrades it before two processes open it
            app.check_host(settings, store)
            app.check_secrets(store)
            access = (
                "an API key is needed."
                if store.has_keys()
                else "there are no API keys: whoever reaches this address may use it."
            )
        commands = _commands(settings)
        stderr.print(
            f"Vitascope listens on [bold]http://{settings.server.host}:{settings.server.port}[/]; "
            f"{access} Stop with Ctrl-C.",
            soft_wrap=True,
        )
        stop_seconds = settings.worker.drain_seconds + 10
        environment = settings_module.to_environment(settings)
        supervisor = Supervisor(commands, environment, stop_seconds, ends_last=["web"])
        ended_by = supervisor.run()
        if not ended_by:
            raise typer.Exit(2)
        if ended_by == signal.SIGINT:
            raise typer.Exit(130)


def _commands(settings: settings_module.Settings) -> dict[str, list[str]]:
    """Name the command lines of all members: a worker for this machine, and one for each job that a peer makes at a time."""
    from vitascope import app

    start = [sys.executable, "-m", "vitascope"]
    commands = {name: [*start, name, "--supervised"] for name in ("web", "worker")}
    if app.why_no_peers(settings) is None:
        for number, peer in enumerate(settings.peers, 1):
            for place in range(1, peer.jobs + 1):
                line = [*start, "worker", "--supervised", "--peer", str(number)]
                commands[f"peer {number}-{place}"] = line
    return commands


def web(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="TCP port.")] = None,
    supervised: Annotated[bool, typer.Option("--supervised", hidden=True)] = False,
) -> None:
    """Serve the API alone, without a worker: one of several replicas behind a load balancer.

    All replicas and workers (`vitascope worker`) share a PostgreSQL database (`DATABASE_URL`) and a data folder. At SIGTERM
    `/readyz` answers 503 and everything else goes on for `server.drain_seconds`, then the process ends; a second SIGTERM
    ends it at once.
    """
    from vitascope import app

    overrides = {"server": given} if (given := _given(host=host, port=port)) else {}
    settings = settings_module.load(**overrides)
    configure_logging(settings.log_level)
    app.run_web(settings, supervised=supervised)


def _given(**options: object) -> dict[str, object]:
    return {name: value for name, value in options.items() if value is not None}
