"""C2PA: files are signed with a claim of their origin, and read back. The only place that knows c2pa.

What is signed is made by us; what is read back may be anybody's, so reading happens in `verifying_process` alone.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal

import c2pa

from vitascope.domain.errors import SettingsError, SigningFailed
from vitascope.domain.provenance import DIGITAL_SOURCE_TYPE, Claim, Finding

from . import xmp
from .certificate import Credentials

SignedFormat = Literal["mp4", "gif", "webp", "jpeg"]

MEDIA_TYPES: dict[SignedFormat, str] = {
    "mp4": "video/mp4",
    "gif": "image/gif",
    "webp": "image/webp",
    "jpeg": "image/jpeg",
}

_LABEL = "org.vitascope.generation"
"""Of our own assertion, which names the model."""

_SEAL = b"vitascope-sha256"
"""C2PA leaves some 5 % of a short MP4 unhashed: the file's type, free space and the padding of its own signature. The last box of
our files, which C2PA leaves out too, holds the SHA-256 of all before it, so that any changed byte is found."""
_SEAL_BYTES = 8 + len(_SEAL) + 32

_MOST_IN_MEMORY = 1 << 25
"""Bytes of a file that is signed there: c2pa reads and writes in small pieces, and renaming one file over another waits for the disk.
One of 47 KB in 6.4 ms for 10.6."""

#: Nothing is fetched from anywhere, and no picture of the video is kept beside it.
_OFFLINE = {"remote_manifest_fetch": False, "ocsp_fetch": False}
_NO_THUMBNAIL = {"thumbnail": {"enabled": False}}


def sign(path: Path, format: SignedFormat, claim: Claim, credentials: Credentials) -> None:
    """Put the claim into a complete file of ours, readable as XMP and signed as C2PA. Pictures have their XMP already.

    Raises:
        SigningFailed: C2PA refuses; the file is then of no use.
        OSError: the disk does.
    """
    if format in ("mp4", "gif"):
        xmp.add(path, format, claim)
    if path.stat().st_size <= _MOST_IN_MEMORY:
        _sign_in_memory(path, format, claim, credentials)
        return
    signed = path.with_name(f"{path.name}.c2pa")
    try:
        with path.open("rb") as source, signed.open("w+b") as target:
            _sign(source, _Output(target), format, claim, credentials)
            if format == "mp4":
                _seal(target)
        signed.replace(path)
    finally:
        signed.unlink(missing_ok=True)


def _sign_in_memory(path: Path, format: SignedFormat, claim: Claim, credentials: Credentials) -> None:
    target = io.BytesIO()
    _sign(io.BytesIO(path.read_bytes()), _Output(target), format, claim, credentials)
    if format == "mp4":
        _seal(target)
    with path.open("r+b") as file:
        file.write(target.getbuffer())
        file.truncate()  # it may have been signed before


def sign_again(path: Path, format: SignedFormat, claim: Claim, credentials: Credentials) -> None:
    """Sign a file that another server of ours has made, in the place of what it had signed; raises what `sign` does."""
    if format == "mp4":
        _unseal(path)
    if format in ("mp4", "gif"):
        xmp.remove(path, format)
    sign(path, format, claim, credentials)


def check(credentials: Credentials) -> None:
    """Sign something small, to find out before any video is made whether C2PA takes the certificate.

    Raises:
        SettingsError: it does not.
    """
    claim = Claim(
        generator="Vitascope", version="0", model="none", license="", source="", revision=None, made_at=""
    )
    source, target = io.BytesIO(_SMALLEST_GIF), io.BytesIO()
    try:
        _sign(source, _Output(target), "gif", claim, credentials)
    except SigningFailed as error:
        # c2pa's own words are all that tells what is wrong; they hold no path of ours
        message = f"setting `provenance.certificate`: C2PA refuses `{credentials.name}`: {error.__cause__}"
        raise SettingsError(message) from None
    found = examine(target, "gif")
    if found.state != "valid":
        message = f"setting `provenance.certificate`: C2PA refuses `{credentials.name}`: {', '.join(found.problems)}"
        raise SettingsError(message)


_SMALLEST_GIF = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;"


class _Output:
    """A file for c2pa to write, which tells it only that something failed: the error is kept, to say what."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None
        self.read, self.seek, self.tell = file.read, file.seek, file.tell

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        try:
            self._file.flush()
        except OSError as error:
            self.error = error
            raise


def _sign(
    source: BinaryIO, target: _Output, format: SignedFormat, claim: Claim, credentials: Credentials
) -> None:
    manifest = _manifest(claim, MEDIA_TYPES[format], is_sealed=format == "mp4")
    # the certificate is tested when the server starts; here the new file is read once more (verify_after_sign)
    settings = {"verify": {**_OFFLINE, "verify_after_sign": True}, "builder": _NO_THUMBNAIL}
    info = c2pa.C2paSignerInfo(
        alg=credentials.algorithm.encode(),
        sign_cert=credentials.certificates.encode(),
        private_key=credentials.key.encode(),
        ta_url=None,
    )
    try:
        with (
            c2pa.Context.from_dict(settings) as context,
            c2pa.Signer.from_info(info) as signer,
            c2pa.Builder(manifest, context=context) as builder,
        ):
            builder.sign(signer, MEDIA_TYPES[format], source, target)
    except c2pa.C2paError as error:
        if target.error is not None:
            raise target.error from None
        raise SigningFailed(hint="the operator finds the reason in the log") from error


