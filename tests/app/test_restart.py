"""A server that is killed at any moment loses at most the edit that it was making."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import pytest
from browser import Browser, replaced
from paths import ROOT

from ldm.app.editor import Editor
from ldm.app.jobs import INTERRUPTED


def copy_as_a_kill_leaves_it(editor: Editor, folder):
    """What is on disk while the editor still works."""
    shutil.copytree(editor.store.folder, folder, ignore=shutil.ignore_patterns("lock"))
    return folder


def test_after_a_kill_what_was_made_is_there_and_what_waited_runs(gated, model, shapes, changed, tmp_path):
    editor, gate = gated
    gate.opened.set()
    with Browser(editor) as browser:
        session = browser.open_photograph(*shapes)
        (made,) = browser.edit(session, changed)
        before = browser.json("GET", f"sessions/{session['id']}")
        gate.opened.clear()
        gate.reached.clear()
        running = browser.start(session, changed, node=made["parent"], options={"steps": 2, "seed": 1})
        waiting = browser.start(session, changed, node=made["parent"], options={"steps": 2, "seed": 2})
        assert gate.reached.wait(300)
        folder = copy_as_a_kill_leaves_it(editor, tmp_path / "killed")
        gate.opened.set()
        expected = browser.wait(waiting)
        picture = browser.json("GET", f"sessions/{session['id']}")["nodes"][-1]["image"]["id"]
        assert expected["state"] == "done"
    again = Editor(model, folder)
    with Browser(again) as browser:
        assert browser.wait(waiting)["state"] == "done"
        lost = browser.json("GET", f"jobs/{running['id']}")
        assert lost["state"] == "failed" and lost["error"] == INTERRUPTED
        after = browser.json("GET", f"sessions/{session['id']}")
        assert after["nodes"][: len(before["nodes"])] == before["nodes"]
        assert len(after["nodes"]) == len(before["nodes"]) + 1
        assert after["nodes"][-1]["image"]["id"] == picture
    again.close()


def test_a_job_goes_on_where_the_server_was_stopped(gated, model, shapes, changed):
    editor, gate = gated
    gate.free = 1  # the preview of the first variant
    with Browser(editor) as browser:
        session = browser.open_photograph(*shapes)
        job = browser.start(session, changed, n=3, options={"steps": 1})
        assert gate.reached.wait(300)
        closing = threading.Thread(target=editor.close)
        closing.start()
        assert editor.worker.find(job["id"]).stop.wait(300)
        gate.opened.set()
        closing.join()
    again = Editor(model, editor.store.folder)
    with Browser(again) as browser:
        job = browser.wait(job)
        nodes = browser.json("GET", f"sessions/{session['id']}")["nodes"]
        assert job["state"] == "done" and len(job["nodes"]) == 3 and len(nodes) == 4
        assert [node["difference"] for node in nodes[1:]] == ["seed 0", "seed 1", "seed 2"]
    again.close()


@pytest.mark.slow
def test_a_real_server_is_killed_and_started_again(checkpoint, shapes, tmp_path):
    photograph, graph = shapes
    photograph.save(tmp_path / "photograph.png")
    command = [sys.executable, str(ROOT / "scripts/app.py"), "--ckpt", str(checkpoint), "--port", "0"]
    command += ["--sessions", str(tmp_path / "sessions"), "--device", "cpu"]

    def start() -> tuple[subprocess.Popen, str, str]:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        for line in process.stdout:
            if match := re.search(r"(http://127.0.0.1:\d+)/\?token=(\S+)", line):
                return process, match[1], match[2]
        raise AssertionError("the server did not start")

    def ask(address: str, token: str, method: str, path: str, body: object = None) -> dict:
        content = body if isinstance(body, bytes) else body and json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{address}/api/{path}", content, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    process, *where = start()
    image = ask(*where, "POST", "images", (tmp_path / "photograph.png").read_bytes())
    session = ask(*where, "POST", "sessions", {"image": image["id"], "graph": graph.to_json()})
    path = f"sessions/{session['id']}"
    body = {"node": session["current"], "graph": replaced(graph), "options": {"steps": 2}}
    ask(*where, "POST", f"{path}/edits", body)
    while len(ask(*where, "GET", path)["nodes"]) < 2:
        time.sleep(0.2)
    ask(*where, "POST", f"{path}/edits", body | {"options": {"steps": 900}})
    while not ask(*where, "GET", "queue")["running"]:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()

    process, *where = start()
    after = ask(*where, "GET", path)
    assert len(after["nodes"]) == 2 and after["jobs"] == []
    assert ask(*where, "GET", "queue") == {"running": None, "waiting": 0}
    process.send_signal(signal.SIGINT)
    assert process.wait(60) in (0, 130)
