"""The ablation: its table, what is resumed, and which results are not mixed."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from paths import ROOT

from ldm.synthetic.worlds import WORLDS
from scripts import ablate


def write_report(folder, name, success, reference="same", towards=None):
    lines = [
        {"boxes": boxes, "reference": reference, "success": success, "triples": 0.5, "all_objects": 0.25, "style": 1.0,
         "towards_colour": towards, "towards_texture": towards}
        for boxes in ("all", "none")
    ]  # fmt: skip
    (folder / name / "scenes").mkdir(parents=True)
    (folder / name / "scenes" / "report.json").write_text(json.dumps({"results": lines}))


def test_a_cell_has_the_mean_over_seeds_and_their_standard_deviation(tmp_path):
    write_report(tmp_path, "encoder_1", 0.8, reference="none")
    write_report(tmp_path, "encoder_2", 1.0, reference="none")
    write_report(tmp_path, "encoder_FiLM_1", 0.4, towards=0.5)
    _, _, encoder, film = ablate.results_table(tmp_path).splitlines()
    assert encoder.split("|")[1:4] == [" encoder ", " 2 ", " 90.0 ± 14.1 "]
    assert film.split("|")[1:5] == [" encoder + FiLM ", " 1 ", " 40.0 ", " 50.0 "]


def test_a_share_has_two_decimals_and_a_percentage_one(tmp_path):
    write_report(tmp_path, "encoder_FiLM_1", 0.4, reference="none", towards=0.914)
    write_report(tmp_path, "encoder_FiLM_2", 0.4, reference="none", towards=0.934)
    row = ablate.results_table(tmp_path).splitlines()[-1].split("|")
    assert row[3] == " 40.0 ± 0.0 " and row[10] == " 0.92 ± 0.01 "


@pytest.fixture
def calls(monkeypatch):
    """The commands, which are not run; files with their results are written instead."""
    commands = []

    def call(*words):
        commands.append(words)
        if words[0] == "trainer.py":
            run = words[words.index("--logdir") + 1] / "run" / "checkpoints"
            run.mkdir(parents=True)
            (run / "last.ckpt").touch()
        else:
            scenes = words[words.index("--outdir") + 1]
            write_report(scenes.parents[1], scenes.parent.name, 0.5)

    monkeypatch.setattr(ablate, "call", call)
    return commands


def test_finished_measurements_are_not_repeated(tmp_path, calls, capsys):
    arguments = ["--outdir", str(tmp_path), "--max-steps", "3"]
    assert ablate.main([*arguments, "--seeds", "7"]) == 0
    done = len(calls)
    assert ablate.main([*arguments, "--seeds", "7", "--gpus", "cpu"]) == 0 and len(calls) == done
    assert (tmp_path / "table.md").read_text() in capsys.readouterr().out
    assert ablate.main([*arguments, "--seeds", "7,8"]) == 0 and len(calls) == 2 * done


@pytest.mark.parametrize(
    "other, words",
    [
        (["--n", "9"], "n 5, not 9"),
        (["--n", "5", "--max-steps", "3"], "max_steps None, not 3"),
        (["--n", "5", "--scenes", "other"], "scenes shapes, not other"),
        (["--n", "5", "--seed-offset", "0"], "seed_offset 100000, not 0"),
        (["--n", "5", "--base", "configs/tiny.yaml"], "not ['tiny.yaml "),
        (["--n", "5", "model.params.ema_decay=0.9"], "not ['model.params.ema_decay=0.9']"),
    ],
)
def test_results_of_other_options_are_not_mixed(tmp_path, calls, capsys, monkeypatch, other, words):
    monkeypatch.setitem(WORLDS, "other", WORLDS["shapes"])
    arguments = ["--seeds", "7", "--outdir", str(tmp_path)]
    assert ablate.main([*arguments, "--n", "5"]) == 0
    calls.clear()
    assert ablate.main([*arguments, *other]) == 2 and not calls
    errors = capsys.readouterr().err
    assert words in errors and "--outdir" in errors and errors.count("\n") == 1


def test_a_config_with_the_same_name_but_other_text_is_refused(tmp_path, calls, capsys):
    config = tmp_path / "own.yaml"
    arguments = ["--seeds", "7", "--outdir", str(tmp_path / "out"), "--base", str(config)]
    assert ablate.main(arguments) == 2 and "own.yaml" in capsys.readouterr().err
    config.write_text("a: 1")
    assert ablate.main(arguments) == 0
    config.write_text("a: 2")
    assert ablate.main(arguments) == 2


def test_reports_without_recorded_options_are_refused(tmp_path, calls, capsys):
    write_report(tmp_path, "encoder_7", 0.5)
    assert ablate.main(["--seeds", "7", "--outdir", str(tmp_path)]) == 2 and not calls
    assert "asked.json" in capsys.readouterr().err


def test_every_variant_is_trained_with_its_own_overrides_and_seed(tmp_path, calls):
    ablate.main(["--seeds", "7", "--outdir", str(tmp_path), "--max-steps", "3"])
    trained, measured = calls[::2], calls[1::2]
    assert len(trained) == len(measured) == len(ablate.VARIANTS)
    assert all(words[words.index("--seed") + 1] == 7 and 3 in words and "cpu:2" in words for words in trained)
    assert len({words[-4:] for words in trained}) == len(trained)  # the overrides


def test_configs_and_overrides_reach_every_training_run_from_any_folder(tmp_path, calls, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text("a: 1")
    words = ["model.params.ckpt_path=a.ckpt", "--base", "configs/flat/adapters.yaml", "own.yaml", "--seeds", "7"]
    assert ablate.main([*words, "model.params.unet_config.params.lora_rank=8", "--outdir", "out"]) == 0
    assert Path.cwd() == ROOT and (tmp_path / "out" / "table.md").exists()
    for overrides, words in zip(ablate.VARIANTS.values(), calls[::2]):
        base, end = words.index("--base"), len(words) - len(overrides)
        assert words[base + 1 : base + 3] == (ROOT / "configs/flat/adapters.yaml", tmp_path / "own.yaml")
        assert words[end - 2 : end] == ("model.params.ckpt_path=a.ckpt", "model.params.unet_config.params.lora_rank=8")
        assert list(words[end:]) == overrides  # last, since the last override wins


SLOW_TO_STOP = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, lambda *_: (time.sleep(1), Path("saved").touch(), sys.exit(130)))
Path("started").touch()
time.sleep(600)
"""


def test_ctrl_c_lets_a_training_run_write_its_checkpoint_and_exits_with_130(tmp_path):
    (tmp_path / "trainer.py").write_text(SLOW_TO_STOP)
    main = "import pathlib, sys; from scripts import ablate; ablate.ROOT = pathlib.Path(sys.argv[1])\n"
    main += "sys.exit(ablate.main(['--outdir', sys.argv[1] + '/out', '--base', sys.argv[1] + '/trainer.py']))"
    process = subprocess.Popen(
        [sys.executable, "-c", main, str(tmp_path)], cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    try:
        while not (tmp_path / "started").exists():
            assert process.poll() is None
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert (tmp_path / "saved").exists()
    assert process.returncode == 130
    assert errors.startswith("ablate.py: stopped") and "continues" in errors and errors.count("\n") == 1
