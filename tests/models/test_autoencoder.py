"""First stages compute the published values, accept any image size, and are trained from scratch with all codes in use."""

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from parity import assert_close_to_published
from safetensors.torch import save_file
from taming.modules.diffusionmodules.model import AttnBlock

from ldm.models.autoencoder import AutoencoderKL, VQModelInterface
from ldm.modules.fused_attention import FusedAttnBlock
from ldm.modules.losses.lossconfig import hardest_l1

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Lightning's on self.log without a trainer

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


def small_vq(n_embed: int = 16, **params) -> VQModelInterface:
    torch.manual_seed(0)
    return VQModelInterface(4, n_embed, {**SMALL, "double_z": False}, init="random", **params)


def small_kl(**params) -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(4, {**SMALL, "double_z": True}, init="random", **params)


def loaded(build, published):
    model = build(**published.params)
    model.load_state_dict(published.weights_for(model))  # strict, so the keys are exactly the published ones
    return model.eval()


@torch.no_grad()
def test_the_quantised_first_stage_computes_the_published_values(parity):
    published = parity("ldm_vq")
    model = loaded(VQModelInterface, published)
    assert_close_to_published(model.encode(published.inputs["image"]), published.outputs["latent"])
    latent = published.outputs["latent"]
    assert_close_to_published(model.decode(latent), published.outputs["decoded_quantized"])
    assert_close_to_published(model.decode(latent, quantize=False), published.outputs["decoded_unquantized"])


@torch.no_grad()
def test_the_gaussian_first_stage_computes_the_published_values(parity):
    published = parity("ldm_kl")
    model = loaded(AutoencoderKL, published)
    mean, logvar = model.posterior(published.inputs["image"])
    assert_close_to_published(mean, published.outputs["mean"])
    assert_close_to_published(logvar, published.outputs["logvar"])
    assert torch.equal(model.encode(published.inputs["image"]), mean)
    assert_close_to_published(model.decode(published.outputs["mean"]), published.outputs["decoded"])


@torch.no_grad()
def test_the_log_variance_is_clamped_as_published():
    model = small_kl().eval()
    for extreme, clamped in ((1e3, 20.0), (-1e3, -30.0)):
        model.quant_conv.bias[4:] = extreme
        assert (model.posterior(torch.zeros(1, 3, 16, 16))[1] == clamped).all()


@torch.no_grad()
def test_an_autoencoder_whose_activations_exceed_float16_computes_in_float32_under_autocast():
    z, image = torch.randn(1, 4, 8, 8), torch.rand(1, 3, 16, 16) * 2 - 1
    models = [small_kl().eval(), small_kl(force_upcast=True).eval()]
    for model in models:
        model.decoder.conv_in.weight.mul_(1e6)
        model.encoder.conv_in.weight.mul_(1e6)
    exact = models[0].decode(z), models[0].encode(image)
    assert all(value.isfinite().all() for value in exact)
    with torch.autocast("cpu", torch.float16):
        plain, safe = ((model.decode(z), model.encode(image)) for model in models)
    assert not any(value.isfinite().all() for value in plain)
    assert all(torch.equal(value, reference) for value, reference in zip(safe, exact, strict=True))


def test_weights_are_loaded_from_the_path_in_the_config(parity, tmp_path, caplog):
    caplog.set_level("INFO", "ldm")
    published = parity("ldm_vq")
    weights = published.weights_for(VQModelInterface(**published.params))
    path = tmp_path / "model.safetensors"
    save_file({**weights, "loss.logvar": torch.zeros(1)}, path)
    frozen = {"lossconfig": {"target": "torch.nn.Identity"}, "monitor": "val/rec_loss", "image_key": "image"}
    config = OmegaConf.create({**published.params, **frozen, "ckpt_path": str(path)})
    model = VQModelInterface(**config)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert model.weights_from == str(path) and str(path) in caplog.text


def test_weights_from_names_the_source_of_the_weights(parity, tmp_path):
    params = parity("ldm_kl").params
    assert AutoencoderKL(**params).weights_from is None
    assert "random" in AutoencoderKL(**params, init="random").weights_from
    assert "random" in AutoencoderKL(**params, init="random", ckpt_path=tmp_path / "absent.ckpt").weights_from
    with pytest.raises(ValueError, match="no such file"):
        AutoencoderKL(**params, ckpt_path=tmp_path / "absent.ckpt")
    with pytest.raises(ValueError, match="init"):
        AutoencoderKL(**params, init="zeros")


def test_unsupported_arguments_are_errors_that_name_them():
    with pytest.raises(ValueError, match="VQLPIPSWithDiscriminator"):
        small_vq(lossconfig={"target": "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator"})
    with pytest.raises(ValueError, match="double_z"):
        VQModelInterface(4, 16, {**SMALL, "double_z": True})
    with pytest.raises(ValueError, match="double_z"):
        AutoencoderKL(4, {**SMALL, "double_z": False})


