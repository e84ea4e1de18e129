"""The picture of the pool as text."""

from __future__ import annotations

from typing import Any

import pytest
from rich.cells import cell_len

from arena_server.console.picture import Decision
from arena_server.console.rates import Rates
from arena_server.console.status import Scene, screen
from tests.test_console_daemon import GIB, device_json, model_json, picture, waiter_json

URL = "http://127.0.0.1:8000"
LONG = "mistralai/Mistral-7B-Instruct-v0.3-with-a-very-long-suffix-awq-int4"
DECISIONS = tuple(
    Decision(at=f"2026-11-21T12:00:{i:02}Z", what="load", model="alpha", why=f"reason {i}", cost_s=41.0)
    for i in range(12)
)
MODELS = (
    model_json(
        "alpha",
        "awake",
        gib=42,
        running=3,
        requests_total=1234,
        pinned=True,
        times={"load_s": 41.2, "wake_s": 1.3},
    ),
    model_json(LONG, "loading", gib=30, waiting=4, loading={"phase": "loading weights", "fraction": 0.5}, eta_s=21.0),
    model_json("gamma", "asleep", gib=2, since_s=4000.0),
    model_json("delta", "awake", gib=24, draining="alpha waits for its room"),
    model_json("phi", "failed", failures=3, error="ValueError:\n\x1b[31mno memory\x1b[0m", retry_in_s=8.0),
    model_json("omega"),
)
DEVICES = [
    device_json(
        reserved_bytes=98 * GIB,
        outside_bytes=7 * GIB,
        used_bytes=99 * GIB,
        outside=[{"pid": 4242, "name": "python", "bytes": 7 * GIB}],
    )
]
FULL = picture(*MODELS, devices=DEVICES, queue=[waiter_json(i, "alpha", LONG) for i in range(1, 12)])


def lines(scene: Scene, width: int = 100, height: int | None = None) -> list[str]:
    return [line.plain.rstrip() for line in screen(scene, width, height)]


def the_line(found: list[str], part: str) -> str:
    (line,) = [line for line in found if part in line]
    return line


def words(line: str) -> str:
    return " ".join(line.split())


def rated() -> Rates:
    rates = Rates()
    rates.take(100.0, {"alpha": 1000, "delta": 10})
    rates.take(130.0, {"alpha": 1060, "delta": 10})
    return rates


@pytest.mark.parametrize("width", [20, 40, 60, 80, 140, 300])
@pytest.mark.parametrize("height", [1, 5, 10, 16, 24, 40, 100])
@pytest.mark.parametrize("notice", [None, "nothing answers"])
def test_it_fits_any_terminal(width: int, height: int, notice: str | None) -> None:
    drawn = screen(Scene(URL, FULL, DECISIONS, rated(), notice), width, height)
    assert len(drawn) <= height
    assert all(cell_len(line.plain) <= width for line in drawn)
    assert all("\n" not in line.plain and "\x1b" not in line.plain for line in drawn)
    if height >= 10:
        assert the_line([line.plain for line in drawn], "MODEL")


def test_nothing_at_all_is_drawn_too() -> None:
    assert lines(Scene(URL, picture(devices=[]), ()), height=24) == [
        f"arena-server 9.8.7  up 62m  {URL}",
        "0 awake, 0 asleep, 0 cold  0 requests  3 swaps",
        "",
        "  MODEL  RESIDENCY  SINCE  RUN  WAIT  REQUESTS  GiB  LOAD  WAKE",
    ]


def test_the_header_counts_models_requests_and_swaps() -> None:
    found = lines(Scene(URL, FULL, (), rated()))
    assert found[0].startswith(f"arena-server 9.8.7  up 62m  {URL}")
    assert found[0].endswith("q quits")
    assert found[1] == "2 awake, 1 asleep, 1 cold, 1 loading, 1 failed  120.0 requests/min  3 swaps"


def test_a_daemon_that_is_stopping_says_so() -> None:
    assert "stopping" in lines(Scene(URL, picture(status="stopping"), ()))[0]


def test_what_is_wrong_is_shown_below_the_header() -> None:
    assert lines(Scene(URL, FULL, (), rated(), "nothing answers"))[2] == "nothing answers"


