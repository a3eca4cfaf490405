"""Pictures of the page for the documentation: python tests/app/page/screenshots.py [--url ADDRESS] [--out docs/images]

It edits the first example with the weights that ship. Without --url it starts a server of its own.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from editor_page import EditorPage
from PIL import Image
from playwright.sync_api import Browser, sync_playwright
from served import ROOT, Server

WIDE = {"viewport": {"width": 1280, "height": 800}}
PHONE = {"viewport": {"width": 390, "height": 780}, "has_touch": True, "is_mobile": True}
YELLOW, PURPLE = "small yellow plain square", "large purple plain triangle"
MOVE = (0.625, 0.75), (0.86, 0.7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="of a server that runs already, with its token")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/images")
    arguments = parser.parse_args()
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright, server(arguments.url) as served:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, image in states(browser, served):
            image.save(arguments.out / f"{name}.webp", quality=82, method=6)
            print(arguments.out / f"{name}.webp")
        browser.close()


@contextmanager
def server(url: str | None) -> Iterator[Server]:
    if url:
        served = Server(Path())
        served.url, served.port = url, urlsplit(url).port or 80
        yield served
        return
    with tempfile.TemporaryDirectory() as folder:
        served = Server(Path(folder))
        served.start()
        yield served
        served.stop()


def states(browser: Browser, served: Server) -> Iterator[tuple[str, Image.Image]]:
    """The main states of the page, each with its file name."""
    page = opened(browser, served, **WIDE)
    page.page.locator(".tile img").last.wait_for()
    yield "app_start", taken(page)

    page.open_example()
    page.drag_on_picture(*MOVE)
    page.see_plan("Move small yellow plain square")
    page.select(PURPLE)
    page.page.locator(".inspector .chip", has_text="green").click()
    page.see_plan("green instead of purple")
    page.page.locator(".region").wait_for()
    yield "app_change", taken(page)

    page.edit()
    page.page.locator(".compare").wait_for()
    yield "app_result", taken(page)

    page = opened(browser, served, **WIDE)
    page.open_example(5)
    page.relate("small purple plain triangle", "left of", "small yellow striped circle")
    page.page.locator(".overlay .ghost").first.wait_for()
    yield "app_relation", taken(page)

    page.page.locator("summary", has_text="Sweep").click()
    page.page.get_by_label("Option to sweep").select_option("graph_scale")
    page.page.get_by_label("Values, separated by commas").fill("1, 2, 4")
    page.button("4 variants, by seed").click()
    page.edit()
    page.page.locator(".sweep-grid .variant").nth(11).wait_for()
    yield "app_sweep", taken(page)

    page = opened(browser, served, color_scheme="dark", **WIDE)
    page.open_example()
    page.button("Attention").click()
    page.page.mouse.move(*page.point(0.625, 0.75))
    page.page.locator(".heat").wait_for()
    yield "app_attention", taken(page)
    yield "app_phone", phone(browser, served)


def phone(browser: Browser, served: Server) -> Image.Image:
    """Three screens of a phone side by side."""
    page = opened(browser, served, **PHONE)
    page.open_example()
    screens = [taken(page)]
    page.select(YELLOW)
    page.page.get_by_role("navigation").get_by_role("button", name="Edit").click()
    page.page.locator(".inspector .chip", has_text="red").click()
    page.see_plan("red instead of yellow")
    screens.append(taken(page))
    page.edit()
    page.page.get_by_role("navigation").get_by_role("button", name="History").click()
    screens.append(taken(page))
    gap = 24
    width, height = screens[0].size
    sheet = Image.new("RGB", (3 * width + 2 * gap, height), "white")
    for number, screen in enumerate(screens):
        sheet.paste(screen, (number * (width + gap), 0))
    return sheet


def opened(browser: Browser, served: Server, **context) -> EditorPage:
    page = browser.new_context(reduced_motion="reduce", **context).new_page()
    page.set_default_timeout(120_000)
    page.goto(served.url)
    page.locator(".tile").first.wait_for()
    return EditorPage(page, served, [])


def taken(page: EditorPage) -> Image.Image:
    page.page.wait_for_load_state("networkidle")
    page.page.wait_for_timeout(400)
    return Image.open(io.BytesIO(page.page.screenshot())).convert("RGB")


if __name__ == "__main__":
    main()
