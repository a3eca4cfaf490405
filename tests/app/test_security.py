"""Who is answered: the token, hosts, origins, and what no request can reach."""

import io
import struct
import zlib

import pytest
from browser import ADDRESS, encode
from PIL import Image
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from ldm.app import limits, uploads
from ldm.app.errors import NotAnImage, TooLarge
from ldm.app.security import Hosts
from ldm.app.server import create_app

ROUTES = [
    ("GET", "app"),
    ("GET", "options"),
    ("GET", "vocabulary"),
    ("GET", "resolve"),
    ("GET", "examples"),
    ("GET", "examples/example.png"),
    ("POST", "images"),
    ("GET", f"images/{'0' * 32}.png"),
    ("GET", f"images/{'0' * 32}.webp"),
    ("POST", "graphs"),
    ("GET", "sessions"),
    ("POST", "sessions"),
    ("GET", "sessions/x"),
    ("PATCH", "sessions/x"),
    ("DELETE", "sessions/x"),
    ("POST", "sessions/x/current"),
    ("POST", "sessions/x/undo"),
    ("POST", "sessions/x/redo"),
    ("POST", "sessions/x/read"),
    ("POST", "sessions/x/plan"),
    ("POST", "sessions/x/edits"),
    ("POST", "sessions/x/attention"),
    ("POST", "sessions/x/clip"),
    ("PUT", "nodes/1/graph"),
    ("PUT", "nodes/1/draft"),
    ("DELETE", "nodes/1"),
    ("GET", "nodes/1/compare/2"),
    ("GET", "nodes/1/export.zip"),
    ("GET", "jobs/1"),
    ("DELETE", "jobs/1"),
    ("GET", "queue"),
    ("GET", "openapi.json"),
    ("GET", "nothing"),
]


@pytest.fixture
def stranger(editor):
    """A client without the token."""
    with TestClient(create_app(editor), base_url=ADDRESS) as client:
        yield client


@pytest.fixture
def static(tmp_path, monkeypatch):
    """A small front end, with a file beside its folder."""
    folder = tmp_path / "static"
    folder.mkdir()
    (folder / "index.html").write_text("<!doctype html><title>page</title>")
    (folder / "app.js").write_text("1;")
    (tmp_path / "secret.txt").write_text("secret")
    monkeypatch.setattr("ldm.app.server.STATIC", folder)


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_needs_the_token(stranger, editor, method, path):
    assert stranger.request(method, f"/api/{path}").status_code == 401
    for wrong in ("", "x" * 43, editor.store.token[:-1], editor.store.token + "x", "ü"):
        answer = stranger.request(method, f"/api/{path}", params={"token": wrong})
        assert answer.status_code == 403 and "token is wrong" in answer.json()["error"]
    answer = stranger.request(method, f"/api/{path}", params={"token": editor.store.token})
    assert answer.status_code not in (401, 403)


def test_the_listed_routes_are_all_there_are(browser):
    paths = browser.json("GET", "openapi.json")["paths"]
    listed = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    known = {(method, path.split("/")[0]) for method, path in ROUTES}
    assert {(method, path.removeprefix("/api/").split("/")[0].split(".")[0]) for method, path in listed} <= known
    assert len(listed) == len(ROUTES) - 2  # but for openapi.json and nothing


def test_the_page_is_open_but_a_wrong_token_is_told(stranger, static, editor):
    assert "<title>page" in stranger.get("/").text and stranger.get("/static/app.js").text == "1;"
    assert "<title>page" in stranger.get("/", params={"token": editor.store.token}).text
    wrong = stranger.get("/", params={"token": "x"})
    assert wrong.status_code == 403 and "token is wrong" in wrong.text and "<h1>" in wrong.text


def test_without_a_build_the_page_says_so(stranger, static, monkeypatch, tmp_path):
    monkeypatch.setattr("ldm.app.server.STATIC", tmp_path / "nothing")
    answer = stranger.get("/")
    assert answer.status_code == 503 and "make web" in answer.json()["error"]


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "localhost:1", "127.0.0.1:65535", "[::1]:8765", "LOCALHOST:2"]
)
def test_the_page_is_answered_under_the_machine_s_own_names_on_any_port(browser, host):
    assert browser.get("/api/queue", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8765", "localhost.evil.example", "127.0.0.1.nip.io", "0.0.0.0", "10.0.0.1", "", "@"],
)
def test_other_hosts_are_refused(browser, host):
    assert browser.get("/api/queue", headers={"Host": host}).status_code == 403
    assert browser.get("/", headers={"Host": host}).status_code == 403


def test_a_server_for_other_machines_is_answered_under_its_name_and_addresses():
    hosts = Hosts.of("0.0.0.0")
    assert hosts.allows("10.1.2.3:80") and hosts.allows("[fe80::1]:80") and hosts.allows("localhost:80")
    assert not hosts.allows("evil.example:80")
    assert Hosts.of("lab.example").allows("lab.example:8765") and not Hosts.of("lab.example").allows("other.example")


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://localhost:1", "https://localhost", "http://127.0.0.1:8765", "file://"],
)
def test_a_request_of_another_site_s_page_is_refused_though_it_has_the_token(browser, origin):
    for method, path in (("POST", "images"), ("GET", "sessions"), ("DELETE", "sessions/x")):
        answer = browser.request(method, f"/api/{path}", headers={"Origin": origin})
        assert answer.status_code == 403 and "another site" in answer.json()["error"]


@pytest.mark.parametrize("origin", ["http://localhost:8765", "https://localhost:8765"])
def test_the_page_s_own_origin_is_answered(browser, origin):
    assert browser.get("/api/sessions", headers={"Origin": origin}).status_code == 200


