"""Files in a bucket of an S3-compatible object storage. The only place that knows obstore, which is an extra.

Error messages name the key, the bucket and the storage's own code, never a signed URL or a credential.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, cast
from urllib.parse import quote, urlsplit

from vitascope.domain.errors import SettingsError, StorageError, StorageUnavailable

from .protocol import FileStat, StoredFile, check_key, is_key

if TYPE_CHECKING:
    from obstore.store import S3Config, S3Credential, S3Store

PART_BYTES = 8 * 1024 * 1024
"""A larger file is sent in parts of this size, so that only two of them are in memory."""

PARTS_AT_ONCE = 2

READ_BYTES = 2 * 1024 * 1024
"""A download is asked for piece by piece: a slow client holds one piece, and no request to the storage open."""

REQUEST_SECONDS = 30
"""What one request may take. 8 MiB in that time are 280 kB/s."""

CONNECT_SECONDS = 5
RETRIES = 2
RETRY_SECONDS = 10

CHECK_SECONDS = 10
"""What each request of `check` may take: somebody waits for it."""

MEMORY_BYTES = 16 * 1024 * 1024
"""A larger file that is opened is kept on the disk while it is."""

MEDIA_TYPES = {
    "mp4": "video/mp4",
    "gif": "image/gif",
    "webm": "video/webm",
    "png": "image/png",
    "webp": "image/webp",
    "jpg": "image/jpeg",
}
"""By the end of a key: whoever is sent to the storage itself gets this."""

REFUSED = "the object storage refuses the credentials"
DENIED = "the object storage does not allow this to these credentials"
NO_STORAGE = "what answers at the endpoint is no object storage"

_CODES = {
    "InvalidAccessKeyId": REFUSED,
    "SignatureDoesNotMatch": REFUSED,
    "InvalidToken": REFUSED,
    "ExpiredToken": REFUSED,
    "AccessDenied": DENIED,
    "RequestTimeTooSkewed": "the object storage says that this machine's clock is wrong",
    "AuthorizationHeaderMalformed": "the object storage has the bucket in another region",
    "PermanentRedirect": "the object storage has the bucket in another region",
}

_MAY_PASS = {"408", "425", "429"}
"""Of the answers that say that it is the client's fault."""


_ALONE = {
    "skip_signature": False,
    "request_payer": False,
    "s3_express": False,
    "unsigned_payload": False,
}


