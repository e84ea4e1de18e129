"""Where a remote server's routes are, and the way there."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

VERSION = "/v1"


@dataclass(frozen=True, slots=True)
class BackendUrl:
    """`api` is what OpenAI's clients call `base_url`: vLLM's routes under /v1 are there; the others are at `root`.

    `origin` is the server alone, for people.
    """

    api: str
    root: str
    origin: str
    host: str

    @classmethod
    def of(cls, text: str) -> BackendUrl:
        """From `backend_url`: as it would be given to OpenAI's clients. One without a path is taken to be a server's
        own address, to which people forget the /v1.
        """
        parts = urlsplit(text)
        origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
        if not path:
            path = VERSION
        return cls(origin + path, origin + path.removesuffix(VERSION), origin, parts.hostname or "")

    def at(self, path: str) -> str:
        """The URL of one of vLLM's routes, with its query, if any."""
        return self.api + path.removeprefix(VERSION) if path.startswith(f"{VERSION}/") else self.root + path

    @property
    def exposed(self) -> bool:
        """Whether what is sent there can be read on its way."""
        return self.api.startswith("http:") and not _is_loopback(self.host)


def proxy_for(url: BackendUrl, environment: Mapping[str, str]) -> str | None:
    """The proxy on the way to `url`, as curl takes it from HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY.

    Not aiohttp's `trust_env`: that takes passwords from ~/.netrc, too. Raises ValueError for one that is no HTTP proxy.
    """

    def variable(name: str) -> str:
        return environment.get(name) or environment.get(name.upper()) or ""

    if _is_loopback(url.host) or _is_near(url.host, variable("no_proxy")):
        return None
    scheme = urlsplit(url.api).scheme
    proxy = variable(f"{scheme}_proxy") or variable("all_proxy")
    if proxy and not proxy.startswith(("http://", "https://")):
        raise ValueError("only HTTP proxies are supported")  # it may have a password in it: not shown
    return proxy or None


def _is_near(host: str, no_proxy: str) -> bool:
    """Whether NO_PROXY names the host, or a domain that it is in."""
    names = [name.strip().lower().lstrip(".") for name in no_proxy.split(",")]
    return "*" in names or any(name and (host == name or host.endswith(f".{name}")) for name in names)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
