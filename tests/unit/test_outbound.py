"""The way out, its pure part: which addresses are public, how a URL is read, what the operator's list allows."""

from __future__ import annotations

import ipaddress
import socket

import pytest

from vitascope.domain.errors import SettingsError, UrlRefused
from vitascope.outbound import AllowList, is_public
from vitascope.outbound.target import MAX_URL_CHARS, read

PUBLIC = """
1.1.1.1 8.8.8.8 93.184.215.14 100.63.255.255 100.128.0.0 172.15.255.255 172.32.0.0 192.0.1.1 192.167.1.1 198.17.1.1 198.20.0.1
223.255.255.255 2606:4700::1111 2001:4860:4860::8888 2a00:1450:4001::1 2003::1 2c0f::1 64:ff9b::8.8.8.8
""".split()

INTERNAL = """
0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 100.127.255.255 127.0.0.1 127.255.255.254 168.63.129.16
169.254.0.1 169.254.169.254 169.254.170.2 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.9 192.0.0.192 192.0.2.1 192.31.196.1
192.52.193.1 192.88.99.1 192.168.0.1 192.175.48.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.250
240.0.0.1 255.255.255.255
:: ::1 ::2 ::127.0.0.1 ::8.8.8.8 ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::ffff:0:127.0.0.1 64:ff9b::127.0.0.1 64:ff9b::10.0.0.1
64:ff9b::169.254.169.254 64:ff9b:1::8.8.8.8 64:ff9b:1:fffe::a00:1 100::1 100:0:0:1::1 2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2
2001:2::1 2001:3::1 2001:4:112::1 2001:10::1 2001:20::1 2001:30::1 2001:db8::1 2002:7f00:1::1 2002:808:808::1 2620:4f:8000::1
3ffe::1 3fff::1 4000::1 5f00::1 fc00::1 fd00:ec2::254 fd20:ce::254 fe80::1 fe80::1%1 fe80::a9fe:a9fe fec0::1 ff02::1
2606:4700::5efe:10.0.0.1 2606:4700::200:5efe:10.0.0.1
""".split()


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", INTERNAL)
def test_addresses_that_are_not_anybodys(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))