@torch.no_grad()
@pytest.mark.parametrize("model", [small_vq(), small_kl()], ids=["vq", "kl"])
def test_images_of_any_divisible_size_are_encoded_and_decoded(model):
    assert model.downsampling == 2
    for height, width in ((4, 4), (16, 16), (6, 34)):
        z = model.encode(torch.zeros(1, 3, height, width))
        assert z.shape == (1, 4, height // 2, width // 2) and model.decode(z).shape == (1, 3, height, width)
    with pytest.raises(ValueError, match="15 x 16"):
        model.encode(torch.zeros(1, 3, 15, 16))


@torch.no_grad()
def test_fused_attention_equals_tamings_attention():
    block, x = AttnBlock(64), torch.randn(2, 64, 5, 7)
    expected = block(x)
    fused = FusedAttnBlock(block)
    torch.testing.assert_close(fused(x), expected)
    assert fused.state_dict().keys() == block.state_dict().keys()
    assert any(isinstance(module, FusedAttnBlock) for module in small_vq().modules())
    assert not any(type(module) is AttnBlock for module in small_vq().modules())


@torch.no_grad()
def test_decoding_uses_the_nearest_codes():
    model = small_vq().eval()
    model.quantize.embedding.weight.normal_()
    codes = model.quantize.embedding.weight
    chosen = torch.randint(16, (1, 3, 3))
    z = codes[chosen].movedim(-1, 1)  # (1,4,3,3)
    spread = (torch.cdist(codes, codes) + 1e9 * torch.eye(16)).min()
    nudged = z + 0.4 * spread * torch.nn.functional.normalize(torch.randn_like(z), dim=1)
    torch.testing.assert_close(model.decode(nudged), model.decode(z, quantize=False))
    assert not torch.allclose(model.decode(nudged, quantize=False), model.decode(nudged))


# Training


@torch.no_grad()
def test_unused_codes_restart_from_latents_and_used_ones_stay():
    model = small_vq()
    model.code_uses = torch.tensor([1.0, 0, 2, 0] * 4)
    before, z = model.quantize.embedding.weight.clone(), torch.randn(2, 4, 3, 3)
    model.restart_unused_codes(z)
    codes, latents = model.quantize.embedding.weight, z.movedim(1, -1).reshape(-1, 4)
    assert torch.equal(codes[::2], before[::2])
    assert all((latents == code).all(1).any() for code in codes[1::2])
    assert not model.code_uses.any()


def test_codes_far_from_all_latents_are_restarted_in_training_only():
    model = small_vq(64, restart_every=2).train()
    torch.nn.init.constant_(model.quantize.embedding.weight, 1e3)  # far from every latent
    images = torch.rand(8, 3, 16, 16) * 2 - 1
    for _ in range(4):
        model.training_step((images,), 0)
    codes = model.quantize(model.encode(images))[2][2]
    assert len(codes.unique()) > 32
    codebook = model.quantize.embedding.weight.clone()
    model.eval()
    model.code_uses.zero_()  # in training, all codes would be restarted
    model.validation_step((images,), 0)
    assert torch.equal(model.quantize.embedding.weight, codebook)


def test_training_from_a_checkpoint_starts_with_its_codes(tmp_path):
    pretrained = small_vq()
    save_file(pretrained.state_dict(), tmp_path / "vq.safetensors")
    model = VQModelInterface(4, 16, {**SMALL, "double_z": False}, ckpt_path=tmp_path / "vq.safetensors").train()
    model.training_step((torch.rand(1, 3, 16, 16),), 0)
    assert torch.equal(model.quantize.embedding.weight, pretrained.quantize.embedding.weight)


def test_before_codebook_start_the_codebook_is_trained_but_not_used_by_the_decoder():
    model, image = small_vq(codebook_start=2).train(), torch.rand(1, 3, 16, 16)
    for started in (False, False, True):
        model.zero_grad()
        reconstruction, latent_loss = model.reconstruct(image)
        latent_loss.backward()
        assert model.quantize.embedding.weight.grad.any()
        assert (model.quant_conv.weight.grad is not None) == started
        assert torch.equal(reconstruction, model.decode(model.encode(image), quantize=False)) != started


@torch.no_grad()
def test_patches_add_to_the_downsampling():
    model = small_vq(patch_size=4).eval()
    assert model.downsampling == 8 and model.encode(torch.zeros(1, 3, 16, 32)).shape == (1, 4, 2, 4)
    assert model.decode(torch.zeros(1, 4, 2, 4)).shape == (1, 3, 16, 32)


def test_code_uses_are_saved_in_a_checkpoint_without_a_state_dict_key(tmp_path):
    model, resumed = small_vq().train(), small_vq()
    model.training_step((torch.zeros(1, 3, 16, 16),), 0)
    checkpoint = {}
    model.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "last.ckpt")
    resumed.on_load_checkpoint(torch.load(tmp_path / "last.ckpt", weights_only=True))
    assert (
        torch.equal(resumed.code_uses, model.code_uses)
        and resumed.code_uses.sum() == 64
        and resumed.trained_batches == model.trained_batches == 1
    )
    assert not any("code_uses" in key for key in model.state_dict())


