"""Somebody who looks at the page, and notes whatever a page must not do."""

from __future__ import annotations

from urllib.parse import urlsplit

from playwright.sync_api import ConsoleMessage, Dialog, Locator, Page, Request, expect

# Chromium writes one line for each answer that is no 200, whoever asked: the page shows those to its reader.
NO_FAULT = ("Failed to load resource",)


class Visitor:
    """One tab. `faults` are dialogs, errors of scripts, requests to other hosts, and what the browser refused to do."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.faults: list[str] = []
        page.on("dialog", self._dialog)
        page.on("console", self._console)
        page.on("pageerror", lambda e: self.faults.append(f"error: {e}"))
        page.on("request", self._request)
        page.on("popup", lambda p: self.faults.append(f"another page: {p.url}"))

    def visit(self, view: str = "battle") -> None:
        """Open a view of the page."""
        self.page.goto(f"{self.url}/#{view}")
        expect(self.page.get_by_role("navigation")).to_be_visible()

    def ask(self, prompt: str) -> None:
        """Send a prompt."""
        self.box.fill(prompt)
        self.box.press("Enter")

    @property
    def box(self) -> Locator:
        """The text box of the view that is shown."""
        return self.page.locator(".composer textarea:visible")

    def answer(self, side: str, turn: int = 1) -> Locator:
        """One side's answer."""
        name = f"Answer {side.upper()}"
        return self.page.locator(".view:visible .turn").nth(turn - 1).get_by_role("article", name=name)

    def button(self, name: str) -> Locator:
        """A button by its name."""
        return self.page.get_by_role("button", name=name, exact=True)

    @property
    def trouble(self) -> Locator:
        """What the page says went wrong."""
        return self.page.locator(".trouble:visible")

    @property
    def announced(self) -> Locator:
        """What screen readers are told."""
        return self.page.get_by_role("status")

    def _dialog(self, dialog: Dialog) -> None:
        self.faults.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not message.text.startswith(NO_FAULT):
            self.faults.append(f"{message.type}: {message.text}")

    def _request(self, request: Request) -> None:
        if urlsplit(request.url).netloc != urlsplit(self.url).netloc:
            self.faults.append(f"request: {request.url}")
