"""The private directory of a running daemon."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from arena_server.errors import ConfigError
from arena_server.run_dir import MAX_BASE_BYTES, default_base, make_run_dir, remove_run_dir


def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.fixture(autouse=True)
def _no_service_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(variable, raising=False)


def short(tmp_path: Path) -> Path:
    """Pytest's own paths may be longer than sockets allow."""
    return Path("/tmp") / f"arena-{os.getpid()}-{abs(hash(tmp_path)) % 10**8}"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return short(tmp_path)


@pytest.fixture(autouse=True)
def _clean(base: Path) -> object:
    yield
    subprocess.run(["rm", "-rf", base], check=True)


def test_it_is_made_for_this_process_and_its_user_alone(base: Path) -> None:
    directory = make_run_dir(base)
    assert directory == base / str(os.getpid())
    for path in (base, directory):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_parents_are_made(base: Path) -> None:
    assert make_run_dir(base / "a" / "b").is_dir()


def test_what_killed_daemons_left_is_removed_and_nothing_else(base: Path) -> None:
    dead, alive = base / str(dead_pid()), base / str(os.getppid())
    for path in (dead / "1", alive / "1", base / "keep"):
        path.mkdir(parents=True)
        (path / "http.sock").touch()
    (base / "12345x").touch()
    make_run_dir(base)
    assert sorted(p.name for p in base.iterdir()) == sorted([str(os.getpid()), str(os.getppid()), "12345x", "keep"])
    assert (alive / "1" / "http.sock").exists()


def test_what_an_earlier_process_of_the_same_number_left_is_removed(base: Path) -> None:
    old = base / str(os.getpid()) / "1"
    old.mkdir(parents=True)
    assert list(make_run_dir(base).iterdir()) == []


def test_removing_it_removes_an_empty_base_too(base: Path) -> None:
    directory = make_run_dir(base)
    (directory / "1").mkdir()
    remove_run_dir(directory)
    assert not base.exists()
    remove_run_dir(directory)


def test_removing_it_leaves_other_daemons_alone(base: Path) -> None:
    directory = make_run_dir(base)
    (base / "1").mkdir()
    remove_run_dir(directory)
    assert [p.name for p in base.iterdir()] == ["1"]


def test_sockets_fit_below_the_longest_base_there_may_be(base: Path) -> None:
    longest = base / ("x" * (MAX_BASE_BYTES - len(os.fsencode(base)) - 1))
    assert len(os.fsencode(make_run_dir(longest))) + len("/1234/") + 36 <= 107
    with pytest.raises(ConfigError, match=r"^run_dir: /tmp/.* is too long for the sockets in it"):
        make_run_dir(Path(f"{longest}x"))


def test_the_limit_counts_bytes_and_not_letters() -> None:
    with pytest.raises(ConfigError, match="too long"):
        make_run_dir(Path("/tmp") / ("é" * (MAX_BASE_BYTES // 2)))


def test_a_file_in_its_place_is_told_of(base: Path) -> None:
    base.touch()
    with pytest.raises(ConfigError, match=f"^run_dir: {base}: File exists$"):
        make_run_dir(base)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_directory_that_may_not_be_written_is_told_of(base: Path) -> None:
    base.mkdir()
    base.chmod(0o500)
    with pytest.raises(ConfigError, match=f"^run_dir: {base}: Permission denied$"):
        make_run_dir(base)


def test_a_directory_of_another_user_is_refused(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base.mkdir()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(ConfigError, match=f"^run_dir: {base} belongs to another user"):
        make_run_dir(base)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a link of another user")
def test_a_link_that_another_user_laid_is_not_followed(base: Path, tmp_path: Path) -> None:
    """In a shared /tmp it could point at any directory of ours, whose numbered entries would be removed."""
    precious = tmp_path / str(dead_pid())
    precious.mkdir()
    base.symlink_to(tmp_path)
    os.chown(base, 65534, 65534, follow_symlinks=False)
    with pytest.raises(ConfigError, match="belongs to another user"):
        make_run_dir(base)
    assert precious.exists()


def test_a_link_of_ones_own_is_followed(base: Path, tmp_path: Path) -> None:
    base.symlink_to(tmp_path)
    assert make_run_dir(base).resolve() == tmp_path / str(os.getpid())


def test_the_service_managers_directory_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert default_base() == tmp_path / "arena-server"
    managed = tmp_path / "managed"
    managed.mkdir()
    monkeypatch.setenv("RUNTIME_DIRECTORY", f"{managed}:/elsewhere")
    assert default_base() == managed / "arena-server"


@pytest.mark.parametrize("value", ["", "/nonexistent/path"])
def test_a_directory_that_is_not_there_is_passed_over(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr("tempfile.tempdir", "/tmp")
    assert default_base() == Path(f"/tmp/arena-server-{os.getuid()}")
