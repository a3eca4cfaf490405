"""First stages are trained with and without a discriminator: the same numbers, exact resuming, only what ships exported."""

import copy

import pytest
import pytorch_lightning as pl
import torch
import yaml
from safetensors.torch import load_file
from toy_run import read_checkpoint, start

from ldm.models.autoencoder import AutoencoderKL, VQModelInterface
from ldm.models.export import export_part
from ldm.util.config import instantiate_from_config
from ldm.util.errors import ConfigError

SMALL = {
    "z_channels": 4,
    "resolution": 16,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 1],
    "num_res_blocks": 1,
    "attn_resolutions": [],
    "dropout": 0.0,
}
TOWER = {
    "target": "ldm.modules.global_film.CLIPGlobalEncoder",
    "params": {
        "init": "random",
        "model_name": {"embed_dim": 8, "image_size": 16, "layers": 1, "width": 16, "patch_size": 8, "head_width": 8},
    },
}
LOSS = {
    "target": "ldm.modules.losses.perceptual_adversarial.PerceptualAdversarialLoss",
    "params": {"tower": TOWER, "discriminator_start": 7, "adversarial_start": 8, "channels": 8, "layers": 1},
}
SHARED = {"embed_dim": 4, "lossconfig": LOSS, "warmup_steps": 2, "hardest": 0.1}
MODELS = {
    "kl": {
        "target": "ldm.models.autoencoder.AutoencoderKL",
        "params": {**SHARED, "ddconfig": {**SMALL, "double_z": True}},
    },
    "vq": {
        "target": "ldm.models.autoencoder.VQModelInterface",
        "params": {**SHARED, "n_embed": 16, "restart_every": 3, "ddconfig": {**SMALL, "double_z": False}},
    },
}
DATA = {
    "target": "ldm.data.datamodule.DataModuleFromConfig",
    "params": {
        "batch_size": 2,
        "num_workers": 0,
        "train": {"target": "ldm.data.demo.DemoTrain", "params": {"size": 8, "image_size": 16}},
        "validation": {"target": "ldm.data.demo.DemoValidation", "params": {"size": 2, "image_size": 16}},
    },
}
LIGHTNING = {
    "trainer": {
        "max_steps": 10,
        "gradient_clip_val": 0.5,
        "progress_bar_refresh_rate": 0,
        "num_sanity_val_steps": 0,
        "check_val_every_n_epoch": 3,
    },
    "callbacks": {"image_logger": None},
    "modelcheckpoint": {"params": {"every_n_train_steps": 1, "save_top_k": -1, "filename": "{step}"}},
}


@pytest.fixture
def config(tmp_path):
    """config(model) -> the path of a YAML file that trains this model."""

    def write(model):
        path = tmp_path / "first_stage.yaml"
        model = {"base_learning_rate": 0.001, **model}
        path.write_text(yaml.safe_dump({"model": model, "data": DATA, "lightning": LIGHTNING}))
        return path

    return write


@pytest.fixture(params=MODELS)
def run(request, config, train):
    """The log folder of a run with a discriminator, and its kind."""
    code, folder, printed = train("--base", config(MODELS[request.param]), "-t", base=False)
    assert code == 0, printed.err
    return request.param, folder


def test_a_resumed_run_ends_where_the_uninterrupted_one_does(run, train):
    """Resumed before the discriminator starts, and while it is trained."""
    _, folder = run
    straight = read_checkpoint(folder)
    for step in (5, 9):
        code, _, printed = train("-t", "--resume", folder / "checkpoints" / f"step={step}.ckpt", base=False)
        assert code == 0, printed.err
        resumed = read_checkpoint(folder)
        assert resumed["global_step"] == straight["global_step"] == 10
        assert all(torch.equal(resumed["state_dict"][key], value) for key, value in straight["state_dict"].items())
        ours, theirs = (checkpoint["optimizer_states"][0] for checkpoint in (resumed, straight))
        for number, state in theirs["state"].items():
            assert all(torch.equal(ours["state"][number][key], value) for key, value in state.items())
        assert [group["lr"] for group in ours["param_groups"]] == [group["lr"] for group in theirs["param_groups"]]


@pytest.mark.parametrize("run", ["vq"], indirect=True)
def test_the_discriminator_is_saved_and_trained_from_its_start_on_and_not_exported(run, tmp_path):
    kind, folder = run
    states = {step: read_checkpoint(folder, f"step={step}.ckpt")["state_dict"] for step in (1, 7, 8, 10)}
    judges = {key for key in states[1] if key.startswith("loss.discriminator.")}
    assert judges and not any("tower" in key for key in states[1])
    assert all(torch.equal(states[1][key], states[7][key]) for key in judges)
    assert not torch.equal(states[7][first := min(judges)], states[8][first])

    path = tmp_path / "first_stage.safetensors"
    export_part("first_stage", folder / "checkpoints" / "last.ckpt", path)
    without_loss = {**MODELS[kind]["params"], "lossconfig": None}
    frozen = instantiate_from_config({**MODELS[kind], "params": {**without_loss, "ckpt_path": str(path)}})
    assert frozen.state_dict().keys() == load_file(path).keys() == states[10].keys() - judges
    weight = frozen.decoder.conv_out.weight
    torch.testing.assert_close(weight, states[10]["decoder.conv_out.weight"].half().float())

    continued = instantiate_from_config({**MODELS[kind], "params": {**MODELS[kind]["params"], "ckpt_path": str(path)}})
    assert torch.equal(continued.decoder.conv_out.weight, weight)  # with a new discriminator


