"""From what a dialect says of a job's end to the bytes that are signed."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from vitascope.domain.job import Job
from vitascope.domain.webhook import EventType

logger = logging.getLogger(__name__)


def written(
    render: Callable[[EventType, Job], Mapping[str, Any]], event: EventType, job: Job
) -> bytes | None:
    """Write a body; None if the dialect fails, so that one message does not hold up all others."""
    try:
        return encoded(render(event, job))
    except Exception:
        logger.exception("webhook could not be written", extra={"job": job.id})
        return None


def encoded(values: Mapping[str, Any]) -> bytes:
    """Return JSON without spaces: receivers must check the very bytes."""
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()
