"""The set-up script on a clean host: its first real run, and the next ones.

A run takes its time, so each shows several things; the tests go in this order, on one host.
"""

from __future__ import annotations

import pytest

from tests.host.setup_run import SetupRun, listing
from tests.support.tree import Tree

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

SITE = "/etc/nginx/sites-available/vllm-arena"
ALLOW_LIST = "/etc/vllm-arena/nginx-allow.conf"
CONFIG = "/etc/vllm-arena/arena.yaml"


def test_the_first_run_ends_with_a_passed_smoke_test(set_up: SetupRun, installed: Tree) -> None:
    said = set_up.done.stdout
    assert f"Smoke test of https://127.0.0.1:{set_up.args[-1]}\n" in said
    assert "ok    stream" in said
    assert "ok    parallel" in said
    assert "All is well\n" in said
    assert "Traceback" not in said + set_up.done.stderr
    units = ["vllm-arena", "nginx"]
    assert installed.run("systemctl", "is-enabled", *units).stdout.split() == ["enabled"] * 2
    assert installed.run("systemctl", "is-active", *units).stdout.split() == ["active"] * 2


def test_secrets_are_closed_to_others(installed: Tree) -> None:
    files = {
        "/etc/vllm-arena/env": "640 root:vllm-arena",
        CONFIG: "640 root:vllm-arena",
        "/etc/vllm-arena/tls/key.pem": "600 root:root",
        "/var/log/vllm-arena-setup.log": "600 root:root",
        "/var/lib/vllm-arena": "750 vllm-arena:vllm-arena",
        "/opt/vllm-arena/venv": "755 root:root",
    }
    found = installed.run("stat", "-c", "%n %a %U:%G", *files).stdout.splitlines()
    assert dict(line.split(" ", 1) for line in found) == files


def test_the_second_run_changes_nothing_and_says_so(set_up: SetupRun, installed: Tree) -> None:
    before = listing(installed)
    again = set_up.again()
    assert again.done.returncode == 0, again.done.stdout + again.done.stderr
    after = listing(installed)
    assert {name: (before.get(name), value) for name, value in after.items() if before.get(name) != value} == {}
    assert before.keys() == after.keys()
    assert "\nunchanged: everything was as it should be\n" in again.done.stdout
    assert "All is well\n" in again.done.stdout
    assert again.took_s < set_up.took_s


def test_what_the_operator_has_changed_is_kept_and_what_is_named_is_added(set_up: SetupRun, installed: Tree) -> None:
    site, config, allowed = installed.read(SITE), installed.read(CONFIG), installed.read(ALLOW_LIST)
    own = ["allow 127.0.0.0/8;", "allow ::1;"]
    assert [line for line in allowed.splitlines() if not line.startswith("#")] == [*own, "deny all;"]
    mine = site.replace("rate=20r/s", "rate=50r/s")
    assert mine != site
    installed.write(SITE, mine)
    installed.write(ALLOW_LIST, "".join(f"{line}\n" for line in [*own, "allow 198.51.100.7; # by hand", "deny all;"]))
    installed.write("/root/other.yaml", config + "# another\n")
    daemon = _daemon(installed)
    try:
        again = set_up.again("--config", "/root/other.yaml", "--allow", "192.0.2.0/24", "--no-start")
        assert again.done.returncode == 0, again.done.stdout + again.done.stderr
        assert installed.read(SITE) == mine
        assert installed.read(f"{SITE}.new") == site
        assert f"{SITE} was edited here: left as it is" in again.done.stdout
        assert installed.read(CONFIG) == config
        assert "/root/other.yaml is another one" in again.done.stdout
        added = [*own, "allow 198.51.100.7; # by hand", "allow 192.0.2.0/24;", "deny all;"]
        assert installed.read(ALLOW_LIST).splitlines() == added
        assert _daemon(installed) == daemon
    finally:
        installed.write(SITE, site)
        installed.write(ALLOW_LIST, allowed)
        installed.run("rm", "-f", f"{SITE}.new")


def test_a_step_that_fails_is_named_with_the_log_and_mended_by_another_run(set_up: SetupRun, installed: Tree) -> None:
    daemon = _daemon(installed)
    installed.run("touch", "/opt/vllm-arena/venv/arena-installed")  # as if --no-start had installed another version
    allowed = installed.read(ALLOW_LIST)
    installed.write(ALLOW_LIST, "allow everybody;\ndeny all;\n")
    try:
        failed = set_up.again().done
    finally:
        installed.write(ALLOW_LIST, allowed)
    assert failed.returncode == 1
    assert "restarting vllm-arena" in failed.stdout
    assert _daemon(installed) != daemon
    assert 'invalid parameter "everybody"' in failed.stderr  # nginx's own word
    assert 'step "Proxy": nginx does not accept its configuration' in failed.stderr
    assert "/var/log/vllm-arena-setup.log" in failed.stderr
    assert "run this again" in failed.stderr
    assert "Smoke test" not in failed.stdout
    mended = set_up.again().done
    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert "reloading nginx" in mended.stdout  # the list is a new one to it
    assert "All is well\n" in mended.stdout


def _daemon(installed: Tree) -> str:
    return installed.run("systemctl", "show", "vllm-arena", "--property=MainPID").stdout


def test_a_host_without_a_card_is_told_what_to_install(set_up: SetupRun, installed: Tree) -> None:
    done = set_up.again("--engine", "gpu").done
    assert done.returncode == 1
    assert "no NVIDIA driver" in done.stderr
    assert "--engine cpu" in done.stderr
