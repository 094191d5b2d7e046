"""Files that nobody should open, as a client sends them: refused with the reason, in each dialect, and nothing is left."""

from __future__ import annotations

import base64
import io
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.fuzz import files

_opened: list[str] | None = None


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened is not None and event in ("open", "os.listdir", "os.symlink", "subprocess.Popen"):
        _opened.append(str(arguments[0]))


sys.addaudithook(_hook)


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """All that this process, in which the server runs, opens or starts during the test."""
    global _opened
    _opened = []
    Path(__file__).open().close()
    assert _opened == [__file__]
    yield _opened
    _opened = None


TARGET = "/etc/hostname"


def tar(mode: str) -> bytes:
    """An archive that holds a symlink out of itself, and a file that would be written through it."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as archive:
        link = tarfile.TarInfo("picture.png")
        link.type, link.linkname = tarfile.SYMTYPE, TARGET
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("picture.png/../../evil.png"))
    return content.getvalue()


def zipped() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        link = zipfile.ZipInfo("picture.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, TARGET)
    return content.getvalue()


SVG = f'<svg xmlns="http://www.w3.org/2000/svg"><image href="file://{TARGET}"/></svg>'.encode()
CASES: dict[str, tuple[Callable[[], bytes], str]] = {
    "bomb": (lambda: files.bombs()["png-enormous"][0], "at most 50 megapixels"),
    "bomb-of-frames": (lambda: files.bombs()["gif-frames"][0], "1000 frames"),
    "playlist": (lambda: f"#EXTM3U\n#EXT-X-TARGETDURATION:1\nfile://{TARGET}\n".encode(), "a playlist"),
    "concat": (lambda: f"ffconcat version 1.0\nfile {TARGET}\n".encode(), "a playlist"),
    "svg": (lambda: SVG, "an SVG file"),
    "polyglot-zip": (lambda: files.valid_files()["png"] + zipped(), "something else"),
    "polyglot-svg": (lambda: files.valid_files()["jpeg"] + SVG, "something else"),
    "zip-with-symlink": (zipped, "an archive"),
    "tar-with-symlink": (lambda: tar("w"), "an archive"),
    "tar.gz-with-symlink": (lambda: tar("w:gz"), "an archive"),
    "tar.xz-with-symlink": (lambda: tar("w:xz"), "an archive"),
    "symlink-as-text": (lambda: f"!<symlink>{TARGET}".encode(), "not a picture"),
}


@pytest.mark.parametrize(("path", "field"), [("/v1/videos", "input_reference"), ("/api/v1/jobs", "image")])
@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_is_refused_with_its_reason(
    server: Any, opened: list[str], path: str, field: str, name: str
) -> None:
    make, reason = CASES[name]
    content = make()
    jobs, kept = server.client.get("/api/v1/jobs").json(), stored(server.settings.files_folder)
    opened.clear()
    text = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    answers = [
        server.client.post(path, data={"prompt": "a dog"}, files={field: ("a.png", content, "image/png")}),
        server.client.post(path, json={"prompt": "a dog", field: text}),
    ]
    touched = [one for one in opened if TARGET in one or "evil" in one]
    for answer in answers:
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (400, "invalid_parameter")
        assert error.get("param", error.get("parameter")) == field
        assert reason in error["message"]
        assert TARGET not in answer.text
    assert touched == []
    assert server.client.get("/api/v1/jobs").json() == jobs
    assert stored(server.settings.files_folder) == kept


def stored(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))
