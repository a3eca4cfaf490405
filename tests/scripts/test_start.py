"""The start of a program takes no longer than the work needs it to: an edit and the editor import no training library."""

import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

# Packages that training, reports or other kinds of edits need, each of which takes 0.2 to 3 seconds to import.
UNNEEDED = (
    "diffusers",
    "h5py",
    "lightning_fabric",
    "matplotlib",
    "open_clip",
    "pandas",
    "pycocotools",
    "pytorch_lightning",
    "sympy",
    "tensorboard",
    "timm",
    "torch._dynamo",
    "torchmetrics",
    "torchvision",
    "transformers",
)


def graphs_of(weights: str) -> list[str]:
    """The arguments of the edit that ships with a set of weights."""
    names = {"--ref": "example.png", "--source-sg": "example.json", "--sg": "edited.json"}
    return [word for flag, name in names.items() for word in (flag, f"data/{weights}/{name}")]


LIST_IMPORTS = """
import runpy, sys
unneeded, program, *words = sys.argv[1:]
sys.path[:0] = [".", "scripts"]
sys.argv = [program, *words]
if program.endswith("app.py"):
    import ldm.app.launch
    ldm.app.launch.serve = lambda *args: None  # where the editor is ready
try:
    runpy.run_path(program, run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
print("imported:", *(name for name in unneeded.split() if name in sys.modules))
"""


def imported(*words: str | Path) -> list[str]:
    """Runs a program to its end and returns those of UNNEEDED that it imported."""
    command = [sys.executable, "-c", LIST_IMPORTS, " ".join(UNNEEDED), *map(str, words)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()[-1].split()[1:]


def test_an_edit_with_the_shipped_weights_imports_no_package_that_it_does_not_need(tmp_path):
    assert imported("scripts/ddim_invert_edit.py", *graphs_of("demo"), "--outdir", tmp_path) == []
    assert (tmp_path / "edited.png").is_file()


def test_an_edit_by_text_imports_no_package_that_it_does_not_need(tmp_path):
    by_text = ["--config", "configs/flat/text.yaml", "--steps", "2", "--outdir", tmp_path]
    assert imported("scripts/ddim_invert_edit.py", *graphs_of("flat"), *by_text) == []


def test_the_editor_is_ready_without_a_package_that_it_does_not_need(tmp_path):
    pytest.importorskip("fastapi")
    assert imported("scripts/app.py", "--sessions", tmp_path) == []


def test_this_test_notices_a_package(tmp_path):
    program = tmp_path / "program.py"
    program.write_text("import h5py\n")
    assert imported(program) == ["h5py"]
