"""`vitascope models`: what can be asked for."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vitascope import settings as settings_module
from vitascope.catalog import Catalog

app = typer.Typer(help="Show the models that can be asked for.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `list` a subcommand although it is the only one."""


@app.command("list")
def list_models(
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List every model with what it makes."""
    settings = settings_module.load()
    catalog = Catalog.open(settings.cards_folder, settings.engine.default_model)
    if as_json:
        rows = [
            {
                "id": spec.id,
                "title": spec.title,
                "source": spec.source,
                "license": spec.license,
                "modes": sorted(spec.pipelines),
                "sizes": [str(size) for size in spec.sizes],
                "frames": str(spec.frames),
                "fps": spec.fps,
                "aliases": list(spec.aliases),
                "is_default": spec.id == catalog.default_model,
            }
            for spec in catalog.all()
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("model", "makes", "from", "licence", "also called"):
        table.add_column(column, overflow="fold")
    for spec in catalog.all():
        name = f"{spec.id} (default)" if spec.id == catalog.default_model else spec.id
        length = f"{spec.default_num_frames / spec.fps:.1f} s"
        makes = f"{spec.default_size}, {length} at {spec.fps} fps, from {' or '.join(sorted(spec.pipelines, reverse=True))}"
        cells = (name, makes, spec.source, spec.license, ", ".join(spec.aliases))
        table.add_row(*(Text(cell) for cell in cells))
    Console().print(table)
