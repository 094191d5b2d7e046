"""What is signed into a file: it is read back, any changed byte is found, and the file is as playable as before."""

from __future__ import annotations

import dataclasses
import datetime
import io
import json
import resource
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import av
import c2pa
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from vitascope import app, media, settings
from vitascope.domain.errors import InvalidParameter, QueueFull, SettingsError, SigningFailed, WriteFailed
from vitascope.domain.provenance import DIGITAL_SOURCE_TYPE, Claim
from vitascope.domain.request import OutputFormat
from vitascope.media import provenance, verifier, xmp
from vitascope.media.certificate import (
    Credentials,
    local_credentials,
    own_credentials,
    read_certificates,
)

CLAIM = Claim(
    generator="Vitascope",
    version="1.2.3",
    model="pocket",
    license="Apache-2.0",
    source="embedded:pocket",
    revision=None,
    made_at="2026-11-21T10:00:00+00:00",
)
ROWS, COLUMNS = np.mgrid[:48, :64]
FRAMES = [
    np.stack([ROWS * 4, COLUMNS * 3, 0 * ROWS + 30 * index], axis=-1).astype(np.uint8) for index in range(4)
]


@pytest.fixture(scope="module")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    return local_credentials(tmp_path_factory.mktemp("home") / "provenance.pem")


def write(path: Path, format: OutputFormat, credentials: Credentials | None, claim: Claim = CLAIM) -> bytes:
    def finish(temporary: Path) -> None:
        if credentials is not None:
            provenance.sign(temporary, format, claim, credentials)

    media.write_video(iter(FRAMES), path, fps=8, format=format, finish=finish)
    return path.read_bytes()


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory, credentials: Credentials) -> dict[OutputFormat, bytes]:
    folder = tmp_path_factory.mktemp("signed")
    return {
        "mp4": write(folder / "a.mp4", "mp4", credentials),
        "gif": write(folder / "a.gif", "gif", credentials),
    }


@pytest.mark.parametrize("format", ["mp4", "gif"])
def test_what_is_too_large_for_the_memory_is_signed_as_well(
    tmp_path: Path, credentials: Credentials, format: OutputFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "_MOST_IN_MEMORY", 0)
    content = write(tmp_path / "a", format, credentials)
    assert state(content, format, credentials.certificates) == "valid"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_is_signed_again_ends_where_it_ends(tmp_path: Path, credentials: Credentials) -> None:
    longer = dataclasses.replace(CLAIM, prompt="a dog " * 500)
    (tmp_path / "a.mp4").write_bytes(write(tmp_path / "b.mp4", "mp4", credentials, longer))
    provenance.sign_again(tmp_path / "a.mp4", "mp4", CLAIM, credentials)
    content = (tmp_path / "a.mp4").read_bytes()
    assert state(content) == "valid"
    assert b"a dog a dog" not in content


def state(content: bytes, format: OutputFormat = "mp4", certificates: str = "") -> str:
    """Read in this process: thousands of files at a few milliseconds each. Others go the whole way."""
    return provenance.examine(io.BytesIO(content), format, certificates).state


def boxes(content: bytes) -> list[tuple[str, int, int]]:
    """Kind, start and end of an MP4's boxes."""
    found, at = [], 0
    while at < len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        found.append((content[at + 4 : at + 8].decode(), at, at + size))
        at += size
    return found


@pytest.mark.parametrize("format", ["mp4", "gif"])
def test_what_is_signed_is_read_back(
    format: OutputFormat, signed: dict[OutputFormat, bytes], credentials: Credentials
) -> None:
    finding = media.verify(io.BytesIO(signed[format]), credentials.certificates)
    assert (finding.state, finding.is_known, finding.problems) == ("valid", True, ())
    assert (finding.generator, finding.model, finding.made_at) == ("Vitascope 1.2.3", "pocket", CLAIM.made_at)
    assert (finding.model_license, finding.model_source) == ("Apache-2.0", "embedded:pocket")
    assert (finding.digital_source_type, finding.prompt) == (DIGITAL_SOURCE_TYPE, None)
    assert finding.signer == credentials.name
    assert finding.sentence.startswith(f"Made by this server ({credentials.name}): Vitascope 1.2.3")


