"""A browser's requests to the editor, without a browser."""

import io
import json
import threading
import time

from PIL import Image
from starlette.testclient import TestClient

from ldm.app.editor import Editor
from ldm.app.jobs import WAITING
from ldm.app.server import create_app

ADDRESS = "http://localhost:8765"


class Browser(TestClient):
    """Sends requests to an editor with its token, and waits for jobs."""

    def __init__(self, editor: Editor, **headers: str):
        self.editor = editor
        app = create_app(editor)
        token = {"Authorization": f"Bearer {editor.store.token}"}
        super().__init__(app, base_url=ADDRESS, headers=token | headers, raise_server_exceptions=False)

    def json(self, method: str, path: str, body: object = None, status: int = 200) -> dict:
        """The answer to a request, which must have this status."""
        answer = self.request(method, f"/api/{path}", json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    def error(self, method: str, path: str, body: object = None, status: int = 400) -> str:
        """The sentence of a request that is refused with this status."""
        sentence = self.json(method, path, body, status)["error"]
        assert "\n" not in sentence and "Traceback" not in sentence
        return sentence

    def upload(self, image: Image.Image | bytes, status: int = 201) -> dict:
        content = image if isinstance(image, bytes) else encode(image)
        answer = self.post("/api/images", content=content)
        assert answer.status_code == status, answer.text
        return answer.json()

    def open_photograph(self, image: Image.Image, graph=None) -> dict:
        """A session of a photograph, with its graph."""
        body = {"image": self.upload(image)["id"]} | ({"graph": graph.to_json()} if graph else {})
        return self.json("POST", "sessions", body, 201)

    def start(self, session: dict, graph: dict, node: int | None = None, **request: object) -> dict:
        """The job of an edit of the session's current node."""
        body = {"node": node or session["current"], "graph": graph, "options": {"steps": 2}} | request
        return self.json("POST", f"sessions/{session['id']}/edits", body, 202)

    def wait(self, job: dict, seconds: float = 300) -> dict:
        """The job once it has ended. Requests meanwhile would take the time of the model's thread."""
        end = time.monotonic() + seconds
        while self.editor.worker.find(job["id"]).state in WAITING:
            assert time.monotonic() < end, job
            time.sleep(0.01)
        return self.json("GET", f"jobs/{job['id']}")

    def edit(self, session: dict, graph: dict, **request: object) -> list[dict]:
        """The nodes of an edit that is done."""
        job = self.wait(self.start(session, graph, **request))
        assert job["state"] == "done", job
        nodes = self.json("GET", f"sessions/{session['id']}")["nodes"]
        return [node for node in nodes if node["id"] in job["nodes"]]

    def picture(self, node: dict) -> Image.Image:
        """The picture of a node."""
        return Image.open(io.BytesIO(self.get(f"/{node['image']['url']}").content))


class Gate:
    """Stops an edit at a preview until it is opened, after some that are free; `Editor` takes it as `decode`."""

    def __init__(self, model):
        self.model, self.reached, self.opened, self.free = model, threading.Event(), threading.Event(), 0

    def __call__(self, latent):
        self.free -= 1
        if self.free < 0:
            self.reached.set()
            assert self.opened.wait(300)
        return self.model.decode(latent)


def replaced(graph, index: int = 0) -> dict:
    """The graph as the page sends it, with ids, and with one object of another name."""
    data = graph.to_json() | {"ids": [f"o{number}" for number in range(1, len(graph.objects) + 1)]}
    data["objects"][index] = "square" if graph.objects[index] != "square" else "circle"
    return json.loads(json.dumps(data))


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