def test_the_standard_library_would_have_let_some_pass() -> None:
    """The reason for a table of our own; where Python learns more, this list may shrink."""
    passed = {text for text in INTERNAL if ipaddress.ip_address(text).is_global}
    assert {
        "168.63.129.16",
        "64:ff9b::127.0.0.1",
    } <= passed  # in Python 3.11 also 6to4, SRv6 and multicast addresses


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port", "path", "authority"),
    [
        ("http://example.com", "http", "example.com", 80, "/", "example.com"),
        ("HTTPS://Example.COM:443/A?b=C#d", "https", "example.com", 443, "/A?b=C", "example.com"),
        ("http://example.com:443/", "http", "example.com", 443, "/", "example.com:443"),
        ("https://xn--bcher-kva.example?x", "https", "xn--bcher-kva.example", 443, "/?x", "xn--bcher-kva.example"),
        ("https://my_bucket.s3.example/a%2Fb", "https", "my_bucket.s3.example", 443, "/a%2Fb", "my_bucket.s3.example"),
        ("https://a.example/ü/?q=日", "https", "a.example", 443, "/%C3%BC/?q=%E6%97%A5", "a.example"),
        ("https://a.example/../a//b/;c=1?d=/?e@f:g", "https", "a.example", 443, "/../a//b/;c=1?d=/?e@f:g", "a.example"),
        ("http://8.8.8.8:8080/a", "http", "8.8.8.8", 8080, "/a", "8.8.8.8:8080"),
        ("http://[2606:4700:0:0::1111]/", "http", "2606:4700::1111", 80, "/", "[2606:4700::1111]"),
        ("https://[2606:4700::1111]:8443/", "https", "2606:4700::1111", 8443, "/", "[2606:4700::1111]:8443"),
        ("http://3com.example/", "http", "3com.example", 80, "/", "3com.example"),
        ("http://1.2.3.4.example/", "http", "1.2.3.4.example", 80, "/", "1.2.3.4.example"),
        ("http://minio:9000/x", "http", "minio", 9000, "/x", "minio:9000"),
    ],
)  # fmt: skip
def test_a_url_is_read_once(url: str, scheme: str, host: str, port: int, path: str, authority: str) -> None:
    target = read(url)
    assert (target.scheme, target.host, target.port, target.path) == (scheme, host, port, path)
    assert target.authority == authority
    assert (target.address is not None) == (host[0] in "82" and host[-1].isdigit())


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "must begin with"),
        ("example.com", "must begin with"),
        ("//example.com", "must begin with"),
        ("http:example.com", "must begin with"),
        ("http:/example.com", "must begin with"),
        ("ftp://example.com", "must begin with"),
        ("http+unix://x/", "must begin with"),
        ("http://", "its host must be"),
        ("http:///a", "its host must be"),
        ("http://?a", "its host must be"),
        ("http://:80/", "its host must be"),
        ("http://a@example.com/", "user name"),
        ("http://a:b@example.com/", "user name"),
        ("http://@example.com/", "user name"),
        ("http://example.com:/", "its port"),
        ("http://example.com:0/", "its port"),
        ("http://example.com:080/", "its port"),
        ("http://example.com:65536/", "its port"),
        ("http://example.com:99999999/", "its port"),
        ("http://example.com:+80/", "its port"),
        ("http://example.com:\uff18\uff10/", "xn--"),
        ("http://example.com:80:80/", "its host must be"),
        ("http://example.com./", "its host must be"),
        ("http://example..com/", "its host must be"),
        ("http://.example.com/", "its host must be"),
        ("http://-a.example/", "its host must be"),
        ("http://a%2eexample/", "its host must be"),
        ("http://ex,ample/", "its host must be"),
        ("http://bücher.example/", "xn--"),
        ("http://" + "a" * 64 + ".example/", "its host must be"),
        ("http://" + "a." * 127 + "example/", "its host must be"),
        ("http://1.2.3/", "its host must be"),
        ("http://1.2.3.4.5/", "its host must be"),
        ("http://1.2.3.256/", "its host must be"),
        ("http://example.0x7f/", "its host must be"),
        ("http://[::1/", "its host must be"),
        ("http://::1/", "its host must be"),
        ("http://[]/", "its host must be"),
        ("http://[::1%25lo]/", "its host must be"),
        ("http://[v1.a]/", "its host must be"),
        ("http://[::1]a/", "its host must be"),
        ("http://[example.com]/", "its host must be"),
        (" http://example.com/", "spaces"),
        ("http://example.com/\n", "spaces"),
        ("http://exa\tmple.com/", "spaces"),
        ("http://example.com/a b", "spaces"),
        ("http://example.com/\u00a0", "spaces"),
        ("http://example.com/\u202e", "spaces"),
        ("http://example.com/\x00", "spaces"),
        ("http://example.com/\udc80", "spaces"),
        ("http://example.com\\@b.example/", "spaces"),
        ("http://example.com/" + "a" * MAX_URL_CHARS, "at most 8192"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(url: str, words: str) -> None:
    with pytest.raises(UrlRefused) as caught:
        read(url)
    assert words in caught.value.rule


@pytest.mark.parametrize(
    "text", ["127.1", "127.0.1", "2130706433", "0x7f000001", "0177.0.0.1", "017700000001", "0x7f.1", "127.0.0.01", "0", "1"]
)  # fmt: skip
def test_spellings_that_the_system_would_take_for_an_address_are_no_names(text: str) -> None:
    assert socket.inet_aton(text), "the C library reads it"
    with pytest.raises(UrlRefused):
        read(f"http://{text}/")


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/b", "https://a.example:8443/b"),
        ("b", "https://a.example:8443/x/b"),
        ("?b", "https://a.example:8443/x/y?b"),
        ("//b.example/c", "https://b.example:443/c"),
        ("http://b.example:80", "http://b.example:80/"),
        ("../../../b", "https://a.example:8443/b"),
    ],
)
def test_a_redirect_is_read_as_strictly(location: str, expected: str) -> None:
    following = read("https://a.example:8443/x/y?z").joined(location)
    assert f"{following.scheme}://{following.host}:{following.port}{following.path}" == expected


@pytest.mark.parametrize(
    "location",
    [
        "ftp://b.example",
        "javascript:0",
        "//b.example\\@c",
        "http://[",
        "/a b",
        "//u@b",
        "http:/b",
        "https:b",
        "///b",
        "//",
        "b:c",
    ],
)
def test_a_redirect_to_nowhere_is_refused(location: str) -> None:
    with pytest.raises(UrlRefused):
        read("https://a.example/").joined(location)


def test_the_allow_list_names_hosts_addresses_and_networks() -> None:
    allow = AllowList.of(
        [
            "Minio.Internal",
            "cache:9000",
            "10.1.0.0/16",
            "192.168.0.5:81",
            "[fd00::1]:82",
            "fd01::/64",
            "fd02::5",
        ]
    )
    assert allow.names("minio.internal", 1) and allow.names("minio.internal", 2)
    assert allow.names("cache", 9000) and not allow.names("cache", 80)
    assert not allow.names("a.minio.internal", 80)

    def holds(text: str, port: int) -> bool:
        return allow.holds(ipaddress.ip_address(text), port)

    assert holds("10.1.2.3", 80) and not holds("10.2.0.1", 80)
    assert holds("192.168.0.5", 81) and not holds("192.168.0.5", 80)
    assert holds("fd00::1", 82) and not holds("fd00::1", 80) and holds("fd01::7", 5) and holds("fd02::5", 1)
    assert not holds("::ffff:10.1.2.3", 80), "another spelling of an allowed address is not it"
    assert not AllowList().names("localhost", 80)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("10.0.0.1/8", "bits beyond its mask"),
        ("10.0.0.0/33", "neither a host"),
        ("http://minio/", "neither a host"),
        ("*.internal", "neither a host"),
        ("127.1", "neither a host"),
        ("minio:0", "neither a host"),
        ("", "neither a host"),
        ("a@b", "neither a host"),
    ],
)
def test_an_entry_that_cannot_be_read_is_refused_at_start(entry: str, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        AllowList.of([entry])
    assert words in caught.value.message
    assert "outbound.allow" in caught.value.message
