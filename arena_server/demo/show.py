"""The demo: two models answer one prompt side by side, a third takes a place, then they meet in blind battles."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from arena_server.demo.chat import Chat
from arena_server.demo.daemon import free_port, health, running_daemon, write_config
from arena_server.demo.evening import hold_evening
from arena_server.demo.models import make_demo_models

PROMPT = "Tell me a story about a cat."
# A story is long enough to be watched, though these models are fast.
OPTIONS: dict[str, Any] = {"max_tokens": 200, "temperature": 0.6, "seed": 7}
REFRESH_S = 0.1


def run_demo(directory: Path, *, check: bool, port: int) -> int:
    """Show it in the terminal. `check`: end after it with status 0, or 1 if something was not as it should be."""
    console = Console()
    directory = directory.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    try:
        return asyncio.run(_demo(console, directory, check, port))
    except KeyboardInterrupt:
        return 130


async def _demo(console: Console, directory: Path, check: bool, port: int) -> int:
    models = make_demo_models(directory / "models", report=lambda line: console.print(f"  {escape(line)}"))
    base_url = f"http://127.0.0.1:{free_port(port)}"
    config = write_config(directory, models, int(base_url.rpartition(":")[2]))
    log = directory / "daemon.log"
    console.print(f"\nStarting arena-server with room for two of three models [dim](its log: {log})[/]", soft_wrap=True)
    began = time.monotonic()
    async with running_daemon(config, log, base_url) as client:
        console.print(f"It answers /health after {time.monotonic() - began:.1f} s.")
        first, second, third = (m.name for m in models)
        faults = await _pair(console, client, first, second)
        faults += await _third(console, client, third)
        faults += await hold_evening(console, client, [m.name for m in models])
        for fault in faults:
            console.print(f"[red]Not as it should be:[/] {escape(fault)}")
        if check:
            console.print("[red]FAILED[/]" if faults else "[green]OK[/]")
        else:
            await _stay(console, base_url, first, second)
    return 1 if faults else 0


async def _pair(console: Console, client: aiohttp.ClientSession, first: str, second: str) -> list[str]:
    console.print("\nWaking two models (the first load waits for vLLM to be imported, once):")
    warm = [Chat(first), Chat(second)]
    await _follow(console, client, warm, "Hello.", max_tokens=8)
    console.print(f"\nOne prompt to both at once: [bold]{PROMPT}[/]")
    chats = [Chat(first), Chat(second)]
    await _follow(console, client, chats, PROMPT, **OPTIONS)
    faults = [f"{c.model}: {c.error or 'no answer'}" for c in [*warm, *chats] if c.error or not c.text]
    if not faults and max(c.first_at or 0 for c in chats) > min(c.done_at or 0 for c in chats):
        faults.append("the two answers did not overlap")
    return faults


async def _third(console: Console, client: aiohttp.ClientSession, third: str) -> list[str]:
    before = await health(client)
    console.print(f"\nNow the third, [bold]{third}[/], for which one of them has to go:")
    chat = Chat(third)
    await _follow(console, client, [chat], PROMPT, **OPTIONS)
    after = await health(client)
    evicted = [name for name in before["loaded_models"] if name not in after["loaded_models"]]
    table = Table("model", "now", "its last load took", box=None, padding=(0, 3, 0, 0))
    for name, model in after["models"].items():
        took = model["last_load_s"]
        state = "[yellow]evicted[/]" if name in evicted else model["residency"]
        table.add_row(name, state, f"{took:.1f} s" if took is not None else "-")
    console.print(table)
    if evicted:
        console.print(f"{' and '.join(evicted)}, idle the longest, was evicted to make room for {third}.")
    faults = [f"{third}: {chat.error or 'no answer'}"] if chat.error or not chat.text else []
    if len(evicted) != 1 or len(after["loaded_models"]) != 2:
        faults.append(f"evicted {evicted}, awake {after['loaded_models']}; one should have left, two be awake")
    return faults


async def _follow(
    console: Console, client: aiohttp.ClientSession, chats: Sequence[Chat], prompt: str, **options: Any
) -> None:
    """Ask all of them the prompt, and draw the answers until all have ended."""
    messages = [{"role": "user", "content": prompt}]
    running = {asyncio.create_task(chat.run(client, messages, **options)) for chat in chats}
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
        while running:
            _, running = await asyncio.wait(running, timeout=REFRESH_S)
            live.update(_side_by_side(chats, (await health(client))["models"]), refresh=True)
    if not console.is_terminal:
        console.print()  # there, Live leaves the cursor behind what it drew


def _side_by_side(chats: Sequence[Chat], models: dict[str, Any]) -> RenderableType:
    table = Table.grid(expand=True)
    for _ in chats:
        table.add_column(ratio=1)
    table.add_row(*(_panel(chat, models[chat.model]) for chat in chats))
    return table


def _panel(chat: Chat, model: dict[str, Any]) -> Panel:
    body: RenderableType = Text(chat.text.strip())
    if chat.error:
        body = Text(chat.error, style="red")
    elif not chat.text:
        body = Text(_waiting(chat, model), style="dim")
    return Panel(
        body, title=f"[bold]{chat.model}[/]", subtitle=_figures(chat), title_align="left", subtitle_align="left"
    )


def _waiting(chat: Chat, model: dict[str, Any]) -> str:
    since = f"{time.monotonic() - chat.asked_at:.0f} s"
    if not (loading := model["loading"]):
        return f"{model['residency']} … {since}"
    done = "" if loading["fraction"] is None else f" {loading['fraction']:.0%}"
    return f"{model['residency']}: {loading['phase']}{done} … {since}"


def _figures(chat: Chat) -> str | None:
    if chat.first_at is None:
        return None
    took = (chat.done_at or time.monotonic()) - chat.first_at
    rate = f", {chat.tokens / took:.0f} tokens/s" if took > 0.05 else ""
    return f"[dim]first token after {chat.first_at - chat.asked_at:.2f} s{rate}[/]"


async def _stay(console: Console, base_url: str, model: str, other: str) -> None:
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}], "stream": true}}'
    console.print(f"\nThe daemon stays up. The arena's page: [bold]{base_url}/[/]\nTry, in another terminal:\n")
    for command in (
        f"arena-server compare --url {base_url} 'What is the capital of France?' -m {model} -m {other}",
        f"curl {base_url}/health",
        f"curl {base_url}/v1/models",
        f"curl -N {base_url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'",
    ):
        console.print(f"  {command}", highlight=False, markup=False, soft_wrap=True)
    console.print("\nCtrl-C ends it.")
    stop = asyncio.Event()
    for sig in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(sig, stop.set)
    with contextlib.suppress(asyncio.CancelledError):
        await stop.wait()
    console.print("Stopping the daemon and its engines.")
