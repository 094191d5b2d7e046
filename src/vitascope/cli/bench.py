"""`vitascope bench`: how fast a model is here, beside plain diffusers and beside what the device can do."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from vitascope import settings as settings_module
from vitascope.catalog import Catalog, locate
from vitascope.domain.errors import InvalidParameter, UnknownModel, WriteFailed
from vitascope.domain.model_spec import Size
from vitascope.domain.plan import plan
from vitascope.domain.request import GenerationRequest

from ._terminal import stderr

if TYPE_CHECKING:
    from vitascope.domain.model_spec import ModelSpec

#: What was measured of one variant; or why it did not work.
_Row = dict[str, Any]
#: By title, how a cell is written.
_Columns = dict[str, Callable[[_Row], str]]

GIB = 2**30
PROMPT = "a red car drives along the beach"
MOST_REQUESTS = 64

#: The cards of what can be built with random weights; None where there is none.
CARDS = {"wan2.1-1.3b": "wan2.1-t2v-1.3b", "wan2.1-14b": "wan2.1-t2v-14b", "wan-tiny": None}


def bench(
    model: Annotated[
        str | None,
        typer.Argument(help="A card's name, a diffusers folder, or a hub id; by default the usual model."),
    ] = None,
    architecture: Annotated[
        str | None,
        typer.Option(help=f"Instead of a model one of these, with --random-weights: {', '.join(CARDS)}."),
    ] = None,
    random_weights: Annotated[
        bool,
        typer.Option("--random-weights", help="Build --architecture in a folder for the time of the run."),
    ] = False,
    width: Annotated[int | None, typer.Option(help="Pixels; by default as the model was made for.")] = None,
    height: Annotated[int | None, typer.Option(help="The same.")] = None,
    num_frames: Annotated[
        int | None, typer.Option(help="By default as many as the model makes at once.")
    ] = None,
    num_inference_steps: Annotated[
        int | None, typer.Option("--num-inference-steps", "--steps", help="Denoising steps.")
    ] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="How closely the prompt is followed.")] = None,
    repeats: Annotated[
        int, typer.Option(min=1, max=100, help="Runs whose medians count, after one that warms up.")
    ] = 3,
    concurrency: Annotated[
        str, typer.Option(help="How many requests at a time, for jobs an hour; 0 leaves that out.")
    ] = "1,2,4,8",
    plain: Annotated[bool, typer.Option("--plain/--no-plain", help="Measure plain diffusers beside.")] = True,
    options: Annotated[
        bool, typer.Option("--options", help="Measure each of the engine's options alone, too.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="A PNG to draw the figures into.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Measure a model on this machine: seconds a step, share of the device's peak, stages, memory, jobs an hour."""
    requests = _counts(concurrency)
    _check(model, architecture, random_weights, plot)
    settings = settings_module.load()
    settings_module.share_cores()
    with ExitStack() as stack:
        show = stack.enter_context(_progress(quiet=quiet))
        if architecture is None:
            spec = _opened(settings).resolve_local(model)
        else:
            show("random weights", 0, 1)
            spec = _built(architecture, Path(stack.enter_context(tempfile.TemporaryDirectory())), settings)
        request = GenerationRequest(
            prompt=PROMPT,
            model=spec.id,
            height=spec.default_size.height if height is None else height,
            width=spec.default_size.width if width is None else width,
            num_frames=spec.default_num_frames if num_frames is None else num_frames,
            fps=spec.fps,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            seed=1,
        )
        _check_one_window(request, spec)

        from vitascope.engine import Devices, Wishes
        from vitascope.engine.measuring.bench import Bench, Wanted

        wanted = Wanted(spec, request, repeats, requests, with_plain=plain, with_options=options)
        engine = {
            "device": settings.engine.device,
            "devices": Devices(settings.engine.devices[:1], "off"),
            "threads": settings.engine.threads,
            "memory_gb": settings.engine.memory_gb,
        }
        measured = Bench(locate, wanted, Wishes(**settings.engine.wishes), show, **engine)
        found = measured.run()
        show("write", 0, 1)
        found["engine"]["write_seconds"] = _write_seconds(measured.frames, spec.fps)
    found["text_encoder"] = "the model's own" if architecture is None else "a stand-in"
    found["weights"] = "the model's own" if architecture is None else "random"
    if as_json:
        typer.echo(json.dumps(found))
    else:
        _print(found)
    if plot is not None:
        _draw(plot, found)  # last: what took minutes to measure has been said by then


