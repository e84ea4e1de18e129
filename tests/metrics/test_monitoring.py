"""What lies in `deploy/monitoring`, held against Prometheus itself and against the metrics of a running daemon."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from arena_server.demo.daemon import free_port
from arena_server.gpu.probe import Telemetry
from arena_server.store.schema import metadata
from tests.metrics.pages import answers, real_page
from tests.metrics.scraped import Scraped, chat, scrape
from tests.support.daemon_app import SLEEP_MEMORY_BYTES, TOTAL_BYTES, FakeDaemon, SimulatedProbe, running_daemon
from tests.support.gate import until
from tests.support.simulated_memory import SimulatedMemory

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
RULES = MONITORING / "arena-server.rules.yml"
DASHBOARD = MONITORING / "arena-server.dashboard.json"

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is missing")
needs_prometheus = pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")

# Room for two of three; the third sleeps.
MODELS = {n: {"model": f"org/{n}", "gpu_memory_utilization": 0.4, "sleep_level": 1} for n in ("a", "b", "org/c")}


def promtool(*arguments: str, text: str | None = None) -> str:
    done = subprocess.run(["promtool", *arguments], input=text, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
async def daemon() -> AsyncIterator[FakeDaemon]:
    """One that has done all there is to be seen: served, slept, woken, failed, refused. Its engines are vLLM's page."""
    memory = SimulatedMemory({0: TOTAL_BYTES})
    probe = SimulatedProbe(memory)
    probe.tells[0] = Telemetry(0.5, 0.25, 300.0, 700.0, 61.0)
    pool = {"sleep_memory_bytes": SLEEP_MEMORY_BYTES, "max_awake_models": 2}
    async with running_daemon(MODELS, memory=memory, probe=probe, pool=pool) as running:
        running.pool.look_at_devices()
        for name, engine in running.engines.items():
            answers(engine, lambda name=name: real_page(name))  # type: ignore[misc]
        for name in (*MODELS, *MODELS):
            assert await chat(running.url, name, stream=True) == 200
        await until(lambda: not any(v.running for v in running.pool.view().models), "all to be idle")
        yield running


@pytest.fixture
async def page(daemon: FakeDaemon) -> Scraped:
    return await scrape(daemon.url)


# What Prometheus' own tool says


@needs_promtool
def test_promtool_finds_nothing_wrong_with_rules_and_configuration() -> None:
    promtool("check", "rules", str(RULES))
    promtool("check", "config", str(MONITORING / "prometheus.yml"))


@needs_promtool
def test_alerts_fire_when_they_should() -> None:
    promtool("test", "rules", str(MONITORING / "arena-server.rules.test.yml"))


@needs_promtool
async def test_promtool_finds_nothing_wrong_with_our_metrics(page: Scraped) -> None:
    """vLLM's names have a colon, which it finds wrong in each of them."""
    own = "".join(f"{line}\n" for line in page.text.splitlines() if "vllm:" not in line)
    assert "arena_" in own
    assert promtool("check", "metrics", text=own) == ""


def test_the_whole_configuration_has_the_job_of_the_piece() -> None:
    whole = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    piece = yaml.safe_load((MONITORING / "scrape.yml").read_text())
    assert whole["scrape_configs"] == piece["scrape_configs"]
    assert whole["rule_files"] == [RULES.name]


# What is asked of the metrics


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def dashboard_queries() -> list[str]:
    """Of every panel and variable, with Grafana's own words replaced as it would."""
    dashboard = json.loads(DASHBOARD.read_text())
    queries = [t["expr"] for panel in dashboard["panels"] for t in panel.get("targets", ())]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            assert match is not None
            queries.append(f"count by ({match[2]}) ({match[1]})")
    assert len(queries) > 50
    return [re.sub(r"\$(?!__)\w+", ".*", q.replace("$__rate_interval", "1m")) for q in queries]


def queries() -> list[str]:
    return [*(alert["expr"] for alert in alerts()), *dashboard_queries()]


TARGET_LABELS = {"job", "instance"}
SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\s*(?:\{([^}]*)\})?")
GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
WORDS = {"and", "or", "unless", "bool", "offset"}


