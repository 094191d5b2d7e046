"""`vitascope credits`: what keys may still spend. Works on the database itself, whether or not the server runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vitascope import settings as settings_module
from vitascope.domain.money import Account, Balance, Entry
from vitascope.service.credits import Credits

from ._terminal import stderr

app = typer.Typer(
    help="Count what API keys spend. Keys are unlimited until they are granted credits.", no_args_is_help=True
)

KeyId = Annotated[str, typer.Argument(help="Id of the key, from `vitascope keys list`.", show_default=False)]
MaybeKeyId = Annotated[
    str | None,
    typer.Argument(help="Id of the key; all that are or were counted if not said.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]


@app.command()
def grant(
    key_id: KeyId,
    amount: Annotated[
        int,
        typer.Argument(
            help="Credits to give; `-- -5` takes 5 back, 0 only begins to count.", show_default=False
        ),
    ],
    note: Annotated[str, typer.Option(help="Your own word for it.")] = "",
    reference: Annotated[
        str | None,
        typer.Option(help="Such as an invoice's number: a grant of the same reference is made once."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Give a key credits. From then on its jobs are counted: what it has not, it cannot spend."""
    with _credits() as credits_:
        found = credits_.grant(key_id, amount, note=note, reference=reference)
    _tell(found, as_json)


@app.command()
def unlimited(key_id: KeyId, as_json: AsJson = False) -> None:
    """Count a key's new jobs no more. Its credits stay, and what is held is settled."""
    with _credits() as credits_:
        found = credits_.count(key_id, is_on=False)
    _tell(found, as_json)


@app.command()
def balance(key_id: MaybeKeyId = None, as_json: AsJson = False) -> None:
    """Show where a key stands, or all keys that are or were counted."""
    with _credits() as credits_:
        if key_id is None:
            found = credits_.all_balances()
        else:
            one = credits_.any_balance(key_id)
            found = [] if one is None else [one]
    if as_json:
        typer.echo(json.dumps([{"key_id": one.key_id, **one.to_dict()} for one in found], indent=2))
        return
    if not found:
        stderr.print("no key is counted" if key_id is None else "this key is not counted: it is unlimited")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("key", "credits", "held", "spent", "counted"):
        table.add_column(column, no_wrap=True, justify="left" if column in ("key", "counted") else "right")
    for one in found:
        table.add_row(
            one.key_id, str(one.credits), str(one.held), str(one.spent), "yes" if one.is_on else "no"
        )
    Console(highlight=False).print(table)


@app.command()
def ledger(
    key_id: MaybeKeyId = None,
    limit: Annotated[int, typer.Option(help="How many entries.")] = 100,
    before: Annotated[int | None, typer.Option(help="Only entries of a lower number.")] = None,
    as_json: AsJson = False,
) -> None:
    """List what has moved, the newest first: grants, holds, settlements and refunds."""
    with _credits() as credits_:
        page = credits_.entries(key_id, before=before, limit=limit)
    if as_json:
        typer.echo(json.dumps([entry.to_dict() for entry in page.entries], indent=2))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("number", "time", "key", "move", "account", "amount", "for"):
        table.add_column(
            column, no_wrap=column != "for", justify="right" if column in ("number", "amount") else "left"
        )
    for entry in page.entries:
        table.add_row(*(Text(cell) for cell in _cells(entry)))
    Console(highlight=False).print(table)
    if page.has_more:
        stderr.print(f"there are older ones: --before {page.entries[-1].number}")


def _cells(entry: Entry) -> tuple[str, ...]:
    what = entry.job_id if entry.output is None else f"{entry.job_id}, video {entry.output + 1}"
    account = "credits" if entry.account is Account.KEY else "held"
    return (
        str(entry.number),
        f"{entry.created_at:%Y-%m-%d %H:%M:%S}",
        entry.key_id,
        entry.move.value,
        account,
        f"{entry.amount:+d}",
        what or entry.note,
    )


def _tell(found: Balance, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"key_id": found.key_id, **found.to_dict()}, indent=2))
        return
    typer.echo(str(found.credits))
    held = f", {found.held} held for its jobs" if found.held else ""
    state = "" if found.is_on else "; it is unlimited now"
    stderr.print(Text(f"key {found.key_id} has {found.credits} credits{held}{state}"))


@contextmanager
def _credits() -> Iterator[Credits]:
    from vitascope import app as composition

    settings = settings_module.load()
    store = composition.open_store(settings)
    try:
        yield Credits(store, settings.credits.prices)
    finally:
        store.close()
