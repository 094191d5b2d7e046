"""`vitascope generate`: one video or several, in this process, without a server."""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from vitascope import settings as settings_module
from vitascope.catalog import Catalog, lacks_adapters, locate, pull, weights_of
from vitascope.domain import prompting
from vitascope.domain.errors import WriteFailed
from vitascope.domain.improved_sampling import drawn
from vitascope.domain.plan import Plan, plan
from vitascope.domain.request import (
    GenerationRequest,
    Shot,
    Transition,
    Upscale,
)
from vitascope.domain.speed_levels import SpeedLevel, settled

from ._generate_options import (
    Format,
    checked_image,
    checked_watermark,
    format_of,
    improved_sampling_of,
    lora_of,
    measured_video,
    num_frames_of,
    upscale_of,
)
from ._generate_report import report, report_json, tell_plan
from ._terminal import ProgressLine, printable, stderr
from ._transfer import TransferLine

if TYPE_CHECKING:
    from vitascope.domain.choice import Choice
    from vitascope.domain.model_spec import ModelSpec
    from vitascope.worker.produce import Product


def generate(  # one parameter per option: typer reads them off the signature
    prompt: Annotated[
        str, typer.Argument(help="What the video shows; beside --shot, what holds for all.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write; by default named after the prompt.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="A card's name, a diffusers folder, or a hub id.")] = None,
    negative_prompt: Annotated[str, typer.Option(help="What the video must not show.")] = "",
    image: Annotated[Path | None, typer.Option(help="First frame: a PNG, JPEG, WebP or GIF file.")] = None,
    last_image: Annotated[Path | None, typer.Option(help="Last frame, beside --image.")] = None,
    video: Annotated[Path | None, typer.Option(help="A video that is changed: an MP4 or WebM file.")] = None,
    strength: Annotated[
        float | None,
        typer.Option(help="How much of --video, or of --image standing still, is changed: 0 nothing, 1 all."),
    ] = None,
    continues: Annotated[
        Path | None,
        typer.Option(
            help="A video that the file begins with and that is continued; --seconds counts it too."
        ),
    ] = None,
    reference: Annotated[
        list[Path] | None, typer.Option(help="A picture of who or what appears; may be given several times.")
    ] = None,
    shot: Annotated[
        list[str] | None, typer.Option(help="What one scene shows; may be given several times.")
    ] = None,
    transition: Annotated[
        Transition,
        typer.Option(help="How each --shot follows the one before: from its last frame, or by a cut."),
    ] = "cut",
    width: Annotated[int | None, typer.Option(help="Pixels, even.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels, even.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Duration; instead of --num-frames.")] = None,
    num_frames: Annotated[int | None, typer.Option(help="Frames of the file.")] = None,
    fps: Annotated[int | None, typer.Option(help="Frames per second of the file.")] = None,
    num_inference_steps: Annotated[
        int | None, typer.Option("--num-inference-steps", "--steps", help="Denoising steps.")
    ] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="How closely the prompt is followed.")] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Noise scheduler, by its diffusers class name.")
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(
            help="An adapter of the folder `engine.loras_folder`, as NAME or NAME:SCALE; may be given several times."
        ),
    ] = None,
    enhance_prompt: Annotated[
        bool | None,
        typer.Option(
            "--enhance-prompt/--no-enhance-prompt",
            help="Let the language model of the settings write the prompt out first; by default as they say.",
        ),
    ] = None,
    clip_skip: Annotated[
        int | None, typer.Option(help="Layers that a CLIP text encoder leaves out at its end.")
    ] = None,
    upscale: Annotated[
        bool, typer.Option("--upscale", help="Make a second pass over the clip at a larger size.")
    ] = False,
    upscale_width: Annotated[
        int | None, typer.Option(help="Of the file, in the second pass; by default twice the width.")
    ] = None,
    upscale_height: Annotated[int | None, typer.Option(help="The same, of the height.")] = None,
    upscale_strength: Annotated[
        float | None, typer.Option(help="How much of the first result is made anew: 0 nothing, 1 all.")
    ] = None,
    upscale_guidance_scale: Annotated[float | None, typer.Option(help="Of the second pass.")] = None,
    upscale_steps: Annotated[
        int | None,
        typer.Option(
            "--upscale-num-inference-steps",
            "--upscale-steps",
            help="Of the second pass; its strength's share runs.",
        ),
    ] = None,
    improved_sampling: Annotated[
        bool,
        typer.Option(
            "--improved-sampling",
            help="Denoise in several rounds, each from the large shapes of the one before.",
        ),
    ] = False,
    improved_sampling_seed: Annotated[
        int | None, typer.Option(help="Of the noise that the further rounds get; drawn when not given.")
    ] = None,
    speed: Annotated[
        SpeedLevel | None,
        typer.Option(help="How far steps may be approximated to save time; by default as the settings say."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same video; drawn when not given.")] = None,
    num_videos: Annotated[
        int,
        typer.Option(
            "--num-videos", "-n", help="Videos to make, each with the next seed; files are numbered from 1."
        ),
    ] = 1,
    format: Annotated[Format | None, typer.Option(help="By default what --out ends in, else mp4.")] = None,
    watermark: Annotated[str | None, typer.Option(help="Text that is drawn on each frame.")] = None,
    watermark_image: Annotated[
        Path | None, typer.Option(help="Picture that is drawn on each frame: PNG, JPEG, WebP or GIF.")
    ] = None,
    watermark_position: Annotated[
        str, typer.Option(help="Such as top-left, top, center or bottom-right.")
    ] = "bottom-right",
    watermark_opacity: Annotated[float, typer.Option(help="Up to 1, which is opaque.")] = 0.5,
    provenance: Annotated[
        bool | None,
        typer.Option(
            "--provenance/--no-provenance",
            help="Sign into the file that it was made by a machine; by default as the settings say.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    plan_only: Annotated[
        bool, typer.Option("--plan", help="Tell how it would be made, and make nothing.")
    ] = False,
) -> None:
    """Make a video from a prompt and write it to a file."""
    started_at = time.monotonic()
    settings = settings_module.load()
    catalog = Catalog.open(
        settings.cards_folder, settings.engine.default_model, loras_folder=settings.loras_folder
    )
    spec = catalog.resolve_local(model)
    request = GenerationRequest(
        prompt=prompt,
        model=spec.id,
        negative_prompt=negative_prompt,
        image=checked_image("--image", image),
        last_image=checked_image("--last-image", last_image),
        video=None if video is None else str(video),
        continues=None if continues is None else str(continues),
        references=tuple(str(checked_image("--reference", path)) for path in reference or ()),
        shots=tuple(Shot(text, transition=transition) for text in shot or ()),
        height=height,
        width=width,
        num_frames=num_frames_of(seconds, num_frames, fps or spec.fps),
        fps=fps,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        scheduler=scheduler,
        strength=strength,
        loras=tuple(lora_of(text) for text in lora or ()),
        clip_skip=clip_skip,
        enhance_prompt=enhance_prompt,
        upscale=upscale_of(
            Upscale(
                height=upscale_height,
                width=upscale_width,
                strength=upscale_strength,
                guidance_scale=upscale_guidance_scale,
                num_inference_steps=upscale_steps,
            ),
            is_asked=upscale,
        ),
        improved_sampling=improved_sampling_of(improved_sampling, improved_sampling_seed),
        speed=speed,
        seed=secrets.randbits(31) if seed is None else seed,
        is_seed_drawn=seed is None,
        num_videos=num_videos,
        format=format_of(out, format),
        provenance=provenance,
        watermark=checked_watermark(watermark, watermark_image, watermark_position, watermark_opacity),
    )
    request = drawn(request, settings.engine.improved_sampling_iterations, lambda: secrets.randbits(31))
    request = settled(request, settings.engine.speed)
    request, choices = _following(request, spec) if continues is None else _continuing(request, seconds)
    request, told = prompting.settled(request, spec, settings.prompt_rules)
    planned = plan(request, spec, settings.mark_rules)
    catalog.loras.check(planned.loras, spec)
    planned = replace(planned, choices=choices + told + planned.choices)
    if plan_only:
        tell_plan(planned, as_json=as_json)
        return
    from ._guards import check_prompt

    check_prompt(settings, request)
    targets = _numbered(out or Path(_name_after(planned)), planned.num_videos)
    for target in targets:
        _check_writable(target)
    _warn_of_space(targets[0], settings.storage.min_free_bytes)
    _download(spec, quiet=quiet)
    if planned.upscale is not None and spec.second is not None:
        _download(spec.second, quiet=quiet)
    products, enhanced = _produce(settings, catalog, spec, planned, targets, quiet=quiet)
    seconds = time.monotonic() - started_at
    if as_json:
        report_json(products, planned, enhanced, seconds)
    else:
        report(products, planned, enhanced, seconds)


def _numbered(target: Path, num_videos: int) -> list[Path]:
    if num_videos == 1:
        return [target]
    return [target.with_name(f"{target.stem}-{number}{target.suffix}") for number in range(1, num_videos + 1)]


def _download(spec: ModelSpec, *, quiet: bool) -> None:
    """Fetch a hub's model at its first use: the person at the machine has named it, and sees the bar."""
    if lacks_adapters(spec) or (spec.source.startswith("hub:") and not weights_of(spec).is_downloaded):
        with TransferLine(quiet=quiet) as line:
            pull(spec, line)


def _produce(
    settings: settings_module.Settings,
    catalog: Catalog,
    spec: ModelSpec,
    planned: Plan,
    targets: list[Path],
    *,
    quiet: bool,
) -> tuple[list[Product], tuple[str, ...]]:
    """Make the videos; the first one that fails ends it, and those before it stay.

    Returns:
        They, and what the model has read in the place of the prompt, if that was written out.
    """
    products: list[Product] = []
    enhanced: tuple[str, ...] = ()
    with ProgressLine(quiet=quiet) as line:
        from vitascope.domain.step import Step

        line.show(Step("load"))
        # the heavy part, after everything that can be refused has been
        settings_module.share_cores()
        settings_module.keep_compiled(settings)
        from vitascope.engine import Devices, Wishes, open_engine
        from vitascope.worker.opening import Enhanced
        from vitascope.worker.outputs import Failed, produce_all
        from vitascope.worker.produce import Product

        from ._guards import open_guards
        from ._marks import open_marks

        marks = open_marks(settings)

        engine = open_engine(
            settings.engine.kind,
            locate,
            device=settings.engine.device,
            threads=settings.engine.threads,
            slots=settings.engine.slots,
            memory_gb=settings.engine.memory_gb,
            wishes=Wishes(**settings.engine.wishes).for_one_clip(),
            fake_step_seconds=settings.engine.fake_step_seconds,
            find_loras=catalog.loras.files,
            lora_cache_bytes=int(settings.engine.lora_cache_gb * 1e9),
            embeddings_cache_bytes=int(settings.engine.embeddings_cache_mb * 1e6),
            notes=settings.engine_notes_folder,
            devices=Devices(
                settings.engine.devices[:1], "off"
            ),  # one clip would not pay for starting the others
        )
        guards = open_guards(settings, engine)
        between = settings.worker.frame_interpolation
        making = produce_all(engine, planned, spec, targets, between=between, marks=marks, guards=guards)
        for event in making:
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Product):
                products.append(event)
            elif isinstance(event, Enhanced):
                enhanced = event.texts
            else:
                line.show(event)
    return products, enhanced


def _following(request: GenerationRequest, spec: ModelSpec) -> tuple[GenerationRequest, tuple[Choice, ...]]:
    """Take what was not asked for from the video that is to be changed."""
    if request.video is None:
        return request, ()
    from vitascope.service import inputs

    return inputs.following(request, measured_video("--video", request.video), spec.fps)


def _continuing(
    request: GenerationRequest, seconds: float | None
) -> tuple[GenerationRequest, tuple[Choice, ...]]:
    """Take what was not asked for from the video that is continued, its rate first: lengths are counted at that."""
    from vitascope.service import inputs

    assert request.continues is not None
    request, choices = inputs.continuing(request, measured_video("--continues", request.continues))
    if seconds is not None:
        request = replace(request, num_frames=num_frames_of(seconds, None, request.fps or 1))
    return request, choices


def _name_after(planned: Plan) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", planned.prompt.lower()).strip("-")[:60].rstrip("-")
    return f"{words or 'video'}-{planned.seed}.{planned.format}"


def _check_writable(target: Path) -> None:
    """Refuse a file that cannot be written before minutes of work are spent on it."""
    from vitascope import media

    try:
        media.check_target(target)
    except WriteFailed as error:
        raise WriteFailed(f"`{target}` cannot be written: {error.message}", hint=error.hint) from None


def _warn_of_space(target: Path, min_free_bytes: int) -> None:
    """Say that the disk may be full before the file is written; whoever sits here decides."""
    from vitascope.storage import Space

    free_bytes = Space((target.absolute().parent,), min_free_bytes).free_bytes
    if free_bytes is not None and free_bytes < min_free_bytes:
        message = f"only {free_bytes / 1e6:.0f} MB are free where `{target}` goes"
        stderr.print(Text.assemble(("warning:", "bold yellow"), " ", printable(message)), soft_wrap=True)
