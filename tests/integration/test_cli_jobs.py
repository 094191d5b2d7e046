"""`vitascope jobs` against a real server process with the fake engine."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from vitascope import cli
from waiting import eventually

EVIL = "evil \x1b[31mred\x1b[0m\nsecond line \u202e\x07 犬が海辺を歩く " + "on and on " * 20


class Server:
    """`vitascope serve` with the fake engine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "serve.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, step_seconds: float = 0.05) -> None:
        settings = {
            "VITASCOPE_HOME": str(self.folder / "home"),
            "VITASCOPE_WORKER__LEASE_SECONDS": "3",
            "VITASCOPE_WORKER__DRAIN_SECONDS": "0",
            "VITASCOPE_ENGINE__SLOTS": "1",  # a short job waits for a long one
        }
        arguments = ["--port", str(self.port), "--engine", "fake", "--fake-step-seconds", str(step_seconds)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "vitascope", "serve", *arguments],
                env={**os.environ, **settings}, stderr=log, cwd=self.folder,
            )  # fmt: skip
        eventually(self.is_ready, 60)

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/readyz", trust_env=False).status_code == 200
        return False

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(timeout=60)

    def call(self, method: str, path: str, **options: Any) -> Any:
        answer = httpx.request(method, f"{self.url}/api/v1{path}", trust_env=False, **options)
        assert answer.is_success, answer.text
        return answer.json()

    def create(self, prompt: str = "a dog", num_inference_steps: int = 1, **fields: Any) -> str:
        body = {"prompt": prompt, "num_inference_steps": num_inference_steps, **fields}
        return str(self.call("POST", "/jobs", json=body)["id"])

    def status(self, job_id: str) -> str:
        return str(self.call("GET", f"/jobs/{job_id}")["status"])

    def running(self) -> str:
        """Make a job that runs until it is cancelled."""
        job_id = self.create("runs", 100, num_frames=480)  # 3,000 steps
        eventually(lambda: self.status(job_id) == "running")
        return job_id

    def ended(self, job_id: str) -> str:
        eventually(lambda: self.status(job_id) not in ("queued", "running"))
        return job_id

    def cancel(self, *job_ids: str) -> None:
        for job_id in job_ids:
            self.call("POST", f"/jobs/{job_id}/cancel")
        for job_id in job_ids:
            self.ended(job_id)

    def cancel_all(self) -> None:
        query = {"limit": 100}
        while True:
            page = self.call("GET", "/jobs", params=query)
            self.cancel(*(job["id"] for job in page["jobs"] if job["status"] in ("queued", "running")))
            if not page["has_more"]:
                return
            query["after"] = page["jobs"][-1]["id"]


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.stop()
    assert "Traceback" not in server.log.read_text()


@pytest.fixture
def server(shared_server: Server) -> Iterator[Server]:
    """The module's server, with nothing to do."""
    yield shared_server
    shared_server.cancel_all()


