"""How secrets are encrypted before they are stored: AES-256-GCM, the only place that knows it.

Who reads the database, a backup or a replica of it reads no secret without the key, which is elsewhere: in the environment, or in
a file beside the data. Knows nothing of tables.

What is stored is `1`, the name of the key (8 bytes of its digest), the nonce (12) and the ciphertext with its tag (16).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import os
import secrets
import stat
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from vitascope.domain.errors import SecretUnreadable, SettingsError
from vitascope.domain.secret import KEY_BYTES, KEY_RULE, parse_keys

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VARIABLE = "VITASCOPE_SECRETS__KEY"

LOST = (
    f"give this machine the key of the others, in {VARIABLE} or in the file `secrets.key` of its data folder; "
    "if it is lost, `vitascope db rekey --drop-unreadable` ends what was encrypted with it"
)
"""What to do where a secret cannot be decrypted."""

_VERSION = b"\x01"
_NAME_BYTES, _NONCE_BYTES = 8, 12


class Cipher:
    """Encrypts with the first key, decrypts with all. Keys are looked for when the first secret is.

    Args:
        keys: from the settings; empty takes those in the file.
        file: where a key is kept if the settings name none; None keeps none.
    """

    def __init__(self, keys: Sequence[bytes] = (), file: Path | None = None) -> None:
        self._given = tuple(keys)
        self._file = file

    def __repr__(self) -> str:
        return "Cipher()"

    def make_key(self) -> None:
        """Make the key file where there is no key yet: for a database without secrets only.

        Raises:
            SettingsError: it cannot be made.
        """
        if not self._given and self._file is not None and not self._file.exists():
            _make_file(self._file)

    def encrypt(self, text: str, *row: str) -> bytes:
        """Encrypt a secret for one row.

        Args:
            text: the secret.
            row: what tells the row from all others; the same is needed to decrypt, so that rows cannot be exchanged.

        Raises:
            SettingsError: there is no key.
        """
        name, cipher = next(iter(self._ciphers.items()))
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return _VERSION + name + nonce + cipher.encrypt(nonce, text.encode(), _bound(row))

    def decrypt(self, data: bytes, *row: str) -> str:
        """Undo `encrypt`.

        Raises:
            SecretUnreadable: it was encrypted with another key or for another row, or was changed.
            SettingsError: there is no key.
        """
        from cryptography.exceptions import InvalidTag

        name, nonce, body = data[1:9], data[9:21], data[21:]
        cipher = self._ciphers.get(name)
        if cipher is None or data[:1] != _VERSION:
            raise SecretUnreadable(hint=LOST)
        try:
            return cipher.decrypt(nonce, body, _bound(row)).decode()
        except (InvalidTag, ValueError):
            message = "a secret in the database was changed, or belongs to another row"
            raise SecretUnreadable(
                message, hint="restore the database from a backup, or rotate the secret"
            ) from None

    def is_newest(self, data: bytes) -> bool:
        """Whether this was encrypted with the key that encrypts now."""
        return data[1:9] == next(iter(self._ciphers))

    def derive(self, purpose: str) -> tuple[bytes, ...]:
        """Make a key for something else of each key, the first one's first; nobody can go back from it.

        Raises:
            SettingsError: there is no key.
        """
        text = f"vitascope derived key: {purpose}".encode()
        return tuple(hmac.digest(key, text, "sha256") for key in self._keys)

    @cached_property
    def _keys(self) -> tuple[bytes, ...]:
        return self._given or _read_file(self._file)

    @cached_property
    def _ciphers(self) -> dict[bytes, AESGCM]:
        # only now: importing it takes 20 ms, and most processes and commands need none
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        return {_name(key): AESGCM(key) for key in self._keys}


def _name(key: bytes) -> bytes:
    return hashlib.sha256(b"vitascope key name" + key).digest()[:_NAME_BYTES]


def _bound(row: Sequence[str]) -> bytes:
    return json.dumps(row).encode()


def _read_file(path: Path | None) -> tuple[bytes, ...]:
    if path is None:
        raise SettingsError("there is no key for the secrets in the database", hint=LOST)
    try:
        with path.open() as file:
            is_open = bool(os.fstat(file.fileno()).st_mode & stat.S_IRWXO)
            text = file.read(4096)
        if is_open:
            raise SettingsError(f"everybody can read the key in `{path}`", hint=f"chmod 600 {path}")
        return parse_keys(text)
    except FileNotFoundError:
        message = f"there is no key for the secrets in the database: neither {VARIABLE} nor the file `{path}`"
        raise SettingsError(message, hint=LOST) from None
    except OSError as error:
        raise SettingsError(f"the key in `{path}` cannot be read: {error.strerror}") from None
    except ValueError:
        raise SettingsError(f"`{path}` holds no key: {KEY_RULE}", hint=LOST) from None


def _make_file(path: Path) -> None:
    """Make a file with a new key; if several processes try, all find the same one, and nobody ever half of it."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):  # another process was first
                path.hardlink_to(part)
        finally:
            part.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        message = f"a key for secrets cannot be kept in `{path}`: {error.strerror}"
        raise SettingsError(message, hint=f"set {VARIABLE}") from None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
