"""The addresses that requests come from, as far as they are counted."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network

# Whoever has one IPv6 address has 2^64 (RFC 6177): counted one by one they would be no limit.
IPV6_PREFIX = 64
# Each request asks; the answer for one address never changes.
MOST_REMEMBERED = 1024


@lru_cache(MOST_REMEMBERED)
def counted(address: str) -> str:
    """What an address is counted as: itself, an IPv6 one as its network. Bounded, whatever a proxy has passed on."""
    try:
        ip = ip_address(address)
    except ValueError:
        return ""  # no address at all: they are all counted together
    if isinstance(ip, IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ip_network((ip.packed, IPV6_PREFIX), strict=False))
    return str(ip)


@lru_cache(MOST_REMEMBERED)
def is_loopback(address: str) -> bool:
    """Whether only this machine can reach what listens there. False for what is no address."""
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
    return (mapped or ip).is_loopback
