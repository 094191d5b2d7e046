"""Replies that wait a moment for what they say to be done."""

from __future__ import annotations

import asyncio
import time

from vitascope.dialects import _http
from vitascope.domain.command import Command, CommandStatus

WAIT_SECONDS = 20.0
"""How long a reply waits for what it says to be done: an idle worker does it in a second, a busy one after its job."""

LOOK_SECONDS = 0.1


async def ended(desk: _http.Desk, command: Command) -> Command:
    """Wait a while for the end of a command; returns it as it is then."""
    until = time.monotonic() + WAIT_SECONDS
    while command.status in (CommandStatus.QUEUED, CommandStatus.RUNNING) and time.monotonic() < until:
        await asyncio.sleep(LOOK_SECONDS)
        command = await desk.read(desk.service.commands.get, command.id)
    return command


def said(command: Command) -> str:
    """Return why a command failed, in the workers' words."""
    return "; ".join(errand.message for errand in command.errands if errand.status is CommandStatus.FAILED)
