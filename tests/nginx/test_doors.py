"""Who may come in, and where: the operator's routes are closed, however they are written, and the clients' are open."""

from __future__ import annotations

import posixpath
import random
import re
from pathlib import Path
from urllib.parse import unquote

from fastapi.routing import APIRoute
from starlette.routing import Route

from tests.nginx.recorder import recording
from tests.nginx.site import Certificates, Proxy, nginx
from tests.support.daemon_app import FakeDaemon
from tests.support.raw_client import Answer, Cut, RawClient

OPERATORS = re.compile(r"/(admin|metrics)(/|\Z)|/openapi\.json\Z")
NGINXS_OWN = {"forbidden", "not_found"}

TRICKS = (
    "/admin/pool",
    "/admin",
    "/admin/",
    "//admin/pool",
    "/admin//pool",
    "/ADMIN/pool",
    "/%61dmin/pool",
    "/%2561dmin/pool",
    "/admin%2Fpool",
    "/%2Fadmin/pool",
    "/./admin/pool",
    "/x/../admin/pool",
    "/v1/../admin/pool",
    "/v1/%2e%2e/admin/pool",
    "/v1/..%2fadmin/pool",
    "/v1/models/..%2f..%2f..%2fadmin/pool",
    "/web/../../admin/pool",
    "/v1/..;/admin/pool",
    "/admin/pool?/v1/models",
    "/admin/pool#/../v1/models",
    "/admin/pool%3f/../../v1/models",
    "/admin/pool%23/../../v1/models",
    "/admin/pool/../../v1/models",
    "/admin/models/x/../../../v1/load",
    "/admin/pool%20",
    "/admin/pool%0a",
    "/admin\\pool",
    "\\admin/pool",
    "http://localhost/admin/pool",
    "http://localhost//v1/../admin/pool",
    "/metrics",
    "/metrics/",
    "/Metrics",
    "//metrics",
    "/%6detrics",
    "/health/../metrics",
    "/openapi.json",
    "/docs",
    "/v1",
    "/v1/",
    "/web/",
    "/healthy",
    "/health%0a",
)


async def ask(client: RawClient, target: str, method: str = "GET") -> Answer:
    """A request with that target, as it is."""
    client.send(f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode("latin-1"))
    return await client.answer(method)


def owner(answer: Answer) -> str:
    """Who has answered."""
    if answer.header("content-type") != "application/json":
        return "nginx" if b"<center>nginx</center>" in answer.body else "daemon"
    return "nginx" if "error" in answer.json() and answer.error()["code"] in NGINXS_OWN else "daemon"


async def test_each_route_of_the_daemon_is_open_or_the_operators(daemon: FakeDaemon, proxy: Proxy) -> None:
    """A new route of the daemon's fails here until it is let through, or is known to be the operator's."""
    routes = [r for r in daemon.daemon.app.routes if isinstance(r, Route | APIRoute)]
    assert len(routes) > 30
    wrong = []
    for route in routes:
        path = re.sub(r"{.*?}", "x", route.path)
        async with proxy.connected() as client:
            # Which no route has, so that none of them does anything: 405 from the daemon.
            answered = owner(await ask(client, path, "OPTIONS"))
        if answered != ("nginx" if OPERATORS.match(path) else "daemon"):
            wrong.append((path, answered))
    assert wrong == []
    assert daemon.engines["alpha"].loads == 0


async def test_what_a_browser_needs(daemon: FakeDaemon, proxy: Proxy) -> None:
    page = await proxy.get("/")
    assert page.status == 200
    assert "require-trusted-types-for" in (page.header("content-security-policy") or "")
    files = re.findall(r'(?:href|src)="(web/[^"]+)"', page.body.decode())
    assert len(files) > 20
    assert [f for f in files if (await proxy.get(f"/{f}")).status != 200] == []
    async with proxy.connected() as client:
        client.request("GET", "/", headers=[("If-None-Match", page.header("etag") or "")])
        assert (await client.head())[0] == 304
    assert (await proxy.get("/", method="HEAD")).status == 200


async def test_health(daemon: FakeDaemon, proxy: Proxy) -> None:
    assert (await proxy.get("/health")).json()["status"] == "healthy"


async def test_a_model_whose_name_has_a_slash(daemon: FakeDaemon, proxy: Proxy) -> None:
    for name in ("org/gamma", "org%2Fgamma"):
        assert (await proxy.get(f"/v1/models/{name}")).json()["id"] == "org/gamma"


async def test_the_operators_orders_are_refused_with_a_reason(daemon: FakeDaemon, proxy: Proxy) -> None:
    for method, path in (("GET", "/admin/pool"), ("POST", "/admin/models/alpha/load"), ("GET", "/metrics")):
        answer = await proxy.get(path, method=method)
        assert answer.status == 403
        assert "operator" in answer.error()["message"]
    assert daemon.engines["alpha"].loads == 0


async def test_no_spelling_of_a_closed_route_gets_through(tmp_path: Path, certificates: Certificates) -> None:
    refused = 0
    async with recording() as upstream:
        with nginx(tmp_path, upstream.port, certificates) as proxy:
            for target in TRICKS:
                async with proxy.connected() as client:
                    refused += (await ask(client, target)).status in (400, 403, 404)
    assert refused + len(upstream.targets) == len(TRICKS)
    for target in upstream.targets:
        check(target)


async def test_no_path_at_all_means_another_route_to_the_daemon(tmp_path: Path, certificates: Certificates) -> None:
    """Of all that a path can be put together from: whatever gets through is open, and read alike on both sides."""
    words = "admin %61dmin v1 web metrics models health / / / // .. . %2e %2F %5c \\ %25 %00 # ? ; %3f %23 %0a"
    pieces = words.split()
    chosen = random.Random(7)
    async with recording() as upstream:
        with nginx(tmp_path, upstream.port, certificates, replaced={"rate=20r/s": "rate=10000r/s"}) as proxy:
            for _ in range(40):
                async with proxy.connected() as client:
                    for _ in range(20):
                        start = chosen.choice(("/", "/v1/", "/web/", "/admin/"))
                        target = start + "".join(chosen.choices(pieces, k=chosen.randrange(1, 9)))
                        try:
                            answer = await ask(client, target)
                        except (Cut, ConnectionError):
                            break
                        if answer.status == 400:  # after which nginx hangs up
                            break
    assert len(upstream.targets) > 20
    for target in upstream.targets:
        check(target)


def check(target: str) -> None:
    """That the daemon, which decodes a path once and resolves nothing, takes it for a route that is open."""
    path = unquote(target.partition("?")[0])
    assert re.match(r"/(v1|v2|web)/.|/\Z|/health\Z", path), target
    assert posixpath.normpath(path) == path.removesuffix("/") or path == "/", target


async def test_an_address_that_is_not_allowed(daemon: FakeDaemon, proxy: Proxy) -> None:
    for path in ("/", "/health", "/v1/models", "/web/icon.svg"):
        async with proxy.connected("127.0.0.2") as client:
            answer = await ask(client, path)
        assert answer.status == 403
        assert answer.error()["code"] == "forbidden"


async def test_a_range_of_addresses(daemon: FakeDaemon, tmp_path: Path, certificates: Certificates) -> None:
    with nginx(tmp_path, daemon.port, certificates, allowed=["127.0.0.0/30"]) as proxy:
        statuses = []
        for source in ("127.0.0.3", "127.0.0.4"):
            async with proxy.connected(source) as client:
                client.request("GET", "/health", headers=[("X-Forwarded-For", "127.0.0.1")])
                statuses.append((await client.answer("GET")).status)
    assert statuses == [200, 403]
