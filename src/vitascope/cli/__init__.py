"""The command line: one file per command.

Belongs here: options, what a person sees on a terminal, exit codes. Data goes to stdout, everything else to stderr.
Never here: work that the server could do too.

Exit codes: 0 done; 1 it could not be done; 2 the command line or a setting is wrong; 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import gc
import io
import signal
import sys
from typing import Annotated, NoReturn

import typer

from vitascope import __version__
from vitascope.domain.errors import RequestError, SettingsError, VitascopeError

from ._commands import Group
from ._ending import Ending
from ._terminal import print_error

app = typer.Typer(
    name="vitascope",
    cls=Group,
    help="Make videos from prompts on your own hardware, from the command line or as a server.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"vitascope {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> NoReturn:
    """Run the command line, as the process's only work, and exit with its code."""
    ending = Ending()
    # importing makes a hundred thousand objects, nearly all of which stay: Python's own thresholds look through them 180 times a clip
    gc.set_threshold(50_000, 20, 100)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a prompt may hold what the terminal's encoding does not
    # like Ctrl-C, so that half-written files are removed; servers set handlers of their own
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(128 + signal.SIGTERM))
    ending.exit(run())


def run() -> int:
    """Run what the command line says; returns the exit code. Errors that we know become one line and a hint."""
    try:
        app()
    except (RequestError, SettingsError) as error:
        print_error(error)
        return 2
    except VitascopeError as error:
        print_error(error)
        return 1
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        raise
    return 0
