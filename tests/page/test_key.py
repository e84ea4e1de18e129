"""The page where keys are asked for: how it asks, where it keeps one, and how it goes on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Request, Route, expect

from arena_server.access.key import sha256_of
from tests.page.answers import saying
from tests.page.conftest import Tab
from tests.page.daemon import HeldDaemon, held_daemon
from tests.page.test_access import CONTRASTS, controls
from tests.page.visitor import Visitor

ARENA, OTHER, ADMIN, APP = (f"sk-arena-{name}-of-this-test" for name in ("arena", "other", "admin", "app"))
KEYS: dict[str, dict[str, Any]] = {
    "arena": {"sha256": sha256_of(ARENA), "scopes": ("arena",)},
    "other": {"sha256": sha256_of(OTHER), "scopes": ("arena",), "models": ("alpha", "org/gamma")},
    "admin": {"sha256": sha256_of(ADMIN), "scopes": ("admin",)},
    "app": {"sha256": sha256_of(APP), "scopes": ("inference",)},
}
EVERYWHERE = "() => JSON.stringify([{...localStorage}, location.href, document.cookie, document.body.innerText])"


@pytest.fixture
def daemon() -> Iterator[HeldDaemon]:
    """Lets nobody in without a key."""
    with held_daemon(access={"keys": KEYS}) as running:
        running.engines(lambda e: setattr(e, "reply", saying(["Yes."])))
        yield running


def enter(visitor: Visitor, key: str) -> None:
    """Type a key, and Enter."""
    box = visitor.page.get_by_label("API key", exact=True)
    expect(box).to_be_focused()
    box.fill(key)
    box.press("Enter")


def vote(visitor: Visitor) -> None:
    """A battle, to its end."""
    visitor.ask("Is it so?")
    visitor.button("Tie").click()
    expect(visitor.page.get_by_role("heading", name=re.compile("^A was"))).to_be_visible()


def test_it_asks_for_a_key_and_goes_on_where_it_was(visitor: Visitor) -> None:
    visitor.visit("leaderboard")
    form = visitor.page.get_by_role("form", name="This server asks for an API key")
    expect(form).to_be_visible()
    expect(visitor.button("Forget key")).to_be_hidden()
    enter(visitor, ARENA)
    expect(form).to_be_hidden()
    expect(visitor.announced).to_have_text("The server takes this key.")
    expect(visitor.page.get_by_text("No votes yet")).to_be_visible()
    visitor.page.get_by_role("link", name="Blind battle", exact=True).click()
    vote(visitor)
    visitor.page.get_by_role("link", name="Side by side").click()
    visitor.ask("Is it so?")
    expect(visitor.answer("b")).to_contain_text("Yes.")


def test_a_key_is_this_tab_s_alone(tab: Tab) -> None:
    visitor = tab()
    visitor.visit()
    enter(visitor, ARENA)
    expect(visitor.button("Forget key")).to_be_visible()
    assert visitor.page.evaluate("sessionStorage.getItem('arena.key')") == ARENA
    assert ARENA not in visitor.page.evaluate(EVERYWHERE)
    visitor.page.reload()
    vote(visitor)
    expect(visitor.page.get_by_role("form", name="This server asks")).to_be_hidden()
    other = tab()
    other.visit()
    expect(other.page.get_by_label("API key", exact=True)).to_be_visible()


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("", "Paste or type your API key."),
        ("two words", "That is no API key"),
        ("schlüssel", "That is no API key"),
        ("sk-arena-unknown-to-this-server", "The server does not know this key: "),
        (APP, "scope `arena`"),
    ],
)
def test_a_key_that_will_not_do_is_said_not_to(visitor: Visitor, key: str, said: str) -> None:
    visitor.visit()
    enter(visitor, key)
    box = visitor.page.get_by_label("API key", exact=True)
    wrong = visitor.page.get_by_role("alert").filter(has_text=said)
    expect(wrong).to_be_visible()
    expect(box).to_have_attribute("aria-invalid", "true")
    assert visitor.page.evaluate("sessionStorage.getItem('arena.key')") is None
    enter(visitor, ARENA)
    expect(box).to_be_hidden()


def test_a_key_that_is_forgotten_takes_its_battle_with_it(visitor: Visitor) -> None:
    visitor.visit()
    enter(visitor, ARENA)
    visitor.ask("Is it so?")
    expect(visitor.button("Tie")).to_be_visible()
    visitor.button("Forget key").click()
    enter(visitor, OTHER)
    expect(visitor.page.get_by_text("Two models answer")).to_be_visible()
    assert visitor.page.evaluate("sessionStorage.getItem('arena.battle')") is None
    visitor.page.get_by_label("Pair").select_option("chosen")
    names = visitor.page.locator(".view:visible").get_by_label("First model").locator("option")
    expect(names).to_have_text(["alpha", "org/gamma"])
    expect(visitor.trouble).to_have_count(0)  # it was not asked for, and not found


def test_a_key_that_ends_meanwhile_loses_nothing(visitor: Visitor) -> None:
    key_id, key = made(visitor)
    visitor.visit()
    enter(visitor, key)
    visitor.ask("Is it so?")
    expect(visitor.button("Tie")).to_be_visible()
    new = order(visitor, f"/{key_id}/rotate", {"grace_s": 0})["key"]
    visitor.button("Tie").click()
    alert = visitor.page.get_by_role("alert").filter(has_text="The server no longer takes the key it was shown")
    expect(alert).to_be_visible()
    expect(visitor.answer("a")).to_contain_text("Yes.")
    enter(visitor, new)
    expect(visitor.page.get_by_role("heading", name=re.compile("^A was"))).to_be_visible()


def test_who_stops_a_battle_that_waits_for_a_key_is_not_asked_any_more(visitor: Visitor, daemon: HeldDaemon) -> None:
    key_id, key = made(visitor)
    visitor.visit()
    enter(visitor, key)
    expect(visitor.button("Forget key")).to_be_visible()
    new = order(visitor, f"/{key_id}/rotate", {"grace_s": 0})["key"]
    visitor.ask("Is it so?")
    box = visitor.page.get_by_label("API key", exact=True)
    expect(box).to_be_focused()
    visitor.button("Stop").click()
    expect(visitor.trouble).to_contain_text("You stopped this battle")
    box.focus()
    enter(visitor, new)
    expect(box).to_be_hidden()
    visitor.page.get_by_role("link", name="Leaderboard").click()
    expect(visitor.page.get_by_text("No votes yet")).to_be_visible()
    assert daemon.do(lambda d: [len(e.inference) for e in d.engines.values()]) == [0, 0, 0]


def made(visitor: Visitor) -> tuple[str, str]:
    """A new key's id and text."""
    card = order(visitor, "", {"name": "visitor", "scopes": ["arena"]})
    return card["id"], card["key"]


