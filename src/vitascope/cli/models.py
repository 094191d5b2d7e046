"""`vitascope models`: what can be asked for, what is on this machine of it, and what a server has loaded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vitascope import catalog
from vitascope import settings as settings_module
from vitascope.catalog import Catalog, Weights
from vitascope.domain.added import ModelKind
from vitascope.domain.errors import (
    InvalidParameter,
    ModelInUse,
    ModelUnavailable,
    ServerRefusal,
    ServerUnreachable,
    SettingsError,
    UnknownModel,
)
from vitascope.domain.model_spec import MODES, ModelSpec

from ._terminal import print_error, printable, stderr
from ._transfer import TransferLine

if TYPE_CHECKING:
    from ._client import Server

app = typer.Typer(help="Show, download, check, convert, load and remove models.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="MODEL", help="A model's id or another of its names.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ServerOption = Annotated[
    str | None,
    typer.Option(
        "--server", metavar="URL", help="The server; else VITASCOPE_SERVER_URL, else this machine's."
    ),
]
WorkerOption = Annotated[
    str | None, typer.Option("--worker", metavar="ID", help="Only this worker; by default all of them.")
]

POLL_SECONDS = 0.3

Loaded = dict[str, list[str]] | None
"""Workers by the model that they have loaded; None where no server answers."""


def _open() -> tuple[settings_module.Settings, Catalog]:
    settings = settings_module.load()
    return settings, Catalog.open(
        settings.cards_folder, settings.engine.default_model, loras_folder=settings.loras_folder
    )


def _found(name: str) -> tuple[settings_module.Settings, ModelSpec]:
    settings, models = _open()
    return settings, models.resolve_local(name)


@app.command("list")
def list_models(as_json: Json = False, server: ServerOption = None) -> None:
    """List every model: what it makes, whether it is downloaded, and which workers have it loaded where a server answers."""
    settings, models = _open()
    loaded = _loaded(settings, server)
    rows = [_row(spec, models, loaded) for spec in models.all()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("model", "here", "makes", "starts from", "licence"):
        table.add_column(column, overflow="fold", no_wrap=column in ("model", "makes"))
    for spec, row in zip(models.all(), rows, strict=True):
        name = f"{spec.id} (default)" if row["is_default"] else spec.id
        makes = f"{spec.default_size}, {spec.default_num_frames / spec.fps:.1f} s"
        starts = ", ".join(mode for mode in MODES if mode in spec.pipelines)
        cells = (name, _here(row), makes, starts, spec.license)
        table.add_row(*(Text(cell) for cell in cells))
    Console().print(table)


def _row(spec: ModelSpec, models: Catalog, loaded: Loaded) -> dict[str, Any]:
    weights: Weights = catalog.weights_of(spec)
    return {
        "id": spec.id,
        "title": spec.title,
        "source": spec.source,
        "license": spec.license,
        "modes": sorted(spec.pipelines),
        "sizes": [str(size) for size in spec.sizes],
        "frames": str(spec.frames),
        "fps": spec.fps,
        "aliases": list(spec.aliases),
        "is_default": spec.id == models.default_model,
        "downloaded": weights.is_downloaded,
        "num_bytes_on_disk": weights.num_bytes,
        "revision": weights.revision,
        "problem": weights.problem or models.loras.problem_of_card(spec),
        "loaded_on": None if loaded is None else loaded.get(spec.id, []),
    }


def _here(row: dict[str, Any]) -> str:
    size = f"{row['num_bytes_on_disk'] / 1e9:.2f} GB"
    words = size if row["downloaded"] else f"part: {size}" if row["num_bytes_on_disk"] else "no"
    return f"{words}, loaded" if row["loaded_on"] else words


@app.command()
def show(name: Name, as_json: Json = False, server: ServerOption = None) -> None:
    """Show all that is known of a model."""
    settings, models = _open()
    spec = models.resolve_local(name)
    row = {**_row(spec, models, _loaded(settings, server)), "description": spec.description}
    row |= {"card_revision": spec.revision, "schedulers": list(spec.schedulers), "dtype": spec.dtype}
    if as_json:
        typer.echo(json.dumps(row, indent=2))
        return
    width = max(len(key) for key in row) + 2
    for key, value in row.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else value
        typer.echo(
            f"{key.replace('_', ' ').ljust(width)}{'' if text is None else printable(str(text))}".rstrip()
        )
    if hint := catalog.weights_of(spec).hint:
        stderr.print(Text(f"hint: {hint}", "dim"), soft_wrap=True)


@app.command()
def loras(name: Name, as_json: Json = False) -> None:
    """List the adapters (LoRA) of this machine: which fit a model, and why the others do not. See docs/lora.md."""
    settings, models = _open()
    spec = models.resolve_local(name)
    catalog.locate(spec)  # without its files nothing can be told
    rows = [
        {"name": found, "fits": problem is None, "problem": problem, "num_bytes": path.stat().st_size}
        for found, path in sorted(models.loras.names().items())
        for problem in (models.loras.problem_of(found, path, spec),)
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        stderr.print(Text(f"there are none in {settings.loras_folder}"), soft_wrap=True)
    for row in rows:
        does_not = "" if row["fits"] else f"  does not fit: the file {row['problem']}"
        typer.echo(printable(f"{row['name']}{does_not}"))


@app.command()
def pull(
    name: Name,
    repair: Annotated[
        bool, typer.Option("--repair", help="Also read what is there, and fetch again what is not right.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print each event as a line of JSON.")] = False,
) -> None:
    """Download what a model needs to this machine; goes on where an earlier download stopped."""
    _, spec = _found(name)
    try:
        with TransferLine(as_json=as_json) as line:
            made = catalog.pull(spec, line, repair=repair)
    except KeyboardInterrupt:
        stderr.print("what has come stays: the same command goes on where it stopped")
        raise
    if as_json:
        done = {"event": "done", "model": spec.id, "revision": made.commit, "num_bytes": made.num_bytes}
        typer.echo(json.dumps({**done, "files": len(made.files)}))
        return
    revision = f", revision {made.commit}" if made.commit else ""  # adapters alone have none
    typer.echo(f"{spec.id}  {len(made.files)} files, {made.num_bytes / 1e9:.2f} GB{revision}")


@app.command()
def verify(name: Name, as_json: Json = False) -> None:
    """Read all files of a model and compare them with their checksums. Exits 1 if one is wrong."""
    _, spec = _found(name)
    with TransferLine(as_json=False) as line:
        problems = catalog.verify(spec, line)
    if as_json:
        typer.echo(json.dumps({"model": spec.id, "ok": not problems, "problems": problems}))
    elif not problems:
        typer.echo(f"{spec.id}  every file is as it was")
    for problem in problems:
        print_error(ModelUnavailable(f"model `{spec.id}`: {problem}"))
    if problems:
        stderr.print(Text(f"hint: {catalog.damaged(spec, problems).hint}"), soft_wrap=True)
        raise typer.Exit(1)


@app.command()
def load(name: Name, worker: WorkerOption = None, as_json: Json = False, server: ServerOption = None) -> None:
    """Have a server's workers load a model, and wait for it: its next job starts at once."""
    _command(server, "load", name, worker, as_json=as_json)


