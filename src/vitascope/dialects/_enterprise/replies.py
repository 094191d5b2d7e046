"""What a client is told of a job: finished, still being made, or failed; the same over webhooks."""

from __future__ import annotations

import base64
import math
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from vitascope.domain.errors import StorageError, VitascopeError
from vitascope.domain.job import Job, JobStatus
from vitascope.domain.webhook import EventType
from vitascope.service import Service
from vitascope.service.outlook import Expectation

from .calls import TEXT_META
from .create import NOTES

PREFIXES = uuid.UUID("9c2b7a0e-6d0f-5f6e-9a55-0c8e4b1f7d21")
"""Names of files are made of it and of their jobs' ids."""

UNKNOWN_ETA = 60
"""Seconds that are told where nothing was measured yet; clients need a number."""

WEBHOOK_SECONDS = 30.0
"""What the vendor lets a receiver take to answer."""

MAX_DATA_BYTES = 64 * 1024 * 1024
"""Of files that are put into a reply; larger ones are named by their links."""

PROCESSING_TIP = "Your video is processing in background, you can get this video using fetch API"
PROCESSING_MESSAGE = "Try to fetch request after seconds estimated"
WAITING_MESSAGE = "try again later."

_ALWAYS = {
    "batch_size": 1,
    "frame_interval": 3,
    "id": None,
    "domain_lora_scale": 1,
    "ip_adapter_scale": 0.6,
    "motion_lora_strength": 1,
    "lora_strength": 1,
}
"""What examples show that has one value here."""


