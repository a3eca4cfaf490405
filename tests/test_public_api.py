"""The public API: README's lines of Python work as they are written, and importing the package is quick."""

import re
import runpy
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from paths import ROOT
from PIL import Image

import ldm
from ldm.models.diffusion.samplers import SAMPLERS


def test_the_python_lines_of_the_readme_edit_a_photograph(checkpoint, tmp_path, monkeypatch):
    (lines,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    alternative = (
        re.search(r"; or (ldm.load_model.*)", lines).group(1).replace("logs/<run>", str(checkpoint.parents[1]))
    )
    monkeypatch.chdir(tmp_path)
    Path("data").symlink_to(ROOT / "data")
    Path("lines.py").write_text(f"{lines}other = {alternative}\n")
    monkeypatch.setitem(SAMPLERS, "dpm++", SAMPLERS["dpm++"]._replace(default_steps=2))
    names = runpy.run_path("lines.py")
    (photograph,) = re.findall(r'read_image\("(.*?)"\)', lines)
    with Image.open(photograph) as photograph, Image.open("edited.png") as edited:
        assert edited.size == photograph.size and edited.tobytes() != photograph.convert("RGB").tobytes()
    assert type(names["other"]) is type(names["model"])


@pytest.mark.parametrize("package", ["ldm", "ldm.app", "ldm.editing", "ldm.sampling"])
def test_every_public_name_exists(package):
    module = import_module(package)
    for name in module.__all__:
        assert getattr(module, name).__name__ == name
    with pytest.raises(AttributeError):
        getattr(module, "does_not_exist")  # noqa: B009


def test_importing_the_package_and_asking_for_help_do_not_import_torch():
    code = "import sys, ldm, ldm.editing.options, ldm.sampling.options, ldm.util.options; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_version_is_stated_once():
    assert re.fullmatch(r"\d+\.\d+\.\d+", ldm.__version__)
    assert f"## {ldm.__version__}\n" in (ROOT / "CHANGELOG.md").read_text()
    assert f"version: {ldm.__version__}\n" in (ROOT / "CITATION.cff").read_text()
