"""Many clients at once on the weights that ship, over real connections."""

import gc
import io
import json
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from browser import encode, replaced
from PIL import Image

import ldm
from ldm.app.editor import Editor
from ldm.app.launch import start
from ldm.checkpoints.shipped import shipped_adapters
from ldm.data.demo import DemoValidation
from ldm.graph.scene_graph import SceneGraph

CLIENTS, EDITS, STEPS = 10, 5, 4
ALLOWED_GROWTH = 48 << 20  # bytes that allocators may keep; a U-Net that is left behind by every edit would be far more


def resident_memory() -> int:
    """Bytes of this process in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


class Client:
    """A photograph and its edits over HTTP."""

    def __init__(self, address: str, token: str, number: int):
        self.address, self.token = address, token
        data = DemoValidation(CLIENTS)
        self.photograph, self.graph = data.picture(number), data.scene(number)[0]
        self.seeds = range(100 * number, 100 * number + EDITS)

    def ask(self, method: str, path: str, body: object = None) -> bytes:
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.address}/api/{path}", content, headers, method=method)
        with urllib.request.urlopen(request, timeout=300) as answer:
            return answer.read()

    def edit_all(self) -> list[Image.Image]:
        """Queues all edits at once; their pictures in the order of the seeds."""
        image = json.loads(self.ask("POST", "images", encode(self.photograph)))
        body = {"image": image["id"], "graph": self.graph.to_json()}
        session = json.loads(self.ask("POST", "sessions", body))
        path = f"sessions/{session['id']}"
        body = {"node": session["current"], "graph": replaced(self.graph)}
        jobs = [
            json.loads(self.ask("POST", f"{path}/edits", body | {"options": {"steps": STEPS, "seed": seed}}))
            for seed in self.seeds
        ]
        while (told := json.loads(self.ask("GET", path)))["jobs"]:
            time.sleep(1)
        pictures = {node["job"]: node["image"]["id"] for node in told["nodes"]}
        return [Image.open(io.BytesIO(self.ask("GET", f"images/{pictures[job['id']]}.png"))) for job in jobs]

    def expected(self, model) -> list[Image.Image]:
        """What the library makes of them."""
        request = ldm.EditRequest(self.photograph, SceneGraph.from_json(replaced(self.graph)), self.graph)
        return [ldm.edit(model, request, ldm.EditOptions(steps=STEPS, seed=seed)).image for seed in self.seeds]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_fifty_edits_of_ten_clients_are_all_done_and_none_mixed_and_memory_stays_flat(tmp_path):
    model = ldm.load_model(shipped_adapters("flat"))
    editor = Editor(model, tmp_path)
    server = start(editor, 0)
    address = f"http://127.0.0.1:{server.bound.getsockname()[1]}"
    while not server.started:
        time.sleep(0.01)
    clients = [Client(address, editor.store.token, number) for number in range(CLIENTS)]
    with ThreadPoolExecutor(CLIENTS) as pool:
        made = list(pool.map(Client.edit_all, clients))
        before = resident_memory()
        again = list(pool.map(Client.edit_all, clients))
        growth = resident_memory() - before
    server.should_exit = True
    assert server.closed.wait(60)
    for client, first, second in zip(clients, made, again):
        for seed, expected, one, other in zip(client.seeds, client.expected(model), first, second):
            assert np.array_equal(one, expected), seed
            assert np.array_equal(other, expected), seed
    assert growth < ALLOWED_GROWTH, growth
    print(f"memory grew by {growth / 2**20:.0f} MiB over {CLIENTS * EDITS} edits")
