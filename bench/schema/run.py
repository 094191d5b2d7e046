"""One run: a server with something of everything in it, Schemathesis against it, and what both say afterwards."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from bench.deployment import Deployment

ROOT = Path(__file__).parents[2]
START_SECONDS = 120.0
ANSWER_SECONDS = 60.0

CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "unsupported_method", "ignored_auth",
)  # fmt: skip
"""Not Schemathesis' opinions on which values should be refused: vendors' clients send text for numbers, and fields of their own."""

SETTINGS = {
    "VITASCOPE_ENGINE__KIND": "fake",
    "VITASCOPE_ENGINE__FAKE_STEP_SECONDS": "0",
    # a full queue would hide what comes behind it
    "VITASCOPE_STORE__MAX_QUEUED": "1000000",
    "VITASCOPE_OPENAI__SYNC_SECONDS": "0.1",
    "VITASCOPE_MODELSLAB__WAIT_SECONDS": "0.1",
    # nothing leaves this machine
    "VITASCOPE_OUTBOUND__ENABLED": "false",
    "HF_HUB_OFFLINE": "1",
}
SMALL = {"prompt": "a dog", "width": 64, "height": 64, "num_frames": 5}
RESTARTS = "/(restart_server|clear_queue)$"
"""Calls that start the worker anew: what is asked before it has come is refused with 503, as it should be, and a crash would not show."""

ALL_PHASES = "examples,coverage,fuzzing,stateful"
REPEATED_PHASES = ("fuzzing", "stateful")

OWN_FAULT = "Unsupported type: 'Binary'"
"""What the pinned version says when it hands a made-up file of a form to its own JSON validator; that operation's phase ends there."""

_HEADING = re.compile(r"^_{3,} .+ _{3,}$", re.MULTILINE)
_TOTAL = re.compile(r"^ *([0-9,]+) generated", re.MULTILINE)


