"""Named models side by side, and where they are meanwhile."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from arena_server.engine.base import LoadProgress
from tests.page.answers import saying
from tests.page.conftest import Tab
from tests.page.daemon import HeldDaemon
from tests.page.visitor import Visitor


def answer_by_name(daemon: HeldDaemon) -> None:
    daemon.engines(lambda e: setattr(e, "reply", saying([f"{e.name} ", "says ", "yes."])))


def test_a_cold_model_is_seen_to_come_up(visitor: Visitor, daemon: HeldDaemon) -> None:
    answer_by_name(daemon)
    daemon.engines(lambda e: e.load_gate.hold())
    visitor.visit("compare")
    strip = visitor.page.get_by_role("region", name="Where the models are")
    alpha, gamma = (strip.get_by_role("listitem").filter(has_text=name) for name in ("alpha", "gamma"))
    expect(alpha).to_have_text(re.compile("alpha.*cold"))
    visitor.ask("Is it so?")
    # One load at a time on a device.
    expect(alpha).to_contain_text("loading")
    expect(visitor.answer("a")).to_contain_text("Loading alpha")
    expect(visitor.answer("a").get_by_role("progressbar")).to_be_visible()
    daemon.do(lambda d: setattr(d.engines["alpha"], "progress", LoadProgress("weights", 0.4)))
    expect(alpha).to_contain_text("weights 40 %")
    expect(alpha.get_by_role("progressbar")).to_have_attribute("value", "0.4")
    expect(visitor.announced).to_contain_text(re.compile("Coming up|Waiting"))
    daemon.engines(lambda e: e.load_gate.release())
    expect(visitor.answer("a")).to_contain_text("alpha says yes.")
    expect(visitor.answer("b")).to_contain_text("beta says yes.")
    expect(visitor.answer("b").get_by_role("heading", name="B beta")).to_be_visible()
    expect(visitor.answer("b")).to_contain_text(re.compile(r"waited .*first text after .*3 tokens"))
    expect(alpha).to_have_text(re.compile("alpha.*awake"))
    expect(gamma).to_have_text(re.compile("gamma.*cold"))
    expect(visitor.announced).to_have_text("All answers are complete.")


def test_the_strip_does_without_the_events(visitor: Visitor, daemon: HeldDaemon) -> None:
    visitor.page.route("**/admin/**", lambda route: route.fulfill(status=403, body="no"))
    visitor.visit("compare")
    alpha = visitor.page.get_by_role("listitem").filter(has_text="alpha")
    expect(alpha).to_contain_text("cold")
    daemon.do(lambda d: d.pool.load("alpha"))
    expect(alpha).to_contain_text("awake")


def test_each_side_goes_on_with_its_own_answers(visitor: Visitor, daemon: HeldDaemon) -> None:
    answer_by_name(daemon)
    visitor.visit("compare")
    visitor.ask("Is it so?")
    expect(visitor.announced).to_have_text("All answers are complete.")
    visitor.ask("Really?")
    expect(visitor.answer("b", turn=2)).to_contain_text("beta says yes.")
    expect(visitor.page.get_by_label("First model").locator("visible=true")).to_be_disabled()
    for name in ("alpha", "beta"):
        asked = daemon.do(lambda d, name=name: d.engines[name].inference[1].json())  # type: ignore[misc]
        said = [(m["role"], m["content"]) for m in asked["messages"]]
        assert said == [("user", "Is it so?"), ("assistant", f"{name} says yes."), ("user", "Really?")]
    visitor.button("New comparison").click()
    expect(visitor.box).to_be_focused()
    expect(visitor.page.get_by_text("Really?")).to_have_count(0)


def test_models_that_do_not_fit_together_answer_one_after_the_other(visitor: Visitor, daemon: HeldDaemon) -> None:
    answer_by_name(daemon)
    visitor.visit("compare")
    visitor.button("One model more").click()
    expect(visitor.button("One model more")).to_be_disabled()
    visitor.ask("Is it so?")
    expect(visitor.answer("c")).to_contain_text("org/gamma says yes.")
    expect(visitor.answer("a")).to_contain_text("alpha says yes.")
    expect(visitor.page.get_by_text("do not fit into memory together")).to_be_visible()


def test_nobody_is_compared_with_itself(visitor: Visitor) -> None:
    visitor.visit("compare")
    first, second = (visitor.page.locator(".view:visible").get_by_label(f"{n} model") for n in ("First", "Second"))
    expect(second).to_have_value("beta")
    first.select_option("beta")
    expect(second).to_have_value("alpha")


def test_stopping_keeps_what_came(visitor: Visitor, daemon: HeldDaemon) -> None:
    answer_by_name(daemon)
    daemon.engines(lambda e: e.chunks.hold())
    visitor.visit("compare")
    visitor.ask("Is it so?")
    daemon.wait(lambda d: d.engines["alpha"].inference and d.engines["beta"].inference, "both to be asked")
    daemon.do(lambda d: d.engines["beta"].chunks.release(2))
    expect(visitor.answer("b")).to_contain_text("beta says")
    visitor.button("Stop").click()
    expect(visitor.answer("b")).to_contain_text("cut short")
    expect(visitor.answer("b")).to_contain_text("beta says")
    daemon.wait(lambda d: d.engines["alpha"].inference[0].aborted, "the engine to be free")
    expect(visitor.box).to_be_focused()
    daemon.engines(lambda e: e.chunks.release())
    visitor.ask("Really?")
    expect(visitor.announced).to_have_text("All answers are complete.")
    # The side that had said nothing was never asked, as far as it knows.
    asked = daemon.do(lambda d: [len(d.engines[n].inference[1].json()["messages"]) for n in ("alpha", "beta")])
    assert asked == [1, 3]


def test_a_side_that_fails_leaves_the_other_alone(visitor: Visitor, daemon: HeldDaemon) -> None:
    answer_by_name(daemon)
    daemon.do(lambda d: d.engines["beta"].fail_loads("no such file"))
    daemon.do(lambda d: setattr(d.engines["alpha"], "reply", saying(["alpha ", "says yes."])))
    visitor.visit("compare")
    visitor.button("One model more").click()
    visitor.ask("Is it so?")
    expect(visitor.answer("a")).to_contain_text("alpha says yes.")
    expect(visitor.answer("b").locator(".failure")).to_contain_text("no such file")


def test_a_refused_comparison_keeps_the_prompt(visitor: Visitor, daemon: HeldDaemon) -> None:
    answer_by_name(daemon)
    visitor.visit("compare")
    body = '{"error": {"message": "No room.", "type": "x", "param": null, "code": null}}'
    visitor.page.route(
        "**/compare", lambda r: r.fulfill(status=503, content_type="application/json", body=body), times=1
    )
    visitor.ask("Is it so?")
    expect(visitor.trouble).to_contain_text("Not to be had right now. No room.")
    expect(visitor.box).to_have_value("Is it so?")
    expect(visitor.page.locator(".view:visible").get_by_label("First model")).to_be_enabled()
    visitor.button("Try again").click()
    expect(visitor.answer("b")).to_contain_text("beta says yes.")
    expect(visitor.page.locator(".turn")).to_have_count(1)


def test_thoughts_are_folded_away(visitor: Visitor, daemon: HeldDaemon) -> None:
    daemon.engines(lambda e: setattr(e, "reply", saying(["yes."], thoughts="Let me <b>see</b>.")))
    visitor.visit("compare")
    visitor.ask("Is it so?")
    expect(visitor.answer("a")).to_contain_text("yes.")
    thoughts = visitor.answer("a").get_by_text("Let me <b>see</b>.")
    expect(thoughts).to_be_hidden()
    visitor.answer("a").get_by_text("Thoughts").click()
    expect(thoughts).to_be_visible()


@pytest.mark.parametrize("secure", [True, False], ids=["https", "http"])
def test_code_can_be_copied(tab: Tab, daemon: HeldDaemon, secure: bool) -> None:
    daemon.engines(lambda e: setattr(e, "reply", saying(["```py\nx = '<b>'\n", "y = 2\n", "```\ndone"])))
    visitor = tab(permissions=["clipboard-read", "clipboard-write"])
    if not secure:  # there, browsers have no clipboard object
        visitor.page.add_init_script("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    visitor.visit("compare")
    visitor.ask("Is it so?")
    expect(visitor.answer("a")).to_contain_text("done")
    visitor.answer("a").get_by_role("button", name="Copy code").click()
    expect(visitor.announced).to_have_text("Code copied")
    visitor.box.focus()
    visitor.page.keyboard.press("Control+V")
    expect(visitor.box).to_have_value("x = '<b>'\ny = 2")
