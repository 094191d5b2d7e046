"""A URL, read once and strictly. What is connected to, and what is sent there, is made of the parts that were read here.

Servers were tricked with URLs that a check and a client read differently. So there is one reader, and what could be read in
two ways is refused rather than repaired: browsers take a backslash for a slash, curl and Python do not.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal, cast
from urllib.parse import quote, urljoin

from vitascope.domain.errors import UrlRefused

from .addresses import Address

MAX_URL_CHARS = 8192
"""Signed URLs of object storage have up to 3,000."""

DEFAULT_PORTS = {"http": 80, "https": 443}

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?#]*)(\?[^#]*)?(#.*)?")
_HAS_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+))(?::([1-9][0-9]{0,4}))?")
_NAME = re.compile(r"(?=.{1,253}\Z)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?(?:\.(?!\Z)|\Z))+")
#: What browsers take for a number at the end of a host: then the whole is an IPv4 address, in one of many spellings.
_ENDS_IN_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.?")

#: ASCII that stays as it is in a path or query.
_PLAIN = "%/:?[]@!$&'()*+,;=~|^"

_A_HOST = "its host must be a name such as `example.com`, or an address such as `93.184.215.14`"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a URL leads.

    Attributes:
        host: a name in lower case, or an address in its one canonical spelling, without brackets.
        address: the host, if it is an address.
        path: path and query as they are sent; only ASCII.
    """

    scheme: Literal["http", "https"]
    host: str
    address: Address | None
    port: int
    path: str

    @property
    def authority(self) -> str:
        """What the `Host` header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def joined(self, location: str) -> Target:
        """Read where a redirect from here leads.

        Raises:
            UrlRefused: nowhere that could be fetched.
        """
        _check_characters(location)
        if location.startswith("//"):
            return read(f"{self.scheme}:{location}")
        if _HAS_SCHEME.match(location):  # the library would repair `http:/a`
            return read(location)
        return read(urljoin(f"{self.scheme}://{self.authority}{self.path}", location))


def read(url: str) -> Target:
    """Read a URL.

    Raises:
        UrlRefused: it is not plainly an http or https URL of a host.
    """
    if len(url) > MAX_URL_CHARS:
        raise UrlRefused(f"it must have at most {MAX_URL_CHARS} characters")
    _check_characters(url)
    match = _URL.fullmatch(url)
    if match is None or (scheme := match[1].lower()) not in DEFAULT_PORTS:
        raise UrlRefused("it must begin with http:// or https://")
    host, port = split_authority(match[2])
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    path = quote((match[3] or "/") + (match[4] or ""), safe=_PLAIN)
    return Target(cast(Literal["http", "https"], scheme), host, address, port or DEFAULT_PORTS[scheme], path)


def split_authority(text: str) -> tuple[str, int | None]:
    """Read a host with or without a port; the host as `Target.host` has it.

    Raises:
        UrlRefused: it is not plainly a host.
    """
    if "@" in text:
        raise UrlRefused("it must not hold a user name or password")
    if not text.isascii():
        raise UrlRefused(f"{_A_HOST}; write an international name in ASCII (`xn--…`)")
    match = _AUTHORITY.fullmatch(text)
    if match is None or int(match[3] or 1) > 65535:
        raise UrlRefused(f"{_A_HOST}, and its port a number from 1 to 65535")
    bracketed, host = match[1], (match[2] or "").lower()
    try:
        if bracketed is not None:
            host = str(ipaddress.IPv6Address(bracketed))
        elif _ENDS_IN_NUMBER.fullmatch(host):
            host = str(ipaddress.IPv4Address(host))
        elif not is_name(host):
            raise UrlRefused(_A_HOST)
    except ValueError:
        raise UrlRefused(_A_HOST) from None
    return host, int(match[3]) if match[3] else None


def is_name(host: str) -> bool:
    """Tell whether it is a host's name in lower case that has one spelling; a dot at its end would be a second one."""
    return _NAME.fullmatch(host) is not None


def _check_characters(url: str) -> None:
    if not url.isprintable() or " " in url or "\\" in url:
        raise UrlRefused("it must not hold spaces, control characters or backslashes")
