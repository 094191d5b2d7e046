"""Answers in our own form: the flat job, the model, the error."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import datetime
from typing import Any

from starlette.responses import JSONResponse

from vitascope.dialects._http import retry_headers, status_of
from vitascope.domain import schedulers
from vitascope.domain.errors import ContentRejected, InsufficientCredits, InvalidParameter, VitascopeError
from vitascope.domain.job import Job
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import Plan
from vitascope.domain.provenance import Finding
from vitascope.domain.upscaling import max_pixels
from vitascope.domain.video import Picture, Variant, Video, sheet_frames, sheet_grid
from vitascope.service import Link
from vitascope.service.outlook import Expectation

LinkTo = Callable[[int, Variant], Link | None]
"""Makes an address of one of a job's files, by the index of its video, for who has no key; None while there is none."""


def job_object(job: Job, expectation: Expectation, link_to: LinkTo) -> dict[str, Any]:
    """Show a job: what was asked for and how it is made, where it stands, and its files."""
    plan, details = job.plan, job.details or {}
    videos = [_video(job, video, link_to) for video in job.videos]
    return {
        "id": job.id,
        "number": job.number,
        "status": job.status.value,
        "cancel_requested": job.cancel_requested,
        "progress": job.progress,
        "stage": job.stage,
        "attempt": job.attempt,
        "queue_position": expectation.queue_position,
        "eta_seconds": None if expectation.eta_seconds is None else round(expectation.eta_seconds, 1),
        "priority": job.request.priority,
        "may_hand_over": job.request.may_hand_over,
        "is_public": job.request.is_public,
        "model": plan.model,
        "mode": plan.mode,
        "prompt": plan.prompt,
        "enhance_prompt": plan.enhance_prompt,
        "enhanced_prompt": job.enhanced_prompt,
        "negative_prompt": plan.negative_prompt,
        "shots": _shots(job),
        "height": plan.height,
        "width": plan.width,
        "num_frames": plan.num_frames,
        "fps": plan.fps,
        "duration_seconds": plan.duration_seconds,
        "num_inference_steps": plan.num_inference_steps,
        "guidance_scale": plan.guidance_scale,
        "scheduler": plan.scheduler,
        "strength": plan.strength,
        "continued_frames": plan.continued_frames,
        "source": job.request.source,
        "loras": [dataclasses.asdict(lora) for lora in plan.loras],
        "clip_skip": plan.clip_skip,
        "upscale": _upscale(plan),
        "improved_sampling": _improved_sampling(plan),
        "preview_every": plan.preview_every,
        "speed": plan.speed,
        "seed": plan.seed,
        "num_videos": plan.num_videos,
        "format": plan.format,
        "provenance": plan.provenance,
        "watermark": _watermark(plan),
        "metadata": job.request.metadata,
        "user": job.request.user,
        "webhook": job.request.webhook and job.request.webhook.url,
        "track_id": job.request.track_id,
        "choices": details.get("choices") or [dataclasses.asdict(choice) for choice in plan.choices],
        "seconds_by_stage": details.get("seconds") or {},
        "created_at": _instant(job.created_at),
        "started_at": _instant(job.started_at),
        "finished_at": _instant(job.finished_at),
        "expires_in_seconds": job.request.expires_in_seconds,
        "credits": None if job.price is None else {"price": job.price, "charged": job.charged},
        "expires_at": _instant(job.expires_at),
        "expired_at": _instant(job.expired_at),
        "error": None if job.error is None else {"code": job.error.code, "message": job.error.message},
        "video": videos[0] if videos else None,
        "videos": videos,
        "failed_videos": [
            {"index": index, **dataclasses.asdict(error)} for index, error in job.failed_videos.items()
        ],
    }


def _upscale(plan: Plan) -> dict[str, Any] | None:
    """Show the second pass: the file's size, that at which the model works, and the rest of what was asked for or chosen."""
    this = plan.upscale
    if this is None:
        return None
    return {
        "height": plan.height,
        "width": plan.width,
        "native_height": this.height,
        "native_width": this.width,
        "strength": this.strength,
        "guidance_scale": this.guidance_scale,
        "num_inference_steps": this.num_inference_steps,
        "scheduler": this.scheduler,
        "model": this.model or plan.model,
    }


def _improved_sampling(plan: Plan) -> dict[str, Any] | None:
    return None if plan.improved_sampling is None else dataclasses.asdict(plan.improved_sampling)


def _watermark(plan: Plan) -> dict[str, Any] | None:
    """Show what is drawn on the frames; of a picture only that it is one."""
    mark = plan.watermark
    if mark is None:
        return None
    kind = "text" if mark.image is None else "image"
    return {"kind": kind, "text": mark.text, "position": mark.position, "opacity": mark.opacity}


def provenance_object(finding: Finding) -> dict[str, Any]:
    """Show what a file says of its origin."""
    return {**finding.to_dict(), "message": finding.sentence}


def _shots(job: Job) -> list[dict[str, Any]]:
    shots = zip(job.request.shots, job.plan.shots, strict=False)
    return [
        {
            "prompt": shot.prompt,
            "num_frames": num_frames,
            "duration_seconds": num_frames / job.plan.fps,
            "transition": transition,
        }
        for shot, (num_frames, transition) in shots
    ]