def _manifest(claim: Claim, media_type: str, *, is_sealed: bool) -> dict[str, Any]:
    agent = {"name": claim.generator, "version": claim.version}
    created = {
        "action": "c2pa.created",
        "when": claim.made_at,
        "digitalSourceType": DIGITAL_SOURCE_TYPE,
        "softwareAgent": agent,
    }
    return {
        "claim_generator_info": [agent],
        "format": media_type,
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [created]}},
            {"label": _LABEL, "data": {**claim.to_dict(), "is_sealed": is_sealed}},
        ],
    }


def _seal(file: io.BufferedRandom | io.BytesIO) -> None:
    file.flush()
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").digest()
    file.seek(0, os.SEEK_END)
    file.write(_SEAL_BYTES.to_bytes(4, "big") + b"free" + _SEAL + digest)


def _unseal(path: Path) -> None:
    """Take the seal off, if there is one; then what was written before it is the file's end again."""
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END) - _SEAL_BYTES
        file.seek(max(0, end))
        if file.read().startswith(_SEAL_BYTES.to_bytes(4, "big") + b"free" + _SEAL):
            file.truncate(end)


def _is_seal_whole(file: BinaryIO) -> bool:
    end = file.seek(0, os.SEEK_END) - _SEAL_BYTES
    file.seek(0)
    digest = hashlib.sha256()
    while (left := end - file.tell()) > 0:
        digest.update(file.read(min(left, 1 << 20)))
    return file.read() == _SEAL_BYTES.to_bytes(4, "big") + b"free" + _SEAL + digest.digest()


def examine(file: BinaryIO, format: SignedFormat, certificates: str = "", serial: str = "") -> Finding:
    """Read back what was signed into a file, and whether it is still true. The file may be anybody's.

    Args:
        file: seekable.
        format: what its first bytes say that it is.
        certificates: PEM, of the chain that is known here.
        serial: of the certificate of that chain that signs, in decimal: its authority may have issued others.
    """
    trust = {"trust_anchors": certificates} if certificates else {}
    settings = {"verify": _OFFLINE, "trust": trust}
    try:
        with (
            c2pa.Context.from_dict(settings) as context,
            c2pa.Reader(MEDIA_TYPES[format], file, context=context) as reader,
        ):
            store = json.loads(reader.json())
    except c2pa.C2paError:
        # there is none, or it breaks before anything is compared
        is_signed = _has_manifest(file)
        return Finding(state="tampered", problems=("unreadable",)) if is_signed else Finding(state="none")
    return _finding(store, file, serial)


def _has_manifest(file: BinaryIO) -> bool:
    """Whether there seems to be a manifest, though one that cannot be read: two words of its, as one may be what was changed."""
    file.seek(0)
    kept = b""
    while block := file.read(1 << 20):
        seen = kept + block
        if b"c2pa.assertions" in seen or b"c2pa.signature" in seen:
            return True
        kept = block[-16:]
    return False


def _finding(store: Mapping[str, Any], file: BinaryIO, serial: str) -> Finding:
    manifest: Mapping[str, Any] = store.get("manifests", {}).get(store.get("active_manifest"), {})
    signature = _mapping(manifest.get("signature_info"))
    generator = _first(manifest.get("claim_generator_info"))
    ours = _assertion(manifest, _LABEL)
    created = _first(_assertion(manifest, "c2pa.actions").get("actions"))
    problems = _failures(store)
    state = store.get("validation_state")
    if state in ("Trusted", "Valid") and ours.get("is_sealed") is True and not _is_seal_whole(file):
        state, problems = "Invalid", ("vitascope.seal.mismatch",)
    return Finding(
        state="valid" if state in ("Trusted", "Valid") else "tampered",
        is_known=state == "Trusted" and str(signature.get("cert_serial_number")) == serial,
        generator=_text(
            " ".join(str(generator[name]) for name in ("name", "version") if generator.get(name))
        ),
        model=_text(ours.get("model")),
        model_license=_text(ours.get("license")),
        model_source=_text(ours.get("source")),
        made_at=_text(created.get("when")),
        prompt=_text(ours.get("prompt"), 32_000),
        digital_source_type=_text(created.get("digitalSourceType")),
        signer=_text(signature.get("common_name") or signature.get("issuer")),
        problems=problems,
    )


def _failures(store: Mapping[str, Any]) -> tuple[str, ...]:
    results = _mapping(_mapping(store.get("validation_results")).get("activeManifest"))
    codes = (_mapping(each).get("code") for each in results.get("failure") or ())
    # that a certificate is unknown is told by `is_known`
    return tuple(str(code)[:100] for code in codes if code != "signingCredential.untrusted")


def _assertion(manifest: Mapping[str, Any], label: str) -> Mapping[str, Any]:
    for each in manifest.get("assertions") or ():
        if str(_mapping(each).get("label", "")).startswith(label):
            return _mapping(each.get("data"))
    return {}


def _first(values: Any) -> Mapping[str, Any]:
    return _mapping(values[0]) if isinstance(values, list) and values else {}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any, max_chars: int = 300) -> str | None:
    """Text of a stranger's: not too long, and without what a terminal would obey."""
    if not isinstance(value, str) or not value:
        return None
    return "".join(character if character.isprintable() else " " for character in value[:max_chars])
