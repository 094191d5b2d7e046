"""`vitascope doctor`: what this machine has, and what that means for videos."""

from __future__ import annotations

import json
import platform
import shutil
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vitascope import __version__
from vitascope import settings as settings_module
from vitascope.catalog import Catalog, locate
from vitascope.domain.choice import Choice
from vitascope.domain.errors import SettingsError, VitascopeError
from vitascope.domain.model_spec import ModelSpec

GIB = 2**30
NEEDED_MEMORY_BYTES = 2 * GIB
NEEDED_DISK_BYTES = GIB


def doctor(
    model: Annotated[
        str | None, typer.Option(help="Say how this model would be loaded here, without loading it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check this machine: each finding with what it means. Exits 1 if videos cannot be made, or a peer cannot be used."""
    findings = _findings(model)
    if as_json:
        typer.echo(
            json.dumps(
                [{"name": c.name, "value": c.value, "meaning": c.reason, "ok": ok} for c, ok in findings]
            )
        )
    else:
        table = Table(box=None, pad_edge=False, show_header=False)
        for _ in range(4):
            table.add_column(overflow="fold")  # a path is to be read whole
        for choice, ok in findings:
            verdict = Text("ok", "green") if ok else Text("no", "red")
            table.add_row(verdict, Text(choice.name, "bold"), Text(choice.value), Text(choice.reason))
        Console().print(table)
    if not all(ok for _, ok in findings):
        raise typer.Exit(1)


def _findings(model: str | None) -> list[tuple[Choice, bool]]:
    settings = settings_module.load()
    findings = [
        (Choice("vitascope", __version__, "this program"), True),
        (Choice("python", platform.python_version(), "3.11 or newer is needed"), True),
    ]
    findings += _engine_findings(settings)
    findings += [_memory(), _folder(settings.home), *_storage(settings), _provenance(settings)]
    findings += [*_prompting(settings), *_moderation(settings)]
    findings += _models(settings, model)
    findings += _peers(settings)
    return findings


def _peers(settings: settings_module.Settings) -> list[tuple[Choice, bool]]:
    """Ask each peer how it is. One that is away keeps no video from being made."""
    from vitascope import app

    found = []
    for number, peer in enumerate(settings.peers, 1):
        unused = app.why_no_peers(settings)
        meaning, ok = (unused, True) if unused is not None else app.check_peer(peer)
        found.append((Choice(f"peer {number}", peer.url, meaning), ok))
    return found


def _prompting(settings: settings_module.Settings) -> list[tuple[Choice, bool]]:
    """Which language model writes prompts out; it is not asked."""
    wanted = settings.prompting
    if wanted.model is None:
        return []
    when = "all" if wanted.by_default else "those that ask for it"
    where = "on this machine" if wanted.url is None else f"at {wanted.url}"
    try:
        _ = settings.prompting_instructions
    except SettingsError as error:
        return [(Choice("prompt enhancement", wanted.model, error.message), False)]
    return [(Choice("prompt enhancement", f"{wanted.model} {where}", f"for {when}"), True)]


def _moderation(settings: settings_module.Settings) -> list[tuple[Choice, bool]]:
    """What content is checked; the endpoint is not asked."""
    wanted = settings.moderation
    on = {"words": wanted.words, "an endpoint": wanted.url, "frames": wanted.frames}
    names = ", ".join(name for name, value in on.items() if value)
    if not names:
        return []
    try:
        wanted.check_installed()
        wanted.prompt_check()
    except SettingsError as error:
        problem = error.message if error.hint is None else f"{error.message}; {error.hint}"
        return [(Choice("content checks", names, problem), False)]
    return [(Choice("content checks", names, "what they reject is refused, or its job fails"), True)]


def _storage(settings: settings_module.Settings) -> list[tuple[Choice, bool]]:
    """Try an object storage with a file of its own; a folder is the finding before this."""
    if settings.storage.kind == "local":
        return []
    from vitascope import app

    where = f"{settings.storage.url} at {settings.storage.endpoint_url or 'AWS'}"
    try:
        problem = app.check_storage(settings)
    except SettingsError as error:
        problem = f"{error.message}; {error.hint}"
    meaning = "a file was listed, written, read and deleted"
    return [(Choice("storage", where, problem or meaning), problem is None)]


def _engine_findings(settings: settings_module.Settings) -> list[tuple[Choice, bool]]:
    try:
        from vitascope.engine import Devices, Wishes
        from vitascope.engine.doctor import describe
    except ImportError as error:
        reason = f"the engine cannot be imported ({error.name}); install again"
        return [(Choice("torch", "not found", reason), False)]
    try:
        engine = settings.engine
        devices = Devices(engine.devices, engine.parallel)
        found = describe(engine.device, engine.threads, Wishes(**engine.wishes), devices)
        return [(choice, True) for choice in found]
    except SettingsError as error:
        return [(Choice("device", settings.engine.first_device, error.message), False)]


def _memory() -> tuple[Choice, bool]:
    memory = psutil.virtual_memory()
    ok = memory.available > NEEDED_MEMORY_BYTES
    meaning = "the embedded model needs 2 GiB" if ok else "less than the 2 GiB that the embedded model needs"
    return Choice("memory", f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free", meaning), ok


def _folder(home: Path) -> tuple[Choice, bool]:
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    try:
        free = shutil.disk_usage(existing).free
        home.mkdir(parents=True, exist_ok=True)
        probe = home / ".doctor"
        probe.touch()
        probe.unlink()
    except OSError as error:
        return Choice(
            "data folder", str(home), f"cannot be written: {error.strerror}; set VITASCOPE_HOME"
        ), False
    ok = free > NEEDED_DISK_BYTES
    meaning = "jobs and videos of the server are kept here"
    return Choice("data folder", f"{home} ({free / GIB:.0f} GiB free)", meaning if ok else "nearly full"), ok


def _provenance(settings: settings_module.Settings) -> tuple[Choice, bool]:
    """Which certificate files are signed with; makes none."""
    from vitascope import app

    wanted = settings.provenance
    if not wanted.enabled:
        return Choice("provenance", "off", "files do not say that they were made by a machine"), True
    if wanted.certificate is None and wanted.key is None and not settings.certificate_file.exists():
        return Choice("provenance", "on", "a certificate is made at the first start"), True
    try:
        app.check_marks(settings)
        credentials = app.open_credentials(settings)
    except SettingsError as error:
        return Choice("provenance", "on", error.message), False
    assert credentials is not None
    return Choice("provenance", credentials.name, "files are signed with this certificate"), True


def _placement(
    settings: settings_module.Settings, spec: ModelSpec, location: str
) -> list[tuple[Choice, bool]]:
    """How a model would be loaded."""
    from vitascope.engine import Wishes
    from vitascope.engine.doctor import describe_model

    engine = settings.engine
    parts = {name: locate(part) for name, part in spec.parts.items()}
    budget = round(engine.memory_gb * 10**9) or None
    found = describe_model(spec, location, parts, engine.first_device, Wishes(**engine.wishes), budget)
    return [(choice, True) for choice in found]


def _models(settings: settings_module.Settings, asked: str | None) -> list[tuple[Choice, bool]]:
    try:
        catalog = Catalog.open(settings.cards_folder, settings.engine.default_model)
        spec = catalog.resolve(asked)
        location = locate(spec)
        placement = _placement(settings, spec, location) if settings.engine.kind == "diffusers" else []
    except VitascopeError as error:
        return [(Choice("model", asked or settings.engine.default_model, error.message), False)]
    except ImportError:
        placement = []  # the finding for torch says it
    kind, _, name = spec.source.partition(":")
    meaning = "will be downloaded at first use" if kind == "hub" else "its files are complete"
    if kind == "embedded":
        meaning = "ships with Vitascope; every file matches its checksum"
    return [(Choice("model", f"{spec.id} ({name})" if kind == "hub" else spec.id, meaning), True), *placement]
