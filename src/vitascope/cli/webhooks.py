"""`vitascope webhooks`: who is told how jobs end, and what became of it, over a running server's native API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vitascope.domain.errors import DeliveryConflict
from vitascope.domain.webhook import EventType, MessageStatus

from ._terminal import stderr
from .jobs import ServerOption, with_server

if TYPE_CHECKING:
    from ._client import Server

app = typer.Typer(help="Say who is told how jobs end; see and repeat what was told.", no_args_is_help=True)
endpoints = typer.Typer(help="Receivers that are told of all jobs of the API key.", no_args_is_help=True)
app.add_typer(endpoints, name="endpoints")

Json = Annotated[bool, typer.Option("--json", help="Print the server's answer as JSON.")]
EndpointId = Annotated[str, typer.Argument(metavar="ENDPOINT", help="Id of the endpoint (`ep_…`).")]

TEST_SECONDS = 45.0
"""How long `test` waits for an answer: three times as long as a receiver may take for one."""


@app.command("list")
def list_deliveries(
    status: Annotated[MessageStatus | None, typer.Option(help="Only these.")] = None,
    job: Annotated[str | None, typer.Option(help="Only about the job of this id.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="Only to this endpoint.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many, the newest first.")] = 20,
    as_json: Json = False,
    server: ServerOption = None,
) -> None:
    """List webhooks with what became of them, the newest first."""
    query: dict[str, str | int] = {"limit": limit}
    given = {"status": status and status.value, "job": job, "endpoint": endpoint}
    query |= {name: value for name, value in given.items() if value is not None}

    async def work(server: Server) -> None:
        found = (await server.webhooks("GET", "deliveries", query))["deliveries"]
        if as_json:
            typer.echo(json.dumps(found, indent=2))
            return
        rows = [
            (one["id"], one["status"], one["event"], str(len(one["attempts"])), one["job_id"] or "", one["url"], one["reason"])
            for one in found
        ]  # fmt: skip
        _print(("id", "status", "event", "attempts", "job", "url", "reason"), rows)

    with_server(server, work)


@app.command()
def replay(
    delivery_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the webhook (`msg_…`).")],
    server: ServerOption = None,
) -> None:
    """Send a webhook once more, with the id and the body that it had."""

    async def work(server: Server) -> None:
        made = await server.webhooks("POST", f"deliveries/{server.segment(delivery_id)}/replay")
        stderr.print(Text(f"{made['id']} will be sent to {made['url']} now"))

    with_server(server, work)


@app.command()
def test(endpoint_id: EndpointId, server: ServerOption = None) -> None:
    """Send an endpoint a message that is about no job, and say what it answered."""

    async def work(server: Server) -> None:
        made = await server.webhooks("POST", f"endpoints/{server.segment(endpoint_id)}/test")
        async with asyncio.timeout(TEST_SECONDS):
            while not made["attempts"]:
                await asyncio.sleep(0.25)
                made = await server.webhooks("GET", f"deliveries/{made['id']}")
        last = made["attempts"][-1]
        if made["status"] != MessageStatus.DELIVERED:
            raise DeliveryConflict(f"it did not arrive: {last['reason']}")
        stderr.print(Text(f"it arrived: {last['status']} after {last['duration_ms']} ms"))

    with_server(server, work)


@app.command()
def secret(
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Make another one; the old one signs too for 24 hours.")
    ] = False,
    server: ServerOption = None,
) -> None:
    """Print what webhooks of requests are signed with: the API key's secret, or that of a server without keys."""

    async def work(server: Server) -> None:
        typer.echo((await server.webhook_secrets(rotate=rotate))[0]["secret"])

    with_server(server, work)


@endpoints.command("add")
def add_endpoint(
    url: Annotated[str, typer.Argument(help="Where webhooks are sent.", show_default=False)],
    event: Annotated[
        list[EventType] | None,
        typer.Option(help="What it is told; may be given more than once. All if not said."),
    ] = None,
    name: Annotated[str, typer.Option(help="Your own word for it.")] = "",
    as_json: Json = False,
    server: ServerOption = None,
) -> None:
    """Tell a URL how jobs end, from now on; prints what its webhooks are signed with."""

    async def work(server: Server) -> None:
        content: dict[str, Any] = {"url": url, "name": name}
        if event:
            content["events"] = [one.value for one in event]
        made = await server.webhooks("POST", "endpoints", content=content)
        if as_json:
            typer.echo(json.dumps(made, indent=2))
            return
        typer.echo(made["secret"])
        stderr.print(Text(f"made endpoint {made['id']}; check its webhooks with the secret above"))

    with_server(server, work)


@endpoints.command("list")
def list_endpoints(as_json: Json = False, server: ServerOption = None) -> None:
    """List the API key's endpoints, oldest first."""

    async def work(server: Server) -> None:
        found = (await server.webhooks("GET", "endpoints"))["endpoints"]
        if as_json:
            typer.echo(json.dumps(found, indent=2))
            return
        rows = [
            (one["id"], one["name"], one["url"], ", ".join(one["events"]), one["disabled_reason"] or "good")
            for one in found
        ]
        _print(("id", "name", "url", "events", "state"), rows)

    with_server(server, work)


@endpoints.command("remove")
def remove_endpoint(endpoint_id: EndpointId, server: ServerOption = None) -> None:
    """Forget an endpoint; what was still to be sent there is not."""

    async def work(server: Server) -> None:
        await server.webhooks("DELETE", f"endpoints/{server.segment(endpoint_id)}")
        stderr.print(Text(f"removed endpoint {endpoint_id}"))

    with_server(server, work)


@endpoints.command("enable")
def enable_endpoint(endpoint_id: EndpointId, server: ServerOption = None) -> None:
    """Tell an endpoint again that was disabled: it answered 410 (Gone), or nothing had arrived there for days."""

    async def work(server: Server) -> None:
        await server.webhooks("POST", f"endpoints/{server.segment(endpoint_id)}/enable")
        stderr.print(Text(f"endpoint {endpoint_id} is told again"))

    with_server(server, work)


@endpoints.command("rotate")
def rotate_endpoint(endpoint_id: EndpointId, server: ServerOption = None) -> None:
    """Give an endpoint another secret and print it; the old one signs too for 24 hours."""

    async def work(server: Server) -> None:
        found = await server.webhooks("POST", f"endpoints/{server.segment(endpoint_id)}/rotate")
        typer.echo(found["secrets"][0]["secret"])

    with_server(server, work)


def _print(names: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name, no_wrap=name in ("id", "status", "event"), overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console(highlight=False).print(table)
