"""The blind battles under way: begun, gone on with and voted on, until their time is over."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import AsyncGenerator, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from cachetools import TTLCache

from arena_server.arena.battle import Battle, BattleNotFound, Message, ModelChanged, State, Turn
from arena_server.arena.pace import NoPace, Pace
from arena_server.arena.pairs import Draw, draw
from arena_server.arena.stream import Emit, Event, events_of
from arena_server.arena.turn import SideFailed, TurnRun
from arena_server.clock import Clock
from arena_server.config import ArenaConfig
from arena_server.config_model import ModelConfig
from arena_server.course import Courses
from arena_server.errors import ArenaError, BadRequest, BodyTooLarge, ModelsDoNotFitTogether, NotAllowed
from arena_server.pool.pool import Pool
from arena_server.pool.residency import Residency
from arena_server.store.errors import AlreadyVoted
from arena_server.store.records import BattleRecord, ModelRecord, Vote

logger = logging.getLogger(__name__)

BROKEN_OFF = "It was left, or the server was stopped, before both answers were whole."
ID_BYTES = 16  # not to be guessed: who knows a battle's id may read it and vote


class ModelsNotAllowed(NotAllowed):
    """The key may no longer ask both models of its battle. Which of them is not told: the battle is blind."""

    code = "model_not_allowed"

    def __init__(self) -> None:
        super().__init__("This API key may no longer use the models of this battle. It can be voted on as it is.")


class BattleStore(Protocol):
    """Where battles and votes are kept."""

    async def record(self, battle: BattleRecord) -> None:
        """Keep it, or what has come to it. Raises StoreUnavailable."""
        ...

    async def vote(self, battle: BattleRecord, vote: Vote, at: datetime) -> None:
        """Keep the battle with its vote; durable when it returns. Raises StoreUnavailable, AlreadyVoted."""
        ...


class Models(Protocol):
    """The models as they are configured now."""

    @property
    def models(self) -> Mapping[str, ModelConfig]:
        """By name."""
        ...


@dataclass(frozen=True, slots=True)
class Ask:
    """What a battle begins with. `models` are None if the pair is to be drawn, from `among`; both are configured names.

    `owner` is the id of the key that asks, None for none.
    """

    messages: Sequence[Message]
    sampling: Mapping[str, Any]
    models: Sequence[str] | None
    request_bytes: int
    among: Collection[str]
    owner: str | None = None


class Battles:
    """Begins battles, and keeps them until `battle_ttl_s` after they were last touched."""

    def __init__(
        self,
        pool: Pool,
        models: Models,
        store: BattleStore,
        clock: Clock,
        config: ArenaConfig,
        courses: Courses,
        chance: random.Random | None = None,
    ) -> None:
        """`chance` draws pairs and sides; by default it cannot be foreseen."""
        self._pool = pool
        self._models = models
        self._store = store
        self._clock = clock
        self._config = config
        self._courses = courses
        self._chance = chance or random.SystemRandom()
        self._battles: TTLCache[str, Battle] = TTLCache(
            config.battle_memory_bytes, config.battle_ttl_s, timer=clock.now, getsizeof=lambda battle: battle.size
        )
        self._recording: set[asyncio.Task[None]] = set()

    @property
    def drawable(self) -> list[str]:
        """The models that may be drawn."""
        return [name for name in self._models.models if self._weight(name) > 0]

    def begin(self, ask: Ask) -> AsyncGenerator[Event, None]:
        """A battle's first turn. Raises BadRequest, ModelsDoNotFitTogether, NoPair.

        Its first event raises BodyTooLarge if there is no memory for it.
        """
        pair = self._drawn(ask.among) if ask.models is None else self._named(ask.models)
        battle = Battle(
            id=secrets.token_urlsafe(ID_BYTES),
            created_at=datetime.now(UTC),
            models={"a": self._record_of(pair.a), "b": self._record_of(pair.b)},
            probability=None if ask.models is not None else pair.probability,
            paced=self._config.paced,
            sampling=ask.sampling,
            owner=ask.owner,
        )
        return self._events(battle, ask.messages, ask.request_bytes)

    def go_on(
        self, battle_id: str, content: str, owner: str | None, among: Collection[str]
    ) -> AsyncGenerator[Event, None]:
        """The next turn of a battle of that owner's, who may now ask the models `among`.

        Raises BattleNotFound, ModelsNotAllowed. Its first event raises TurnRunning, Voted, NotVotable, ModelChanged or
        BodyTooLarge: then it is as it was.
        """
        prompt = [{"role": "user", "content": content}]
        battle = self.find(battle_id, owner)
        if any(m.name in self._models.models and m.name not in among for m in battle.models.values()):
            raise ModelsNotAllowed
        return self._events(battle, prompt, len(content.encode(errors="replace")))

    def find(self, battle_id: str, owner: str | None) -> Battle:
        """The battle of that owner's. Raises BattleNotFound, of another's in the same words as of none."""
        battle = self._battles.get(battle_id)
        if battle is None or battle.owner != owner:
            kept = f"{self._config.battle_ttl_s:g} s"
            raise BattleNotFound(f"There is no battle `{battle_id}`; they are forgotten after {kept}.")
        return battle

    async def vote(self, battle_id: str, vote: Vote, owner: str | None) -> Battle:
        """Vote, once. Raises BattleNotFound, TurnRunning, Voted, NotVotable, StoreUnavailable."""
        battle = self.find(battle_id, owner)
        battle.check_open()
        battle.being_voted = True
        # Not to be called off by a client that leaves: it would not know whether its vote counts, nor would we.
        await asyncio.shield(self._spawn(self._keep_vote(battle, vote)))
        return battle

    async def close(self) -> None:
        """Wait until what is on its way into the store is there."""
        if self._recording:
            await asyncio.wait(self._recording)

    # Turns

    def _events(self, battle: Battle, prompt: Sequence[Message], request_bytes: int) -> AsyncGenerator[Event, None]:
        async def make(emit: Emit) -> None:
            # Here and not earlier: nothing runs, and nothing would end it, if the client is gone by now.
            turn = self._begin_turn(battle, prompt, request_bytes)
            failure: str | None = BROKEN_OFF
            try:
                await emit("battle", {"id": battle.id, "turn": len(battle.turns)})
                try:
                    run = TurnRun(self._pool, self._clock, battle, turn, self._pace(), self._courses)
                    await run.run(emit)
                    failure = None
                except Exception as e:  # a defect, too, has to end the battle in order, and not its stream alone
                    error = _told(e)
                    failure = error.message
                    side = error.letter if isinstance(error, SideFailed) else None
                    await emit("error", {"side": side, **error.body()})
            finally:
                self._end_turn(battle, failure)
            await emit("end", {"votable": battle.state is State.OPEN, "reason": battle.failure})

        return events_of(make)

    def _begin_turn(self, battle: Battle, prompt: Sequence[Message], request_bytes: int) -> Turn:
        battle.check_open()
        for record in battle.models.values():
            if record.name not in self._models.models or self._record_of(record.name) != record:
                raise ModelChanged("A model of this battle was changed meanwhile. It can be voted on as it is.")
        if battle.size + Battle.asked(request_bytes) > self._config.battle_memory_bytes:
            raise BodyTooLarge("The conversation is too long for arena.battle_memory_bytes.")
        battle.asked_bytes += request_bytes
        turn = battle.begin_turn(prompt, self._residencies(battle))
        self._remember(battle)
        return turn

    def _pace(self) -> Pace:
        kind = Pace if self._config.paced else NoPace
        return kind(self._config.min_chars_per_s, self._config.max_chars_per_s)

    def _remember(self, battle: Battle) -> None:
        """Keep it in memory; its time begins anew."""
        with contextlib.suppress(ValueError):  # larger than all there is, by its answers: then as it was counted before
            self._battles[battle.id] = battle

    def _end_turn(self, battle: Battle, failure: str | None) -> None:
        battle.end_turn(failure)
        self._remember(battle)
        self._spawn(self._keep(battle))

    # Pairs

    def _drawn(self, among: Collection[str]) -> Draw:
        where = {name: self._pool.where(name).residency for name in self._models.models}

        def may_meet(a: str, b: str) -> bool:
            return Residency.FAILED not in (where[a], where[b]) and self._pool.misfit([a, b]) is None

        weights = {name: self._weight(name) for name in where if name in among}
        awake = {name for name, residency in where.items() if residency is Residency.AWAKE}
        return draw(weights, may_meet, awake, self._config.awake_preference, self._chance)

    def _named(self, models: Sequence[str]) -> Draw:
        names = list(models)
        if len(set(names)) != 2:
            raise BadRequest("A battle is between two different models.", param="models")
        if misfit := self._pool.misfit(names):
            raise ModelsDoNotFitTogether(misfit)
        self._chance.shuffle(names)  # the order in which they are named must not tell which is which
        return Draw(names[0], names[1], 1.0)

    def _weight(self, name: str) -> float:
        return self._config.weights.get(name, 1.0)

    def _record_of(self, name: str) -> ModelRecord:
        config = self._models.models[name]
        revision = config.engine_args.get("revision")
        return ModelRecord(name, config.model, None if revision is None else str(revision), config.engine_args)

    def _residencies(self, battle: Battle) -> dict[str, str]:
        """Where both models are: awake, asleep or, whatever else it is, cold."""
        found = {letter: self._pool.where(record.name).residency for letter, record in battle.models.items()}
        there = (Residency.AWAKE, Residency.ASLEEP)
        return {letter: str(where if where in there else Residency.COLD) for letter, where in found.items()}

    # Store

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._recording.add(task)
        task.add_done_callback(self._recorded)
        return task

    def _recorded(self, task: asyncio.Task[None]) -> None:
        self._recording.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.warning("Not recorded: %s", error)

    async def _keep_vote(self, battle: Battle, vote: Vote) -> None:
        try:
            await self._store.vote(battle.record(texts=self._config.store_texts), vote, datetime.now(UTC))
            battle.vote = vote
        except AlreadyVoted as e:
            # It was kept the time before, though we never heard of it: then this is that vote, or there was another.
            battle.vote = e.vote
            if e.vote is not vote:
                raise
        finally:
            battle.being_voted = False

    async def _keep(self, battle: Battle) -> None:
        """Keep a turn's facts; if that fails, they are kept with the vote."""
        try:
            await self._store.record(battle.record(texts=self._config.store_texts))
        except ArenaError as e:
            logger.warning("Battle %s is not in the store yet: %s", battle.id, e)


def _told(error: Exception) -> ArenaError:
    """What a client is told of what ended its turn: nothing that it may not know."""
    if isinstance(error, ArenaError):
        return error
    logger.error("A defect in a battle", exc_info=error)
    return ArenaError("The server failed; its log has the details.")
