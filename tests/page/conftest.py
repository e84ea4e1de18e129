"""A browser for all of these tests, a daemon and a tab for each."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, expect, sync_playwright

from tests.page.daemon import HeldDaemon, held_daemon
from tests.page.visitor import Visitor

LIMIT_MS = 15_000


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no chromium (Debian: apt-get install chromium)")
    expect.set_options(timeout=LIMIT_MS)
    with sync_playwright() as playwright:
        # The sandbox needs user namespaces, which containers and root do not have.
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def daemon() -> Iterator[HeldDaemon]:
    """Three models, of which two fit at a time."""
    with held_daemon() as running:
        yield running


@pytest.fixture(scope="package")
def plain(browser: Browser) -> Iterator[BrowserContext]:
    """For tabs without wishes: a context costs half a second. Each daemon has its own port, thus its own storage."""
    with browser.new_context() as context:
        yield context


Tab = Callable[..., Visitor]


@pytest.fixture
def tab(browser: Browser, plain: BrowserContext, daemon: HeldDaemon) -> Iterator[Tab]:
    """Opens tabs, in contexts with the options of Playwright's `new_context`; none may have done what no page must."""
    visitors: list[Visitor] = []
    with contextlib.ExitStack() as stack:

        def open_tab(**options: object) -> Visitor:
            context = stack.enter_context(browser.new_context(**options)) if options else plain  # type: ignore[arg-type]
            page = context.new_page()
            stack.callback(page.close)
            page.set_default_timeout(LIMIT_MS)
            visitors.append(Visitor(page, daemon.url))
            return visitors[-1]

        yield open_tab
    assert [fault for visitor in visitors for fault in visitor.faults] == []


@pytest.fixture
def visitor(tab: Tab) -> Visitor:
    return tab()