@pytest.mark.parametrize("run", ["kl"], indirect=True)
def test_a_frozen_encoder_stays_and_is_saved_and_exported_with_the_decoder(run, config, train, tmp_path):
    path, after = tmp_path / "before.safetensors", tmp_path / "after.safetensors"
    export_part("first_stage", run[1] / "checkpoints" / "last.ckpt", path)
    model = {**MODELS["kl"], "params": {**MODELS["kl"]["params"], "ckpt_path": str(path), "freeze_encoder": True}}
    code, folder, printed = train("--base", config(model), "-t", base=False)
    assert code == 0, printed.err
    export_part("first_stage", folder / "checkpoints" / "last.ckpt", after)
    before, trained = load_file(path), load_file(after)
    same = {name for name, value in before.items() if torch.equal(value, trained[name])}
    assert same == {name for name in before if name.startswith(("encoder.", "quant_conv."))}


@pytest.mark.slow
def test_two_processes_train_with_a_discriminator_as_one_does(config, tmp_path, train):
    """Two processes with two images each, or one with all four: the mean of the gradients is the same."""
    loss = {**LOSS, "params": {**LOSS["params"], "adaptive": False, "discriminator_start": 1, "adversarial_start": 1}}
    params = {**MODELS["vq"]["params"], "lossconfig": loss, "hardest": 0.0, "codebook_start": 100}
    path, folder = config({**MODELS["vq"], "params": params}), tmp_path / "logs2"
    _, one, _ = train("--base", path, "-t", "data.params.batch_size=4", "--max_steps", 2, base=False)
    process = start("--base", path, "-t", "--gpus", "cpu:2", "--logdir", folder, "--max_steps", 2)
    assert process.wait(timeout=300) == 0, process.communicate()
    (two,) = folder.iterdir()
    a, b = (read_checkpoint(folder, "step=2.ckpt")["state_dict"] for folder in (one, two))
    for layer in ("encoder.conv_in", "decoder.conv_out", "loss.discriminator.main.0", "loss.discriminator.main.2"):
        torch.testing.assert_close(a[f"{layer}.weight"], b[f"{layer}.weight"], rtol=1e-3, atol=2e-5)


def seeded(function):
    """The function with the same random numbers in each call."""

    def call(*arguments):
        torch.manual_seed(1)
        return function(*arguments)

    return call


def plain_training(model, images, steps, rate):
    """Trains on L1, L2 and the loss of the latent by Adam with a cosine decay, as the first stages that ship were."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        reconstruction, latent_loss = model.reconstruct(images)
        error = reconstruction - images
        loss = error.abs().mean() + error.square().mean() + latent_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("lossconfig", [None, {"target": "torch.nn.Identity"}])
@pytest.mark.parametrize("build", [AutoencoderKL, VQModelInterface])
def test_without_a_loss_of_the_config_training_is_that_of_l1_and_l2(build, lossconfig, tmp_path):
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    params = {"embed_dim": 4, "ddconfig": {**SMALL, "double_z": build is AutoencoderKL}, "init": "random"}
    params |= {} if build is AutoencoderKL else {"n_embed": 16}
    torch.manual_seed(0)
    ours, theirs = (copy.deepcopy(build(**params, lossconfig=lossconfig)) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    trainer = pl.Trainer(
        max_steps=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    ours.learning_rate = 1e-3
    theirs.train()
    for model in (ours, theirs):
        model.reconstruct = seeded(model.reconstruct)
    trainer.fit(ours, torch.utils.data.DataLoader([images] * 3, batch_size=None, collate_fn=lambda image: (image,)))
    plain_training(theirs, images, 3, 1e-3)
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key


def test_gradients_of_discriminator_and_first_stage_are_clipped_apart():
    model = instantiate_from_config(MODELS["kl"])
    optimizer = torch.optim.Adam(model._parameter_groups())
    scales = (3.0, 0.001)
    for group, scale in zip(optimizer.param_groups, scales):
        for parameter in group["params"]:
            parameter.grad = torch.full_like(parameter, scale)
    model.configure_gradient_clipping(optimizer, 1.0, "norm")
    norms = [torch.stack([p.grad.norm() for p in group["params"]]).norm() for group in optimizer.param_groups]
    size = sum(p.numel() for p in optimizer.param_groups[1]["params"])
    assert norms[0].item() == pytest.approx(1.0, rel=1e-3) and norms[1].item() == pytest.approx(0.001 * size**0.5)


@pytest.mark.parametrize(
    "target",
    [
        "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator",
        "ldm.modules.losses.LPIPSWithDiscriminator",
        "ldm.modules.losses.contperceptual.LPIPSWithDiscriminator",
    ],
)
def test_the_losses_of_published_configs_are_refused_in_a_sentence_that_names_ours(target):
    params = {**MODELS["kl"]["params"], "lossconfig": {"target": target, "params": {"disc_start": 50001}}}
    with pytest.raises(ConfigError, match=f"{target} is not available.*PerceptualAdversarialLoss"):
        instantiate_from_config({**MODELS["kl"], "params": params})
