"""The files of the page: what is served, how, and what they refer to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

import arena_server
from arena_server.api.page import page_router

WEB = Path(arena_server.__file__).parent / "web"
FILES = sorted(p.relative_to(WEB).as_posix() for p in WEB.rglob("*") if p.is_file())
OWN = [f for f in FILES if not f.startswith("vendor/")]


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    app = FastAPI()
    app.include_router(page_router())
    with TestClient(app) as client:
        yield client


def test_every_file_is_served_with_its_type_and_under_the_policy(client: TestClient) -> None:
    for name in FILES:
        answer = client.get(f"/web/{name}")
        assert answer.status_code == 200
        assert answer.content == (WEB / name).read_bytes()
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["connect-src"] == policy["style-src"] == "'self'"
        assert policy["trusted-types"] == "'none'"
        if name.endswith(".js"):
            assert answer.headers["content-type"].startswith("text/javascript")
    assert client.get("/").content == (WEB / "index.html").read_bytes()
    assert client.head("/").headers["content-type"].startswith("text/html")


def test_what_a_browser_has_is_not_sent_again(client: TestClient) -> None:
    first = client.get("/")
    assert first.headers["cache-control"] == "no-cache"
    again = client.get("/", headers={"if-none-match": f'"other", W/{first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert client.get("/", headers={"if-none-match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    "path", ["/web/", "/web/none.js", "/web/../config.py", "/web/%2e%2e/config.py", "/web//etc/passwd"]
)
def test_nothing_else_can_be_had(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.parametrize("name", OWN)
def test_a_file_refers_to_nothing_outside(name: str) -> None:
    text = (WEB / name).read_text()
    addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"')]*", text))
    assert addresses <= {"http://www.w3.org/2000/svg", "https://html.spec.whatwg.org/multipage/server-sent-events.html"}
    for target in re.findall(r"""(?:from|import) ?\(?["']\./([^"']+)["']""", text):
        assert (WEB / name).parent.joinpath(target).is_file(), target
    for target in re.findall(r'(?:src|href)="web/([^"]+)"', text):
        assert target in FILES


def test_every_module_is_asked_for_at_once() -> None:
    text = (WEB / "index.html").read_text()
    preloaded = re.findall(r'rel="modulepreload" href="web/([^"]+)"', text)
    assert sorted([*preloaded, "main.js"]) == [f for f in FILES if f.endswith(".js")]


@pytest.mark.parametrize("name", [f for f in OWN if f.endswith(".js")])
def test_no_module_has_a_way_to_markup(name: str) -> None:
    text = (WEB / name).read_text()
    ways = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|setHTML|createContextualFragment|\beval\("
    assert re.findall(rf"{ways}|new Function", text) == []
    assert len(text.splitlines()) < 300


def test_what_others_wrote_comes_with_its_licence() -> None:
    vendored = {p.name for p in (WEB / "vendor").iterdir()}
    readme = (WEB / "vendor" / "README.md").read_text()
    assert vendored == {"README.md", "marked.esm.js", "marked.LICENSE.txt"}
    version = re.search(r"marked v([\d.]+)", (WEB / "vendor" / "marked.esm.js").read_text())
    assert version is not None
    assert f"npm `marked` {version[1]}" in readme
