"""Settings: defaults pinned, order of sources, exact refusals."""

from __future__ import annotations

import base64
import re
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
        "peers": (),
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
        "storage": {
            "kind": "local",
            "url": None,
            "endpoint": None,
            "region": None,
            "path_style": None,
            "access_key_id": None,
            "secret_access_key": None,
            "public_url": None,
            "content": "proxy",
            "link_seconds": 86400.0,
            "patience_seconds": 900.0,
            "expire_seconds": None,
            "min_free_bytes": 512 * 1024 * 1024,
        },
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
            "devices": (),
            "parallel": "auto",
            "threads": 0,
            "slots": 4,
            "improved_sampling_iterations": 5,
            "loras_folder": None,
            "lora_cache_gb": 2.0,
            "embeddings_cache_mb": 256.0,
            "memory_gb": 0.0,
            "dtype": "auto",
            "attention": "auto",
            "vae_tiling": "auto",
            "vae_channels_last": "auto",
            "offload": "auto",
            "quantization": "auto",
            "compile": "auto",
            "speed": "lossless",
        },
        "outbound": {"enabled": True, "allow": (), "max_bytes": 20 * 1024 * 1024, "max_seconds": 30.0},
        "webhooks": {"keep_days": 30.0},
        "secrets": {"key": None},
        "models": {"allow": ("hub",)},
        "openai": {"status_names": "openai", "generations": "flat", "sync_seconds": 540.0},
        "credits": {"prices": {}},
        "gallery": {"open": False},
        "modelslab": {"wait_seconds": 20.0},
        "provenance": {
            "enabled": True,
            "certificate": None,
            "key": None,
            "include_prompt": False,
            "optional": False,
        },
        "watermark": {
            "text": None,
            "image": None,
            "position": "bottom-right",
            "opacity": 0.5,
            "always": False,
        },
        "prompting": {
            "model": None,
            "url": None,
            "api_key": None,
            "device": None,
            "by_default": False,
            "timeout_seconds": 30.0,
            "max_chars": 2000,
            "instructions": None,
        },
        "moderation": {
            "words": None,
            "url": None,
            "api_key": None,
            "model": None,
            "categories": (),
            "timeout_seconds": 10.0,
            "when_away": "refuse",
            "frames": False,
            "threshold": 0.8,
            "frames_per_second": 2.0,
        },
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


def test_what_works_on_one_device_takes_the_first() -> None:
    assert settings.load().engine.first_device == "auto"
    several = {"engine": {"devices": ["cuda:1", "cuda:0"]}}
    assert settings.load(**several).engine.first_device == "cuda:1"


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
        credits={"prices": {"pocket": 1, "wan2.2": 2.5, "it's": 3}},
        storage={"kind": "s3", "url": "s3://bucket/a/b", "access_key_id": "a", "secret_access_key": "b"},
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


@pytest.mark.parametrize(
    ("overrides", "message", "hint"),
    [
        ({"server": {"portt": 1}}, "there is no setting `server.portt`", "did you mean `server.port`?"),
        ({"sever": {"port": 1}}, "there is no setting `sever`", "did you mean `server`?"),
        (
            {"server": {"colour": 1}},
            "there is no setting `server.colour`",
            "docs/settings.md has all of them",
        ),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest(
    overrides: dict[str, object], message: str, hint: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        settings.load(**overrides)
    assert (refused.value.message, refused.value.hint) == (message, hint)


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


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"url": "s3://bucket"}, "`kind` is `local`"),
        ({"kind": "s3"}, "of the form s3://BUCKET"),
        ({"kind": "s3", "url": "https://bucket.s3.amazonaws.com"}, "of the form s3://BUCKET"),
        ({"kind": "s3", "url": "s3://B"}, "of the form s3://BUCKET"),
        ({"kind": "s3", "url": "s3://bucket", "access_key_id": "a"}, "together or not at all"),
        ({"kind": "s3", "url": "s3://bucket", "endpoint": "minio:9000"}, "begin with https://"),
        ({"public_url": "https://videos.example"}, "a folder has no address"),
        ({"kind": "s3", "url": "s3://bucket", "public_url": "videos.example"}, "`public_url` is"),
        ({"link_seconds": 8 * 86400}, "less than or equal to 604800"),
    ],
)
def test_a_storage_that_cannot_work_is_refused(given: dict[str, object], rule: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(rule)):
        settings.load(storage=given)


def test_a_bucket_is_described_by_settings_and_by_aws_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    storage = settings.load(storage={"kind": "s3", "url": "s3://my-bucket/a/b/"}).storage
    assert (storage.bucket, storage.prefix) == ("my-bucket", "a/b/")
    assert (storage.endpoint_url, storage.region_name, storage.is_path_style) == (None, "us-east-1", False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://all.example")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://s3.example")
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    assert (storage.endpoint_url, storage.region_name, storage.is_path_style) == (
        "https://s3.example",
        "eu-north-1",
        True,
    )
    other = {"kind": "s3", "url": "s3://my-bucket", "endpoint": "http://a", "path_style": False}
    storage = settings.load(storage=other).storage
    assert (storage.prefix, storage.endpoint_url, storage.is_path_style) == ("", "http://a", False)
    assert "b" * 20 not in repr(
        settings.load(storage={**other, "access_key_id": "a", "secret_access_key": "b" * 20})
    )


@pytest.mark.parametrize("section", ["PROMPTING", "MODERATION"])
def test_an_empty_key_of_a_service_is_none(monkeypatch: pytest.MonkeyPatch, section: str) -> None:
    """Compose files pass an unset variable on as an empty one."""
    monkeypatch.setenv(f"VITASCOPE_{section}__URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv(f"VITASCOPE_{section}__MODEL", "small")
    monkeypatch.setenv(f"VITASCOPE_{section}__API_KEY", "")
    assert getattr(settings.load(), section.lower()).api_key is None


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"url": "http://127.0.0.1/v1"}, "there is no `model`"),
        ({"by_default": True}, "there is no `model`"),
        ({"model": "a", "api_key": "k"}, "there is no `url`"),
        ({"model": "a", "url": "ftp://127.0.0.1"}, "must begin with http:// or https://"),
        ({"model": "a", "url": "http://me:pass@127.0.0.1/v1"}, "must not hold a user name or password"),
        ({"model": "a", "url": "http://127.0.0.1/v1", "api_key": "a b"}, "holds characters that no key has"),
        ({"model": "a", "timeout_seconds": 0}, "greater than 0"),
    ],
)
def test_prompting_that_cannot_work_is_refused(given: dict[str, object], rule: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(rule)):
        settings.load(prompting=given)


