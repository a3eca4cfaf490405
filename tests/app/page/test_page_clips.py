"""A clip on the page: asked for by a button, played in a dialog, and no picture of the history."""

import base64
import io
import os

from PIL import Image


def test_a_clip_of_the_change_is_played_and_makes_no_picture(editor):
    editor.drag_on_picture((0.625, 0.75), (0.775, 0.75))
    editor.see_plan("right by 0.15")
    editor.button("Clip").click()
    dialog = editor.page.get_by_role("dialog", name="Clip")
    image = dialog.get_by_role("img")
    image.wait_for()
    assert image.get_attribute("alt") == "The clip of this change, 16 frames, which repeats"
    link = dialog.get_by_role("link", name="Save as clip.webp")
    content = base64.b64decode(link.get_attribute("href").removeprefix("data:image/webp;base64,"))
    clip = Image.open(io.BytesIO(content))
    assert clip.n_frames == 16 and clip.size == (64, 64)
    assert image.evaluate("image => image.naturalWidth") == 64
    if folder := os.environ.get("SCREENSHOTS"):
        editor.page.screenshot(path=f"{folder}/clip.png")
    editor.page.keyboard.press("Escape")
    dialog.wait_for(state="detached")
    assert len(editor.session["nodes"]) == 1
    editor.edit()  # the change is still there to be made


def test_an_empty_canvas_has_no_clip(open_page, server):
    page = open_page(server)
    page.page.locator(".tile.canvas").click()
    page.page.locator(".edit-bar").wait_for()
    assert page.button("Clip").count() == 0
