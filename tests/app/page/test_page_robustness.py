"""The page when things go wrong, and with several browsers."""

import pytest
from served import ROOT


def test_a_wrong_token_is_said_and_the_right_one_can_be_given(open_page, server):
    page = open_page(server, f"http://127.0.0.1:{server.port}/").page
    page.locator(".token").wait_for()
    page.get_by_label("Token or address").fill("wrong")
    page.get_by_role("button", name="Open").click()
    page.locator(".token .field-error").wait_for()
    page.get_by_label("Token or address").fill(server.url)
    page.get_by_role("button", name="Open").click()
    page.locator(".tile").first.wait_for()


def test_the_token_does_not_stay_in_the_address(editor):
    assert "token" not in editor.page.url


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1:1"])
def test_a_request_from_another_origin_is_refused(server, origin):
    status, answer = server.ask("POST", "api/sessions", {"example": "example"}, {"Origin": origin})
    assert status == 403 and answer["error"]


def test_a_broken_picture_is_refused_in_a_sentence(open_page, server, tmp_path):
    page = open_page(server).page
    broken = tmp_path / "broken.png"
    broken.write_bytes((ROOT / "data/flat/example.png").read_bytes()[:700])
    page.locator(".start input[type=file]").set_input_files(str(broken))
    page.locator(".toast.error").wait_for()
    assert page.locator(".tile").first.is_enabled()


def test_an_edit_is_cancelled_and_nothing_is_left_of_it(editor):
    editor.drag_on_picture((0.625, 0.75), (0.775, 0.75))
    editor.page.get_by_text("All options").click()
    editor.page.get_by_role("spinbutton", name="Steps").fill("900")
    editor.page.get_by_role("spinbutton", name="Steps").press("Tab")
    editor.page.locator(".edit-bar .primary:not(:disabled)").click()
    editor.page.locator(".progress").get_by_role("button", name="Cancel").click()
    editor.page.locator(".toast", has_text="Cancelled").wait_for()
    editor.page.locator(".progress").wait_for(state="detached")
    assert len(editor.session["nodes"]) == 1 and editor.session["jobs"] == []


def test_two_browsers_see_one_session(editor, open_page, server):
    other = open_page(server, f"{server.url}#{editor.session['id']}")
    other.page.locator(".overlay .box").first.wait_for()
    editor.drag_on_picture((0.625, 0.75), (0.775, 0.75))
    node = editor.edit()
    other.see_node(node)


def test_a_server_that_was_killed_goes_on_where_it_was(open_page, own_server):
    page = open_page(own_server)
    page.open_example()
    page.drag_on_picture((0.625, 0.75), (0.775, 0.75))
    node = page.edit()
    own_server.kill()
    page.page.locator(".lost").wait_for()
    own_server.start()
    page.page.locator(".lost").wait_for(state="detached")
    assert page.node["id"] == node["id"] and page.node["image"] == node["image"]
    page.page.reload()
    page.page.locator(".tree-node").nth(1).wait_for()


def test_an_unknown_name_is_said_in_place_of_the_plan(editor, tmp_path):
    file = tmp_path / "graph.json"
    file.write_text('{"objects": ["squar", "triangle", "square"], "ids": ["o1", "o2", "o3"]}')
    editor.button("Open").click()
    editor.page.locator("dialog input[type=file]").set_input_files(str(file))
    editor.page.keyboard.press("Escape")
    editor.see_plan("did you mean")
