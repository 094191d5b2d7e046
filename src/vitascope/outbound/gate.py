"""Decides whether a target may be connected to, and at which addresses."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Sequence

import psutil

from vitascope.domain.errors import UrlRefused

from .addresses import Address, is_public
from .allow import AllowList
from .resolver import Resolver
from .target import Target

logger = logging.getLogger(__name__)

PORTS = (80, 443, 8080, 8443)
"""Where web servers listen. On other ports other protocols answer, and a server that connects anywhere is a port scanner."""

_ALLOW = "an operator can allow hosts of their own network in VITASCOPE_OUTBOUND__ALLOW"


class NotConnected(Exception):
    """There was no connection. Strangers must not learn more: neither from the words nor from the time of the answer.

    Names that do not exist, internal addresses and hosts that do not answer are one and the same `refusal`; what differed
    would tell which names and machines there are inside.
    """

    def __init__(self, rule: str = "its host has no public address, or does not answer") -> None:
        self.refusal = UrlRefused(rule, hint=_ALLOW)
        super().__init__(rule)


class Gate:
    """Checks each target anew, right before the connection that it is for."""

    def __init__(self, allow: AllowList, resolver: Resolver) -> None:
        self._allow = allow
        self._resolver = resolver

    async def addresses_of(self, target: Target, *, only_encrypted: bool = False) -> Sequence[Address]:
        """Return the addresses that may be connected to; at least one.

        Args:
            target: where to.
            only_encrypted: refuse http, but for what the operator allows: a server that shows a certificate is the one of its name,
                wherever that leads later on.

        A name is refused if any of its addresses is: a public server has no internal address, and who mixes them is trying
        something. The check of the port comes after resolving, so that its answer does not tell which names exist.

        Raises:
            NotConnected: it leads to none, or to one that is internal, or to an odd port.
        """
        addresses: Sequence[Address] = [target.address] if target.address else ()
        if not addresses:
            addresses = await self._resolver.resolve(target.host, target.port)
        if addresses and self._is_allowed(target, addresses):
            return addresses
        if only_encrypted and target.scheme != "https":
            raise NotConnected("it must begin with https://")
        if target.port not in PORTS:
            ports = ", ".join(map(str, PORTS[:-1])) + f" or {PORTS[-1]}"
            raise NotConnected(f"its port must be {ports}")
        internal = [address for address in addresses if not self._may_reach(address, target.port)]
        if internal or not addresses:
            reason = f"internal: {', '.join(map(str, internal))}" if internal else "not resolved"
            logger.info("url refused", extra={"host": target.host, "reason": reason})
            raise NotConnected
        return addresses

    def _is_allowed(self, target: Target, addresses: Sequence[Address]) -> bool:
        if self._allow.names(target.host, target.port):
            return True
        return all(self._allow.holds(address, target.port) for address in addresses)

    def _may_reach(self, address: Address, port: int) -> bool:
        if self._allow.holds(address, port):
            return True
        return is_public(address) and address not in _own_addresses()


def _own_addresses() -> set[Address]:
    """This machine's: a connection to its own public address passes by the firewall, as one to loopback does."""
    found: set[Address] = set()
    for addresses in psutil.net_if_addrs().values():
        for entry in addresses:
            try:
                found.add(ipaddress.ip_address(entry.address))
            except ValueError:  # a hardware address
                continue
    return found
