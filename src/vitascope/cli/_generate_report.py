"""What `vitascope generate` tells: the plan, and what was made."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer
from rich.text import Text

from vitascope.domain import prompting
from vitascope.domain.plan import Plan

from ._terminal import printable, stderr

if TYPE_CHECKING:
    from vitascope.domain.choice import Choice
    from vitascope.worker.produce import Product


def tell_plan(planned: Plan, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(planned.to_dict()))
        return
    windows = " + ".join(f"{window.num_frames}" for window in planned.windows)
    native = f"{planned.native_width}x{planned.native_height}, {windows} frames at {planned.native_fps} fps"
    typer.echo(f"{planned.model} makes {native}, in {planned.total_steps} denoising steps")
    if planned.upscale is not None:
        this = planned.upscale
        each = "" if len(planned.windows) == 1 else " for each of them"
        by = this.model or planned.model
        typer.echo(f"A second pass at {planned.made} by {by} is {this.num_steps} of these steps{each}")
    if planned.num_videos > 1:
        typer.echo(f"It does so {planned.num_videos} times, from seed {planned.seed} on")
    for choice in planned.choices:
        typer.echo(f"{choice.name}: {choice.value} ({choice.reason})")
    size = f"{planned.width}x{planned.height}, {planned.duration_seconds:.2f} s at {planned.fps} fps"
    typer.echo(f"The file is {size}, {planned.format}")


def report_json(products: list[Product], planned: Plan, enhanced: tuple[str, ...], seconds: float) -> None:
    from vitascope.worker.outputs import details_of

    files = [_file(product, planned) for product in products]
    whole = {"model": planned.model, "total_seconds": round(seconds, 3), **details_of(products)}
    written = {"enhanced_prompt": " / ".join(enhanced)} if enhanced else {}
    typer.echo(json.dumps({**files[0], **whole, **written, "videos": files}))


def report(products: list[Product], planned: Plan, enhanced: tuple[str, ...], seconds: float) -> None:
    if enhanced:
        stderr.print(Text(f"prompt: {printable(' / '.join(enhanced))}", "dim"), soft_wrap=True)
    for choice in _told(products[0], planned):
        stderr.print(Text(f"{choice.name}: {choice.value} ({choice.reason})", "dim"), soft_wrap=True)
    for product in products:
        video = product.video
        made = f", made in {seconds:.1f} s" if len(products) == 1 else ""
        typer.echo(
            f"{product.path}  {video.width}x{video.height}, {video.duration_seconds:.2f} s at {video.fps} fps, "
            f"seed {planned.seed_of(video.index)}, {video.num_bytes / 1000:.0f} kB{made}"
        )
    if len(products) > 1:
        stderr.print(f"made in {seconds:.1f} s", highlight=False)


def _told(product: Product, planned: Plan) -> list[Choice]:
    """What was planned, and what has become of the prompt since; the engine's own choices are for `--json`."""
    later = [choice for choice in product.choices if choice.name == prompting.ENHANCE]
    return [*planned.choices, *(choice for choice in later if choice not in planned.choices)]


def _file(product: Product, planned: Plan) -> dict[str, object]:
    video = product.video
    return {
        "path": str(product.path),
        "seed": planned.seed_of(video.index),
        "width": video.width,
        "height": video.height,
        "num_frames": video.num_frames,
        "fps": video.fps,
        "duration_seconds": video.duration_seconds,
        "num_bytes": video.num_bytes,
        "sha256": video.sha256,
    }
