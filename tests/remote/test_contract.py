"""The contract of `Engine`, as far as it goes for a remote model: there are no processes, and it never sleeps."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from arena_server.config_model import ModelConfig
from arena_server.engine.base import EngineError
from arena_server.engine.remote import RemoteEngine
from tests.engine_contract import EngineContract
from tests.support.remote_server import RemoteServer, remote_server
from tests.support.replies import Reply, reply_to, stream, whole


class Revived(RemoteEngine):
    """Whose server is up again at each load: to start it is nobody's business but its operator's."""

    server: RemoteServer

    async def load(self, kv_cache_bytes: int | None = None) -> None:
        if not self.server.running:
            await self.server.start()
        await super().load(kv_cache_bytes)


class RemoteSubject:
    """A remote model, and the server it is on."""

    ways_to_die = ("killed",)

    def __init__(self, server: RemoteServer) -> None:
        config = ModelConfig.model_validate({"model": "org/there", "backend_url": server.url, "retries": 0})
        self.server = server
        self.engine = Revived("remote", config, {}, check_every_s=0.02)
        self.engine.server = server

    def leftovers(self) -> list[str]:
        connection = self.engine._connection
        return [] if connection is None else [str(connection)]

    def break_loads(self) -> None:
        self.server.health = lambda: whole({}, "500 Internal Server Error")

    def mend_loads(self) -> None:
        self.server.health = lambda: Reply([b"{}"], length=2)
        self.server.health_gate.release()

    def hold_load(self) -> None:
        self.server.health_gate.hold()

    def hold_sleep(self) -> None:
        """It never sleeps."""

    async def kill(self, way: str) -> None:
        await self.server.kill()

    def stream_request(self) -> dict[str, object]:
        # More than all buffers on the way hold: it ends when its reader has read it.
        self.server.reply = lambda request: (
            stream([b"data: x\n\n" * 1000] * 100_000) if request.method == "POST" else reply_to(request)
        )
        return {"model": "org/there", "prompt": "a", "stream": True}


class TestRemoteEngine(EngineContract):
    @pytest.fixture
    async def subject(self) -> AsyncIterator[RemoteSubject]:
        async with remote_server() as server:
            subject = RemoteSubject(server)
            yield subject
            await subject.engine.stop()
            assert subject.leftovers() == []

    @pytest.mark.parametrize("step", ["sleep", "wake"])
    async def test_it_never_sleeps(self, subject: RemoteSubject, step: str) -> None:
        await subject.engine.load()
        with pytest.raises(EngineError, match="cannot sleep"):
            await (subject.engine.sleep(1) if step == "sleep" else subject.engine.wake())

    async def test_it_has_no_processes(self, subject: RemoteSubject) -> None:
        await subject.engine.load()
        assert subject.engine.pids == frozenset()
