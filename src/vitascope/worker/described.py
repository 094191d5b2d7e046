"""What is said of a finished file, whoever has made it: its origin, its kind, its size and checksum. Imports no engine."""

from __future__ import annotations

import datetime
import hashlib
from pathlib import Path
from typing import Any

from vitascope import __version__
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import Plan
from vitascope.domain.provenance import Claim

MEDIA_TYPES = {"mp4": "video/mp4", "gif": "image/gif"}

THUMBNAIL_SUFFIX, SHEET_SUFFIX = ".thumbnail.webp", ".spritesheet.jpg"


def claim_of(plan: Plan, spec: ModelSpec, *, with_prompt: bool) -> Claim:
    """Say who made a video, with what and when, which is now."""
    return Claim(
        generator="Vitascope",
        version=__version__,
        model=spec.id,
        license=spec.license,
        # a folder's name is the operator's own affair
        source="folder" if spec.source.startswith("folder:") else spec.source,
        revision=spec.revision,
        made_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        prompt=plan.prompt if with_prompt else None,
    )


def content_of(path: Path) -> dict[str, Any]:
    """Measure a complete file."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {"num_bytes": path.stat().st_size, "sha256": sha256}
