"""Which addresses are anybody's on the internet. Pure: knows of no operator's exceptions and asks nobody.

Source: IANA's registries of special-purpose addresses (iana-ipv4-special-registry, iana-ipv6-special-registry), of IPv6 global
unicast assignments (ipv6-unicast-address-assignments) and of multicast, as of 2026. `ipaddress.is_global` is no substitute: it
calls translated and tunnelled IPv4 (64:ff9b::/96, 2002::/16), site-local and SRv6 addresses global, and some clouds answer
their machines' questions for credentials on an address that it takes for public.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address

_REFUSED_V4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this host: Linux connects 0.0.0.0 to itself
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared by carriers; a cloud's metadata at 100.100.100.200
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # a cloud's agent for its own machines, in public space
        "169.254.0.0/16",  # link-local; metadata at 169.254.169.254 and others
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; a cloud's metadata at 192.0.0.192
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)

#: Everything outside is refused: loopback, unspecified, mapped and compatible IPv4, local NAT64 (64:ff9b:1::/48), discard
#: (100::/64), SRv6 (5f00::/16), unique local (fc00::/7, with metadata at fd00:ec2::254 and others), link-local, site-local
#: and multicast.
_GLOBAL_UNICAST = IPv6Network("2000::/3")

_REFUSED_V6 = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments: Teredo, benchmarking, AMT, AS112, ORCHID, DRIP
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "2620:4f:8000::/48",  # AS112
        "3ffe::/16",  # 6bone, returned
        "3fff::/20",  # documentation
    )
)

_NAT64 = IPv6Network("64:ff9b::/96")
_ISATAP = 0x5EFE
_UNIVERSAL_BIT = 0x0200_0000


def is_public(address: Address) -> bool:
    """Tell whether an address is one that anybody could reach from anywhere.

    IPv4 behind the well-known NAT64 prefix counts as what it is translated to: networks without IPv4 reach every older
    server so. All other ways to wrap IPv4 into IPv6 are refused, whatever is inside.
    """
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _REFUSED_V4)
    if address.scope_id is not None:
        return False
    if address in _NAT64:
        return is_public(IPv4Address(int(address) & 0xFFFF_FFFF))
    if address not in _GLOBAL_UNICAST or any(address in network for network in _REFUSED_V6):
        return False
    return (int(address) >> 32 & 0xFFFF_FFFF) & ~_UNIVERSAL_BIT != _ISATAP