@torch.no_grad()
def test_the_latent_loss_is_the_kl_divergence_from_the_standard_normal(monkeypatch):
    model = small_kl(kl_weight=2.0).eval()
    mean, logvar = torch.full((1, 4, 8, 8), 0.5), torch.full((1, 4, 8, 8), -1.0)
    monkeypatch.setattr(model, "posterior", lambda image: (mean, logvar))
    normal, unit = torch.distributions.Normal(0.5, torch.tensor(-0.5).exp()), torch.distributions.Normal(0.0, 1.0)
    _, loss = model.reconstruct(torch.zeros(1, 3, 16, 16))
    torch.testing.assert_close(loss, 2 * torch.distributions.kl_divergence(normal, unit))


@torch.no_grad()
def test_training_samples_the_posterior_and_validation_uses_its_mean():
    model, image = small_kl(), torch.rand(1, 3, 16, 16)
    model.train()
    assert not torch.equal(model.reconstruct(image)[0], model.reconstruct(image)[0])
    model.eval()
    assert torch.equal(model.reconstruct(image)[0], model.decode(model.encode(image)))


def test_hardest_l1_averages_the_largest_differences_of_each_image():
    a, b = torch.zeros(2, 3, 2, 5), torch.zeros(2, 3, 2, 5)
    a[0, :, 0, :3], b[1, :, 1, 4] = torch.tensor([1.0, -4.0, 2.0]), 0.9
    assert hardest_l1(a, b, 0.2) == pytest.approx(((4 + 2) / 2 + (0.9 + 0) / 2) / 2)
    assert hardest_l1(a, b, 0.01) == pytest.approx((4 + 0.9) / 2)  # at least one pixel
    assert hardest_l1(a, b, 1.0) == pytest.approx(float((a - b).abs().mean()))


def test_the_loss_adds_hardest_l1_only_if_configured(monkeypatch):
    logged = []
    monkeypatch.setattr(VQModelInterface, "log_dict", lambda self, values, **_: logged.append(values))
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    for share in (0.0, 0.05):
        model = small_vq(hardest=share).eval()
        loss, difference = model.batch_loss((image,), "val"), model.decode(model.encode(image)) - image
        worst = [e.abs().mean(0).flatten().sort().values[-13:] for e in difference]  # 5 % of 256 pixels
        more = torch.stack(worst).mean() if share else 0
        rest = logged[-1]["val/rec_loss"] + logged[-1]["val/latent_loss"]
        assert float(loss - rest) == pytest.approx(float(more), abs=1e-6)
    with pytest.raises(ValueError, match="hardest: 5"):
        small_vq(hardest=5)


@pytest.mark.parametrize("build", [small_vq, small_kl])
def test_a_first_stage_is_trained_by_lightning(build, tmp_path):
    model = build()
    model.learning_rate = 1e-3
    torch.manual_seed(1)
    ramps = torch.linspace(-1, 1, 16).expand(3, 16, 16) * torch.rand(16, 3, 1, 1)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(ramps), 4)

    def rec_loss():
        model.eval()
        return torch.nn.functional.l1_loss(model.log_images((ramps,), 16)["reconstructions"], ramps)

    before = rec_loss()
    trainer = pl.Trainer(
        max_epochs=8,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=4,
        default_root_dir=tmp_path,
    )
    trainer.fit(model, data, data)
    assert rec_loss() < 0.6 * before
    assert {"train/loss", "val/loss", "val/rec_loss"} <= trainer.callback_metrics.keys()


def test_every_parameter_has_a_gradient():
    for model in (small_vq().train(), small_kl().train()):
        model.training_step((torch.rand(2, 3, 16, 16),), 0).backward()
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize("build", [small_vq, small_kl])
def test_logged_images_have_the_requested_number_and_range(build):
    images = build().log_images((torch.rand(5, 3, 16, 16) * 2 - 1,), 3)
    assert images.keys() == {"inputs", "reconstructions"}
    for image in images.values():
        assert image.shape == (3, 3, 16, 16) and image.abs().max() <= 1 and not image.requires_grad
