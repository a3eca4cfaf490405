"""The whole journey on the page with the weights that ship, as a person goes through it."""

import io
import json

import pytest
from PIL import Image
from served import ROOT

YELLOW, PURPLE, ORANGE = "small yellow plain square", "large purple plain triangle", "small orange striped square"


def test_a_dragged_box_moves_the_object_in_the_result(editor):
    editor.drag_on_picture((0.625, 0.75), (0.775, 0.75))
    editor.see_plan("right by 0.15")
    node = editor.edit()
    assert node["kind"] == "edit"
    assert [sentence for sentence in node["sentences"] if sentence.startswith("move 'small yellow plain square'")]
    assert node["verdict"] == {"passed": True, "complaints": []}
    left = node["graph"]["boxes"][node["graph"]["objects"].index("square", 1)][0]
    assert left == pytest.approx(0.5 + 0.15, abs=0.01)
    editor.page.locator(".compare").wait_for()  # before and after, at once


def test_a_node_is_dragged_like_its_box(editor):
    before = editor.box(YELLOW).bounding_box()
    shape = editor.node_shape(YELLOW).bounding_box()
    x, y = shape["x"] + 40, shape["y"] + shape["height"] / 2
    editor.drag((x, y), (x - 60, y - 30))
    editor.see_plan("Move small yellow plain square")
    after = editor.box(YELLOW).bounding_box()
    assert after["x"] < before["x"] - 20 and after["y"] < before["y"] - 10


def test_an_edge_that_is_drawn_says_where_the_thing_would_go_and_the_edit_puts_it_there(editor):
    editor.relate(YELLOW, "left of", ORANGE)
    editor.see_plan("left of")
    editor.page.locator(".overlay .ghost").first.wait_for()
    node = editor.edit()
    graph = node["graph"]
    assert [2, "left of", 0] in graph["relationships"]
    assert graph["boxes"][2][2] <= graph["boxes"][0][2]
    assert node["verdict"]["passed"]


def test_a_box_is_drawn_named_by_a_misspelt_word_and_appears_in_the_picture(editor):
    editor.page.keyboard.press("b")
    editor.drag_on_picture((0.05, 0.1), (0.3, 0.35))
    field = editor.page.get_by_role("combobox", name="Name of the object in this box")
    field.fill("circel")
    editor.page.get_by_role("option", name="circle").wait_for()
    field.press("Enter")
    for attribute in ("small", "red", "plain"):
        editor.page.locator(".inspector .chip", has_text=attribute).click()
    editor.see_plan("Add small red plain circle")
    node = editor.edit()
    assert node["graph"]["objects"] == ["square", "triangle", "square", "circle"]
    assert node["verdict"]["passed"], node["verdict"]


def test_attributes_of_one_group_replace_one_another(editor):
    editor.select(PURPLE)
    editor.page.locator(".inspector .chip", has_text="green").click()
    editor.see_plan("Make large purple plain triangle green instead of purple")
    assert editor.box("large green plain triangle").is_visible()


def test_a_removed_object_is_brought_back_where_it_was(editor):
    editor.box(ORANGE).focus()
    editor.page.keyboard.press("Delete")
    editor.see_plan("Remove small orange striped square")
    editor.page.locator(".objects button.gone").click()
    editor.see_plan("Nothing yet")


def test_undo_and_redo_go_through_changes_and_edits(editor):
    root = editor.node["id"]
    editor.drag_on_picture((0.625, 0.75), (0.775, 0.75))
    edited = editor.edit()
    editor.button("Undo").click()
    editor.see_plan("right by 0.15")
    assert editor.node["id"] == root
    editor.button("Undo").click()
    editor.see_plan("Nothing yet")
    assert editor.button("Undo").is_disabled()
    editor.button("Redo").click()
    editor.see_plan("right by 0.15")
    editor.button("Redo").click()
    editor.see_node(edited)
    assert editor.node["id"] == edited["id"]


def test_what_is_unfinished_survives_a_reload(editor):
    editor.select(PURPLE)
    editor.page.locator(".inspector .chip", has_text="green").click()
    editor.see_plan("green instead of purple")
    editor.page.wait_for_timeout(800)  # a change is kept after a moment without another one
    editor.page.reload()
    editor.see_plan("green instead of purple")
    assert editor.box("large green plain triangle").is_visible()


def test_variants_are_shown_in_a_strip_and_a_sweep_in_a_grid(editor):
    editor.drag_on_picture((0.625, 0.75), (0.775, 0.75))
    editor.button("2 variants, by seed").click()
    editor.edit()
    editor.page.locator(".variants .variant").nth(1).wait_for()
    assert [node["difference"] for node in editor.session["nodes"]][1:] == ["seed 0", "seed 1"]
    editor.button("Undo").click()
    editor.button("1 variants, by seed").click()
    editor.page.locator("summary", has_text="Sweep").click()
    editor.page.get_by_label("Option to sweep").select_option("graph_scale")
    editor.page.get_by_label("Values, separated by commas").fill("1, 2")
    editor.edit()
    editor.page.locator(".sweep-grid .variant").nth(1).wait_for()
    assert editor.node["sweep"] == {"option": "graph_scale", "values": [1, 2]}