def test_a_device_shows_whose_its_memory_is() -> None:
    found = lines(Scene(URL, FULL, ()), width=100)
    bar = the_line(found, "GPU 0")
    # 70 cells for 140 GiB: 96 awake (and what is on its way), 2 asleep, 7 of others, 28 free, 7 over the budget.
    assert bar == "GPU 0  " + "█" * 48 + "▒" + "#" * 3 + "·" * 14 + " " * 4 + " 99.0 of 140.0 GiB used"
    legend = found[found.index(bar) + 1]
    assert words(legend) == "█ awake 96.0 ▒ asleep 2.0 # others 7.0 · free 28.0 NVIDIA H200 others: python 4242 7.0"


def process_json(pid: int, name: str, gib: float, model: str | None = None, ledger: float | None = None) -> Any:
    ledger_bytes = None if ledger is None else int(ledger * GIB)
    return {"pid": pid, "name": name, "model": model, "bytes": int(gib * GIB), "ledger_bytes": ledger_bytes}


SEEN = [
    process_json(4711, "VLLM::EngineCore", 41.2, "alpha", 42),
    process_json(977, "python", 7),
    process_json(31337, "VLLM::Worker", 3.5, "gamma", 2),
]
WITH_PROCESSES = picture(
    *MODELS,
    devices=[device_json(used_bytes=99 * GIB, outside_bytes=7 * GIB, outside=DEVICES[0]["outside"], processes=SEEN)],
)


def test_a_device_shows_its_processes_beside_the_ledger() -> None:
    found = lines(Scene(URL, WITH_PROCESSES, ()), width=80)
    at = found.index(the_line(found, "free"))
    assert [words(line) for line in found[at + 1 : at + 4]] == [
        "4711 VLLM::EngineCore NVML 41.2 42.0 reserved alpha",
        "977 python NVML 7.0 none of this server's",
        "31337 VLLM::Worker NVML 3.5 2.0 reserved gamma",
    ]
    assert "others: python" not in found[at]  # it is below
    assert all(cell_len(line) <= 80 for line in found)


def test_a_low_screen_does_without_the_processes_first() -> None:
    for height, shown, named in ((24, True, False), (22, False, True), (18, False, False)):
        found = lines(Scene(URL, WITH_PROCESSES, DECISIONS), width=100, height=height)
        assert any("EngineCore" in line for line in found) == shown, height
        assert any("others: python" in line for line in found) == named, height


def test_of_many_processes_the_largest_are_shown() -> None:
    many = [process_json(100 + i, "x", 1) for i in range(30)]
    found = lines(Scene(URL, picture(devices=[device_json(processes=many)]), ()))
    assert sum("none of this server's" in line for line in found) == 12
    assert "… 18 more processes" in words("\n".join(found))


def test_where_the_driver_does_not_say_it_is_said_why() -> None:
    found = lines(Scene(URL, FULL, ()))
    assert the_line(found, "by process").strip() == (
        "by process: not known, the driver does not say what each process has"
    )
    assert "NVML" not in the_line(found, "MODEL")


def test_a_model_shows_what_nvml_sees_beside_what_is_reserved() -> None:
    drawn = screen(Scene(URL, WITH_PROCESSES, (), rated()), 160, None)
    rows = [line.plain.rstrip() for line in drawn]
    assert words(the_line(rows, "MODEL")) == "MODEL RESIDENCY SINCE RUN WAIT REQ/MIN RESERVED NVML LOAD WAKE"
    assert words(the_line(rows, "* alpha")) == "* alpha awake 12s 3 - 120 42.0 41.2 41s 1.3s"
    assert words(the_line(rows, "  omega")) == "omega cold 12s - - - - - - -"
    gamma = next(line for line in drawn if line.plain.startswith("  gamma"))
    assert any("red" in str(span.style) for span in gamma.spans)
    assert rows[rows.index(gamma.plain.rstrip()) + 1].strip() == "NVML sees 3.5 GiB of it where 2.0 are reserved"
    assert not any("of it where 42" in row for row in rows)


def test_one_device_that_does_not_say_leaves_no_sum() -> None:
    two = picture(*MODELS, devices=[device_json(processes=SEEN), device_json(1)])
    assert "NVML" not in the_line(lines(Scene(URL, two, ()), width=160), "MODEL")


def test_the_hosts_ram_is_not_called_a_gpu() -> None:
    without_gpu = picture(devices=[device_json(name="host RAM")])
    assert not any(line.startswith("GPU") for line in lines(Scene(URL, without_gpu, ())))


def test_a_blocked_device_gives_its_reason_in_red() -> None:
    blocked = picture(devices=[device_json(blocked="python 977 holds 100 GiB", used_bytes=None)])
    drawn = screen(Scene(URL, blocked, ()), 100, 24)
    (line,) = [line for line in drawn if "blocked" in line.plain]
    assert line.plain.strip() == "blocked: python 977 holds 100 GiB"
    assert "red" in str(line.style)
    assert "? of 140.0 GiB used" in the_line([line.plain for line in drawn], "GPU 0")


