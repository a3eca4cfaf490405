"""Asking a script what it does costs nothing that its work needs."""

import subprocess
import sys

import pytest
from paths import ROOT

HEAVY = ("torch", "numpy", "PIL", "pytorch_lightning", "open_clip", "torchvision")
DOORS = [
    *(f"scripts/{name}.py" for name in ("ddim_invert_edit", "sample", "evaluate", "cache_latents", "export", "ablate")),
    "trainer.py",
]


@pytest.mark.parametrize("door", DOORS)
def test_help_imports_nothing_that_is_slow_to_import(door):
    asks = f"import runpy, sys; sys.path.insert(0, '.'); sys.argv = ['{door}', '--help']\n"
    asks += f"try: runpy.run_path('{door}', run_name='__main__')\n"
    asks += f"except SystemExit: sys.exit(', '.join(name for name in {HEAVY} if name in sys.modules) or 0)"
    answer = subprocess.run([sys.executable, "-c", asks], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stderr) == (0, "") and "usage: " in answer.stdout
