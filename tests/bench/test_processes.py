"""What a benchmark starts is waited for, and ends with it."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import aiohttp
import psutil
import pytest
from aiohttp import web

from bench.processes import BenchError, running, until_healthy
from tests.bench.program import ROOT
from tests.support.processes import lives

STUBBORN = '''
import asyncio, sys
from bench.processes import run, running

DEAF = r"""
import os, signal, time
signal.signal(signal.SIGTERM, lambda *_: os.write(2, b"no\\n"))
print("up", flush=True)
while True:
    time.sleep(99)
"""

async def measure():
    async with running("-c", DEAF, stdout=asyncio.subprocess.PIPE) as process:
        await process.stdout.readline()
        print(process.pid, flush=True)
        await asyncio.sleep(99)

sys.exit(run(measure))
'''


async def test_a_second_ctrl_c_leaves_no_process_that_does_not_end_by_itself() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", STUBBORN), cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    async with asyncio.timeout(60):
        child = psutil.Process(int(await process.stdout.readline()))
        process.send_signal(signal.SIGINT)
        assert await process.stderr.readline() == b"no\n", "it has been asked to end"
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
    assert not lives(child)


async def test_a_program_is_waited_for_where_it_says_that_it_is_up() -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(status=503 if len(asked) < 3 else 200)

    app = web.Application()
    app.router.add_get("/up", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        async with (
            running("-c", "import time; time.sleep(99)") as process,
            aiohttp.ClientSession(f"http://{host}:{port}") as client,
        ):
            await until_healthy(client, process, 30, path="/up")
            assert asked == ["/up"] * 3
            with pytest.raises(BenchError, match="did not answer"):
                await until_healthy(client, process, 0.1)
    finally:
        await runner.cleanup()


async def test_what_a_program_said_is_told_whatever_it_is(tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = "import sys; sys.stdout.buffer.write(b'caf\\xe9 \\xe2\\x96\\n'); sys.exit(3)"
    with log.open("wb") as output:
        async with (
            running("-c", program, stdout=output) as process,
            aiohttp.ClientSession("http://127.0.0.1:9") as client,
        ):
            await process.wait()
            with pytest.raises(BenchError, match=r"(?s)ended with status 3.*caf"):
                await until_healthy(client, process, 30, log)
