"""`--help` answers at once: it imports none of the large packages that the work itself needs."""

import subprocess
import sys

import pytest
from paths import ROOT

LARGE_PACKAGES = ("torch", "numpy", "PIL", "pytorch_lightning", "open_clip", "torchvision")
SCRIPTS = (
    "ablate",
    "app",
    "benchmark",
    "cache_latents",
    "curate",
    "demo",
    "ddim_invert_edit",
    "evaluate",
    "export",
    "export_demo",
    "render_scenes",
    "preprocess_vg",
    "sample",
    "train_checker",
    "try_curation",
    "validate",
)
PRINT_HELP = """
import runpy, sys
sys.path.insert(0, ".")
program, *large_packages = sys.argv[1:]
sys.argv = [program, "--help"]
try:
    runpy.run_path(program, run_name="__main__")
except SystemExit:
    sys.exit(", ".join(name for name in large_packages if name in sys.modules) or 0)
"""


@pytest.mark.parametrize("program", [*(f"scripts/{name}.py" for name in SCRIPTS), "trainer.py"])
def test_help_imports_no_large_package(program):
    words = [sys.executable, "-c", PRINT_HELP, program, *LARGE_PACKAGES]
    process = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (process.returncode, process.stderr) == (0, "") and "usage: " in process.stdout
