"""Temporal layers: the identity at initialisation, gradients for all of them, and clips that do not see each other."""

import pytest
import torch

from ldm.modules.conditioning import Conditioning
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.modules.temporal import Temporal, TemporalLayers, block_channels, clip_noise

FRAMES = 4


def small_unet(levels=(1, 2)):
    torch.manual_seed(0)
    return UNetModel(
        image_size=8, in_channels=4, model_channels=32, out_channels=4, num_res_blocks=1, attention_resolutions=[1],
        channel_mult=list(levels), num_head_channels=16, context_dim=16,
    ).requires_grad_(False)  # fmt: skip


def inputs(clips=2, frames=FRAMES):
    generator = torch.Generator().manual_seed(1)
    rows = clips * frames
    x, tokens = torch.randn(rows, 4, 8, 8, generator=generator), torch.randn(rows, 3, 16, generator=generator)
    return (
        x,
        torch.randint(0, 1000, (clips,), generator=generator).repeat_interleave(frames),
        Conditioning.from_tokens(tokens),
    )


def attached(unet, **options):
    layers = TemporalLayers(block_channels(unet), head_channels=16, **options)
    layers.attach(unet)
    layers.set_clip(FRAMES)
    return layers


def moved(layers):
    """Layers whose parameters are all random, so that none of them is the identity."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return layers


def test_layers_that_were_added_and_not_trained_change_no_bit():
    plain, extended = small_unet(), small_unet()
    attached(extended)
    assert torch.equal(extended(*inputs()), plain(*inputs()))


def test_the_keys_of_the_image_model_stay():
    plain, extended = small_unet(), small_unet()
    attached(extended)
    assert list(extended.state_dict()) == list(plain.state_dict())


def test_every_parameter_has_a_gradient_by_the_second_step():
    unet = small_unet()
    layers = attached(unet)
    optimizer = torch.optim.SGD(layers.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        unet(*inputs()).square().mean().backward()
        optimizer.step()
    without = [name for name, p in layers.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without and all(p.grad is None for p in unet.parameters())


def test_clips_of_a_batch_do_not_see_each_other_and_frames_of_a_clip_do():
    unet = small_unet()
    moved(attached(unet))
    x, t, cond = inputs()
    before = unet(x, t, cond)
    x[0] += 1  # the first frame of the first clip
    change = (unet(x, t, cond) - before).abs().amax((1, 2, 3))
    assert (change[:FRAMES] > 1e-4).all() and (change[FRAMES:] == 0).all()


def test_images_pass_by_the_layers_in_a_clip_of_one_frame():
    plain, extended = small_unet(), small_unet()
    layers = moved(attached(extended))
    layers.set_clip(1)
    assert torch.equal(extended(*inputs()), plain(*inputs()))


def test_still_clips_of_equal_frames_have_equal_outputs_but_for_positions_in_time():
    unet = small_unet()
    layers = moved(attached(unet))
    with torch.no_grad():
        for block in layers.blocks:
            block.attention.position.weight.zero_()
            block.res.conv.weight[:, :, [0, 2]] = 0  # the neighbours, of which the first and last frame have one only
            block.res.out.weight[:, :, [0, 2]] = 0
    x, t, cond = inputs(1)
    frames = unet(x[:1].expand(FRAMES, -1, -1, -1), t, Conditioning.from_tokens(cond.tokens[:1].expand(FRAMES, -1, -1)))
    assert torch.allclose(frames, frames[:1].expand_as(frames), atol=1e-5)


def test_recomputing_activations_changes_no_gradient():
    gradients = []
    for recompute in (False, True):
        unet = small_unet()
        layers = moved(attached(unet, recompute=recompute))
        unet(*inputs()).square().mean().backward()
        gradients.append([parameter.grad for parameter in layers.parameters()])
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(*gradients))


def test_the_mix_is_the_published_one():
    block = moved(TemporalLayers([32], head_channels=16)).blocks[0].double()
    z = torch.randn(FRAMES, 32, 2, 2, dtype=torch.float64)
    clip = z.movedim(0, 1)[None]
    alpha = torch.sigmoid(block.mix_factor)
    clip = alpha[0] * clip + (1 - alpha[0]) * block.res(clip)
    rows = clip[0].permute(2, 3, 1, 0).reshape(4, FRAMES, 32)
    rows = alpha[1] * rows + (1 - alpha[1]) * block.attention(rows)
    assert torch.allclose(block(z, FRAMES), rows.reshape(2, 2, FRAMES, 32).permute(2, 3, 0, 1), atol=1e-12)


def test_rows_that_are_no_whole_clips_are_refused():
    unet = small_unet()
    attached(unet).set_clip(3)
    with pytest.raises(ValueError, match="8 frames are not whole clips of 3"):
        unet(*inputs())


def test_layers_of_another_unet_are_refused():
    with pytest.raises(ValueError, match="do not fit"):
        TemporalLayers([32, 32], head_channels=16).attach(small_unet())


def test_layers_are_temporal():
    assert isinstance(TemporalLayers([32]), Temporal)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_noise_of_a_clip_is_standard_normal_and_frames_share_the_stated_part(share):
    generator = torch.Generator().manual_seed(0)
    noise = clip_noise(
        torch.randn(1, 2, 200_000, generator=generator), torch.randn(1, 1, 200_000, generator=generator), share
    )[0]
    assert noise.std(1) == pytest.approx(1.0, abs=0.01)
    assert (noise[0] * noise[1]).mean() == pytest.approx(share, abs=0.01)
