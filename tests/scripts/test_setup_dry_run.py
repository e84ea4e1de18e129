"""What the set-up would do, on machines that are made up: `--dry-run` with stand-ins for all that it asks."""

from __future__ import annotations

import difflib
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from arena_server.config import Config, parse_config
from arena_server.config_types import Origin
from arena_server.measurements import MeasurementStore
from arena_server.plan.card import parse_cards
from arena_server.plan.plan import make_plan
from arena_server.plan.sight import look_at
from arena_server.vllm_arguments import known_arguments
from tests.plan.folders import model_folder, published
from tests.scripts.parts import Host
from tests.scripts.run import ROOT, run

TRANSCRIPT = Path(__file__).with_name("setup_dry_run.txt")
SCRIPT = "setup_vllm_multi_model.sh"

# The only commands of this machine that it finds: none of them changes anything outside a temporary directory.
REAL = "bash basename cat chmod cmp cut date dirname find grep head md5sum mktemp".split()  # noqa: SIM905
REAL += "awk du readlink realpath rm sed sha256sum sort stat tail tr xargs".split()  # noqa: SIM905
GIB = 1 << 30
T4 = "Tesla T4, 15360, 7.5, 570.133.20"
L4 = "NVIDIA L4, 23034, 8.9, 570.133.20"
A100_40 = "NVIDIA A100-SXM4-40GB, 40960, 8.0, 570.133.20"
L40S = "NVIDIA L40S, 46068, 8.9, 570.133.20"
H100 = "NVIDIA H100 80GB HBM3, 81559, 9.0, 580.65.06"

pytestmark = pytest.mark.skipif(
    any(
        Path(place).exists()
        for place in ("/etc/vllm-arena", "/opt/vllm-arena", "/etc/nginx/sites-available/vllm-arena")
    ),
    reason="the set-up has been run on this very machine, so it finds things there",
)


def machine(directory: Path, *cards: str, **replaced: str | None) -> Mapping[str, str]:
    """The environment of a made-up host with these cards; `replaced` are other stand-ins (None: no such command)."""
    stubs: dict[str, str | None] = {
        "uname": "echo x86_64",
        "systemctl": 'case $1 in is-system-running) echo running ;; --version) echo "systemd 257" ;; *) exit 1 ;; esac',
        "apt-get": "exit 1",
        "dpkg-query": 'case "$*" in *openssl|*certificates) echo "install ok installed" ;; -S*) ;; *) exit 1 ;; esac',
        "python3.12": "echo 3.12",
        "nvidia-smi": "\n".join(["cat <<END", *cards, "END"]) if cards else None,
        "df": f"echo Avail; echo {200 * GIB}",
        "getent": "exit 2",
        "hostname": "echo gpu-host",
        **{name.replace("_", "-"): text for name, text in replaced.items()},
    }
    for name in REAL:
        found = shutil.which(name)
        assert found is not None, name
        (directory / name).symlink_to(found)
    for name, text in stubs.items():
        if text is not None:
            (directory / name).write_text(f"#!{shutil.which('bash')}\n{text}\n")
            (directory / name).chmod(0o755)
    return {"PATH": str(directory)}


def dry_run(env: Mapping[str, str], *args: str) -> subprocess.CompletedProcess[str]:
    return run(SCRIPT, "--dry-run", *args, env=env)


def plain(said: str, directory: Path) -> str:
    """Without what differs between machines that run this test."""
    said = said.replace(str(ROOT), "CHECKOUT").replace(str(directory), "/usr/bin")
    return re.sub(r"ok: .*, x86_64, systemd", "ok: Debian GNU/Linux 12 (bookworm), x86_64, systemd", said)


def configuration(said: str) -> Config:
    """The one that would be written; checked as the daemon checks it."""
    text = "".join(f"{line[6:]}\n" for line in said.splitlines() if line.startswith("    | "))
    return parse_config(text.encode(), Origin(Path("arena.yaml"), known_arguments()))


