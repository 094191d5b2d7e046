"""The certificates that files are signed with: a chain made on this machine, or the operator's own. Knows nothing of C2PA's files.

The chain is made once: an authority, whose key is thrown away at once, and one certificate of it, as C2PA's profile wants it.
Key and certificates are in one file, so that nobody ever finds one without the other.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import os
import secrets
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from vitascope.domain.errors import InvalidParameter, SettingsError

Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

_YEARS = 30
"""Without a timestamp from outside a signature is good for as long as its certificate."""

_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
_MIN_RSA_BITS = 2048

#: Purposes of which C2PA wants one: e-mail protection, document signing, and its own for claims.
_PURPOSES = frozenset(
    (ExtendedKeyUsageOID.EMAIL_PROTECTION.dotted_string, "1.3.6.1.5.5.7.3.36", "1.3.6.1.4.1.62558.2.1")
)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a file is signed with."""

    #: In C2PA's words, such as `es256`.
    algorithm: str
    #: PEM; the signing one first.
    certificates: str
    #: PEM, PKCS 8.
    key: str = field(repr=False)

    @property
    def name(self) -> str:
        """Whose certificate it is."""
        return _name(x509.load_pem_x509_certificates(self.certificates.encode())[0])


def local_credentials(path: Path) -> Credentials:
    """Read the chain in a file; make it if there is none. Of several processes that try at once all get the same.

    Raises:
        SettingsError: it cannot be kept, or is not what was made.
    """
    try:
        if not path.exists():
            _make_once(path, _new_chain())
        with path.open("rb") as file:
            is_open = bool(os.fstat(file.fileno()).st_mode & stat.S_IRWXO)
            content = file.read(65536)
    except OSError as error:
        message = f"the certificate in `{path}` can neither be read nor made: {error.strerror}"
        raise SettingsError(message, hint="set `provenance.enabled` to false to sign no videos") from None
    if is_open:
        raise SettingsError(f"everybody can read the key in `{path}`", hint=f"chmod 600 {path}")
    return _checked(content, content, str(path), str(path))


def own_credentials(certificate: Path, key: Path) -> Credentials:
    """Read the operator's own chain and key.

    Raises:
        SettingsError: they are not there, do not belong together, or are not what C2PA wants.
    """
    return _checked(
        _read(certificate, "provenance.certificate"),
        _read(key, "provenance.key"),
        f"setting `provenance.certificate`: `{certificate}`",
        f"setting `provenance.key`: `{key}`",
    )


def read_certificates(path: Path) -> str:
    """Read the certificates of a PEM file, whatever else is in it.

    Raises:
        InvalidParameter: there are none.
    """
    try:
        chain = x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise InvalidParameter("--certificate", str(path), f"it cannot be read: {error.strerror}") from None
    except ValueError:
        raise InvalidParameter("--certificate", str(path), "it must hold certificates as PEM") from None
    return "".join(_pem(each) for each in chain)


def _read(path: Path, setting: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"setting `{setting}`: `{path}` cannot be read: {error.strerror}") from None


def _checked(certificates: bytes, key: bytes, where: str, where_key: str) -> Credentials:
    try:
        chain = x509.load_pem_x509_certificates(certificates)
    except ValueError:
        raise SettingsError(
            f"{where} holds no certificates", hint="PEM, the signing one first, then its issuers"
        ) from None
    try:
        private = load_pem_private_key(key, None)
    except TypeError:
        raise SettingsError(
            f"{where_key} is encrypted", hint="decrypt it: `openssl pkey -in FILE -out FILE`"
        ) from None
    except ValueError:
        raise SettingsError(f"{where_key} holds no private key", hint="PEM, PKCS 8") from None
    algorithm = _algorithm(private)
    if algorithm is None:
        hint = "ECDSA with P-256, P-384 or P-521, Ed25519, or RSA with at least 2048 bits"
        raise SettingsError(f"{where_key} is of a kind that C2PA does not know", hint=hint)
    assert isinstance(private, Key)
    if _public(private.public_key()) != _public(chain[0].public_key()):
        raise SettingsError(f"{where_key} is not the key of the first certificate in {where}")
    if problem := _problem(chain):
        raise SettingsError(f"{where} cannot sign: {problem}")
    text = "".join(_pem(each) for each in chain)
    return Credentials(
        algorithm, text, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    )


