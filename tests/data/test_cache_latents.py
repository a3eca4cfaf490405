"""scripts/cache_latents.py: from a training config to a cache that trainer.py accepts."""

from pathlib import Path

import pytest
from noise_vg import training_config
from omegaconf import OmegaConf

import trainer
from ldm.data.cache import read_index


@pytest.fixture
def cache_latents(load_script):
    """cache_latents(*arguments) -> the exit code of the script on the CPU."""
    script = load_script("cache_latents")
    return lambda *arguments: script.main([*map(str, arguments), "--device", "cpu"])


@pytest.fixture
def config(noise_vg, tmp_path):
    path = tmp_path / "made.yaml"
    OmegaConf.save(OmegaConf.create(training_config(noise_vg)), path)
    return path


def test_the_script_writes_a_cache_that_the_trainer_accepts(cache_latents, config, tmp_path, capsys):
    arguments = ["--config", config, "--out", tmp_path / "cache", "--num-workers", "0", "--shard-size", "4"]
    assert cache_latents(*arguments) == 0
    out = capsys.readouterr().out
    assert "6 images" in out and "MB" in out and "images per second" in out and "encoded 6" in out
    assert cache_latents(*arguments) == 0
    assert "encoded 0" in capsys.readouterr().out
    run = ["--base", str(config), "-t", "--gpus", "cpu", "--logdir", str(tmp_path / "logs"), "--max_steps", "2"]
    run += [f"data.params.cache={tmp_path / 'cache'}", "lightning.trainer.enable_progress_bar=false"]
    run += ["lightning.callbacks.image_logger=null"]
    assert trainer.main(run) == 0
    assert trainer.main([*run, "model.params.global_stage_config.params.normalize=false"]) == 2
    assert "stale (image encoder: checksum" in capsys.readouterr().err


def test_captions_are_cached_for_a_model_that_reads_text_unless_they_are_left_out(cache_latents, noise_vg, tmp_path):
    made, path = training_config(noise_vg), tmp_path / "text.yaml"
    tower = {"width": 24, "layers": 2, "heads": 2, "embed_dim": 16}
    text = {"target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder", "params": {"init": "random", "version": tower}}
    made["model"] = {**made["model"], "params": {**made["model"]["params"], "text_stage_config": text}}
    OmegaConf.save(OmegaConf.create(made), path)
    for name, options, fields in (("with", [], {"text"}), ("without", ["--no-text"], set())):
        assert cache_latents("--config", path, "--out", tmp_path / name, "--num-workers", "0", *options) == 0
        index = read_index(tmp_path / name / "train")
        assert set(index.fields) == {"size", "z", "style", *fields}
        assert ("text encoder" in index.encoders) == bool(fields)


def test_an_estimate_writes_nothing(cache_latents, config, tmp_path, capsys):
    assert cache_latents("--config", config, "--out", tmp_path / "none", "--estimate") == 0
    assert "hours" in capsys.readouterr().out and not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "arguments, reason",
    [
        (["--split", "test"], "data.params.test"),
        (["data.params.train.params.h5_path=nowhere.h5"], "nowhere.h5"),
        (["data.params.train.params.image_size=["], "config"),
        (["data.params.train.params.image_size=${nowhere}"], "nowhere"),
        (["data.params.train.params.max_samples=0"], "no image"),
        (["model.params.first_stage_config.params.init=null"], "no weights"),
        (["second.yaml"], "'second.yaml' is not section.key=value; name a further config with --config"),
        (["data.params.trian.params.image_size=8"], "data.params.trian: there is no such key"),
        (["data.params.batchsize=8"], "did you mean 'batch_size'"),
        (["data.params.train.params.imagesize=8"], "did you mean 'image_size'"),
        (["model.params.unet_config.params.num_head=8"], "did you mean 'num_heads'"),
        (["model.params.timestep=1000"], "did you mean 'timesteps'"),
        (["modle.params.ckpt_path=a"], "did you mean 'model'"),
        (["model.params.global_stage_config.params.normalise=false"], "did you mean 'normalize'"),
        (["data.params.train.params.h5_path=/dev/null"], "/dev/null"),
        (["data.params.train.params.image_size=0"], "image_size is 0"),
    ],
)
def test_a_mistake_in_the_config_is_one_line_on_stderr(cache_latents, config, tmp_path, capsys, arguments, reason):
    assert cache_latents("--config", config, "--out", tmp_path / "cache", *arguments) == 2
    message = capsys.readouterr().err.strip()
    assert reason in message and message.startswith("cache_latents.py: ") and "\n" not in message


def test_a_second_config_overrides_the_first(cache_latents, config, tmp_path, capsys):
    second = tmp_path / "second.yaml"
    second.write_text("data: {params: {train: {params: {max_samples: 2}}}}")
    assert cache_latents("--config", config, second, "--out", tmp_path / "cache", "--estimate") == 0
    assert "train: 2 images" in capsys.readouterr().out


def test_a_split_that_is_null_is_skipped(cache_latents, config, tmp_path, capsys):
    arguments = ["--out", tmp_path / "cache", "--estimate", "data.params.test=null"]
    assert cache_latents("--config", config, *arguments) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["train"]


def test_a_negative_number_of_workers_is_an_error(cache_latents, capsys):
    with pytest.raises(SystemExit) as exit:
        cache_latents("--config", "any.yaml", "--out", "cache", "--num-workers", "-1")
    assert exit.value.code == 2 and "'-1'" in capsys.readouterr().err


def test_the_demo_data_cannot_be_cached(cache_latents, tmp_path, capsys):
    demo = Path(__file__).parents[2] / "configs/flat/adapters.yaml"
    assert cache_latents("--config", demo, "--out", tmp_path / "cache") == 2
    assert "DemoTrain" in capsys.readouterr().err and not (tmp_path / "cache").exists()
