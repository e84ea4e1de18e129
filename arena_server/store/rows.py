"""Battles as rows of the tables: what goes where, and in a form that every database takes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from arena_server.store.records import AnswerRecord, BattleRecord, ModelRecord

# PostgreSQL's texts hold no NUL, and neither database a half of a UTF-16 pair, which JSON can put into a Python text.
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# Arguments that are not stored: votes are exported to be published.
SECRETS = frozenset({"hf_token"})


def storable(value: Any) -> Any:
    """`value` as JSON that both databases take: NUL and lone surrogates replaced, numbers that are none as None.

    Other things than JSON's (paths, say) become texts.
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_text(str(key)): storable(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [storable(item) for item in value]
    return _text(str(value))


def battle_row(battle: BattleRecord) -> dict[str, Any]:
    """The row of `arena_battles`."""
    return {
        "id": battle.id,
        "created_at": battle.created_at,
        **_model("a", battle.a),
        **_model("b", battle.b),
        "probability": storable(battle.probability),
        "paced": battle.paced,
        "sampling": storable(battle.sampling),
        "failure": storable(battle.failure),
    }


def turn_rows(battle: BattleRecord) -> list[dict[str, Any]]:
    """The rows of `arena_turns`, counted from 1."""
    return [
        {"battle_id": battle.id, "turn": number, "prompt": storable(turn.prompt)}
        for number, turn in enumerate(battle.turns, 1)
    ]


def answer_rows(battle: BattleRecord) -> list[dict[str, Any]]:
    """The rows of `arena_answers`."""
    return [
        {"battle_id": battle.id, "turn": number, "side": side, **_answer(answer)}
        for number, side, answer in _answers(battle)
    ]


def _answers(battle: BattleRecord) -> Iterator[tuple[int, str, AnswerRecord]]:
    for number, turn in enumerate(battle.turns, 1):
        for side, answer in (("a", turn.a), ("b", turn.b)):
            if answer is not None:
                yield number, side, answer


def _model(side: str, model: ModelRecord) -> dict[str, Any]:
    return {
        f"{side}_name": _text(model.name),
        f"{side}_model": _text(model.model),
        f"{side}_revision": storable(model.revision),
        f"{side}_arguments": storable({name: v for name, v in model.arguments.items() if name not in SECRETS}),
    }


def _answer(answer: AnswerRecord) -> dict[str, Any]:
    return {
        "residency": _text(answer.residency),
        "waited_s": answer.waited_s,
        "ttft_s": storable(answer.ttft_s),
        "tokens_per_s": storable(answer.tokens_per_s),
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "finish_reason": storable(answer.finish_reason),
        "text": storable(answer.text),
        "reasoning": storable(answer.reasoning),
    }


def _text(text: str) -> str:
    return UNSTORABLE.sub(REPLACEMENT, text)
