"""Training of the checker of rendered scenes: it begins, goes on where it was, and writes weights that read pictures."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ldm.models.autoencoder import AutoencoderKL
from ldm.synthetic.rendered.detector import Detector, load_detector, save_detector
from ldm.synthetic.rendered.pictures import read_pictures, read_scenes
from ldm.synthetic.rendered.targets import to_tensors
from ldm.synthetic.rendered.training import DetectorTraining, Pictures, TrainingOptions
from ldm.util.errors import UserError
from scripts import train_checker

SCENES = Path(__file__).parents[1] / "data" / "rendered"
OPTIONS = {"batch": 4, "width": 0.125, "autoencoder_from": 0.4, "autoencoder_until": 0.8}


@pytest.fixture(scope="module")
def pictures():
    records, paths = read_scenes(SCENES)
    return Pictures.on("cpu", read_pictures(paths, 128), to_tensors(records))


def weights(training: DetectorTraining) -> torch.Tensor:
    return torch.cat([value.flatten() for value in training.average.state_dict().values()])


def test_losses_fall_and_the_averages_follow(pictures):
    training = DetectorTraining(pictures, TrainingOptions(steps=60, autoencoder=False, **OPTIONS))
    before, losses = weights(training), []
    for _ in range(15):
        losses.append(float(sum(training._train_step().values())))
        training.step += 1
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert not torch.equal(weights(training), before)


def test_an_interrupted_training_goes_on_where_it_was(pictures, tmp_path):
    state = tmp_path / "state"
    first = DetectorTraining(pictures, TrainingOptions(steps=5, **OPTIONS), state)
    first.run()
    second = DetectorTraining(pictures, TrainingOptions(steps=6, **OPTIONS), state)
    assert second.step == 5 and second.seconds == first.seconds > 0
    assert torch.equal(weights(first), weights(second))
    second.run()
    assert second.step == 6 and not torch.equal(weights(first), weights(second))


def test_a_state_of_another_training_is_an_error(pictures, tmp_path):
    state = tmp_path / "state"
    DetectorTraining(pictures, TrainingOptions(steps=1, **OPTIONS), state).save()
    with pytest.raises(UserError, match="another 'autoencoder'; delete it"):
        DetectorTraining(pictures, TrainingOptions(autoencoder=False, **OPTIONS), state)
    state.write_bytes(b"no state")
    with pytest.raises(UserError, match="not the state of a training"):
        DetectorTraining(pictures, TrainingOptions(**OPTIONS), state)


def test_the_program_trains_writes_and_validates(tmp_path, capsys):
    out = tmp_path / "checker.safetensors"
    arguments = ["--data", str(SCENES), "--out", str(out), "--steps", "2", "--batch", "2", "--width", "0.125"]
    assert train_checker.main([*arguments, "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "3 pictures to train on, 1 held out, on cpu" in printed and "planted faults that are caught" in printed
    load_detector(out)
    assert 0 <= json.loads(out.with_suffix(".json").read_text())["held_out"]["scores"]["exact"] <= 1


def test_the_program_reads_pictures_through_a_first_stage(tmp_path, capsys):
    checker, first_stage, config = (tmp_path / name for name in ("c.safetensors", "kl.safetensors", "kl.yaml"))
    save_detector(Detector(0.125), checker)
    ddconfig = {"double_z": True, "z_channels": 4, "resolution": 128, "in_channels": 3, "out_ch": 3, "ch": 32}
    ddconfig |= {"ch_mult": [1, 1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0}
    params = {"embed_dim": 4, "patch_size": 4, "ddconfig": ddconfig}
    save_file(dict(AutoencoderKL(**params).state_dict()), first_stage)
    config.write_text(json.dumps({"model": {"target": "ldm.models.autoencoder.AutoencoderKL", "params": params}}))
    arguments = ["--check-only", "--held-out", str(SCENES), "--out", str(checker), "--device", "cpu"]
    assert train_checker.main([*arguments, "--first-stage", str(config), str(first_stage)]) == 0
    assert f"the same pictures through {first_stage}" in capsys.readouterr().out
    results = json.loads(checker.with_suffix(".json").read_text())
    assert [results[name]["pictures"] for name in ("held_out", "through_first_stage")] == [4, 4]


@pytest.mark.parametrize("option, missing", [("--check-only", "--held-out"), ("--no-autoencoder", "--data")])
def test_a_missing_folder_of_pictures_is_named(option, missing, tmp_path, capsys):
    assert train_checker.main([option, "--out", str(tmp_path / "c.safetensors")]) != 0
    assert missing in capsys.readouterr().err


def test_a_folder_without_scenes_or_with_too_few_is_an_error_in_one_line(tmp_path, capsys):
    out = str(tmp_path / "checker.safetensors")
    shutil.copytree(SCENES / "shard-00000", tmp_path / "scenes" / "shard-00000")
    for data, problem in ((tmp_path, "no complete shard"), (tmp_path / "scenes", "too few pictures")):
        assert train_checker.main(["--data", str(data), "--out", out]) != 0
        assert problem in capsys.readouterr().err