def test_the_steps_are_those_of_the_transcript(tmp_path: Path) -> None:
    done = dry_run(machine(tmp_path, T4), "--allow", "10.0.0.0/16")
    assert done.returncode == 0, done.stderr
    kept, said = TRANSCRIPT.read_text(), plain(done.stdout, tmp_path)
    changed = "".join(difflib.unified_diff(kept.splitlines(True), said.splitlines(True), "kept", "now"))
    assert not changed, f"{changed}\nIf this is meant, put it into {TRANSCRIPT}"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The models that the set-up chooses from, by their ids: folders with their shapes, without the weights."""
    root = tmp_path_factory.mktemp("models")
    method = published("qwen2.5-7b-awq")["config"]["quantization_config"]
    full = {
        "meta-llama/Llama-3.1-8B-Instruct": "llama-3.1-8b",
        "mistralai/Mistral-7B-Instruct-v0.3": "mistral-7b-v0.3",
        "Qwen/Qwen2.5-7B-Instruct": "qwen2.5-7b",
    }
    in_4_bits = {
        "hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4": "llama-3.1-8b",
        "RedHatAI/Mistral-7B-Instruct-v0.3-GPTQ-4bit": "mistral-7b-v0.3",
        "Qwen/Qwen2.5-7B-Instruct-AWQ": "qwen2.5-7b",
    }
    made = {id_: model_folder(root / id_, published(name)["config"]) for id_, name in full.items()}
    return made | {
        id_: model_folder(root / id_, {**published(name)["config"], "quantization_config": method})
        for id_, name in in_4_bits.items()
    }


@pytest.mark.parametrize(
    ("card", "known_as", "quantised", "half"),
    [
        (T4, "T4", True, True),
        (L4, "L4", True, True),
        (A100_40, "A100-40GB", False, False),
        (L40S, "L40S", False, False),
        (H100, "H100", False, False),
    ],
)
def test_the_models_are_sized_for_the_card(
    tmp_path: Path, folders: Mapping[str, Path], card: str, known_as: str, quantised: bool, half: bool
) -> None:
    done = dry_run(machine(tmp_path, card))
    assert done.returncode == 0, done.stderr
    config = configuration(done.stdout)
    assert list(config.models) == ["llama-3.1-8b", "mistral-7b", "qwen-2.5-7b"]
    assert {m.engine_args.get("dtype") for m in config.models.values()} == {"half" if half else None}
    assert ("4bit" in config.models["mistral-7b"].model) == quantised
    assert ("needs a Hugging Face token" in done.stdout) == (not quantised)

    here = {name: m.model_copy(update={"model": str(folders[m.model])}) for name, m in config.models.items()}
    local = config.model_copy(update={"models": here})
    plan = make_plan(local, parse_cards(known_as), look_at, MeasurementStore(None))
    assert plan.now.apart == ()  # each pair can be awake at once
    for model in plan.models:
        assert model.proposal is not None
        assert model.proposal.smallest is not None
        # Room for a request of full length.
        assert round(model.model.gpu_memory_utilization * 100) >= model.proposal.smallest, model.name


def test_the_smallest_of_several_cards_counts(tmp_path: Path) -> None:
    config = configuration(dry_run(machine(tmp_path, H100, L4)).stdout)
    assert config.models["qwen-2.5-7b"].model == "Qwen/Qwen2.5-7B-Instruct-AWQ"


def test_a_trial_without_a_card(tmp_path: Path) -> None:
    done = dry_run(machine(tmp_path), "--engine", "cpu", "--port", "8123", "--no-nginx")
    assert done.returncode == 0, done.stderr
    config = configuration(done.stdout)
    assert list(config.models) == ["tiny-llama", "tiny-mistral", "tiny-qwen"]
    assert config.server.port == 8123
    assert "smoke_test.sh http://127.0.0.1:8123" in done.stdout
    assert "nginx" not in done.stdout


def test_a_configuration_of_ones_own_is_taken(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("models: {llama: {model: meta-llama/Llama-3.2-1B-Instruct}}\n")
    (tmp_path / "bin").mkdir()
    env = machine(tmp_path / "bin", "Tiny, 4096, 8.6, 570")  # too small for the three
    done = dry_run(env, "--config", str(mine))
    assert done.returncode == 0, done.stderr
    assert "would write /etc/vllm-arena/arena.yaml" in done.stdout
    assert "needs a Hugging Face token" in done.stdout
    assert "a Hugging Face token is given" in dry_run({**env, "HF_TOKEN": "hf_SECRET"}, "--config", str(mine)).stdout


def test_a_token_is_never_shown(tmp_path: Path) -> None:
    done = dry_run({**machine(tmp_path, H100), "HF_TOKEN": "hf_SECRET"})
    assert done.returncode == 0, done.stderr
    assert "hf_SECRET" not in done.stdout + done.stderr


def test_a_card_without_4_bit_kernels_is_for_models_of_ones_own(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("models: {small: {model: Qwen/Qwen2.5-1.5B-Instruct}}\n")
    (tmp_path / "bin").mkdir()
    done = dry_run(machine(tmp_path / "bin", "Tesla V100-SXM2-16GB, 16160, 7.0, 570"), "--config", str(mine))
    assert done.returncode == 0, done.stderr


@pytest.fixture
def kept(tmp_path: Path) -> tuple[Host, Mapping[str, str]]:
    """A host on which the set-up has run before, as a folder, and what it has to hand."""
    (tmp_path / "bin").mkdir()
    host = Host.make(tmp_path / "kept")
    options = "engine=cpu\nport=8001\nhttp_port=8080\nhttps_port=8443\nwith_nginx=false\npython=\n"
    host.write("/opt/vllm-arena/setup-options", options)
    return host, machine(tmp_path / "bin", H100)


def test_what_is_not_said_again_stays_as_it_was_said_last(kept: tuple[Host, Mapping[str, str]]) -> None:
    host, env = kept
    done = host.dry_run(env)
    assert done.returncode == 0, done.stderr
    assert list(configuration(done.stdout).models) == ["tiny-llama", "tiny-mistral", "tiny-qwen"]
    assert "smoke_test.sh http://127.0.0.1:8001" in done.stdout
    assert "nginx" not in done.stdout
    done = host.dry_run(env, "--nginx", "--https-port", "9443", "--no-weights")
    assert done.returncode == 0, done.stderr
    assert "smoke_test.sh https://127.0.0.1:9443" in done.stdout
    assert "would write" in done.stdout
    assert "engine=cpu" in host.at("/opt/vllm-arena/setup-options").read_text()  # a dry run keeps nothing


def test_a_relative_python_is_found_from_where_it_was_named(kept: tuple[Host, Mapping[str, str]]) -> None:
    host, env = kept
    host.write("/mine/python3", f"#!{shutil.which('bash')}\necho 3.11\n", 0o755)
    done = host.dry_run(env, "--python", "mine/python3")
    assert done.returncode == 0, done.stderr
    assert f"would run: {host.at('/mine/python3')} -m venv" in done.stdout


def test_what_a_broken_off_installation_has_brought_needs_no_more_room(kept: tuple[Host, Mapping[str, str]]) -> None:
    host, env = kept
    (Path(env["PATH"]) / "df").write_text(f"#!{shutil.which('bash')}\necho Avail; echo {2 * GIB}\n")
    assert "need 4 GiB" in host.dry_run(env).stderr
    (Path(env["PATH"]) / "du").unlink()
    (Path(env["PATH"]) / "du").write_text(f"#!{shutil.which('bash')}\nprintf '{3 * GIB}\\tthere'\n")
    (Path(env["PATH"]) / "du").chmod(0o755)
    done = host.dry_run(env)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("replaced", "why"),
    [
        ({"nvidia_smi": None}, ["no NVIDIA driver", "ubuntu-drivers install", "nvidia-driver", "--engine cpu"]),
        (
            {"nvidia_smi": "echo Failed to initialize NVML; exit 9"},
            ["does not answer: Failed to initialize NVML", "restarted"],
        ),
        ({"nvidia_smi": "echo 'Orin, [N/A], 8.7, 540'"}, ["says nothing of the card's memory", "--config FILE"]),
        ({"nvidia_smi": "echo 'RTX 3060, 12288, 8.6, 570'"}, ["a card of 16 GB or more", "12288 MiB", "--config FILE"]),
        ({"nvidia_smi": "echo 'Tesla P40, 24576, 6.1, 570'"}, ["7.0 (Volta) or newer", "has 6.1"]),
        (
            {"nvidia_smi": "echo 'Tesla V100-SXM2-16GB, 16160, 7.0, 570'"},
            ["4-bit ones only", "7.5 (Turing)", "It has 7.0", "--config FILE", "dtype: half"],
        ),
        ({"df": f"echo Avail; echo {10 * GIB}"}, ["vLLM need 18 GiB in /opt/vllm-arena, and 10 are free"]),
        ({"df": f"echo Avail; echo {60 * GIB}"}, ["the weights and vLLM need 64 GiB in /var/lib/vllm-arena"]),
        ({"python3.12": "echo 3.10"}, ["Python 3.11, 3.12 or 3.13 is needed", "--python"]),
        ({"systemctl": "echo offline"}, ["systemd does not run this machine", "arena-server serve"]),
        ({"apt_get": None}, ["neither Debian nor Ubuntu"]),
        ({"uname": "echo riscv64"}, ["there is no vLLM for riscv64"]),
    ],
)
def test_what_is_missing_is_said_before_anything_is_done(
    tmp_path: Path, replaced: dict[str, str | None], why: list[str]
) -> None:
    done = dry_run(machine(tmp_path, H100, **replaced))
    assert done.returncode == 1
    assert 'step "The machine"' in done.stderr
    assert [part for part in why if part not in done.stderr] == []
    assert "would" not in done.stdout


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["--engine", "tpu"], "--engine is gpu or cpu"),
        (["--allow", "everybody"], "no address range"),
        (["--port", "70000"], "from 1 to 65535"),
        (["--port", "443"], "three different ones"),
        (["--config", "/nonexistent.yaml"], "there is no file"),
        (["--source", "/"], "no checkout"),
        (["--source"], "needs a value"),
    ],
)
def test_a_wrong_command_line_is_told(args: list[str], why: str) -> None:
    done = dry_run({"PATH": os.environ["PATH"]}, *args)
    assert (done.returncode, done.stdout) == (2, "")
    assert why in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="only for those who are not root")
def test_only_root_may_change_the_machine() -> None:
    done = run(SCRIPT, env={"PATH": os.environ["PATH"]})
    assert done.returncode == 2
    assert "has to be run as root" in done.stderr
