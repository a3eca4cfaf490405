"""Training: the step against the CPU's, compiled, sharded; whole runs of each config of the shipped weights; resuming."""

import copy
import math

import pytest
import torch
import yaml
from noise_vg import training_config, write_noise_vg
from paths import ROOT
from tiny import adapted_model, demo_batch, losses_and_gradients
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh

import trainer
from ldm.models.runtime import prepare_for_training
from ldm.training.callbacks import frozen_checksums
from ldm.training.strategies import shard_frozen

# Largest distance of losses, of all gradients and of each parameter's from the CPU's in float32, as a share of their norm.
# On a CPU, bfloat16 changes them by 6e-4, 0.035 and 0.14, float16 by 1e-4, 0.004 and 0.014: its rounding is 8 times finer.
STEP = {"32": (1e-4, 1e-3, 4e-3), "bf16-mixed": (5e-3, 0.1, 0.4), "16-mixed": (1e-3, 0.0125, 0.05)}
SAME_DEVICE = STEP["32"]  # a compiler fuses and so rounds less often; kernels depend on addresses, which shards change
TYPES = {"32": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def assert_close(ours, theirs, tolerances: tuple[float, float, float]) -> None:
    """Compares (losses, {name: gradient})."""
    loss, total, each = tolerances
    errors, norms = {}, {}
    assert ours[1].keys() == theirs[1].keys()
    for name, expected in {"losses": theirs[0], **theirs[1]}.items():
        result = ours[0] if name == "losses" else ours[1][name]
        errors[name] = float((result.cpu().float() - expected.cpu().float()).norm())
        norms[name] = float(expected.norm())
    assert errors.pop("losses") < loss * norms.pop("losses")
    assert math.hypot(*errors.values()) < total * math.hypot(*norms.values())
    assert not {name: errors[name] / norms[name] for name in errors if errors[name] > each * norms[name]}


def model_that_can_be_compared():
    """An adapted model whose FiLM multiplies by 0.48 to 1.52.

    `adapted_model` has a channel that FiLM multiplies by -0.005, and the next norm divides it by its own deviation. There
    gamma's gradient is a peak as narrow as bfloat16's rounding of gamma: the numbers next to it in bfloat16 change the
    gradients of all parameters together by 0.13 to 0.92 of their norm, so that chance decides the result.
    """
    model = adapted_model()
    with torch.no_grad():
        for parameter in model.unet.film.net[-1].parameters():
            parameter.mul_(0.5)
    return model


def prepared_model(device, precision="32", **settings):
    model = model_that_can_be_compared()
    prepare_for_training(model.unet, device, precision, **settings)
    return model.to(device)


@pytest.fixture(scope="module")
def batch():
    return demo_batch(4)


@pytest.mark.timeout(600)  # of pytest-timeout, where it limits the tests: compiling took 367 s on a busy CPU
def test_a_compiled_model_has_the_losses_and_gradients_of_the_plain_one(device, batch):
    expected = losses_and_gradients(prepared_model(device), batch.to(device))
    compiled = losses_and_gradients(prepared_model(device, compiled=True), batch.to(device))
    torch.compiler.reset()
    assert_close(compiled, expected, SAME_DEVICE)


@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
def test_replayed_passes_have_the_losses_and_gradients_of_plain_ones(device, on_gpu, batch, precision):
    """Recorded in the second batch; one of another kind in between, and weights that change, as in training."""
    if not on_gpu:
        pytest.skip("a CPU replays no CUDA graphs; tests/modules/test_cuda_graphs.py rehearses them")
    models = [prepared_model(device, precision), prepared_model(device, precision, graphs=True)]
    for count in (4, 4, 3, 4, 4):
        for parameters in zip(*(model.parameters() for model in models)):
            for parameter in parameters:
                parameter.data.add_(1e-3 * parameter.requires_grad)
        some = demo_batch(count).to(device)
        expected, replayed = (losses_and_gradients(model, some, TYPES[precision]) for model in models)
        assert_close(replayed, expected, SAME_DEVICE if precision == "32" else STEP[precision])
    assert models[1].unet.forward.recorded


@pytest.mark.parametrize("precision", STEP)
def test_losses_and_gradients_are_the_cpus(device, batch, numbers_of_the_cpu, precision):
    expected = losses_and_gradients(model_that_can_be_compared(), batch)
    model = prepared_model(device, precision)
    results = losses_and_gradients(model, batch.to(device), TYPES[precision])
    assert all(str(gradient.device) == device for gradient in results[1].values())
    assert_close(results, expected, STEP[precision])


def test_recomputed_activations_give_the_same_gradients(device, batch):
    model = prepared_model(device)
    expected = losses_and_gradients(model, batch.to(device))
    model.unet.use_checkpoint = True
    assert_close(losses_and_gradients(model, batch.to(device)), expected, SAME_DEVICE)


@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
def test_a_sharded_model_has_the_losses_and_gradients_of_the_whole_one(device, batch, on_gpu, tmp_path, precision):
    model = prepared_model(device, precision)
    model.unet.to(memory_format=torch.contiguous_format)
    expected, checksums = losses_and_gradients(model, batch.to(device), TYPES[precision]), dict(frozen_checksums(model))
    backend = "nccl" if on_gpu else "gloo"
    distributed.init_process_group(backend, init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        shard_frozen(model.unet, init_device_mesh(torch.device(device).type, (1,)))
        for _ in range(2):  # the first pass changes the state
            results = losses_and_gradients(model, batch.to(device), TYPES[precision])
            assert_close(results, expected, SAME_DEVICE if precision == "32" else STEP[precision])
        assert dict(frozen_checksums(model)) == checksums
    finally:
        distributed.destroy_process_group()


# Runs ----------------------------------------------------------------------------------------------------------------

FLAT = ROOT / "configs" / "flat"
SMALL = ["data.params.batch_size=4", "data.params.validation.params.size=4", "lightning.trainer.val_check_interval=2"]


@pytest.fixture
def train(tmp_path, gpus_flag, monkeypatch):
    """train(*words) -> the log folder of a run of trainer.py that must succeed."""
    monkeypatch.chdir(ROOT)  # configs name weights relative to it

    def train(*words):
        before = set(tmp_path.glob("logs/*"))
        flags = ["-t", "--gpus", gpus_flag, "--logdir", tmp_path / "logs", "--progress_bar_refresh_rate=0"]
        assert trainer.main([*map(str, [*flags, *words])]) == 0
        new = set(tmp_path.glob("logs/*")) - before
        return new.pop() if new else None

    return train


@pytest.mark.parametrize(
    "configs, flags",
    [
        (["adapters"], ["--precision", "bf16-mixed"]),
        (["adapters", "backbone"], ["--precision", "bf16-mixed"]),
        (["vq"], ["--precision", "bf16-mixed"]),
        (["image_tower"], ["--precision", "bf16-mixed"]),
        (["text"], ["--precision", "bf16-mixed"]),
        (["adapters"], ["--precision", "32"]),
        (["adapters"], ["--precision", "16-mixed"]),
        (["adapters"], ["--precision", "bf16-mixed", "--cuda_graphs"]),
        (["adapters", "backbone"], ["--precision", "16-mixed", "--cuda_graphs"]),
    ],
    ids=lambda words: "-".join(word.strip("-") for word in words),
)
def test_every_config_of_the_shipped_weights_trains(train, capsys, on_gpu, configs, flags):
    """Four steps with a loader's worker, whose batches are pinned, two validations and logged images."""
    flags = [flag for flag in flags if on_gpu or flag != "--cuda_graphs"]
    images = ["lightning.callbacks.image_logger.params.batch_frequency=2"]
    if "vq" not in configs and "image_tower" not in configs:
        images.append("lightning.callbacks.image_logger.params.log_images_kwargs.steps=2")
    folder = train("--base", *(FLAT / f"{name}.yaml" for name in configs), "--max_steps", 4, *SMALL, *images, *flags)
    printed = capsys.readouterr().out
    losses = printed.partition("final losses: ")[2].splitlines()[0].split(", ")
    assert losses and all(math.isfinite(float(loss.split()[-1])) for loss in losses)
    assert list(folder.glob("images/train/*_gs-000004*")) and list(folder.glob("images/val/*"))


def test_a_resumed_run_ends_exactly_where_the_uninterrupted_one_does(train, tiny_config, tmp_path):
    config = copy.deepcopy(tiny_config)
    config["model"]["params"]["cosine"] = False  # it depends on the number of steps
    config["lightning"]["trainer"] |= {"deterministic": True, "precision": "bf16-mixed"}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config))
    base = ["--base", tmp_path / "tiny.yaml"]
    straight = train(*base, "--max_steps", 6, "-n", "straight")
    parts = train(*base, "--max_steps", 3, "-n", "parts")
    train("--resume", parts, "--max_steps", 6)
    a, b = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (straight, parts))
    assert a["global_step"] == b["global_step"] == 6
    assert a["state_dict"].keys() == b["state_dict"].keys()
    assert all(torch.equal(value, b["state_dict"][name]) for name, value in a["state_dict"].items())
    states = [checkpoint["optimizer_states"][0]["state"] for checkpoint in (a, b)]
    assert all(torch.equal(moments["exp_avg_sq"], states[1][n]["exp_avg_sq"]) for n, moments in states[0].items())


def test_a_run_on_cached_latents_trains_and_logs_samples(train, tiny_config, tmp_path, load_script, device):
    """Its encoders stay on the CPU, and its batches are pinned by a loader's worker."""
    data = training_config(write_noise_vg(tmp_path / "vg"))["data"]
    data["params"]["num_workers"] = 1
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({**tiny_config, "data": data}))
    base = ["--config", tmp_path / "tiny.yaml", "--out", tmp_path / "cache", "--num-workers", 0, "--device", device]
    assert load_script("cache_latents").main([*map(str, base)]) == 0
    folder = train("--base", tmp_path / "tiny.yaml", "--max_steps", 4, f"data.params.cache={tmp_path / 'cache'}")
    assert list(folder.glob("images/train/samples_gs-000004*"))