def order(visitor: Visitor, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Have the administrator do something with keys."""
    headers = {"authorization": f"Bearer {ADMIN}"}
    answer = visitor.page.request.post(f"{visitor.url}/admin/keys{path}", headers=headers, data=body)
    assert answer.ok
    card: dict[str, Any] = answer.json()
    return card


@pytest.mark.parametrize(("key", "status"), [(ARENA, 403), (ADMIN, 200)])
def test_only_an_operator_s_key_hears_of_events(visitor: Visitor, key: str, status: int) -> None:
    asked: list[Request] = []
    visitor.page.on("request", lambda r: asked.append(r) if "admin/events" in r.url else None)
    visitor.visit()
    with visitor.page.expect_response(lambda r: "admin/events" in r.url and shows(r.request, key)) as got:
        enter(visitor, key)
    assert got.value.status == status
    for _ in range(2):  # it goes on looking, and does not go on asking
        with visitor.page.expect_response("**/health"):
            pass
    assert len([request for request in asked if shows(request, key)]) == 1


def shows(request: Request, key: str) -> bool:
    """Whether a request carries the key."""
    return request.headers.get("authorization") == f"Bearer {key}"


def test_a_limit_is_told_in_words(visitor: Visitor) -> None:
    visitor.visit()
    enter(visitor, ARENA)
    body = '{"error": {"message": "Over the limit.", "type": "x", "param": null, "code": "rate_limit_exceeded"}}'

    def refuse(route: Route) -> None:
        route.fulfill(status=429, headers={"retry-after": "7200", "content-type": "application/json"}, body=body)

    visitor.page.route("**/v1/arena/battles", refuse, times=1)
    visitor.ask("Is it so?")
    expect(visitor.trouble).to_contain_text(
        "You have asked for too much at once. Over the limit. It can be tried again in 2 h."
    )
    expect(visitor.trouble.get_by_role("button", name="Try again")).to_be_disabled()


def test_without_keys_nothing_is_asked(tab: Tab) -> None:
    with held_daemon() as daemon:
        visitor = tab()
        visitor.url = daemon.url
        visitor.visit()
        expect(visitor.page.get_by_role("listitem").filter(has_text="alpha")).to_be_visible()
        expect(visitor.page.get_by_label("API key", exact=True)).to_be_hidden()
        expect(visitor.button("Forget key")).to_be_hidden()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1000), ("dark", 1000), ("light", 360), ("dark", 360)])
def test_the_form_has_names_can_be_read_and_fits(tab: Tab, scheme: str, width: int) -> None:
    visitor = tab(color_scheme=scheme, reduced_motion="reduce", viewport={"width": width, "height": 740})
    visitor.visit()
    enter(visitor, "sk-arena-unknown-to-this-server")
    expect(visitor.page.get_by_role("alert").filter(has_text="does not know this key")).to_be_visible()
    assert [(r, t) for r, t in visitor.page.evaluate(CONTRASTS) if r < 4.5] == []
    assert [c for c in controls(visitor.page) if not c["name"].strip()] == []
    assert visitor.page.evaluate("document.scrollingElement.scrollWidth") <= width
    enter(visitor, ARENA)
    expect(visitor.button("Forget key")).to_be_visible()
    assert [(r, t) for r, t in visitor.page.evaluate(CONTRASTS) if r < 4.5] == []
    assert visitor.page.evaluate("document.scrollingElement.scrollWidth") <= width
