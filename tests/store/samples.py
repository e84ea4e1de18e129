"""Battles to store."""

from __future__ import annotations

from datetime import UTC, datetime

from arena_server.store.records import AnswerRecord, BattleRecord, ModelRecord, TurnRecord

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def model(name: str) -> ModelRecord:
    return ModelRecord(name, f"org/{name}", "main", {"max_model_len": 256, "enforce_eager": True})


def answer(text: str | None = "Hello!") -> AnswerRecord:
    return AnswerRecord("asleep", 1.5, 0.25, 20.0, 7, 3, "stop", text, None)


def turn(question: str | None = "Hi", a: str | None = "Hello!", b: str | None = "Good day.") -> TurnRecord:
    prompt = None if question is None else [{"role": "user", "content": question}]
    return TurnRecord(prompt, answer(a), answer(b))


def battle(
    id: str = "b1",
    a: str = "small",
    b: str = "large",
    probability: float | None = 0.5,
    turns: tuple[TurnRecord, ...] = (turn(),),
    failure: str | None = None,
) -> BattleRecord:
    return BattleRecord(id, NOON, model(a), model(b), probability, True, {"temperature": 0.7}, turns, failure)