def test_any_two_pictures_are_compared(editor):
    editor.drag_on_picture((0.625, 0.75), (0.775, 0.75))
    editor.edit()
    editor.page.keyboard.press("Escape")
    editor.button("Compare two").click()
    for number in (0, 1):
        editor.page.locator(".tree-node button").nth(number).click()
    editor.page.locator(".history .words", has_text="of the pixels differ").wait_for()
    slider = editor.page.get_by_role("slider")
    slider.focus()
    slider.press("Home")
    assert slider.input_value() == "0"


def test_attention_is_shown_for_the_object_under_the_pointer(editor):
    editor.button("Attention").click()
    editor.page.locator(".progress").wait_for(state="detached")
    editor.page.mouse.move(*editor.point(0.625, 0.75))
    editor.page.locator(".heat").wait_for()
    assert len(editor.node["attention"]) == 3


def test_a_graph_file_is_dropped_and_saved(editor, tmp_path):
    file = tmp_path / "graph.json"
    file.write_text(json.dumps({"objects": ["square", "circle", "square"], "ids": ["o1", "o2", "o3"]}))
    editor.button("Open").click()
    editor.page.locator("dialog input[type=file]").set_input_files(str(file))
    editor.page.keyboard.press("Escape")
    editor.see_plan("by circle")
    editor.button("Save").click()
    with editor.page.expect_download() as download:
        editor.button("Graph as it stands", exact=False).click()
    saved = json.loads(download.value.path().read_text())
    assert saved["objects"] == ["square", "circle", "square"]


def test_the_graph_of_a_picture_is_read_from_its_pixels(editor, open_page, server):
    picture = editor.server.ask("POST", "api/images", (ROOT / "data/flat/example.png").read_bytes())[1]
    session = editor.server.ask("POST", "api/sessions", {"image": picture["id"]})[1]
    page = open_page(server, f"{server.url}#{session['id']}")
    page.page.locator(".hint").get_by_role("button", name="Read the graph").click()
    page.page.locator(".overlay .box").nth(2).wait_for()
    page.page.wait_for_timeout(800)
    graph = page.node["graph"]
    assert sorted(graph["objects"]) == ["square", "square", "triangle"]


def test_an_edit_is_exported_with_the_command_that_repeats_it(editor):
    editor.drag_on_picture((0.625, 0.75), (0.775, 0.75))
    editor.edit()
    editor.button("Save").click()
    with editor.page.expect_download() as download:
        editor.page.get_by_role("link", name="All, with the command").click()
    assert download.value.suggested_filename.endswith(".zip")


def test_a_picture_is_made_of_a_graph_on_an_empty_canvas(open_page, server):
    page = open_page(server)
    page.page.locator(".tile.canvas").click()
    page.page.locator(".hint").get_by_role("button", name="Draw a box").click()
    page.drag_on_picture((0.3, 0.3), (0.7, 0.7))
    page.page.get_by_role("combobox").first.fill("circle")
    page.page.get_by_role("option", name="circle").click()
    for attribute in ("large", "blue", "plain"):
        page.page.locator(".inspector .chip", has_text=attribute).click()
    node = page.edit()
    assert node["kind"] == "sample" and node["graph"]["objects"] == ["circle"]


def test_a_relation_that_a_dragged_box_contradicts_is_struck_through_and_left_out(editor):
    editor.drag_on_picture((0.65, 0.3), (0.25, 0.2))  # the triangle to the left, above the orange square still
    editor.drag_on_picture((0.625, 0.75), (0.7, 0.2))  # the yellow square up, no longer below the triangle
    editor.see_plan("Relations that the new places contradict")
    assert editor.page.locator(".edge.dropped").count() >= 1
    node = editor.edit()
    assert [2, "below", 1] not in node["graph"]["relationships"]


def test_a_painted_mask_limits_the_edit(editor):
    editor.page.keyboard.press("m")
    editor.drag_on_picture((0.5, 0.7), (0.7, 0.8))
    editor.page.locator(".source", has_text="Mask").locator("img").wait_for()
    editor.page.keyboard.press("v")
    editor.select(YELLOW)
    editor.page.locator(".inspector .chip", has_text="red").click()
    editor.see_plan("red instead of yellow")
    assert editor.edit()["mask"] is not None


def test_another_picture_gives_the_style(editor):
    chooser = editor.page.locator(".source", has_text="Style").locator("input[type=file]")
    chooser.set_input_files({"name": "style.png", "mimeType": "image/png", "buffer": _gradient()})
    editor.see_plan("The whole picture may change")
    node = editor.edit()
    assert node["style"] is not None and node["image"] != editor.session["nodes"][0]["image"]


def test_a_picture_is_pasted_from_the_clipboard(open_page, server):
    page = open_page(server)
    page.page.get_by_text("Drop a photograph here").wait_for()
    page.page.evaluate(
        """([bytes]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "pasted.png", {type: "image/png"}));
            document.dispatchEvent(new ClipboardEvent("paste", {clipboardData: data, bubbles: true}));
        }""",
        [list(_gradient())],
    )
    page.page.locator(".hint").wait_for()
    assert page.node["image"]["width"] == 64 and page.node["graph"] is None


def _gradient() -> bytes:
    """A PNG of 64 px."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(file, "PNG")
    return file.getvalue()