class Done:
    """How a command ended and what it wrote."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


Run = Callable[..., Done]


@pytest.fixture
def jobs(
    shared_server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Run:
    """Runs `vitascope jobs …` in this process: starting one takes a second."""
    monkeypatch.setenv("VITASCOPE_SERVER_URL", shared_server.url)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["vitascope", "jobs", *arguments])
        code = cli.run()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        assert "\x1b" not in out
        return Done(code, out, err)

    return run


def start(server: Server, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start `vitascope jobs …` as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "vitascope", "jobs", *arguments],
        env={**os.environ, "VITASCOPE_SERVER_URL": server.url, **environment},
        cwd=server.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def on_a_terminal(
    server: Server,
    *arguments: str,
    columns: int,
    when_shown: str = "",
    then: Callable[[], None] = lambda: None,
) -> tuple[int, str]:
    """Run `vitascope jobs …` on a terminal of that width; returns its exit code and all that it wrote there.

    As soon as the words `when_shown` are there, `then` is called once.
    """
    keyboard, terminal = pty.openpty()
    settings = {"COLUMNS": str(columns), "TERM": "xterm", "VITASCOPE_SERVER_URL": server.url}
    process = subprocess.Popen(
        [sys.executable, "-m", "vitascope", "jobs", *arguments],
        env={**os.environ, **settings}, cwd=server.folder, stdin=terminal, stdout=terminal, stderr=terminal,
    )  # fmt: skip
    os.close(terminal)
    written = b""
    with contextlib.suppress(OSError):  # Linux says so when the other side is closed
        while chunk := os.read(keyboard, 65536):
            written += chunk
            if when_shown and when_shown in without_styles(written.decode(errors="replace")):
                when_shown = ""
                then()
    os.close(keyboard)
    return process.wait(timeout=60), written.decode()


def without_styles(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_a_list_elsewhere_than_on_a_terminal_is_aligned_and_whole(server: Server, jobs: Run) -> None:
    running = server.running()
    waiting = server.create(EVIL)
    done = jobs("list", "--limit", "2")
    header, first, second = done.lines
    assert header.split() == ["id", "status", "progress", "model", "age", "prompt"]
    assert first.startswith(f"{waiting}  queued ")
    assert second.startswith(f"{running}  running ")
    assert first.index("evil") == second.index("runs") == header.index("prompt")
    assert first.count("on and on") == 20, "nothing is cut"
    assert "evil ?[31mred?[0m second line ?? 犬" in first
    assert done.err == ""


def test_a_list_for_machines_by_status_and_count(server: Server, jobs: Run) -> None:
    running = server.running()
    waiting = [server.create(str(number)) for number in range(3)][::-1]
    listed = json.loads(jobs("list", "--json", "--limit", "4").out)
    told = server.call("GET", "/jobs", params={"limit": 4})["jobs"]
    passing = ("progress", "stage", "queue_position", "eta_seconds")
    assert [{**job, **dict.fromkeys(passing)} for job in listed] == [
        {**job, **dict.fromkeys(passing)} for job in told
    ]

    def ids(*arguments: str) -> list[str]:
        return [job["id"] for job in json.loads(jobs("list", "--json", *arguments).out)]

    assert ids("--status", "queued") == waiting
    assert ids("--status", "queued", "--limit", "2") == waiting[:2]
    assert ids("--status", "queued", "--status", "running") == [*waiting, running]
    server.call("POST", f"/jobs/{waiting[1]}/cancel")
    assert ids("--status", "cancelled", "--limit", "1") == [waiting[1]]


def test_a_list_of_all_follows_the_cursor(server: Server, jobs: Run) -> None:
    server.running()
    made = [server.create(str(number)) for number in range(101)][::-1]
    assert len(jobs("list").lines) == 1 + 20
    assert len(jobs("list", "--limit", "101").lines) == 1 + 101
    everything = [line.split()[0] for line in jobs("list", "--all").lines[1:]]
    assert everything[:101] == made
    assert len(everything) > 101
    done = jobs("cancel", *made)
    assert (done.code, done.lines) == (0, [f"{job_id}  cancelled" for job_id in made])


@pytest.mark.parametrize("columns", [50, 100])
def test_a_list_on_a_terminal_cuts_prompts_and_no_ids(server: Server, columns: int) -> None:
    running = server.running()
    waiting = server.create(EVIL)
    code, screen = on_a_terminal(server, "list", "--limit", "2", columns=columns)
    assert code == 0
    assert "\x07" not in screen
    assert "\u202e" not in screen
    assert "\x1b[31m" not in screen, "a prompt sets no colours"
    text = without_styles(screen)
    assert waiting in text
    assert running in text
    assert "…" in text
    if columns == 100:
        assert all(len(line) <= columns for line in text.splitlines())


def test_show_tells_all(server: Server, jobs: Run) -> None:
    job_id = server.ended(server.create("a dog\nruns", num_frames=30, fps=24, metadata={"a": 1}, user="u"))
    done = jobs("show", f"video_{job_id}")
    facts = dict(line.split(maxsplit=1) for line in done.lines if not line.startswith(" "))
    assert (facts["id"], facts["status"], facts["prompt"]) == (job_id, "succeeded", "a dog")
    assert facts["file"] == f"{server.url}/api/v1/jobs/{job_id}/content"
    assert "192x192, 30 frames at 24 fps (1.25 s), mp4" in done.out
    job = json.loads(jobs("show", job_id, "--json").out)
    for choice in job["choices"]:
        assert f"{choice['name']}: {choice['value']} ({choice['reason']})" in done.out
    for text in (job["video"]["sha256"], str(job["seed"]), '{"a": 1}', "denoise 0."):
        assert text in done.out
    code, screen = on_a_terminal(server, "show", job_id, columns=80)
    assert code == 0
    assert all(len(line) <= 80 for line in without_styles(screen).splitlines())


def test_show_tells_why_a_job_failed(server: Server, jobs: Run) -> None:
    job_id = failed(server)
    done = jobs("show", job_id)
    assert re.search(r"^error +storage_error: ", done.out, re.MULTILINE)
    assert re.search(r"^status +failed$", done.out, re.MULTILINE)


def failed(server: Server) -> str:
    """Make a job fail: its first frame is gone when it runs."""
    running = server.running()
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    job_id = server.create("fails", image=pixel)
    (server.folder / "home" / "files" / "inputs" / f"{job_id}.png").unlink()
    server.call("POST", f"/jobs/{running}/cancel")
    assert server.status(server.ended(job_id)) == "failed"
    return job_id


def test_cancel_says_what_happened_to_each(server: Server, jobs: Run) -> None:
    ended = server.ended(server.create())
    running = server.running()
    waiting = server.create()
    done = jobs("cancel", waiting, f"video_{running}", ended, "nothing", "../queue")
    assert done.code == 1, "not all were there"
    assert done.lines[0] == f"{waiting}  cancelled"
    assert done.lines[1].startswith(f"video_{running}  asked to stop")
    assert done.lines[2].startswith(f"{ended}  had already ended: succeeded, 192x192, ")
    assert done.err.count("error: there is no job `") == 2
    assert server.status(server.ended(running)) == "cancelled"
    done = jobs("cancel", running)
    assert done.code == 0, "what was wanted is so"
    assert done.out.startswith(f"{running}  had already ended: cancelled")


def test_retry_makes_the_same_once_more(server: Server, jobs: Run) -> None:
    running = server.running()
    refused = jobs("retry", running)
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith("error: the job is running: only one that has ended can be made again")
    cancelled = server.create("mine")
    jobs("cancel", cancelled)
    new = jobs("retry", cancelled).out.strip()
    old_job, new_job = (server.call("GET", f"/jobs/{job_id}") for job_id in (cancelled, new))
    assert new != cancelled
    assert [new_job[name] for name in ("seed", "prompt", "status")] == [old_job["seed"], "mine", "queued"]
    lost = jobs("retry", "0" * 26)
    assert (lost.code, lost.err.splitlines()[0]) == (1, f"error: there is no job `{'0' * 26}`")


def test_retry_of_a_success_must_be_meant(server: Server, jobs: Run) -> None:
    job_id = server.ended(server.create())
    refused = jobs("retry", job_id)
    assert (refused.code, refused.out) == (1, "")
    assert "--again" in refused.err
    assert json.loads(jobs("retry", job_id, "--again", "--json").out)["id"] != job_id


def test_watch_writes_a_line_for_each_change(server: Server, jobs: Run) -> None:
    job_id = server.create(num_inference_steps=10)
    done = jobs("watch", f"video_{job_id}", job_id)
    assert done.code == 0
    words = [re.sub(rf"^\d\d:\d\d:\d\d  {job_id} +", "", line) for line in done.lines]
    assert re.fullmatch(r"waiting(, ready in about .*)?", words[0])
    assert words[1] == "started"
    assert words[-1].startswith("succeeded, 192x192, ")
    assert any(re.fullmatch(r"\d+ % denoising, step \d+/10", line) for line in words)
    assert len(words) == len(set(words)), "nothing twice"
    assert jobs("watch", job_id).lines[-1] == done.lines[-1], "one that has ended is told, too"


def test_watch_for_machines_prints_every_event(server: Server, jobs: Run) -> None:
    job_id = server.create(num_inference_steps=10)
    events = [json.loads(line) for line in jobs("watch", "--json", job_id).lines]
    assert {event.pop("job_id") for event in events} == {job_id}
    kinds = [event["kind"] for event in events]
    assert (kinds[:2], kinds[-1]) == (["queued", "running"], "succeeded")
    assert set(kinds[2:-1]) == {"progress"}
    numbers = [event["sequence"] for event in events]
    assert numbers == sorted(set(numbers))


def test_watch_without_ids_follows_what_has_not_ended_and_fails_with_it(server: Server, jobs: Run) -> None:
    nothing = jobs("watch")
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "no job waits or runs\n")
    server.ended(server.create())
    running, waiting = server.running(), server.create()
    process = start(server, "watch", "--json")
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["job_id"] in (running, waiting)
    jobs("cancel", running)
    out, err = process.communicate(timeout=60)
    last = {event["job_id"]: event["kind"] for event in map(json.loads, out.splitlines())}
    assert (process.returncode, err) == (1, ""), "one was cancelled"
    assert last == {running: "cancelled", waiting: "succeeded"}


def test_watch_sees_that_a_job_is_deleted(server: Server) -> None:
    running = server.running()
    process = start(server, "watch", running)
    assert process.stdout is not None
    assert "waiting" in process.stdout.readline()
    httpx.delete(f"{server.url}/api/v1/jobs/{running}", trust_env=False)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert out.splitlines()[-1].endswith(f"{running}  deleted")


def test_watch_outlives_a_restart_of_the_server(tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.start(step_seconds=1)
    try:
        job_id = server.create(num_inference_steps=80)
        process = start(server, "watch", "--json", job_id)
        assert process.stdout is not None
        assert process.stderr is not None
        before = [process.stdout.readline()]
        while '"progress"' not in before[-1]:
            before.append(process.stdout.readline())
        server.stop()
        assert process.stderr.readline().rstrip().endswith("; trying again")
        server.start(step_seconds=0)
        out, err = process.communicate(timeout=120)
    finally:
        server.stop()
    assert process.returncode == 0, err
    assert err.splitlines() == ["the server answers again"]
    numbers = [json.loads(line)["sequence"] for line in [*before, *out.splitlines()]]
    assert numbers == sorted(set(numbers)), "nothing twice"
    assert json.loads(out.splitlines()[-1])["kind"] == "succeeded"


def test_watch_draws_a_bar_per_job_on_a_terminal(server: Server) -> None:
    running = server.running()
    made = [server.create(num_inference_steps=20) for _ in range(2)]
    code, screen = on_a_terminal(
        server, "watch", *made, columns=100, when_shown=made[1], then=lambda: server.cancel(running)
    )
    assert code == 0
    text = without_styles(screen)
    for job_id in made:
        assert re.search(rf"{job_id} ━+.* +\d+ % denoising, step \d+/20", text)
        assert text.count(f"{job_id}  succeeded, 192x192") == 1
    assert screen.rstrip().endswith("\x1b[?25h"), "the cursor is back"


def test_ctrl_c_ends_a_watch_without_a_traceback(server: Server) -> None:
    process = start(server, "watch", server.running())
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err


class Stranger:
    """An HTTP server that is not ours, and what it was asked."""

    def __init__(self) -> None:
        self.status, self.body, self.kind = 200, "<html>hello</html>", "text/html"
        self.headers: list[dict[str, str]] = []
        stranger = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stranger.headers.append(dict(self.headers))
                self.send_response(stranger.status)
                self.send_header("content-type", stranger.kind)
                self.send_header("content-length", str(len(stranger.body)))
                self.end_headers()
                self.wfile.write(stranger.body.encode())

            def log_message(self, *_arguments: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    made = Stranger()
    thread = threading.Thread(target=made.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.http.shutdown()
    made.http.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("status", "kind", "body", "words"),
    [
        (200, "text/html", "<html>", "is not a Vitascope server"),
        (200, "application/json", '{"status": "ok"}', "is not a Vitascope server"),
        (200, "application/json", '{"jobs": [{"id": 1}]}', "is not a Vitascope server"),
        (404, "application/json", '{"detail": "Not Found"}', "is not a Vitascope server"),
        (404, "application/json", '{"error": {"code": "not_found", "message": "Not Found"}}', "is not a Vit"),
        (302, "text/plain", "", "is not a Vitascope server"),
        (502, "text/html", "<html>", "it answers 502"),
        (503, "application/json", '{"error": {"code": "x", "message": "Back soon."}}', "Back soon."),
        (403, "application/json", '{"error": {"code": "x", "message": "Not \\u001byou."}}', "Not ?you."),
        (401, "application/json", '{"error": {"code": "x", "message": "Who?"}}', "VITASCOPE_API_KEY"),
        (
            401,
            "application/json",
            '{"error": {"code": "x", "message": "No key.", "hint": "send `Authorization`"}}',
            "VITASCOPE_API_KEY",
        ),
    ],
)
def test_what_is_no_server_of_ours_is_one_clear_line(
    stranger: Stranger, jobs: Run, status: int, kind: str, body: str, words: str
) -> None:
    stranger.status, stranger.kind, stranger.body = status, kind, body
    for command in (["list"], ["watch"]):
        done = jobs(*command, "--server", stranger.url)
        assert (done.code, done.out) == (1, "")
        assert words in done.err
        assert done.err.startswith("error: ")
        assert len(done.err.splitlines()) <= 2, "one line and a hint"


def test_the_key_is_shown_to_the_server(
    stranger: Stranger, jobs: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger.kind, stranger.body = "application/json", '{"jobs": [], "has_more": false}'
    jobs("list", "--server", stranger.url)
    monkeypatch.setenv("VITASCOPE_API_KEY", "vs-secret")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert jobs("list", "--server", stranger.url + "/").code == 0
    assert "Authorization" not in stranger.headers[0]
    assert stranger.headers[1]["Authorization"] == "Bearer vs-secret"
    monkeypatch.setenv("VITASCOPE_API_KEY", "vs secret\n")
    refused = jobs("list", "--server", stranger.url)
    assert refused.code == 2
    assert "secret" not in refused.err


def test_nobody_there_is_one_clear_line(jobs: Run) -> None:
    with socket.socket() as probe:  # bound and not listening
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        for command in (["list"], ["show", "a"], ["cancel", "a"], ["retry", "a"], ["watch"], ["watch", "a"]):
            done = jobs(*command, "--server", url)
            assert (done.code, done.out) == (1, "")
            assert done.err.startswith(
                f"error: the server at `{url}` does not answer: no connection\nhint: is `"
            )


def test_the_server_is_the_option_else_the_variable_else_the_settings(
    stranger: Stranger, jobs: Run, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert jobs("list", "--server", stranger.url).code == 1
    assert jobs("list").code == 0
    monkeypatch.setenv("VITASCOPE_SERVER_URL", stranger.url)
    assert jobs("list").code == 1
    monkeypatch.delenv("VITASCOPE_SERVER_URL")
    monkeypatch.setenv("VITASCOPE_SERVER__PORT", str(server.port))
    for host in ("127.0.0.1", "0.0.0.0", "localhost"):
        monkeypatch.setenv("VITASCOPE_SERVER__HOST", host)
        assert jobs("list").code == 0
    monkeypatch.setenv("VITASCOPE_SERVER__PORT", "0")
    assert jobs("list").code == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["list", "--server", "localhost:8000"], "'http://localhost:8000'"),
        (["list", "--server", "ftp://x"], "must be an address"),
        (["list", "--server", "http://"], "must be an address"),
        (["list", "--server", "http://[::1"], "must be an address"),
        (["list", "--server", "http://x:99999"], "must be an address"),
        (["list", "--server", "http://x?y"], "must be an address"),
        (["list", "--server", "http://me:word@x"], "no user name"),
        (["list", "--limit", "0"], "--limit"),
        (["list", "--limit", "1", "--all"], "--all is given too"),
        (["list", "--status", "done"], "--status"),
        (["show"], "ID"),
        (["cancel"], "ID"),
        (["nothing"], "nothing"),
    ],
)
def test_a_wrong_command_line_exits_2(jobs: Run, arguments: list[str], words: str) -> None:
    done = jobs(*arguments)
    assert (done.code, done.out) == (2, "")
    assert words in done.err
    assert "word@" not in done.err