def _counts(text: str) -> tuple[int, ...]:
    try:
        counts = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        counts = (-1,)
    if not counts or any(count < 0 or count > MOST_REQUESTS for count in counts):
        rule = f"it must be numbers up to {MOST_REQUESTS} with commas between them"
        raise InvalidParameter("--concurrency", text, rule, nearest="1,2,4,8")
    return tuple(count for count in counts if count)


def _check(model: str | None, architecture: str | None, random_weights: bool, plot: Path | None) -> None:
    """Refuse what does not go together before anything is built."""
    if random_weights and architecture is None:
        rule = "it says nothing without --architecture"
        raise InvalidParameter("--random-weights", True, rule, hint=f"such as {next(iter(CARDS))}")
    if architecture is not None and architecture not in CARDS:
        raise InvalidParameter("--architecture", architecture, f"it must be one of {', '.join(CARDS)}")
    if architecture is not None and (model is not None or not random_weights):
        rule = "it is built with random weights, instead of a model"
        raise InvalidParameter(
            "--architecture", architecture, rule, hint="add --random-weights, and name no model"
        )
    if plot is not None and (plot.suffix.lower() != ".png" or not plot.absolute().parent.is_dir()):
        rule = "it must be the name of a PNG in a folder that is there"
        hint = "end it in .png" if plot.suffix.lower() != ".png" else "make the folder first"
        raise InvalidParameter("--plot", str(plot), rule, hint=hint)


def _check_one_window(request: GenerationRequest, spec: ModelSpec) -> None:
    """Plain diffusers makes one window only, at the model's own sizes."""
    made = plan(request, spec)
    if len(made.windows) > 1:
        rule = "the model makes that in several windows, and what is measured is one"
        raise InvalidParameter("--num-frames", request.num_frames, rule, nearest=made.windows[0].num_frames)


def _opened(settings: settings_module.Settings) -> Catalog:
    return Catalog.open(
        settings.cards_folder, settings.engine.default_model, loras_folder=settings.loras_folder
    )


def _built(name: str, folder: Path, settings: settings_module.Settings) -> ModelSpec:
    """Build a model; what is asked of it is as its card says, whose checkpoint is not needed."""
    from vitascope.engine.measuring.architectures import build

    catalog = _opened(settings)
    try:
        built = catalog.resolve_local(str(build(name, folder / name)))
    except OSError as error:
        raise WriteFailed(f"`{name}` with random weights could not be written: {error.strerror}") from None
    card = CARDS[name]
    if card is None:
        return replace(built, sizes=(Size(32, 32),), default_num_frames=5)
    try:
        return replace(catalog.resolve(card), id=name, source=built.source, loras=())
    except UnknownModel:
        return built


def _write_seconds(frames: Any, fps: int) -> float:
    """Write the clip as a job's file is written; a server does that beside the next job's steps."""
    from vitascope import media

    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        media.write_video(frames, Path(folder) / "video.mp4", fps=fps, format="mp4")
        return time.perf_counter() - begun


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Any]:
    """Yield what is told how far it is: a bar on a terminal, else a line for each thing that is measured."""
    if quiet or not stderr.is_terminal:
        said = [""]

        def line(what: str, _done: int, _of: int) -> None:
            if what != said[0] and not quiet:
                sys.stderr.write(f"{what}\n")
            said[0] = what

        yield line
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=stderr, transient=True) as bar:
        task = bar.add_task("starting", total=1)

        def show(what: str, done: int, of: int) -> None:
            bar.update(task, description=what, completed=done, total=of)

        yield show


def _print(found: dict[str, Any]) -> None:
    console = Console() if sys.stdout.isatty() else Console(width=150)
    made = f"{found['width']}x{found['height']}x{found['num_frames']}, {found['num_inference_steps']} steps"
    console.print(
        f"{found['model']} on {found['device']}, torch {found['torch']}, {found['dtype']}: {made}, guidance {found['guidance_scale']:g}",
        highlight=False,
    )
    if found["weights"] == "random":
        console.print(
            "weights are random and the text encoder is a stand-in: pictures mean nothing", highlight=False
        )
    console.print(_main_table(found))
    if "why_no_plain" in found:
        console.print(f"without plain diffusers: {found['why_no_plain']}", highlight=False)
    if found["together"]:
        _print_together(console, found)
    if found.get("options"):
        _print_options(console, found)


