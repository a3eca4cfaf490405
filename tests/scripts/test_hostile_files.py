"""No program runs code, reads an environment variable or reaches the network for a run, checkpoint or adapter file of a stranger."""

import json
import socket
import sys

import pytest
import torch
import yaml
from paths import ROOT
from safetensors.torch import save_file
from tiny import tiny_model

import trainer
from ldm.models.export import METADATA

GRAPH, IMAGE = ROOT / "data/flat/example.json", ROOT / "data/flat/example.png"


def hostile_config(kind, folder):
    """The config of a tiny model with one addition that a stranger might make."""
    payload = folder / "payload.yaml"
    command = {"target": "os.system", "params": {"command": f"touch {folder}/executed"}}
    payload.write_text(yaml.safe_dump({"data": {"params": {"train": command}}}))
    config = tiny_model().config
    if kind == "another config":
        split = {"config": str(payload), "split": "train", "size": 32}
        config["data"]["params"]["train"] = {"target": "ldm.evaluation.image_sets.Split", "params": split}
        config["data"]["params"]["validation"] = config["data"]["params"]["train"]
    elif kind == "function":
        config["data"]["params"]["train"] = command
    elif kind == "module":
        (folder / "hostile_module.py").write_text(f"open({str(folder / 'executed')!r}, 'w')\nclass Model: pass\n")
        config["model"]["target"] = "hostile_module.Model"
    elif kind == "network":
        config["model"]["params"]["global_stage_config"]["params"]["model_name"] = "hf-hub:someone/model"
    elif kind == "environment":
        config["data"]["params"]["train"]["params"]["size"] = "${oc.env:SECRET}"
    return config


@pytest.fixture(params=["another config", "function", "module", "network", "environment"])
def hostile(request, tmp_path, monkeypatch):
    """The folder of a run whose config a stranger wrote: configs/, checkpoints/last.ckpt, and adapters.safetensors."""
    monkeypatch.setenv("SECRET", "the-secret-word")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a connection was opened"))
    run, config = tmp_path / "run", hostile_config(request.param, tmp_path)
    for name in ("checkpoints", "configs"):
        (run / name).mkdir(parents=True)
    model, saved = tiny_model(), {}
    model.on_save_checkpoint(saved)
    state = {"optimizer_states": [], "loops": {}, "epoch": 0, "global_step": 1, "pytorch-lightning_version": "2.6.0"}
    torch.save({**saved, **state, "config": config, "lr_schedulers": []}, run / "checkpoints" / "last.ckpt")
    project = {"model": {**config["model"], "base_learning_rate": 1e-3}, "data": config["data"]}
    (run / "configs" / "2026-01-01T00-00-00-project.yaml").write_text(yaml.safe_dump(project))
    metadata = {METADATA: json.dumps({"config": config, "vocab": saved["vocab"]})}
    save_file({"null_tokens": torch.zeros(1, 1, 32)}, run / "adapters.safetensors", metadata)
    return run


def weights_options(run):
    return ("--run", run), ("--ckpt", run / "checkpoints" / "last.ckpt"), ("--ckpt", run / "adapters.safetensors")


def commands(run, out):
    """Every program that reads a run, a checkpoint or an adapter file, with arguments that are right otherwise."""
    for weights in weights_options(run):
        yield "sample", (*weights, "--sg", GRAPH, "--outdir", out)
        edit = ("--ref", IMAGE, "--source-sg", GRAPH, "--sg", ROOT / "data/flat/edited.json", "--outdir", out)
        yield "ddim_invert_edit", (*weights, *edit)
        yield "evaluate", ("edits", *weights, "--outdir", out)
        yield "evaluate", ("scenes", *weights, "--outdir", out)
    yield "export", ("adapters", "--run", run, "--out", out / "adapters.safetensors")
    yield "export", ("unet", "--ckpt", run / "checkpoints" / "last.ckpt", "--out", out / "adapters.safetensors")


def test_no_program_obeys_the_config_of_a_stranger(hostile, tmp_path, load_script, capsys):
    before = sorted(hostile.rglob("*"))
    for name, arguments in commands(hostile, tmp_path / "out"):
        code = load_script(name).main([str(word) for word in arguments])
        printed = capsys.readouterr()
        assert code == 2 and "YAML file of your own" in printed.err, printed
        assert printed.err.count("\n") == 1 and "the-secret-word" not in printed.out + printed.err
    assert not (tmp_path / "executed").exists() and sorted(hostile.rglob("*")) == before


@pytest.mark.parametrize("flags", [(), ("-t",), ("-t", "data.params.batch_size=2"), ("--check",)])
def test_the_trainer_does_not_obey_the_config_of_a_stranger(hostile, tmp_path, capsys, flags):
    before = sorted(hostile.rglob("*"))
    code = trainer.main(["--resume", str(hostile), "--gpus", "cpu", *flags])
    printed = capsys.readouterr()
    assert code == 2 and printed.err.count("\n") == 1 and "the-secret-word" not in printed.out + printed.err
    assert not (tmp_path / "executed").exists() and sorted(hostile.rglob("*")) == before
    assert "hostile_module" not in sys.modules
