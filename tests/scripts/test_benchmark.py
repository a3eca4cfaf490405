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


FLAGS = ["--repeats", "1", "--precision", "fp32", "--batch-size", "1", "--device", "cpu"]


def test_a_run_that_was_ended_keeps_its_sections_and_goes_on(script, tmp_path, monkeypatch, capsys):
    """The second run measures the section that the first one was ended in, and no other."""
    from ldm.profiling import sections

    run_section, asked = sections.run_section, []

    def ended(section, *arguments):
        asked.append(section)
        if section == "attention" and len(asked) == 2:
            raise KeyboardInterrupt
        return run_section(section, *arguments)

    monkeypatch.setattr(sections, "run_section", ended)
    flags = [*FLAGS, "--only", "optimizer,attention", "--out", str(tmp_path)]
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        sys.exit(script.main(flags))
    first = json.loads((tmp_path / "speed.json").read_text())
    assert first["finished"] == ["optimizer"] and {row["group"] for row in first["rows"]} == {"AdamW"}
    assert "| AdamW | fused |" in (tmp_path / "speed.md").read_text()
    assert script.main([*flags, "--resume"]) == 0
    second = json.loads((tmp_path / "speed.json").read_text())
    assert second["finished"] == ["optimizer", "attention"] and asked == ["optimizer", "attention", "attention"]
    assert second["rows"][: len(first["rows"])] == first["rows"] and second["peaks"] == first["peaks"]
    capsys.readouterr()
    assert script.main([*flags, "--resume", "--batch-size", "2"]) == 2
    assert "batch was 1 and is 2" in capsys.readouterr().err


def test_there_is_nothing_to_resume_without_a_folder_or_a_record(script, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit:
        script.parse(["--resume"])
    assert exit.value.code == 2 and "--out" in capsys.readouterr().err
    assert script.main([*FLAGS, "--only", "optimizer", "--resume", "--out", str(tmp_path)]) == 2
    assert "leave --resume out" in capsys.readouterr().err
    (tmp_path / "speed.json").write_text('{"machine": {}}')
    assert script.main([*FLAGS, "--only", "optimizer", "--resume", "--out", str(tmp_path)]) == 2
    assert "is no record of this benchmark" in capsys.readouterr().err


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
