"""The way out, on real sockets: what is refused is not connected to, what is allowed is fetched within its limits.

An audit hook sees every connection that this process tries, whoever tries it. `127.0.0.1` is the internal network here, with
listeners that nobody may reach; `127.0.0.2` is allowed where a test wants a server.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import ipaddress
import itertools
import logging
import socket
import ssl
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from vitascope.domain.errors import QueueFull, UrlRefused
from vitascope.outbound import AllowList, Fetched, Outbound, fetch
from vitascope.outbound.resolver import MAX_LOOKUPS, Resolver

NOT_TOLD = "its host has no public address, or does not answer"
HERE = "127.0.0.2"

_seen: list[tuple[str, Any]] | None = None


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _seen is None or event not in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        return
    _seen.append((event, args[1] if event == "socket.connect" else args))
    if event == "socket.connect" and not args[1][0].startswith("127."):
        raise ConnectionRefusedError("a test goes nowhere else, even where what it tries has failed")


sys.addaudithook(_hook)


@pytest.fixture(autouse=True)
def seen() -> Iterator[list[tuple[str, Any]]]:
    """Every connection and every look-up of a name that is tried during the test."""
    global _seen
    _seen = []
    yield _seen
    _seen = None


@pytest.fixture
def trap() -> Iterator[int]:
    """The port of an internal server that must never be reached; also on a port that is not odd, where that is free."""
    listeners = [socket.create_server(("127.0.0.1", 0))]
    with contextlib.suppress(OSError):
        listeners.append(socket.create_server(("127.0.0.1", 8080)))
    yield listeners[0].getsockname()[1]
    for listener in listeners:
        listener.setblocking(False)
        with listener, pytest.raises(BlockingIOError):
            listener.accept()


class Naps:
    """Sleeps no longer than it takes to note for how long."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def outbound(
    *allow: str, names: dict[str, list[str]] | Callable[[str, int], list[str]] | None = None, **options: Any
) -> Outbound:
    """A way out with DNS of its own."""

    def look_up(host: str, port: int) -> list[str]:
        if callable(names):
            return names(host, port)
        if host not in (names or {}):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return (names or {})[host]

    options.setdefault("sleep", Naps())
    return Outbound(
        AllowList.of(allow), resolver=Resolver(look_up, seconds=options.pop("dns", 5.0)), **options
    )


def get(way: Outbound, url: str, max_bytes: int = 1000) -> Fetched:
    return asyncio.run(way.fetch(url, max_bytes=max_bytes))


def refused(way: Outbound, url: str, max_bytes: int = 1000) -> str:
    with pytest.raises(UrlRefused) as caught:
        get(way, url, max_bytes)
    return caught.value.rule


def test_signed_links_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    served(to("http://127.0.0.1/?sig=secret"), path="/?sig=secret")
    served(ok(), path="/?sig=secret")
    refused(outbound(), "http://127.0.0.1/?sig=secret")
    assert "127.0.0.1" in str([vars(record) for record in caplog.records]), "the operator sees the host"
    assert "secret" not in str([vars(record) for record in caplog.records])


# servers

Answer = Callable[[str, asyncio.StreamWriter], Awaitable[None]]


