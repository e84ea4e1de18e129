"""An evening at the demo's arena: blind battles over questions with known answers, and a judge who knows these."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import aiohttp
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from arena_server.demo.events import events
from arena_server.demo.questions import Question, questions

QUESTIONS = 12
OPTIONS: dict[str, Any] = {"max_tokens": 160, "temperature": 0}
VERDICTS = {"a": "a is right", "b": "b is right", "tie": "both are right", "both_bad": "both are wrong"}


async def hold_evening(console: Console, client: aiohttp.ClientSession, models: Sequence[str]) -> list[str]:
    """Let every pair of the models answer all questions, and show the leaderboard that comes of it.

    Returns what was not as it should be: the models are given best first, and should be ranked so.
    """
    asked = questions(seed=1)[:QUESTIONS]
    pairs = list(combinations(models, 2))
    console.print(f"\nNow {len(pairs) * len(asked)} blind battles; a judge who knows the answers votes:")
    faults: list[str] = []
    with Live(console=console, auto_refresh=False) as live:
        number = 0
        for pair in pairs:
            for question in asked:
                number += 1
                line = await _fight(client, pair, question, faults)
                live.update(Text(f"  {number} of {len(pairs) * len(asked)}: {line}", overflow="ellipsis", no_wrap=True))
                live.refresh()
    if not console.is_terminal:
        console.print()  # there, Live leaves the cursor behind what it drew
    async with client.get("/v1/arena/leaderboard") as response:
        board = await response.json()
    console.print(_table(board))
    ranked = [model["model"] for model in board["models"]]
    if not faults and ranked != list(models):
        faults.append(f"the leaderboard says {', '.join(ranked)}; it should say {', '.join(models)}")
    return faults


async def _fight(client: aiohttp.ClientSession, pair: Sequence[str], question: Question, faults: list[str]) -> str:
    """One battle, its vote, and what to say of it; what goes wrong goes to `faults`."""
    texts = {"a": "", "b": ""}
    messages = [{"role": "user", "content": question.prompt}]
    battle, votable = "", False
    async with client.post("/v1/arena/battles", json={"messages": messages, "models": pair, **OPTIONS}) as response:
        if response.status != 200:
            faults.append(f"a battle was refused: {await response.text()}")
            return "refused"
        async for kind, data in events(response):
            if kind == "battle":
                battle = data["id"]
            elif kind == "delta":
                texts[data["side"]] += data["text"]
            elif kind == "end":
                votable = data["votable"]
    if not votable:
        faults.append(f"a battle could not be voted on: {question.prompt}")
        return "failed"
    vote = _judged(question, texts)
    async with client.post(f"/v1/arena/battles/{battle}/vote", json={"vote": vote}) as response:
        if response.status != 200:
            faults.append(f"a vote was refused: {await response.text()}")
            return "refused"
        sides = (await response.json())["reveal"]["sides"]
    return f"{question.prompt} - {VERDICTS[vote]} (a was {sides['a']['model']}, b {sides['b']['model']})"


def _judged(question: Question, texts: dict[str, str]) -> str:
    right = [side for side, text in texts.items() if question.is_right(text)]
    return right[0] if len(right) == 1 else "tie" if right else "both_bad"


def _table(board: dict[str, Any]) -> Table:
    table = Table(
        "rank", "model", "rating", "95% interval", "won", "tied", "lost", "both bad", box=None, padding=(0, 3, 0, 0)
    )
    for model in board["models"]:
        interval = f"{model['lower']:.0f} to {model['upper']:.0f}"
        counts = (model[key] for key in ("wins", "ties", "losses", "both_bad"))
        table.add_row(str(model["rank"]), model["model"], f"{model['rating']:.0f}", interval, *map(str, counts))
    return table
