"""Blind battles, from the prompt to the reveal, and all that may come between."""

from __future__ import annotations

import re

from playwright.sync_api import Route, expect

from tests.page.answers import saying
from tests.page.daemon import HeldDaemon
from tests.page.visitor import Visitor

REVEAL = re.compile("^A was (.+), B was (.+)$")
TEXTS = {"alpha": "I am *the first*.", "beta": "I am *the second*.", "org/gamma": "I am *the third*."}
VEIL = "hidden until you vote"


def let_them_say(daemon: HeldDaemon, texts: dict[str, str] = TEXTS) -> None:
    def tell(name: str, text: str) -> None:
        daemon.do(lambda d: setattr(d.engines[name], "reply", saying(re.findall(r"\s*\S+", text))))

    for name, text in texts.items():
        tell(name, text)


def test_a_battle_from_the_prompt_to_the_reveal(visitor: Visitor, daemon: HeldDaemon) -> None:
    let_them_say(daemon)
    daemon.engines(lambda e: e.chunks.hold())
    visitor.visit()
    strip = visitor.page.get_by_role("region", name="Where the models are")
    expect(strip).to_contain_text("alpha")

    visitor.ask("Who are you?")
    expect(visitor.answer("a")).to_contain_text("About to answer")
    expect(strip).to_contain_text(VEIL)
    expect(strip.locator("summary")).to_be_hidden()
    expect(strip.locator("li")).to_have_count(0)  # not even out of sight
    assert visitor.button("A is better").is_hidden()
    daemon.engines(lambda e: e.chunks.release())
    expect(visitor.announced).to_contain_text("Both answers are complete")
    board = visitor.page.locator(".view:visible .board").inner_text()
    assert not any(name in board for name in TEXTS)
    expect(strip).to_contain_text(VEIL)

    visitor.button("B is better").click()
    heading = visitor.page.get_by_role("heading", name=REVEAL)
    expect(heading).to_be_focused()
    found = REVEAL.match(heading.inner_text())
    assert found is not None
    for side, name in zip("ab", found.groups(), strict=True):
        expect(visitor.answer(side).get_by_role("heading")).to_have_text(f"{side.upper()} {name}")
        expect(visitor.answer(side).locator("em")).to_have_text(TEXTS[name].split("*")[1])
    row = visitor.page.get_by_role("row").filter(has=visitor.page.get_by_role("cell", name="B", exact=True))
    expect(row).to_contain_text(found[2])
    expect(row).to_contain_text("cold")
    expect(visitor.page.get_by_text("You said: B is better")).to_be_visible()
    expect(strip.get_by_role("listitem")).to_have_count(3)


def test_the_pair_can_be_chosen_and_the_sampling_set(visitor: Visitor, daemon: HeldDaemon) -> None:
    let_them_say(daemon)
    visitor.visit()
    visitor.page.get_by_label("Pair").select_option("chosen")
    visitor.page.locator(".view:visible").get_by_label("First model").select_option("org/gamma")
    visitor.page.locator(".view:visible").get_by_label("Second model").select_option("beta")
    visitor.page.locator("summary:visible", has_text="Sampling settings").click()
    visitor.page.locator(".view:visible").get_by_label("Temperature").fill("0.3")
    visitor.page.locator(".view:visible").get_by_label("System prompt").fill("Be short.")
    visitor.ask("Who are you?")
    visitor.button("Tie").click()
    expect(visitor.page.get_by_role("heading", name=REVEAL)).to_be_visible()
    for name in ("beta", "org/gamma"):
        asked = daemon.do(lambda d, name=name: d.engines[name].inference[0].json())  # type: ignore[misc]
        assert asked["temperature"] == 0.3
        assert [m["content"] for m in asked["messages"]] == ["Be short.", "Who are you?"]

    visitor.page.reload()
    visitor.page.locator("summary:visible", has_text="Sampling settings (2 changed)").click()
    expect(visitor.page.locator(".view:visible").get_by_label("Temperature")).to_have_value("0.3")
    visitor.page.locator("button:visible", has_text="Back to the defaults").click()
    expect(visitor.page.locator(".view:visible").get_by_label("Temperature")).to_have_value("")


def test_a_battle_goes_on_with_both(visitor: Visitor, daemon: HeldDaemon) -> None:
    let_them_say(daemon)
    visitor.visit()
    visitor.ask("Who are you?")
    expect(visitor.button("Tie")).to_be_visible()
    visitor.ask("And who else?")
    expect(visitor.answer("b", turn=2)).to_contain_text("I am the")
    visitor.button("Both bad").click()
    expect(visitor.page.get_by_role("heading", name=REVEAL)).to_be_visible()
    expect(visitor.page.get_by_role("cell", name="2", exact=True)).to_have_count(2)
    asked = daemon.do(lambda d: [e.inference[-1].json() for e in d.engines.values() if e.inference])
    assert {len(body["messages"]) for body in asked} == {3}


def test_stopping_keeps_what_came_and_frees_the_engines(visitor: Visitor, daemon: HeldDaemon) -> None:
    let_them_say(daemon)
    daemon.engines(lambda e: e.chunks.hold())
    visitor.visit()
    visitor.ask("Who are you?")
    daemon.wait(lambda d: sum(bool(e.inference) for e in d.engines.values()) == 2, "both to be asked")
    daemon.engines(lambda e: e.chunks.release(2))
    expect(visitor.answer("a")).to_contain_text("I am")
    visitor.button("Stop").click()
    expect(visitor.trouble).to_contain_text("You stopped this battle")
    expect(visitor.answer("a")).to_contain_text("cut short")
    expect(visitor.answer("a")).to_contain_text("I am")
    daemon.wait(lambda d: all(e.inference[0].aborted for e in d.engines.values() if e.inference), "both to be free")

    daemon.engines(lambda e: e.chunks.release())
    visitor.button("Try again").click()
    expect(visitor.button("A is better")).to_be_visible()
    expect(visitor.page.get_by_text("Who are you?")).to_have_count(1)


