"""The installed service, as an operator and a client see it."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import yaml

from tests.support.tree import Tree

NAME = "vllm-arena"
CONFIG = "/etc/vllm-arena/arena.yaml"
DROP_IN = f"/run/systemd/system/{NAME}.service.d/test.conf"
# Of a demo model whose context holds 2,048 tokens: some seconds.
LONG_ANSWER_TOKENS = 1900


class Service:
    """`vllm-arena` in a tree."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.config: dict[str, Any] = yaml.safe_load(tree.read(CONFIG))
        self.model = "tiny-qwen"
        assert self.model in self.config["models"]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.config['server']['port']}"

    def systemctl(self, verb: str, *, check: bool = True) -> str:
        """Run it; returns what it says. A failed one is shown with the unit's last lines."""
        done = self.tree.run("systemctl", verb, NAME, check=False, timeout_s=120)
        assert done.returncode == 0 or not check, f"{verb}: {done.stderr}\n{self.status()}"
        return done.stdout + done.stderr

    def show(self, name: str) -> str:
        """One property of the unit."""
        return self.tree.run("systemctl", "show", "--property", name, "--value", NAME).stdout.strip()

    @property
    def pid(self) -> str:
        """Of the daemon, in the tree."""
        return self.show("MainPID")

    def status(self) -> str:
        """`systemctl status`."""
        return self.tree.run("systemctl", "status", "--no-pager", "--lines=20", NAME, check=False).stdout

    def journal(self) -> list[Mapping[str, Any]]:
        """What the daemon and systemd said of the unit since it was started last, or tried to."""
        since = f"_SYSTEMD_INVOCATION_ID={self.show('InvocationID')}"
        said = self.tree.run("journalctl", "-o", "json", since, "+", f"UNIT={NAME}.service").stdout
        return [json.loads(line) for line in said.splitlines()]

    def messages(self) -> list[str]:
        """Of the journal the texts alone."""
        return [str(entry["MESSAGE"]) for entry in self.journal()]

    def configure(self, config: Mapping[str, Any]) -> None:
        """Write the configuration, over the file that is there, so that its owner and mode stay."""
        self.tree.write(CONFIG, yaml.safe_dump(dict(config), sort_keys=False))

    def drop_in(self, text: str) -> None:
        """Change the unit's [Service] until the test is over."""
        self.tree.write(DROP_IN, f"[Service]\n{text}\n")
        self.tree.run("systemctl", "daemon-reload")

    def restore(self) -> None:
        """As it was installed, and running."""
        self.configure(self.config)
        self.tree.run("rm", "-f", DROP_IN)
        self.tree.run("systemctl", "daemon-reload")
        self.tree.run("systemctl", "reset-failed", NAME, check=False)
        self.systemctl("reload-or-restart")

    def get(self, path: str) -> Any:
        """The JSON behind a GET."""
        with urllib.request.urlopen(self.url + path, timeout=10) as response:
            return json.loads(response.read())

    def answers(self) -> bool:
        """Whether /health does."""
        try:
            return bool(self.get("/health"))
        except OSError:
            return False

    def chat(self) -> str:
        """An answer of the model, loaded if it has to be."""
        body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 20}
        with self._post("/v1/chat/completions", body) as response:
            return str(json.loads(response.read())["choices"][0]["message"]["content"])

    def long_answer(self) -> Iterator[bytes]:
        """The events of a stream that takes seconds."""
        body = {"prompt": "Once", "stream": True, "ignore_eos": True, "n": 4, "max_tokens": LONG_ANSWER_TOKENS}
        with self._post("/v1/completions", body) as response:
            yield from (line for line in response if line.startswith(b"data: "))

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        content = json.dumps({"model": self.model, **body}).encode()
        headers = {"Content-Type": "application/json"}
        return urllib.request.urlopen(urllib.request.Request(self.url + path, content, headers), timeout=120)

    def until(self, condition: Callable[[], bool], what: str, limit_s: float = 60) -> None:
        """Poll until the condition holds."""
        deadline = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < deadline, f"waited {limit_s} s for {what}\n{self.status()}"
            time.sleep(0.05)

    def processes(self) -> list[str]:
        """Command lines of all that the service's user runs, in the unit or not."""
        script = 'for p in $(grep -l "^Uid:.$(id -u vllm-arena)\\b" /proc/[0-9]*/status 2>/dev/null); do '
        script += 'tr "\\0" " " <"${p%status}cmdline"; echo; done'
        return self.tree.run("sh", "-c", script).stdout.splitlines()
