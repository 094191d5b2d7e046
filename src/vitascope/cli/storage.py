"""`vitascope storage`: where new videos go. Works on the database itself; a server that runs follows at once."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from vitascope import settings as settings_module
from vitascope.domain.bucket import Bucket
from vitascope.domain.errors import BucketRefused, InvalidParameter
from vitascope.service import Buckets

from ._terminal import print_error, stderr

app = typer.Typer(
    help="Tell where new videos go: to the storage of the settings, or to a bucket that is named while the server runs.",
    no_args_is_help=True,
)

SCHEME = "s3://"


@app.command()
def show(as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False) -> None:
    """Print where new videos go."""
    settings = settings_module.load()
    with _buckets(settings) as buckets:
        bucket = buckets.in_use
    place = _place(bucket) if bucket else settings.storage.url or str(settings.files_folder)
    if as_json:
        values = None if bucket is None else {**_values(bucket), "place": place}
        typer.echo(json.dumps(values or {"place": place}, indent=2))
        return
    typer.echo(place)
    stderr.print("named while the server ran" if bucket else "by the settings")


@app.command("set")
def set_bucket(
    url: Annotated[
        str, typer.Argument(help="The bucket, and a folder in it: s3://BUCKET/FOLDER.", show_default=False)
    ],
    access_key_id: Annotated[str, typer.Option(help="Of the credentials.", show_default=False)],
    endpoint: Annotated[
        str | None, typer.Option(help="URL of an object storage other than AWS.", show_default=False)
    ] = None,
    region: Annotated[str, typer.Option(help="Region of the bucket.")] = "us-east-1",
    virtual_hosted: Annotated[
        bool, typer.Option("--virtual-hosted", help="The bucket is in the host name of the endpoint.")
    ] = False,
    public_url: Annotated[
        str | None, typer.Option(help="Where anyone can read the bucket.", show_default=False)
    ] = None,
) -> None:
    """Let new videos go to a bucket, after a try; the secret is asked for, or read from standard input. Older videos stay where they are."""
    if not url.startswith(SCHEME):
        raise InvalidParameter("URL", url, f"it must begin with {SCHEME}")
    name, _, prefix = url.removeprefix(SCHEME).partition("/")
    bucket = Bucket(
        id="",
        bucket=name,
        prefix=prefix.strip("/"),
        endpoint=endpoint or f"https://s3.{region}.amazonaws.com",
        region=region,
        path_style=not virtual_hosted,
        access_key_id=access_key_id,
        secret_access_key=_secret(),
        public_url=public_url,
    )
    with _buckets(settings_module.load()) as buckets:
        asyncio.run(buckets.check_address(bucket))
        used = buckets.use(bucket)
    typer.echo(_place(used))
    stderr.print("new videos go there from now on; a file was listed, written, read and deleted")


@app.command()
def check() -> None:
    """Try the bucket that new videos go to; `vitascope doctor` tries the one of the settings. Exits 1 if it cannot be used."""
    with _buckets(settings_module.load()) as buckets:
        try:
            bucket = buckets.try_again()
        except BucketRefused as error:
            print_error(error)
            raise typer.Exit(1) from None
    if bucket is None:
        stderr.print("new videos go where the settings say")
        return
    typer.echo(_place(bucket))
    stderr.print("a file was listed, written, read and deleted")


@app.command()
def reset() -> None:
    """Let new videos go where the settings say. What is in a bucket stays there, and is served."""
    with _buckets(settings_module.load()) as buckets:
        is_change = buckets.reset()
    already = "" if is_change else "already "
    stderr.print(f"new videos {already}go where the settings say")


def _secret() -> str:
    if sys.stdin.isatty():
        return str(typer.prompt("secret access key", hide_input=True, err=True))
    return sys.stdin.readline().strip()


def _place(bucket: Bucket) -> str:
    return "/".join(filter(None, (f"{SCHEME}{bucket.bucket}", bucket.prefix, bucket.id)))


def _values(bucket: Bucket) -> dict[str, object]:
    names = ("bucket", "prefix", "endpoint", "region", "access_key_id", "public_url")
    return {name: getattr(bucket, name) for name in names}


@contextmanager
def _buckets(settings: settings_module.Settings) -> Iterator[Buckets]:
    from vitascope import app as composition

    outbound = composition.open_outbound(settings)
    store = composition.open_store(settings)
    try:
        yield Buckets(store, outbound)
    finally:
        store.close()
