"""The stand-in for FastChat's worker speaks its protocol."""

from __future__ import annotations

import json

import aiohttp
from aiohttp import web

from bench.peers import fastchat_worker
from bench.peers.ports import free_ports
from bench.stand_in import MODEL


async def test_the_workers_stand_in_speaks_fastchats_protocol() -> None:
    server = await fastchat_worker.listen(fastchat_worker.Worker(1000.0))
    async with server, aiohttp.ClientSession(f"http://127.0.0.1:{fastchat_worker.port_of(server)}") as client:

        async def post(path: str) -> dict[str, object]:
            async with client.post(path, json={"model": MODEL, "prompt": "x"}) as response:
                assert response.status == 200
                reply: dict[str, object] = await response.json()
                return reply

        assert (await post("/worker_get_status"))["model_names"] == [MODEL]
        assert (await post("/model_details"))["context_length"] == fastchat_worker.CONTEXT_TOKENS
        assert isinstance((await post("/count_token"))["count"], int)
        # What the API server takes from it by name.
        assert set(fastchat_worker.CONVERSATION) == {
            *("name", "system_template", "system_message", "roles", "messages", "offset", "sep_style", "sep", "sep2"),
            *("stop_str", "stop_token_ids"),
        }
        assert (await post("/worker_get_conv_template"))["conv"] == fastchat_worker.CONVERSATION
        async with client.post("/no_such_thing") as response:
            assert response.status == 404

        async with client.post("/worker_generate_stream", json={"max_new_tokens": 3}) as response:
            body = await response.read()
    assert body.endswith(b"\0")
    said = [json.loads(piece) for piece in body[:-1].split(b"\0")]
    texts = [piece["text"] for piece in said]
    assert texts[-1] == texts[-2]
    assert texts[-1].endswith(" end")
    deltas = [after.removeprefix(before) for before, after in zip(["", *texts], texts[:-1], strict=False)]
    assert all(delta.startswith(" ") for delta in deltas)
    assert [piece["usage"]["completion_tokens"] for piece in said] == [1, 2, 3, 3]
    assert [piece["finish_reason"] for piece in said] == [None, None, None, "length"]
    assert {piece["error_code"] for piece in said} == {0}


async def test_the_worker_registers_at_the_controller() -> None:
    told: list[dict[str, object]] = []

    async def register(request: web.Request) -> web.Response:
        told.append(await request.json())
        return web.json_response(None)

    app = web.Application()
    app.router.add_post("/register_worker", register)
    runner = web.AppRunner(app)
    await runner.setup()
    [port] = free_ports(1)
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        await fastchat_worker.register(f"http://127.0.0.1:{port}", 21002)
    finally:
        await runner.cleanup()
    assert told == [
        {"worker_name": "http://127.0.0.1:21002", "check_heart_beat": False, "worker_status": fastchat_worker.STATUS}
    ]
