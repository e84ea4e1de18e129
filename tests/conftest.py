"""For all tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import uvloop
from xdist.scheduler import LoadScopeScheduling

HOST = "tests/host/"


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The daemon runs on uvloop, and so do its parts here."""
    return {"uvloop": uvloop.new_event_loop}


class Shares(LoadScopeScheduling):  # type: ignore[misc]
    """What one worker has to run (`-n 2`): a file; and all of tests/host, whose tests share a tree."""

    def _split_scope(self, nodeid: str) -> str:
        return HOST if nodeid.startswith(HOST) else nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Not `--dist loadgroup`, which pytest-xdist 3.8 does not do with pytest 9."""
    return Shares(config, log)
