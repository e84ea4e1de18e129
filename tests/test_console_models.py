"""`arena-server models`, before the daemon itself (over fake engines)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from arena_server.cli import main
from arena_server.console.models import ShownModel, table
from tests.support.daemon_app import FakeDaemon, running_daemon
from tests.support.leases import use

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODELS: dict[str, Any] = {"alpha": {"model": "org/alpha", "gpu_memory_utilization": 0.3, "sleep_level": 0}}
# What stands there when a test begins, and when it ends.
TABLE = [
    "NAME   MODEL      STATE  FROM  MEMORY  COST IN/OUT  ALIASES",
    "alpha  org/alpha  cold   file  0.3     -            -",
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def daemon(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[FakeDaemon]:
    file = tmp_path_factory.mktemp("models") / "arena.yaml"
    file.write_text(json.dumps({"models": MODELS}))
    async with running_daemon(file=file) as running:
        yield running


class Models:
    """The command, and what it printed."""

    def __init__(self, daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
        self._daemon = daemon
        self._capsys = capsys

    async def refused(self, *arguments: str) -> tuple[int, str]:
        """The status and standard error of one that fails."""
        try:
            status = await asyncio.to_thread(main, ["models", *arguments, "--url", self._daemon.url])
        except SystemExit as e:
            status = int(e.code or 0)
        out, err = self._capsys.readouterr()
        assert out == ""
        return status, err

    async def __call__(self, *arguments: str) -> list[str]:
        """The lines of one that succeeds."""
        status = await asyncio.to_thread(main, ["models", *arguments, "--url", self._daemon.url])
        out, err = self._capsys.readouterr()
        assert (status, err) == (0, "")
        return out.splitlines()


@pytest.fixture
def models(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> Models:
    return Models(daemon, capsys)


async def test_the_life_of_a_model(daemon: FakeDaemon, models: Models) -> None:
    assert await models("list") == TABLE
    options = ["--display-name", "Gamma 7B", "--gpu-memory-utilization", "0.25", "--input-cost", "0.15"]
    options += ["--output-cost", "0.6", "--alias", "g", "--alias", "gpt", "--fallback", "alpha"]
    options += ["--engine-arg", "max-model-len=4096", "--engine-arg", "dtype=half", "--env", "VLLM_X=1"]
    (said,) = await models("add", "org/gamma", "--model", "org/gamma-7b", *options)
    assert said == "org/gamma: added (cold); it is loaded when it is first asked for"
    assert await models("alias", "chat", "alpha=90", "org/gamma=10") == ["chat: alpha 90%, org/gamma 10%"]
    await use(daemon, "org/gamma")
    assert await models("list") == [
        "NAME       MODEL         STATE  FROM   MEMORY  COST IN/OUT  ALIASES",
        "alpha      org/alpha     cold   file   0.3     -            -",
        "org/gamma  org/gamma-7b  awake  added  0.25    0.15/0.6     g, gpt",
        "",
        "ALIAS  STANDS FOR                STATE   FROM",
        "chat   alpha 90%, org/gamma 10%  active  added",
    ]
    shown = [line for line in await models("show", "org/gamma") if not line.startswith(("added", "changed"))]
    assert shown == [
        "name                    org/gamma",
        "state                   awake",
        "from                    added",
        "model                   org/gamma-7b",
        "display_name            Gamma 7B",
        "gpu_memory_utilization  0.25",
        "input_cost              0.15",
        "output_cost             0.6",
        'aliases                 ["g", "gpt"]',
        'fallback                ["alpha"]',
        'engine_args             {"max_model_len": 4096, "dtype": "half"}',
        'env                     {"VLLM_X": "1"}',
    ]
    pairs = ["engine_args.dtype=", "engine_args.seed=7", "fallback=", "aliases=a,b", 'display_name="7"', "pinned=true"]
    (said,) = await models("set", "org/gamma", *pairs, "--input-cost", "1")
    assert said == "org/gamma: changed (stopping)", "its engine is replaced"
    settings = json.loads("\n".join(await models("show", "org/gamma", "--json")))["settings"]
    assert settings == {
        "model": "org/gamma-7b", "gpu_memory_utilization": 0.25, "input_cost": 1, "output_cost": 0.6,
        "aliases": ["a", "b"], "engine_args": {"max_model_len": 4096, "seed": 7}, "env": {"VLLM_X": "1"},
        "display_name": "7", "pinned": True,
    }  # fmt: skip
    # Arguments with dashes are the same ones, and texts stay what they are.
    await models("set", "org/gamma", "engine_args.max-model-len=8192", "engine_args.--seed=", "display_name=2026")
    settings = json.loads("\n".join(await models("show", "org/gamma", "--json")))["settings"]
    assert (settings["engine_args"], settings["display_name"]) == ({"max_model_len": 8192}, "2026")
    assert await models("unalias", "chat") == ["chat: removed"]
    assert await models("disable", "org/gamma") == ["org/gamma: disabled"]
    assert "disabled" in (await models("list"))[2]
    assert await models("enable", "org/gamma") == ["org/gamma: enabled"]
    assert await models("remove", "org/gamma") == ["org/gamma: removed; answers that are running end well"]
    assert await models("list") == TABLE


async def test_a_relative_path_is_relative_to_where_the_command_is_given(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    await models("add", "local", "--model", "./weights")
    (shown,) = (line for line in await models("show", "local") if line.startswith("model "))
    assert shown.split()[1] == str(tmp_path / "weights")
    await models("remove", "local")


async def test_a_list_as_json_is_what_the_daemon_says(models: Models) -> None:
    listed = json.loads("\n".join(await models("list", "--json")))
    assert listed.keys() == {"models", "aliases"}
    assert [m["name"] for m in listed["models"]] == ["alpha"]


async def test_what_is_refused_is_told_with_the_keys_at_fault(models: Models) -> None:
    assert await models.refused("add", "x", "--model", "a", "--fallback", "y", "--gpu-memory-utilization", "2") == (
        2,
        "arena-server: models.x.gpu_memory_utilization: must be at most 1.0, not 2.0\n",
    )
    status, said = await models.refused("set", "alpha", "pinned=true")
    assert (status, "`alpha` stands in " in said) == (1, True)
    assert (await models.refused("remove", "nobody"))[0] == 1
    assert await models.refused("alias", "chat", "alpa") == (
        2,
        'arena-server: aliases.chat.alpa: is not a configured model (did you mean "alpha"?)\n',
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["set", "alpha"], "nothing to change"),
        (["set", "alpha", "pinned"], "not KEY=VALUE"),
        (["add", "x"], "--model"),
        (["add", "x", "--model", "a", "--devices", "one"], "neither `auto` nor numbers"),
        (["add", "x", "--model", "a", "--env", "A"], "not VAR=VALUE"),
        (["alias", "chat", "alpha=much"], "'much' is not a weight"),
        (["alias", "chat"], "MODEL[=WEIGHT]"),
        (["alias", "chat", "alpha=1", "beta=1", "alpha=2"], "given twice: alpha"),
        (["alias", "chat", "alpha=nan"], "'nan' is not a weight"),
        (["set", "alpha", "--input-cost", "nan"], "'nan' is not a number"),
        (["set", "alpha", "engine_args=", "engine_args.seed=1"], "engine_args is given as a whole"),
    ],
)
async def test_a_wrong_command_line_is_told(models: Models, arguments: list[str], said: str) -> None:
    status, error = await models.refused(*arguments)
    assert status == 2
    assert said in error


async def test_what_is_faulty_is_shown_nevertheless() -> None:
    settings = {"model": 5, "gpu_memory_utilization": "much", "input_cost": [], "output_cost": 1, "aliases": 5}
    broken = ShownModel("g", "registry", "faulty", ("no good",), settings, None, None, None)
    assert table([broken])[1:] == ["g     5      faulty  added  ?       ?/1          -", "  ! no good"]
