"""The set-up's parts: who runs what, what becomes whose, and what happens where writing fails."""

from __future__ import annotations

import os
import pwd
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scripts.parts import SERVICE, Host

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the set-up gives files to other users, which needs root")

ALLOW_LIST = "/etc/vllm-arena/nginx-allow.conf"
ENV_FILE = "/etc/vllm-arena/env"
SITE = "/etc/nginx/sites-available/vllm-arena"
STATE = "/var/lib/vllm-arena"
HUB = f"{STATE}/huggingface"
SERVER = "/opt/vllm-arena/venv/bin/arena-server"
# As `plan --write` and `pull`: a cache is made by whoever runs it, and the new file gets the old one's owner and group.
ARENA_SERVER = """#!/bin/bash
id -un >>"$(dirname "$0")/ran-as"
mkdir -p "$HF_HOME/hub" && touch "$HF_HOME/hub/$1" || exit 1
[ "$1" = plan ] || exit 0
set -e
config=$3
sed s/0.46/0.47/ "$config" >"$config.new"
chown --reference="$config" "$config.new"
mv "$config.new" "$config"
exit "${PLAN_STATUS:-0}"
"""
DRAFT = "models: {qwen: {gpu_memory_utilization: 0.46}}\n"


@pytest.fixture
def host() -> Iterator[Host]:
    # The service's user may go through it, as through a machine's root: pytest's own folders are closed to others.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield _host(Path(folder))


def _host(folder: Path) -> Host:
    host = Host.make(folder)
    os.chown(host.at(STATE), *_service())
    host.write(SERVER, ARENA_SERVER, 0o755)
    host.write(f"{SERVER[: -len('arena-server')]}ran-as", "", 0o666)
    host.write("/draft.yaml", DRAFT, 0o600)
    return host


def _service() -> tuple[int, int]:
    user = pwd.getpwnam(SERVICE)
    return user.pw_uid, user.pw_gid


