"""What is wrong with a bucket is said when it is set, in one sentence, not at the first video."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import seaweed
from vitascope import app, settings
from vitascope.cli import doctor
from vitascope.domain.bucket import Bucket
from vitascope.domain.errors import SettingsError, StorageUnavailable
from vitascope.service.buckets import storage_of
from vitascope.settings import to_environment
from vitascope.storage import S3Storage


def vitascope(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "vitascope", *arguments]
    given = {"VITASCOPE_HOME": str(cwd / "home"), "VITASCOPE_ENGINE__KIND": "fake", **environment}
    return subprocess.run(
        program,
        cwd=cwd,
        env={**os.environ, **given},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def by_aws_variables(
    server: seaweed.Server, key: str = seaweed.KEY, secret: str = seaweed.SECRET
) -> dict[str, str]:
    return {
        "VITASCOPE_STORAGE__KIND": "s3",
        "VITASCOPE_STORAGE__URL": f"s3://{seaweed.BUCKET}/{server.prefix()}",
        "AWS_ENDPOINT_URL_S3": server.endpoint,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
    }


def test_what_is_wrong_is_said(
    tmp_path: Path, s3_server: seaweed.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = by_aws_variables(s3_server)
    wrong = by_aws_variables(s3_server, secret="wrong-secret")
    reader = by_aws_variables(s3_server, seaweed.READER, seaweed.READER_SECRET)
    missing = {**good, "VITASCOPE_STORAGE__URL": "s3://no-such-bucket"}
    nowhere = {**good, "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"}
    for environment, meaning in (
        (good, "a file was listed, written, read and deleted"),
        (wrong, "the object storage refuses the credentials; "),
        (reader, f"the bucket `{seaweed.BUCKET}` cannot be written to with these credentials; "),
        (missing, "there is no bucket `no-such-bucket` in the object storage; "),
        (nowhere, "the object storage does not answer (look at `storage.endpoint`): jobs wait for it"),
    ):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        ((finding, is_ok),) = doctor._storage(settings.load(home=tmp_path))
        assert finding.reason.startswith(meaning)
        assert is_ok is (environment is good)


def test_doctor_tries_the_bucket(tmp_path: Path, s3_server: seaweed.Server) -> None:
    done = vitascope("doctor", "--json", cwd=tmp_path, **by_aws_variables(s3_server, secret="wrong-secret"))
    (finding,) = [each for each in json.loads(done.stdout) if each["name"] == "storage"]
    assert finding["meaning"].startswith("the object storage refuses the credentials; ")
    assert (finding["ok"], done.returncode) == (False, 1)
    assert "wrong-secret" not in done.stdout + done.stderr


@pytest.mark.parametrize("command", ["serve", "web", "worker"])
def test_nothing_starts_with_credentials_that_are_refused(
    tmp_path: Path, s3_server: seaweed.Server, command: str
) -> None:
    environment = by_aws_variables(s3_server, secret="wrong-secret")
    port = {} if command == "worker" else {"VITASCOPE_SERVER__PORT": "0"}
    done = vitascope(command, cwd=tmp_path, **environment, **port)
    assert done.returncode != 0
    assert "the object storage refuses the credentials" in done.stderr
    assert "Traceback" not in done.stderr
    assert "wrong-secret" not in done.stderr


def test_a_storage_that_is_away_is_told_and_waited_for() -> None:
    bucket = {"kind": "s3", "url": "s3://bucket", "endpoint": "http://127.0.0.1:9"}
    loaded = settings.load(storage={**bucket, "access_key_id": "a", "secret_access_key": "b"})
    assert (
        app.check_storage(loaded)
        == "the object storage does not answer (look at `storage.endpoint`): jobs wait for it"
    )
    assert app.check_storage(settings.load()) is None


def test_without_the_extra_the_way_to_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    app.open_storage(settings.load(home=tmp_path))
    loaded = settings.load(home=tmp_path, storage={"kind": "s3", "url": "s3://bucket"})
    with pytest.raises(SettingsError, match="needs a package") as caught:
        app.open_storage(loaded)
    assert caught.value.hint == "pip install 'vitascope[s3]'"


def test_an_engine_is_told_no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told: list[dict[str, str]] = []
    monkeypatch.setattr(app.checks, "check_storage", lambda _settings: None)
    monkeypatch.setattr(
        app.workers, "EngineProcess", lambda _command, environment, *_more: told.append(environment)
    )
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-1")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "secret-2")
    for name in ("DATABASE_URL", "PGPASSWORD", "VITASCOPE_API_KEY", "AWS_CONTAINER_AUTHORIZATION_TOKEN"):
        monkeypatch.setenv(name, "secret-4")
    database = f"sqlite:///{tmp_path / 'secret-5.db'}"
    bucket = {"kind": "s3", "url": "s3://bucket", "access_key_id": "a", "secret_access_key": "secret-3"}
    loaded = settings.load(home=tmp_path, storage=bucket, store={"url": database})
    assert {"secret-3", database} < set(to_environment(loaded).values()), "the server's own processes need it"
    with app.open_worker(loaded) as worker:
        worker._start_engine()
    assert not [text for text in told[0].values() if "secret-" in text]
    for name, value in told[0].items():
        monkeypatch.setenv(name, value)
    assert settings.load().storage.kind == "s3", "an engine can read what is left"


def test_an_engine_starts_where_the_file_has_the_id_and_the_environment_the_secret(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told: list[dict[str, str]] = []
    monkeypatch.setattr(app.checks, "check_storage", lambda _settings: None)
    monkeypatch.setattr(
        app.workers, "EngineProcess", lambda _command, environment, *_more: told.append(environment)
    )
    monkeypatch.chdir(tmp_path)
    text = '[storage]\nkind = "s3"\nurl = "s3://bucket"\naccess_key_id = "id-1"\n'
    (tmp_path / settings.CONFIG_FILE).write_text(text)
    monkeypatch.setenv("VITASCOPE_STORAGE__SECRET_ACCESS_KEY", "secret-1")
    with app.open_worker(settings.load(home=tmp_path)) as worker:
        worker._start_engine()
    assert not {"id-1", "secret-1"} & set(told[0].values())
    monkeypatch.delenv("VITASCOPE_STORAGE__SECRET_ACCESS_KEY")
    for name, value in told[0].items():
        monkeypatch.setenv(name, value)
    assert settings.load().storage.kind == "s3"


@pytest.fixture
def buckets_server() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """What answers at a bucket's endpoint, and the headers that it was sent."""
    headers: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            headers.append({name.lower(): value for name, value in self.headers.items()})
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(403)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", headers
        server.shutdown()
        thread.join()


