import pytest
import torch
from checkpoints.video_models import DDCONFIG, KL, make

from ldm.checkpoints.diffusers_layout import to_ldm_vae
from ldm.checkpoints.errors import CheckpointError
from ldm.checkpoints.video_architecture import temporal_first_stage_params
from ldm.models.autoencoder import AutoencoderKL
from ldm.models.temporal_autoencoder import AutoencoderKLTemporalDecoder, decode_clip


@pytest.fixture(scope="module")
def theirs():
    return make("AutoencoderKLTemporalDecoder", KL)


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory):
    path = tmp_path_factory.mktemp("svd") / "vae"
    theirs.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def ours(folder):
    return AutoencoderKLTemporalDecoder(4, DDCONFIG, ckpt_path=folder).eval()


@pytest.fixture(scope="module")
def z():
    return torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_it_encodes_and_decodes_clips_as_diffusers_does(theirs, ours, z):
    expected = theirs.decode(z.flatten(0, 1), num_frames=3).sample.unflatten(0, (2, 3))
    assert (ours.decode_clip(z) - expected).abs().max() < 1e-4 * expected.abs().max()
    image = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(ours.encode(image), theirs.encode(image).latent_dist.mode(), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_decoding_the_frames_one_by_one_is_something_else(theirs, ours, z):
    whole, alone = ours.decode_clip(z), decode_clip(ours, z, chunk=1)
    assert (whole - alone).abs().max() > 1e-3 * whole.abs().max()
    one_frame = theirs.decode(z[:, 0], num_frames=1).sample
    torch.testing.assert_close(alone[:, 0], one_frame, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.decode(z[:, 0]), one_frame, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_chunk_is_decoded_as_a_clip_of_its_own(ours, z):
    chunks = decode_clip(ours, z, chunk=2)
    torch.testing.assert_close(chunks[:, :2], ours.decode_clip(z[:, :2]))
    torch.testing.assert_close(chunks[:, 2:], ours.decode_clip(z[:, 2:]))


@torch.no_grad()
def test_chunks_change_nothing_of_a_first_stage_of_images(z):
    torch.manual_seed(0)
    first_stage = AutoencoderKL(4, DDCONFIG).eval()
    for chunk in (1, 4, 100):
        clips = decode_clip(first_stage, z, chunk)
        torch.testing.assert_close(clips[1, 2], first_stage.decode(z[1, 2:3])[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chunk, sizes", [(1, [1] * 6), (4, [4, 2]), (100, [6])])
def test_no_more_frames_than_a_chunk_are_decoded_at_a_time(z, chunk, sizes):
    seen = []

    class FirstStage:
        def decode(self, rows):
            seen.append(len(rows))
            return rows[:, :3]

    assert torch.equal(decode_clip(FirstStage(), z, chunk), z[:, :, :3])
    assert seen == sizes


def sgm_state(theirs) -> dict:
    """SVD's own layout, which has no convolution behind the encoder."""
    state = to_ldm_vae(theirs.state_dict())
    return {f"first_stage_model.{key}": value for key, value in state.items() if not key.startswith("quant_conv")}


def test_svds_own_file_loads_without_the_convolution_behind_the_encoder(theirs, ours, z, tmp_path):
    state = sgm_state(theirs)
    names = {"mid.block_1.mix_factor", "up.1.block.2.time_stack.in_layers.2.weight", "conv_out.time_mix_conv.bias"}
    assert {f"first_stage_model.decoder.{name}" for name in names} <= state.keys()  # as in svd.safetensors
    torch.save(state, path := tmp_path / "svd.ckpt")
    own = {key.removeprefix("first_stage_model."): value for key, value in state.items()}
    params = temporal_first_stage_params(own)
    assert params["quant_conv"] is False
    assert params["ddconfig"] == DDCONFIG | {"resolution": 256}
    first_stage = AutoencoderKLTemporalDecoder(**params, ckpt_path=path).eval()
    with torch.no_grad():
        torch.testing.assert_close(first_stage.decode_clip(z), ours.decode_clip(z), rtol=0, atol=0)
    with pytest.raises(CheckpointError, match="quant_conv"):
        AutoencoderKLTemporalDecoder(4, DDCONFIG, ckpt_path=path)


def test_a_first_stage_of_images_is_refused(tmp_path):
    torch.save(AutoencoderKL(4, DDCONFIG).state_dict(), path := tmp_path / "kl.pt")
    with pytest.raises(CheckpointError, match="kl.pt"):
        AutoencoderKLTemporalDecoder(4, DDCONFIG, ckpt_path=path)
    with pytest.raises(CheckpointError, match="no temporal layers"):
        temporal_first_stage_params(AutoencoderKL(4, DDCONFIG).state_dict())


def test_recompute_changes_no_gradient(ours, z):
    gradients = []
    for recompute in (False, True):
        ours.decoder.recompute = recompute
        ours.zero_grad()
        ours.decode_clip(z[:1]).square().mean().backward()
        gradients.append(ours.decoder.mid.block_1.mix_factor.grad.clone())
    ours.decoder.recompute = False
    assert gradients[0].abs() > 0
    torch.testing.assert_close(*gradients)
