"""The service under a real systemd, as set-up installed it.

Each test begins with a running service, whatever came before; in this order only one of them has to load a model.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest

from tests.host.service import Service
from tests.support.tree import Tree

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]  # before the first one the tree is made, and set-up runs

ERROR, WARNING, INFO = "3", "4", "6"


@pytest.fixture(scope="module")
def as_installed(installed: Tree) -> Service:
    return Service(installed)


@pytest.fixture
def service(as_installed: Service) -> Iterator[Service]:
    """Running when the test begins, whatever the one before has done with it."""
    as_installed.systemctl("start")
    yield as_installed
    as_installed.restore()


def test_start_returns_when_it_answers(service: Service) -> None:
    service.systemctl("stop")
    service.systemctl("start")
    assert service.answers()
    assert f'Status: "0 of {len(service.config["models"])} models awake' in service.status()
    assert service.show("NRestarts") == "0"


def test_a_daemon_that_is_stuck_is_started_again(service: Service) -> None:
    service.drop_in("WatchdogSec=5s\nRestartSec=1s")
    service.systemctl("restart")
    daemon = service.pid
    service.until(lambda: len(service.processes()) > 1, "the zygote")
    service.tree.run("sh", "-c", f"kill -STOP {daemon}")
    service.until(lambda: service.show("NRestarts") == "1" and service.answers(), "another daemon")
    assert service.pid != daemon
    assert service.chat()
    said = service.tree.run("journalctl", "-o", "cat", "-u", "vllm-arena").stdout
    assert "Watchdog timeout (limit 5s)!" in said
    assert "Fatal Python error: Aborted" in said  # and where it was


def test_the_status_follows_the_models(service: Service) -> None:
    assert service.chat()
    service.until(lambda: 'Status: "1 of ' in service.status(), "the status")


def test_the_journal_has_levels(service: Service) -> None:
    service.chat()
    said = [(entry["PRIORITY"], str(entry["MESSAGE"])) for entry in service.journal()]
    assert (INFO, "arena-server ") in [(level, text[:13]) for level, text in said]  # and without a time of its own
    assert [level for level, text in said if text.endswith(f"Loading {service.model}")] == [INFO]
    assert {level for level, text in said if f"[{service.model}] " in text and ") WARNING " in text} == {WARNING}
    assert not any(text.startswith("<") for _, text in said)


def test_a_reload_puts_a_changed_configuration_into_force(service: Service) -> None:
    service.chat()
    daemon = service.pid
    changed = copy.deepcopy(service.config)
    changed["models"]["another"] = changed["models"][service.model]
    service.configure(changed)
    service.systemctl("reload")
    service.until(lambda: "another" in service.get("/health")["available_models"], "the new model")
    assert service.model in service.get("/health")["loaded_models"]
    assert service.pid == daemon


def test_a_reload_of_a_broken_configuration_fails_and_says_why(service: Service) -> None:
    daemon = service.pid
    service.configure({**service.config, "nonsense": 1})
    assert "failed" in service.systemctl("reload", check=False)
    said = {entry["MESSAGE"]: entry["PRIORITY"] for entry in service.journal()}
    (fault,) = [text for text in said if "nonsense: unknown key" in text]
    assert said[fault] == ERROR
    assert service.show("ActiveState") == "active"
    assert (service.pid, service.answers()) == (daemon, True)


def test_a_stop_lets_a_running_answer_finish_and_leaves_nothing(service: Service) -> None:
    service.drop_in("TimeoutStopSec=4s")  # less than the answer takes: the daemon asks for what its grace needs
    service.chat()
    stream = service.long_answer()
    events = [next(stream)]
    service.tree.run("systemctl", "stop", "--no-block", "vllm-arena")
    events += stream
    assert events[-1] == b"data: [DONE]\n"
    assert not any(b'"error"' in event for event in events)
    assert "Shutting down; running answers get 30 s" in service.messages()
    service.systemctl("stop")  # the same order: comes back when it is carried out
    assert (service.show("Result"), service.show("ActiveState")) == ("success", "inactive")
    assert service.processes() == []
    assert service.tree.run("find", "/dev/shm", "-user", "vllm-arena").stdout == ""
    assert service.tree.run("test", "-e", "/run/vllm-arena", check=False).returncode == 1


def test_a_wrong_configuration_is_not_tried_again(service: Service) -> None:
    service.systemctl("stop")
    service.configure({**service.config, "nonsense": 1})
    assert "failed" in service.systemctl("start", check=False)
    assert (service.show("ActiveState"), service.show("NRestarts")) == ("failed", "0")
    assert 'Status: "not started: /etc/vllm-arena/arena.yaml: nonsense: unknown key' in service.status()
