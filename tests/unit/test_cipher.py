"""The key that secrets are encrypted with: how it is read, kept, and made once."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from vitascope.domain.errors import SettingsError
from vitascope.domain.secret import parse_keys
from vitascope.store import Cipher

KEYS = [bytes(range(32)), bytes(range(32, 64))]
TEXTS = [base64.b64encode(key).decode() for key in KEYS]


@pytest.mark.parametrize("text", [",".join(TEXTS), ", ".join(TEXTS), "\n".join(TEXTS) + "\n"])
def test_keys_are_read(text: str) -> None:
    assert parse_keys(text) == tuple(KEYS)


@pytest.mark.parametrize(
    "text", ["", " , ", "short", TEXTS[0][:-4], f"{TEXTS[0]},AAAA", TEXTS[0] + "é", "*" * 44]
)
def test_what_is_no_key_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(ValueError, match="it must be 32 bytes as base64") as refused:
        parse_keys(text)
    assert not text.strip(" ,") or text not in str(refused.value)


def test_each_encryption_is_another_one() -> None:
    cipher = Cipher(KEYS[:1])
    assert cipher.encrypt("a", "row") != cipher.encrypt("a", "row")
    assert cipher.decrypt(cipher.encrypt("ä", "row"), "row") == "ä"


def test_a_cipher_shows_no_key() -> None:
    cipher = Cipher(KEYS)
    cipher.encrypt("a")
    shown = f"{cipher!r} {cipher}"
    assert TEXTS[0] not in shown
    assert repr(KEYS[0]) not in shown


def test_a_file_may_hold_several_keys_and_the_settings_win(tmp_path: Path) -> None:
    path = tmp_path / "secrets.key"
    path.write_text("\n".join(TEXTS))
    path.chmod(0o600)
    data = Cipher(KEYS[1:]).encrypt("a")
    assert Cipher((), path).decrypt(data) == "a"
    assert Cipher(KEYS[1:], tmp_path / "none").decrypt(data) == "a"
    Cipher(KEYS[1:], tmp_path / "none").make_key()
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        ("nonsense", 0o600, "holds no key"),
        (TEXTS[0], 0o604, "everybody can read the key"),
        ("", 0o600, "holds no key"),
    ],
)
def test_a_bad_key_file_is_one_clear_sentence(tmp_path: Path, text: str, mode: int, words: str) -> None:
    path = tmp_path / "secrets.key"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(SettingsError, match=words) as refused:
        Cipher((), path).encrypt("a")
    assert not text or text not in f"{refused.value} {refused.value.hint}"


def test_a_folder_that_takes_no_key_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be kept") as refused:
        Cipher((), tmp_path / "missing" / "secrets.key").make_key()
    assert refused.value.hint == "set VITASCOPE_SECRETS__KEY"
    assert list(tmp_path.iterdir()) == []
