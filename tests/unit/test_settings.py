"""Settings: defaults pinned, order of sources, exact refusals."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from vitascope import settings
from vitascope.domain.errors import SettingsError

KEY = base64.b64encode(b"k" * 32).decode()


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_defaults_change_only_on_purpose() -> None:
    loaded = settings.load(home="/data")
    assert loaded.model_dump() == {
        "home": Path("/data"),
        "cards": None,
        "server_url": None,
        "api_key": None,
        "log_level": "info",
        "server": {
            "host": "127.0.0.1",
            "allow_public": False,
            "port": 8000,
            "public_url": None,
            "cors_origins": (),
            "trusted_proxies": (),
            "drain_seconds": 5.0,
            "unknown_model_falls_back": True,
            "max_body_bytes": 32 * 1024 * 1024,
        },
        "store": {"url": None, "max_queued": 1000, "max_queued_per_key": None},
        "worker": {
            "lease_seconds": 15.0,
            "poll_seconds": 0.25,
            "max_attempts": 3,
            "hang_seconds": 900.0,
            "drain_seconds": 30.0,
            "frame_interpolation": "motion",
            "nice": 10,
        },
        "engine": {
            "kind": "diffusers",
            "fake_step_seconds": 0.1,
            "default_model": "pocket",
            "device": "auto",
            "threads": 0,
        },
        "outbound": {"enabled": True, "allow": (), "max_bytes": 20 * 1024 * 1024, "max_seconds": 30.0},
        "webhooks": {"keep_days": 30.0},
        "secrets": {"key": None},
    }
    assert loaded.database_url == "sqlite:////data/vitascope.db"


def test_command_line_then_environment_then_file_then_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vitascope.toml").write_text(
        "[server]\nport = 1\nhost = '127.0.0.2'\n[store]\nmax_queued = 7\n"
    )
    assert settings.load().server.port == 1
    monkeypatch.setenv("VITASCOPE_SERVER__PORT", "2")
    loaded = settings.load()
    assert (loaded.server.port, loaded.server.host, loaded.store.max_queued) == (2, "127.0.0.2", 7)
    assert settings.load(server={"port": 3}).server.port == 3


def test_database_url_is_the_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://a")
    assert settings.load().database_url == "postgresql://a"
    monkeypatch.setenv("VITASCOPE_STORE__URL", "postgresql://b")
    assert settings.load().database_url == "postgresql://b"


def test_a_started_process_reads_the_same_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = settings.load(
        home=tmp_path / "data",
        server={"port": 9, "allow_public": True, "cors_origins": ["https://a.example"]},
        engine={"kind": "fake"},
        outbound={"allow": ["minio.internal", "10.0.0.0/8"]},
        secrets={"key": KEY},
    )
    for name, value in settings.to_environment(given).items():
        monkeypatch.setenv(name, value)
    assert settings.load() == given


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"server": {"port": 70000}}, "`server.port`"),
        ({"server": {"colour": 1}}, "`server.colour`"),
        ({"engine": {"kind": "magic"}}, "`engine.kind`"),
        ({"log_level": "loud"}, "`log_level`"),
        (
            {"outbound": {"allow": "minio"}},
            r"`outbound.allow`: it must be a JSON list, such as \[\"minio\"\]",
        ),
    ],
)
def test_a_bad_value_is_named(overrides: dict[str, object], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        settings.load(**overrides)


def test_the_key_of_secrets_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = settings.load(secrets={"key": f"{KEY},{KEY}"})
    assert loaded.secrets.keys == (b"k" * 32, b"k" * 32)
    assert KEY not in f"{loaded!r} {loaded} {loaded.model_dump_json()}"
    monkeypatch.setenv("VITASCOPE_SECRETS__KEY", KEY[:-4])
    with pytest.raises(SettingsError, match=r"`secrets\.key`: it must be 32 bytes as base64") as refused:
        settings.load()
    assert KEY[:-4] not in str(refused.value)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "vitascope.toml").write_text("[server\n")
    with pytest.raises(SettingsError, match=r"vitascope\.toml"):
        settings.load()
