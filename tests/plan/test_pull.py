"""`arena-server pull` as a process, against a stand-in of the hub on a real port."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest

from arena_server.cli import main
from arena_server.plan.files import INDEX
from arena_server.plan.origin import Repository
from arena_server.plan.place import Wanted
from arena_server.plan.progress import size_text
from arena_server.plan.pull import Order, without_room
from arena_server.plan.safetensors import Tensor
from tests.plan.folders import header, published
from tests.plan.hub_stand_in import COMMIT, HubStandIn, Repo, serving_hub
from tests.plan.shapes import checkpoint

TIMEOUT_S = 60
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
SHARD_BYTES = 600_000
# The library writes 10 MB at a time.
LARGE_BYTES = 24_000_000


def shard(seed: int, size: int = SHARD_BYTES) -> bytes:
    """A safetensors file."""
    return header([Tensor(f"layer.{seed}", "U8", (size,))]) + random.Random(seed).randbytes(size)


def repo(gated: bool = False, shard_bytes: int = SHARD_BYTES) -> Repo:
    """A model in two shards, with all that hubs have beside."""
    weight_map = {"a": SHARDS[0], "b": SHARDS[1]}
    return Repo(
        {
            "config.json": json.dumps(published("qwen2.5-7b")["config"]).encode(),
            "tokenizer.json": b"{}",
            INDEX: json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}).encode(),
            SHARDS[0]: shard(1, shard_bytes),
            SHARDS[1]: shard(2, shard_bytes),
            "pytorch_model.bin": b"the same once more",
            "original/consolidated.00.pth": b"and again",
            "README.md": b"# A model",
        },
        gated=gated,
    )


@dataclass
class Done:
    """What came of a command."""

    returncode: int
    stdout: str
    stderr: str


@dataclass
class Host:
    """Where it runs: the hub's address, and a directory with the configuration and the cache."""

    hub: HubStandIn
    directory: Path

    @property
    def cache(self) -> Path:
        return self.directory / "hf" / "hub"

    def config(self, text: str) -> Path:
        file = self.directory / "arena.yaml"
        file.write_text(f"state_dir: {self.directory}/state\n{text}")
        return file

    def environment(self, **more: str) -> dict[str, str]:
        base = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        return {**base, "HF_ENDPOINT": self.hub.url, "HF_HOME": str(self.directory / "hf"), **more}

    def command(self, config: Path, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "arena_server", arguments[0], "--config", str(config), *arguments[1:]]

    def run_process(self, config: Path, *arguments: str) -> Done:
        """As it is called."""
        command = self.command(config, *arguments)
        done = subprocess.run(
            command, env=self.environment(), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def run(self, config: Path, *arguments: str, offline: bool = False, **environment: str) -> Done:
        """The same in this process, which saves the imports. The library reads its environment when it is imported."""
        from huggingface_hub import constants

        url = environment.pop("HF_ENDPOINT", self.hub.url)
        with pytest.MonkeyPatch.context() as patch:
            for key in [key for key in os.environ if key.startswith(("HF_", "HUGGING"))]:
                patch.delenv(key)
            for key, value in {"HF_HOME": str(self.directory / "hf"), **environment}.items():
                patch.setenv(key, value)
            patch.setattr(constants, "ENDPOINT", url)
            patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
            patch.setattr(constants, "HF_HUB_CACHE", str(self.cache))
            patch.setattr(constants, "HF_HUB_OFFLINE", offline)
            out, err = StringIO(), StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status = main([arguments[0], "--config", str(config), *arguments[1:]])
        return Done(status, out.getvalue(), err.getvalue())

    def snapshot(self, name: str) -> dict[str, bytes]:
        """What an engine would find of a model."""
        folder = self.cache / f"models--{name.replace('/', '--')}" / "snapshots" / self.hub.commit
        files = (file for file in folder.rglob("*") if file.is_file())
        return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with serving_hub(HubStandIn({"org/a": repo(), "org/gated": repo(gated=True)})) as hub:
        yield Host(hub, tmp_path)


def test_it_fetches_what_vllm_reads_and_nothing_twice(host: Host) -> None:
    config = host.config("models: {a: {model: org/a, aliases: [alias]}}\n")
    done = host.run_process(config, "pull", "alias")
    assert (done.returncode, done.stderr) == (0, "")
    assert "a (org/a): fetching 1.2 MB" in done.stdout
    assert f"a: fetched, 1.2 MB in {host.cache}" in done.stdout
    wanted = {"config.json", "tokenizer.json", INDEX, *SHARDS}
    assert host.snapshot("org/a") == {name: host.hub.repos["org/a"].files[name] for name in wanted}
    assert (host.cache / "models--org--a" / "refs" / "main").read_text() == COMMIT
    host.hub.asked.clear()
    again = host.run(config, "pull")
    assert again.returncode == 0
    assert "a: complete, 1.2 MB" in again.stdout
    assert host.hub.gets(".safetensors") == []
    # As vLLM asks for it, and with no hub at all.
    offline = host.run(config, "pull", offline=True, HF_ENDPOINT="http://127.0.0.1:9")
    assert (offline.returncode, offline.stderr) == (0, "")
    assert "a: in the cache, not compared with the hub" in offline.stdout


def test_a_plan_reads_headers_from_the_hub_and_later_from_the_cache(host: Host) -> None:
    files = host.hub.repos["org/a"].files
    tensors = checkpoint(published("qwen2.5-7b")["config"])
    for i, name in enumerate(SHARDS):
        files[name] = header(tensors[i::2]) + bytes(SHARD_BYTES)
    config = host.config("models: {a: {model: org/a}}\n")
    first = host.run(config, "plan", "--gpu", "80GiB", "--json")
    assert first.returncode == 0
    found = json.loads(first.stdout)["models"]["a"]
    assert (found["seen"], found["checkpoint_bytes"]) == ("hub", published("qwen2.5-7b")["total_size"])
    ranges = host.hub.gets(".safetensors")
    assert len(ranges) == 2
    assert None not in ranges  # never a whole file
    assert host.run(config, "pull").returncode == 0
    host.hub.asked.clear()
    second = json.loads(host.run(config, "plan", "--gpu", "80GiB", "--json", offline=True).stdout)
    assert (second["models"]["a"]["seen"], host.hub.asked) == ("cache", [])
    assert second["models"]["a"]["checkpoint_bytes"] == found["checkpoint_bytes"]


def test_an_interrupted_run_goes_on_where_it_stopped(host: Host) -> None:
    host.hub.repos["org/a"] = repo(shard_bytes=LARGE_BYTES)
    config = host.config("models: {a: {model: org/a}}\n")
    arrived, leave = threading.Event(), threading.Event()

    def hold(sent: int) -> None:
        if sent > LARGE_BYTES // 2:
            arrived.set()
            leave.wait(TIMEOUT_S)

    host.hub.on_chunk = hold
    process = subprocess.Popen(
        host.command(config, "pull"), env=host.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        assert arrived.wait(TIMEOUT_S)
        blobs = host.cache / "models--org--a" / "blobs"
        _until_some_is_written(blobs)
        process.send_signal(signal.SIGKILL)  # the worst of them
    finally:
        process.kill()
        process.communicate(timeout=TIMEOUT_S)
        leave.set()
    host.hub.on_chunk = None
    left = {file.name.removesuffix(".incomplete"): file.stat().st_size for file in blobs.glob("*.incomplete")}
    assert left
    assert not set(SHARDS) & set(host.snapshot("org/a"))
    host.hub.asked.clear()
    done = host.run(config, "pull")
    assert (done.returncode, done.stderr) == (0, "")
    ranges = host.hub.gets(".safetensors")
    assert len(ranges) == 2
    assert {f"bytes={size}-" for size in left.values() if size} <= set(ranges)
    assert {name: host.snapshot("org/a")[name] for name in SHARDS} == dict(
        zip(SHARDS, (shard(1, LARGE_BYTES), shard(2, LARGE_BYTES)), strict=True)
    )
    assert not [*blobs.glob("*.incomplete")]


def _until_some_is_written(blobs: Path) -> None:
    """The process tells nobody that its buffers have reached the disk."""
    waited = threading.Event()
    for _ in range(1000):
        if any(file.stat().st_size for file in blobs.glob("*.incomplete")):
            return
        waited.wait(0.02)
    raise AssertionError("nothing was written")


def test_what_was_left_and_does_not_go_with_the_rest_is_not_kept(host: Host) -> None:
    config = host.config("models: {a: {model: org/a}}\n")
    assert host.run(config, "pull").returncode == 0
    blobs = host.cache / "models--org--a" / "blobs"
    snapshot = host.cache / "models--org--a" / "snapshots" / COMMIT / SHARDS[0]
    blob = snapshot.resolve()
    snapshot.unlink()
    blob.unlink()
    (blobs / f"{blob.name}.incomplete").write_bytes(b"not what it was" * 100)
    done = host.run(config, "pull")
    assert done.returncode == 1
    assert "what was fetched before does not go with the rest (run it again)" in done.stderr
    assert host.run(config, "pull").returncode == 0
    assert host.snapshot("org/a")[SHARDS[0]] == shard(1)


def test_a_connection_that_breaks_is_taken_up_again(host: Host) -> None:
    host.hub.repos["org/a"] = repo(shard_bytes=LARGE_BYTES)
    host.hub.break_after = 15_000_000
    config = host.config("models: {a: {model: org/a}}\n")
    done = host.run(config, "pull")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert host.snapshot("org/a")[SHARDS[1]] == shard(2, LARGE_BYTES)
    assert len(host.hub.gets(".safetensors")) > 2


def test_each_failure_is_one_line_and_the_others_are_fetched(host: Host) -> None:
    config = host.config(
        "models:\n"
        "  gated: {model: org/gated}\n"
        "  none: {model: org/none}\n"
        "  old: {model: org/a, engine_args: {revision: v9}}\n"
        "  gguf: {model: org/a, engine_args: {load_format: gguf}}\n"
        f"  gone: {{model: {host.directory}/gone}}\n"
        f"  here: {{model: {host.directory}}}\n"
        "  a: {model: org/a}\n"
    )
    done = host.run(config, "pull")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    for name, says in {
        "gated": f"`org/gated` is gated: ask for access at {host.hub.url}/org/gated, then set HF_TOKEN",
        "none": "there is no `org/none` on the hub, or it is private (check the id; set HF_TOKEN",
        "old": "`org/a` has no revision `v9`",
        "gguf": "cannot be fetched ahead of time with load_format gguf",
        "gone": f"{host.directory}/gone: there is nothing",
    }.items():
        assert [line for line in lines if line.startswith(f"arena-server: {name}: {says}")], (name, done.stderr)
    assert len(lines) == 5
    assert f"here: local, nothing to fetch ({host.directory})" in done.stdout
    assert "a: fetched" in done.stdout
    token = host.run(config, "pull", "gated", HF_TOKEN="hf_right")
    assert token.returncode == 0, token.stderr
    assert host.snapshot("org/gated")[SHARDS[0]] == shard(1)


def test_without_a_hub(host: Host) -> None:
    config = host.config("models: {a: {model: org/a}}\n")
    offline = host.run(config, "pull", offline=True)
    assert offline.returncode == 1
    assert "a: `org/a` is not whole in the cache and HF_HUB_OFFLINE is set" in offline.stderr
    unreachable = host.run(config, "pull", HF_ENDPOINT="http://127.0.0.1:9")
    assert unreachable.returncode == 1
    assert "a: `org/a`: the hub at http://127.0.0.1:9 cannot be used" in unreachable.stderr
    assert len((offline.stderr + unreachable.stderr).splitlines()) == 2


def test_a_new_commit_with_the_same_weights_needs_no_room_and_fetches_none(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = host.config("models: {a: {model: org/a}}\n")
    assert host.run(config, "pull").returncode == 0
    host.hub.repos["org/a"].files["README.md"] = b"# Changed"
    host.hub.commit = "f" * 40
    host.hub.asked.clear()
    monkeypatch.setattr("arena_server.plan.pull.shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    done = host.run(config, "pull")
    assert (done.returncode, done.stderr) == (0, "")
    assert "a: complete, 1.2 MB" in done.stdout
    assert "fetch" not in done.stdout
    assert host.hub.gets(".safetensors") == []
    wanted = {"config.json", "tokenizer.json", INDEX, *SHARDS}
    assert host.snapshot("org/a") == {name: host.hub.repos["org/a"].files[name] for name in wanted}


def test_what_is_whole_in_the_cache_needs_no_hub(host: Host) -> None:
    tokens = Repo({"tokenizer.json": b"{}", "tokenizer_config.json": b"{}"})
    host.hub.repos["org/tokens"] = tokens
    config = host.config("models: {a: {model: org/a, engine_args: {tokenizer: org/tokens}}, b: {model: org/a}}\n")
    assert host.run(config, "pull").returncode == 0
    gone = host.run(config, "pull", HF_ENDPOINT="http://127.0.0.1:9")
    assert gone.returncode == 0
    why = "the hub at http://127.0.0.1:9 cannot be used"
    assert f"a: whole in the cache, not compared with the hub: `org/tokens`: {why}" in gone.stderr
    assert f"b: whole in the cache, not compared with the hub: `org/a`: {why}" in gone.stderr
    assert len(gone.stderr.splitlines()) == 3
    (host.cache / "models--org--a" / "snapshots" / COMMIT / SHARDS[0]).unlink()
    broken = host.run(config, "pull", HF_ENDPOINT="http://127.0.0.1:9")
    assert broken.returncode == 1
    assert "a: `org/a`: the hub at http://127.0.0.1:9 cannot be used" in broken.stderr


def test_a_hub_that_says_no_is_not_a_hub_that_is_gone(host: Host) -> None:
    config = host.config("models: {a: {model: org/a}}\n")
    assert host.run(config, "pull").returncode == 0
    host.hub.repos["org/a"].gated = True
    done = host.run(config, "pull")
    assert done.returncode == 1
    assert "`org/a` is gated" in done.stderr


def test_an_unknown_name_is_status_2_and_nothing_is_asked(host: Host) -> None:
    config = host.config("models: {a: {model: org/a}}\n")
    done = host.run(config, "pull", "b")
    assert done.returncode == 2
    assert "there is no model 'b' (it has: a)" in done.stderr
    assert host.hub.asked == []


def test_weights_go_where_download_dir_says_and_the_rest_where_it_was(host: Host) -> None:
    there = host.directory / "elsewhere"
    config = host.config(f"models: {{a: {{model: org/a, engine_args: {{download_dir: {there}}}}}}}\n")
    assert host.run(config, "pull").returncode == 0
    assert set(host.snapshot("org/a")) >= {"config.json", "tokenizer.json"}
    assert not set(SHARDS) & set(host.snapshot("org/a"))
    found = {file.name for file in (there / "models--org--a" / "snapshots" / COMMIT).iterdir()}
    assert found >= set(SHARDS)
    again = host.run(config, "pull")
    assert "a: complete" in again.stdout


def test_of_two_formats_that_which_vllm_takes(host: Host) -> None:
    host.hub.repos["org/a"].files |= {"consolidated.safetensors": shard(3), "params.json": b"{}"}
    config = host.config("models: {a: {model: org/a}}\n")
    done = host.run(config, "pull")
    assert done.returncode == 0
    assert {name for name in host.snapshot("org/a") if name.endswith(".safetensors")} == {"consolidated.safetensors"}
    assert "with HF_HUB_OFFLINE it needs load_format: mistral" in done.stdout
    config = host.config("models: {a: {model: org/a, engine_args: {load_format: safetensors}}}\n")
    done = host.run(config, "pull")
    assert "HF_HUB_OFFLINE" not in done.stdout
    assert set(SHARDS) <= set(host.snapshot("org/a"))


def test_a_service_that_keeps_its_models_elsewhere_is_pointed_out(host: Host) -> None:
    place = host.directory / "state" / "huggingface"
    place.mkdir(parents=True)
    config = host.config(f"models: {{here: {{model: {host.directory}}}}}\n")
    done = host.run(config, "pull", HF_HOME="")
    assert f"HF_HOME is not set, but there is {place}" in done.stderr
    assert "HF_HOME" not in host.run(config, "pull").stderr


def order(directory: Path, name: str, size: int) -> Order:
    repository = Repository(f"org/{name}", weights_dir=directory, cache_dir=directory)
    wanted = Wanted("model.safetensors", size, "0" * 64)
    return Order(name, repository, COMMIT, [wanted], [], [wanted])


def test_a_disk_that_is_too_small_is_told_with_numbers_before_anything_is_fetched(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    assert without_room([order(tmp_path, "a", free // 4)]) == []
    refused = without_room([order(tmp_path / "new", "a", free // 2), order(tmp_path, "b", free // 2)])
    assert len(refused) == 1
    assert f"(a {size_text(free // 2)}, b {size_text(free // 2)})" in refused[0]
    assert "nothing was fetched" in refused[0]


def test_what_an_interrupted_run_has_left_is_not_counted_again(tmp_path: Path) -> None:
    blobs = tmp_path / "models--org--a" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{'0' * 64}.incomplete").write_bytes(bytes(400))
    assert order(tmp_path, "a", 1000).missing_bytes == 600


def test_sizes_in_words() -> None:
    sizes = (0, 999, 1000, 15_231_233_024, 999_960_000_000, 5 * 10**15)
    assert [size_text(n) for n in sizes] == ["0 B", "999 B", "1.0 KB", "15.2 GB", "1.0 TB", "5000.0 TB"]
