"""Blind battles over HTTP: nothing tells the sides apart before the vote, and everything is told after it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from arena_server.arena.pace import Pace
from arena_server.engine.base import EngineError
from arena_server.store.errors import StoreUnavailable
from tests.support.daemon_app import FakeDaemon, Hands, config_of, running_daemon
from tests.support.gate import turns, until
from tests.support.logs import logged
from tests.support.raw_client import Answer, RawClient, connected
from tests.support.replies import DONE, Received, Reply, data, reply_to, stream, whole
from tests.support.sse import EventReader, Sent

BATTLES = "/v1/arena/battles"
# Names, aliases and paths that no text of a test could hold by chance.
MODELS: dict[str, dict[str, Any]] = {
    "zebra-9b": {"model": "org/zebra", "gpu_memory_utilization": 0.4, "aliases": ("stripes",)},
    "heron-7b": {"model": "org/heron", "gpu_memory_utilization": 0.4, "aliases": ("beak",)},
    "otter-3b": {"model": "org/otter", "gpu_memory_utilization": 0.4, "aliases": ("paws",)},
}
SECRETS = ["zebra", "heron", "otter", "stripes", "beak", "paws", "org/", "chatcmpl", "fingerprint"]
SECRETS += ["ttft", "waited", "per_s", "usage", "tokens"]
PAIR = ["zebra-9b", "heron-7b"]


def ask(**more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "one two three"}], **more}


@pytest.fixture
async def daemon(caplog: pytest.LogCaptureFixture) -> AsyncIterator[FakeDaemon]:
    """Checks that nobody keeps a lease or a place, and that nothing was logged as a defect."""
    async with running_daemon(MODELS) as running:
        yield running
        await running.come_to_rest()
    assert [r.getMessage() for r in logged(caplog) if r.exc_info] == []


async def begun(client: RawClient, body: dict[str, Any], path: str = BATTLES) -> EventReader:
    client.post(path, body)
    status, headers = await client.head()
    assert status == 200
    assert dict(headers)["content-type"].startswith("text/event-stream")
    return EventReader(client)


async def asked(daemon: FakeDaemon, method: str, path: str, body: Any = None) -> Answer:
    async with connected(daemon.port) as client:
        if method == "POST":
            client.post(path, body)
        else:
            client.request(method, path)
        return await client.answer()


async def fought(daemon: FakeDaemon, **more: Any) -> tuple[str, list[Sent]]:
    """A battle of one turn: its id and all its events."""
    async with connected(daemon.port) as client:
        events = await (await begun(client, ask(**more))).all()
    return events[0].data["id"], events


async def vote(daemon: FakeDaemon, battle: str, says: str = "a") -> Answer:
    return await asked(daemon, "POST", f"{BATTLES}/{battle}/vote", {"vote": says})


def text_of(events: list[Sent], side: str) -> str:
    return "".join(e.data["text"] for e in events if e.kind == "delta" and e.data["side"] == side)


async def test_from_the_prompt_to_the_vote_to_the_reveal(daemon: FakeDaemon) -> None:
    battle, events = await fought(daemon, models=PAIR, max_tokens=5)
    assert [e.kind for e in events if e.kind not in ("status", "delta")] == ["battle", "done", "done", "end"]
    assert events[-1] == Sent("end", {"votable": True, "reason": None})
    assert text_of(events, "a") == text_of(events, "b") == "one two three one two "
    seen = (await asked(daemon, "GET", f"{BATTLES}/{battle}")).json()
    assert seen["state"] == "open"
    assert seen["reveal"] is None
    assert seen["turns"][0]["a"] == {"text": "one two three one two ", "finish_reason": "length"}
    voted = await vote(daemon, battle, "b")
    assert voted.status == 200
    body = voted.json()
    assert (body["state"], body["vote"], body["votable"]) == ("voted", "b", False)
    sides = body["reveal"]["sides"]
    assert sorted(sides[letter]["model"] for letter in "ab") == sorted(PAIR)
    assert (body["reveal"]["drawn"], body["reveal"]["probability"]) == (False, None)
    (turn,) = sides["a"]["turns"]
    assert turn["residency"] == "cold"
    assert turn["waited_s"] > 0
    assert turn["ttft_s"] >= 0
    assert (await asked(daemon, "GET", f"{BATTLES}/{battle}")).json() == body


async def test_no_byte_before_the_vote_tells_who_is_who(daemon: FakeDaemon) -> None:
    """Two turns, waiting for cold models among them, a look, and each kind of refusal."""

    def with_everything(request: Received) -> Reply:
        usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
        about: dict[str, Any] = {
            "id": "chatcmpl-1",
            "model": request.json()["model"],
            "system_fingerprint": "vllm-0.32-tp1",
            "usage": usage,
        }
        chunks: list[dict[str, Any]] = [
            {"delta": {"content": "Yes"}, "finish_reason": None},
            {"delta": {}, "finish_reason": "stop"},
        ]
        return stream([*(data({**about, "choices": [{"index": 0, **c}]}) for c in chunks), DONE])

    for engine in daemon.engines.values():
        engine.reply = with_everything
        engine.load_gate.hold()
    seen = bytearray()
    async with connected(daemon.port) as client:
        client.post(BATTLES, ask())
        status, headers = await client.head()
        seen += repr((status, headers)).encode()
        reader = EventReader(client)
        battle = (await reader.until("battle")).data["id"]
        await reader.until("status")
        early = await vote(daemon, battle)
        assert early.error()["code"] == "turn_running"
        daemon.open_gates()
        await reader.all()
        seen += reader.seen + early.body
    async with connected(daemon.port) as client:
        reader = await begun(client, {"content": "and now?"}, f"{BATTLES}/{battle}/turns")
        assert (await reader.until("battle")).data["turn"] == 2
        await reader.all()
        seen += reader.seen
    look = await asked(daemon, "GET", f"{BATTLES}/{battle}")
    wrong = await vote(daemon, battle, "neither")
    assert wrong.status == 400
    seen += look.body + wrong.body + repr(look.headers + wrong.headers).encode()
    assert b"Yes" in seen
    assert [secret for secret in SECRETS if secret.encode() in seen.lower()] == []
    revealed = await vote(daemon, battle)
    assert any(secret.encode() in revealed.body for secret in ("zebra", "heron", "otter"))


@pytest.mark.parametrize("slow", ["a", "b"])
async def test_start_and_pace_do_not_tell_the_sides_apart(slow: str) -> None:
    """One side's engine loads later, begins later and writes its tokens one by one; the other has all done at once."""
    async with running_daemon(MODELS, arena={"min_chars_per_s": 1.0}) as daemon, connected(daemon.port) as client:
        for engine in daemon.engines.values():
            engine.chunks.hold()
        reader = await begun(client, ask(models=PAIR, max_tokens=20))
        await reader.until("status")
        (battle,) = daemon.battles._battles.values()
        held = daemon.engines[battle.models[slow].name]
        quick = daemon.engines[battle.models["b" if slow == "a" else "a"].name]
        quick.chunks.release()
        await until(lambda: quick.inference and quick.inference[0].finished, "the quick side to have written all")
        assert b"delta" not in reader.seen
        deltas: list[dict[str, Any]] = []
        lengths = {"a": 0, "b": 0}

        async def read() -> None:
            async for event in reader:
                if event.kind == "delta":
                    deltas.append(event.data)
                    lengths[event.data["side"]] += len(event.data["text"])
                    # They come in pairs, the same characters for both: at no time is one ahead.
                    if event.data["side"] == "b":
                        assert lengths["a"] == lengths["b"]

        reading = asyncio.create_task(read())
        held.chunks.release(1)
        await until(lambda: lengths["b"] >= 4, "the first token's text on both sides")
        # The slow side has written 4 of its characters: neither has more out, though the quick one is done.
        assert lengths["a"] == lengths["b"] == 4
        held.chunks.release()
        await reading
        assert lengths["a"] == lengths["b"]
        assert [d["side"] for d in deltas[::2]] == ["a"] * (len(deltas) // 2)
        daemon.open_gates()


async def test_a_pair_may_be_drawn_and_its_chance_is_told_after_the_vote(daemon: FakeDaemon) -> None:
    battle, _ = await fought(daemon)
    reveal = (await vote(daemon, battle, "tie")).json()["reveal"]
    assert reveal["drawn"]
    assert reveal["probability"] == pytest.approx(1 / 3)
    # Two are awake now: half of all draws are for them alone, and a third of the other half.
    awake = {side["model"] for side in reveal["sides"].values()}
    battle, _ = await fought(daemon)
    again = (await vote(daemon, battle, "tie")).json()["reveal"]
    same = {side["model"] for side in again["sides"].values()} == awake
    assert again["probability"] == pytest.approx(2 / 3 if same else 1 / 6)


async def test_models_of_no_weight_are_never_drawn() -> None:
    async with running_daemon(MODELS, arena={"weights": {"zebra-9b": 0}}) as daemon:
        assert (await asked(daemon, "GET", "/v1/arena/settings")).json()["models"] == ["heron-7b", "otter-3b"]
        battle, _ = await fought(daemon)
        sides = (await vote(daemon, battle)).json()["reveal"]["sides"]
        assert sorted(side["model"] for side in sides.values()) == ["heron-7b", "otter-3b"]


async def test_the_order_in_which_they_are_named_says_nothing_of_the_sides(daemon: FakeDaemon) -> None:
    firsts = set()
    for _ in range(40):  # 2 ** -39 for all to be alike
        async with connected(daemon.port) as client:
            await (await begun(client, ask(models=PAIR))).until("battle")
            firsts |= {b.models["a"].name for b in daemon.battles._battles.values()}
        if len(firsts) == 2:
            break
    assert firsts == set(PAIR)


async def test_a_battle_goes_on_with_each_sides_own_answers(daemon: FakeDaemon) -> None:
    def by_name(request: Received) -> Reply:
        said = f"{request.json()['model'][0]} said {len(request.json()['messages'])}"
        chunk = {"choices": [{"index": 0, "delta": {"content": said}, "finish_reason": "stop"}]}
        return stream([data(chunk), DONE])

    for engine in daemon.engines.values():
        engine.reply = by_name
    battle, _ = await fought(daemon, models=PAIR, temperature=0.3)
    async with connected(daemon.port) as client:
        await (await begun(client, {"content": "go on"}, f"{BATTLES}/{battle}/turns")).all()
    for name in PAIR:
        sent = daemon.engines[name].inference[1].json()
        assert sent["temperature"] == 0.3
        assert sent["messages"] == [
            {"role": "user", "content": "one two three"},
            {"role": "assistant", "content": f"{name[0]} said 1"},
            {"role": "user", "content": "go on"},
        ]
    assert [t["prompt"] for t in (await asked(daemon, "GET", f"{BATTLES}/{battle}")).json()["turns"]] == [
        "one two three",
        "go on",
    ]


async def test_a_vote_counts_once(daemon: FakeDaemon) -> None:
    battle, _ = await fought(daemon)
    answers = await asyncio.gather(*(vote(daemon, battle, says) for says in ("a", "b", "tie")))
    assert sorted(answer.status for answer in answers) == [200, 409, 409]
    assert {a.error()["code"] for a in answers if a.status == 409} == {"voted"}
    assert (await vote(daemon, battle)).status == 409
    (count,) = await daemon.votes.tallies()
    assert count.count == 1
    (kept,) = [a.json()["vote"] for a in answers if a.status == 200]
    assert count.vote == kept
    turn = await asked(daemon, "POST", f"{BATTLES}/{battle}/turns", {"content": "x"})
    assert turn.error()["code"] == "voted"


@pytest.mark.parametrize("side", PAIR)
async def test_a_battle_in_which_an_engine_died_cannot_be_voted_on(daemon: FakeDaemon, side: str) -> None:
    engine = daemon.engines[side]
    engine.chunks.hold()
    async with connected(daemon.port) as client:
        reader = await begun(client, ask(models=PAIR))
        battle = (await reader.until("battle")).data["id"]
        await until(lambda: engine.inference, "the side to be asked")
        await engine.die()
        events = await reader.all()
    (error,) = [e.data for e in events if e.kind == "error"]
    assert error["side"] in ("a", "b")
    reason = f"Side {error['side']} failed while it answered."
    assert error["error"]["message"] == reason
    assert events[-1] == Sent("end", {"votable": False, "reason": reason})
    assert not [secret for secret in SECRETS if secret.encode() in reader.seen.lower()]
    refused = await vote(daemon, battle)
    assert (refused.status, refused.error()["code"]) == (409, "not_votable")
    assert refused.error()["message"] == reason


async def test_one_sides_refusal_ends_the_others_answer_at_once(daemon: FakeDaemon) -> None:
    refusal = {"message": "zebra-9b takes 4096 tokens", "type": "BadRequestError", "param": None, "code": 400}
    daemon.engines["zebra-9b"].reply = lambda request: whole({"error": refusal}, "400 Bad Request")
    daemon.engines["heron-7b"].chunks.hold()
    battle, events = await fought(daemon, models=PAIR)
    (error,) = [e.data["error"] for e in events if e.kind == "error"]
    assert "does not take this conversation" in error["message"]
    assert "4096" not in error["message"]
    await daemon.idle("heron-7b")
    assert (await vote(daemon, battle)).status == 409


@pytest.mark.parametrize("reason", ["length", "abort", "tool_calls"])
async def test_an_answer_that_was_cut_short_cannot_be_voted_on(daemon: FakeDaemon, reason: str) -> None:
    """At the end of a model's context, say: nobody asked for that end, and it tells which model it is."""
    chunk = {"choices": [{"index": 0, "delta": {"content": "So"}, "finish_reason": reason}]}
    usage = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}}
    daemon.engines["zebra-9b"].reply = lambda request: stream([data(chunk), data(usage), DONE])
    battle, events = await fought(daemon, models=PAIR, max_tokens=3)
    (error,) = [e.data for e in events if e.kind == "error"]
    assert error["error"]["message"] == (
        f"Side {error['side']} was cut short: the conversation may be too long for it."
    )
    assert (await vote(daemon, battle)).error()["code"] == "not_votable"