class Web:
    """A web server on a loopback address, which keeps the heads of the requests."""

    def __init__(self, answer: bytes | Answer, port: int) -> None:
        self.port = port
        self.heads: list[str] = []
        self.bodies: list[bytes] = []
        self.open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self.wanted = 1
        self.reached = asyncio.Event()
        self._answer = answer

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Handle it in a task that is known before it begins: one that is cancelled first would close nothing."""
        self.open[asyncio.create_task(self._handle(reader, writer))] = writer

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            self.heads.append(head)
            if len(self.heads) >= self.wanted:
                self.reached.set()
            for line in head.split("\r\n"):
                if line.lower().startswith("content-length:"):
                    self.bodies.append(await reader.readexactly(int(line.split(":")[1])))
            if isinstance(self._answer, bytes):
                writer.write(self._answer)
            else:
                await self._answer(head.split(" ")[1], writer)
            await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def requests(self, number: int) -> None:
        """Wait for so many."""
        self.wanted = number
        await self.reached.wait()


@contextlib.asynccontextmanager
async def serving(
    answer: bytes | Answer, host: str = HERE, context: ssl.SSLContext | None = None
) -> AsyncIterator[Web]:
    listener = socket.create_server((host, 0))
    web = Web(answer, listener.getsockname()[1])
    server = await asyncio.start_server(web.accept, sock=listener, ssl=context)
    try:
        yield web
    finally:
        server.close()
        for task in web.open:
            task.cancel()
        await asyncio.gather(*web.open, return_exceptions=True)
        for writer in web.open.values():
            writer.transport.abort()
        await server.wait_closed()


def ok(body: bytes = b"picture", *headers: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", "Content-Type: Image/PNG; q=1", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def to(location: str, *headers: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 302 Found", f"Location: {location}", *headers, "", ""]).encode()


def served(
    answer: bytes | Answer, *, way: Outbound | None = None, max_bytes: int = 1000, path: str = "/a"
) -> Any:
    """Fetch from a server that gives this answer; the file, or the rule that it breaks."""

    async def run() -> Any:
        async with serving(answer) as web:
            chosen = way or outbound(HERE)
            try:
                return await chosen.fetch(f"http://{HERE}:{web.port}{path}", max_bytes=max_bytes)
            except UrlRefused as error:
                return error.rule

    return asyncio.run(run())


# hostile URLs

TARGETS_V4 = ["127.0.0.1", "10.0.0.1", "169.254.169.254", "192.168.1.1", "172.17.0.1", "100.100.100.200", "0.0.0.0", "192.0.0.192"]  # fmt: skip
TARGETS_V6 = """
:: ::1 0:0:0:0:0:0:0:1 0000:0000:0000:0000:0000:0000:0000:0001 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:7f00:1 0:0:0:0:0:ffff:7f00:1
::ffff:0:7f00:1 ::FFFF:127.0.0.1 64:ff9b::7f00:1 64:ff9b::127.0.0.1 64:ff9b:1::7f00:1 64:ff9b:1::8.8.8.8 2002:7f00:1:: 2002:a9fe:a9fe::
2001:0:7f00:1::1 2001:20::1 100::1 5f00::1 fc00::1 fd00:ec2::254 fd20:ce::254 fe80::1 fe80::a9fe:a9fe fec0::1 ff02::1 ff0e::1
2001:db8::1 3fff::1 2606:4700::5efe:7f00:1 2606:4700::200:5efe:10.0.0.1 ::ffff:169.254.169.254 ::ffff:a9fe:a9fe 64:ff9b::a9fe:a9fe
""".split()
LITERAL_BYPASSES = [
    "http://public.test@127.0.0.1/", "http://public.test:80@127.0.0.1/", "http://public.test%40127.0.0.1/",
    "http://127.0.0.1@public.test/", "http://127.0.0.1\\@public.test/", "http://public.test\\@127.0.0.1/",
    "http://127.0.0.1#@unknown.test/", "http://unknown.test#@127.0.0.1/", "http://127.0.0.1?@unknown.test/",
    "http://127.0.0.1;@unknown.test/", "http://127.0.0.1:80\\@unknown.test/", "http://127.0.0.1:11211:80/",
    "http://127.0.0.1%00.public.test/", "http://127.0.0.1%0a.public.test/", "http://public.test%0d%0aHost:127.0.0.1/",
    "http://127.0.0.1%2f@public.test/", "http://127.0.0.1%23@public.test/", "http://foo@127.0.0.1:80@public.test/",
    "http://foo@127.0.0.1 @public.test/", "http://127.0.0.1\t/", "http://127.0.0.1\n/", "http://127.0.0.1\r\n/", "http://12\t7.0.0.1/",
    "http://\x00127.0.0.1/", "http://127.0.0.1\x00/", " http://127.0.0.1/", "http://127.0.0.1 /", "http:// 127.0.0.1/", "\x01http://127.0.0.1/",
    "http:127.0.0.1/", "http:/127.0.0.1/", "http:///127.0.0.1/", "http:////127.0.0.1/", "http:\\\\127.0.0.1\\", "http:/\\127.0.0.1/",
    "//127.0.0.1/", "///127.0.0.1/", "127.0.0.1", "127.0.0.1:80/", "localhost", "http:localhost", "http://localhost", "http://LOCALHOST/",
    "http://localhost./", "http://localhost:8080/", "http://localhost%00/", "http://localhost%2e/", "http://loc%61lhost/", "http://a.localhost/",
    "http://localhost.localdomain/", "http://ip6-localhost/", "http://ip6-loopback/", "http://localho\u017ft/", "http://\u24db\u24de\u24d2alhost/",
    "http://localhos\uff54/", "http://local\u00adhost/", "http://local\u200bhost/", "http://[localhost]/", "http://[127.0.0.1]/", "http://[::1", "http://::1/",
    "http://[::1]:80:80/", "http://[::1%25lo]/", "http://[fe80::1%25eth0]/", "http://[fe80::1%eth0]/", "http://[::1]]/", "http://[[::1]]/", "http://[::1].public.test/",
    "http://[0:0:0:0:0:ffff:127.0.0.1%25]/", "http://[::ffff:127.1]/", "http://[::ffff:0x7f.0.0.1]/", "http://[v1.::1]/", "http://[]/",
    "http://127.127.127.127/", "http://127.0.1.3/", "http://127.0.0.0/", "http://0/", "http://0:8080/", "http://0x0/", "http://00/", "http://0.0/", "http://1/",
    "http://127.0.0.1.nip.io/", "http://127-0-0-1.sslip.io/", "http://localtest.me/", "http://customer.localtest.me/", "http://spoofed.burpcollaborator.test/",
    "http://metadata/", "http://metadata.google.internal/computeMetadata/v1/", "http://instance-data/latest/meta-data/", "http://kubernetes.default.svc/",
    "http://169.254.169.254/latest/meta-data/iam/security-credentials/", "http://169.254.170.2/v2/credentials", "http://168.63.129.16/machine?comp=goalstate",
    "http://[fd00:ec2::254]/latest/meta-data/", "http://100.100.100.200/latest/meta-data/", "http://192.0.0.192/opc/v1/instance/", "http://169.254.169.254.nip.io/",
    "http://127.0.0.1:22/", "http://127.0.0.1:6379/%0d%0aFLUSHALL%0d%0a", "http://127.0.0.1:11211/%0astats", "http://127.0.0.1:2375/containers/json",
    "http://8.8.8.8:25/", "http://8.8.8.8:22/", "http://8.8.8.8:6379/", "http://8.8.8.8:0/", "http://8.8.8.8:65536/", "http://8.8.8.8:-80/", "http://8.8.8.8:80x/",
    "file:///etc/passwd", "file://127.0.0.1/etc/passwd", "ftp://127.0.0.1/", "gopher://127.0.0.1:6379/_FLUSHALL", "dict://127.0.0.1:11211/stats", "ldap://127.0.0.1/",
    "tftp://127.0.0.1/", "sftp://127.0.0.1/", "jar:http://127.0.0.1!/", "netdoc:///etc/passwd", "data:image/png;base64,AA", "javascript:0", "unix:///var/run/docker.sock",
    "http+unix://%2fvar%2frun%2fdocker.sock/", "ws://127.0.0.1/", "phar://127.0.0.1/", "php://filter", "blob:http://127.0.0.1/", "view-source:http://127.0.0.1/",
    "url:http://127.0.0.1/", "HTTP\u200b://127.0.0.1/", "http\uff1a//127.0.0.1/", "http://\u3002127.0.0.1/", "https://127.0.0.1:443/", "hTTps://127.1/", "",
    "http://", "http://?", "http://#", "http://@", "http://:@:@127.0.0.1/", "http://%31%32%37.0.0.1/", "http://127%2e0%2e0%2e1/", "http://%5b::1%5d/", "http://%00/",
    "http://127.0.0.1" + "/" * 9000, "http://" + "a" * 300 + ".test/", "http://" + "1" * 5000 + "/", "http://\ud800/", "http://127.0.0.1/\udcff",
]  # fmt: skip


def spellings(address: str) -> Iterator[str]:
    """One IPv4 address in the forms that some program or other takes for it."""
    a, b, c, d = (int(part) for part in address.split("."))
    number = int(ipaddress.IPv4Address(address))
    yield from (address, f"{number}", f"{number:#x}", f"{number:#X}", f"0{number:o}", f"{number + 2**32}")
    yield from (
        ".".join(f"{part:#x}" for part in (a, b, c, d)),
        ".".join(f"0{part:o}" for part in (a, b, c, d)),
    )
    yield from (f"{a}.{b}.{c * 256 + d}", f"{a}.{b * 65536 + c * 256 + d}", f"{a:#x}.{b}.{c * 256 + d}")
    yield from (
        f"{a}.{b:#x}.{c}.0{d:o}",
        f"{a:03}.{b:03}.{c:03}.{d:03}",
        f"{a + 256}.{b}.{c}.{d}",
        f"00000{a:o}.{b}.{c}.{d}",
    )
    yield from (f"{address}.", f"{address}..", f"{number}.", f"{address}%20", address.replace(".", "%2e"))
    yield from ("".join(f"%{ord(letter):02x}" for letter in address), address.replace(".", "\u3002"))
    yield from (
        address.translate({48 + digit: 0xFF10 + digit for digit in range(10)}),
        address.replace("1", "\u2460"),
    )
    yield from (
        f"[{address}]",
        f"[::{address}]",
        f"[::ffff:{address}]",
        f"[::ffff:{a:02x}{b:02x}:{c:02x}{d:02x}]",
    )
    yield from (
        f"[::ffff:0:{address}]",
        f"[64:ff9b::{address}]",
        f"[64:ff9b:1::{address}]",
        f"[2002:{a:02x}{b:02x}:{c:02x}{d:02x}::1]",
    )
    yield from (
        f"[2606:4700::5efe:{address}]",
        f"[2001:0:{a:02x}{b:02x}:{c:02x}{d:02x}::]",
        f"[fe80::{address}]",
    )
    yield from (
        f"user@{address}",
        f"8.8.8.8@{address}",
        f"{address}\\@8.8.8.8",
        f"8.8.8.8#@{address}:22",
        f"8.8.8.8:22?@{address}",
    )


def hostile(trap: int) -> list[str]:
    """URLs that lead inside, or would if somebody read them carelessly."""
    hosts = [spelling for address in TARGETS_V4 for spelling in spellings(address)]
    hosts += [f"[{address}]" for address in TARGETS_V6]
    hosts += [f"v{number}.test" for number in range(len(NAMED_INSIDE))]
    urls = [f"{scheme}://{host}/" for scheme in ("http", "https") for host in hosts]
    urls += [f"http://{host}:{trap}/" for host in hosts if "8.8.8.8" not in host] + LITERAL_BYPASSES
    return [url for url in dict.fromkeys(urls) if not url.startswith(("http://8.8.8.8#", "https://8.8.8.8#"))]


#: What the DNS of these tests says of `v0.test`, `v1.test` …: one internal address, alone and among public ones.
NAMED_INSIDE: list[list[str]] = [
    answer
    for address in [*TARGETS_V4, *(str(ipaddress.ip_address(text)) for text in TARGETS_V6), "fe80::1%lo"]
    for answer in ([address], ["8.8.8.8", address], [address, "2606:4700::1111"])
]

NAMES = {f"v{number}.test": answer for number, answer in enumerate(NAMED_INSIDE)} | {
    name: ["127.0.0.1"]
    for name in ("localhost", "a.localhost", "localtest.me", "customer.localtest.me", "127.0.0.1.nip.io", "127-0-0-1.sslip.io", "metadata",
                 "ip6-localhost", "localhost.localdomain", "kubernetes.default.svc", "metadata.google.internal", "instance-data", "public.test")
}  # fmt: skip


def test_no_hostile_url_leads_to_a_connection(seen: list[tuple[str, Any]], trap: int) -> None:
    urls = hostile(trap)
    way = outbound(names=NAMES)

    async def run() -> list[str]:
        passed = []
        for url in urls:
            try:
                await way.fetch(url, max_bytes=1000)
            except UrlRefused as error:
                assert "127." not in error.rule
                continue
            passed.append(url)
        return passed

    assert len(urls) >= 500
    assert asyncio.run(run()) == []
    print(f"{len(urls)} hostile URLs, {len(seen)} connections tried")
    assert seen == [], "not one connection was tried, and no name was resolved but by the resolver given"


def test_no_redirect_leads_to_a_connection(seen: list[tuple[str, Any]], trap: int) -> None:
    """The same corpus as answers of a server that may be reached."""
    urls = [url for url in hostile(trap) if url.isprintable() and len(url) < 8000 and "https://" not in url]
    urls = [url for url in urls if f":{trap}/" in url or url in LITERAL_BYPASSES]
    urls += [url.removeprefix("http:") for url in urls if url.startswith("http://[")]

    async def answer(path: str, writer: asyncio.StreamWriter) -> None:
        # what is no URL leads to a path of this server: that is the one place where a relative one may lead
        index = path[3:] if path.startswith("/n/") else ""
        writer.write(to(urls[int(index)]) if index.isdecimal() else ok())

    async def run() -> tuple[int, list[str]]:
        way = outbound(HERE, names=NAMES)
        passed = []
        async with serving(answer) as web:
            for index, url in enumerate(urls):
                with contextlib.suppress(UrlRefused):
                    await way.fetch(f"http://{HERE}:{web.port}/n/{index}", max_bytes=1000)
                    passed.append(url)
            assert len(web.heads) == len(urls) + len(passed)
            return web.port, passed

    port, passed = asyncio.run(run())
    beyond = [one for one in seen if one != ("socket.connect", (HERE, port))]
    print(f"{len(urls)} hostile redirects, {len(beyond)} connections tried beyond the server that sent them")
    assert len(urls) >= 500
    as_paths = ["127.0.0.1", "127.0.0.1:80/", "http\uff1a//127.0.0.1/", "localhost"]
    assert sorted(passed) == sorted(as_paths), "these are no more than paths of that server"
    assert set(seen) == {("socket.connect", (HERE, port))}


def test_a_name_that_changes_its_address_is_connected_where_it_was_checked(
    seen: list[tuple[str, Any]], trap: int
) -> None:
    asked: list[str] = []

    def rebinding(host: str, _port: int) -> list[str]:
        asked.append(host)
        return [HERE if len(asked) == 1 else "127.0.0.1"]

    async def run() -> int:
        async with serving(to("/again")) as web:
            with pytest.raises(UrlRefused, match="its port must be"):
                await outbound(HERE, names=rebinding).fetch(f"http://rebind.test:{web.port}/", max_bytes=1000)
            return web.port

    port = asyncio.run(run())
    assert asked == ["rebind.test", "rebind.test"]
    assert seen == [("socket.connect", (HERE, port))]


def test_this_machines_own_public_address_is_refused(
    seen: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From inside it passes by the firewall, as loopback does."""
    entry = psutil._ntuples.snicaddr(socket.AF_INET, "93.184.215.14", None, None, None)
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: {"eth0": [entry]})
    assert refused(outbound(), "http://93.184.215.14/") == NOT_TOLD
    assert seen == []