def test_a_cross_site_request_is_refused_unless_it_opens_the_page(browser, static):
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert browser.get("/api/sessions", headers=headers).status_code == 403
    assert browser.get("/static/app.js", headers=headers).status_code == 403
    assert browser.get("/", headers=headers | {"Sec-Fetch-Mode": "navigate"}).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/static/../secret.txt",
        "/static/..%2fsecret.txt",
        "/static/%2e%2e/secret.txt",
        "/static//etc/passwd",
        "/static/....//secret.txt",
        "/static/%00",
        "/api/images/..%2f..%2ftoken.png",
        "/api/images/../../token.png",
        "/api/images/%2e%2e%2f%2e%2e%2ftoken.png",
        "/api/images/" + "0" * 31 + "%0a.png",
        "/api/examples/..%2f..%2fsecret.png",
        "/api/nodes/1/..%2fexport.zip",
    ],
)
def test_no_path_leads_to_another_file(browser, static, editor, path):
    answer = browser.get(path)
    assert answer.status_code in (400, 404) and editor.store.token not in answer.text and "secret" not in answer.text


def test_answers_have_the_headers_that_keep_other_code_out(browser, static, editor):
    page = browser.get("/", headers={"Authorization": ""})
    policy = dict(part.split(" ", 1) for part in page.headers["Content-Security-Policy"].split("; "))
    assert policy["script-src"] == policy["style-src"] == "'self'" and policy["default-src"] == "'none'"
    assert (
        policy["frame-ancestors"] == "'none'"
        and policy["connect-src"] == "'self' ws://localhost:8765 wss://localhost:8765"
    )
    assert page.headers["X-Content-Type-Options"] == "nosniff" and page.headers["Referrer-Policy"] == "no-referrer"
    framed = browser.get("/", params={"token": editor.store.token}).headers["Content-Security-Policy"]
    assert framed.endswith("frame-ancestors *")
    assert browser.get("/api/queue").headers["Cache-Control"] == "no-store"
    assert "Set-Cookie" not in page.headers and "Access-Control-Allow-Origin" not in page.headers


# Uploads --------------------------------------------------------------------------------------------------------------


def png_of_size(width: int, height: int) -> bytes:
    """The beginning of a PNG file that says it has this size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return start + struct.pack(">I", 1000) + b"IDAT"


def test_an_image_with_too_many_pixels_is_refused_before_it_is_decoded(browser):
    for size in ((60_000, 60_000), (5000, 5000), (13_000, 10)):
        answer = browser.post("/api/images", content=png_of_size(*size))
        assert answer.status_code == 413 and "pixels" in answer.json()["error"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no image",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        png_of_size(8, 8),
        encode(Image.effect_noise((99, 99), 50))[:-2000],
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    ],
)
def test_a_broken_upload_is_refused_in_one_sentence(browser, content):
    error = browser.upload(content, 415)["error"]
    assert "broken, or not an image" in error and "0x" not in error


def test_a_body_that_is_too_large_is_refused(browser, monkeypatch):
    assert browser.post("/api/sessions", content=b" " * (limits.BODY_BYTES + 1)).status_code == 413
    monkeypatch.setattr("ldm.app.routes.pictures.IMAGE_BYTES", 1000)

    def chunks():
        for _ in range(100):
            yield b"x" * 100

    answer = browser.post("/api/images", content=chunks())  # without a Content-Length
    assert answer.status_code == 413 and "MiB" in answer.json()["error"]


def test_a_photograph_is_turned_upright_and_converted():
    image = Image.new("RGB", (20, 10), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    assert uploads.decode(encode(image, "JPEG", exif=exif)).size == (10, 20)
    assert uploads.decode(encode(image.convert("CMYK"), "JPEG")).mode == "RGB"
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert uploads.decode(encode(clear)).getpixel((0, 0)) == (255, 255, 255)
    assert uploads.decode(encode(clear), "black").getpixel((0, 0)) == (0, 0, 0)
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    assert uploads.decode(encode(frames[0], "GIF", save_all=True, append_images=frames[1:])).getpixel((0, 0)) == (
        255,
        0,
        0,
    )


def test_uploads_raise_what_the_routes_answer_with():
    with pytest.raises(TooLarge):
        uploads.decode(b"x" * (limits.IMAGE_BYTES + 1))
    with pytest.raises(NotAnImage):
        uploads.decode(b"x")


def test_a_truncated_upload_is_refused_and_never_half_grey():
    content = encode(Image.effect_noise((64, 64), 80).convert("RGB"), "JPEG")
    assert uploads.decode(content).size == (64, 64)
    with pytest.raises(NotAnImage):
        uploads.decode(content[: len(content) // 2])
    assert Image.open(io.BytesIO(content)).size == (64, 64)


# The WebSocket --------------------------------------------------------------------------------------------------------


def closing_code(client: TestClient, url: str, **headers: str) -> int:
    connection = client.websocket_connect(url, headers={"Host": "localhost:8765", **headers})
    with connection as socket, pytest.raises(WebSocketDisconnect) as closed:
        socket.receive_json()
    return closed.value.code


def test_a_websocket_needs_token_host_and_origin(stranger, editor):
    right = f"/api/events?session=x&token={editor.store.token}"
    assert closing_code(stranger, "/api/events?session=x") == 4401
    assert closing_code(stranger, "/api/events?session=x&token=wrong") == 4401
    assert closing_code(stranger, right, Origin="http://evil.example") == 4403
    assert closing_code(stranger, right, Host="evil.example") == 4403
    assert closing_code(stranger, right, Origin="http://localhost:8765") == 4404
