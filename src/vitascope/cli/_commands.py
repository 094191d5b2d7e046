"""The commands by name, each imported when it is called: most of them need the store or the web framework, and none needs the others' parts.

Measured on a warm disk: `import vitascope.cli` takes 0.15 s of processor time so, and 0.9 s with all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

#: In which module of this package each command is, and as what: an `app` is a group of commands.
WHERE = {
    "generate": ("generate", "generate"),
    "bench": ("bench", "bench"),
    "verify": ("verify", "verify"),
    "serve": ("serve", "serve"),
    "doctor": ("doctor", "doctor"),
    "web": ("serve", "web"),
    "worker": ("worker", "worker"),
    "engine-process": ("worker", "engine_process"),
    "jobs": ("jobs", "app"),
    "keys": ("keys", "app"),
    "credits": ("credits", "app"),
    "models": ("models", "app"),
    "webhooks": ("webhooks", "app"),
    "storage": ("storage", "app"),
    "db": ("db", "app"),
}

HIDDEN = frozenset({"engine-process"})
"""What only other commands call."""


class Commands(Mapping[str, Any]):
    """Click's commands by name, made when they are looked at."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = _made(name, *WHERE[name])
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(WHERE)

    def __len__(self) -> int:
        return len(WHERE)

    def __contains__(self, name: object) -> bool:
        return name in WHERE


def _made(name: str, module: str, attribute: str) -> Any:
    found = getattr(import_module(f"{__package__}.{module}"), attribute)
    command: Any
    if isinstance(found, typer.Typer):
        command = typer.main.get_group(found)
    else:
        alone = typer.Typer(add_completion=False)
        alone.command(name, hidden=name in HIDDEN)(found)
        command = typer.main.get_command(alone)
    command.name = name
    return command


class Group(TyperGroup):
    """The program itself."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "commands": {}})
        self.commands = Commands()  # type: ignore[assignment]