def test_strangers_cannot_tell_what_is_inside() -> None:
    """A name that does not exist, one that leads inside, one that DNS is silent about, a machine that does not answer."""
    silent = threading.Event()
    naps = Naps()

    def names(host: str, _port: int) -> list[str]:
        if host == "silent.test":
            silent.wait(30)
        if host in ("silent.test", "missing.test"):
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [{"inside.test": "10.0.0.1", "closed.test": HERE}[host]]

    with socket.create_server((HERE, 0)) as taken:
        closed = taken.getsockname()[1]
    way = outbound(f"{HERE}:{closed}", names=names, dns=0.05, sleep=naps)
    for name in ("missing.test", "inside.test", "silent.test"):
        assert refused(way, f"http://{name}/") == NOT_TOLD
        assert refused(way, f"http://{name}:81/") == "its port must be 80, 443, 8080 or 8443"
    assert refused(way, f"http://closed.test:{closed}/") == NOT_TOLD
    silent.set()
    assert len(naps.seconds) == 7 and all(0.5 < seconds <= 1 for seconds in naps.seconds), "on a whole second"


def test_the_systems_own_names_for_this_machine_are_refused(seen: list[tuple[str, Any]]) -> None:
    for name in ("localhost", "LOCALHOST"):
        assert refused(Outbound(sleep=Naps()), f"http://{name}/") == NOT_TOLD
    assert {event for event, _ in seen} == {"socket.getaddrinfo"}


