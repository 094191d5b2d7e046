"""Asks the system for a host's addresses, without waiting for longer than a request may wait."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections.abc import Callable, Sequence

from .addresses import Address

LookUp = Callable[[str, int], Sequence[str]]
"""From a host's name and a port to its addresses as text; may block; raises OSError if there are none."""

MAX_LOOKUPS = 16
"""Under way at once. One that the system does not answer takes its place for as long as the system tries."""


def system_look_up(host: str, port: int) -> Sequence[str]:
    """Ask as every program of this machine does: hosts file, then DNS."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(sockaddr[0]) for *_, sockaddr in found]


LOOKUP_SECONDS = 5.0


class Resolver:
    """Resolves names in threads.

    Args:
        look_up: what is called there.
        seconds: how long a name may take.
    """

    def __init__(self, look_up: LookUp = system_look_up, *, seconds: float = LOOKUP_SECONDS) -> None:
        self._look_up = look_up
        self._seconds = seconds
        self._places = asyncio.Semaphore(MAX_LOOKUPS)

    async def resolve(self, host: str, port: int) -> list[Address]:
        """Return a name's addresses in the system's order of preference; none if there are none, or not in time."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[Address]] = loop.create_future()

        def deliver(addresses: list[Address]) -> None:
            self._places.release()
            if not answer.done():
                answer.set_result(addresses)

        def ask() -> None:
            addresses = self._ask(host, port)
            with contextlib.suppress(RuntimeError):  # the server has stopped in the meantime
                loop.call_soon_threadsafe(deliver, addresses)

        try:
            async with asyncio.timeout(self._seconds):
                await self._places.acquire()
                # a daemon: a pool's threads would hold up the end of the process until the system gives up
                threading.Thread(target=ask, name="resolve", daemon=True).start()
                return await answer
        except TimeoutError:
            return []

    def _ask(self, host: str, port: int) -> list[Address]:
        try:
            return list(dict.fromkeys(ipaddress.ip_address(text) for text in self._look_up(host, port)))
        except (OSError, ValueError):
            return []
