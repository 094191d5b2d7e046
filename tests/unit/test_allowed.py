"""Where models may come from that are added at run time."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitascope.catalog import Allowed
from vitascope.catalog.added import check_source
from vitascope.domain.added import ModelKind
from vitascope.domain.errors import InvalidParameter, SettingsError


@pytest.mark.parametrize(
    ("text", "source", "revision"),
    [
        ("a/b", "hub:a/b", None),
        ("hub:a/b", "hub:a/b", None),
        (" https://huggingface.co/a/b ", "hub:a/b", None),
        ("https://huggingface.co/a/b/", "hub:a/b", None),
        ("https://huggingface.co/a/b/tree/main", "hub:a/b", None),
        ("https://huggingface.co/a/b/tree/v2", "hub:a/b", "v2"),
        ("https://huggingface.co/a/b/resolve/main/x/y.safetensors", "hub:a/b/x/y.safetensors", None),
        ("a/b/x.safetensors", "hub:a/b/x.safetensors", None),
    ],
)
def test_a_hubs_repository_and_file(text: str, source: str, revision: str | None) -> None:
    assert Allowed().source_of(text) == (source, revision)


@pytest.mark.parametrize(
    "text",
    [
        "", "a", "../b", "a/..", "a/b/x.ckpt", "a/b/../x.safetensors", "a/b/x.bin", "file:///etc/passwd",
        "/etc", "https://example.org/a.safetensors", "http://example.org/a.safetensors", "\0/\0", "a/b?x",
        "https://[half/a.safetensors", "https://a]/b", "https://huggingface.co.evil.example/a/b", "https://huggingface.co/a/b/tree/../x",
    ],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameter):
        Allowed().source_of(text)


def test_the_operators_list_decides(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    for folder in (mine / "model", other):
        folder.mkdir(parents=True)
    (mine / "leads_out").symlink_to(other)
    prefix = "https://files.example/models/"
    allowed = Allowed(["hub:a/b", "hub:c/*", str(mine), prefix])
    good = ("a/b", "c/x", str(mine / "model"), f"{prefix}x.safetensors")
    assert [allowed.source_of(text)[0].partition(":")[0] for text in good] == ["hub", "hub", "folder", "url"]
    bad = (
        "a/c", "b/x", str(other), str(mine / ".." / "other"), str(mine / "leads_out"), f"{tmp_path}/mine2",
        "https://files.example/other/x.safetensors", f"{prefix}../x.safetensors", f"{prefix}%2e%2e/x.safetensors",
        f"{prefix}x.safetensors?to=y", "https://files.example@evil.example/models/x.safetensors",
        "https://user@files.example/models/x.safetensors",
    )  # fmt: skip
    for text in bad:
        with pytest.raises(InvalidParameter) as caught:
            allowed.source_of(text)
        assert caught.value.hint == "the operator adds it to `models.allow`"


@pytest.mark.parametrize("entry", ["", "models", "http://a.example/", "https://a.example", "hub:a"])
def test_an_entry_that_cannot_be_read_stops_the_start(entry: str) -> None:
    with pytest.raises(SettingsError, match=r"models\.allow"):
        Allowed([entry])


@pytest.mark.parametrize(
    ("kind", "source", "revision"),
    [
        (ModelKind.PIPELINE, "url:https://a.example/x.safetensors", None),
        (ModelKind.PIPELINE, "hub:a/b/x.safetensors", None),
        (ModelKind.VAE, "hub:a/b", "v2"),
        (ModelKind.LORA, "url:https://a.example/x", None),
    ],
)
def test_what_cannot_be_served_is_refused_before_anything_is_fetched(
    kind: ModelKind, source: str, revision: str | None
) -> None:
    with pytest.raises(InvalidParameter):
        check_source(kind, source, revision)