async def test_who_leaves_when_both_are_done_may_vote(daemon: FakeDaemon) -> None:
    async with connected(daemon.port) as client:
        reader = await begun(client, ask(models=PAIR))
        battle = (await reader.until("battle")).data["id"]
        await reader.until("done")
        await reader.until("done")
    await until(lambda: daemon.battles.find(battle, None).state != "running", "the turn to end")
    assert (await vote(daemon, battle)).status == 200


async def test_a_turn_that_never_reached_the_models_leaves_the_battle_open(daemon: FakeDaemon) -> None:
    battle, _ = await fought(daemon, models=PAIR)
    engine = daemon.engines["zebra-9b"]
    engine.load_error = EngineError("it does not load")
    await engine.die()
    async with connected(daemon.port) as client:
        events = await (await begun(client, {"content": "more"}, f"{BATTLES}/{battle}/turns")).all()
    assert [e.data["error"]["code"] for e in events if e.kind == "error"] == ["battle_unavailable"]
    assert events[-1] == Sent("end", {"votable": True, "reason": None})
    seen = (await asked(daemon, "GET", f"{BATTLES}/{battle}")).json()
    assert [turn["prompt"] for turn in seen["turns"]] == ["one two three"]
    assert (await vote(daemon, battle)).status == 200


async def test_a_turn_that_is_too_long_leaves_the_battle_open() -> None:
    async with running_daemon(MODELS, arena={"battle_memory_bytes": 1 << 20}) as daemon:
        battle, _ = await fought(daemon, models=PAIR)
        long = await asked(daemon, "POST", f"{BATTLES}/{battle}/turns", {"content": "x" * (300 << 10)})
        assert (long.status, long.error()["code"]) == (413, "body_too_large")
        begin = await asked(daemon, "POST", BATTLES, {"messages": [{"role": "user", "content": "x" * (300 << 10)}]})
        assert begin.status == 413
        assert (await vote(daemon, battle)).status == 200


