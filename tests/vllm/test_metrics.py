"""The metrics of real engines: merged into one page, and their tokens added up over an eviction."""

from __future__ import annotations

from tests.metrics.scraped import OPENMETRICS, Scraped, chat, scrape
from tests.vllm.daemon import Daemon
from tests.vllm.test_serving import LLAMA, MISTRAL, QWEN

TOKENS = 12


def written(page: Scraped) -> float:
    return page.value("arena_tokens_total", model=LLAMA, type="completion") or 0.0


async def test_tokens_outlive_the_engine_that_counted_them(daemon: Daemon) -> None:
    async def ask(model: str) -> None:
        assert await chat(daemon.url, model, max_tokens=TOKENS, ignore_eos=True) == 200

    await ask(LLAMA)
    before = await scrape(daemon.url)
    (engines_own,) = [s for s in before.families["vllm:generation_tokens"].samples
                      if s.name.endswith("_total") and s.labels["model"] == LLAMA]  # fmt: skip
    assert engines_own.labels["model_name"] == LLAMA
    assert engines_own.value >= TOKENS
    loads = daemon.loads(LLAMA)
    await ask(LLAMA)  # not seen by any scrape
    for model in (MISTRAL, QWEN):  # there is room for two
        await ask(model)
    assert daemon.model(LLAMA)["residency"] == "cold"
    evicted = await scrape(daemon.url)
    assert written(evicted) == written(before) + TOKENS
    await ask(LLAMA)
    after = await scrape(daemon.url, OPENMETRICS)
    assert daemon.loads(LLAMA) == loads + 1
    assert written(after) == written(evicted) + TOKENS
    awake = {n for n, m in daemon.health()["models"].items() if m["residency"] == "awake"}
    assert set(after.values("vllm:kv_cache_usage_perc", "model")) == awake
    assert set(after.values("arena_engine_scrape_failures_total", "model").values()) == {0.0}
