import json
import subprocess
import sys

import pytest
from paths import ROOT


@pytest.fixture
def script(load_script):
    return load_script("benchmark")


def test_the_section_profile_alone_profiles_a_step_and_the_unet(script):
    assert script.parse(["--only", "profile"]).only == ("backward", "step", "profile")
    assert script.parse(["--only", "edit,profile"]).only == ("edit", "profile")


def test_the_section_memory_alone_measures_a_step_and_an_edit(script):
    assert script.parse(["--only", "memory"]).only == ("step", "edit", "memory")
    assert script.parse(["--only", "edit,memory"]).only == ("edit", "memory")


def test_the_script_prints_a_table_and_writes_its_numbers(script, tmp_path, capsys):
    flags = ["--only", "optimizer,attention", "--repeats", "2", "--precision", "fp32", "--batch-size", "1"]
    assert script.main([*flags, "--device", "cpu", "--out", str(tmp_path)]) == 0
    printed, record = capsys.readouterr().out, json.loads((tmp_path / "speed.json").read_text())
    assert "| AdamW | fused |" in printed and (tmp_path / "speed.md").read_text().strip() in printed
    assert {(row["group"], row["way"]) for row in record["rows"]} >= {("AdamW", "plain"), ("AdamW", "fused")}
    assert record["peaks"]["fp32"] > 0 and record["machine"]["size"] == "small"


@pytest.mark.slow
def test_every_section_runs(script, tmp_path):
    flags = ["--repeats", "1", "--steps", "2", "--precision", "fp32", "--batch-size", "1", "--out", str(tmp_path)]
    assert script.main([*flags, "--device", "cpu", "--threads", "1"]) == 0
    record = json.loads((tmp_path / "speed.json").read_text())
    groups = {row["group"].split(",")[0] for row in record["rows"]}
    assert groups >= {"U-Net forward", "U-Net forward + backward", "training step", "edit", "first stage encodes"}
    peaks = [row["memory"] for row in record["rows"] if row["group"] in ("training step", "edit")]
    assert len(set(peaks)) == len(peaks)
    assert set(record["processes"][0]) == {"processes", "images_per_second", "apart"}


@pytest.mark.parametrize("flags, word", [(["--only", "nothing"], "nothing"), (["--repeats", "0"], "repeats")])
def test_a_wrong_option_exits_with_2(script, flags, word, capsys):
    with pytest.raises(SystemExit) as exit:
        script.main(flags)
    assert exit.value.code == 2 and word in capsys.readouterr().err


def test_help_does_not_import_torch():
    code = (
        "import sys, runpy\n"
        "try: runpy.run_path('scripts/benchmark.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'diffusers'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, "--help"]
    result = subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}
    )
    assert "--only" in result.stdout
