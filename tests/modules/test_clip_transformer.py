"""CLIP's transformers are open_clip's: the same keys, initial weights, numbers and checksums, without its import."""

import open_clip
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as images

from ldm.models.encoders import checksum
from ldm.modules import clip_transformer
from ldm.modules.clip_transformer import Transformer, VisionShape, VisionTransformer
from ldm.modules.image_encoder import OPENAI, crop_centre, description, image_tower, resize_shorter_side

SHAPE = {"embed_dim": 16, "image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16}


@pytest.mark.parametrize("quick_gelu", [False, True])
@pytest.mark.parametrize("changes", [{}, {"mlp_ratio": 2.0}, {"head_width": 32, "layers": 1}])
def test_an_image_tower_has_the_weights_the_outputs_and_the_checksum_of_open_clips(changes, quick_gelu):
    described = {**SHAPE, **changes, "quick_gelu": quick_gelu}
    torch.manual_seed(1)
    theirs = image_tower(described).eval()
    torch.manual_seed(1)
    ours = VisionTransformer(VisionShape.of(described)).eval()
    expected, state = theirs.state_dict(), ours.state_dict()
    assert list(state) == list(expected) and all(torch.equal(state[key], expected[key]) for key in state)
    assert (ours.image_size, ours.output_dim) == (theirs.image_size, theirs.output_dim)
    assert type(theirs).__module__ == "open_clip.transformer" and checksum(ours) == checksum(theirs)
    image = torch.randn(3, 3, 32, 32)
    assert torch.equal(ours(image), theirs(image))
    with torch.no_grad(), torch.autocast("cpu"):
        assert torch.equal(ours(image), theirs(image))
    assert torch.equal(ours.bfloat16()(image.bfloat16()), theirs.bfloat16()(image.bfloat16()))


def test_a_text_transformer_has_the_weights_and_the_outputs_of_open_clips():
    torch.manual_seed(1)
    theirs = open_clip.transformer.Transformer(32, 2, 4, 4.0, act_layer=nn.GELU)
    torch.manual_seed(1)
    ours = Transformer(32, 2, 4, 4.0, nn.GELU)
    expected, state = theirs.state_dict(), ours.state_dict()
    assert list(state) == list(expected) and all(torch.equal(state[key], expected[key]) for key in state)
    x, causal = torch.randn(2, 5, 32), torch.full((5, 5), float("-inf")).triu(1)
    masked = x
    for block in ours.resblocks:
        masked = block(masked, attn_mask=causal)
    assert torch.equal(masked, theirs(x, attn_mask=causal)) and torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("name", OPENAI)
def test_openais_models_have_the_sizes_that_open_clip_states(name):
    stated = open_clip.get_model_config(f"{name.replace('/', '-')}-quickgelu")
    assert description(name) == {"embed_dim": stated["embed_dim"], **stated["vision_cfg"], "quick_gelu": True}
    shape = VisionShape.of(description(name))
    defaults = open_clip.CLIPVisionCfg()
    assert (shape.head_width, shape.mlp_ratio) == (defaults.head_width, defaults.mlp_ratio)


@pytest.mark.parametrize("change", [{"layers": [1, 1, 1, 1]}, {"pool_type": "avg"}, {"image_size": [32, 64]}])
def test_another_tower_than_a_plain_vit_is_left_to_open_clip(change):
    assert VisionShape.of({**SHAPE, **change}) is None and VisionShape.of(SHAPE) is not None


@pytest.mark.parametrize("size", [(32, 32), (32, 57), (101, 64), (64, 101), (20, 31), (33, 32), (65, 64), (256, 256)])
def test_resizing_and_cropping_are_torchvisions_bit_for_bit(size):
    image = torch.rand(2, 3, *size) * 2 - 1
    resized = images.resize(image, 32, InterpolationMode.BICUBIC, antialias=True)
    assert torch.equal(resize_shorter_side(image, 32), resized)
    assert torch.equal(crop_centre(resized, 32), images.center_crop(resized, 32))


class BatchedProducts(TorchDispatchMode):
    """Notes the shapes of the second factors of all batched matrix products."""

    def __init__(self):
        super().__init__()
        self.factors = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.bmm.default:
            self.factors.append(tuple(args[1].shape))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("build", [image_tower, lambda described: VisionTransformer(VisionShape.of(described))])
@pytest.mark.parametrize("ordered", [True, False])
def test_under_autocast_no_weight_is_copied_for_each_token(build, ordered, monkeypatch):
    """17 tokens and a weight of (32,96); of a frozen tower, torch's attention by itself copies it, which says that the test can fail."""
    if not ordered:
        monkeypatch.setattr(clip_transformer, "in_order_of_attention", lambda h: h)
    tower = build(SHAPE).eval().requires_grad_(False)
    with torch.no_grad(), torch.autocast("cpu"), BatchedProducts() as products:
        tower(torch.randn(3, 3, 32, 32))
    assert ((17, 32, 96) in products.factors) != ordered
