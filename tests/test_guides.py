"""The guides name only what there is: files, headings, commands, options, metrics, configuration keys."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from arena_server.cli import _parser
from arena_server.config import Config, load_config

ROOT = Path(__file__).parent.parent
GUIDES = [ROOT / "docs" / f"{name}.md" for name in ("setup", "tuning", "migrating", "runbook")]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/**/*.md")]
SCRIPTS = ("setup_vllm_multi_model.sh", "launch_gpu_instance.sh", "smoke_test.sh")
# Others' metrics and programs that begin alike.
NO_METRICS = {"arena_server"}


def anchors(page: Path) -> set[str]:
    """Its headings as GitHub makes anchors of them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_its_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def test_each_alert_has_its_section() -> None:
    rules = (ROOT / "deploy/monitoring/arena-server.rules.yml").read_text()
    wanted = set(re.findall(r"runbook_url: docs/runbook\.md#(\S+)", rules))
    assert wanted
    assert wanted <= anchors(ROOT / "docs/runbook.md")


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_its_commands_exist(page: Path) -> None:
    # argparse keeps no public list of them.
    (commands,) = (a.choices for a in _parser()._actions if isinstance(a.choices, dict))
    named = re.findall(r"(?<!`)\barena-server ([a-z][a-z-]+)((?: [^`|\n#]*)?)", code(page))
    assert named
    unknown = []
    for command, rest in named:
        options = re.findall(r"(?<!\S)(--?[a-z][a-z-]*)", rest.partition(" && ")[0].partition(";")[0])
        if command not in commands:
            unknown.append(command)
        else:
            known = options_of(commands[command])
            unknown += [f"{command} {option}" for option in options if option not in known]
    assert unknown == []


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """Its options, and those of the commands below it."""
    below = [p for a in parser._actions if isinstance(a, argparse._SubParsersAction) for p in a.choices.values()]
    return {*parser._option_string_actions, *(option for p in below for option in options_of(p))}


def test_the_options_of_scripts_exist() -> None:
    unknown = []
    for page in GUIDES:
        for script, options in re.findall(r"scripts/(\w+\.sh)((?: +[^\s`#&|]+)*)", code(page)):
            text = (ROOT / "scripts" / script).read_text()
            assert script in SCRIPTS
            unknown += [f"{script} {o}" for o in re.findall(r"--[a-z-]+", options) if f"{o} " not in text]
    setup = (ROOT / "docs/setup.md").read_text()
    tables = "".join(re.findall(r"^\| `--.*$", setup, re.MULTILINE))
    scripts = "".join((ROOT / "scripts" / script).read_text() for script in SCRIPTS)
    unknown += [o for o in re.findall(r"--[a-z][a-z-]*", tables.replace("---", "")) if f"{o} " not in scripts]
    assert unknown == []


def test_each_option_of_the_set_up_is_explained() -> None:
    usage = (ROOT / "scripts" / SCRIPTS[0]).read_text().partition("<<'END'")[2].partition("\nEND\n")[0]
    setup = (ROOT / "docs/setup.md").read_text()
    options = set(re.findall(r"^  (--[a-z-]+)", usage, re.MULTILINE)) - {"--help"}
    assert len(options) > 8
    assert [o for o in options if f"`{o}" not in setup] == []


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_its_metrics_exist(page: Path) -> None:
    source = "".join(file.read_text() for file in (ROOT / "arena_server/metrics").glob("*.py"))
    named = set(re.findall(r"\barena_[a-z_]+\b", page.read_text())) - NO_METRICS
    assert [name for name in named if f'"{re.sub(r"_(total|bucket|sum|count)$", "", name)}"' not in source] == []


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_its_configuration_keys_exist(page: Path) -> None:
    sections = {"pool", "server", "tracing"}
    unknown = []
    for section, key in re.findall(r"`(\w+)\.(\w+)", page.read_text()):
        if section in sections and key not in Config.model_fields[section].annotation.model_fields:  # type: ignore[union-attr]
            unknown.append(f"{section}.{key}")
    assert unknown == []


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_its_configurations_can_be_used(page: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    for number, block in enumerate(b for b in blocks if re.search(r"^models:", b, re.MULTILINE)):
        file = tmp_path / f"{number}.yaml"
        file.write_text(block)
        assert load_config(file).models


def code(page: Path) -> str:
    """What it sets as code: indented or fenced lines, and what is in backticks; one piece a line."""
    text = page.read_text()
    lines = re.findall(r"^(?: {4,})(.*(?:\\\n.*)*)$", text, re.MULTILINE)
    fenced = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return "\n".join([*lines, *fenced, *inline]).replace("\\\n", " ")
