"""What this machine marks files with, for commands that make them. Beside `app`, which an engine process has no time to import."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from vitascope import media
from vitascope.domain.errors import UnreadableImage
from vitascope.settings import Settings
from vitascope.worker.produce import Marks

if TYPE_CHECKING:
    from vitascope.media.watermark import Overlay

logger = logging.getLogger(__name__)


def open_marks(settings: Settings) -> Marks:
    """Read the certificate, and make it if there is none yet.

    Raises:
        SettingsError: files cannot be signed.
    """
    credentials, wanted = None, settings.provenance
    if wanted.enabled:
        from vitascope.media import certificate

        credentials = certificate.open_credentials(wanted.certificate, wanted.key, settings.certificate_file)
    image = settings.watermark.image
    return Marks(credentials, wanted.include_prompt, image, None if image is None else _overlay(image))


def _overlay(image: Path) -> Overlay | None:
    """Read the operator's picture once and for all: jobs do not fail because it is gone or being replaced meanwhile."""
    try:
        return media.read_overlay(image)
    except UnreadableImage as error:
        logger.warning("the watermark's picture cannot be read: %s", error.message)
        return None  # jobs that need it fail and say so