async def test_battles_memory_is_bounded_by_what_they_hold() -> None:
    async with running_daemon(MODELS, arena={"battle_memory_bytes": 1 << 20, "paced": False}) as daemon:
        first, _ = await fought(daemon, models=PAIR)
        messages = [{"role": "system", "content": "y" * (40 << 10)}, {"role": "user", "content": "z"}]
        for _ in range(6):
            await fought(daemon, models=PAIR, stop=["x" * 200] * 16, messages=messages)
        assert (await asked(daemon, "GET", f"{BATTLES}/{first}")).status == 404


async def test_a_battle_does_not_go_on_with_another_model_of_the_name(daemon: FakeDaemon) -> None:
    battle, _ = await fought(daemon, models=PAIR)
    changed = {**MODELS, "zebra-9b": {**MODELS["zebra-9b"], "model": "org/zebra-v2"}}
    daemon.daemon.reloader.apply(config_of(changed))
    refused = await asked(daemon, "POST", f"{BATTLES}/{battle}/turns", {"content": "more"})
    assert (refused.status, refused.error()["code"]) == (409, "model_changed")
    assert "zebra" not in refused.error()["message"]
    assert (await vote(daemon, battle)).status == 200


async def test_a_defect_ends_the_battle_in_order(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Pace, "step", fail)
    async with running_daemon(MODELS) as daemon:
        battle, events = await fought(daemon, models=PAIR)
        reason = "The server failed; its log has the details."
        assert events[-1] == Sent("end", {"votable": False, "reason": reason})
        assert "A defect in a battle" in caplog.text
        assert (await vote(daemon, battle)).error()["message"] == reason