def _main_table(found: dict[str, Any]) -> Table:
    table = Table("", "engine", "plain diffusers", "times as fast", box=None)
    ours, theirs = found["engine"], found.get("plain")

    def row(name: str, write: Any, ratio: str = "") -> None:
        table.add_row(name, write(ours), "-" if theirs is None else write(theirs), ratio)

    def times(name: str) -> str:
        return f"{found['ratio'][name]:.2f}" if "ratio" in found else ""

    row("seconds a step", lambda its: f"{its['step_seconds']:.4g}", times("step"))
    row("TFLOP/s", lambda its: "-" if its["flops"] is None else f"{its['flops'] / 1e12:.4g}")
    peak = f"of the {found['peak_flops'] / 1e12:.4g} TFLOP/s that a product of matrices has here"
    row("share of peak", lambda its: "-" if its["flops"] is None else f"{its['share_of_peak']:.1%}", peak)
    for stage, words in (("encode_prompt", "text"), ("denoise", "denoising"), ("decode_latents", "decoding")):
        row(f"{words}, seconds", lambda its, stage=stage: f"{its['stage_seconds'][stage]:.3f}")
    table.add_row("writing, seconds", f"{ours['write_seconds']:.3f}", "-", "")
    row("without writing, seconds", lambda its: f"{its['seconds']:.3f}", times("video"))
    row("processor seconds", lambda its: f"{its['processor_seconds']:.3f}", times("processor"))
    row("most memory, GiB", lambda its: f"{its['peak_bytes'] / GIB:.2f}")
    row("videos an hour", lambda its: f"{its['jobs_per_hour']:.0f}")
    return table


def _print_together(console: Console, found: dict[str, Any]) -> None:
    plain = found.get("plain", {}).get("jobs_per_hour")
    columns: _Columns = {
        "requests at a time": lambda row: str(row["requests"]),
        "seconds": lambda row: f"{row['seconds']:.3f}",
        "videos an hour": lambda row: f"{row['jobs_per_hour']:.0f}",
        "of plain diffusers'": lambda row: "-" if plain is None else f"{row['jobs_per_hour'] / plain:.2f}",
        "processor seconds each": lambda row: f"{row['processor_seconds'] / row['requests']:.3f}",
    }
    _print_rows(console, columns, found["together"], lambda row: f"{row['requests']} at a time")


def _print_options(console: Console, found: dict[str, Any]) -> None:
    columns: _Columns = {
        "option": lambda row: row["option"],
        "value": lambda row: row["value"],
        "seconds a step": lambda row: f"{row['step_seconds']:.4g}",
        "gain": lambda row: f"{row['step_gain']:.2f}",
        "gain, whole video": lambda row: f"{row['gain']:.2f}",
        "processor": lambda row: f"{row['processor_gain']:.2f}",
        "GiB": lambda row: f"{row['peak_bytes'] / GIB:.2f}",
        "PSNR dB": lambda row: "same" if row["psnr"] is None else f"{row['psnr']:.1f}",
    }
    _print_rows(console, columns, found["options"], lambda row: f"{row['option']} {row['value']}")


def _print_rows(console: Console, columns: _Columns, rows: list[_Row], name: Callable[[_Row], str]) -> None:
    """Print what was measured as a table, and below it what did not work, with the reason."""
    table = Table(*columns, box=None)
    for row in rows:
        if "error" not in row:
            table.add_row(*(write(row) for write in columns.values()))
    console.print(table)
    for row in rows:
        if "error" in row:
            console.print(f"{name(row)}: {row['error']}", highlight=False, markup=False)


def _draw(path: Path, found: dict[str, Any]) -> None:
    from vitascope.media import chart

    both = {"plain diffusers": found.get("plain"), "engine": found["engine"]}

    def group(label: str, pick: Any) -> chart.Group:
        return chart.Group(label, {name: pick(its) for name, its in both.items() if its is not None})

    groups = [
        group("a step, seconds", lambda its: its["step_seconds"]),
        group("whole video, seconds", lambda its: its["seconds"]),
        group("share of peak, %", lambda its: None if its["flops"] is None else 100 * its["share_of_peak"]),
        group("most memory, GiB", lambda its: its["peak_bytes"] / GIB),
    ]
    rates = {f"{row['requests']} at a time": row.get("jobs_per_hour") for row in found["together"]}
    hourly = [
        group("videos an hour", lambda its: its["jobs_per_hour"]),
        *(chart.Group(f"videos an hour,\n{label}", {"engine": rate}) for label, rate in rates.items()),
    ]
    most = max(rate for each in hourly for rate in each.values.values() if rate is not None)
    groups += [replace(each, most=most) for each in hourly]
    made = f"{found['width']}x{found['height']}x{found['num_frames']}, {found['num_inference_steps']} steps"
    note = f"{found['device']}, {found['dtype']}, {made}, weights: {found['weights']}; vitascope bench"
    try:
        chart.bars(path, f"{found['model']}", note, groups)
    except OSError as error:
        raise WriteFailed(f"the picture could not be written: {error.strerror}") from None
