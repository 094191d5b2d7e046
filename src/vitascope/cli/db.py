"""`vitascope db`: the database of jobs, for who runs the server."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from vitascope import settings as settings_module
from vitascope.store import Health, maintenance

from ._terminal import stderr

app = typer.Typer(help="Upgrade, back up or check the database of jobs.", no_args_is_help=True)


@app.command()
def upgrade() -> None:
    """Bring the database to this version's schema; makes it if there is none. `serve` does so at its start."""
    from vitascope import app as composition

    settings = settings_module.load()
    composition.open_store(settings).close()
    stderr.print("The database is up to date.")


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="File to write; it must not exist.", show_default=False)],
) -> None:
    """Copy a SQLite database to a file while the server runs. PostgreSQL has pg_dump. Videos are not in it."""
    maintenance.backup(settings_module.load().database_url, file)
    stderr.print(f"Wrote {file.stat().st_size} bytes.")


@app.command()
def check(
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Look for damage in the database and for secrets that this machine cannot read, and count what is in it. Exits 1 if something is wrong."""
    from vitascope import app as composition

    settings = settings_module.load()
    health = maintenance.check(settings.database_url, composition.cipher_of(settings))
    if as_json:
        typer.echo(json.dumps(asdict(health)))
    else:
        _show(health)
    if health.problems:
        raise typer.Exit(1)


@app.command()
def rekey(
    drop_unreadable: Annotated[
        bool,
        typer.Option(
            "--drop-unreadable", help="Delete secrets whose key is lost; new ones are made when needed."
        ),
    ] = False,
) -> None:
    """Encrypt all secrets in the database with the first key of `secrets.key`, so that older keys can be taken out."""
    from vitascope import app as composition

    with closing(composition.open_store(settings_module.load())) as store:
        num_changed, num_dropped = store.encrypt_again(drop_unreadable=drop_unreadable)
    stderr.print(f"encrypted {num_changed} secrets again, deleted {num_dropped}")


def _show(health: Health) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row("schema", f"{health.revision or 'none'} (newest: {health.newest_revision})")
    for name, count in health.counts.items():
        table.add_row(name, str(count))
    console = Console(highlight=False)
    console.print(table)
    for problem in health.problems:
        console.print(f"[red]problem:[/] {problem}", soft_wrap=True)
    if not health.problems:
        console.print("[green]no problems found[/]")
