"""Weights in diffusers' layout give diffusers' outputs: of the installed library, and of stored files where they exist."""

import pytest
import torch
from diffusers_models import KL, UNET, build_kl, build_unet
from parity import Parity, assert_close_to_published

from ldm.checkpoints.loading import load_part
from ldm.checkpoints.reading import CheckpointError
from ldm.modules.conditioning import Conditioning

OLD_ATTENTION_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


@pytest.fixture(scope="module")
def installed():
    """U-Net and autoencoder of the installed diffusers, with random weights."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    return {
        "unet": diffusers.UNet2DConditionModel(**UNET).eval(),
        "kl": diffusers.AutoencoderKL(**KL).eval(),
    }


@torch.no_grad()
def run_installed(name: str, network: torch.nn.Module) -> Parity:
    torch.manual_seed(1)
    if name == "unet":
        inputs = {"x": torch.randn(2, 4, 8, 8), "t": torch.tensor([3, 700]), "context": torch.randn(2, 5, 24)}
        outputs = {"eps": network(inputs["x"], inputs["t"], inputs["context"]).sample}
        return Parity(UNET, inputs, outputs, network.state_dict(), None)
    inputs = {"image": torch.randn(2, 3, 16, 16)}
    posterior = network.encode(inputs["image"]).latent_dist
    outputs = {"mean": posterior.mean, "logvar": posterior.logvar, "decoded": network.decode(posterior.mean).sample}
    return Parity(KL, inputs, outputs, network.state_dict(), None)


@pytest.fixture(params=["installed", "stored"])
def computed(request):
    """computed("unet" or "kl") -> Parity of diffusers' network."""
    if request.param == "stored":
        return request.getfixturevalue("diffusers_parity")
    networks = request.getfixturevalue("installed")
    return lambda name: run_installed(name, networks[name])


@torch.no_grad()
def test_the_unet_computes_what_diffusers_computes(computed):
    theirs = computed("unet")
    unet = build_unet(theirs.params)
    report = load_part(unet, theirs.stored_weights, "unet")
    assert report.layout == "diffusers" and not report.not_loaded and not report.unused
    eps = unet(theirs.inputs["x"], theirs.inputs["t"], Conditioning.from_tokens(theirs.inputs["context"]))
    assert_close_to_published(eps, theirs.outputs["eps"])


@torch.no_grad()
@pytest.mark.parametrize("renamed", [{}, OLD_ATTENTION_NAMES], ids=["current names", "names before 0.17"])
def test_the_autoencoder_computes_what_diffusers_computes(computed, renamed):
    theirs = computed("kl")
    weights = theirs.stored_weights
    for new, old in renamed.items():
        weights = {key.replace(f".{new}.", f".{old}."): value for key, value in weights.items()}
    model = build_kl(theirs.params)
    assert load_part(model, weights, "first_stage").layout == "diffusers"
    mean, logvar = model.posterior(theirs.inputs["image"])
    assert_close_to_published(mean, theirs.outputs["mean"])
    assert_close_to_published(logvar, theirs.outputs["logvar"])
    assert_close_to_published(model.decode(mean), theirs.outputs["decoded"])


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_each_part_is_loaded_from_its_subfolder_of_a_diffusers_folder(tmp_path, installed, suffix):
    for folder, name in (("unet", "unet"), ("vae", "kl")):
        installed[name].save_pretrained(tmp_path / folder, safe_serialization=suffix == "safetensors")
    unet, vae = build_unet(UNET), build_kl(KL)
    for place in (tmp_path, tmp_path / "unet", tmp_path / "unet" / f"diffusion_pytorch_model.{suffix}"):
        assert len(load_part(unet, place, "unet").loaded) == len(unet.state_dict())
    assert len(load_part(vae, tmp_path, "first_stage").loaded) == len(vae.state_dict())
    with pytest.raises(CheckpointError, match="first_stage"):
        load_part(vae, tmp_path / "unet", "first_stage")


def test_the_averaged_unet_that_a_training_of_diffusers_leaves_is_preferred(tmp_path, installed):
    installed["unet"].save_pretrained(tmp_path / "unet_ema")
    (tmp_path / "unet").mkdir()
    torch.save({"conv_in.weight": torch.zeros(1)}, tmp_path / "unet" / "diffusion_pytorch_model.bin")
    unet = build_unet(UNET)
    assert len(load_part(unet, tmp_path, "unet").loaded) == len(unet.state_dict())
