"""What this machine marks files with, for commands that make them. Beside `app`, which an engine process has no time to import."""

from __future__ import annotations

from vitascope.settings import Settings
from vitascope.worker.produce import Marks


def open_marks(settings: Settings) -> Marks:
    """Read the certificate, and make it if there is none yet.

    Raises:
        SettingsError: files cannot be signed.
    """
    credentials, wanted = None, settings.provenance
    if wanted.enabled:
        from vitascope.media import certificate

        credentials = certificate.open_credentials(wanted.certificate, wanted.key, settings.certificate_file)
    return Marks(credentials, wanted.include_prompt, settings.watermark.image)
