"""The page when things go wrong, and with several browsers."""

import re

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


def test_edit_pressed_again_and_again_makes_one_edit(editor):
    editor.drag_on_picture((0.625, 0.75), (0.775, 0.75))
    editor.see_plan("right by 0.15")
    editor.page.locator(".edit-bar .primary:not(:disabled)").dblclick()
    editor.page.keyboard.press("Control+Enter")
    editor.page.locator(".tree-node").nth(1).wait_for()
    editor.page.locator(".progress").wait_for(state="detached")
    assert len(editor.session["nodes"]) == 2 and editor.session["jobs"] == []


def test_a_page_that_is_reloaded_during_an_edit_shows_it_and_can_cancel_it(editor):
    start_long_edit(editor)
    editor.page.reload()
    editor.page.locator(".progress").get_by_role("button", name="Cancel").click()
    editor.page.locator(".progress").wait_for(state="detached")
    assert len(editor.session["nodes"]) == 1
    editor.see_plan("right by 0.15")


def test_an_edit_that_ended_with_its_server_is_said_when_it_is_back(open_page, own_server):
    page = open_page(own_server)
    page.open_example()
    start_long_edit(page)
    own_server.kill()
    page.page.locator(".lost").wait_for()
    own_server.start()
    page.page.locator(".toast", has_text="Press Edit again").wait_for()
    page.page.locator(".progress").wait_for(state="detached")
    page.see_plan("right by 0.15")
    assert page.page.locator(".edit-bar .primary").is_enabled()


def test_a_session_that_is_gone_is_said(open_page, server):
    page = open_page(server, f"{server.url}#deadbeef").page
    page.locator(".tile").first.wait_for()
    page.locator(".toast", has_text="session is gone").wait_for()
    assert "#" not in page.url


def test_the_page_connects_again_after_its_socket_was_cut(open_page, server):
    cut = []
    page = open_page(server)
    page.page.route_web_socket(
        re.compile("api/events"), lambda socket: cut.append((socket, socket.connect_to_server()))
    )
    page.open_example()
    page.page.wait_for_timeout(300)
    cut[0][1].close()
    cut[0][0].close(code=1011)
    page.page.wait_for_timeout(1500)
    assert len(cut) >= 2 and page.page.locator(".lost").count() == 0
    page.drag_on_picture((0.625, 0.75), (0.775, 0.75))
    assert page.edit()["kind"] == "edit"


def start_long_edit(editor) -> None:
    editor.drag_on_picture((0.625, 0.75), (0.775, 0.75))
    editor.page.get_by_text("All options").click()
    editor.page.get_by_role("spinbutton", name="Steps").fill("900")
    editor.page.get_by_role("spinbutton", name="Steps").press("Tab")
    editor.page.locator(".edit-bar .primary:not(:disabled)").click()
    editor.page.locator(".progress .words", has_text="/").wait_for()