def test_instructions_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "told.txt"
    loaded = settings.load(prompting={"model": "a", "instructions": path})
    with pytest.raises(SettingsError, match="cannot be read"):
        _ = loaded.prompting_instructions
    path.write_bytes(b"\xff")
    with pytest.raises(SettingsError, match="not UTF-8"):
        _ = loaded.prompting_instructions
    path.write_text(" \n")
    with pytest.raises(SettingsError, match="0 characters"):
        _ = loaded.prompting_instructions
    path.write_text("Write well.\n")
    assert loaded.prompting_instructions == "Write well."


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"api_key": "k"}, "there is no `url`"),
        ({"categories": ["sexual"]}, "there is no `url`"),
        ({"url": "127.0.0.1"}, "must begin with http:// or https://"),
        ({"url": "https://127.0.0.1/v1?key=s3cret"}, "`url` must end with a path"),
        ({"url": "https://127.0.0.1/v1#a"}, "`url` must end with a path"),
        ({"url": "https://me:s3cret@127.0.0.1/v1"}, "must not hold a user name or password"),
        ({"when_away": "shrug"}, "'refuse' or 'pass'"),
        ({"threshold": 0}, "greater than 0"),
    ],
)
def test_moderation_that_cannot_work_is_refused(given: dict[str, object], rule: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(rule)) as caught:
        settings.load(moderation=given)
    assert "s3cret" not in str(caught.value)


def test_keys_of_services_are_not_shown_and_reach_the_processes_that_ask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = settings.load(
        prompting={"model": "a", "url": "http://127.0.0.1/v1", "api_key": "s3cret-1"},
        moderation={
            "url": "http://127.0.0.1/v1",
            "api_key": "s3cret-2",
            "categories": ["sexual", "violence"],
        },
    )
    assert "s3cret" not in repr(loaded)
    for name, value in settings.environment_of_engine(loaded).items():
        if name.startswith("VITASCOPE_"):
            monkeypatch.setenv(name, value)
    again = settings.load()
    assert (again.prompting, again.moderation) == (loaded.prompting, loaded.moderation)


def test_a_process_that_does_not_ask_gets_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITASCOPE_MODERATION__API_KEY", "s3cret")
    loaded = settings.load(moderation={"url": "http://127.0.0.1/v1"})
    assert loaded.moderation.api_key is not None
    assert "s3cret" not in settings.environment_of_engine(loaded).values()


PEERS = '[{"url": "http://b:8000", "key": "vs_b"}, {"url": "https://c"}]'


def test_peers_are_a_json_list_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITASCOPE_PEERS", PEERS)
    first, second = settings.load().peers
    assert (first.url, first.key and first.key.get_secret_value()) == ("http://b:8000", "vs_b")
    assert (second.url, second.key) == ("https://c", None)
    monkeypatch.setenv("VITASCOPE_PEERS", "")
    assert settings.load().peers == ()


def test_keys_of_peers_are_handed_to_members_and_never_to_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITASCOPE_PEERS", PEERS)
    given = settings.load()
    monkeypatch.delenv("VITASCOPE_PEERS")
    assert "vs_b" not in repr(given)
    for_engines = settings.environment_of_engine(given)
    assert "vs_b" not in str(for_engines)
    for name, value in settings.to_environment(given).items():
        monkeypatch.setenv(name, value)
    assert settings.load() == given
    monkeypatch.setenv("VITASCOPE_PEERS", for_engines["VITASCOPE_PEERS"])
    assert settings.load().peers == ()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("http://b:8000", "setting `peers`: it must be a JSON list, such as"),
        ('["http://b:8000"]', "setting `peers`: it must be a JSON list, such as"),
        ('[{"key": "a"}]', "setting `peers.0.url`: Field required"),
        ('[{"url": "ftp://b"}]', "setting `peers.0`: `url` is 'ftp://b', but"),
        ('[{"url": "http://me:pw@b"}]', "setting `peers.0`: `url`: "),
        ('[{"url": "http://b", "key": "a b"}]', "setting `peers.0`: `key` holds characters that no key has"),
        ('[{"url": "http://b"}, {"url": "http://b/"}]', "setting `peers`: it names a server twice"),
    ],
)
def test_wrong_peers_are_refused_with_the_rule(
    text: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITASCOPE_PEERS", text)
    with pytest.raises(SettingsError, match=re.escape(problem)) as refused:
        settings.load()
    assert "pw" not in refused.value.message
