"""A server with the weights that ship, and the page in Chromium. `make test-app` runs these tests; others skip them."""

from __future__ import annotations

import os
import shutil

import pytest
from editor_page import EditorPage
from served import Server

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
PATIENCE = 60_000 * float(os.environ.get("PATIENCE", "1"))  # milliseconds until a missing element is an error


def pytest_collection_modifyitems(config, items):
    asked = "page" in (config.option.markexpr or "")
    for item in items:
        if "tests/app/page" in item.path.as_posix():
            item.add_marker(pytest.mark.page)
            if not asked:
                item.add_marker(pytest.mark.skip(reason="drives Chromium; run make test-app"))


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """One server for all tests that do not stop it."""
    server = Server(tmp_path_factory.mktemp("sessions"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_server(tmp_path):
    """A server that a test may kill and start again."""
    server = Server(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def chromium():
    """Chromium of the system, else the one that Playwright installed."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """open_page(server, **context) opens the page in a browser of its own. What the page logs as an error fails the test."""
    contexts, complaints = [], []

    def open_(server: Server, address: str = "", patience: float = PATIENCE, **context) -> EditorPage:
        contexts.append(chromium.new_context(**{"viewport": {"width": 1280, "height": 800}, **context}))
        page = contexts[-1].new_page()
        page.set_default_timeout(patience)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
        page.goto(address or server.url)
        return EditorPage(page, server, complaints)

    yield open_
    for context in contexts:
        context.close()
    expected = ("Failed to load resource", "WebSocket connection")  # answers other than 2xx, which some tests provoke
    assert [text for text in complaints if not any(each in text for each in expected)] == []


@pytest.fixture
def editor(open_page, server) -> EditorPage:
    """The page with the first example open."""
    page = open_page(server)
    page.open_example()
    return page
