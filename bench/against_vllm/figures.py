"""What the rounds come to: medians of each way, and two ways compared round by round. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.against_vllm.servers import ARENA, SOCKET, VLLM, WAYS
from bench.against_vllm.tool import Result
from bench.report import Report, percentile, spread

MOST_ADDED_MS = 1.0
LEAST_RATIO = 0.98
TITLES = {SOCKET: "engine's socket", ARENA: "arena-server", VLLM: "vLLM's server"}
# The last one shows what two engines that should be the same differ by.
COMPARED = ((ARENA, SOCKET), (ARENA, VLLM), (VLLM, SOCKET))


def at_clients(results: Sequence[Result]) -> dict[str, Any]:
    """All results with one number of clients, each way's in the order of the rounds, as figures."""
    by_way = {way: [r for r in results if r.way == way] for way in WAYS}
    return {
        "answers": len(by_way[SOCKET][0].first_token_ms) * len(by_way[SOCKET]),
        "ways": {way: _way(found) for way, found in by_way.items()},
        "compared": {f"{a}_to_{b}": _comparison(by_way[a], by_way[b]) for a, b in COMPARED},
        "daemon_cpu_ms_per_1000_tokens": _cpu_ms_per_1000_tokens(by_way[ARENA]),
    }


def _way(found: Sequence[Result]) -> dict[str, Any]:
    together = [ms for r in found for ms in r.first_token_ms]
    return {
        "first_token_ms": {"median": spread(together).median, "p99": percentile(together, 99)},
        "first_token_ms_by_round": [_first_token_ms(r) for r in found],
        "per_token_ms_by_round": [r.per_token_ms for r in found],
        "tokens_per_s_by_round": [r.tokens_per_s for r in found],
        "busy_cores": spread([r.busy_cores for r in found]).median,
    }


def _comparison(one: Sequence[Result], other: Sequence[Result]) -> dict[str, Any]:
    """Of the same round's runs, which follow each other: what slows the machine for a while slows both."""
    pairs = list(zip(one, other, strict=True))
    return {
        "added_first_token_ms": spread([_first_token_ms(a) - _first_token_ms(b) for a, b in pairs]),
        "added_per_token_ms": spread([a.per_token_ms - b.per_token_ms for a, b in pairs]),
        "tokens_per_s_ratio": spread([a.tokens_per_s / b.tokens_per_s for a, b in pairs]),
    }


def _first_token_ms(result: Result) -> float:
    return spread(result.first_token_ms).median


def _cpu_ms_per_1000_tokens(found: Sequence[Result]) -> float:
    return sum(r.daemon_cpu_s for r in found) * 1e6 / sum(r.tokens for r in found)


def report(host: Mapping[str, Any], about: Mapping[str, Any], results: Sequence[Result]) -> Report:
    """The figures in words, and the verdict: added time at the fewest clients, throughput at the most."""
    numbers = sorted({r.clients for r in results})
    few, many = numbers[0], numbers[-1]
    clients = {str(n): at_clients([r for r in results if r.clients == n]) for n in numbers}
    added_ms = clients[str(few)]["compared"][f"{ARENA}_to_{SOCKET}"]["added_first_token_ms"].median
    ratio = clients[str(many)]["compared"][f"{ARENA}_to_{SOCKET}"]["tokens_per_s_ratio"].median
    goal = (
        f"at most +{MOST_ADDED_MS:g} ms to the first token at {_clients(few)} and at least {LEAST_RATIO:g} "
        f"of the tokens/s at {_clients(many)}, against the engine's own socket (medians of the rounds)"
    )
    lines = [
        f"{about['model']}, real vLLM; answers of about {about['tokens']} tokens to chats of about "
        f"{about['prompt_tokens']}, streamed; {about['rounds']} rounds.",
        "Engine's socket: the one that arena-server itself asks. arena-server: in front of that engine, on TCP.",
        "vLLM's server: its own API server on TCP, same arguments and environment, an engine of its own.",
        "Measured by `vllm bench serve` of this vLLM, the three in turn with the same requests; for the socket its",
        "TCP connector is replaced by a Unix one. Differences and ratios: medians of the rounds, least and greatest.",
        f"All are up all the time. While nobody asks, the daemon with its engine uses {about['idle_cores'][ARENA]:.1%} "
        f"of a core, vLLM's server {about['idle_cores'][VLLM]:.1%}.",
        *(line for number, found in clients.items() for line in _lines(int(number), found)),
    ]
    judged = {"added_first_token_ms": added_ms, "tokens_per_s_ratio": ratio}
    met = added_ms <= MOST_ADDED_MS and ratio >= LEAST_RATIO
    return Report("against_vllm", host, lines, {**about, **judged, "clients": clients}, goal, met)


def _clients(number: int) -> str:
    return f"{number} client{'s' if number != 1 else ''}"


def _lines(number: int, found: Mapping[str, Any]) -> list[str]:
    lines = ["", f"{_clients(number)}, {found['answers']} answers a way"]
    for way, of in found["ways"].items():
        first, per_token = of["first_token_ms"], spread(of["per_token_ms_by_round"]).median
        lines.append(
            f"    {TITLES[way]:<16} first token {first['median']:.2f} ms (p99 {first['p99']:.2f}), then one each "
            f"{per_token:.2f} ms; {spread(of['tokens_per_s_by_round']).median:,.1f} tokens/s; "
            f"{of['busy_cores']:.1f} cores busy"
        )
    for a, b in COMPARED:
        of = found["compared"][f"{a}_to_{b}"]
        lines += [
            f"    {TITLES[a]} against {TITLES[b]}",
            f"        first token, ms added  {of['added_first_token_ms']}",
            f"        per token, ms added    {of['added_per_token_ms']}",
            f"        tokens/s, ratio        {of['tokens_per_s_ratio']}",
        ]
    cpu = found["daemon_cpu_ms_per_1000_tokens"]
    lines.append(f"    the daemon's CPU: {cpu:.1f} ms per 1,000 tokens, all that the tool asks besides included")
    return lines