def test_a_file_may_come_from_anywhere(tmp_path: Path, signed: dict[OutputFormat, bytes]) -> None:
    """From a disk, from memory, and from what an object storage gives."""
    (tmp_path / "a").write_bytes(signed["mp4"])
    with (tmp_path / "a").open("rb") as file, tempfile.SpooledTemporaryFile(max_size=1 << 20) as spooled:
        spooled.write(signed["mp4"])
        spooled.seek(0)
        for opened in (file, spooled, io.BytesIO(signed["mp4"])):
            assert media.verify(opened).state == "valid"  # type: ignore[arg-type]


@pytest.mark.parametrize("format", ["mp4", "gif"])
def test_the_readers_of_others_say_valid(format: OutputFormat, signed: dict[OutputFormat, bytes]) -> None:
    """c2pa as anybody runs it: no settings of ours, no certificate of ours."""
    with c2pa.Reader(provenance.MEDIA_TYPES[format], io.BytesIO(signed[format])) as reader:
        assert reader.get_validation_state() == "Valid"
        manifest = reader.get_active_manifest()
    assert manifest is not None
    (actions,) = [each["data"]["actions"] for each in manifest["assertions"] if "actions" in each["label"]]
    assert [action["digitalSourceType"] for action in actions] == [DIGITAL_SOURCE_TYPE]
    assert b"thumbnail" not in signed[format]


def test_every_changed_byte_of_an_mp4_is_found(signed: dict[OutputFormat, bytes]) -> None:
    """The first and the last bytes of each box, and every 41st; `bench.provenance` changes all."""
    content = signed["mp4"]
    ends = {at for _, start, end in boxes(content) for at in (*range(start, start + 12), end - 1)}
    for at in sorted(ends | set(range(0, len(content), 41))):
        changed = bytearray(content)
        changed[at] ^= 1
        assert state(bytes(changed)) == "tampered", f"byte {at}"


def test_a_changed_picture_of_a_gif_is_found(signed: dict[OutputFormat, bytes]) -> None:
    content = signed["gif"]
    start = content.rindex(b"\x2c")  # the last frame
    for at in (0, 6, 20, start, start + 30, len(content) - 1):
        changed = bytearray(content)
        changed[at] ^= 1
        assert state(bytes(changed), "gif") in ("tampered", "none"), f"byte {at}"
        if 6 <= at < len(content) - 1:
            assert state(bytes(changed), "gif") == "tampered"


@pytest.mark.parametrize("cut", [40, 1000, 4000, -1])
def test_a_cut_or_continued_file_is_not_valid(cut: int, signed: dict[OutputFormat, bytes]) -> None:
    assert state(signed["mp4"][:cut]) != "valid"
    assert state(signed["mp4"] + b"\0\0\0\x08free") == "tampered"


def test_what_was_never_signed_has_none(tmp_path: Path) -> None:
    for format in ("mp4", "gif"):
        content = write(tmp_path / "a", format, None)  # type: ignore[arg-type]
        finding = media.verify(io.BytesIO(content))
        assert (finding.state, finding.problems) == ("none", ())
    for content in (b"", b"hello", b"\x89PNG\r\n\x1a\n" + bytes(50), b"\0\0\0\x20ftypisom" + bytes(100)):
        assert media.verify(io.BytesIO(content)).state == "none"


def test_whoever_signs_with_another_certificate_is_not_this_server(
    tmp_path: Path, signed: dict[OutputFormat, bytes]
) -> None:
    other = local_credentials(tmp_path / "other.pem")
    finding = media.verify(io.BytesIO(signed["mp4"]), other.certificates)
    assert (finding.state, finding.is_known) == ("valid", False)
    assert "not known here" in finding.sentence


def test_the_same_authority_does_not_make_it_this_server(tmp_path: Path) -> None:
    """Of an own certificate, whose authority issues others to others."""
    authority = Authority()
    ours, theirs = (own_credentials(*authority.issue(tmp_path, name)) for name in ("ours", "theirs"))
    content = write(tmp_path / "a.mp4", "mp4", theirs)
    assert media.verify(io.BytesIO(content), theirs.certificates).is_known
    assert not media.verify(io.BytesIO(content), ours.certificates).is_known


