"""Which web page a browser sends a request for, as far as its headers tell; and whether that page may.

A page can have its visitor's browser ask any address: those of the visitor's own machine, too. The browser says for
whom it asks in headers that no page can set (W3C Fetch Metadata, RFC 6454's Origin). By DNS rebinding a page's own name
comes to mean this machine, and to the browser the daemon then is that page's own server: only Host tells.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from arena_server.access.address import is_loopback
from arena_server.errors import CrossSite

OWN = ("none", "same-origin")
# A name or an IPv4 address, or an IPv6 one in brackets; and a port.
HOST = re.compile(r"(?:\[([^\]]*)\]|([^:\[\]]*))(?::(\d*))?")
DEFAULT_PORTS = {"http": 80, "https": 443}
LONGEST_HOST = 300  # characters; a name has at most 253 (RFC 1035)
# Each request has one, and nearly all the same.
MOST_REMEMBERED = 1024

NO_PORTS: frozenset[int] = frozenset()

Headers = Sequence[tuple[bytes, bytes]]


def refuse_other_sites(headers: Headers) -> None:
    """Any page could else have its visitor's browser give orders. Raises CrossSite."""
    for name, value in headers:
        if name == b"sec-fetch-site" and value.decode("latin-1") not in OWN:
            raise CrossSite("Orders are not taken from pages of other sites.")


def refuse_other_origins(headers: Headers) -> None:
    """Only pages that came from this very host and port may ask. Raises CrossSite."""
    if not (origins := _all(b"origin", headers)):
        return
    hosts = _all(b"host", headers)
    for origin in origins:
        # Either scheme: a proxy may speak TLS, and not say so.
        if not hosts or origin not in (f"http://{hosts[0]}", f"https://{hosts[0]}"):
            raise CrossSite(
                "Without an API key, pages of other sites get no answers (the header Origin names another)."
            )


def refuse_other_hosts(headers: Headers, port: int) -> None:
    """Only who asks for this machine by a name of its own, or through a proxy on it. `port` is the daemon's.

    Any page can write an X-Forwarded-For; but where its own name means this machine, its browser's Host has the
    daemon's port, and a proxy's has the proxy's. Raises CrossSite.
    """
    for host in _all(b"host", headers):
        name, ports = _named(host) if len(host) <= LONGEST_HOST else ("", NO_PORTS)
        if name == "localhost" or is_loopback(name):
            continue
        if name and port not in ports and _all(b"x-forwarded-for", headers):
            continue
        raise CrossSite(
            "Without an API key, the daemon answers only to its own machine's names (localhost, 127.0.0.1), and the "
            "header Host has another one. Make a key (arena-server keys create NAME --scope admin), or let a proxy "
            "send X-Forwarded-For."
        )


@lru_cache(MOST_REMEMBERED)
def _named(host: str) -> tuple[str, frozenset[int]]:
    """The name or address that is asked for, empty if there is none, and the ports that may be meant."""
    found = HOST.fullmatch(host)
    if found is None:
        return "", NO_PORTS
    return found[1] or found[2] or "", frozenset({int(found[3])} if found[3] else DEFAULT_PORTS.values())


def _all(wanted: bytes, headers: Headers) -> list[str]:
    return [value.decode("latin-1").strip().lower() for name, value in headers if name == wanted]
