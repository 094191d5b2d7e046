"""The operator's exceptions: hosts and networks of their own that users' URLs may lead to."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from vitascope.domain.errors import SettingsError, UrlRefused, shorten

from .addresses import Address
from .target import split_authority

Network = IPv4Network | IPv6Network

_FORMS = (
    "write a host (`minio.internal`), an address (`10.0.0.5`) or a network (`10.0.0.0/8`); "
    "a host or address may name its only port (`minio.internal:9000`)"
)


@dataclass(frozen=True, slots=True)
class AllowList:
    """What is allowed beyond the public internet. An entry without a port allows every port.

    A host's name stands for every address that it resolves to.
    """

    _names: frozenset[tuple[str, int | None]] = frozenset()
    _networks: tuple[tuple[Network, int | None], ...] = ()

    @classmethod
    def of(cls, entries: Iterable[str]) -> AllowList:
        """Read the entries of the setting.

        Raises:
            SettingsError: an entry is neither a host, an address nor a network.
        """
        names: set[tuple[str, int | None]] = set()
        networks: list[tuple[Network, int | None]] = []
        for host, port in map(_read, entries):
            if isinstance(host, str):
                names.add((host, port))
            else:
                networks.append((host, port))
        return cls(frozenset(names), tuple(networks))

    def names(self, host: str, port: int) -> bool:
        """Tell whether the host is allowed by its name, wherever that leads."""
        return (host, None) in self._names or (host, port) in self._names

    def holds(self, address: Address, port: int) -> bool:
        """Tell whether the address itself is allowed."""
        return any(address in network and only in (None, port) for network, only in self._networks)


def _read(entry: str) -> tuple[str | Network, int | None]:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_network(entry), None
    with contextlib.suppress(ValueError):
        nearest = ipaddress.ip_network(entry, strict=False)
        message = f"setting `outbound.allow`: {shorten(entry)} has bits beyond its mask"
        raise SettingsError(message, hint=f"did you mean `{nearest}`?")
    try:
        host, port = split_authority(entry)
    except UrlRefused:
        message = f"setting `outbound.allow`: {shorten(entry)} is neither a host, an address nor a network"
        raise SettingsError(message, hint=_FORMS) from None
    with contextlib.suppress(ValueError):
        return ipaddress.ip_network(host), port
    return host, port