@app.command()
def unload(
    name: Name, worker: WorkerOption = None, as_json: Json = False, server: ServerOption = None
) -> None:
    """Have a server's workers unload a model, and wait for it."""
    _command(server, "unload", name, worker, as_json=as_json)


@app.command()
def add(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="OWNER/NAME of a hub, its page's URL, a folder, or an adapter's file or https URL; what the setting models.allow has.",
        ),
    ],
    name: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="What requests name it; by default its own name.")
    ] = None,
    kind: Annotated[
        ModelKind, typer.Option("--kind", help="A whole model, an autoencoder, or an adapter.")
    ] = ModelKind.PIPELINE,
    revision: Annotated[
        str | None, typer.Option("--revision", help="A branch, a tag or a commit of the hub's.")
    ] = None,
    as_json: Json = False,
    server: ServerOption = None,
) -> None:
    """Have a running server's workers fetch a model that has no card, and wait until it is there. No restart is needed."""
    content = {"source": source, "id": name, "kind": kind.value, "revision": revision}
    given = {key: value for key, value in content.items() if value is not None}
    _ended_well(server, "add", lambda found: found.add_model(given), as_json=as_json)


@app.command()
def delete(name: Name, as_json: Json = False, server: ServerOption = None) -> None:
    """Have a running server forget a model that was added, unload it and remove its files unless another model needs them."""
    _ended_well(server, "delete", lambda found: found.delete_model(name), as_json=as_json)


@app.command("rm")
def remove(
    name: Name,
    force: Annotated[bool, typer.Option("--force", help="Unload it first where it is loaded.")] = False,
    as_json: Json = False,
    server: ServerOption = None,
) -> None:
    """Remove a model's download from this machine. Folders of your own and the embedded model are never touched."""
    settings, spec = _found(name)
    catalog.repository_of(spec)
    on = (_loaded(settings, server) or {}).get(spec.id, [])
    if on and not force:
        message = f"the model `{spec.id}` is loaded by {', '.join(on)}"
        print_error(ModelInUse(message, hint=f"`vitascope models unload {spec.id}`, or add --force"))
        raise typer.Exit(1)
    if on:
        _command(server, "unload", spec.id, None, is_quiet=True)
    num_bytes = catalog.remove(spec)
    if as_json:
        typer.echo(json.dumps({"model": spec.id, "num_bytes": num_bytes}))
    else:
        typer.echo(f"{spec.id}  removed, {num_bytes / 1e9:.2f} GB are free again")


