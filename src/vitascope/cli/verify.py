"""`vitascope verify`: what a file says of its origin, and whether it is true."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vitascope import settings as settings_module
from vitascope.domain.errors import InvalidParameter
from vitascope.domain.provenance import Finding


def verify(
    file: Annotated[Path, typer.Argument(help="An MP4 or GIF file, from anywhere.")],
    certificate: Annotated[
        Path | None,
        typer.Option(
            help="PEM file with the certificates of the server that is believed; by default this machine's."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Tell who made a file, with which model and when, and whether it was changed since.

    Exit codes: 0 signed and unchanged; 1 changed, damaged, or not signed at all.
    """
    from vitascope import app, media
    from vitascope.media.certificate import read_certificates

    if certificate is None:
        known = app.known_certificates(settings_module.load())
    else:
        known = read_certificates(certificate)
    try:
        with file.open("rb") as opened:
            finding = media.verify(opened, known)
    except OSError as error:
        rule = f"it cannot be read: {error.strerror}"
        raise InvalidParameter("FILE", str(file), rule) from None
    if as_json:
        typer.echo(json.dumps({**finding.to_dict(), "message": finding.sentence}))
    else:
        _tell(finding)
    if finding.state != "valid":
        raise typer.Exit(1)


def _tell(finding: Finding) -> None:
    typer.echo(f"{finding.state}: {finding.sentence}")
    if finding.state == "none":
        return
    lines = {
        "generator": finding.generator,
        "model": finding.model,
        "model's licence": finding.model_license,
        "model's source": finding.model_source,
        "made at": finding.made_at,
        "prompt": finding.prompt,
        "kind": finding.digital_source_type and finding.digital_source_type.rpartition("/")[2],
        "certificate": finding.signer,
        "problems": ", ".join(finding.problems),
    }
    for name, value in lines.items():
        if value:
            typer.echo(f"  {name}: {value}")