def _algorithm(key: object) -> str | None:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return _CURVES.get(key.curve.name)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= _MIN_RSA_BITS:
        return "ps256"
    return None


def _problem(chain: Sequence[x509.Certificate]) -> str | None:
    """Say what C2PA's profile finds wrong with the first certificate, which signs."""
    signing = chain[0]
    now = datetime.datetime.now(datetime.UTC)
    if not signing.not_valid_before_utc <= now <= signing.not_valid_after_utc:
        first, last = signing.not_valid_before_utc.date(), signing.not_valid_after_utc.date()
        return f"its first certificate is valid from {first} to {last} only"
    if signing.issuer == signing.subject:
        return "its first certificate is signed by itself, and C2PA wants one that an authority signed"
    return _profile_problem(signing) or _order_problem(chain)


def _profile_problem(signing: x509.Certificate) -> str | None:
    found = {each.oid: each.value for each in signing.extensions}
    usage = found.get(x509.KeyUsage.oid)
    purposes = found.get(x509.ExtendedKeyUsage.oid)
    basic = found.get(x509.BasicConstraints.oid)
    if isinstance(basic, x509.BasicConstraints) and basic.ca:
        return "its first certificate is an authority's: the one that signs comes first"
    if not isinstance(usage, x509.KeyUsage) or not usage.digital_signature:
        return "its first certificate lacks the key usage `digitalSignature`"
    named = (
        {each.dotted_string for each in purposes} if isinstance(purposes, x509.ExtendedKeyUsage) else set()
    )
    if not named & _PURPOSES:
        return "its first certificate lacks an extended key usage that C2PA takes, such as `emailProtection`"
    if x509.AuthorityKeyIdentifier.oid not in found:
        return "its first certificate lacks the extension `authorityKeyIdentifier`"
    return None


def _order_problem(chain: Sequence[x509.Certificate]) -> str | None:
    for certificate, issuer in itertools.pairwise(chain):
        try:
            certificate.verify_directly_issued_by(issuer)
        except Exception:  # noqa: BLE001  the library raises errors of several kinds
            return f"`{_name(certificate)}` was not issued by the next one, `{_name(issuer)}`"
    return None


def _make_once(path: Path, content: bytes) -> None:
    """Make a file if there is none. If several processes try, all find the same one, and nobody ever half of it."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    descriptor = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # another process was first
            path.hardlink_to(part)
    finally:
        part.unlink(missing_ok=True)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _new_chain() -> bytes:
    number = secrets.token_hex(4)
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = _named(f"Vitascope authority {number}")
    ca = (
        _certificate(authority, authority, authority_key, authority_key, is_authority=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    signing = (
        _certificate(_named(f"Vitascope {number}"), authority, key, authority_key, is_authority=False)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private + (_pem(signing) + _pem(ca)).encode()


def _named(name: str) -> x509.Name:
    # no host name: whoever gets a video would learn it
    parts = ((NameOID.ORGANIZATION_NAME, "Vitascope, self-made"), (NameOID.COMMON_NAME, name))
    return x509.Name([x509.NameAttribute(kind, value) for kind, value in parts])


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    is_authority: bool,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    constraints = x509.BasicConstraints(ca=is_authority, path_length=0 if is_authority else None)
    issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # other machines' clocks may be behind
        .not_valid_after(now + datetime.timedelta(days=365 * _YEARS))
        .add_extension(constraints, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(issuer_id, critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _public(key: object) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined,no-any-return]


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


def _name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else certificate.subject.rfc4514_string()
