import json
import math
from typing import NamedTuple

import pytest
import torch
from checkpoints.video_models import MOTION_UNET, make, randomised
from checkpoints.video_models import PARAMS as SVD
from torch import nn
from torch.nn.functional import gelu

from ldm.checkpoints.diffusers_layout import to_ldm_unet
from ldm.checkpoints.errors import CheckpointError
from ldm.checkpoints.video_architecture import to_motion_keys
from ldm.modules.conditioning import Conditioning, TextTokens
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.modules.diffusionmodules.video_unet import VideoUNetModel
from ldm.modules.temporal import Temporal
from ldm.modules.temporal_animatediff import MotionModules, MotionTransformer, load_motion

FRAMES, CLIPS = 5, 2
VERSIONS = {"v1 and v3": MOTION_UNET, "v2": MOTION_UNET | {"use_motion_mid_block": True, "motion_max_seq_length": 32}}
PARAMS = {
    "image_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "channel_mult": [1, 2],
    "num_res_blocks": 2,
    "attention_resolutions": [1],
    "num_heads": 4,
    "context_dim": 24,
    "legacy": False,
}


@pytest.fixture(scope="module", params=VERSIONS)
def theirs(request):
    return make("UNetMotionModel", VERSIONS[request.param])


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(CLIPS, 4, FRAMES, 8, 8, generator=generator),
        torch.tensor([500]),
        torch.randn(CLIPS, 7, 24, generator=generator),
    )


def parts(state: dict) -> tuple[dict, dict]:
    motion = {key: value for key, value in state.items() if "motion_modules" in key}
    return motion, {key: value for key, value in state.items() if key not in motion}


class Animated(NamedTuple):
    """A U-Net and the modules that are attached to it."""

    unet: UNetModel
    motion: MotionModules


def animated(theirs, norm="clip", source=None) -> Animated:
    motion, spatial = parts(theirs.state_dict())
    unet = UNetModel(**PARAMS).eval()
    unet.load_state_dict(to_ldm_unet(spatial))
    modules = load_motion(source or motion, norm)
    modules.attach(unet)
    return Animated(unet, modules)


@torch.no_grad()
def run(model: Animated, inputs, clip=FRAMES):
    x, t, tokens = inputs
    rows = x.transpose(1, 2).flatten(0, 1)
    text = TextTokens.from_tokens(tokens.repeat_interleave(FRAMES, 0))
    model.motion.set_clip(clip)
    out = model.unet(rows, t.expand(len(rows)), Conditioning.from_text(text))
    return out.unflatten(0, (CLIPS, FRAMES)).transpose(1, 2)


@torch.no_grad()
def test_a_u_net_with_motion_modules_computes_what_diffusers_computes(theirs, inputs):
    x, t, tokens = inputs
    # diffusers 0.30 and later repeats the text of each clip for its frames itself
    expected = theirs(x, t, tokens.repeat_interleave(FRAMES, 0)).sample
    ours = run(animated(theirs), inputs)
    assert (ours - expected).abs().max() < 1e-4 * expected.abs().max()


@torch.no_grad()
def test_another_norm_order_or_clip_gives_another_result(theirs, inputs):
    unet = animated(theirs)
    expected = run(unet, inputs)
    x, t, tokens = inputs
    others = {
        "no motion": run(unet, inputs, clip=1),
        "norm of frames": run(animated(theirs, "frame"), inputs),
        "frames in reverse": run(unet, (x.flip(2), t, tokens)).flip(2),
    }
    for name, other in others.items():
        assert (other - expected).abs().max() > 1e-3 * expected.abs().max(), name


def to_own_keys(motion: dict) -> dict:
    """The keys of AnimateDiff's own files for those of diffusers, as AnimateDiff's mm_sd_v15_v2.ckpt has them."""
    renamed = {}
    for key, value in motion.items():
        head, number, rest = key.partition("motion_modules.")[0], *key.partition("motion_modules.")[2].split(".", 1)
        names = {"norm1": "norms.0", "norm2": "norms.1", "norm3": "ff_norm", "attn1": "attention_blocks.0"}
        names |= {"attn2": "attention_blocks.1"}
        words = rest.split(".")
        place = f"module.{head}motion_modules.{number}.temporal_transformer."
        if words[-2:] == ["pos_embed", "pe"]:
            for layer in (0, 1):
                renamed[f"{place}{'.'.join(words[:2])}.attention_blocks.{layer}.pos_encoder.pe"] = value
        else:
            block = words[0] == "transformer_blocks"
            renamed[
                place + ".".join(names.get(word, word) if block and i == 2 else word for i, word in enumerate(words))
            ] = value
    return renamed


