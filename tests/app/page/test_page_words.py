"""What the page says, and how it looks where there is much to say: in Korean, on a phone, with names that are long."""

import json
import re

import pytest
from served import ROOT

YELLOW = "small yellow plain square"
PHONE = {"viewport": {"width": 390, "height": 780}, "has_touch": True, "is_mobile": True}
OF_THE_MODEL = (
    "square circle triangle small large red green blue yellow purple orange plain striped left right of above below"
)
ENGLISH = re.compile(r"[A-Za-z]{3,}")
KEPT = {*OF_THE_MODEL.split(), "CFG", "JSON", "PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "json", "zebra", "png"}


def english_words(text: str) -> set[str]:
    return set(ENGLISH.findall(text)) - KEPT


@pytest.fixture
def korean(open_page, server):
    page = open_page(server, locale="ko-KR")
    page.open_example()
    return page


def drop_graph(editor, name: str, content: str) -> None:
    """Drops a graph file on the page."""
    editor.page.evaluate(
        """([name, content]) => {
            const data = new DataTransfer();
            data.items.add(new File([content], name, {type: "application/json"}));
            document.dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}));
        }""",
        [name, content],
    )


def test_the_whole_page_is_korean_but_for_the_models_names(korean):
    page = korean.page
    assert english_words(page.get_by_role("textbox", name="제목").input_value()) == set()
    korean.drag_on_picture((0.625, 0.75), (0.775, 0.75))
    korean.see_plan("옮기기")
    korean.edit()
    page.locator(".history .words", has_text="%").wait_for()
    assert english_words(page.locator(".history").inner_text()) == set()
    assert english_words(page.locator(".tree-node button").last.get_attribute("title")) == set()
    page.get_by_role("button", name="저장").click()
    assert english_words(re.sub(r"\w+\.\w+", "", page.locator(".menu").inner_text())) == set()
    page.keyboard.press("Escape")
    page.locator("summary", has_text="모든 옵션").click()
    assert english_words(page.locator(".option-list label").all_inner_texts().__str__()) == set()


def test_mistakes_are_said_in_korean(korean, tmp_path):
    page = korean.page
    drop_graph(korean, "zebra.json", json.dumps({"objects": ["zebra", "squar"]}))
    korean.see_plan("모델이")
    assert english_words(page.locator(".plan").inner_text()) == set()
    drop_graph(korean, "zebra.json", '{"objects": [')
    page.locator(".toast", has_text="JSON").wait_for()
    broken = tmp_path / "broken.png"
    broken.write_bytes((ROOT / "data/flat/example.png").read_bytes()[:700])
    page.get_by_role("button", name="열기").click()
    page.locator("dialog input[type=file]").set_input_files(str(broken))
    page.locator(".toast", has_text="깨졌거나").wait_for()
    assert [english_words(text) for text in page.locator(".toast").all_inner_texts()] == [{"squar"}, set(), set()]


def test_a_plan_without_a_place_is_said_in_korean_and_names_the_object(korean):
    names = ["circle", "square"]
    drop_graph(korean, "g.json", json.dumps({"objects": names, "relationships": [[0, "above", 1], [1, "above", 0]]}))
    korean.see_plan("자리가 없습니다")
    assert english_words(korean.page.locator(".plan").inner_text()) == set()


def test_a_change_of_the_language_says_the_mistake_anew(korean):
    drop_graph(korean, "g.json", json.dumps({"objects": ["squar"]}))
    korean.see_plan("혹시 square?")
    korean.button("Show in English").click()
    korean.see_plan("Did you mean square?")


def test_long_and_foreign_names_stay_within_their_places(editor):
    names = ["x" * 3000, "مربع طويل " * 30, "🎉" * 60]
    drop_graph(editor, "names.json", json.dumps({"objects": names, "ids": ["o1", "o2", "o3"]}))
    editor.page.locator(".objects .badge").nth(2).wait_for()
    frame = editor.page.locator(".frame").bounding_box()
    for label in editor.page.locator(".overlay .label").all():
        box = label.bounding_box()
        assert frame["x"] - 2 <= box["x"] and box["x"] + box["width"] <= frame["x"] + frame["width"] + 2
    for row in editor.page.locator(".objects li").all():
        assert row.bounding_box()["height"] < 40
    side = editor.page.locator(".side").bounding_box()
    for badge in editor.page.locator(".objects .badge").all():
        box = badge.bounding_box()
        assert box["height"] < 24 and box["x"] + box["width"] <= side["x"] + side["width"]
    toast = editor.page.locator(".toast.error")
    assert "…" in toast.inner_text() and len(toast.inner_text()) < 250


def test_two_hundred_objects_leave_the_plan_in_sight(editor):
    boxes = [[i % 15 / 16, i // 15 / 16, i % 15 / 16 + 0.05, i // 15 / 16 + 0.05] for i in range(200)]
    drop_graph(editor, "many.json", json.dumps({"objects": ["circle"] * 200, "boxes": boxes}))
    editor.see_plan("objects, but the model takes at most")
    plan = editor.page.locator(".plan .problem").bounding_box()
    assert plan["y"] + plan["height"] < editor.page.locator(".edit-bar").bounding_box()["y"]
    assert editor.page.locator(".toast").count() == 0  # there is nothing to say of how the file was read


def test_a_message_is_as_wide_as_its_words(editor):
    editor.page.get_by_role("button", name="Read the graph").click()
    editor.drag_on_picture((0.625, 0.75), (0.775, 0.75))
    editor.page.get_by_text("All options").click()
    editor.page.get_by_role("spinbutton", name="Steps").fill("900")
    editor.page.get_by_role("spinbutton", name="Steps").press("Tab")
    editor.page.locator(".edit-bar .primary:not(:disabled)").click()
    editor.page.locator(".progress").get_by_role("button", name="Cancel").click()
    box = editor.page.locator(".toast", has_text="Cancelled").bounding_box()
    assert box["width"] > 200 and box["height"] < 60


def test_every_entry_of_the_menus_is_one_line(editor):
    editor.drag_on_picture((0.625, 0.75), (0.775, 0.75))
    editor.edit()
    for press in (editor.button("Save"),):
        press.click()
        heights = {round(item.bounding_box()["height"]) for item in editor.page.locator(".menu .item").all()}
        assert heights == {32}
        menu = editor.page.locator(".menu").bounding_box()
        assert 0 <= menu["x"] and menu["x"] + menu["width"] <= 1280


def test_options_that_are_unfolded_come_into_sight(editor):
    editor.page.get_by_text("All options").click()
    editor.page.wait_for_timeout(300)
    first = editor.page.locator(".option-list .option").first.bounding_box()
    assert first["y"] + first["height"] < editor.page.locator(".edit-bar").bounding_box()["y"]


def test_on_a_phone_the_plan_is_in_sight_when_a_word_was_changed(open_page, server):
    page = open_page(server, **PHONE)
    page.open_example()
    page.node_shape(YELLOW).tap()
    page.page.get_by_role("navigation").get_by_role("button", name="Edit").tap()
    page.page.locator(".inspector .chip", has_text="red").tap()
    page.see_plan("red instead of yellow")
    sentence = page.page.locator(".plan .sentences").bounding_box()
    assert sentence["y"] + sentence["height"] <= page.page.locator(".edit-bar").bounding_box()["y"]


def test_edits_are_numbered_from_one_in_each_session(editor, open_page, server):
    editor.drag_on_picture((0.625, 0.75), (0.775, 0.75))
    editor.edit()
    other = open_page(server)
    other.open_example(1)
    other.page.locator(".inspector .objects button").first.click()
    other.page.locator(".inspector .chip[aria-pressed=false]").nth(1).click()
    other.edit()
    for page in (editor, other):
        assert page.page.locator(".tree-node > span").all_inner_texts() == ["Photograph", "#1"]