def test_a_signed_mp4_plays_as_it_did(tmp_path: Path, signed: dict[OutputFormat, bytes]) -> None:
    plain = write(tmp_path / "plain.mp4", "mp4", None)
    kinds = [kind for kind, _, _ in boxes(signed["mp4"])]
    assert kinds.index("moov") < kinds.index("mdat")
    decoded = []
    for content in (plain, signed["mp4"]):
        with av.open(io.BytesIO(content)) as container:
            decoded.append([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert len(decoded[0]) == 4
    assert all((left == right).all() for left, right in zip(*decoded, strict=True))
    with av.open(io.BytesIO(signed["gif"])) as container:
        assert len(list(container.decode(video=0))) == 4


@pytest.mark.parametrize("format", ["mp4", "gif"])
def test_a_file_of_another_server_is_signed_as_if_it_were_made_here(
    tmp_path: Path, credentials: Credentials, format: OutputFormat
) -> None:
    """Nothing is left of what the other one has written: neither its statement nor its XMP nor its seal."""
    theirs = Claim(**{**asdict(CLAIM), "made_at": "2026-11-21T09:00:00+00:00", "prompt": "a secret & more"})
    path, ours = tmp_path / f"a.{format}", tmp_path / f"b.{format}"
    write(path, format, local_credentials(tmp_path / "other.pem"), theirs)
    provenance.sign_again(path, format, CLAIM, credentials)
    write(ours, format, credentials)
    content = path.read_bytes()
    found = media.verify(lambda: path.open("rb"), credentials.certificates)
    assert (found.state, found.is_known, found.made_at) == ("valid", True, CLAIM.made_at)
    assert abs(len(content) - len(ours.read_bytes())) < 64, "signatures are of various lengths"
    for mark in (b"AISystemUsed", b"vitascope-sha256"):
        assert content.count(mark) == ours.read_bytes().count(mark)
    assert b"secret" not in content
    if format == "mp4":
        assert (media.read_frames(path) == media.read_frames(ours)).all()
    unsigned = tmp_path / f"c.{format}"
    write(unsigned, format, None)
    provenance.sign_again(unsigned, format, CLAIM, credentials)
    assert state(unsigned.read_bytes(), format) == "valid"


def test_metadata_tells_programs_that_know_no_c2pa(tmp_path: Path, signed: dict[OutputFormat, bytes]) -> None:
    for content in signed.values():
        assert b'Iptc4xmpExt:DigitalSourceType="' + DIGITAL_SOURCE_TYPE.encode() in content
        assert b'Iptc4xmpExt:AISystemUsed="pocket"' in content
    media.write_video(iter(FRAMES), tmp_path / "a.mp4", fps=8, format="mp4", comment=CLAIM.sentence)
    with av.open(tmp_path / "a.mp4") as container:
        assert container.metadata["comment"] == "Made by AI: Vitascope 1.2.3, model pocket"


def test_xmp_is_whole_whatever_the_prompt_holds() -> None:
    from dataclasses import replace
    from xml.etree import ElementTree

    packet = xmp.packet(replace(CLAIM, prompt='a "dog" & <cat>\x00\x07 ж 🎬\n\''))
    ElementTree.fromstring(packet)


def test_a_prompt_is_in_the_file_only_if_it_is_in_the_claim(tmp_path: Path, credentials: Credentials) -> None:
    from dataclasses import replace

    content = write(tmp_path / "a.mp4", "mp4", credentials, replace(CLAIM, prompt="a\x1b[31m dog"))
    finding = media.verify(io.BytesIO(content), credentials.certificates)
    assert finding.prompt == "a [31m dog", "what a terminal would obey is left out"


def test_signing_that_fails_leaves_nothing(tmp_path: Path, credentials: Credentials) -> None:
    broken = Credentials("es256", credentials.certificates, local_credentials(tmp_path / "b.pem").key)
    (tmp_path / "b.pem").unlink()
    with pytest.raises(SigningFailed):
        write(tmp_path / "a.mp4", "mp4", broken)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_while_signing_is_said(tmp_path: Path, credentials: Credentials) -> None:
    """A limit on file size stands in for a small disk: the video fits, what is signed does not."""
    size = len(write(tmp_path / "a.mp4", "mp4", None))
    (tmp_path / "a.mp4").unlink()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 2000, limits[1]))
    try:
        with pytest.raises(WriteFailed, match="larger than the system allows"):
            write(tmp_path / "a.mp4", "mp4", credentials)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


