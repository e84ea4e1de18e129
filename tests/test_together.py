"""Where two workers run the tests: what stays with one of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.together import ALONE, SHARING, Together

ROOT = Path(__file__).parents[1]


@pytest.fixture
def scheduler(request: pytest.FixtureRequest) -> Together:
    """As the run's own hook makes it, without workers."""
    if not request.config.pluginmanager.hasplugin("xdist"):
        pytest.skip("without pytest-xdist nothing is given to workers")
    option = request.config.option
    made = []
    for dist in ("load", "loadfile"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(option, "dist", dist)
            patch.setattr(option, "tx", ["2*popen"])
            made.append(request.config.hook.pytest_xdist_make_scheduler(config=request.config, log=None))
    assert not isinstance(made[0], Together)
    assert isinstance(made[1], Together)
    return made[1]


def piece(scheduler: Together, file: str) -> str:
    name: str = scheduler._split_scope(f"{file}::TestThat::test_it[a/b::c]")
    return name


def test_what_shares_a_daemon_or_a_host_stays_together(scheduler: Together) -> None:
    for name in SHARING:
        files = {f"{name}/{path.name}" for path in (ROOT / name).glob("test_*.py")}
        assert len(files - ALONE) > 1
        assert {piece(scheduler, file) for file in files - ALONE} == {name}


def test_each_other_file_is_a_piece_of_its_own(scheduler: Together) -> None:
    for file in (*ALONE, "tests/test_pool.py", "tests/page/test_key.py"):
        assert (ROOT / file).is_file()
        assert piece(scheduler, file) == file