def test_the_hosts_ram_is_shown_only_where_models_sleep_in_it() -> None:
    assert "sleepers 20.0 of 80.0 GiB, RAM 100.0 of 1000.0 used" in the_line(lines(Scene(URL, FULL, ())), "RAM")
    without = picture(model_json("a", sleep_level=2))
    assert not any("RAM" in line for line in lines(Scene(URL, without, ())))


def test_a_model_shows_its_figures() -> None:
    rows = lines(Scene(URL, FULL, (), rated()), width=160)
    assert words(the_line(rows, "MODEL")) == "MODEL RESIDENCY SINCE RUN WAIT REQ/MIN GiB LOAD WAKE"
    assert words(the_line(rows, "* alpha")) == "* alpha awake 12s 3 - 120 42.0 41s 1.3s"
    assert words(the_line(rows, "  gamma")) == "gamma asleep 67m - - - 2.0 - -"


def test_one_look_shows_the_counters_instead_of_rates() -> None:
    rows = lines(Scene(URL, FULL, ()), width=160)
    assert "REQUESTS" in the_line(rows, "MODEL")
    assert "1,234" in the_line(rows, "* alpha")


def test_residencies_have_colours() -> None:
    row = next(line for line in screen(Scene(URL, FULL, ()), 160, None) if "alpha" in line.plain)
    assert "green" in [str(span.style) for span in row.spans]


def test_below_a_model_stands_what_needs_words() -> None:
    rows = lines(Scene(URL, FULL, ()), width=160)

    def below(name: str) -> str:
        return rows[rows.index(the_line(rows, f"  {name} ")) + 1].strip()

    assert below(LONG) == "██████████░░░░░░░░░░  50% loading weights, about 21s left"
    assert below("delta") == "draining: alpha waits for its room"
    assert below("phi") == "failed 3 times (again in 8.0s): ValueError: no memory"


@pytest.mark.parametrize(
    ("loading", "eta_s", "said"),
    [
        (None, None, "waking"),
        (None, 1.5, "waking, about 1.5s left"),
        ({"phase": "copying", "fraction": None}, None, "copying"),
        ({"phase": "copying", "fraction": 7.0}, None, "████████████████████ 100% copying"),
    ],
)
def test_progress_says_what_is_known(loading: object, eta_s: float | None, said: str) -> None:
    rows = lines(Scene(URL, picture(model_json("a", "waking", loading=loading, eta_s=eta_s)), ()))
    assert rows[-1].strip() == said


def test_a_long_name_is_cut_in_the_middle() -> None:
    row = the_line(lines(Scene(URL, FULL, ()), width=80), "loading  ")
    name = row.split()[0]
    assert name.startswith("mistral")
    assert name.endswith("awq-int4")


def test_where_not_all_models_have_room_the_busy_ones_stay() -> None:
    many = picture(*(model_json(f"cold-{i}") for i in range(40)), model_json("busy", "awake"))
    rows = lines(Scene(URL, many, ()), height=12)
    assert any("busy" in row for row in rows)
    assert "more: " in rows[-1]
    shown = sum("  cold-" in row for row in rows)
    assert rows[-1].strip() == f"… {40 - shown} more: {40 - shown} cold"


def test_many_devices_leave_room_for_the_models() -> None:
    eight = picture(model_json("a"), devices=[device_json(i) for i in range(8)])
    rows = lines(Scene(URL, eight, ()), width=80, height=24)
    assert sum(row.startswith("GPU ") for row in rows) >= 7
    assert any("  a " in row for row in rows)


def test_the_queue_shows_its_first_and_how_many_more() -> None:
    rows = lines(Scene(URL, FULL, ()), width=160)
    at = rows.index("QUEUE  11 of at most 64, each 60s at most")
    assert rows[at + 1] == f"  1  2.5s  alpha + {LONG}  loading, about 20s left"
    assert rows[at + 8].startswith("  8 ")
    assert rows[at + 9].strip() == "… 3 more"


def test_decisions_stand_newest_first() -> None:
    rows = lines(Scene(URL, picture(), DECISIONS))
    at = rows.index("DECISIONS")
    assert rows[at + 1].endswith(" load alpha: reason 11 (41s)")
    assert rows[at + 8].endswith(" load alpha: reason 4 (41s)")
    assert len(rows) == at + 9
