"""What clients' names stand for: models, aliases, and aliases that are split by weight."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from arena_server.api.names import Catalogue
from arena_server.caller import Caller
from arena_server.config import Config
from arena_server.errors import ModelNotAllowed, ModelNotFound

MODELS: dict[str, Any] = {
    "old": {"model": "org/old", "aliases": ["o"], "fallback": ["new", "third"]},
    "new": {"model": "org/new"},
    "third": {"model": "org/third"},
}
PEOPLE = [f"person {i}" for i in range(4000)]


def catalogue(**aliases: Any) -> Catalogue:
    return Catalogue(Config.model_validate({"models": MODELS, "aliases": aliases}), {})


def drawn(**weights: float) -> dict[str, str]:
    names = catalogue(chat=weights)
    return {person: names.resolve("chat", person) for person in PEOPLE}


def moved(before: dict[str, str], after: dict[str, str]) -> Counter[tuple[str, str]]:
    return Counter((before[p], after[p]) for p in PEOPLE if before[p] != after[p])


def test_names_and_aliases_stand_for_one_model() -> None:
    names = catalogue(chat="new")
    assert [names.resolve(name, "whoever") for name in ("old", "o", "chat")] == ["old", "old", "new"]
    assert dict(names.items()) == {
        "old": ("old",), "new": ("new",), "third": ("third",), "o": ("old",), "chat": ("new",)
    }  # fmt: skip


def test_each_gets_its_part() -> None:
    counts = Counter(drawn(old=90, new=10).values())
    assert counts.keys() == {"old", "new"}
    assert 0.08 < counts["new"] / len(PEOPLE) < 0.12
    assert Counter(drawn(old=0.9, new=0.1).values()) == counts, "only their ratio counts"


def test_each_of_three_gets_its_part() -> None:
    counts = Counter(drawn(old=80, new=15, third=5).values())
    for name, part in (("old", 0.8), ("new", 0.15), ("third", 0.05)):
        assert abs(counts[name] / len(PEOPLE) - part) < 0.02


def test_one_of_no_weight_gets_nobody() -> None:
    assert set(drawn(old=0, new=1e-9).values()) == {"new"}


def test_somebody_always_gets_the_same_in_every_process() -> None:
    code = (
        "from tests.test_names import drawn, PEOPLE; found = drawn(old=1, new=1, third=1);"
        "print(''.join(found[p][0] for p in PEOPLE))"
    )
    env = {**os.environ, "PYTHONHASHSEED": "7"}
    other = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    found = drawn(old=1, new=1, third=1)
    assert other.stdout.strip() == "".join(found[p][0] for p in PEOPLE)


def test_more_weight_moves_only_those_that_it_must() -> None:
    before = drawn(old=90, new=10)
    after = drawn(old=80, new=20)
    moves = moved(before, after)
    assert moves.keys() == {("old", "new")}, "nobody goes the other way"
    # A tenth has to move.
    assert 0.08 < moves.total() / len(PEOPLE) < 0.12


def test_one_more_takes_from_all_and_moves_nobody_between_the_others() -> None:
    moves = moved(drawn(old=1, new=1), drawn(old=1, new=1, third=1))
    assert moves.keys() == {("old", "third"), ("new", "third")}


def test_aliases_are_split_independently() -> None:
    names = catalogue(chat={"old": 1, "new": 1}, code={"old": 1, "new": 1})
    both = Counter((names.resolve("chat", p), names.resolve("code", p)) for p in PEOPLE)
    assert len(both) == 4
    assert min(both.values()) > len(PEOPLE) / 5


@given(st.text(), st.dictionaries(st.sampled_from(list(MODELS)), st.floats(0, 1e6), min_size=1))
def test_whatever_the_weights_somebody_with_weight_is_drawn(sticky: str, weights: dict[str, float]) -> None:
    if any(weights.values()):
        assert weights[catalogue(chat=weights).resolve("chat", sticky)] > 0


def test_fallbacks_are_the_models_own() -> None:
    assert catalogue().fallbacks("old") == ("new", "third")
    assert catalogue().fallbacks("new") == ()


def test_who_may_ask_only_some_is_told_of_those_alone() -> None:
    names = catalogue(chat={"old": 90, "new": 10}, mine={"new": 1, "third": 0}, all="third")
    caller = Caller(models=frozenset({"new", "all"}))
    # `chat` would give it the old one now and then.
    assert names.visible(caller) == ["new", "mine", "all"]
    with pytest.raises(ModelNotFound) as raised:
        names.resolve("nobody", "", caller)
    assert raised.value.message == "The model `nobody` does not exist. Available models: `new`, `mine`, `all`."
    caller.check_model("mine", names.resolve("mine", "", caller))
    with pytest.raises(ModelNotAllowed):
        caller.check_model("old", names.resolve("old", "", caller))


def test_what_is_split_is_shown_by_the_heaviest_first() -> None:
    assert catalogue(chat={"old": 10, "new": 90, "third": 0}).targets("chat") == ("new", "old")
    with pytest.raises(ModelNotFound):
        catalogue().targets("nobody")


def test_an_alias_is_for_those_who_may_ask_all_that_it_stands_for_or_itself() -> None:
    """Else it would be refused for some sessions and not for others, and shown or not accordingly."""
    names = catalogue(chat={"old": 90, "new": 10})
    some, both, itself = (Caller(models=frozenset(m)) for m in ({"old"}, {"old", "new"}, {"chat"}))
    for person in PEOPLE[:50]:
        with pytest.raises(ModelNotAllowed):
            names.resolve("chat", person, some)
        for caller in (both, itself):
            assert names.resolve("chat", person, caller) in ("old", "new")
    with pytest.raises(ModelNotAllowed):
        names.targets("chat", some)
    assert "chat" not in names.visible(some)
    for caller in (both, itself):
        assert names.targets("chat", caller) == ("old", "new")
        assert "chat" in names.visible(caller)


def test_weights_are_bounded() -> None:
    """Two near the largest number have no sum."""
    with pytest.raises(ValidationError):
        catalogue(chat={"old": 1e308, "new": 1e308})