async def test_models_that_do_not_load_end_the_battle_without_their_names(daemon: FakeDaemon) -> None:
    for engine in daemon.engines.values():
        engine.load_error = EngineError("no zebra here")
    async with connected(daemon.port) as client:
        reader = await begun(client, ask())
        events = await reader.all()
    (error,) = [e.data["error"] for e in events if e.kind == "error"]
    assert error["code"] == "battle_unavailable"
    assert not [secret for secret in SECRETS if secret.encode() in reader.seen.lower()]
    assert not events[-1].data["votable"]
    daemon.pool.reset("zebra-9b")


async def test_a_client_that_leaves_frees_both_engines_and_ends_the_battle(daemon: FakeDaemon) -> None:
    for name in PAIR:
        daemon.engines[name].chunks.hold()
    async with connected(daemon.port) as client:
        reader = await begun(client, ask(models=PAIR))
        battle = (await reader.until("battle")).data["id"]
        await until(lambda: all(daemon.engines[name].inference for name in PAIR), "both to be asked")
    for name in PAIR:
        await daemon.idle(name)
    requests = [daemon.engines[name].inference[0] for name in PAIR]
    await until(lambda: all(request.aborted for request in requests), "both requests to be aborted")
    seen = (await asked(daemon, "GET", f"{BATTLES}/{battle}")).json()
    assert (seen["state"], seen["votable"]) == ("failed", False)
    assert seen["reason"] == "It was left, or the server was stopped, before both answers were whole."
    assert (await vote(daemon, battle)).error()["code"] == "not_votable"