class S3Storage:
    """A bucket, or what is below a prefix in it.

    Args:
        bucket: its name.
        prefix: put before each key; empty for none.
        endpoint: URL of the storage; None for AWS.
        region: of the bucket.
        path_style: whether the bucket is in the path of its URLs, rather than in their host name.
        access_key_id: None looks where AWS's own clients look: the environment, a web identity, the machine's role.
        secret_access_key: of that id.
        session_token: of temporary credentials.
        public_url: where anyone can read the bucket: its root, or what is below the prefix if the URL ends in that; None if nobody can.
        is_alone: whether AWS's variables in the environment, which are another bucket's, count for nothing.

    Raises:
        SettingsError: obstore is not installed, or does not understand these values.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        endpoint: str | None = None,
        region: str | None = None,
        path_style: bool = True,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        session_token: str | None = None,
        public_url: str | None = None,
        is_alone: bool = False,
    ) -> None:
        self._bucket = bucket
        self._prefix = prefix.strip("/")
        self._public_url = public_url
        credentials = {
            "access_key_id": access_key_id,
            "secret_access_key": secret_access_key,
            "session_token": session_token,
        }
        values = {
            "endpoint": endpoint,
            # else AWS_ENDPOINT_URL_S3 would go before it
            "aws_endpoint_url_s3": endpoint,
            "region": region,
            "virtual_hosted_style_request": not path_style,
            **(_ALONE if is_alone else credentials),
        }
        # told in this way, no session's token of the environment is sent with them
        told: S3Credential = {
            "access_key_id": access_key_id or "",
            "secret_access_key": secret_access_key or "",
            "token": session_token,
            "expires_at": None,
        }
        self._provider = (lambda: told) if is_alone else None
        self._config = cast("S3Config", {name: value for name, value in values.items() if value is not None})
        self._store = self._connect(REQUEST_SECONDS, RETRIES)

    def __repr__(self) -> str:
        return f"S3Storage({self._bucket!r})"

    def _connect(self, seconds: float, retries: int) -> S3Store:
        try:
            from obstore.store import S3Store
        except ImportError:
            message = "object storage needs a package that is not installed"
            raise SettingsError(message, hint="pip install 'vitascope[s3]'") from None
        try:
            return S3Store(
                self._bucket,
                prefix=self._prefix or None,
                config=self._config,
                credential_provider=self._provider,
                client_options={
                    "allow_http": str(self._config.get("endpoint", "")).startswith("http://"),
                    "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
                    "timeout": timedelta(seconds=seconds),
                },
                retry_config={
                    "max_retries": retries,
                    "retry_timeout": timedelta(seconds=RETRY_SECONDS),
                },
            )
        except Exception:  # noqa: BLE001  obstore's own kinds; its words repeat the values, the secret among them
            hint = "look at `storage.url`, `storage.endpoint` and `storage.region`"
            raise SettingsError("the object storage's settings cannot be understood", hint=hint) from None

    # writing

    def key_for_new(self, key: str) -> str:
        return check_key(key)

    def elsewhere(self) -> tuple[str, ...]:
        return ()

    def put(self, path: Path, key: str) -> None:
        check_key(key)
        with _reading(key), path.open("rb") as file:
            num_bytes = os.fstat(file.fileno()).st_size
            etag = _etag_of(file, num_bytes)
        self._upload(path, num_bytes, etag, key)
        path.unlink(missing_ok=True)

    def put_bytes(self, data: bytes, key: str) -> None:
        check_key(key)
        self._upload(data, len(data), _etag_of(io.BytesIO(data), len(data)), key)

    def copy(self, source: str, key: str) -> None:
        """Through this machine, so that what arrived is compared as everything is."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "copy"
            self.fetch(source, path)
            self.put(path, key)

    def _upload(self, content: Path | bytes, num_bytes: int, etag: str, key: str) -> None:
        """Send a file and compare what arrived. An object appears when it is complete, never before."""
        import obstore

        media_type = MEDIA_TYPES.get(key.rpartition(".")[2], "application/octet-stream")
        with self._asking(key):
            sent = obstore.put(
                self._store,
                key,
                content,
                attributes={"Content-Type": media_type},
                use_multipart=num_bytes > PART_BYTES,
                chunk_size=PART_BYTES,
                max_concurrency=PARTS_AT_ONCE,
            )
        told = (sent["e_tag"] or "").strip('"')
        # where the storage encrypts, its tag is no checksum: then the file is read back
        if told != etag and not self._holds(key, content, num_bytes):
            self.delete(key)
            raise StorageUnavailable(f"`{key}` arrived damaged in the object storage")

    def _holds(self, key: str, content: Path | bytes, num_bytes: int) -> bool:
        if self.stat(key).num_bytes != num_bytes:
            return False
        found = hashlib.sha256()
        for piece in self.read(key, 0, num_bytes):
            found.update(piece)
        if isinstance(content, bytes):
            return found.digest() == hashlib.sha256(content).digest()
        with _reading(key), content.open("rb") as file:
            return found.digest() == hashlib.file_digest(file, "sha256").digest()

    def delete(self, key: str) -> None:
        import obstore

        check_key(key)
        with self._asking(key), contextlib.suppress(FileNotFoundError):
            obstore.delete(self._store, key)

    # reading

    def open(self, key: str) -> BinaryIO:
        num_bytes = self.stat(key).num_bytes
        file = tempfile.SpooledTemporaryFile(max_size=MEMORY_BYTES)  # noqa: SIM115  the caller closes it
        try:
            with _reading(key):  # a large one goes to the disk
                self._copy(key, num_bytes, cast("IO[bytes]", file))
                file.seek(0)
        except BaseException:
            file.close()
            raise
        return cast("BinaryIO", file)

    def stat(self, key: str) -> FileStat:
        import obstore

        check_key(key)
        with self._asking(key):
            found = obstore.head(self._store, key)
        return FileStat(found["size"], found["last_modified"].astimezone(UTC))

    def read(self, key: str, start: int, end: int) -> Iterator[bytes]:
        import obstore

        check_key(key)
        while start < end:
            until = min(start + READ_BYTES, end)
            with self._asking(key):
                piece = bytes(obstore.get_range(self._store, key, start=start, end=until))
            start = until
            yield piece

    def fetch(self, key: str, path: Path) -> None:
        num_bytes = self.stat(key).num_bytes
        try:
            with _reading(key), path.open("wb") as file:  # closing writes too
                self._copy(key, num_bytes, file)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def _copy(self, key: str, num_bytes: int, file: IO[bytes]) -> None:
        for piece in self.read(key, 0, num_bytes):
            file.write(piece)

    def path_for(self, key: str) -> None:
        check_key(key)

    def url_for(self, key: str, *, expires_seconds: int) -> str:
        import obstore

        check_key(key)
        with self._asking(key):
            return obstore.sign(self._store, "GET", key, timedelta(seconds=expires_seconds))

    def public_url_for(self, key: str) -> str | None:
        check_key(key)
        return None if self._public_url is None else public_url_of(self._public_url, self._prefix, key)

    def files_in(self, folder: str) -> Iterator[StoredFile]:
        import obstore

        check_key(folder)
        with self._asking(folder):
            listing = obstore.list(self._store, folder)
        while True:
            with self._asking(folder):
                found = next(listing, None)
            if found is None:
                return
            now = datetime.now(UTC)
            for one in found:
                key = self._without_prefix(one["path"])
                if is_key(key):
                    yield StoredFile(key, (now - one["last_modified"]).total_seconds())

    def _without_prefix(self, path: str) -> str:
        return path.removeprefix(f"{self._prefix}/") if self._prefix else path

    # finding out whether it works

    def check(self, folder: str = "inputs") -> None:
        """List, write, read and delete a small file, to say now what else the first video would meet.

        Args:
            folder: where; what a crash leaves there must be swept.

        Raises:
            StorageError: the credentials, the bucket or the rights are not what they must be.
            StorageUnavailable: there is no answer, which may be different later.
        """
        import obstore

        store = self._connect(CHECK_SECONDS, retries=0)
        key = check_key(f"{folder}/probe-{secrets.token_hex(16)}")
        data = secrets.token_bytes(64)
        with self._checking("listed"):
            next(
                obstore.list(store, folder, chunk_size=1), None
            )  # some storages make a bucket at the first put
        with self._checking("written to"):
            obstore.put(store, key, data, use_multipart=False)
        with self._checking("read"):
            found = bytes(obstore.get_range(store, key, start=0, end=len(data)))
        with self._checking("deleted from"):
            obstore.delete(store, key)
        if found != data:
            raise StorageError(f"the bucket `{self._bucket}` gives back other bytes than were put into it")

    @contextlib.contextmanager
    def _checking(self, done: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001  obstore's own kinds, and its network's
            text = str(error)
            fault = self._fault(text)
            if fault == REFUSED:
                hint = "look at `storage.access_key_id` and `storage.secret_access_key`, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                raise StorageError(fault, hint=hint) from None
            if fault.endswith(" 403") or fault == DENIED:
                message = f"the bucket `{self._bucket}` cannot be {done} with these credentials"
                raise StorageError(
                    message, hint="give them the right to list, read, write and delete"
                ) from None
            if fault == self._no_bucket:
                raise StorageError(fault, hint="make it, or look at `storage.url`") from None
            if fault == NO_STORAGE or _is_for_good(text):
                hint = "look at `storage.endpoint`, `storage.url`, `storage.region` and `storage.path_style`"
                raise StorageError(fault, hint=hint) from None
            raise StorageUnavailable(fault, hint="look at `storage.endpoint`") from None

    @contextlib.contextmanager
    def _asking(self, key: str) -> Iterator[None]:
        """Say what obstore's errors mean."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  obstore's own kinds, and its network's
            fault = self._fault(str(error))
            if isinstance(error, FileNotFoundError) and fault != self._no_bucket:
                raise StorageError(f"there is no file `{key}`") from None
            raise StorageUnavailable(fault) from None

    @property
    def _no_bucket(self) -> str:
        return f"there is no bucket `{self._bucket}` in the object storage"

    def _fault(self, text: str) -> str:
        """Say in one sentence what obstore tells in pages, which show requests as they were."""
        code = re.search(r"<Code>(\w+)</Code>|\(code: (\w+)\)", text)
        if code is not None:
            name = code[1] or code[2]
            if name == "NoSuchBucket":
                return self._no_bucket
            return _CODES.get(name, f"the object storage answers `{name}`")
        if (status := re.search(r"status code: (\d{3})", text)) is not None:
            return f"the object storage answers {status[1]}"
        if "redential" in text or "169.254." in text:
            return "there are no credentials for the object storage"
        return "the object storage does not answer" if "HTTP error" in text else NO_STORAGE


def public_url_of(public_url: str, prefix: str, key: str) -> str:
    """Say where anyone finds a file: some write the address of their bucket, others that of their folder in it."""
    url = public_url.rstrip("/")
    if not prefix or urlsplit(url).path.endswith(f"/{prefix}"):
        return f"{url}/{key}"
    return f"{url}/{quote(prefix)}/{key}"


def _is_for_good(text: str) -> bool:
    """Whether an answer says that asking again does not help."""
    status = re.search(r"status code: (4\d\d)", text)
    return status is not None and status[1] not in _MAY_PASS


@contextlib.contextmanager
def _reading(key: str) -> Iterator[None]:
    """Say what is wrong with a file of this machine."""
    try:
        yield
    except FileNotFoundError as error:
        raise StorageError(f"there is no file `{key}`") from error
    except OSError as error:
        raise StorageError(f"the file `{key}` cannot be kept on this machine: {error.strerror}") from error


def _etag_of(file: io.BufferedIOBase, num_bytes: int) -> str:
    """Make the tag that S3 gives an unencrypted object of this content, sent as `_upload` does."""
    if num_bytes <= PART_BYTES:
        return hashlib.md5(file.read(), usedforsecurity=False).hexdigest()
    parts = []
    while piece := file.read(PART_BYTES):
        parts.append(hashlib.md5(piece, usedforsecurity=False).digest())
    return f"{hashlib.md5(b''.join(parts), usedforsecurity=False).hexdigest()}-{len(parts)}"