def test_animatediffs_own_files_load_with_nothing_missing_and_nothing_unexpected(theirs, inputs, tmp_path):
    motion, _ = parts(theirs.state_dict())
    torch.save({"state_dict": to_own_keys(motion)}, path := tmp_path / "mm_sd.ckpt")
    loaded = load_motion(path)
    assert loaded.state_dict().keys() == {key.removeprefix("module.") for key in to_own_keys(motion)}
    assert loaded.architecture.middle == ("mid_block.motion_modules.0.norm.weight" in motion)
    assert loaded.architecture.frames == (32 if loaded.architecture.middle else 24)
    assert loaded.weights_from == str(path)
    torch.testing.assert_close(
        run(animated(theirs, source=path), inputs), run(animated(theirs), inputs), rtol=0, atol=0
    )


def test_a_folder_of_diffusers_motion_adapter_loads(theirs, inputs, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    motion, _ = parts(theirs.state_dict())
    middle = "mid_block.motion_modules.0.norm.weight" in motion
    settings = {"block_out_channels": (32, 64), "use_motion_mid_block": middle}
    adapter = diffusers.MotionAdapter(**settings, motion_max_seq_length=32 if middle else 24)
    adapter.load_state_dict(motion)
    adapter.save_pretrained(tmp_path)
    torch.testing.assert_close(
        run(animated(theirs, source=tmp_path), inputs), run(animated(theirs), inputs), rtol=0, atol=0
    )
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"motion_num_attention_heads": 4}))
    assert load_motion(tmp_path).architecture.heads == 4
    (tmp_path / "config.json").write_text(json.dumps(config | {"motion_num_attention_heads": [4, 8]}))
    with pytest.raises(CheckpointError, match="motion_num_attention_heads"):
        load_motion(tmp_path)


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape", "nothing"])
def test_an_incomplete_or_foreign_file_is_refused_in_a_sentence(change):
    state = MotionModules((32, 64), frames=24).state_dict()
    key = "up_blocks.0.motion_modules.1.temporal_transformer.proj_out.bias"
    if change == "missing":
        del state[key]
    elif change == "unexpected":
        state[key.replace("bias", "scale")] = torch.zeros(1)
    elif change == "shape":
        state[key] = torch.zeros(3)
    else:
        state = {"down_blocks.0.resnets.0.norm1.weight": torch.zeros(32)}
    with pytest.raises(CheckpointError, match="AnimateDiff") as error:
        load_motion(state)
    assert change == "nothing" or key.rpartition(".")[0] in str(error.value)