async def test_a_slow_reader_is_waited_for_and_loses_nothing(daemon: FakeDaemon) -> None:
    async with connected(daemon.port) as client:
        reader = await begun(client, ask(models=PAIR, max_tokens=300))
        first = await reader.until("delta")
        await turns(200)
        events = [first, *await reader.all()]
    assert text_of(events, "a") == text_of(events, "b") == "one two three " * 100
    assert events[-1].data["votable"]


async def test_battles_are_forgotten_after_their_time() -> None:
    clock = Hands()
    async with running_daemon(MODELS, clock=clock, arena={"battle_ttl_s": 100, "paced": False}) as daemon:
        battle, _ = await fought(daemon)
        clock.time += 99
        async with connected(daemon.port) as client:  # a turn begins its time anew
            await (await begun(client, {"content": "x"}, f"{BATTLES}/{battle}/turns")).all()
        clock.time += 99
        assert (await asked(daemon, "GET", f"{BATTLES}/{battle}")).status == 200
        clock.time += 2
        gone = await vote(daemon, battle)
        assert (gone.status, gone.error()["code"]) == (404, "battle_not_found")


async def test_texts_are_kept_only_if_that_is_switched_on() -> None:
    for keep in (False, True):
        async with running_daemon(MODELS, arena={"store_texts": keep, "paced": False}) as daemon:
            battle, _ = await fought(daemon, models=PAIR)
            record = daemon.battles.find(battle, None).record(texts=keep)
            assert (record.turns[0].prompt is not None) is keep
            await vote(daemon, battle)
            await daemon.votes.close()
            file = Path(daemon.votes._url.removeprefix("sqlite:///"))
            assert (b"one two three" in await asyncio.to_thread(file.read_bytes)) is keep