def refined(host: Host, code: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    done = host.run(f'refine "{host.root}/draft.yaml"\n{code}', **env)
    assert done.returncode == 0, done.stderr
    return done


def test_what_plan_leaves_in_the_cache_does_not_keep_the_pull_from_writing_there(host: Host) -> None:
    refined(host, "fetch_weights")
    ran_as = host.at(SERVER).with_name("ran-as").read_text().split()
    assert ran_as == [SERVICE, SERVICE]
    assert host.about(HUB).endswith(f" {SERVICE}:{SERVICE}")
    assert sorted(file.name for file in host.at(f"{HUB}/hub").iterdir()) == ["plan", "pull"]
    assert host.at("/draft.yaml").read_text() == DRAFT.replace("0.46", "0.47")
    assert [file.name for file in host.at(STATE).iterdir()] == ["huggingface"]  # no draft is left


def test_sizes_of_a_plan_that_says_that_a_model_cannot_work_are_not_taken(host: Host) -> None:
    done = refined(host, PLAN_STATUS="1")
    assert host.at("/draft.yaml").read_text() == DRAFT
    assert "could not refine the sizes" in done.stdout
    assert list(host.at(STATE).glob("plan.*")) == []


def test_a_cache_that_root_has_filled_is_given_back(host: Host) -> None:
    host.write(f"{HUB}/hub/blob", "weights")
    outside = host.write("/outside", "not the cache's")
    host.at(f"{HUB}/hub/link").symlink_to(outside)
    done = host.run("make_user")
    assert done.returncode == 0, done.stderr
    for path in (HUB, f"{HUB}/hub", f"{HUB}/hub/blob", f"{HUB}/hub/link"):
        assert host.about(path).endswith(f" {SERVICE}:{SERVICE}"), path
    assert host.about("/outside") == "644 root:root"
    assert "giving" not in host.run("make_user").stdout


def test_a_disk_that_was_mounted_beforehand_becomes_the_services(host: Host) -> None:
    os.chown(host.at(STATE), 0, 0)
    done = host.run("make_user")
    assert done.returncode == 0, done.stderr
    assert host.about(STATE) == f"750 {SERVICE}:{SERVICE}"
    assert "making" not in host.run("make_user").stdout


@pytest.mark.parametrize(
    ("path", "before", "code"),
    [
        (ALLOW_LIST, None, "write_allow_list"),
        (ALLOW_LIST, "allow ::1;\ndeny all;\n", "allowed=(10.0.0.0/8); write_allow_list"),
        (ENV_FILE, "HF_TOKEN=hf_old\n", "token=hf_new; keep_token"),
        ("/etc/systemd/system/vllm-arena.service", None, "install_unit"),
        (SITE, None, "install_site"),
    ],
)
def test_a_full_disk_ends_the_set_up_and_leaves_the_old_file(
    host: Host, path: str, before: str | None, code: str
) -> None:
    if before is not None:
        host.write(path, before, 0o640)
    found = host.at(path)
    full = "echo 'No space left on device' >&2; exit 1"
    # Of the disk with the temporary files, and of the file's own: that one leaves what fitted.
    for name, text in (("cat", full), ("install", f"[ $1 != -m ] || printf HF >{found}.draft; {full}")):
        host.stub(name, text)
        done = host.run(code)
        (host.stubs / name).unlink()
        assert done.returncode == 1, done.stdout
        assert "cannot be written" in done.stderr
        assert "wrote" not in done.stdout
        assert (found.read_text() if found.exists() else None) == before
        assert list(found.parent.glob("*.draft")) == []


def test_an_allow_list_that_keeps_nobody_out_is_refused(host: Host) -> None:
    for text in ("", "allow 10.0.0.0/8;\n", "allow 10.0.0.0/8;\n# deny all;\n"):
        host.write(ALLOW_LIST, text)
        for allowed in ("", "allowed=(10.0.0.0/8);"):
            done = host.run(f"{allowed} write_allow_list")
            assert done.returncode == 1
            assert "lets everybody in" in done.stderr
            assert host.at(ALLOW_LIST).read_text() == text


def test_ranges_are_added_to_those_that_are_there(host: Host) -> None:
    by_hand = "allow 127.0.0.0/8;\nallow 10.0.0.0/16; # office\n  allow 192.0.2.9; # on-call\n"
    host.write(ALLOW_LIST, f"{by_hand}deny all;\n")
    code = "allowed=(198.51.100.7 10.0.0.0/16 192.0.2.9/32 2001:db8::/32); write_allow_list"
    done = host.run(code)
    assert done.returncode == 0, done.stderr
    new = f"{by_hand}allow 198.51.100.7;\nallow 2001:db8::/32;\ndeny all;\n"
    assert host.at(ALLOW_LIST).read_text() == new
    assert "is left as it is" in host.run(code).stdout


def test_a_file_that_is_written_says_so_and_one_that_is_right_is_left(host: Host) -> None:
    code = 'printf x | put_file "$CONFIG" 0640 root:root; echo "$put"'
    assert host.run(code).stdout.splitlines()[-1] == "written"
    assert host.about("/etc/vllm-arena/arena.yaml") == "640 root:root"
    folder = host.at("/etc/vllm-arena").stat()
    assert host.run(code).stdout.splitlines()[-1] == "unchanged"
    assert (
        host.at("/etc/vllm-arena").stat().st_mtime_ns == folder.st_mtime_ns
    )  # a newer one has its service started again


def test_an_edited_site_is_left_and_the_new_one_laid_beside_it(host: Host) -> None:
    code = 'printf "%s\\n" "$TEXT" | put_conffile "$SITE" 0644 root:root; echo "$put"'
    said = [host.run(code, TEXT=text).stdout.splitlines()[-1] for text in ("one", "one", "two")]
    assert said == ["written", "unchanged", "written"]
    host.write(SITE, "mine\n")
    assert host.run(code, TEXT="three").stdout.splitlines()[-1] == "edited"
    assert (host.at(SITE).read_text(), host.at(f"{SITE}.new").read_text()) == ("mine\n", "three\n")


@pytest.mark.parametrize(
    "line", ["HF_TOKEN=hf_x", 'HF_TOKEN="hf_x"', "HF_TOKEN='hf_x'", "HF_TOKEN=hf_x\r", 'HF_TOKEN="hf_x" \r']
)
def test_a_token_is_found_as_systemd_would_find_it(host: Host, line: str) -> None:
    host.write(ENV_FILE, f"HF_TOKEN=hf_old\n#HF_TOKEN=hf_no\n{line}\nOTHER=1\n", 0o640)
    assert host.run('check_token; printf "<%s>" "$token"').stdout.endswith("<hf_x>")


def test_the_environment_file_is_closed_to_others(host: Host) -> None:
    host.write(ENV_FILE, "HF_TOKEN=hf_x\n", 0o644)
    assert host.run("token=hf_x; keep_token").returncode == 0
    assert host.about(ENV_FILE) == f"640 root:{SERVICE}"
    assert host.at(ENV_FILE).read_text() == "HF_TOKEN=hf_x\n"


def test_without_weights_a_missing_token_is_told(host: Host) -> None:
    done = host.run("with_weights=false; check_token")
    assert done.returncode == 0, done.stderr
    assert "Llama 3.1 needs one before its first request" in done.stdout
    assert "none needed" not in done.stdout


def test_a_certificate_is_made_for_a_host_with_a_long_name(host: Host) -> None:
    name = f"{'n' * 60}.{'m' * 60}.example.com"
    host.stub("hostname", f"echo {name}")
    done = host.run("make_certificate")
    assert done.returncode == 0, done.stderr
    command = ["openssl", "x509", "-noout", "-subject", "-ext", "subjectAltName", "-in"]
    about = subprocess.run(
        [*command, host.at("/etc/vllm-arena/tls/cert.pem")], capture_output=True, text=True, check=True
    )
    assert f"DNS:{name}, DNS:localhost" in about.stdout
    assert "CN = vllm-arena" in about.stdout
    assert host.about("/etc/vllm-arena/tls/key.pem") == "600 root:root"


def test_the_next_run_knows_what_this_one_was_told(host: Host) -> None:
    code = "engine=cpu port=8001 http_port=8080 https_port=8443 with_nginx=false wanted_python=/bin/sh; keep_options"
    assert host.run(code).returncode == 0
    show = 'recall_options; echo "$engine $port $http_port $https_port $with_nginx $wanted_python"'
    assert host.run(show).stdout == "cpu 8001 8080 8443 false /bin/sh\n"
    host.write("/opt/vllm-arena/setup-options", "engine=tpu\nPATH=/\npython=/nonexistent\n")
    assert host.run(show).stdout == "gpu 8000 80 443 true \n"