def test_new_modules_are_the_identity_and_every_one_of_their_parameters_has_a_gradient_by_step_2(inputs):
    torch.manual_seed(0)
    unet = UNetModel(**PARAMS).eval().requires_grad_(False)
    keys = list(unet.state_dict())
    x, t, tokens = inputs
    rows = x.transpose(1, 2).flatten(0, 1)
    cond = Conditioning.from_text(TextTokens.from_tokens(tokens.repeat_interleave(FRAMES, 0)))
    plain = unet(rows, t.expand(len(rows)), cond)
    motion = MotionModules((32, 64), middle=True)
    motion.attach(unet)
    motion.set_clip(FRAMES)
    optimizer = torch.optim.SGD(motion.parameters(), 0.1)
    for step in range(2):
        out = unet(rows, t.expand(len(rows)), cond)
        if step == 0:
            assert torch.equal(out, plain)
        optimizer.zero_grad()
        out.square().mean().backward()
        optimizer.step()
    assert not [name for name, parameter in motion.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert all(parameter.grad is None for parameter in unet.parameters())
    assert list(unet.state_dict()) == keys


def test_recompute_changes_no_gradient(inputs):
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        unet = UNetModel(**PARAMS).requires_grad_(False)
        motion = randomised(MotionModules((32, 64), recompute=recompute))
        motion.attach(unet)
        motion.set_clip(FRAMES)
        unet(inputs[0].transpose(1, 2).flatten(0, 1), inputs[1].expand(CLIPS * FRAMES)).square().mean().backward()
        gradients.append([parameter.grad for parameter in motion.parameters()])
    torch.testing.assert_close(*gradients)


class Reference(nn.Module):
    """AnimateDiff's temporal transformer for one clip and one location at a time, with statistics of each frame."""

    def __init__(self, module: MotionTransformer, heads: int):
        super().__init__()
        self.module, self.heads = module, heads

    def attention(self, layer, x):  # (T,C)
        frames, channels = x.shape
        for t in range(frames):
            for i in range(0, channels, 2):
                angle = t / 10000 ** (i / channels)
                x = x + torch.zeros_like(x).index_put((torch.tensor(t), torch.tensor(i)), torch.tensor(math.sin(angle)))
                x = x + torch.zeros_like(x).index_put(
                    (torch.tensor(t), torch.tensor(i + 1)), torch.tensor(math.cos(angle))
                )
        q, k, v = (w(x).view(frames, self.heads, -1) for w in (layer.to_q, layer.to_k, layer.to_v))
        weights = torch.einsum("ihd,jhd->hij", q, k).div(math.sqrt(q.shape[-1])).softmax(-1)
        return layer.to_out[0](torch.einsum("hij,jhd->ihd", weights, v).flatten(1))

    def forward(self, x):  # (T,C,h,w)
        m = self.module
        groups = x.unflatten(1, (32, -1))
        mean, var = groups.mean((2, 3, 4), keepdim=True), groups.var((2, 3, 4), unbiased=False, keepdim=True)
        normed = ((groups - mean) / (var + 1e-6).sqrt()).flatten(1, 2)
        normed = normed * m.norm.weight[:, None, None] + m.norm.bias[:, None, None]
        out = x.clone()
        for row in range(x.shape[2]):
            for column in range(x.shape[3]):
                y = m.proj_in(normed[:, :, row, column])
                for block in m.transformer_blocks:
                    for layer, norm in zip(block.attention_blocks, block.norms):
                        y = y + self.attention(layer, norm(y))
                    hidden, gate = block.ff.net[0].proj(block.ff_norm(y)).chunk(2, -1)
                    y = y + block.ff.net[2](hidden * gelu(gate))
                out[:, :, row, column] += m.proj_out(y)
        return out


@torch.no_grad()
def test_statistics_of_each_frame_give_animatediffs_own_result():
    transformer = randomised(MotionTransformer(64, 8, 2, 24))
    clips = torch.randn(2, 3, 64, 2, 2, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([Reference(transformer, 8)(clip) for clip in clips])
    torch.testing.assert_close(transformer(clips.flatten(0, 1), 3).view_as(clips), expected, atol=1e-4, rtol=1e-4)


def test_motion_modules_and_svds_u_net_have_the_methods_of_temporal_layers():
    assert isinstance(MotionModules((32, 64)), Temporal)
    unet = VideoUNetModel(**SVD)
    assert isinstance(unet, Temporal)
    unet.set_clip(25)
    assert unet.frames == 25
    with pytest.raises(ValueError, match="0 frames"):
        unet.set_clip(0)


def test_modules_of_another_u_net_and_clips_that_are_too_long_are_refused():
    with pytest.raises(ValueError, match="do not fit a U-Net"):
        MotionModules((32, 96)).attach(UNetModel(**PARAMS))
    MotionModules((32, 64)).attach(unet := UNetModel(**PARAMS))
    motion = MotionModules((32, 64))
    motion.attach(unet)
    motion.set_clip(3)
    with pytest.raises(ValueError, match="4 frames are not whole clips of 3"):
        unet(torch.zeros(4, 4, 8, 8), torch.zeros(4))
    with pytest.raises(ValueError, match="overlapping windows"):
        MotionModules((32, 64), frames=24).set_clip(25)
    with pytest.raises(ValueError, match="'frame' or|frame or clip"):
        MotionModules((32, 64), norm="batch")


def test_renaming_leaves_other_keys_as_they_are():
    state = {"conv_in.weight": torch.zeros(1), "unet.mid_block.motion_modules.0.proj_in.bias": torch.zeros(1)}
    assert set(to_motion_keys(state)) == {
        "conv_in.weight",
        "mid_block.motion_modules.0.temporal_transformer.proj_in.bias",
    }
