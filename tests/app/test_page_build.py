"""The committed build of the editor's page: made of the sources beside it, and self-contained."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest

import ldm

APP = Path(ldm.__file__).parent / "app"
STATIC, WEB = APP / "static", APP / "web"
SOME = ("web/src/view/App.tsx", "web/src/styles/base.css", "web/index.html", "web/build.mjs", "web/package.json")
SOME += ("static/app.js", "static/app.css")


def stale(web: Path, static: Path) -> set[str]:
    """The sources that are not those of the build, and the files of the build that are not those that were built."""
    kept = json.loads((static / "sources.json").read_text())
    known = {web / path: digest for path, digest in kept["sources"].items()}
    known |= {static / path: digest for path, digest in kept["built"].items()}
    inputs = [web / name for name in ("index.html", "votes.html", "package.json", "package-lock.json", "build.mjs")]
    present = {path for path in (*inputs, *(web / "src").rglob("*")) if path.is_file()}
    present |= {path for path in static.iterdir() if path.name != "sources.json"}
    now = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in present}
    return {path.name for path in known.keys() | present if known.get(path) != now.get(path)}


def test_the_build_of_the_page_is_that_of_its_sources():
    assert not stale(WEB, STATIC), "run make web and commit ldm/app/static"


@pytest.mark.parametrize(
    ("path", "change"),
    [(path, change) for path in SOME for change in ("edited", "deleted")]
    + [("web/src/texts/new.ts", "added"), ("static/left.js", "added")],
)
def test_a_source_or_a_build_that_was_changed_alone_is_noticed(tmp_path, path, change):
    shutil.copytree(WEB, tmp_path / "web", ignore=shutil.ignore_patterns("node_modules"))
    shutil.copytree(STATIC, tmp_path / "static")
    assert not stale(tmp_path / "web", tmp_path / "static")
    file = tmp_path / path
    if change == "deleted":
        file.unlink()
    else:
        file.write_text(file.read_text() + " " if change == "edited" else "")
    assert stale(tmp_path / "web", tmp_path / "static") == {file.name}


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
