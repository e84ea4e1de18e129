"""Votes as the field publishes its battle data, a JSON object a line.

The first columns are those of https://huggingface.co/datasets/lmsys/chatbot_arena_conversations, in its order and with
its values, so that programs made for it read ours. Of its columns `openai_moderation` and `toxic_chat_tag` are missing:
nobody has judged the texts here. Our own columns come after them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from types import MappingProxyType
from typing import Any, TextIO

from sqlalchemy import Connection, RowMapping, select

from arena_server.store.database import Database
from arena_server.store.records import Vote
from arena_server.store.schema import answers, battles, turns, votes

WINNERS = MappingProxyType(
    {Vote.A: "model_a", Vote.B: "model_b", Vote.TIE: "tie", Vote.BOTH_BAD: "tie (bothbad)"},
)
FACTS = (
    "residency",
    "waited_s",
    "ttft_s",
    "tokens_per_s",
    "prompt_tokens",
    "completion_tokens",
    "finish_reason",
    "reasoning",
)
BATCH = 100  # battles in memory at a time; with their texts
# Nobody waits for an answer but the one who exports; many votes may have to be sorted first.
TIMEOUT_S = 60.0


def export_votes(url: str, out: TextIO) -> int:
    """Write all votes to `out`, oldest first. Returns how many. Raises StoreUnavailable, and what `out` raises.

    In ASCII, other characters as JSON's escapes: nothing is lost whatever `out` can encode.
    """
    count = 0
    for row in export_rows(url):
        out.write(json.dumps(row) + "\n")
        count += 1
    return count


def export_rows(url: str) -> Iterator[dict[str, Any]]:
    """The votes as they are now, oldest first; the daemon may go on meanwhile. Raises StoreUnavailable."""
    database = Database(url, TIMEOUT_S, reader=True)
    query = select(battles, votes.c.vote, votes.c.at).join_from(votes, battles).order_by(votes.c.at, votes.c.battle_id)
    try:
        with database.transaction(write=False) as connection:
            result = connection.execute(query, execution_options={"yield_per": BATCH})
            for batch in result.mappings().partitions():
                rounds = _rounds(connection, [battle["id"] for battle in batch])
                for battle in batch:
                    yield _row(battle, rounds.get(battle["id"], []))
    finally:
        database.close()


# One turn: its prompt, and each side's answer.
_Round = tuple[list[dict[str, Any]] | None, dict[str, RowMapping]]


def _rounds(connection: Connection, ids: Sequence[str]) -> dict[str, list[_Round]]:
    """Each battle's turns in order, by the battle's id."""
    of_ids = answers.c.battle_id.in_(ids)
    given = {
        (row["battle_id"], row["turn"], row["side"]): row
        for row in connection.execute(select(answers).where(of_ids)).mappings()
    }
    asked = connection.execute(
        select(turns).where(turns.c.battle_id.in_(ids)).order_by(turns.c.battle_id, turns.c.turn)
    ).mappings()
    return {
        battle: [
            (row["prompt"], {side: given[key] for side in "ab" if (key := (battle, row["turn"], side)) in given})
            for row in rows
        ]
        for battle, rows in groupby(asked, key=lambda row: row["battle_id"])
    }


def _row(battle: Mapping[Any, Any], rounds: Sequence[_Round]) -> dict[str, Any]:
    return {
        "question_id": battle["id"],
        "model_a": battle["a_name"],
        "model_b": battle["b_name"],
        "winner": WINNERS[Vote(battle["vote"])],
        "judge": None,  # nobody is asked who they are
        "conversation_a": _conversation("a", rounds),
        "conversation_b": _conversation("b", rounds),
        "turn": len(rounds),
        "anony": True,  # names are hidden until the vote, also those of a pair that was chosen
        "language": "unknown",  # as the field's data has it where it was not recognised
        "tstamp": battle["at"].timestamp(),
        "probability": battle["probability"],  # with which the pair was drawn; null if it was chosen
        "started": battle["created_at"].timestamp(),
        "paced": battle["paced"],
        "sampling": battle["sampling"],
        "serving_a": _serving("a", battle, rounds),
        "serving_b": _serving("b", battle, rounds),
    }


def _conversation(side: str, rounds: Sequence[_Round]) -> list[dict[str, Any]] | None:
    """In OpenAI's form; None unless all of its texts were kept (`arena.store_texts`)."""
    messages: list[dict[str, Any]] = []
    for prompt, given in rounds:
        answer = given.get(side)
        if prompt is None or answer is None or answer["text"] is None:
            return None
        messages += [*prompt, {"role": "assistant", "content": answer["text"]}]
    return messages


def _serving(side: str, battle: Mapping[Any, Any], rounds: Sequence[_Round]) -> dict[str, Any]:
    return {
        "model": battle[f"{side}_model"],
        "revision": battle[f"{side}_revision"],
        "arguments": battle[f"{side}_arguments"],
        "turns": [{fact: given[side][fact] for fact in FACTS} if side in given else None for _, given in rounds],
    }
