"""`arena-server usage`: the table, CSV and JSON, before a daemon that says what the test wants."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from rich.cells import cell_len

from arena_server.cli import main
from arena_server.console.usage import lines, write_csv
from tests.test_console_daemon import error, reply, stand_in

ROUTE = "GET /admin/usage?by=key"


def used(requests: int, prompt: int, completion: int, seconds: float, cost: str) -> dict[str, Any]:
    total = {"total_tokens": prompt + completion, "seconds": seconds, "cost": cost}
    return {"requests": requests, "prompt_tokens": prompt, "completion_tokens": completion, **total}


def found(*rows: dict[str, Any], by: str = "key", **span: str) -> dict[str, Any]:
    return {"by": by, "since": None, "until": None, "rows": list(rows), "total": used(7, 10, 20, 3.0, "1234.5"), **span}


ALICE = {"key": "4f0c2b8a91d7", "name": "Älice 株式会社", **used(1204, 310552, 88210, 3120.5, "1134.7126049")}
NOBODY = {"key": "anonymous", "name": "(without a key)", **used(3, 4, 5, 0.2, "0.000001")}
GONE = {"key": "0123456789ab", "name": None, **used(3, 4, 5, 0.2, "0.00")}


def plain(value: dict[str, Any], width: int = 140) -> list[str]:
    return [line.plain.rstrip() for line in lines(value, width)]


def test_the_table() -> None:
    assert plain(found(ALICE, NOBODY, GONE, since="2026-11-01", until="2026-11-30")) == [
        "USAGE since 2026-11-01 until 2026-11-30 (UTC)",
        "KEY           NAME             REQUESTS   PROMPT  COMPLETION   TOKENS  TIME        COST",
        "4f0c2b8a91d7  Älice 株式会社      1,204  310,552      88,210  398,762   52m  1,134.7126",
        "anonymous     (without a key)         3        4           5        9  0.2s     <0.0001",
        "0123456789ab  -                       3        4           5        9  0.2s      0.0000",
        "TOTAL                                 7       10          20       30  3.0s  1,234.5000",
    ]


def test_one_row_needs_no_sum_and_nothing_no_table() -> None:
    day = {"day": "2026-11-21", **used(3, 4, 5, 0.2, "0.01")}
    assert plain(found(day, by="day"))[1:] == [
        "DAY         REQUESTS  PROMPT  COMPLETION  TOKENS  TIME    COST",
        "2026-11-21         3       4           5       9  0.2s  0.0100",
    ]
    assert plain(found(since="2026-11-01")) == ["Nothing was used since 2026-11-01 (UTC)."]


@pytest.mark.parametrize("width", [1, 10, 20, 40, 60, 80, 100])
def test_a_narrow_terminal_leaves_out_the_least_important(width: int) -> None:
    table = plain(found(ALICE, NOBODY), width)
    assert max(map(cell_len, table)) <= width
    if width >= 40:
        assert table[1].split()[0] == "KEY"
        assert table[1].split()[-1] == "COST"
        assert "TOKENS" in table[1]


def test_csv_is_a_spreadsheets_and_no_formula() -> None:
    out = io.StringIO()
    write_csv(found({**ALICE, "name": '=HYPERLINK("http://x")'}, GONE), out)
    rows = list(csv.DictReader(io.StringIO(out.getvalue())))
    assert rows[0]["name"] == '\'=HYPERLINK("http://x")'
    assert (rows[0]["key"], rows[0]["cost"], rows[0]["prompt_tokens"]) == ("4f0c2b8a91d7", "1134.7126049", "310552")
    assert rows[1]["name"] == ""
    assert len(rows) == 2, "a sum among the rows would be summed up again"


@pytest.mark.parametrize("name", [" =1+1", "\n=1+1", "\t1", "-1", "@x"])
def test_a_name_of_any_form_is_no_formula_and_figures_stay_figures(name: str) -> None:
    """A correction may make a sum less than nothing."""
    out = io.StringIO()
    write_csv(found({**ALICE, "name": name, "cost": "-0.5"}), out)
    (row,) = csv.DictReader(io.StringIO(out.getvalue()))
    assert (row["name"], row["cost"]) == (f"'{name}", "-0.5")


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    asked = "GET /admin/usage?by=model&since=2026-11-01&until=2026-11-30&key=config%3Aci&model=org%2Fllama"
    model = {"model": "org/llama", **used(3, 4, 5, 0.2, "0.01")}
    with stand_in() as daemon:
        url = daemon.url
        daemon.say(ROUTE, reply(found(ALICE)))
        daemon.say(asked, reply(found(model, by="model")))
        assert main(["usage", "--url", url]) == 0
        assert "Älice" in capsys.readouterr().out
        assert main(["usage", "--url", url, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == found(ALICE)
        assert main(["usage", "--url", url, "--csv"]) == 0
        assert capsys.readouterr().out.startswith("key,name,requests,")
        span = ["--since", "2026-11-01", "--until", "20261130", "--key", "config:ci", "-m", "org/llama"]
        assert main(["usage", "--url", url, "--by", "model", *span]) == 0
        assert "org/llama" in capsys.readouterr().out


def test_what_the_daemon_refuses_or_says_wrongly(capsys: pytest.CaptureFixture[str]) -> None:
    with stand_in() as daemon:
        daemon.say(ROUTE, error(400, "Not so."), reply({"by": "key"}))
        assert [main(["usage", "--url", daemon.url]) for _ in range(2)] == [1, 1]
    refused, wrong = capsys.readouterr().err.splitlines()
    assert refused == "arena-server: Not so."
    assert wrong.startswith("arena-server: cannot use what http://127.0.0.1:")


@pytest.mark.parametrize("wrong", [["--since", "foo"], ["--by", "week"], ["--csv", "--json"]])
def test_a_wrong_command_line(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["usage", *wrong])
    assert end.value.code == 2
    assert wrong[-1].lstrip("-") in capsys.readouterr().err
