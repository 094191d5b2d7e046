"""Writes the reference pages from the code: `python docs/reference.py`. A test fails if they are out of date."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel

from vitascope.cli import app
from vitascope.domain import errors
from vitascope.settings import Settings

HERE = Path(__file__).parent


def settings_page() -> str:
    """Every setting with its default and its reason."""
    lines = [
        "# Settings",
        "",
        "A setting is taken from the command line, else from the environment, else from `vitascope.toml` in the current folder, else",
        "from here. In the environment a setting is called `VITASCOPE_SECTION__KEY`; in the file it is `key` in the table `[section]`.",
        "`DATABASE_URL` is used where `store.url` is not set. `HF_HOME`, `HF_TOKEN`, `CUDA_VISIBLE_DEVICES` and `NO_COLOR` mean what",
        "they mean elsewhere.",
        "",
        "| setting | environment | default | what it does |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| `{name}` | `{variable}` | {default} | {text} |" for name, variable, default, text in _settings()
    ]
    return "\n".join([*lines, ""])


def _settings() -> Iterator[tuple[str, str, str, str]]:
    for name, field in Settings.model_fields.items():
        section = field.default
        if isinstance(section, BaseModel):
            for key, inner in type(section).model_fields.items():
                variable = f"VITASCOPE_{name}__{key}".upper()
                yield f"{name}.{key}", variable, _default(getattr(section, key)), inner.description or ""
        else:
            default = "the user's data folder" if name == "home" else _default(field.default)
            yield name, f"VITASCOPE_{name}".upper(), default, field.description or ""


def _default(value: object) -> str:
    return "none" if value is None else f"`{value}`"


def cli_page() -> str:
    """Every command with its options, as `--help` says them."""
    lines = [
        "# Command line",
        "",
        "Data goes to standard output, everything else to standard error. Exit codes: 0 done; 1 it could not be done; 2 the command",
        "line or a setting is wrong; 130 stopped with Ctrl-C. Settings that have no option here are in [settings](settings.md).",
    ]
    for path, command in _commands(typer.main.get_command(app), ["vitascope"]):
        lines += ["", f"## `{' '.join(path)}`", "", (command.help or "").strip(), ""]
        parameters = [p for p in command.params if p.name != "help" and not getattr(p, "hidden", False)]
        if parameters:
            lines += ["| option | what it does |", "| --- | --- |"]
            lines += [
                f"| `{_option(parameter)}` | {getattr(parameter, 'help', None) or ''} |"
                for parameter in parameters
            ]
    return "\n".join([*lines, ""])


def _option(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return (parameter.name or "").upper()
    return ", ".join(sorted(parameter.opts, key=len, reverse=True))


def _commands(command: Any, path: list[str]) -> Iterator[tuple[list[str], Any]]:
    if not command.hidden and (not hasattr(command, "commands") or len(path) == 1):
        yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        if not inner.hidden:
            yield from _commands(inner, [*path, name])


def errors_page() -> str:
    """Every error code with what it means."""
    lines = [
        "# Errors",
        "",
        "Each error has a code that never changes, one sentence, and often a hint. Errors of a request are answered at once; errors of a",
        "generation are kept with the job that failed.",
        "",
        "| code | meaning | kind |",
        "| --- | --- | --- |",
    ]
    for cls in _leaves(errors.VitascopeError):
        kind = next(base.__name__ for base in cls.__mro__[1:] if issubclass(base, errors.VitascopeError))
        meaning = (inspect.getdoc(cls) or "").split("\n", 1)[0]
        lines.append(f"| `{cls.code}` | {meaning} | {kind} |")
    return "\n".join([*lines, ""])


def _leaves(cls: type[errors.VitascopeError]) -> Iterator[type[errors.VitascopeError]]:
    for inner in cls.__subclasses__():
        if not inner.__subclasses__():
            yield inner
        yield from _leaves(inner)


PAGES = {"settings.md": settings_page, "cli.md": cli_page, "errors.md": errors_page}


if __name__ == "__main__":
    for name, page in PAGES.items():
        (HERE / name).write_text(page(), encoding="utf-8")
