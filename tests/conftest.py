"""For all tests."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import pytest
import uvloop

from arena_server.vllm_arguments import read_arguments

if TYPE_CHECKING:
    from tests.support.together import Together


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The daemon runs on uvloop, and so do its parts here."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Together | None:
    """`--dist loadfile` leaves together what shares a fixture that takes long."""
    if config.getvalue("dist") != "loadfile":
        return None
    from tests.support.together import Together

    return Together(config, log)


@pytest.fixture(scope="session", autouse=True)
def vllms_arguments_are_read_once() -> Iterator[None]:
    """Each configuration that is loaded reads vLLM's source for them, the same every time: 0.06 s of many tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("arena_server.vllm_arguments.read_arguments", functools.cache(read_arguments))
        yield
