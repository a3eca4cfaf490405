"""Prints how long a person waits for the editor, with the weights that ship: `python tests/app/page/times.py`."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from conftest import CHROMIUM
from editor_page import EditorPage
from playwright.sync_api import sync_playwright
from served import Server

COLOURS = ("green", "blue", "red")  # of edits, one after another
SETTLED = 1500  # milliseconds until the plan stands


def main() -> int:
    server = Server(Path(tempfile.mkdtemp()))
    before = time.perf_counter()
    server.start()
    print(f"command to ready: {time.perf_counter() - before:.2f} s")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        before = time.perf_counter()
        page.goto(server.url)
        page.locator(".tile").first.wait_for()
        print(f"page usable: {time.perf_counter() - before:.2f} s")
        editor = EditorPage(page, server, [])
        editor.open_example()
        page.locator(".overlay .box").first.click()
        for colour in COLOURS:
            page.get_by_text(colour, exact=True).first.click()
            page.wait_for_timeout(SETTLED)
            before = time.perf_counter()
            editor.button("Edit").click()
            page.get_by_alt_text("Preview of the edit that runs").wait_for()
            first = time.perf_counter() - before
            page.get_by_alt_text("Preview of the edit that runs").wait_for(state="detached")
            print(f"edit: first preview {first:.2f} s, done {time.perf_counter() - before:.2f} s")
        browser.close()
    server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