def asked_of(query: str) -> Iterator[tuple[str, set[str]]]:
    """Each metric that a query names, with the labels that it asks of it."""
    groups = {label.strip() for group in GROUPING.findall(query) for label in group.split(",")}
    rest = re.sub(r"\[[^\]]*\]", "", GROUPING.sub(" ", query))
    rest = re.sub(
        r"\b(sum|max|min|avg|count|rate|increase|changes|histogram_quantile|min_over_time)\s*(?=\()", " ", rest
    )
    for match in SELECTOR.finditer(re.sub(r'"[^"]*"', '""', rest)):
        name, matchers = match.groups()
        if name not in WORDS:
            labels = {m.group(1) for m in re.finditer(r"(\w+)\s*(?:=~|!~|!=|=)", matchers or "")}
            yield name, labels | groups


def unknown_in(queries: list[str], labels: dict[str, set[str]]) -> list[str]:
    wrong = []
    for query in queries:
        asked = list(asked_of(query))
        assert asked, query
        for name, wanted in asked:
            if name not in labels:
                wrong.append(f"no metric {name}: {query}")
            elif missing := wanted - labels[name] - TARGET_LABELS:
                wrong.append(f"{name} has no label {missing}: {query}")
    return wrong


async def test_every_query_names_metrics_and_labels_that_there_are(page: Scraped) -> None:
    labels = {**page.labels(), "up": set()}  # Prometheus' own
    assert unknown_in(queries(), labels) == []


async def test_a_query_for_what_is_not_there_would_be_seen(page: Scraped) -> None:
    wrong = [
        'sum by (model) (rate(arena_request_total{model=~".*"}[1m]))',
        'sum by (colour) (rate(arena_requests_total{model=~".*"}[1m]))',
        'arena_requests_total{colour="red"}',
        "vllm:no_such_thing",
    ]
    assert len(unknown_in(wrong, page.labels())) == len(wrong)


async def test_the_guides_name_metrics_that_there_are(page: Scraped) -> None:
    guides = [*(ROOT / "docs").glob("*.md"), MONITORING / "README.md"]
    named = {n for g in guides for n in re.findall(r"`((?:arena_|vllm:)[a-z_]+)[`{]", g.read_text())}
    assert "arena_tokens_total" in named
    assert named - page.labels().keys() - page.families.keys() - metadata.tables.keys() == set()


async def test_every_metric_of_ours_says_what_it_is(page: Scraped) -> None:
    own = {name: family for name, family in page.families.items() if name.startswith("arena_")}
    assert len(own) > 40
    assert [name for name, family in own.items() if not family.documentation.endswith(".")] == []
    assert [name for name, family in page.families.items() if family.type == "unknown"] == []


def test_every_alert_says_how_bad_it_is_what_it_is_and_where_to_read_on() -> None:
    for alert in alerts():
        assert alert["labels"]["severity"] in ("critical", "warning"), alert
        assert {"summary", "description", "runbook_url"} == set(alert["annotations"]), alert
        assert re.fullmatch(r"docs/runbook\.md#[a-z0-9-]+", alert["annotations"]["runbook_url"]), alert


def test_every_alert_is_tried() -> None:
    tested = (MONITORING / "arena-server.rules.test.yml").read_text()
    assert [a["alert"] for a in alerts() if a["alert"] not in tested] == []