class Telling:
    """Speaks of one job.

    Args:
        service: makes links.
        job: whose.
        reached: where its client has reached this server now, if there is one.
        prefix: with what paths begin where it is asked about now: of a job that none of these calls has made.
    """

    def __init__(self, service: Service, job: Job, reached: str = "", prefix: str = "") -> None:
        self._service = service
        self._job = job
        self._reached = reached
        self._prefix = prefix
        self._notes: Mapping[str, Any] = job.request.notes.get(NOTES, {})
        self._echo: Mapping[str, Any] = self._notes.get("echo", {})

    def finished(self, files: Mapping[int, str] | None = None) -> dict[str, Any]:
        """Tell of a video that is there.

        Args:
            files: `data:` URLs by output, where the client wants the files themselves.
        """
        told: dict[str, Any] = {
            "status": "success",
            "generationTime": self.generation_seconds,
            "id": self._job.number,
            "output": self.output(files),
        }
        if not self._notes.get("is_bare"):
            told |= {"proxy_links": self.proxy_links(), "meta": self.meta()}
            if self._notes.get("repeats_links", True):
                told["future_links"] = self.output()
        return told | self._tip()

    def fetched(self, files: Mapping[int, str] | None = None) -> dict[str, Any]:
        """Tell the same to who asks what became of it."""
        told = self.finished(files)
        if self._notes.get("is_bare"):
            told.pop("generationTime")
        return told

    def processing(self, expectation: Expectation) -> dict[str, Any]:
        """Tell of a video that is being made, to who has asked for it."""
        return {
            "status": "processing",
            **self._tip(PROCESSING_TIP),
            "eta": _eta(expectation),
            "message": PROCESSING_MESSAGE,
            "messege": PROCESSING_MESSAGE,
            "fetch_result": self._fetch_url(),
            "id": self._job.number,
            "output": [],
            "proxy_links": [],
            "meta": self.meta(),
            "future_links": self.output(),
        }

    def waiting(self, expectation: Expectation) -> dict[str, Any]:
        """Tell the same to who asks what became of it."""
        words = {"message": WAITING_MESSAGE, "messege": WAITING_MESSAGE, "output": ""}
        return {**self.processing(expectation), **words}

    def failed(self) -> dict[str, Any]:
        """Tell of a video that there will not be."""
        message = self._why_not()
        return {
            "status": "failed",
            "id": self._job.number,
            "message": message,
            "messege": message,
            "output": "",
        }

    def webhook(self) -> dict[str, Any]:
        """Tell its end to who did not ask; data that a reply would hold is named by links."""
        track_id = self._job.request.track_id
        if self._job.status is not JobStatus.SUCCEEDED:
            told = {name: value for name, value in self.failed().items() if name != "output"}
            return {**told, "track_id": track_id, "meta": self.meta()}
        return {
            "status": "success",
            "id": self._job.number,
            "output": self.output(),
            "proxy_links": self.proxy_links(),
            "generationTime": self.generation_seconds,
            "track_id": track_id,
            "meta": self.meta(),
            **self._tip(),
        }

    @property
    def wants_data(self) -> bool:
        return bool(self._echo.get("base64"))

    @property
    def generation_seconds(self) -> float:
        """From the moment a worker began it: all passes, rounds and the writing of files."""
        begun, ended = self._job.started_at, self._job.finished_at
        return 0.0 if begun is None or ended is None else round((ended - begun).total_seconds(), 2)

    @property
    def _indexes(self) -> list[int]:
        """Of its videos: those that were made once it has ended, all before."""
        if self._job.status is JobStatus.SUCCEEDED:
            return [video.index for video in self._job.videos]
        return list(range(self._job.plan.num_videos))

    def proxy_links(self) -> list[str]:
        """Where its files are, through this server."""
        return [self._link(index) for index in self._indexes]

    def output(self, files: Mapping[int, str] | None = None) -> list[str]:
        """Where its files are, or themselves; in a bucket that has a public address there."""
        return [(files or {}).get(index) or self._place(index) for index in self._indexes]

    def _place(self, index: int) -> str:
        return self._service.results.public_url_for(self._job, index) or self._link(index)

    def _link(self, index: int) -> str:
        number = f"-{index + 1}" if self._job.plan.num_videos > 1 else ""
        name = f"{self.file_prefix}{number}.{self._job.plan.format}"
        return self._service.results.link_for(self._job, self._reached, index, name=name).url

    def _fetch_url(self) -> str:
        base = self._service.links.base_url or self._job.request.base_url or self._reached
        return f"{base.rstrip('/')}{self._notes.get('prefix', self._prefix)}/fetch/{self._job.number}"

    @property
    def file_prefix(self) -> str:
        return str(uuid.uuid5(PREFIXES, self._job.id))

    def _tip(self, *first: str) -> dict[str, str]:
        tips = [*first, *self._notes.get("tips", ())]
        return {"tip": ". ".join(tips)} if tips else {}

    def _why_not(self) -> str:
        if self._job.status is JobStatus.CANCELLED:
            return "The generation was cancelled."
        if self._job.status is JobStatus.SUCCEEDED:
            return "The video is not kept any more."
        return self._job.error.message if self._job.error else "Failed, Try Again"

    @property
    def is_gone(self) -> bool:
        """Whether its files are not kept any more."""
        return self._job.is_expired(datetime.now(UTC))

    def meta(self) -> dict[str, Any]:
        """Tell what was made of the request: the values that were used, flags as yes or no."""
        values = {**_ALWAYS, **self._echo, **self._planned()}
        found = {name: values.get(name) for name in self._notes.get("meta", TEXT_META)}
        return {
            name: ("yes" if value else "no") if isinstance(value, bool) else value
            for name, value in found.items()
        }

    def _planned(self) -> dict[str, Any]:
        plan, request = self._job.plan, self._job.request
        is_larger = plan.upscale is not None
        improved = plan.improved_sampling
        values: dict[str, Any] = {
            "ar": plan.num_frames,
            "clip_skip": plan.clip_skip,
            "file_prefix": self.file_prefix,
            "fps": plan.fps,
            "guidance_scale": _plain(plan.guidance_scale),
            # of the first pass, where there are two
            "height": (request.height or plan.native_height) if is_larger else plan.height,
            "width": (request.width or plan.native_width) if is_larger else plan.width,
            "id": self._job.number,
            "negative_prompt": request.negative_prompt,
            "num_frames": plan.num_frames,
            "num_inference_steps": plan.num_inference_steps,
            "output_type": plan.format,
            "prompt": request.prompt,
            "sample_shift": None if plan.flow_shift is None else _plain(plan.flow_shift),
            "seed": plan.seed,
            "strength": plan.strength,
            "track_id": request.track_id,
            "watermark": plan.watermark is not None,
            "upscale_height": plan.height if is_larger else None,
            "upscale_width": plan.width if is_larger else None,
            "use_improved_sampling": improved is not None,
        }
        if "model_id" not in self._echo:
            values["model_id"] = plan.model
        if improved is not None:
            values["improved_sampling_seed"] = improved.seed
        if plan.upscale is not None:
            larger = plan.upscale
            values |= {
                "upscale_strength": _plain(larger.strength),
                "upscale_guidance_scale": _plain(larger.guidance_scale),
                "upscale_num_inference_steps": larger.num_inference_steps,
            }
        return values


def _plain(value: float) -> float:
    """Show whole numbers as such: clients compare with what they sent."""
    return int(value) if value == int(value) else value


def _eta(expectation: Expectation) -> int:
    seconds = expectation.eta_seconds
    return UNKNOWN_ETA if seconds is None else max(1, math.ceil(seconds))


def data_urls(service: Service, job: Job) -> dict[int, str]:
    """Read a job's files into `data:` URLs, by output; those that cannot be read now, or are too large, are left out. May wait."""
    found: dict[int, str] = {}
    for video in job.videos:
        try:
            stored = service.results.open_video(job, video.index)
            if stored.num_bytes > MAX_DATA_BYTES:
                continue
            content = b"".join(stored.read(0, stored.num_bytes))
        except (StorageError, VitascopeError):
            continue
        found[video.index] = f"data:{stored.media_type};base64,{base64.b64encode(content).decode()}"
    return found


def webhook_body(service: Service) -> Callable[[EventType, Job], Mapping[str, Any]]:
    """Make what writes the vendor's webhooks; links in them begin as the job's client has reached the server."""
    return lambda _event, job: Telling(service, job).webhook()
