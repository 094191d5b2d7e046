"""Opens what the rooms need, by the settings: store, storage, catalog, the way out, credentials."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitascope.catalog import Catalog
from vitascope.domain.errors import SettingsError
from vitascope.outbound import AllowList, Outbound
from vitascope.service import OpenBuckets
from vitascope.settings import Settings
from vitascope.storage import LocalStorage, Places, S3Storage, Storage
from vitascope.store import Cipher, Store

if TYPE_CHECKING:
    from vitascope.media.certificate import Credentials
    from vitascope.moderation import PromptCheck


def open_store(settings: Settings) -> Store:
    """Open the job store; creates the data folder and the database, and upgrades an older one.

    Raises:
        SettingsError: it cannot be opened.
    """
    _make_home(settings)
    return Store.open(settings.database_url, cipher=cipher_of(settings))


def cipher_of(settings: Settings) -> Cipher:
    """Make what secrets are encrypted with; looks for its key when it is used."""
    return Cipher(settings.secrets.keys, settings.key_file)


def open_storage(settings: Settings) -> Storage:
    """Open the place of inputs and videos. Asks nothing of an object storage; `check_storage` does.

    Raises:
        SettingsError: the data folder cannot be written, or object storage is not installed.
    """
    _make_home(settings)
    if settings.storage.kind == "local":
        return LocalStorage(settings.files_folder)
    return bucket_of(settings)


def bucket_of(settings: Settings) -> S3Storage:
    chosen = settings.storage
    secret = chosen.secret_access_key
    return S3Storage(
        chosen.bucket,
        chosen.prefix,
        endpoint=chosen.endpoint_url,
        region=chosen.region_name,
        path_style=chosen.is_path_style,
        access_key_id=chosen.access_key_id,
        secret_access_key=None if secret is None else secret.get_secret_value(),
        public_url=chosen.public_url,
    )


def open_places(settings: Settings, store: Store) -> Storage:
    """Open the same, and the buckets that were named while the server ran; none of them before it is asked for a file.

    Raises:
        SettingsError: as `open_storage` does; or an allowed host cannot be read.
    """
    allow = AllowList.of(settings.outbound.allow)

    def outbound() -> Outbound:  # one for each event loop; also where users' URLs are not called any more
        return Outbound(allow, seconds=settings.outbound.max_seconds)

    return Places(open_storage(settings), OpenBuckets(store, outbound))


def open_catalog(settings: Settings) -> Catalog:
    """Read the model cards.

    Raises:
        SettingsError: a card cannot be read, or there is no such default model.
    """
    return Catalog.open(
        settings.cards_folder,
        settings.engine.default_model,
        loras_folder=settings.loras_folder,
        needs_files=settings.engine.kind != "fake",
        allowed=settings.models.allow,
    )


def open_outbound(settings: Settings) -> Outbound | None:
    """Make the way to URLs that users give; None if it is switched off.

    Raises:
        SettingsError: an allowed host cannot be read.
    """
    allow = AllowList.of(settings.outbound.allow)
    return Outbound(allow, seconds=settings.outbound.max_seconds) if settings.outbound.enabled else None


def open_prompt_check(settings: Settings) -> PromptCheck | None:
    """Make what looks at prompts; None if nothing does.

    Raises:
        SettingsError: the list of words cannot be read, or what is switched on is not installed.
    """
    settings.moderation.check_installed()
    return settings.moderation.prompt_check()


def open_credentials(settings: Settings) -> Credentials | None:
    """Read what files are signed with, and make it if there is none yet; None if they are not signed.

    Raises:
        SettingsError: it cannot be read or made, or cannot sign.
    """
    wanted = settings.provenance
    if not wanted.enabled:
        return None
    from vitascope.media import certificate  # only now: it takes 20 ms

    return certificate.open_credentials(wanted.certificate, wanted.key, settings.certificate_file)


def known_certificates(settings: Settings) -> str:
    """Return the chain that this machine's files are signed with, as PEM; empty if there is none. Makes none.

    Raises:
        SettingsError: it cannot be read.
    """
    own = settings.provenance.certificate is not None
    if not settings.provenance.enabled or not (own or settings.certificate_file.exists()):
        return ""
    credentials = open_credentials(settings)
    return "" if credentials is None else credentials.certificates


def _make_home(settings: Settings) -> None:
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"the data folder `{settings.home}` cannot be made: {error.strerror}"
        raise SettingsError(message, hint="set VITASCOPE_HOME to a folder of yours") from None


def keys_of_peers(settings: Settings) -> list[tuple[str, str | None]]:
    return [(peer.url, None if peer.key is None else peer.key.get_secret_value()) for peer in settings.peers]