def test_a_reload_before_the_vote_takes_the_battle_up_again(visitor: Visitor, daemon: HeldDaemon) -> None:
    let_them_say(daemon)
    visitor.visit()
    visitor.ask("Who are you?")
    expect(visitor.button("A is better")).to_be_visible()
    visitor.page.reload()
    expect(visitor.answer("a").locator("em")).to_contain_text("the ")
    expect(visitor.page.get_by_text("Who are you?")).to_be_visible()
    expect(visitor.page.get_by_text(VEIL)).to_be_visible()
    visitor.button("A is better").click()
    expect(visitor.page.get_by_role("heading", name=REVEAL)).to_be_visible()
    visitor.page.reload()
    expect(visitor.page.get_by_role("heading", name=REVEAL)).to_be_visible()


def test_a_reload_while_they_answer_says_why_there_is_no_vote(visitor: Visitor, daemon: HeldDaemon) -> None:
    let_them_say(daemon)
    daemon.engines(lambda e: e.chunks.hold())
    visitor.visit()
    visitor.ask("Who are you?")
    daemon.wait(lambda d: sum(bool(e.inference) for e in d.engines.values()) == 2, "both to be asked")
    daemon.engines(lambda e: e.chunks.release(2))
    expect(visitor.answer("b")).to_contain_text("I am")
    visitor.page.reload()
    expect(visitor.trouble).to_contain_text("This battle cannot be voted on")
    expect(visitor.answer("b")).to_contain_text("I am")
    assert visitor.button("A is better").is_hidden()


def test_a_side_that_fails_ends_the_battle(visitor: Visitor, daemon: HeldDaemon) -> None:
    let_them_say(daemon, {"alpha": "x", "beta": "x", "org/gamma": "x"})
    daemon.engines(lambda e: setattr(e, "reply", saying(["x"], finish_reason="")))
    visitor.visit()
    visitor.ask("Who are you?")
    expect(visitor.trouble).to_contain_text("This battle cannot be voted on")
    expect(visitor.button("Try again")).to_be_enabled()
    assert visitor.button("A is better").is_hidden()


def test_a_refused_battle_keeps_the_prompt_and_says_when_to_try_again(visitor: Visitor, daemon: HeldDaemon) -> None:
    let_them_say(daemon)
    visitor.visit()
    body = '{"error": {"message": "Too many wait.", "type": "x", "param": null, "code": "queue_full"}}'

    def refuse(route: Route) -> None:
        route.fulfill(status=429, headers={"retry-after": "1", "content-type": "application/json"}, body=body)

    visitor.page.route("**/v1/arena/battles", refuse, times=1)
    visitor.ask("Who are you?")
    expect(visitor.trouble).to_contain_text("The server is busy. Too many wait.")
    expect(visitor.box).to_have_value("Who are you?")
    expect(visitor.page.locator(".veil")).to_be_hidden()
    again = visitor.trouble.get_by_role("button", name="Try again")
    expect(again).to_be_disabled()
    again.click()  # waits until it can be
    expect(visitor.button("A is better")).to_be_visible()
    expect(visitor.box).to_have_value("")


def test_a_server_that_is_gone_is_said_to_be(visitor: Visitor) -> None:
    visitor.visit()
    visitor.page.route("**/v1/arena/battles", lambda route: route.abort(), times=1)
    visitor.ask("Who are you?")
    expect(visitor.trouble).to_contain_text("The server cannot be reached")
    expect(visitor.box).to_have_value("Who are you?")


def test_a_battle_that_has_expired_is_said_to_have(visitor: Visitor) -> None:
    visitor.visit()
    visitor.page.evaluate("sessionStorage.setItem('arena.battle', 'gone')")
    visitor.page.reload()
    expect(visitor.trouble).to_contain_text("This battle has expired")
    expect(visitor.page.locator(".veil")).to_be_hidden()


def test_a_vote_that_was_not_recorded_can_be_given_again(visitor: Visitor, daemon: HeldDaemon) -> None:
    let_them_say(daemon)
    visitor.visit()
    body = '{"error": {"message": "The disk is full.", "type": "x", "param": null, "code": "store_unavailable"}}'
    visitor.page.route("**/vote", lambda r: r.fulfill(status=503, content_type="application/json", body=body), times=1)
    visitor.ask("Who are you?")
    visitor.button("A is better").click()
    expect(visitor.trouble).to_contain_text("Your vote was not recorded. Not to be had right now. The disk is full.")
    visitor.button("B is better").click()
    expect(visitor.page.get_by_text("You said: B is better")).to_be_visible()


def test_a_vote_whose_answer_was_lost_counts_once(visitor: Visitor, daemon: HeldDaemon) -> None:
    let_them_say(daemon)
    visitor.visit()

    def lose(route: Route) -> None:
        route.fetch()
        route.abort()

    visitor.page.route("**/vote", lose, times=1)
    visitor.ask("Who are you?")
    visitor.button("A is better").click()
    expect(visitor.trouble).to_contain_text("Your vote was not recorded. The server cannot be reached.")
    visitor.button("B is better").click()
    expect(visitor.page.get_by_text("You said: A is better")).to_be_visible()
