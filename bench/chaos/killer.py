"""`kill -9`, at moments that nobody chose."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

import psutil

from bench.deployment import Deployment, Kind

from .findings import Findings

#: How often each kind of process is the victim, if there is one. A supervisor takes all its members along.
SHARES: dict[Kind, float] = {"web": 0.25, "worker": 0.35, "engine": 0.37, "supervisor": 0.03}


class Killer:
    """Kills random processes of a deployment; who starts them again is not its business.

    Args:
        deployment: where the victims are.
        findings: counts the kills.
        rng: draws kind, victim and pause.
        pause_seconds: mean pause between two kills.
    """

    def __init__(
        self, deployment: Deployment, findings: Findings, rng: random.Random, pause_seconds: float
    ) -> None:
        self.kills = 0
        self._deployment = deployment
        self._findings = findings
        self._rng = rng
        self._pause_seconds = pause_seconds

    async def run(self, may_kill: Callable[[], bool]) -> None:
        """Kill until cancelled, whenever it is allowed."""
        while True:
            await asyncio.sleep(self._rng.uniform(0, 2 * self._pause_seconds))
            if may_kill():
                self._kill_one()

    def _kill_one(self) -> None:
        alive = self._deployment.processes()
        kinds = [kind for kind, processes in alive.items() if processes]
        if not kinds:
            return
        kind = self._rng.choices(kinds, [SHARES[kind] for kind in kinds])[0]
        with contextlib.suppress(psutil.NoSuchProcess):
            self._rng.choice(alive[kind]).kill()
            self.kills += 1
            self._findings.count(f"kills of {kind} processes")