def test_names_that_dns_is_silent_about_do_not_pile_up() -> None:
    silent = threading.Event()
    asked: list[str] = []

    def names(host: str, _port: int) -> list[str]:
        asked.append(host)
        silent.wait(30)
        return ["8.8.8.8"]

    async def run() -> None:
        resolver = Resolver(names, seconds=0.05)
        found = await asyncio.gather(*(resolver.resolve(f"n{n}.test", 80) for n in range(MAX_LOOKUPS + 5)))
        assert found == [[]] * (MAX_LOOKUPS + 5)
        assert len(asked) == MAX_LOOKUPS
        silent.set()
        later = Resolver(names)
        assert await later.resolve("x.test", 80) == [ipaddress.ip_address("8.8.8.8")]

    asyncio.run(run())


# what is allowed


@pytest.mark.parametrize("allow", [HERE, "127.0.0.2/31", "files.test", "files.test:{port}", HERE + ":{port}"])
def test_what_the_operator_allows_is_fetched(allow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")

    async def run() -> None:
        async with serving(ok()) as web:
            way = outbound(allow.format(port=web.port), names={"files.test": [HERE]})
            fetched = await way.fetch(f"http://FILES.test:{web.port}/a%2Fb/ü?c=d#e", max_bytes=7)
            assert fetched == Fetched(b"picture", "image/png")
            lines = web.heads[0].rstrip().split("\r\n")
            assert lines[0] == "GET /a%2Fb/%C3%BC?c=d HTTP/1.1"
            assert lines[1] == f"Host: files.test:{web.port}"
            assert "Accept-Encoding: identity" in lines and "Connection: close" in lines

    asyncio.run(run())


def test_an_allowed_port_allows_no_other(trap: int) -> None:
    assert refused(
        outbound("127.0.0.1:1", "localhost:1", names=NAMES), f"http://localhost:{trap}/"
    ).startswith("its port")


def test_the_next_address_is_tried_where_one_does_not_answer(seen: list[tuple[str, Any]]) -> None:
    async def run() -> list[Any]:
        async with serving(ok()) as web:
            way = outbound("127.0.0.0/8", "::1", names={"a.test": ["::1", "127.0.0.3", HERE]})
            await way.fetch(f"http://a.test:{web.port}/", max_bytes=1000)
            return [("::1", web.port, 0, 0), ("127.0.0.3", web.port), (HERE, web.port)]

    expected = asyncio.run(run())
    assert [address for _, address in seen if address[0] != "::1"] == expected[1:]


def test_three_redirects_are_followed_without_cookies() -> None:
    async def answer(path: str, writer: asyncio.StreamWriter) -> None:
        left = int(path[1:])
        writer.write(to(f"/{left - 1}", "Set-Cookie: a=b", "Content-Length: 5") + b"moved" if left else ok())

    assert served(answer, path="/3").data == b"picture"
    assert served(answer, path="/4") == "it redirects more than 3 times"

    async def run() -> list[str]:
        async with serving(answer) as web:
            await outbound(HERE).fetch(f"http://{HERE}:{web.port}/1", max_bytes=9)
            return web.heads

    assert all("cookie" not in head.lower() and "referer" not in head.lower() for head in asyncio.run(run()))


# limits


async def endless(_path: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    for _ in range(10_000):
        writer.write(b"x" * 1000)
        await writer.drain()


async def endless_hints(_path: str, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.001)


async def drips(_path: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


async def slow_head(_path: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    for number in itertools.count():
        writer.write(b"x%d: y\r\n" % number)
        await writer.drain()
        await asyncio.sleep(0.02)


async def silence(_path: str, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(30)


def test_the_size_is_limited_as_told_and_as_sent() -> None:
    assert served(ok(b"x" * 1000)).data == b"x" * 1000
    assert served(ok(b"x" * 1001)) == "it must lead to a file of at most 1000 bytes"
    assert served(b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 40 + b"\r\n\r\n").startswith("it")
    assert served(endless) == "it must lead to a file of at most 1000 bytes"
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"64\r\n" + b"x" * 100 + b"\r\n"
    assert served(chunked * 1 + (b"64\r\n" + b"x" * 100 + b"\r\n") * 10 + b"0\r\n\r\n").startswith(
        "it must lead"
    )


@pytest.mark.parametrize("answer", [drips, slow_head, silence, endless_hints])
def test_the_time_is_limited_whatever_the_server_does(answer: Answer) -> None:
    assert served(answer, way=outbound(HERE, seconds=0.15)) == "it could not be fetched within 0.15 s"


def test_silence_between_bytes_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitascope.outbound.connection.SILENCE_SECONDS", 0.05)
    assert served(silence) == "its server gave no whole answer"


@pytest.mark.parametrize(
    ("answer", "rule"),
    [
        (ok(gzip.compress(b"\0" * 10**6), "Content-Encoding: gzip"), "its server sends it compressed, though it was asked not to"),
        (ok(b"x", "Content-Encoding: br"), "its server sends it compressed, though it was asked not to"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "its server answers 404"),
        (b"HTTP/1.1 206 Partial\r\nContent-Length: 0\r\n\r\n", "its server answers 206"),
        (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", "its server answers 302"),
        (b"HTTP/1.1 401 No\r\nWWW-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n", "its server answers 401"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", "its server gave no whole answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nabc", "its server gave no whole answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "its server gave no whole answer"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 100_000 + b"\r\n", "its server gave no whole answer"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "its server gave no whole answer"),
        (b"", "its server gave no whole answer"),
    ],
    ids=range(12),
)  # fmt: skip
def test_what_is_no_whole_answer_is_refused(answer: bytes, rule: str) -> None:
    assert served(answer) == rule


def test_an_identity_answer_without_length_is_read_to_its_end() -> None:
    answer = b"HTTP/1.0 200 OK\r\nContent-Encoding: identity\r\n\r\npicture"
    assert served(answer) == Fetched(b"picture", "")


def test_so_many_at_once_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "WAIT_SECONDS", 0.05)

    async def run() -> None:
        async with serving(silence) as web:
            way = outbound(HERE)
            url = f"http://{HERE}:{web.port}/"
            tasks = [asyncio.create_task(way.fetch(url, max_bytes=1)) for _ in range(fetch.MAX_FETCHES)]
            await web.requests(fetch.MAX_FETCHES)
            with pytest.raises(QueueFull):
                await way.fetch(url, max_bytes=1)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert len(web.heads) == fetch.MAX_FETCHES
        async with serving(ok()) as web:
            assert (await way.fetch(f"http://{HERE}:{web.port}/", max_bytes=9)).data == b"picture"

    asyncio.run(run())


# certificates


class Authority:
    """An authority of the tests' own; its certificate is in the file `ca`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test authority")])
        signs = dict.fromkeys(
            ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "encipher_only", "decipher_only"), False
        )  # fmt: skip
        made = (
            self._certificate(self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **signs), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(made.public_bytes(Encoding.PEM))

    def _certificate(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now, own = datetime.now(UTC), self._key.public_key()
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(own), critical=False)
        )

    def __call__(self, name: x509.GeneralName) -> ssl.SSLContext:
        """Make the context of a server that has a certificate for the name."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
        made = (
            self._certificate(subject, key)
            .add_extension(x509.SubjectAlternativeName([name]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        file = self._folder / "server.pem"
        file.write_bytes(plain + made.public_bytes(Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.mark.parametrize(
    ("certified", "host", "outcome"),
    [
        (x509.DNSName("files.test"), "files.test", b"picture"),
        (x509.IPAddress(ipaddress.ip_address(HERE)), HERE, b"picture"),
        (x509.DNSName("other.test"), "files.test", "its server's certificate is not valid for it"),
        (x509.DNSName("files.test"), HERE, "its server's certificate is not valid for it"),
    ],
)
def test_the_certificate_is_the_names_although_the_connection_is_the_addresss(
    authority: Authority, certified: x509.GeneralName, host: str, outcome: Any
) -> None:
    context = authority(certified)
    named: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: named.append(name)
    way = outbound(
        HERE, names={"files.test": [HERE]}, ssl_context=ssl.create_default_context(cafile=authority.ca)
    )

    async def run() -> Any:
        async with serving(ok(), context=context) as web:
            try:
                return (await way.fetch(f"https://{host}:{web.port}/", max_bytes=100)).data
            except UrlRefused as error:
                return error.rule

    assert asyncio.run(run()) == outcome
    assert named == ["files.test" if host == "files.test" else None]


def test_unknown_authorities_and_downgrades_are_refused(authority: Authority) -> None:
    context = authority(x509.IPAddress(ipaddress.ip_address(HERE)))

    async def run() -> None:
        async with (
            serving(ok()) as plain,
            serving(to(f"http://{HERE}:{plain.port}/"), context=context) as web,
        ):
            url = f"https://{HERE}:{web.port}/"
            with pytest.raises(UrlRefused, match="certificate is not valid"):
                await outbound(HERE).fetch(url, max_bytes=100)
            trusting = outbound(HERE, ssl_context=ssl.create_default_context(cafile=authority.ca))
            with pytest.raises(UrlRefused, match="from https to http"):
                await trusting.fetch(url, max_bytes=100)
            assert plain.heads == []

    asyncio.run(run())


def test_a_server_that_speaks_no_tls_is_one_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitascope.outbound.connection.CONNECT_SECONDS", 0.3)

    async def run() -> None:
        async with serving(ok()) as plain:
            with pytest.raises(UrlRefused, match=NOT_TOLD):
                await outbound(HERE).fetch(f"https://{HERE}:{plain.port}/", max_bytes=100)

    asyncio.run(run())


def test_a_handshake_that_takes_too_long_leaves_no_connection_open() -> None:
    async def run() -> None:
        is_closed = asyncio.Event()

        async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()  # to the end
            is_closed.set()
            writer.close()

        listener = socket.create_server((HERE, 0))
        async with await asyncio.start_server(say_nothing, sock=listener):
            with pytest.raises(UrlRefused, match="within"):
                url = f"https://{HERE}:{listener.getsockname()[1]}/"
                await outbound(HERE, seconds=0.2).fetch(url, max_bytes=100)
            await asyncio.wait_for(is_closed.wait(), 30)

    asyncio.run(run())


# posting


def test_posts_go_where_they_may_and_nowhere_else(seen: list[tuple[str, Any]], trap: int) -> None:
    async def run() -> None:
        way = outbound("hooks.test", names={"hooks.test": [HERE]})
        async with serving(ok(b"x" * 100_000, "X-A: b")) as web:
            url = f"http://hooks.test:{web.port}/a?b"
            status, headers = await way.post(url, b'{"c":1}', {"webhook-id": "1"}, seconds=30)
            assert (status, headers["x-a"], web.bodies) == (200, "b", [b'{"c":1}'])
            head = web.heads[0].lower()
            assert head.startswith(f"post /a?b http/1.1\r\nhost: hooks.test:{web.port}\r\n")
            assert "webhook-id: 1\r\n" in head
            for name in ("host", "user-agent", "accept-encoding", "content-length"):
                assert head.count(f"\r\n{name}:") == 1
            for hostile_url in hostile(trap):
                with pytest.raises(UrlRefused):
                    await way.post(hostile_url, b"x", {}, seconds=30)
        async with serving(to("http://127.0.0.1/")) as web:
            status, _ = await way.post(f"http://hooks.test:{web.port}/", b"x", {}, seconds=30)
            assert status in (301, 302, 303, 307, 308)
        assert {address for _, (address, *_) in seen} == {HERE}

    asyncio.run(run())
