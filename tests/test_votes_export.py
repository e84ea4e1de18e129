"""`arena-server votes export`: the field's column names, everything that is stored, and files that are whole."""

from __future__ import annotations

import io
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from arena_server.console.votes import ExportFailed, export
from arena_server.store.errors import StoreUnavailable
from arena_server.store.export import export_votes
from arena_server.store.records import BattleRecord, TurnRecord, Vote
from arena_server.store.store import Store
from arena_server.store.url import sqlite_url
from tests.store.samples import NOON, answer, battle, turn

# https://huggingface.co/datasets/lmsys/chatbot_arena_conversations, less what judges the texts.
PUBLISHED = [
    *("question_id", "model_a", "model_b", "winner", "judge", "conversation_a", "conversation_b"),
    *("turn", "anony", "language", "tstamp"),
]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return sqlite_url(tmp_path / "arena.sqlite")


async def exported(url: str, *voted: tuple[BattleRecord, Vote]) -> list[dict[str, Any]]:
    """What is exported after these votes, cast a minute after each other."""
    store = Store(url)
    await store.open()
    for minute, (record, vote) in enumerate(voted):
        await store.vote(record, vote, NOON + timedelta(minutes=minute))
    await store.close()
    out = io.StringIO()
    assert export_votes(url, out) == len(voted)
    return [json.loads(line) for line in out.getvalue().splitlines()]


async def test_a_vote_is_a_line_in_the_columns_of_the_field(url: str) -> None:
    record = battle("b1", "small", "large", 0.5, (turn("Hi", "Hello!", "Good day."), turn("2+2?", "5", "4")))
    [row] = await exported(url, (record, Vote.B))
    assert list(row)[: len(PUBLISHED)] == PUBLISHED
    assert {name: row[name] for name in PUBLISHED} == {
        "question_id": "b1",
        "model_a": "small",
        "model_b": "large",
        "winner": "model_b",
        "judge": None,
        "conversation_a": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello!"},
            {"role": "user", "content": "2+2?"},
            {"role": "assistant", "content": "5"},
        ],
        "conversation_b": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Good day."},
            {"role": "user", "content": "2+2?"},
            {"role": "assistant", "content": "4"},
        ],
        "turn": 2,
        "anony": True,
        "language": "unknown",
        "tstamp": NOON.timestamp(),
    }


async def test_what_else_is_stored_follows_in_columns_of_our_own(url: str) -> None:
    [row] = await exported(url, (battle(probability=0.25), Vote.A))
    facts = {"residency": "asleep", "waited_s": 1.5, "ttft_s": 0.25, "tokens_per_s": 20.0}
    facts |= {"prompt_tokens": 7, "completion_tokens": 3, "finish_reason": "stop", "reasoning": None}
    settings = {"revision": "main", "arguments": {"max_model_len": 256, "enforce_eager": True}}
    assert {name: value for name, value in row.items() if name not in PUBLISHED} == {
        "probability": 0.25,
        "started": NOON.timestamp(),
        "paced": True,
        "sampling": {"temperature": 0.7},
        "serving_a": {"model": "org/small", **settings, "turns": [facts]},
        "serving_b": {"model": "org/large", **settings, "turns": [facts]},
    }


async def test_winners_are_called_as_in_the_field_and_come_in_the_order_of_their_votes(url: str) -> None:
    kinds = [Vote.TIE, Vote.B, Vote.BOTH_BAD, Vote.A]
    rows = await exported(url, *((battle(f"b{9 - n}"), vote) for n, vote in enumerate(kinds)))
    assert [(row["question_id"], row["winner"]) for row in rows] == [
        ("b9", "tie"),
        ("b8", "model_b"),
        ("b7", "tie (bothbad)"),
        ("b6", "model_a"),
    ]
    assert {row["winner"] for row in rows} == {"tie", "model_a", "model_b", "tie (bothbad)"}, "each kind of vote"
    assert len(Vote) == 4


@pytest.mark.parametrize(
    "kept_in_part",
    [
        (turn(None, None, None), turn()),
        (turn(), TurnRecord(None, answer("x"), answer("y"))),
        (turn(), turn("Hi", None, None)),
    ],
)
async def test_a_conversation_is_whole_or_missing(url: str, kept_in_part: tuple[TurnRecord, ...]) -> None:
    """Texts may have been kept for a part of it: the setting can change while the daemon runs."""
    [row] = await exported(url, (battle(turns=kept_in_part), Vote.A))
    assert (row["conversation_a"], row["conversation_b"], row["turn"]) == (None, None, 2)


async def test_battles_without_a_vote_are_not_votes(url: str) -> None:
    store = Store(url)
    await store.record(battle("unvoted"))
    await store.close()
    assert [row["question_id"] for row in await exported(url, (battle("voted"), Vote.A))] == ["voted"]


async def test_any_text_survives_any_encoding(url: str) -> None:
    text = 'Grüße, 世界 \U0001f600 \u2028 "quoted" \\ back\nnext'
    [row] = await exported(url, (battle(turns=(turn(text, text, text),)), Vote.A))
    assert [message["content"] for message in row["conversation_a"]] == [text, text]
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert export_votes(url, out) == 1


async def test_to_a_file_and_to_standard_output(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [row] = await exported(url, (battle(), Vote.A))
    folder = tmp_path / "out"
    folder.mkdir()
    file = folder / "votes.jsonl"
    assert export(url, file) == 0
    assert json.loads(contents(file)) == row
    assert capsys.readouterr() == ("", f"{file}: 1 vote\n")
    assert export(url, None) == 0
    assert json.loads(capsys.readouterr().out) == row
    assert [f.name for f in folder.iterdir()] == ["votes.jsonl"]


def contents(file: Path) -> str:
    return file.read_text()


def test_a_failed_export_leaves_the_file_of_before(tmp_path: Path) -> None:
    file = tmp_path / "votes.jsonl"
    file.write_text("before")
    with pytest.raises(StoreUnavailable, match="unable to open"):
        export(sqlite_url(tmp_path / "nothing" / "arena.sqlite"), file)
    assert [f.name for f in tmp_path.iterdir()] == ["votes.jsonl"], "and it makes no database"
    assert file.read_text() == "before"


async def test_a_file_that_cannot_be_written_says_so(url: str, tmp_path: Path) -> None:
    await exported(url, (battle(), Vote.A))
    with pytest.raises(ExportFailed, match=r"nowhere/votes\.jsonl: No such file or directory"):
        export(url, tmp_path / "nowhere" / "votes.jsonl")