def test_a_setting_goes_before_aws_variables(
    monkeypatch: pytest.MonkeyPatch, buckets_server: tuple[str, list[dict[str, str]]]
) -> None:
    endpoint, headers = buckets_server
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    with pytest.raises(StorageUnavailable, match="403"):
        S3Storage("b", endpoint=endpoint, access_key_id="a", secret_access_key="s").put_bytes(b"x", "a/b.mp4")
    assert len(headers) == 1


def test_a_bucket_that_is_named_gets_nothing_of_aws_variables(
    monkeypatch: pytest.MonkeyPatch, buckets_server: tuple[str, list[dict[str, str]]]
) -> None:
    """They are those of the settings' bucket: its endpoint, and a session's token, which is a credential."""
    endpoint, headers = buckets_server
    for name, value in {
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
        "AWS_ACCESS_KEY_ID": "others",
        "AWS_SESSION_TOKEN": "secret-token",
        "AWS_SKIP_SIGNATURE": "true",
        "AWS_REQUEST_PAYER": "true",
    }.items():
        monkeypatch.setenv(name, value)
    bucket = Bucket(
        id="vitascope-0",
        bucket="b",
        prefix="",
        endpoint=endpoint,
        region="us-east-1",
        path_style=True,
        access_key_id="own",
        secret_access_key="secret",
    )
    with pytest.raises(StorageUnavailable, match="403"):
        storage_of(bucket).put_bytes(b"x", "vitascope-0/b.mp4")
    (sent,) = headers
    assert "Credential=own/" in sent["authorization"]
    assert not {"x-amz-security-token", "x-amz-request-payer"} & set(sent)
    signed = storage_of(bucket).url_for("vitascope-0/b.mp4", expires_seconds=60)
    assert signed.startswith(f"{endpoint}/b/vitascope-0/b.mp4?")
    assert "secret-token" not in signed
