"""The server's start and end: ports, the printed lines, the notebook."""

import socket
import urllib.request

import pytest

from ldm.app import launch
from ldm.app.notebook import show
from ldm.util.errors import UserError


def test_the_first_free_port_is_taken(monkeypatch):
    with launch.bind("127.0.0.1", 0) as taken:
        number = taken.getsockname()[1]
        taken.listen()
        monkeypatch.setattr(launch, "DEFAULT_PORT", number)
        with launch.bind("127.0.0.1", None) as bound:
            assert number < bound.getsockname()[1] < number + launch.PORTS
        with pytest.raises(UserError, match=f"--port {number}: cannot be used"):
            launch.bind("127.0.0.1", number)


@pytest.mark.parametrize(("host", "port"), [("no.such.host.invalid", None), ("127.0.0.1", 70_000)])
def test_an_address_that_cannot_be_used_is_named(host, port):
    with pytest.raises(UserError, match=f"--host {host}"):
        launch.bind(host, port)


def test_the_printed_lines_say_where_the_page_is():
    assert launch.url("127.0.0.1", 8765, "abc") == "http://127.0.0.1:8765/?token=abc"
    assert launch.url("::1", 8765, "abc") == "http://[::1]:8765/?token=abc"
    assert socket.gethostname() in launch.url("0.0.0.0", 8765, "abc")
    assert launch.tunnel(8765).startswith("ssh -N -L 8765:127.0.0.1:8765 ")


def test_a_notebook_shows_the_page_in_a_frame(model, tmp_path):
    shown = show(model, tmp_path, port=0, height=500)
    try:
        assert shown.url in shown._repr_html_() and 'height="500"' in shown._repr_html_()
        address, _, token = shown.url.partition("/?token=")
        request = urllib.request.Request(f"{address}/api/queue", headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.status == 200
    finally:
        shown.close()
    again = show(model, tmp_path, port=0)  # the folder is free again
    again.close()


def test_the_words_that_load_the_model_are_kept_for_exported_commands(load_script):
    app = load_script("app")
    arguments = app.parse(["--run", "logs/a b", "--lora", "x.safetensors:0.5", "--precision", "bf16", "--low-memory"])
    assert app.model_words(arguments) == [
        *("--run", "logs/a b", "--lora", "x.safetensors:0.5", "--precision", "bf16", "--low-memory"),
    ]
    assert app.model_name(arguments) == "a b" and app.model_words(app.parse([])) == []
