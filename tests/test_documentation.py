"""Links, commands and names in README.md, DATA.md, CONTRIBUTING.md, docs/, configs/ and the programs' help are valid."""

import ast
import re
from pathlib import Path

import pytest
from documented_commands import PAGES, ROOT, anchors, code, command_lines, links, parse_command, spans
from omegaconf import OmegaConf

import trainer

COMMANDS = command_lines()


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def parse(load_script):
    """parse(program, arguments) -> the arguments as the program's own parser reads them; SystemExit for a mistake."""

    def parse(program: str, arguments: list[str]):
        if program == "trainer.py":
            return trainer.parse(arguments)[0]
        return load_script(Path(program).stem).parse(arguments)

    return parse


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_to_existing_files_and_headings(page):
    folder = ROOT if page.name == "data.md" else page.parent  # which includes DATA.md
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (folder / path).resolve() if path else page
        assert target.exists(), link
        if target == ROOT / "docs/data.md":
            target = ROOT / "DATA.md"
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{COMMANDS[command]}: {command}"[:100])
def test_commands_have_valid_arguments_and_configs(parse, command, capsys):
    program, words = parse_command(command)
    assert (ROOT / program).is_file()
    for word in words:
        assert not word.startswith("configs/") or (ROOT / word).is_file(), word
    if not words or "..." in words:  # which stands for arguments that are left out
        return
    try:
        arguments = parse(program, words)
    except SystemExit:
        pytest.fail(capsys.readouterr().err)
    config, split = getattr(arguments, "config", None), getattr(arguments, "split", None)
    if config and split not in (None, "all"):
        merged = OmegaConf.merge(*(OmegaConf.load(ROOT / file) for file in config))
        assert OmegaConf.select(merged, f"data.params.{split}") is not None


def test_commands_are_found():
    assert len(COMMANDS) > 40
    programs = {parse_command(command)[0] for command in COMMANDS}
    assert {"trainer.py", "scripts/sample.py", "scripts/evaluate.py", "scripts/ddim_invert_edit.py"} <= programs
    assert any("--seed 23 --minutes" in command for command in COMMANDS)  # with continued lines


def test_flags_in_prose_exist():
    programs = [ROOT / "trainer.py", *(ROOT / "scripts").glob("*.py"), *(ROOT / "ldm").rglob("*.py")]
    known = {flag for path in programs for flag in re.findall(r'"--([a-z][\w-]*)"', path.read_text(encoding="utf-8"))}
    for name in (
        "curation/options",
        "editing/options",
        "sampling/options",
        "sampling/text_options",
        "data/vg_options",
    ):  # whose fields are options
        known |= set(
            re.findall(r"^    (\w+): .* = ", (ROOT / f"ldm/{name}.py").read_text(encoding="utf-8"), re.MULTILINE)
        )
    known |= {*trainer.TRAINER_FLAGS, *trainer.LIGHTNING_KEYS, "help"}
    for page in PAGES:
        for span in spans(page):
            if span.startswith("--") and not span.startswith("--8<--"):
                for flag in re.findall(r"(?:^| )--([a-z][\w-]*)", span):
                    assert flag in known or flag.replace("-", "_") in known, f"{page_name(page)}: {span}"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_paths_and_modules_in_code_exist(page):
    for span in spans(page):
        for path in re.findall(r"(?<![\w/.-])(?:ldm|configs|scripts|docs|tests|data)/[\w./*-]*[\w*]", span):
            assert list(ROOT.glob(path)), f"{page_name(page)}: {path}"
        for name in re.findall(r"(?<![\w/.-])ldm(?:\.\w+)+", span):
            assert is_defined(name), f"{page_name(page)}: {name}"


def is_defined(name: str) -> bool:
    """Whether a dotted name is a module, or the name of something at the top of one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        base = ROOT.joinpath(*parts[:length])
        module = next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)
        if module:
            tops = ast.parse(module.read_text(encoding="utf-8"))
            return length == len(parts) or any(
                parts[length] in (getattr(node, name, None) for name in ("name", "id", "asname", "value"))
                for node in ast.walk(tops)
            )
    return False


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_make_targets_exist(page):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in code(page):
        for target in re.findall(r"^make ([\w-]+)", line):
            assert target in targets, line


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_included_files_exist(page):
    for name in re.findall(r'^--8<-- "(.+)"$', page.read_text(encoding="utf-8"), re.MULTILINE):
        assert (ROOT / name).is_file()