MAKE = """
import sys
from pathlib import Path
from vitascope.media.certificate import local_credentials
sys.stdin.readline()
sys.stdout.write(local_credentials(Path(sys.argv[1])).key)
"""


def test_processes_make_one_certificate(tmp_path: Path) -> None:
    path = tmp_path / "provenance.pem"
    makers = [
        subprocess.Popen(
            [sys.executable, "-c", MAKE, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    keys = {maker.communicate("\n")[0] for maker in makers}
    assert [maker.returncode for maker in makers] == [0] * 3
    assert keys == {local_credentials(path).key}
    assert [file.name for file in tmp_path.iterdir()] == ["provenance.pem"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert "PRIVATE" not in repr(local_credentials(path))


def test_a_certificate_that_everybody_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "provenance.pem"
    local_credentials(path)
    path.chmod(0o604)
    with pytest.raises(SettingsError, match="everybody can read the key"):
        local_credentials(path)
    path.chmod(0o600)
    path.write_text("nonsense")
    with pytest.raises(SettingsError, match="holds no certificates"):
        local_credentials(path)


class Authority:
    """Issues certificates as an operator would have them."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Example CA")])
        self.certificate = (
            self._builder(self.name, self.key.public_key())
            .add_extension(x509.BasicConstraints(True, 0), critical=True)
            .sign(self.key, hashes.SHA256())
        )

    def _builder(self, name: x509.Name, key: object, days: int = 30) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self.name)
            .public_key(key)  # type: ignore[arg-type]
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=60))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)  # type: ignore[arg-type]
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
        )

    def issue(
        self,
        folder: Path,
        name: str,
        *,
        days: int = 30,
        purpose: x509.ObjectIdentifier | None = None,
        key: object = None,
    ) -> tuple[Path, Path]:
        private = key or ec.generate_private_key(ec.SECP256R1())
        usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
        purposes = [purpose or ExtendedKeyUsageOID.EMAIL_PROTECTION]
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.COMMON_NAME, name),
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example"),
            ]
        )
        certificate = (
            self._builder(subject, private.public_key(), days)  # type: ignore[attr-defined]
            .add_extension(x509.BasicConstraints(False, None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        chain = b"".join(
            each.public_bytes(serialization.Encoding.PEM) for each in (certificate, self.certificate)
        )
        files = folder / f"{name}.pem", folder / f"{name}.key"
        files[0].write_bytes(chain)
        files[1].write_bytes(
            private.private_bytes(  # type: ignore[attr-defined]
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return files


@pytest.mark.parametrize(
    "make_key", [lambda: ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate]
)
def test_an_own_certificate_signs(tmp_path: Path, make_key: Callable[[], object]) -> None:
    files = Authority().issue(tmp_path, "studio", key=make_key())
    loaded = settings.load(home=tmp_path, provenance={"certificate": files[0], "key": files[1]})
    app.check_marks(loaded)
    own = app.open_credentials(loaded)
    assert own is not None
    content = write(tmp_path / "a.mp4", "mp4", own)
    finding = media.verify(io.BytesIO(content), app.known_certificates(loaded))
    assert (finding.state, finding.is_known, finding.signer) == ("valid", True, "studio")
    assert not (tmp_path / "provenance.pem").exists()


def refusal(home: Path, certificate: Path | None, key: Path | None) -> str:
    with pytest.raises(SettingsError) as refused:
        app.check_marks(settings.load(home=home, provenance={"certificate": certificate, "key": key}))
    return refused.value.message


def test_a_certificate_that_cannot_sign_is_said_at_the_start(tmp_path: Path) -> None:
    authority = Authority()
    certificate, key = authority.issue(tmp_path, "good")
    old, old_key = authority.issue(tmp_path, "old", days=-1)
    web, web_key = authority.issue(tmp_path, "web", purpose=ExtendedKeyUsageOID.SERVER_AUTH)
    alone = tmp_path / "alone.pem"
    alone.write_bytes(authority.certificate.public_bytes(serialization.Encoding.PEM))
    authority_key = tmp_path / "authority.key"
    authority_key.write_bytes(
        authority.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        authority.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"x"),
        )
    )
    assert "setting `provenance.key` is missing" in refusal(tmp_path, certificate, None)
    assert "setting `provenance.certificate` is missing" in refusal(tmp_path, None, key)
    assert "cannot be read: No such file" in refusal(tmp_path, tmp_path / "none", key)
    assert "holds no certificates" in refusal(tmp_path, key, key)
    assert "holds no private key" in refusal(tmp_path, certificate, certificate)
    assert "is encrypted" in refusal(tmp_path, certificate, locked)
    assert "is not the key of the first certificate" in refusal(tmp_path, certificate, old_key)
    assert "is valid from" in refusal(tmp_path, old, old_key)
    assert "extended key usage that C2PA takes" in refusal(tmp_path, web, web_key)
    assert "is signed by itself" in refusal(tmp_path, alone, authority_key)


def test_the_library_has_the_last_word_on_a_certificate(tmp_path: Path) -> None:
    """It passes what we look at, and its authority is no authority of it."""
    certificate, key = Authority().issue(tmp_path, "good")
    stranger = Authority()
    certificate.write_bytes(
        certificate.read_bytes().split(b"-----END CERTIFICATE-----\n")[0]
        + b"-----END CERTIFICATE-----\n"
        + stranger.certificate.public_bytes(serialization.Encoding.PEM)
    )
    assert "was not issued by the next one" in refusal(tmp_path, certificate, key)


def test_certificates_are_read_out_of_a_file_with_a_key(tmp_path: Path, credentials: Credentials) -> None:
    path = tmp_path / "a.pem"
    path.write_text(credentials.key + credentials.certificates)
    assert read_certificates(path) == credentials.certificates
    path.write_text("none")
    for bad in (path, tmp_path / "missing"):
        with pytest.raises(InvalidParameter, match="--certificate"):
            read_certificates(bad)


def test_the_process_that_reads_has_nothing(tmp_path: Path) -> None:
    """It opens no further file and writes none; what it says of a file that breaks it is that it cannot be read."""
    script = """
import json, socket, sys
from vitascope.media.verifying_process import _limit
_limit(2 << 30, 60)
found = []
for attempt in (lambda: open("/etc/passwd"), lambda: socket.socket(), lambda: open(sys.argv[1], "w")):
    try:
        attempt()
        found.append("open")
    except OSError as error:
        found.append(error.errno)
print(json.dumps(found))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "a"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [24, 24, 24]


def test_a_file_that_takes_too_much_memory_is_not_valid(
    signed: dict[OutputFormat, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifier, "MEMORY_BYTES", 1 << 20)
    assert media.verify(io.BytesIO(signed["mp4"])).problems == ("unreadable",)


def test_more_files_than_can_wait_are_asked_to_come_later(
    signed: dict[OutputFormat, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifier, "_places", threading.BoundedSemaphore(1))
    opened: list[None] = []

    def open_it() -> io.BytesIO:
        opened.append(None)
        return io.BytesIO(signed["mp4"])

    with verifier._places, pytest.raises(QueueFull):
        media.verify(open_it)
    assert not opened, "nor does a storage send it"
    assert media.verify(open_it).state == "valid"
    assert media.verify(io.BytesIO(signed["mp4"])).state == "valid"


def test_a_file_that_takes_too_long_is_not_valid(
    signed: dict[OutputFormat, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifier, "_GRACE_SECONDS", -verifier.SECONDS)
    assert media.verify(io.BytesIO(signed["mp4"])).problems == ("too_slow",)