def test_runbook_has_the_sections_that_alerts_name() -> None:
    runbook = ROOT / "docs" / "runbook.md"
    headings = re.findall(r"^#+ (.+)$", runbook.read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
    named = {a["annotations"]["runbook_url"].partition("#")[2] for a in alerts()}
    assert named - anchors == set()


def test_dashboard_can_be_imported() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert dashboard["title"]
    panels = dashboard["panels"]
    assert len({p["id"] for p in panels}) == len(panels)
    assert [p["title"] for p in panels if p["type"] == "row"] == [
        "Overview", "Swaps and waits", "Latency and tokens", "Devices", "Engines (vLLM's own metrics)",
    ]  # fmt: skip
    assert {v["name"] for v in dashboard["templating"]["list"]} == {"datasource", "job", "instance", "model", "device"}
    for panel in panels:
        if panel["type"] != "row":
            sources = [panel["datasource"], *(t["datasource"] for t in panel["targets"])]
            assert {s["uid"] for s in sources} == {"${datasource}"}, panel["title"]
    cells = [(x, y) for p in panels for g in [p["gridPos"]] for x in range(g["x"], g["x"] + g["w"])
             for y in range(g["y"], g["y"] + g["h"])]  # fmt: skip
    assert len(cells) == len(set(cells)), "panels lie over each other"
    assert max(x for x, _ in cells) < 24


# A real Prometheus


class Prometheus:
    """One that scrapes the daemon every two seconds with our rules; `with` ends it."""

    def __init__(self, directory: Path, target: str) -> None:
        self.url = f"http://127.0.0.1:{free_port(0)}"
        config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "1s"}
        (job,) = config["scrape_configs"]
        job |= {"scrape_interval": "2s", "scrape_timeout": "2s", "static_configs": [{"targets": [target]}]}
        config["rule_files"] = [str(RULES)]
        file = directory / "prometheus.yml"
        file.write_text(yaml.safe_dump(config))
        self._log = (directory / "prometheus.log").open("w+")
        self._process = subprocess.Popen(
            ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={directory / 'data'}",
             f"--web.listen-address={self.url.removeprefix('http://')}"],
            stdout=self._log, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def __enter__(self) -> Prometheus:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._log.close()

    async def ask(self, client: aiohttp.ClientSession, path: str, **query: str) -> Any:
        """The data of its answer; None while it is not up."""
        assert self._process.poll() is None, self._said()
        try:
            async with client.get(f"{self.url}/api/v1/{path}", params=query) as response:
                if response.status == 503:
                    return None
                body = await response.json()
        except aiohttp.ClientConnectionError:
            return None
        assert body["status"] == "success", (query, body)
        return body["data"]

    def _said(self) -> str:
        return Path(self._log.name).read_text()

    async def value(self, client: aiohttp.ClientSession, query: str) -> float | None:
        data = await self.ask(client, "query", query=query)
        return float(data["result"][0]["value"][1]) if data and data["result"] else None


@needs_prometheus
async def test_prometheus_scrapes_a_running_daemon_without_an_error(daemon: FakeDaemon, tmp_path: Path) -> None:
    with Prometheus(tmp_path, daemon.url.removeprefix("http://")) as prometheus:
        async with aiohttp.ClientSession() as client:
            async with asyncio.timeout(60):
                while await prometheus.value(client, "up") is None:  # noqa: ASYNC110 (the first comes after 5 s)
                    await asyncio.sleep(0.1)
            (target,) = (await prometheus.ask(client, "targets"))["activeTargets"]
            assert (target["health"], target["lastError"]) == ("up", "")
            assert await prometheus.value(client, "up") == 1
            assert await prometheus.value(client, 'sum(arena_model_residency{residency="awake"})') == 2
            assert await prometheus.value(client, "count(count by (model) (vllm:generation_tokens_total))") == 2
            written = await scrape(daemon.url)
            assert await prometheus.value(client, "scrape_samples_scraped") == await prometheus.value(
                client, "scrape_samples_post_metric_relabeling"
            )
            assert ((await prometheus.value(client, "scrape_samples_scraped")) or 0) > len(written.families)
            async with client.get(f"{prometheus.url}/metrics") as response:
                itself = await response.text()
            for trouble in ("duplicate_timestamp", "out_of_order", "out_of_bounds"):
                assert re.search(rf"^prometheus_target_scrapes_sample_{trouble}_total 0$", itself, re.MULTILINE)
            for query in queries():
                await prometheus.ask(client, "query", query=query)
            rules = (await prometheus.ask(client, "rules"))["groups"]
            assert [r["name"] for g in rules for r in g["rules"] if r["health"] == "err"] == []
            assert [a["labels"] for a in (await prometheus.ask(client, "alerts"))["alerts"]] == []
