"""What the store promises, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa

from arena_server.store.battles import save_battle
from arena_server.store.database import Database
from arena_server.store.errors import AlreadyVoted
from arena_server.store.records import TurnRecord, Vote, VoteCount
from arena_server.store.schema import answers, battles, turns, votes
from arena_server.store.store import Store
from tests.store.conftest import Home, rows
from tests.store.samples import NOON, answer, battle, model, turn


async def test_a_battle_is_kept_with_all_its_facts(store: Store, home: Home) -> None:
    await store.record(battle("b1", turns=(turn("Hi", "Hello!", "Good day."),)))

    assert rows(home.url, battles) == [
        {
            "id": "b1",
            "created_at": NOON,
            **{"a_name": "small", "a_model": "org/small", "a_revision": "main"},
            **{"b_name": "large", "b_model": "org/large", "b_revision": "main"},
            "a_arguments": {"max_model_len": 256, "enforce_eager": True},
            "b_arguments": {"max_model_len": 256, "enforce_eager": True},
            "probability": 0.5,
            "paced": True,
            "sampling": {"temperature": 0.7},
            "failure": None,
        }
    ]
    assert rows(home.url, turns) == [{"battle_id": "b1", "turn": 1, "prompt": [{"role": "user", "content": "Hi"}]}]
    facts = {
        **{"battle_id": "b1", "turn": 1, "residency": "asleep", "waited_s": 1.5, "ttft_s": 0.25, "tokens_per_s": 20.0},
        **{"prompt_tokens": 7, "completion_tokens": 3, "finish_reason": "stop", "reasoning": None},
    }
    assert rows(home.url, answers) == [
        {**facts, "side": "a", "text": "Hello!"},
        {**facts, "side": "b", "text": "Good day."},
    ]


async def test_moments_are_kept_in_utc_whatever_their_zone(store: Store, home: Home) -> None:
    there = NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))
    await store.vote(battle(), Vote.A, there + timedelta(microseconds=1))
    [vote] = rows(home.url, votes)
    assert vote["at"] == NOON + timedelta(microseconds=1)
    assert vote["at"].utcoffset() == timedelta(0)


async def test_a_battle_that_goes_on_is_brought_up_to_date(store: Store, home: Home) -> None:
    first = turn()
    await store.record(battle(turns=(first,)))
    half = battle(turns=(first, TurnRecord(None, answer("Only a."), None)), failure="side b failed")
    await store.record(half)
    await store.record(half)

    assert [row["failure"] for row in rows(home.url, battles)] == ["side b failed"]
    assert [row["prompt"] for row in rows(home.url, turns)] == [[{"role": "user", "content": "Hi"}], None]
    assert [(row["turn"], row["side"], row["text"]) for row in rows(home.url, answers)] == [
        (1, "a", "Hello!"),
        (1, "b", "Good day."),
        (2, "a", "Only a."),
    ]

    await store.record(battle(turns=(first, turn("And?"))))
    assert [row["failure"] for row in rows(home.url, battles)] == [None]
    assert len(rows(home.url, answers)) == 4


async def test_no_text_is_stored_that_the_record_does_not_have(store: Store, home: Home) -> None:
    await store.vote(battle(turns=(turn(None, None, None),)), Vote.B, NOON)
    assert [row["prompt"] for row in rows(home.url, turns)] == [None]
    assert [(row["text"], row["reasoning"]) for row in rows(home.url, answers)] == [(None, None), (None, None)]


async def test_a_vote_needs_no_record_before(store: Store, home: Home) -> None:
    await store.vote(battle("b7"), Vote.TIE, NOON)
    assert rows(home.url, votes) == [{"battle_id": "b7", "vote": "tie", "at": NOON}]
    assert [row["id"] for row in rows(home.url, battles)] == ["b7"]


async def test_a_second_vote_is_refused_and_told_the_first(store: Store, home: Home) -> None:
    await store.vote(battle(), Vote.A, NOON)
    with pytest.raises(AlreadyVoted) as refused:
        await store.vote(battle(failure="late"), Vote.B, NOON)
    assert refused.value.vote is Vote.A
    assert (refused.value.status, refused.value.code) == (409, "voted")
    assert [row["vote"] for row in rows(home.url, votes)] == ["a"]
    assert [row["failure"] for row in rows(home.url, battles)] == [None], "the refused call has changed nothing"


async def test_of_votes_at_the_same_time_one_counts(store: Store, home: Home) -> None:
    """From one daemon, and from two on one database."""
    other = Store(home.url)
    await other.open()
    for n in range(10):
        choices = [(s, v) for v in (Vote.A, Vote.B, Vote.TIE) for s in (store, other)]
        results = await asyncio.gather(*(s.vote(battle(f"b{n}"), v, NOON) for s, v in choices), return_exceptions=True)
        assert sum(result is None for result in results) == 1
        kept = [v for (_, v), result in zip(choices, results, strict=True) if result is None]
        assert [r.vote for r in results if isinstance(r, AlreadyVoted)] == kept * 5
    await other.close()
    assert await store.votes() == len(rows(home.url, votes)) == 10


async def test_votes_are_counted_by_pair_vote_and_probability(store: Store) -> None:
    await store.record(battle("not voted on"))
    cast = [
        ("x", "y", Vote.A, 0.25),
        ("x", "y", Vote.A, 0.25),
        ("x", "y", Vote.A, 1 / 3),
        ("x", "y", Vote.A, None),
        ("x", "y", Vote.A, None),
        ("x", "y", Vote.BOTH_BAD, 0.25),
        ("y", "x", Vote.A, 0.25),
    ]
    for n, (a, b, vote, probability) in enumerate(cast):
        await store.vote(battle(f"b{n}", a, b, probability), vote, NOON)
    assert set(await store.tallies()) == {
        VoteCount("x", "y", Vote.A, 0.25, 2),
        VoteCount("x", "y", Vote.A, 1 / 3, 1),
        VoteCount("x", "y", Vote.A, None, 2),
        VoteCount("x", "y", Vote.BOTH_BAD, 0.25, 1),
        VoteCount("y", "x", Vote.A, 0.25, 1),
    }
    assert len(await store.tallies()) == 5
    assert await store.votes() == 7


async def test_10000_votes_are_counted_quickly(store: Store, home: Home) -> None:
    many = 10_000
    database = Database(home.url, 60)
    with database.transaction(write=True) as connection:
        save_battle(connection, battle("template"))
        [template] = connection.execute(sa.select(battles)).mappings()
        models = [f"model-{n % 7}" for n in range(many)]
        connection.execute(
            battles.insert(),
            [
                {
                    **template,
                    "id": f"b{n}",
                    "a_name": models[n],
                    "b_name": models[n - 3],
                    "probability": 1 / (2 + n % 5),
                }
                for n in range(many)
            ],
        )
        kinds = [vote.value for vote in Vote]
        connection.execute(
            votes.insert(), [{"battle_id": f"b{n}", "vote": kinds[n % 4], "at": NOON} for n in range(many)]
        )
    database.close()
    start = time.perf_counter()
    tallies = await store.tallies()
    took = time.perf_counter() - start
    assert sum(tally.count for tally in tallies) == await store.votes() == many
    assert len(tallies) < 1000
    print(f"{len(tallies)} tallies of {many} votes in {took * 1000:.0f} ms")
    assert took < 1, "the leaderboard has 2 s for everything"


AWKWARD = "NUL \x00, halves \ud83d \ude00, both \U0001f600, ' \" \\ %s :x {0} \x1b \u2028"


async def test_awkward_texts_do_no_harm(store: Store, home: Home) -> None:
    """PostgreSQL refuses NUL, drivers refuse halves of pairs: they are replaced, everything else is as it was."""
    strange = battle(turns=(turn(AWKWARD, AWKWARD, AWKWARD),), failure=AWKWARD)
    await store.vote(strange, Vote.A, NOON)
    clean = AWKWARD.replace("\x00", "\ufffd").replace("\ud83d", "\ufffd").replace("\ude00", "\ufffd")
    assert rows(home.url, turns)[0]["prompt"] == [{"role": "user", "content": clean}]
    assert [row["text"] for row in rows(home.url, answers)] == [clean, clean]
    assert rows(home.url, battles)[0]["failure"] == clean


async def test_awkward_settings_do_no_harm(store: Store, home: Home) -> None:
    odd = {"n\x00": [float("nan"), -float("inf"), 10**30, True, None, ("x",), Path("/y"), "\ud800"], "deep": {"a": {}}}
    await store.record(replace(battle(), sampling=odd, a=replace(model("x"), arguments=odd)))
    [row] = rows(home.url, battles)
    expected = {"n\ufffd": [None, None, 10**30, True, None, ["x"], "/y", "\ufffd"], "deep": {"a": {}}}
    assert row["sampling"] == row["a_arguments"] == expected


async def test_large_texts_are_kept_whole(store: Store, home: Home) -> None:
    long = "ä\n" * 1_000_000
    await store.record(battle(turns=(turn(long, long, "short"),)))
    assert rows(home.url, turns)[0]["prompt"][0]["content"] == long
    assert rows(home.url, answers)[0]["text"] == long


async def test_no_secret_of_a_model_is_stored(store: Store, home: Home) -> None:
    arguments = {"hf_token": "hf_secret", "max_model_len": 256}
    await store.record(replace(battle(), b=replace(model("x"), arguments=arguments)))
    assert rows(home.url, battles)[0]["b_arguments"] == {"max_model_len": 256}
