"""Writes the reference pages from the code: `python docs/reference.py`. A test fails if they are out of date."""

from __future__ import annotations

import ast
import inspect
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel

from vitascope.cli import app
from vitascope.domain import errors, schedulers
from vitascope.settings import Settings

HERE = Path(__file__).parent


def settings_page() -> str:
    """Every setting with its default and its reason."""
    lines = [
        "# Settings",
        "",
        "A setting is taken from the command line, else from the environment, else from `vitascope.toml` in the current folder, else",
        "from here. In the environment a setting is called `VITASCOPE_SECTION__KEY`; in the file it is `key` in the table `[section]`.",
        "`DATABASE_URL` is used where `store.url` is not set, and AWS's variables where `storage` says nothing. `HF_HOME`, `HF_TOKEN`,",
        "`CUDA_VISIBLE_DEVICES` and `NO_COLOR` mean what they mean elsewhere.",
        "",
        "| setting | environment | default | what it does |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| `{name}` | `{variable}` | {default} | {text} |" for name, variable, default, text in _settings()
    ]
    return "\n".join([*lines, ""])


def _settings() -> Iterator[tuple[str, str, str, str]]:
    told = _docstrings(Settings)
    for name, field in Settings.model_fields.items():
        section = field.default
        if isinstance(section, BaseModel):
            inner = _docstrings(type(section))
            for key in type(section).model_fields:
                variable = f"VITASCOPE_{name}__{key}".upper()
                yield f"{name}.{key}", variable, _default(getattr(section, key)), inner.get(key, "")
        else:
            default = "the user's data folder" if name == "home" else _default(field.default)
            yield name, f"VITASCOPE_{name}".upper(), default, told.get(name, "")


def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Find what stands under each field. pydantic can do it for the class itself, and every command would wait for it at its start."""
    (declared,) = ast.parse(inspect.getsource(model)).body
    assert isinstance(declared, ast.ClassDef)
    return {
        field.target.id: inspect.cleandoc(text)
        for field, below in itertools.pairwise(declared.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(text := below.value.value, str)
    }


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


_FAMILIES = {
    "flow": "flow",
    "discrete": "noise",
    "cogvideox": "CogVideoX",
    "edm": "levels",
}


def schedulers_page() -> str:
    """Every scheduler's name with what becomes of it in each family of models."""
    tables = {family: schedulers.table(family) for family in _FAMILIES}
    lines = [
        "# Noise schedulers",
        "",
        "A request may name the scheduler that takes its denoising steps, by diffusers' class name (capitals do not count); without one the",
        "checkpoint's own runs. What becomes of a name depends on what the model predicts. **Runs**: that method runs. A name in a cell: that one",
        "runs instead, and the job's `choices` say so with the reason. **Refused**: the native API and the command line answer with the nearest",
        "usable name; the dialects of vendors whose documentation lists the name take that one and tell of it.",
        "",
        "| family in the card | models |",
        "| --- | --- |",
        "| `flow` | predict the flow from noise to data: Wan, LTX-Video, HunyuanVideo, Mochi, SkyReels-V2, Sana-Video, Kandinsky 5, `pocket` |",
        "| `discrete` (noise) | predict noise, or v, at a thousand timesteps: zeroscope, AnimateDiff, Allegro, Latte |",
        "| `cogvideox` | predict v on CogVideoX's schedule, which ends in pure noise |",
        "| `edm` (levels) | are told continuous noise levels: Stable Video Diffusion, Cosmos 1 |",
        "",
        f"| name | {' | '.join(_FAMILIES.values())} |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in schedulers.NAMES:
        cells = (_cell(schedulers.resolve(name, family)) for family in tables)
        mark = "" if name in schedulers.EIGHTEEN else " *"
        lines.append(f"| `{name}`{mark} | {' | '.join(cells)} |")
    lines += ["", "Names without * are the eighteen of the stablediffusionapi documentation.", "", "## Why"]
    for family, title in _FAMILIES.items():
        mapped = [row for row in tables[family] if row.standing == "mapped"]
        lines += ["", f"### {title[0].upper()}{title[1:]}", ""]
        lines += [f"- `{row.name}` → {_class(row.value)}: {row.reason}" for row in mapped]
    lines += ["", "### Refused everywhere", ""]
    refused = [row for row in tables["flow"] if row.standing == "refused"]
    lines += [f"- `{row.name}`: {row.reason}. Vendors' dialects take `{row.scheduler}`." for row in refused]
    lines += ["", "### Pipelines that run their own scheduler only", ""]
    lines += [f"- `{pipeline}`: {reason}" for pipeline, reason in schedulers.OWN_ONLY.items()]
    return "\n".join([*lines, "", _SCHEDULER_NOTES])


def _cell(row: schedulers.Decision) -> str:
    if row.standing == "native":
        return "runs" + (f", at most {row.max_steps} steps" if row.max_steps else "")
    return "refused" if row.standing == "refused" else _class(row.value)


def _class(value: str) -> str:
    return value if value == schedulers.OWN else f"`{value}`"


_SCHEDULER_NOTES = """\
## What is ours

- On a flow, every solver runs over the noise levels of the checkpoint's own scheduler: shift, dynamic shifting, stretching to a terminal
  level, Karras levels, and the `sigmas`, `mu` and `timesteps` that a pipeline passes, hold for all. diffusers' solvers take none of these but UniPC,
  round timesteps to whole numbers, and its DEIS stops above zero (at 12 steps with shift 3 a fifth of the picture stays noise).
  Mochi, whose times run the other way, takes them all.
- CogVideoX's schedule reaches the other classes as the table of betas that it comes to; diffusers would drop its shift of the noise without a word.
- `IPNDMScheduler` runs on the checkpoint's schedule and timesteps; diffusers' class has a schedule of its own and tells the model times
  from 0 to 1. `LMSDiscreteScheduler` needs no scipy: the integrals are of polynomials.
- Every request has an instance of its own, and noise that a scheduler draws comes from the request's seed, also where a pipeline forgets to say so.
- Progress counts the scheduler's own calls: Heun and KDPM2 take two a step. Every name runs with 1, 2 or 3 steps too.
- With equal timesteps `EulerDiscreteScheduler` and `DDIMScheduler` are the same method, and `EulerAncestralDiscreteScheduler` and `DDPMScheduler`
  nearly so: their videos differ where their default timesteps do.
- A card's `schedulers` narrows what requests may name; without it all that the family takes is allowed.

Each solver is tested against data whose perfect model is a formula: with more steps it must reach the known end, those of higher order sooner.

## Which one

![Frames of the embedded model with each scheduler at 6 and 12 steps](images/schedulers.png)

Two prompts at 6 steps, the same two at 12; numbers are in [experiments](experiments.md). `python docs/scheduler_sheet.py` makes it.
"""


PAGES = {
    "settings.md": settings_page,
    "cli.md": cli_page,
    "errors.md": errors_page,
    "schedulers.md": schedulers_page,
}


if __name__ == "__main__":
    for name, page in PAGES.items():
        (HERE / name).write_text(page(), encoding="utf-8")