@app.command()
def convert(
    name: Name,
    allow_pickle: Annotated[
        bool,
        typer.Option("--allow-pickle", help="Needed: a pickle is a program of whoever made the weights."),
    ] = False,
    to: Annotated[
        Path | None, typer.Option("--to", help="New folder for a model of a folder; by default beside it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make safetensors of weights that are pickles, in a process without network, with limits of memory and time."""
    _, spec = _found(name)
    if not allow_pickle:
        rule = "a pickle is a program of whoever made the weights, and is not opened unless you say so"
        raise InvalidParameter("--allow-pickle", "missing", rule, hint="convert only what you trust")
    with TransferLine(as_json=False) as line:
        folder, made = catalog.convert(spec, line, to)
    if as_json:
        typer.echo(json.dumps({"model": spec.id, "folder": str(folder), "num_bytes": made.num_bytes}))
        return
    typer.echo(f"{spec.id}  {len(made.files)} files, {made.num_bytes / 1e9:.2f} GB in {folder}")
    if spec.source.startswith("folder:"):
        stderr.print(Text(f'write source = "folder:{folder}" into its card', "dim"), soft_wrap=True)


@dataclass
class _At:
    """A server that is meant, whether or not it answers."""

    settings: settings_module.Settings
    option: str | None

    def run(self, work: Callable[[Server], Coroutine[Any, Any, Any]]) -> Any:
        from ._client import Server, server_url  # takes 50 ms to import, which other commands need not

        async def run() -> Any:
            async with Server(server_url(self.option, self.settings), self.settings.api_key) as found:
                return await work(found)

        return asyncio.run(run())


def _loaded(settings: settings_module.Settings, option: str | None) -> Loaded:
    """Ask the server what is loaded; None where none answers, unless one was named."""

    async def work(server: Server) -> list[dict[str, Any]]:
        return await server.models()

    try:
        found = _At(settings, option).run(work)
    except (ServerUnreachable, ServerRefusal, SettingsError):
        if option is not None:
            raise
        return None
    return {model["id"]: model["loaded_on"] for model in found}


def _command(
    option: str | None,
    kind: str,
    name: str,
    worker: str | None,
    *,
    as_json: bool = False,
    is_quiet: bool = False,
) -> None:
    """Give a command and wait until all workers have ended with it; fails unless all have done it."""
    _, models = _open()
    wishes = {} if worker is None else {"worker": worker}
    try:
        _ended_well(
            option, kind, lambda server: server.order(name, kind, wishes), as_json=as_json, is_quiet=is_quiet
        )
    except ServerRefusal as error:
        if error.server_code != UnknownModel.code:
            raise
        models.resolve(name)  # of the same cards says the same, with the nearest name
        raise


def _ended_well(
    option: str | None,
    kind: str,
    give: Callable[[Server], Coroutine[Any, Any, dict[str, Any]]],
    *,
    as_json: bool = False,
    is_quiet: bool = False,
) -> None:
    """Give a command and wait for its end; fails unless all workers have done it."""

    async def work(server: Server) -> dict[str, Any]:
        return await _ended(server, await give(server), is_quiet=as_json or is_quiet)

    command = _At(settings_module.load(), option).run(work)
    failed = [part for part in command["workers"] if part["status"] == "failed"]
    if as_json:
        typer.echo(json.dumps(command, indent=2))
    elif not failed and not is_quiet:
        typer.echo(f"{command['model']}  {command['workers'][-1]['message']}")
    if failed:
        raise ModelUnavailable(f"{kind} of `{command['model']}` failed: {failed[0]['message']}")


async def _ended(server: Server, command: dict[str, Any], *, is_quiet: bool) -> dict[str, Any]:
    """Wait until all workers have ended with a command, and say how far each is."""
    said: dict[str, tuple[str, str]] = {}
    while True:
        for part in command["workers"]:
            state = (part["status"], part["message"])
            if not is_quiet and state != said.get(part["worker"]):
                said[part["worker"]] = state
                line = f"{part['worker']}  {state[0]}  {printable(state[1])}"
                stderr.print(Text(line.rstrip()), soft_wrap=True)
        if command["status"] in ("done", "failed"):
            return command
        await asyncio.sleep(POLL_SECONDS)
        command = await server.command(command["id"])
