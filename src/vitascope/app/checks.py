"""What can be found out before anything starts: each raises one sentence that says what to change."""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket

from vitascope import media
from vitascope.domain.errors import (
    SecretUnreadable,
    SettingsError,
    StorageError,
    StorageUnavailable,
    UnreadableImage,
)
from vitascope.settings import Settings
from vitascope.store import Store

from .opening import bucket_of, open_credentials, open_prompt_check

logger = logging.getLogger(__name__)


def check_storage(settings: Settings) -> str | None:
    """Find out before anything starts whether an object storage takes, gives and deletes files.

    Returns:
        Why it is away, if it does not answer now: jobs wait for it. None if all is well.

    Raises:
        SettingsError: it refuses the credentials, there is no such bucket, or it may not be read or written.
    """
    if settings.storage.kind == "local":
        return None
    try:
        bucket_of(settings).check()
    except StorageUnavailable as error:
        return f"{error.message} ({error.hint}): jobs wait for it"
    except StorageError as error:
        raise SettingsError(error.message, hint=error.hint) from None
    return None


def check_storage_and_tell(settings: Settings) -> None:
    if (problem := check_storage(settings)) is not None:
        logger.warning(problem)


def check_guards(settings: Settings) -> None:
    """Find out before anything starts whether prompts can be written out and content be checked as the settings want it.

    Raises:
        SettingsError: they cannot.
    """
    open_prompt_check(settings)
    _ = settings.prompting_instructions


def check_marks(settings: Settings) -> None:
    """Find out before anything starts whether files can be signed and marked. Makes the certificate at the first start.

    Raises:
        SettingsError: they cannot.
    """
    _ = settings.mark_rules
    credentials = open_credentials(settings)
    if credentials is not None and settings.provenance.certificate is not None:
        from vitascope.media import provenance

        provenance.check(credentials)
    if settings.watermark.image is not None:
        try:
            media.read_overlay(settings.watermark.image)
        except UnreadableImage as error:
            message = (
                f"setting `watermark.image`: `{settings.watermark.image}` cannot be used: {error.message}"
            )
            raise SettingsError(message, hint=error.hint) from None


def check_address(settings: Settings) -> None:
    """Find out before anything starts whether the address can be listened on.

    Raises:
        SettingsError: it cannot.
    """
    listen(settings.server.host, settings.server.port).close()


def check_host(settings: Settings, store: Store) -> None:
    """Refuse to be reachable from other machines by mistake.

    Raises:
        SettingsError: the host is not loopback, there are no API keys, and nothing says that this is wanted.
    """
    host = settings.server.host
    if settings.server.allow_public or _is_loopback(host) or store.has_keys():
        return
    message = f"`{host}` can be reached from other machines, and there are no API keys"
    raise SettingsError(
        message,
        hint="make one with `vitascope keys create NAME`, or set VITASCOPE_SERVER__ALLOW_PUBLIC=true if everybody there may use the server",
    )


def check_secrets(store: Store) -> None:
    """Find out before anything starts whether this machine can read the secrets in the database.

    Raises:
        SettingsError: it has another key than the machine that wrote them, or none.
    """
    try:
        store.check_key()
    except SecretUnreadable as error:
        raise SettingsError(error.message, hint=error.hint) from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        # the rest of what it says is the address once more, as a tuple
        reason = str(error.strerror).partition(" (while")[0]
        is_of_host = isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
        hint = "choose an address of this machine" if is_of_host else "choose another port"
        raise SettingsError(f"cannot listen on `{host}` port {port}: {reason}", hint=hint) from None
