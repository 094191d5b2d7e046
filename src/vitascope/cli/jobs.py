"""`vitascope jobs`: what a running server makes, over its native API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vitascope import settings as settings_module
from vitascope.domain.errors import InvalidParameter, JobConflict, ServerRefusal
from vitascope.domain.job import JobStatus

from ._job_text import COLORS, FINAL, Job, age, detail_rows, one_line, outcome, progress, wait
from ._terminal import print_error, stderr

if TYPE_CHECKING:
    from ._client import Server

app = typer.Typer(help="Show, follow, cancel and repeat the jobs of a running server.", no_args_is_help=True)

ServerOption = Annotated[
    str | None,
    typer.Option(
        "--server", metavar="URL", help="The server; else VITASCOPE_SERVER_URL, else this machine's."
    ),
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id, as any API shows it.")]

DEFAULT_LIMIT = 20
MIN_PROMPT_CELLS = 12
COLUMN_GAP = 2


def with_server(option: str | None, work: Callable[[Server], Coroutine[Any, Any, None]]) -> None:
    """Run `work` with the server that is meant."""
    from ._client import (
        Server,
        server_url,
    )  # an HTTP client takes 50 ms to import, which other commands need not

    settings = settings_module.load()

    async def run() -> None:
        async with Server(server_url(option, settings), settings.api_key) as server:
            await work(server)

    asyncio.run(run())


@app.command("list")
def list_jobs(
    status: Annotated[
        list[JobStatus] | None, typer.Option(help="Only these; may be given more than once.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help=f"How many, the newest first; {DEFAULT_LIMIT} if not said.")
    ] = None,
    all_jobs: Annotated[bool, typer.Option("--all", help="All of them, instead of --limit.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the jobs as JSON.")] = False,
    server: ServerOption = None,
) -> None:
    """List jobs, the newest first."""
    if all_jobs and limit is not None:
        raise InvalidParameter("--limit", limit, "--all is given too", hint="leave one of them out")
    count = None if all_jobs else limit or DEFAULT_LIMIT

    async def work(server: Server) -> None:
        jobs, has_more = await _newest(server, frozenset(status or ()), count)
        if as_json:
            typer.echo(json.dumps(jobs, indent=2))
            return
        _print_jobs(jobs)
        if stderr.is_terminal and has_more:
            stderr.print(
                Text(f"these are the newest {len(jobs)}; there are more with --limit or --all", "dim")
            )

    with_server(server, work)


async def _newest(server: Server, statuses: frozenset[str], count: int | None) -> tuple[list[Job], bool]:
    """Return the newest jobs of those statuses, or of all, and whether there are more."""
    found: list[Job] = []
    page_size = {} if count is None else {"page_size": count + 1}
    async with aclosing(server.jobs(statuses, **page_size)) as jobs:
        async for job in jobs:
            if len(found) == count:
                return found, True
            found.append(job)
    return found, False


def _print_jobs(jobs: list[Job]) -> None:
    console = Console(highlight=False)
    waits = any(wait(job) for job in jobs)
    names = ["id", "status", "progress", "model", "age", *(["ready"] if waits else []), "prompt"]
    rows = [
        [
            one_line(cell)
            for cell in (
                job["id"], job["status"], progress(job), job["model"], age(job),
                *([wait(job).removeprefix("ready ")] if waits else []), job["prompt"],
            )
        ]
        for job in jobs
    ]  # fmt: skip
    widths = [max(cell_len(cell) for cell in column) for column in zip(names, *rows, strict=True)]
    if not console.is_terminal:
        for cells in (names, *rows):
            padded = (set_cell_size(cell, width) for cell, width in zip(cells[:-1], widths, strict=False))
            typer.echo((" " * COLUMN_GAP).join((*padded, cells[-1])).rstrip())
        return
    taken = sum(widths[:-1]) + COLUMN_GAP * (len(widths) - 1)
    prompt_cells = max(MIN_PROMPT_CELLS, console.width - taken)
    table = Table(box=None, pad_edge=False, padding=(0, COLUMN_GAP, 0, 0), header_style="bold")
    for name in names:
        table.add_column(name, no_wrap=True)
    for job, cells in zip(jobs, rows, strict=True):
        texts = [Text(cell) for cell in cells]
        texts[1].stylize(COLORS.get(job["status"], ""))
        texts[-1].truncate(prompt_cells, overflow="ellipsis")
        table.add_row(*texts)
    # wider than the terminal rather than an id that is cut
    Console(highlight=False, width=max(console.width, taken + prompt_cells)).print(table)


@app.command()
def show(
    job_id: JobId,
    as_json: Annotated[bool, typer.Option("--json", help="Print the job as JSON.")] = False,
    server: ServerOption = None,
) -> None:
    """Show all that is known of a job."""

    async def work(server: Server) -> None:
        job = await server.job(job_id)
        if as_json:
            typer.echo(json.dumps(job, indent=2))
            return
        _print_details(job, detail_rows(job, server.url))

    with_server(server, work)


def _print_details(job: Job, rows: list[tuple[str, str]]) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        width = max(len(name) for name, _ in rows) + COLUMN_GAP
        for name, text in rows:
            typer.echo(name.ljust(width) + text.replace("\n", "\n" + " " * width))
        return
    table = Table.grid(padding=(0, COLUMN_GAP, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(name, Text(text, COLORS.get(job["status"], "") if name == "status" else ""))
    console.print(table)


@app.command()
def cancel(
    job_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids, as any API shows them.")],
    server: ServerOption = None,
) -> None:
    """Cancel jobs: one that waits at once, one that runs within one denoising step."""

    async def work(server: Server) -> None:
        are_found = True
        for job_id in dict.fromkeys(job_ids):
            try:
                typer.echo(f"{one_line(job_id)}  {await _cancel(server, job_id)}")
            except ServerRefusal as error:
                print_error(error)
                are_found = False
        if not are_found:
            raise typer.Exit(1)

    with_server(server, work)


async def _cancel(server: Server, job_id: str) -> str:
    """Cancel a job and say what happened to it."""
    before = await server.job(job_id)
    if before["status"] in FINAL:
        return f"had already ended: {outcome(before)}"
    after = await server.cancel(job_id)
    if after["status"] == "cancelled":
        return "cancelled"
    if after["status"] in FINAL:
        return f"has just ended: {outcome(after)}"
    if before.get("cancel_requested"):
        return "was already asked to stop: it does within one denoising step"
    return "asked to stop: it does within one denoising step"


@app.command()
def retry(
    job_id: JobId,
    again: Annotated[bool, typer.Option("--again", help="Also a job that has succeeded.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the new job as JSON.")] = False,
    server: ServerOption = None,
) -> None:
    """Make a new job of the request and the seed of one that has failed or was cancelled; prints the new id."""

    async def work(server: Server) -> None:
        job = await server.job(job_id)
        if job["status"] == "succeeded" and not again:  # same request, same seed: minutes for the same frames
            message = f"the job `{job_id}` has succeeded, and a second one would make the same frames"
            print_error(JobConflict(message, hint="if that is what you want, add --again"))
            raise typer.Exit(1)
        made = await server.retry(job_id)
        typer.echo(json.dumps(made, indent=2) if as_json else made["id"])

    with_server(server, work)


@app.command()
def watch(
    job_ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ID...]", help="Ids, as any API shows them; by default of all jobs that wait or run."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each event as a line of JSON.")] = False,
    server: ServerOption = None,
) -> None:
    """Follow jobs until they have ended, also over a restart of the server. Exits 1 unless all succeed."""

    async def work(server: Server) -> None:
        if job_ids:
            jobs = [await server.job(job_id) for job_id in job_ids]
        else:
            jobs, _ = await _newest(server, frozenset({"queued", "running"}), None)
            jobs.reverse()  # the oldest runs first
        if not jobs:
            stderr.print("no job waits or runs")
        if not await _follow(server, jobs, as_json=as_json):
            raise typer.Exit(1)

    with_server(server, work)


async def _follow(server: Server, jobs: list[Job], *, as_json: bool) -> bool:
    from ._watch import Watch
    from ._watch_views import Bars, JsonLines, Lines

    once = {job["id"]: job for job in jobs}.values()
    console = Console(highlight=False)
    if as_json or not console.is_terminal:
        return await Watch(server, JsonLines() if as_json else Lines()).run(once)
    with Bars(console) as bars:
        return await Watch(server, bars).run(once)