@dataclass
class Outcome:
    """What a run has shown."""

    num_operations: int
    num_cases: int
    seconds: float
    report: str = ""
    problems: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Show it; with what Schemathesis printed, if something is wrong."""
        pace = self.num_cases / max(self.seconds, 0.001) * 60
        return "\n".join(
            [
                *([self.report] if self.problems else []),
                *(f"problem: {problem}" for problem in self.problems),
                f"{self.num_operations} operations, {self.num_cases} cases in {self.seconds:.0f} s ({pace:.0f} a minute), "
                f"{len(self.problems)} problems\n",
            ]
        )


def run(
    folder: Path, cases: int, seed: int, *, include: str | None = None, phases: str = ALL_PHASES
) -> Outcome:
    """Make at least `cases` requests against a server of its own in `folder`."""
    deployment = Deployment(folder, SETTINGS)
    try:
        key = _make_key(deployment.home)
        deployment.tend()
        with httpx.Client(
            base_url=f"http://127.0.0.1:{deployment.ports[0]}",
            headers={"Authorization": f"Bearer {key}"},
            trust_env=False,
            timeout=ANSWER_SECONDS,
        ) as client:
            _await(lambda: _is_ready(client))
            outcome = _ask(client, key, folder, cases, seed, include, phases)
    finally:
        stopped = deployment.stop()
    log = deployment.log.read_text(errors="replace")
    outcome.problems += stopped + _wrong_in(log)
    return outcome


def _ask(
    client: httpx.Client, key: str, folder: Path, cases: int, seed: int, include: str | None, phases: str
) -> Outcome:
    """Let Schemathesis ask until there are enough cases, or something is wrong: few operations have as many as it is told."""
    operations = _count_operations(client, include)
    environment = {
        "SCHEMATHESIS_HOOKS": "bench.schema.hooks",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "VITASCOPE_SCHEMA_SEED": str(seed),
        "VITASCOPE_SCHEMA_OWN_KEY": client.get("/api/v1/keys").json()["keys"][0]["id"],
        "VITASCOPE_SCHEMA_KNOWN": json.dumps(_make_some(client)),
    }
    started = time.monotonic()
    outcome = Outcome(operations, 0, 0.0)
    while outcome.num_cases < cases and not outcome.problems:
        each = -(-(cases - outcome.num_cases) // operations)
        command = [
            *(sys.executable, "-m", "schemathesis.cli", "run", str(client.base_url.join("/openapi.json"))),
            *("--header", f"Authorization:Bearer {key}", "--checks", ",".join(CHECKS), "--phases", phases),
            *("--max-examples", str(each), "--seed", str(seed), "--continue-on-failure"),
            *("--request-timeout", str(ANSWER_SECONDS), "--generation-database", "none", "--no-color"),
            *("--suppress-health-check", "all", "--warnings", "off"),
            *(("--include-path-regex", include) if include else ()),
            *("--exclude-path-regex", RESTARTS),
        ]
        told = folder / "schemathesis.log"
        with told.open("wb") as log:
            done = subprocess.run(
                command, env={**os.environ, **environment}, stdout=log, stderr=log, check=False, cwd=folder
            )
        text = told.read_text(errors="replace")
        outcome.report += text
        total = _TOTAL.search(text)
        outcome.num_cases += int(total[1].replace(",", "")) if total else 0
        if total is None or (done.returncode != 0 and not _is_own_fault(text)):
            outcome.problems.append(f"Schemathesis ended with {done.returncode}")
        seed += 1
        # what every operation is asked once, it has been asked
        phases = ",".join(phase for phase in phases.split(",") if phase in REPEATED_PHASES) or phases
    outcome.seconds = time.monotonic() - started
    if client.get("/v1/models").status_code != 200:
        outcome.problems.append("the server does not take its key any more")
    return outcome


def _is_own_fault(text: str) -> bool:
    """Tell whether all that Schemathesis has printed as wrong is its own."""
    if "= FAILURES =" in text or "= ERRORS =" not in text:
        return False
    errors = text[text.index("= ERRORS =") : text.index("= SUMMARY =")]
    return all(OWN_FAULT in error for error in _HEADING.split(errors)[1:])


def _make_key(home: Path) -> str:
    command = [sys.executable, "-m", "vitascope", "keys", "create", "schema"]
    scopes = ["--scope", "admin", "--scope", "generate", "--scope", "read"]
    environment = {**os.environ, "VITASCOPE_HOME": str(home)}
    done = subprocess.run([*command, *scopes], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


def _count_operations(client: httpx.Client, include: str | None) -> int:
    paths = client.get("/openapi.json").json()["paths"]
    asked = [path for path in paths if re.search(include or "", path) and not re.search(RESTARTS, path)]
    return sum(len(paths[path]) for path in asked)


def _make_some(client: httpx.Client) -> dict[str, list[str]]:
    """Make a few things of each kind; returns their ids by the name of the parameter that takes them."""
    jobs = [_made(client, "/api/v1/jobs", SMALL) for _ in range(3)]
    _await(lambda: _status(client, jobs[0]) == "succeeded")
    waiting = _made(client, "/api/v1/jobs", {**SMALL, "num_inference_steps": 100})
    cancelled = _made(client, "/api/v1/jobs", SMALL)
    client.post(f"/api/v1/jobs/{cancelled}/cancel")
    key = _made(client, "/api/v1/keys", {"name": "another"})
    command = client.post("/api/v1/workers/clear-caches").raise_for_status().json()["id"]
    linked = client.get(f"/api/v1/jobs/{jobs[0]}").json()["video"]["signed_url"]
    jobs += [waiting, cancelled]
    return {
        "job_id": jobs,
        "video_id": [f"video_{job}" for job in jobs],
        "key_id": [key],
        "command_id": [command],
        "model_id": [client.get("/v1/models").json()["data"][0]["id"]],
        "token": [linked.rpartition("/")[2]],
    }


def _made(client: httpx.Client, path: str, body: dict[str, Any]) -> str:
    return str(client.post(path, json=body).raise_for_status().json()["id"])


def _status(client: httpx.Client, job: str) -> str:
    return str(client.get(f"/api/v1/jobs/{job}").json()["status"])


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def _await(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {START_SECONDS:.0f} s: {condition}")
        time.sleep(0.1)


def _wrong_in(log: str) -> list[str]:
    """Find what the server's log tells of errors that no answer showed."""
    found = []
    if "Traceback" in log:
        start = log.index("Traceback")
        found.append(
            f"the server's log has {log.count('Traceback')} tracebacks, the first:\n{log[start : start + 3000]}"
        )
    if (starts := log.count("process started")) > 2:
        found.append(f"processes were started {starts} times")
    return found
