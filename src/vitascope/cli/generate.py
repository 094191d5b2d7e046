"""`vitascope generate`: one video or several, in this process, without a server."""

from __future__ import annotations

import json
import re
import secrets
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer
from rich.text import Text

from vitascope import settings as settings_module
from vitascope.catalog import Catalog, lacks_adapters, locate, pull, weights_of
from vitascope.domain import prompting
from vitascope.domain.errors import InvalidParameter, UnreadableImage, WriteFailed
from vitascope.domain.improved_sampling import drawn
from vitascope.domain.plan import Plan, plan
from vitascope.domain.request import (
    OUTPUT_FORMATS,
    GenerationRequest,
    ImprovedSampling,
    Lora,
    OutputFormat,
    Position,
    Shot,
    Transition,
    Upscale,
    Watermark,
    num_frames_for,
)
from vitascope.domain.speed_levels import SpeedLevel, settled

from ._terminal import ProgressLine, printable, stderr
from ._transfer import TransferLine

if TYPE_CHECKING:
    from vitascope.domain.choice import Choice
    from vitascope.domain.model_spec import ModelSpec
    from vitascope.media import SentVideo
    from vitascope.worker.produce import Product

Format = Literal["mp4", "gif"]


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
        image=_image("--image", image),
        last_image=_image("--last-image", last_image),
        video=None if video is None else str(video),
        continues=None if continues is None else str(continues),
        references=tuple(str(_image("--reference", path)) for path in reference or ()),
        shots=tuple(Shot(text, transition=transition) for text in shot or ()),
        height=height,
        width=width,
        num_frames=_length(seconds, num_frames, fps or spec.fps),
        fps=fps,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        scheduler=scheduler,
        strength=strength,
        loras=tuple(_lora(text) for text in lora or ()),
        clip_skip=clip_skip,
        enhance_prompt=enhance_prompt,
        upscale=_upscale(
            Upscale(
                height=upscale_height,
                width=upscale_width,
                strength=upscale_strength,
                guidance_scale=upscale_guidance_scale,
                num_inference_steps=upscale_steps,
            ),
            is_asked=upscale,
        ),
        improved_sampling=_improved_sampling(improved_sampling, improved_sampling_seed),
        speed=speed,
        seed=secrets.randbits(31) if seed is None else seed,
        is_seed_drawn=seed is None,
        num_videos=num_videos,
        format=_format(out, format),
        provenance=provenance,
        watermark=_watermark(watermark, watermark_image, watermark_position, watermark_opacity),
    )
    request = drawn(request, settings.engine.improved_sampling_iterations, lambda: secrets.randbits(31))
    request = settled(request, settings.engine.speed)
    request, choices = _following(request, spec) if continues is None else _continuing(request, seconds)
    request, told = prompting.settled(request, spec, settings.prompt_rules)
    planned = plan(request, spec, settings.mark_rules)
    catalog.loras.check(planned.loras, spec)
    planned = replace(planned, choices=choices + told + planned.choices)
    if plan_only:
        _tell(planned, as_json=as_json)
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
        _report_json(products, planned, enhanced, seconds)
    else:
        _report(products, planned, enhanced, seconds)


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
        from vitascope.engine import Wishes, open_engine
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

    return inputs.following(request, _measured("--video", request.video), spec.fps)


def _continuing(
    request: GenerationRequest, seconds: float | None
) -> tuple[GenerationRequest, tuple[Choice, ...]]:
    """Take what was not asked for from the video that is continued, its rate first: lengths are counted at that."""
    from vitascope.service import inputs

    assert request.continues is not None
    request, choices = inputs.continuing(request, _measured("--continues", request.continues))
    if seconds is not None:
        request = replace(request, num_frames=_length(seconds, None, request.fps or 1))
    return request, choices


def _measured(option: str, path: str) -> SentVideo:
    from vitascope.service import inputs

    try:
        content = Path(path).read_bytes()
    except OSError:
        rule = "it cannot be used: there is no such file, or it may not be read"
        raise InvalidParameter(option, path, rule) from None
    try:
        return inputs.measured(content)
    except InvalidParameter as error:
        raise InvalidParameter(option, path, error.rule, hint=error.hint) from None


def _tell(planned: Plan, *, as_json: bool) -> None:
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


def _image(option: str, path: Path | None) -> str | None:
    """Check a picture before the model is loaded."""
    if path is None:
        return None
    from vitascope import media

    try:
        media.read_image(path)
    except UnreadableImage as error:
        raise InvalidParameter(
            option, str(path), f"it cannot be used: {error.message}", hint=error.hint
        ) from None
    return str(path)


def _watermark(text: str | None, image: Path | None, position: str, opacity: float) -> Watermark | None:
    """Check a watermark before the model is loaded; an empty text asks for none."""
    if text is None and image is None:
        return None
    mark = Watermark(
        text=text or None,
        image=None if image is None else str(image),
        position=cast(Position, position),  # an illegal one is refused by the plan
        opacity=opacity,
    )
    if image is not None:
        from vitascope import media

        try:
            media.read_overlay(image)
        except UnreadableImage as error:
            rule = f"it cannot be used: {error.message}"
            raise InvalidParameter("--watermark-image", str(image), rule, hint=error.hint) from None
    return mark


def _upscale(asked: Upscale, *, is_asked: bool) -> Upscale | None:
    """Any of its options asks for the second pass."""
    return asked if is_asked or asked != Upscale() else None


def _improved_sampling(is_asked: bool, seed: int | None) -> ImprovedSampling | None:
    """Its seed asks for it too."""
    return ImprovedSampling(seed=seed) if is_asked or seed is not None else None


def _lora(text: str) -> Lora:
    """Read NAME or NAME:SCALE."""
    name, colon, scale = text.rpartition(":")
    if not colon:
        return Lora(text)
    try:
        return Lora(name, float(scale))
    except ValueError:
        raise InvalidParameter("--lora", text, "what follows the colon must be a number") from None


def _length(seconds: float | None, num_frames: int | None, fps: int) -> int | None:
    if seconds is None:
        return num_frames
    if num_frames is not None:
        raise InvalidParameter(
            "--seconds", seconds, "--num-frames is given too", hint="leave one of them out"
        )
    if not seconds > 0:
        raise InvalidParameter("--seconds", seconds, "it must be above 0", nearest=1)
    return num_frames_for(min(seconds, 1e6), fps)  # what is too long is refused by the plan


def _format(out: Path | None, asked: Format | None) -> OutputFormat:
    suffix = out.suffix.lower().lstrip(".") if out else ""
    if asked is not None and suffix in ("", asked):
        return asked
    if asked is not None:
        raise InvalidParameter("--format", asked, f"--out ends in .{suffix}", hint="leave one of them out")
    if not suffix:
        return "mp4"
    if suffix not in OUTPUT_FORMATS:
        rule = f"its name must end in {' or '.join('.' + name for name in OUTPUT_FORMATS)}"
        raise InvalidParameter("--out", str(out), rule, hint="or say --format")
    return suffix


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


def _report_json(products: list[Product], planned: Plan, enhanced: tuple[str, ...], seconds: float) -> None:
    from vitascope.worker.outputs import details_of

    files = [_file(product, planned) for product in products]
    whole = {"model": planned.model, "total_seconds": round(seconds, 3), **details_of(products)}
    written = {"enhanced_prompt": " / ".join(enhanced)} if enhanced else {}
    typer.echo(json.dumps({**files[0], **whole, **written, "videos": files}))


def _report(products: list[Product], planned: Plan, enhanced: tuple[str, ...], seconds: float) -> None:
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
