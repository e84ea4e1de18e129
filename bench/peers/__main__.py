"""arena-server beside what a user would else put in front of an engine: nginx, LiteLLM's proxy, FastChat.

All stand before one stand-in engine (bench/stand_in.py) and are measured in turn against going there directly.
LiteLLM and FastChat are installed from PyPI when they are first asked for, each in an environment of its own under
the user's cache (bench/peers/venv.py); later runs use that again.

    python -m bench.peers [--peers litellm,fastchat,nginx] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from bench.client import Demand, first_token_times
from bench.peers import fastchat, litellm, nginx, venv
from bench.peers.door import Door
from bench.peers.engine import Engine, stand_in
from bench.peers.judge import judge
from bench.peers.lines import about_lines, first_token_lines, stream_lines
from bench.peers.measure import BLOCK_REQUESTS, first_tokens, many
from bench.processes import BenchError, run
from bench.report import Report, machine, step
from bench.sides import arena

PEERS = (nginx.NAME, litellm.NAME, fastchat.NAME)
BLOCK_S = 5.0
# Tokens of an answer at one client; see bench/overhead.py.
PACED, BACK_TO_BACK = 2, 1


def peers_of(text: str | None, *, has_nginx: bool) -> list[str]:
    """Whom to measure beside arena-server: those named, or else nginx. Raises BenchError."""
    named = {nginx.NAME} if text is None else {name.strip() for name in text.split(",")}
    if unknown := sorted(named - set(PEERS)):
        raise BenchError(f"--peers takes some of {','.join(PEERS)}, not {','.join(unknown)!r}")
    if nginx.NAME in named and not has_nginx:
        raise BenchError("nginx is not installed; --peers litellm,fastchat goes without it")
    return [name for name in PEERS if name in named]


@contextlib.asynccontextmanager
async def front_doors(peers: Sequence[str], engine: Engine, directory: Path) -> AsyncIterator[list[Door]]:
    """arena-server and its peers before the engine, all up and warm; ended at the end."""
    async with contextlib.AsyncExitStack() as stack:
        daemon = await stack.enter_async_context(arena(engine.side))
        doors = [Door("the daemon, no key asked for, to the engine's Unix socket", [daemon])]
        for name in peers:
            place = directory / name
            place.mkdir()
            opening = await _front_door(name, engine, place)
            async with step(f"{name} starts"):
                doors.append(await stack.enter_async_context(opening))
        for target in (engine.side.target, *(door.target for door in doors)):
            await first_token_times(target, BLOCK_REQUESTS, BACK_TO_BACK)
        yield doors


async def _front_door(name: str, engine: Engine, place: Path) -> contextlib.AbstractAsyncContextManager[Door]:
    if name == litellm.NAME:
        return litellm.front_door(await venv.ensure(name, litellm.REQUIREMENTS), engine, place)
    if name == fastchat.NAME:
        return fastchat.front_door(await venv.ensure(name, fastchat.REQUIREMENTS), engine, place)
    path = nginx.binary()
    assert path is not None, "asked for without nginx"
    return nginx.front_door(path, engine, place)


async def measure(args: argparse.Namespace) -> None:
    """Measure and print."""
    peers = peers_of(args.peers, has_nginx=nginx.binary() is not None)
    host = machine()
    blocks = math.ceil(args.seconds / BLOCK_S)
    demand = Demand(args.streams, args.tokens, args.tokens / args.pace, args.seconds / blocks)
    with tempfile.TemporaryDirectory(prefix="arena-bench-") as temporary:
        directory = Path(temporary)
        async with stand_in(directory, args.pace) as engine, front_doors(peers, engine, directory) as doors:
            direct = engine.side.target
            async with step(f"1 client, {args.requests} requests each, paced"):
                paced = await first_tokens(direct, doors, args.requests, PACED)
            async with step(f"1 client, {args.requests} requests each, back to back"):
                warm = await first_tokens(direct, doors, args.requests, BACK_TO_BACK)
            async with step(f"{args.streams} streams, {blocks} times {demand.seconds:g} s each"):
                loads = await many(direct, doors, demand, blocks)
    verdict = judge({door.name: paced.added_ms(door.name)["median"] for door in doors})
    figures = {
        "about": {door.name: door.about for door in doors},
        "one_client": paced.figures(),
        "back_to_back": warm.figures(),
        "streams": {"streams": args.streams, "asked_tokens_per_s": args.streams * args.pace, **loads.figures()},
        "ratios": verdict.ratios,
    }
    lines = [
        *about_lines(doors, args.pace),
        *first_token_lines("1 client", figures["one_client"]),
        *first_token_lines("1 client, back to back", figures["back_to_back"]),
        *stream_lines(figures["streams"]),
        *verdict.lines,
    ]
    Report("peers", host, lines, figures, verdict.goal, verdict.met).print(as_json=args.json)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description="arena-server beside other front doors.")
    parser.add_argument("--peers", metavar="NAME,...", help=f"some of {','.join(PEERS)} (nginx alone)")
    parser.add_argument("--requests", type=int, default=300, help="requests of each at one client (300)")
    parser.add_argument("--streams", type=int, default=16, help="streams at once (16)")
    parser.add_argument("--seconds", type=float, default=15, help="measured seconds of each with streams (15)")
    parser.add_argument("--pace", type=float, default=50, help="tokens per second of each stream (50)")
    parser.add_argument("--tokens", type=int, default=50, help="tokens of an answer with streams (50)")
    parser.add_argument("--json", action="store_true", help="print a JSON object as the last line")
    args = parser.parse_args()
    return run(lambda: measure(args))


if __name__ == "__main__":
    sys.exit(main())
