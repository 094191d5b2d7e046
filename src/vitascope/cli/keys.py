"""`vitascope keys`: who may use the server. Works on the database itself, whether or not the server runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vitascope import settings as settings_module
from vitascope.catalog import Catalog
from vitascope.domain.access import ApiKey, KeyLimits, Scope
from vitascope.service.keys import Keys

from ._terminal import stderr

app = typer.Typer(
    help="Make and end API keys. As soon as there is one, every call needs one.", no_args_is_help=True
)

KeyId = Annotated[str, typer.Argument(help="Id of the key, from `vitascope keys list`.", show_default=False)]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Your own word for it.", show_default=False)],
    scope: Annotated[
        list[Scope] | None,
        typer.Option(help="What it is for; may be given more than once. `generate` if not said."),
    ] = None,
    days: Annotated[float | None, typer.Option(help="It ends after so many days.")] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option(help="Requests that make a job, in each minute.")
    ] = None,
    max_running: Annotated[
        int | None, typer.Option(help="Jobs that may run at the same time; more wait.")
    ] = None,
    max_queued: Annotated[int | None, typer.Option(help="Jobs that may wait.")] = None,
    max_storage_bytes: Annotated[
        int | None,
        typer.Option(
            help="Bytes of finished videos, files, characters and open batches above which it makes no more."
        ),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="A model that it may use; may be given more than once.")
    ] = None,
) -> None:
    """Make a key and print it on stdout. It is shown once: only a digest of it is kept."""
    settings = settings_module.load()
    catalog = Catalog.open(settings.cards_folder, settings.engine.default_model)
    limits = KeyLimits(
        requests_per_minute=requests_per_minute,
        max_running=max_running,
        max_queued=max_queued,
        max_storage_bytes=max_storage_bytes,
        models=tuple(catalog.resolve(one).id for one in model or ()),
    )
    expires_at = None if days is None else datetime.now(UTC) + timedelta(days=days)
    with _keys() as keys:
        is_first = keys.is_open()
        key, secret = keys.create(name, scope or [Scope.GENERATE], limits, expires_at)
    typer.echo(secret)
    stderr.print(f"made key {key.id}; keep it now, it is not shown again")
    if is_first:
        stderr.print("from now on every call to the server needs a key")


@app.command("list")
def list_keys(
    as_json: Annotated[bool, typer.Option("--json", help="Print the keys as JSON.")] = False,
) -> None:
    """List all keys that ever were, oldest first."""
    with _keys() as keys:
        found = keys.all()
    if as_json:
        typer.echo(json.dumps([key.to_dict() for key in found], indent=2))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("id", "name", "key", "scopes", "limits", "state"):
        table.add_column(column, no_wrap=column in ("id", "key"), overflow="fold")
    for key in found:
        shown = f"{key.prefix}…{key.last4}"
        cells = (key.id, key.name, shown, ", ".join(sorted(key.scopes)), _limits(key.limits), _state(key))
        table.add_row(*(Text(cell) for cell in cells))
    Console(highlight=False).print(table)


@app.command()
def revoke(key_id: KeyId) -> None:
    """End a key for good. Its jobs stay, and run."""
    with _keys() as keys:
        key = keys.revoke(key_id)
    stderr.print(Text(f"revoked key {key.id} ({key.name})"))


@app.command()
def rotate(key_id: KeyId) -> None:
    """Give a key another secret and print it; the old one ends at once, jobs and limits stay."""
    with _keys() as keys:
        key, secret = keys.rotate(key_id)
    typer.echo(secret)
    stderr.print(Text(f"gave key {key.id} ({key.name}) a new secret; keep it now, it is not shown again"))


@app.command()
def secret(
    key_id: KeyId,
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Make another one; the old one signs too for 24 hours.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print all that are good now as JSON, with their ends.")
    ] = False,
) -> None:
    """Print what a key's webhooks are signed with, to check them by (Standard Webhooks). It can be shown again."""
    with _keys() as keys:
        found = keys.rotate_webhook_secret(key_id) if rotate else keys.webhook_secrets(key_id)
    if as_json:
        typer.echo(json.dumps([one.to_dict() for one in found], indent=2))
        return
    current, *older = found
    typer.echo(current.value)
    for one in older:
        stderr.print(
            f"the one before it signs too until {one.expires_at:%Y-%m-%d %H:%M} UTC; --json shows both"
        )


@contextmanager
def _keys() -> Iterator[Keys]:
    from vitascope import app as composition

    store = composition.open_store(settings_module.load())
    try:
        yield Keys(store)
    finally:
        store.close()


def _state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return "revoked"
    if key.expires_at is None:
        return "good"
    return "expired" if key.expires_at <= datetime.now(UTC) else f"good until {key.expires_at:%Y-%m-%d %H:%M}"


def _limits(limits: KeyLimits) -> str:
    counts = {
        "a minute": limits.requests_per_minute,
        "running": limits.max_running,
        "waiting": limits.max_queued,
        "bytes": limits.max_storage_bytes,
    }
    words = [f"{count} {what}" for what, count in counts.items() if count is not None]
    return "; ".join([*words, *limits.models]) or "none"