async def test_a_vote_that_could_not_be_kept_can_be_cast_again(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    battle, _ = await fought(daemon)
    kept = daemon.votes.vote

    async def fail(*_: Any) -> None:
        raise StoreUnavailable("The disk is full.")

    monkeypatch.setattr(daemon.votes, "vote", fail)
    refused = await vote(daemon, battle)
    assert (refused.status, refused.error()["code"]) == (503, "store_unavailable")
    assert (await asked(daemon, "GET", f"{BATTLES}/{battle}")).json()["state"] == "open"
    monkeypatch.setattr(daemon.votes, "vote", kept)
    assert (await vote(daemon, battle)).status == 200


@pytest.mark.parametrize(("again", "status"), [("a", 200), ("b", 409)])
async def test_a_vote_that_was_kept_unheard_counts_as_it_was(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, again: str, status: int
) -> None:
    battle, _ = await fought(daemon)
    kept = daemon.votes.vote

    async def unheard(*about: Any) -> None:
        await kept(*about)
        raise StoreUnavailable("The connection was lost.")

    monkeypatch.setattr(daemon.votes, "vote", unheard)
    assert (await vote(daemon, battle, "a")).status == 503
    monkeypatch.setattr(daemon.votes, "vote", kept)
    assert (await vote(daemon, battle, again)).status == status
    seen = (await asked(daemon, "GET", f"{BATTLES}/{battle}")).json()
    assert (seen["state"], seen["vote"]) == ("voted", "a")
    assert seen["reveal"] is not None


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"models": ["zebra-9b"]}, 400, "at least 2 items"),
        ({"models": ["zebra-9b", "stripes"]}, 400, "two different models"),
        ({"models": ["zebra-9b", "nobody"]}, 404, "nobody"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "must be the user's"),
        ({"stream": False}, 400, "`stream` is not known here."),
        ({"max_tokens": 0}, 400, "`max_tokens`"),
        ({"max_tokens": True}, 400, "`max_tokens`"),
        ({"stop": ["x" * 257]}, 400, "`stop.0`"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, 400, "`messages.0.role`"),
        ({"messages": [{"role": "user", "content": 7}]}, 400, "`messages.0.content`"),
        ({"messages": [{"role": "user", "content": "x"}] * 2001}, 400, "`messages`: List should have at most 2000"),
        ({"temperature": float("nan")}, 400, "We could not parse"),
    ],
)
async def test_what_is_asked_wrongly_is_refused_with_the_field(
    daemon: FakeDaemon, change: dict[str, Any], status: int, message: str
) -> None:
    answer = await asked(daemon, "POST", BATTLES, ask() | change)
    assert answer.status == status
    assert message in answer.error()["message"]


async def test_two_that_never_fit_together_are_refused() -> None:
    big = {name: {**model, "gpu_memory_utilization": 0.6} for name, model in MODELS.items()}
    async with running_daemon(big) as daemon:
        named = await asked(daemon, "POST", BATTLES, ask(models=PAIR))
        assert (named.status, named.error()["code"]) == (409, "models_do_not_fit_together")
        drawn = await asked(daemon, "POST", BATTLES, ask())
        assert (drawn.status, drawn.error()["code"]) == (409, "no_pair")


async def test_a_battle_cannot_be_guessed(daemon: FakeDaemon) -> None:
    battle, _ = await fought(daemon)
    assert len(battle) >= 22
    assert (await asked(daemon, "GET", f"{BATTLES}/{battle[:-1]}")).status == 404


async def test_the_pace_can_be_switched_off() -> None:
    async with running_daemon(MODELS, arena={"paced": False}) as daemon:
        for engine in daemon.engines.values():
            engine.reply = reply_to
            engine.chunks.hold()
        async with connected(daemon.port) as client:
            reader = await begun(client, ask(models=PAIR, max_tokens=2))
            await until(lambda: all(daemon.engines[n].inference for n in PAIR), "both to be asked")
            daemon.engines[PAIR[0]].chunks.release()
            first = (await reader.until("done")).data["side"]
            (battle,) = daemon.battles._battles.values()
            assert battle.models[first].name == PAIR[0]
            daemon.open_gates()
            await reader.all()
