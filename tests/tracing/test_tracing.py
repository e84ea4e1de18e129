"""Traces of requests, as a collector gets them from a daemon."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult

from arena_server import tracing
from arena_server.config import Config
from arena_server.errors import ConfigError
from arena_server.tracing import PatientExporter, traces_url
from tests.support.daemon_app import FakeDaemon, Hands, parts, running_daemon
from tests.support.gate import until
from tests.support.raw_client import connected, post
from tests.support.replies import Received
from tests.tracing.collector import Collector, attributes, collecting

PATH = "/v1/chat/completions"
ASK: dict[str, Any] = {"model": "alpha", "messages": [{"role": "user", "content": "marmalade"}], "max_tokens": 3}
STREAM = {**ASK, "stream": True}
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
KEPT, NOT_KEPT = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


def to(collector: Collector, **more: Any) -> dict[str, Any]:
    return {"tracing": {"endpoint": collector.url, **more}}


def traced_by(request: Received) -> tuple[str, str, bool]:
    """Trace and span that the engine got, and whether the trace is kept."""
    version, trace, span, flags = (request.header("traceparent") or "").split("-")
    assert version == "00"
    return trace, span, bool(int(flags, 16) & 1)


async def test_a_request_from_the_queue_to_the_last_token(collector: Collector) -> None:
    clock = Hands()
    async with running_daemon(clock=clock, **to(collector)) as daemon, connected(daemon.port) as client:
        alpha = daemon.engines["alpha"]
        alpha.load_gate.hold()
        alpha.chunks.hold()
        client.post(PATH, STREAM, [("X-Request-ID", "r-1")])
        await until(lambda: alpha.progress, "the load to begin")
        clock.time += 5
        alpha.load_gate.release()
        request = await alpha.request()
        clock.time += 2
        alpha.chunks.release(1)
        await client.chunk_after_head()
        clock.time += 3
        alpha.chunks.release()
        while await client.chunk():
            pass
    assert collector.paths == ["/v1/traces"]
    (root,) = collector.roots
    assert root.name == "chat alpha"
    assert attributes(root) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "alpha",
        "gen_ai.request.id": "r-1",
        "http.request.method": "POST",
        "http.route": PATH,
        "http.response.status_code": 200,
        "arena.stream": True,
    }
    assert root.status.code == Status.STATUS_CODE_UNSET
    assert abs(root.start_time_unix_nano - time.time_ns()) < 60e9
    steps = collector.steps(root)
    assert list(steps) == ["queue", "prefill", "generate"]
    assert [round(seconds(step), 3) for step in steps.values()] == [5, 2, 3]
    assert steps["queue"].start_time_unix_nano == root.start_time_unix_nano
    assert steps["generate"].end_time_unix_nano == root.end_time_unix_nano
    assert steps["prefill"].start_time_unix_nano == steps["queue"].end_time_unix_nano
    assert traced_by(request) == (root.trace_id.hex(), root.span_id.hex(), True)
    assert collector.resource["service.name"] == "arena-server"
    assert b"marmalade" not in b"".join(collector.raw)


def seconds(span: Span) -> float:
    return (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9


async def test_what_becomes_of_others(collector: Collector) -> None:
    async with running_daemon(**to(collector)) as daemon:
        beta = daemon.engines["beta"]
        daemon.engines["alpha"].fail_loads()
        await post(daemon.port, PATH, ASK)
        await post(daemon.port, "/tokenize", {"model": "org/gamma", "messages": []})
        await post(daemon.port, "/v1/embeddings", {"model": "org/gamma", "input": "x"})
        beta.chunks.hold()
        async with connected(daemon.port) as client:
            client.post("/v1/messages", {**STREAM, "model": "beta"})
            beta.chunks.release(1)
            await client.head()
            client.leave()
            await daemon.idle("beta")
        async with connected(daemon.port) as client:
            client.post("/v1/completions", {**STREAM, "model": "beta", "prompt": "x"})
            await beta.request(1)
            await beta.die()
            await client.answer()
    by_name = {root.name: root for root in collector.roots}
    names = ["chat alpha", "tokenize org/gamma", "embeddings org/gamma", "chat beta", "text_completion beta"]
    assert list(by_name) == names
    refused, whole, _, left, died = by_name.values()
    assert list(collector.steps(refused)) == ["queue"]
    assert refused.status.code == Status.STATUS_CODE_ERROR
    assert refused.status.message == attributes(refused)["error.type"] == "model_unavailable"
    assert list(collector.steps(whole)) == ["queue", "prefill", "generate"]
    assert attributes(left)["http.response.status_code"] == 499
    assert attributes(left)["error.type"] == "499"
    assert left.status.code == Status.STATUS_CODE_UNSET  # by the conventions no error of the server's
    assert list(collector.steps(died)) == ["queue", "prefill"]
    assert (attributes(died)["http.response.status_code"], died.status.message) == (502, "engine_died")


async def test_a_clients_trace_is_continued(collector: Collector) -> None:
    async with running_daemon(**to(collector, sample_ratio=0)) as daemon:
        await post(daemon.port, PATH, ASK, [("traceparent", KEPT)])
        (request,) = daemon.engines["alpha"].inference
    (root,) = collector.roots
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, PARENT)
    assert traced_by(request) == (TRACE, root.span_id.hex(), True)


async def test_both_sides_of_a_battle_are_in_the_clients_trace(collector: Collector) -> None:
    battle = {"models": ["alpha", "beta"], "messages": ASK["messages"]}
    async with running_daemon(**to(collector)) as daemon:
        await post(daemon.port, "/v1/arena/battles", battle, [("traceparent", KEPT)])
        asked = [daemon.engines[name].inference[0] for name in ("alpha", "beta")]
    assert sorted(root.name for root in collector.roots) == ["chat alpha", "chat beta"]
    assert {attributes(root)["http.route"] for root in collector.roots} == {"/arena/battle"}
    spans = {attributes(root)["gen_ai.request.model"]: root.span_id.hex() for root in collector.roots}
    assert [traced_by(request) for request in asked] == [(TRACE, spans[n], True) for n in ("alpha", "beta")]


@pytest.mark.parametrize(("parent", "ratio"), [(NOT_KEPT, 1), (None, 0), ("00-nonsense", 0)])
async def test_what_is_not_kept_goes_on_to_the_engine_marked_so(
    collector: Collector, parent: str | None, ratio: float
) -> None:
    async with running_daemon(**to(collector, sample_ratio=ratio)) as daemon:
        await post(daemon.port, PATH, ASK, [("traceparent", parent)] if parent else [])
        trace, _, kept = traced_by(daemon.engines["alpha"].inference[0])
    assert not kept
    assert (trace == TRACE) == (parent == NOT_KEPT)
    assert collector.raw == []


async def test_the_sdks_own_variables_count(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "blue")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    async with running_daemon(**to(collector)) as daemon:
        await post(daemon.port, PATH, ASK)
    assert collector.resource["service.name"] == "blue"
    assert collector.resource["deployment.environment"] == "test"


async def test_the_sdk_may_be_switched_off(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    async with running_daemon(**to(collector)) as daemon:
        await post(daemon.port, PATH, ASK, [("traceparent", KEPT)])
        await post(daemon.port, PATH, ASK)
        assert [r.header("traceparent") for r in daemon.engines["alpha"].inference] == [KEPT, None]
    assert collector.raw == []


# A collector in trouble


async def asked(daemon: FakeDaemon, times: int) -> None:
    for _ in range(times):
        assert (await post(daemon.port, PATH, ASK)).status == 200


async def test_one_that_is_down_costs_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "0.01")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        async with running_daemon(tracing={"endpoint": url}) as daemon:
            await asked(daemon, 5)
    (warning,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert warning.getMessage() == f"Traces do not reach {url}/v1/traces (tracing.endpoint); 1 spans are lost"


async def test_one_that_does_not_answer_does_not_keep_the_daemon(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "FLUSH_S", 0.1)
    collector.answering.clear()
    async with running_daemon(**to(collector)) as daemon:
        await asked(daemon, 1)
        began = time.monotonic()
    assert time.monotonic() - began < 5  # the SDK's own patience is 10 s for an answer, and 30 for the rest
    await until(lambda: collector.raw, "the spans to be sent nevertheless")


def test_warnings_come_now_and_again(caplog: pytest.LogCaptureFixture) -> None:
    class Sometimes:
        result = SpanExportResult.FAILURE

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            return self.result

        def shutdown(self) -> None:
            pass

    caplog.set_level(logging.INFO)
    sends, clock = Sometimes(), Hands()
    exporter = PatientExporter(sends, "URL", clock)
    for clock.time in (1000.0, 1001.0, 1299.0, 1300.0):
        exporter.export([ReadableSpan("x")] * 10)
    assert [r.getMessage().split(";")[1] for r in caplog.records] == [" 10 spans are lost", " 40 spans are lost"]
    caplog.clear()
    sends.result = SpanExportResult.SUCCESS
    for _ in range(2):
        exporter.export([ReadableSpan("x")])
    assert [r.getMessage() for r in caplog.records] == ["Traces reach URL again; 40 spans were lost"]


# Configuration


def test_without_its_packages_the_daemon_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "arena_server.tracing")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    needs = r"tracing\.endpoint: needs the extra `tracing` \(pip install"
    with pytest.raises(ConfigError, match=needs), parts(tracing={"endpoint": "http://127.0.0.1:4318"}):
        pass


def test_the_sdk_is_not_imported_without_need() -> None:
    code = "import arena_server.serve, sys; sys.exit('opentelemetry.sdk' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize("url", ["localhost:4318", "grpc://x:4317", "http://", "http://x:port", "http://a b"])
def test_an_endpoint_that_is_none(url: str) -> None:
    with pytest.raises(ValueError, match="must be a URL such as"):
        Config.model_validate({"models": {"x": {"model": "org/x"}}, "tracing": {"endpoint": url}})


def test_a_base_url_gets_the_path() -> None:
    assert traces_url("http://x:4318") == traces_url("http://x:4318/") == "http://x:4318/v1/traces"
    assert traces_url("http://x/otlp/v1/traces") == "http://x/otlp/v1/traces"
