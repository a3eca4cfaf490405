"""Finds commands, links and names in the documentation, which the tests of the documentation check."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "DATA.md", "CONTRIBUTING.md")] + sorted((ROOT / "docs").rglob("*.md"))
PROGRAM = r"(trainer\.py|scripts/\w+\.py)"


def code(page: Path) -> Iterator[str]:
    """The lines of a page's code blocks, continued lines joined, and its code spans."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for block in blocks:
        yield from join_continued(block)
    prose = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    yield from (line for line in prose.splitlines() if line.startswith("    "))
    yield from spans(page)


def spans(page: Path) -> list[str]:
    """The code spans of a page, each in one line."""
    prose = re.sub(r"^```\w*\n.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def comment(path: Path) -> list[str]:
    """The lines of the comment at the top of a YAML file, continued lines joined."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    return join_continued("\n".join(lines))


def docstring(path: Path) -> list[str]:
    """The lines of a program's docstring, continued lines joined."""
    return join_continued(path.read_text(encoding="utf-8").split('"""')[1])


def join_continued(text: str) -> list[str]:
    """Lines, with those that end in a backslash joined with the next."""
    return re.sub(r" *\\+\n#? *", " ", text).splitlines()


def command_lines() -> dict[str, str]:
    """Command that runs a program of the project -> a file that states it."""
    sources = {page: list(code(page)) for page in PAGES}
    sources |= {path: comment(path) for path in sorted((ROOT / "configs").rglob("*.yaml"))}
    sources |= {path: docstring(path) for path in [ROOT / "trainer.py", *sorted((ROOT / "scripts").glob("*.py"))]}
    for manifest in sorted((ROOT / "data").glob("*/MANIFEST.json")):
        entries = json.loads(manifest.read_text(encoding="utf-8")).values()
        sources[manifest] = [re.split(r" \(|, then", entry["command"])[0] for entry in entries]
    return {
        " ".join(match[0].split()): str(path.relative_to(ROOT))
        for path, lines in sources.items()
        for line in lines
        for match in re.finditer(rf"(?:python|--) +{PROGRAM}(?: .*)?$", without_remark(line))
    }


def without_remark(line: str) -> str:
    """A line without what stands after ` #` or, behind a command, after three spaces."""
    line = re.sub(r" #.*", "", line.lstrip("# ") if line.startswith("#") else line).strip()
    return re.sub(r" {3,}.*", "", line)


def parse_command(command: str) -> tuple[str, list[str]]:
    """The program and its arguments, without `[...]`, which stands for further ones."""
    match = re.match(rf"(?:python|--) +{PROGRAM} ?(.*)$", command)
    assert match, command
    return match[1], shlex.split(re.sub(r"<[^>]*>", "X", re.sub(r"\[.*\]", "", match[2])))


def links(page: Path) -> list[str]:
    """The targets of a page's links and images that are not web addresses."""
    text = re.sub(r"^```\w*\n.*?^```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"\w+:", target)]


def anchors(page: Path) -> set[str]:
    """The anchors of a page: its headings, and the modules that mkdocstrings documents."""
    text = page.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    slugs = {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}
    return slugs | set(re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE))
