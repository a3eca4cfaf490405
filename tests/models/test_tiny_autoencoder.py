"""Tiny autoencoders give diffusers' numbers in each form of file, and reconstruct photographs as well as published."""

import numpy as np
import pytest
import torch
from paths import SHARED
from PIL import Image
from safetensors.torch import save_file

from ldm.checkpoints.errors import CheckpointError
from ldm.models.tiny_autoencoder import TinyAutoencoder
from ldm.util.image_similarity import psnr

TAEF2 = SHARED / "weights" / "taef2_encoder.pth"


@pytest.fixture(scope="module", params=[4, 16])
def published(request):
    """diffusers' tiny autoencoder with random weights."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    model = diffusers.AutoencoderTiny(latent_channels=request.param).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.mul_(1.5)
    return model, request.param


def taesd_keys(model, half: str) -> dict:
    """The keys of the published files of one half, which number all layers, the decoder's clamp included."""
    state = {}
    for key, value in getattr(model, half).layers.state_dict().items():
        number, _, rest = key.partition(".")
        state[f"{int(number) + (half == 'decoder')}.{rest}"] = value
    return state


def assert_same(ours: TinyAutoencoder, theirs) -> None:
    torch.manual_seed(1)
    image = torch.rand(2, 3, 24, 16) * 2 - 1
    latent = 4 * torch.randn(2, ours.latent_channels, 3, 2)
    torch.testing.assert_close(ours.encode(image), theirs.encode(image).latents, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.decode(latent), theirs.decode(latent).sample, rtol=0, atol=1e-5)


def test_it_gives_diffusers_latents_and_images_from_a_folder_and_a_file(published, tmp_path):
    model, channels = published
    model.save_pretrained(tmp_path / "vae")
    for place in (tmp_path, tmp_path / "vae", tmp_path / "vae" / "diffusion_pytorch_model.safetensors"):
        assert_same(TinyAutoencoder(channels, ckpt_path=str(place)), model)


def test_the_published_pair_of_files_loads_by_either_name(published, tmp_path):
    model, channels = published
    for half in ("encoder", "decoder"):
        torch.save(taesd_keys(model, half), tmp_path / f"taesd_{half}.pth")
    for half in ("encoder", "decoder"):
        loaded = TinyAutoencoder(channels, ckpt_path=str(tmp_path / f"taesd_{half}.pth"))
        assert_same(loaded, model)
        assert loaded.weights_from == str(tmp_path / f"taesd_{half}.pth")


def test_one_file_of_both_halves_loads(published, tmp_path):
    model, channels = published
    state = {f"taesd_{half}.{key}": v for half in ("encoder", "decoder") for key, v in taesd_keys(model, half).items()}
    save_file(state, tmp_path / "taesd.safetensors")
    assert_same(TinyAutoencoder(channels, ckpt_path=str(tmp_path / "taesd.safetensors")), model)


def test_a_missing_half_and_foreign_files_are_refused_by_name(published, tmp_path):
    model, channels = published
    torch.save(taesd_keys(model, "encoder"), tmp_path / "taesd_encoder.pth")
    torch.save(taesd_keys(model, "encoder"), tmp_path / "mine.pth")
    torch.save({"strange.weight": torch.zeros(1)}, tmp_path / "other_encoder.pth")
    torch.save({"strange.weight": torch.zeros(1)}, tmp_path / "other_decoder.pth")
    for name, words in (
        ("taesd_encoder.pth", "taesd_decoder.pth: the decoder of this tiny autoencoder is missing"),
        ("mine.pth", "holds one half of a tiny autoencoder and does not say which"),
        ("other_encoder.pth", "not a tiny autoencoder of the TAESD family"),
    ):
        with pytest.raises(CheckpointError, match=words):
            TinyAutoencoder(channels, ckpt_path=str(tmp_path / name))


def test_another_number_of_channels_is_refused(published, tmp_path):
    model, channels = published
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=f"a tiny autoencoder of {channels} channels, where the config has"):
        TinyAutoencoder(4 if channels == 16 else 16, ckpt_path=str(tmp_path))


def test_an_image_that_does_not_divide_by_8_is_refused():
    with pytest.raises(ValueError, match="a 20 x 16 image does not divide by 8"):
        TinyAutoencoder(init="random").encode(torch.zeros(1, 3, 20, 16))


def test_the_gates_of_32_channels_are_what_the_published_file_has_and_no_others():
    state = TinyAutoencoder(32, init="random").state_dict()
    gated = sorted({key.split(".pool")[0] for key in state if ".pool." in key})
    assert gated == ["decoder.3", "decoder.4", "decoder.5", "encoder.11", "encoder.12", "encoder.13"]
    assert len(state) == 2 * 79 and sum(v.numel() for v in state.values()) == pytest.approx(2 * 1.34e6, rel=5e-3)
    assert not any(".pool." in key for key in TinyAutoencoder(16, init="random").state_dict())


@pytest.fixture(scope="module")
def taef2():
    if not TAEF2.is_file():
        pytest.skip(f"the published pair is not beside the checkout ({TAEF2})")
    return TinyAutoencoder(32, ckpt_path=str(TAEF2)).eval().requires_grad_(False)


def read_square(path, size: int = 128) -> torch.Tensor:  # -> (1,3,size,size) in [-1,1]
    image = Image.open(path).convert("RGB")
    image = image.resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1


def similarity(image: torch.Tensor, other: torch.Tensor) -> float:
    """PSNR in dB of two images (1,3,H,W) in [-1,1]."""
    return float(psnr(image, other, value_range=(-1, 1)))


@pytest.mark.parametrize(
    ("folder", "count", "stated"),
    [("photos/images", 8, 34.6), ("realdata/coco_stuff_DERIVED/train2017", 8, 27.5)],
)
def test_photographs_are_reconstructed_as_well_as_published(taef2, folder, count, stated):
    paths = sorted((SHARED / folder).glob("*.jpg"))[:count]
    if len(paths) < count:
        pytest.skip(f"no {count} photographs in {SHARED / folder}")
    values = []
    for path in paths:
        image = read_square(path)
        latent = taef2.encode(image)
        values.append(similarity(image, taef2.decode(latent)))
    assert abs(sum(values) / count - stated) < 2.5, values
    without = taef2.decode(latent * (torch.arange(32) < 16)[:, None, None])
    assert similarity(image, without) < values[-1] - 5  # all channels are needed


def test_without_its_gates_the_reconstruction_is_lost(taef2):
    plain = TinyAutoencoder(32, gated=False, init="random").requires_grad_(False)
    plain.load_state_dict({key: value for key, value in taef2.state_dict().items() if ".pool." not in key})
    photographs = sorted((SHARED / "photos" / "images").glob("*.jpg"))
    if not photographs:
        pytest.skip(f"no photographs in {SHARED / 'photos'}")
    image = read_square(photographs[0])
    good, bad = (similarity(image, model.decode(model.encode(image))) for model in (taef2, plain))
    assert good > bad + 8