def _video(job: Job, video: Video, link_to: LinkTo) -> dict[str, Any]:
    return {
        "index": video.index,
        "seed": job.plan.seed_of(video.index),
        **_file(job, video, video.index, "video", link_to),
        "num_frames": video.num_frames,
        "fps": video.fps,
        "duration_seconds": video.duration_seconds,
        "thumbnail": video.thumbnail and _file(job, video.thumbnail, video.index, "thumbnail", link_to),
        "spritesheet": _spritesheet(job, video, link_to),
    }


def _spritesheet(job: Job, video: Video, link_to: LinkTo) -> dict[str, Any] | None:
    if video.spritesheet is None:
        return None
    rows, columns = sheet_grid(video.num_frames)
    shape = {"rows": rows, "columns": columns, "num_tiles": len(sheet_frames(video.num_frames))}
    return {**_file(job, video.spritesheet, video.index, "spritesheet", link_to), **shape}


def _file(job: Job, file: Video | Picture, index: int, variant: Variant, link_to: LinkTo) -> dict[str, Any]:
    named = {"index": index if index else None, "variant": variant if variant != "video" else None}
    query = "&".join(f"{name}={value}" for name, value in named.items() if value is not None)
    link = link_to(index, variant)
    return {
        "url": f"/api/v1/jobs/{job.id}/content{'?' if query else ''}{query}",
        "signed_url": link and link.url,
        "signed_url_expires_at": link and link.expires_at.isoformat(),
        "media_type": file.media_type,
        "num_bytes": file.num_bytes,
        "sha256": file.sha256,
        "height": file.height,
        "width": file.width,
    }


def _instant(value: datetime | None) -> str | None:
    return None if value is None else value.isoformat()


def plan_object(plan: Plan, expected_seconds: float | None) -> dict[str, Any]:
    """Show how a request would be made: what the model does, what becomes of it, and every choice with its reason."""
    windows = [
        {"num_frames": w.num_frames, "mode": w.mode, "overlap": w.overlap, "shot": w.shot}
        for w in plan.windows
    ]
    return {
        "model": plan.model,
        "mode": plan.mode,
        "height": plan.height,
        "width": plan.width,
        "num_frames": plan.num_frames,
        "fps": plan.fps,
        "duration_seconds": plan.duration_seconds,
        "fit": plan.fit,
        "native_height": plan.native_height,
        "native_width": plan.native_width,
        "native_num_frames": plan.native_num_frames,
        "native_fps": plan.native_fps,
        "windows": windows,
        "num_inference_steps": plan.num_inference_steps,
        "total_steps": plan.total_steps,
        "num_videos": plan.num_videos,
        "guidance_scale": plan.guidance_scale,
        "scheduler": plan.scheduler,
        "strength": plan.strength,
        "loras": [dataclasses.asdict(lora) for lora in plan.loras],
        "continued_frames": plan.continued_frames,
        "upscale": _upscale(plan),
        "improved_sampling": _improved_sampling(plan),
        "speed": plan.speed,
        "expected_seconds": None if expected_seconds is None else round(expected_seconds, 1),
        "choices": [dataclasses.asdict(choice) for choice in plan.choices],
    }


def model_object(spec: ModelSpec) -> dict[str, Any]:
    """Show a model with everything that a request may say of it."""
    return {
        "id": spec.id,
        "title": spec.title,
        "description": spec.description,
        "license": spec.license,
        "aliases": list(spec.aliases),
        "modes": sorted(spec.pipelines),
        "sizes": [{"height": size.height, "width": size.width} for size in spec.sizes],
        "size_multiple": spec.size_multiple,
        "max_pixels": spec.max_pixels,
        "num_frames": {**dataclasses.asdict(spec.frames), "default": spec.default_num_frames},
        "fps": spec.fps,
        "num_inference_steps": dataclasses.asdict(spec.num_inference_steps),
        "guidance_scale": dataclasses.asdict(spec.guidance_scale),
        "schedulers": list(schedulers.accepted(spec)),
        "scheduler_family": spec.scheduler_family,
        "strength": dataclasses.asdict(spec.strength) if "video" in spec.pipelines else None,
        "upscale": _upscale_rule(spec),
        "clip_layers": spec.clip_layers,
        "card_loras": [{"name": lora.name, "scale": lora.scale} for lora in spec.loras],
        "takes_prompt": spec.takes_prompt,
        "takes_negative_prompt": spec.takes_negative_prompt,
        "memory_gb": spec.memory_gb,
        "price_class": spec.price_class,
    }


def _upscale_rule(spec: ModelSpec) -> dict[str, Any] | None:
    rule = spec.upscale
    if rule is None or (rule.model is not None and spec.second is None):
        return None
    return {
        "model": rule.model or spec.id,
        "max_pixels": max_pixels(spec),
        "strength": dataclasses.asdict(rule.strength),
    }


def error_response(error: VitascopeError, *, status: int | None = None) -> JSONResponse:
    """Show an error with all that is known of it; of what is not the client's, only its kind."""
    if status is None:
        status = status_of(error)
    problem: dict[str, Any] = {"code": error.code, "message": error.message, "hint": error.hint}
    if status >= 500:
        problem.update(message=type(error)().message, hint=None)
    if isinstance(error, ContentRejected):
        problem.update(parameter=error.parameter)
    if isinstance(error, InsufficientCredits):
        problem.update(credits=error.needed, balance=error.left)
    if isinstance(error, InvalidParameter):
        problem.update(parameter=error.parameter, rule=error.rule, nearest=error.nearest)
    return JSONResponse({"error": problem}, status_code=status, headers=retry_headers(error))
