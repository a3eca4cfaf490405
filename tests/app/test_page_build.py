"""The committed build of the editor's page: made of the sources beside it, and self-contained."""

import hashlib
import json
import re
from pathlib import Path

import ldm

APP = Path(ldm.__file__).parent / "app"
STATIC, WEB = APP / "static", APP / "web"


def test_the_build_of_the_page_is_that_of_its_sources():
    built = json.loads((STATIC / "sources.json").read_text())
    now = {path: hashlib.sha256((WEB / path).read_bytes()).hexdigest() for path in built}
    present = {path.relative_to(WEB).as_posix() for path in (WEB / "src").rglob("*") if path.is_file()}
    stale = sorted(path for path in built if built[path] != now[path])
    assert not stale and present <= built.keys(), f"run make web and commit ldm/app/static: {stale}"


def test_the_page_loads_nothing_from_elsewhere_and_has_no_inline_scripts_or_styles():
    page = (STATIC / "index.html").read_text()
    assert re.findall(r'(?:src|href)="([^"]*)"', page) == ["static/icon.svg", "static/app.css", "static/app.js"]
    assert "<style" not in page and "style=" not in page and not re.search(r"<script[^>]*>[^<]", page)
    assert not re.search(r"url\(\s*[\"']?(?:https?:)?//|@import", (STATIC / "app.css").read_text())
    script = (STATIC / "app.js").read_text()
    addresses = set(re.findall(r"https?://[^\"'`\s)]+", script))
    assert addresses <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xhtml",
        "http://www.w3.org/1998/Math/MathML",
    }
    assert "eval(" not in script and "new Function" not in script


def test_the_licences_of_all_bundled_libraries_are_listed():
    text = (STATIC / "LICENSES.txt").read_text()
    needed = json.loads((WEB / "package.json").read_text())["dependencies"]
    for name, version in needed.items():
        assert f"{name} {version} (" in text
