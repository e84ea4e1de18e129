"""Alerts, held against what a pool really does: series sampled of the core's own course, given to promtool."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml

from arena_server.pool.events import Away
from arena_server.pool.residency import Residency
from tests.metrics.test_monitoring import MONITORING, RULES, needs_promtool, promtool
from tests.pool.scenes import scene, sleeper
from tests.pool.world import World

EVERY_S = 15  # as scrape.yml has it
LOAD_S = 20
FAILURES = 'arena_model_consecutive_failures{instance="host", model="m"}'
Series = Mapping[str, Sequence[float]]


def residency(at: Residency) -> str:
    return f'arena_model_residency{{instance="host", model="m", residency="{at.replace(" ", "_")}"}}'


def sampled(seconds: int, each_second: Callable[[World], None]) -> Series:
    """What scrapes would have seen of a model `m` to which this happens each second."""
    world = scene(sleeper("m"), room=10, ram=10)
    series: dict[str, list[float]] = {name: [] for name in (FAILURES, *map(residency, Residency))}
    for second in range(seconds):
        world.tick(until=float(second))
        each_second(world)
        if second % EVERY_S == 0:
            model = world.core.models["m"]
            series[FAILURES].append(model.failures)
            for at in Residency:
                series[residency(at)].append(float(model.residency is at))
    return series


def up_for_s(world: World) -> float:
    return world.now - world.core.models["m"].since


def is_at(world: World, at: Residency) -> bool:
    return world.core.models["m"].residency is at


def asked_and_does_not_load(world: World) -> None:
    """Somebody asks every second; each load fails after LOAD_S."""
    if is_at(world, Residency.COLD):
        world.request("m")
    elif is_at(world, Residency.LOADING) and up_for_s(world) >= LOAD_S:
        world.load_failed("m")
        world.stopped("m")


def comes_up_and_crashes(world: World) -> None:
    """It answers after LOAD_S, and dies 20 s later."""
    if is_at(world, Residency.COLD):
        world.request("m")
    elif is_at(world, Residency.LOADING) and up_for_s(world) >= LOAD_S:
        world.loaded("m")
    elif is_at(world, Residency.AWAKE) and up_for_s(world) >= 20:
        world.crashed("m")
        world.stopped("m")


def is_mended_after_10_minutes(world: World) -> None:
    """From then on it serves, for five minutes; then it is put to sleep."""
    if world.now >= 600 and is_at(world, Residency.LOADING) and up_for_s(world) >= LOAD_S:
        world.loaded("m")
        world.release(len(world.tickets))
    elif is_at(world, Residency.AWAKE) and up_for_s(world) >= 300:
        world.put_away("m", Away.ASLEEP)
        world.slept("m")
    else:
        asked_and_does_not_load(world)


def check(tmp_path: Path, series: Series, alert: str, expected: Mapping[float, bool], every_s: int = EVERY_S) -> None:
    """That the shipped rule fires at these seconds, and not at those."""
    query = f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})'
    test = {
        "interval": f"{every_s}s",
        "input_series": [
            {"series": name, "values": " ".join(f"{v:g}" for v in values)} for name, values in series.items()
        ],
        "promql_expr_test": [
            {"expr": query, "eval_time": f"{at_s:g}s", "exp_samples": [{"value": 1}] if fires else []}
            for at_s, fires in expected.items()
        ],
    }
    path = tmp_path / "rules.test.yml"
    path.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "15s", "tests": [test]}))
    promtool("test", "rules", str(path))


@needs_promtool
def test_a_model_that_never_loads_wakes_somebody(tmp_path: Path) -> None:
    """It is `failed` for no longer than the longest back-off, and then cold and loading again."""
    series = sampled(1800, asked_and_does_not_load)
    check(tmp_path, series, "ArenaModelFailed", {60: False, 600: True, 1200: True, 1790: True})


@needs_promtool
def test_a_model_that_comes_up_and_crashes_again_and_again_wakes_somebody(tmp_path: Path) -> None:
    check(tmp_path, sampled(1200, comes_up_and_crashes), "ArenaModelFailed", {60: False, 600: True, 1190: True})


@needs_promtool
def test_a_model_that_was_mended_lets_everybody_sleep(tmp_path: Path) -> None:
    """Its failures are counted until it is stopped or crashes again: they alone say nothing of now."""
    series = sampled(1500, is_mended_after_10_minutes)
    assert series[FAILURES][-1] >= 3
    asleep_at_s = EVERY_S * list(series[residency(Residency.ASLEEP)]).index(1)
    quiet: dict[float, bool] = {asleep_at_s + s: False for s in (-60, 0, 240)}
    check(tmp_path, series, "ArenaModelFailed", {600.0: True, **quiet})


def test_the_shipped_series_of_a_model_that_fails_is_what_happens() -> None:
    shipped = yaml.safe_load((MONITORING / "arena-server.rules.test.yml").read_text())["tests"]
    (test,) = [t for t in shipped if t["name"] == "a model fails"]
    assert test["interval"] == f"{EVERY_S}s"
    given = {s["series"]: s["values"] for s in test["input_series"]}
    real = sampled(900, asked_and_does_not_load)
    for name in (FAILURES, residency(Residency.FAILED)):
        assert given[name] == " ".join(f"{v:g}" for v in real[name])


def results(**values: str) -> Series:
    """Series of results by model `m`, as promtool writes them ('0x10 1x50')."""
    series = {}
    for result, written in values.items():
        points: list[float] = []
        for piece in written.split():
            value, _, times = piece.partition("x")
            points += [float(value)] * (int(times or 0) + 1)
        series[f'arena_request_results_total{{instance="host", model="m", result="{result}"}}'] = points
    return series


@needs_promtool
def test_one_error_in_a_quiet_hour_is_no_alert(tmp_path: Path) -> None:
    series = results(ok="50x60", client_error="0x60", server_error="3x10 4x50")
    check(tmp_path, series, "ArenaErrors", {60.0 * m: False for m in (13, 17, 20)}, 60)


@needs_promtool
def test_a_burst_of_errors_is_seen_though_none_came_before(tmp_path: Path) -> None:
    series = results(ok="0x60", client_error="0x60", server_error="0x10 40x50")
    check(tmp_path, series, "ArenaErrors", {17 * 60: True, 30 * 60: False}, 60)


def first_tokens(slow: int, quick: int) -> Series:
    """So many requests at once, 5 minutes after the start; 95 s and 10 s."""
    step = {"20.0": quick, "60.0": quick, "120.0": quick + slow, "+Inf": quick + slow}
    return {
        f'arena_first_token_seconds_bucket{{instance="host", model="m", le="{le}"}}': [0.0] * 20 + [float(n)] * 220
        for le, n in step.items()
    }


@needs_promtool
def test_one_request_that_had_to_load_its_model_is_no_slow_first_token(tmp_path: Path) -> None:
    for slow, quick, fires in ((1, 0, False), (1, 3, False), (10, 3, True)):
        check(tmp_path, first_tokens(slow, quick), "ArenaFirstTokenSlow", {18 * 60: fires})
