"""Attention across frames: which keys a frame sees, in clips of a batch and in branches of guidance."""

import torch
import torch.nn.functional as F

from ldm.modules.conditioning import Conditioning
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.modules.frame_attention import FrameAttention

T = 4


def qkv(rows=2 * T):
    return torch.randn(3, rows, 2, 5, 8, generator=torch.Generator().manual_seed(0)).unbind()


def test_each_frame_attends_to_the_first_the_previous_and_itself():
    q, k, v = qkv()
    found = FrameAttention(T).self_attention(q, q, k, v)
    for row in range(2 * T):
        start = row - row % T
        seen = [start, max(start, row - 1), row]
        keys, values = (torch.cat([part[i] for i in seen], dim=-2)[None] for part in (k, v))
        torch.testing.assert_close(found[row], F.scaled_dot_product_attention(q[row][None], keys, values)[0])


def test_the_first_frame_is_that_of_the_image_model():
    q, k, v = qkv()
    plain = F.scaled_dot_product_attention(q, k, v)
    found = FrameAttention(T).self_attention(plain, q, k, v)
    torch.testing.assert_close(found[::T], plain[::T])


def test_a_clip_of_equal_frames_is_the_image_and_clips_do_not_see_each_other():
    torch.manual_seed(0)
    unet = UNetModel(
        image_size=8, in_channels=4, model_channels=32, out_channels=4, num_res_blocks=1, attention_resolutions=[1],
        channel_mult=[1], num_head_channels=16, context_dim=16,
    )  # fmt: skip
    x = torch.randn(2, 4, 8, 8).repeat_interleave(T, dim=0)
    cond = Conditioning.from_tokens(torch.randn(2, 3, 16).repeat_interleave(T, dim=0))
    t = torch.full((2 * T,), 100)
    plain, across = unet(x, t, cond), unet(x, t, cond, FrameAttention(T))
    torch.testing.assert_close(across, plain, atol=1e-4, rtol=1e-4)
    x[0] += 1
    changed = unet(x, t, cond, FrameAttention(T))
    assert (changed[:T] - across[:T]).abs().amax((1, 2, 3)).min() > 1e-4  # every frame of this clip sees the first
    assert torch.allclose(changed[T:], across[T:], atol=1e-5)


def test_branches_of_guidance_keep_the_control():
    control = FrameAttention(T)
    assert control.repeat([True, False], 2 * T) == control and control.at(3, (8, 8)) == control
