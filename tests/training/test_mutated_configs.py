"""Damaged configs are trained with, or answered in one sentence; none prints a traceback."""

import json
import random
import resource

import pytest
from mutations import mutate_json
from tiny import DATA, MODEL

import trainer

LIGHTNING = {
    "seed": 3,
    "scale_lr": False,
    "trainer": {
        "accumulate_grad_batches": 1,
        "gradient_clip_val": 1.0,
        "limit_val_batches": 1,
        "max_steps": 1,
        "num_sanity_val_steps": 0,
        "precision": 32,
        "val_check_interval": 1.0,
    },
    "callbacks": {
        "image_logger": {"params": {"batch_frequency": 5, "max_images": 2, "log_images_kwargs": {"steps": 1}}}
    },
    "modelcheckpoint": {"params": {"filename": "{epoch:03}", "save_top_k": 1}},
    "logger": {"params": {"name": "tensorboard"}},
}
SETTINGS = {
    "timesteps": 1000,
    "linear_start": 0.0015,
    "linear_end": 0.0195,
    "graph_drop": 0.1,
    "warmup_steps": 1,
    "ema_decay": 0.9,
    "channels": 4,
    "scale_factor": 1.0,
    "monitor": "val/loss_simple",
}
MODEL_SECTION = {"base_learning_rate": 1e-3, **MODEL, "params": MODEL["params"] | SETTINGS}
CONFIG = {"model": MODEL_SECTION, "data": DATA, "lightning": LIGHTNING}
LIMIT_OF_MEMORY = 6 << 30  # of addresses; some damage asks for more than any machine has


@pytest.fixture
def limited_memory():
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_OF_MEMORY, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("first, count", [(0, 10), pytest.param(1000, 400, marks=pytest.mark.slow)])
def test_a_damaged_config_is_used_or_refused_in_one_sentence(tmp_path, capsys, limited_memory, first, count):
    path, codes = tmp_path / "damaged.yaml", set()
    for seed in range(first, first + count):
        path.write_bytes(mutate_json(CONFIG, random.Random(seed)))
        flags = "-t", "--gpus", "cpu", "--max_steps", "1", "--max_epochs", "2", "--logdir", str(tmp_path / "logs")
        codes.add(code := trainer.main(["-b", str(path), *flags]))
        errors = capsys.readouterr().err
        assert (code, errors) == (0, "") or (code in (1, 2) and errors.count("\n") == 1), (seed, code, errors)
    assert 2 in codes


def test_the_undamaged_config_is_trained_with(tmp_path, capsys):
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(CONFIG))
    assert trainer.main(["-b", str(path), "--gpus", "cpu", "-t", "--logdir", str(tmp_path / "logs")]) == 0
    assert capsys.readouterr().err == ""
