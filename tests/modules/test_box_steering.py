"""Cross-attention that is drawn to tokens inside their boxes (paint with words), compared with its closed form."""

import math

import pytest
import torch

from ldm.modules import conditioning
from ldm.modules.attention import Context, CrossAttention
from ldm.modules.attention_control import AttentionStore, BoxSteering, Control, RowPair, TokenInjection
from ldm.modules.conditioning import Conditioning
from ldm.modules.diffusionmodules.openaimodel import UNetModel

LEFT, NOWHERE = (0.0, 0.0, 0.5, 1.0), (-1.0,) * 4
SIZE = 2, 4  # h, w of the feature map
INSIDE = torch.tensor([1.0, 1.0, 0.0, 0.0] * 2)[:, None]  # coverage of LEFT, (h*w,1)


def boxes_of(*boxes):
    return torch.tensor(boxes)


@pytest.fixture
def attention():
    torch.manual_seed(0)
    return CrossAttention(8, 8, heads=2, dim_head=4)


@pytest.fixture
def inputs():
    """x (2,8,8), tokens (2,3,8) of which row 0's last one is padding."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    x, tokens = torch.randn(2, 8, 8, generator=generator), 3 * torch.randn(2, 3, 8, generator=generator)
    return x, Context.from_tokens(tokens, mask)


def attend(attention, inputs, *steering, **control):
    with torch.no_grad():
        return attention(*inputs, control=Control(steering=steering, **control).at(0, SIZE))


def logits_of(attention, inputs, row):
    x, context = inputs
    q, k = (
        layer(part[row]).unflatten(-1, (2, 4)).transpose(0, 1)
        for layer, part in ((attention.to_q, x), (attention.to_k, context.tokens))
    )
    return q @ k.mT / math.sqrt(4) + context.bias[row]


def expected_output(attention, inputs, row, bias):
    """Attention of one row with a bias (h*w,N)."""
    v = attention.to_v(inputs[1].tokens[row]).unflatten(-1, (2, 4)).transpose(0, 1)
    y = (logits_of(attention, inputs, row) + bias).softmax(-1) @ v
    return attention.to_out(y.transpose(0, 1).flatten(1))


@pytest.mark.parametrize("peak", [None, 5.0])
def test_the_logits_grow_by_w_log_1_plus_sigma_times_m_inside_the_box(attention, inputs, peak):
    y = attend(attention, inputs, BoxSteering(0, boxes_of(NOWHERE, LEFT), 0.4, sigma=3.0, peak=peak))
    with torch.no_grad():
        m = logits_of(attention, inputs, 0).max() if peak is None else peak
        bias = torch.zeros(8, 3)
        bias[:, 1:2] = 0.4 * math.log(4.0) * m * INSIDE
        assert m > 0
        torch.testing.assert_close(y[0], expected_output(attention, inputs, 0, bias))


def test_outside_of_all_boxes_and_in_other_rows_nothing_changes(attention, inputs):
    plain = attend(attention, inputs)
    y = attend(attention, inputs, BoxSteering(1, boxes_of(LEFT, NOWHERE, NOWHERE), 1.0, sigma=5.0))
    outside = INSIDE[:, 0] == 0
    assert torch.equal(y[0], plain[0])
    torch.testing.assert_close(y[1, outside], plain[1, outside])
    assert not torch.allclose(y[1, ~outside], plain[1, ~outside], atol=1e-3)


@pytest.mark.parametrize(
    "off", [{"weight": 0.0, "sigma": 9.0}, {"weight": 1.0, "sigma": 0.0}, {"weight": 1.0, "sigma": 9.0, "row": None}]
)
def test_without_weight_noise_or_rows_the_output_is_bit_equal(attention, inputs, off):
    steering = () if "row" in off else (BoxSteering(0, boxes_of(LEFT, LEFT, LEFT), **off),)
    with torch.no_grad():
        assert torch.equal(attend(attention, inputs, *steering), attention(*inputs))


def test_the_odds_of_a_token_grow_by_the_exponential_of_the_bias(inputs):
    heads = CrossAttention(8, 8, heads=1, dim_head=8)  # a mean over one head is that head's probabilities
    maps = AttentionStore(), AttentionStore()
    attend(heads, inputs, maps=maps[0])
    attend(heads, inputs, BoxSteering(1, boxes_of(NOWHERE, LEFT, NOWHERE), 0.5, math.e - 1, 2.0), maps=maps[1])
    plain, steered = (store.layer_mean(0)[1] for store in maps)  # (N,h,w)
    odds = (steered[1] / (1 - steered[1])) / (plain[1] / (1 - plain[1]))
    torch.testing.assert_close(odds, torch.tensor([math.e, math.e, 1.0, 1.0]).expand(2, 4))
    torch.testing.assert_close(steered.sum(0), torch.ones(SIZE))


def test_a_cell_that_the_box_covers_by_a_quarter_gets_a_quarter_of_the_bias(attention, inputs):
    quarter = BoxSteering(1, boxes_of((0.0, 0.0, 0.125, 0.25)), 1.0, sigma=math.e - 1, peak=4.0)
    bias = torch.zeros(8, 3)
    bias[0, 0] = 0.25 * 4
    with torch.no_grad():
        expected = expected_output(attention, inputs, 1, bias)
    torch.testing.assert_close(attend(attention, inputs, quarter)[1], expected)


def test_padding_stays_invisible_inside_a_box(attention, inputs):
    y = attend(attention, inputs, BoxSteering(0, boxes_of(NOWHERE, NOWHERE, LEFT), 9.0, sigma=9.0))
    torch.testing.assert_close(y[0], attend(attention, inputs)[0])


def test_negative_logits_never_push_attention_out_of_the_box(attention, inputs):
    x, context = inputs
    only = context._replace(tokens=context.tokens[:, :1], bias=context.bias[..., :1])
    with torch.no_grad():
        y = attention(x, only, control=Control(steering=(BoxSteering(0, boxes_of(LEFT), 1.0, 1.0),)).at(0, SIZE))
        torch.testing.assert_close(y, attention(x, only))  # with one token there is nothing to choose
        attention.to_q.weight.mul_(0)
        flat = attend(attention, inputs, BoxSteering(0, boxes_of(LEFT, NOWHERE), 1.0, 1.0))
    assert torch.equal(flat[0, 0], flat[0, 7])  # m is 0


def test_injected_probabilities_are_those_of_the_steered_source(attention, inputs):
    pair = (RowPair(0, 1, tokens=TokenInjection(torch.tensor([0, 1, -1]))),)
    steering = BoxSteering(0, boxes_of(LEFT), 1.0, sigma=2.0, peak=3.0)
    y = attend(attention, inputs, steering, pairs=pair)[1]
    bias = torch.zeros(8, 3)
    bias[:, :1] = 3 * math.log(3.0) * INSIDE
    with torch.no_grad():
        source = (logits_of(attention, inputs, 0) + bias).softmax(-1)
        target = logits_of(attention, inputs, 1).softmax(-1)
        mixed = torch.cat([source[..., :2], target[..., 2:]], -1)
        v = attention.to_v(inputs[1].tokens[1]).unflatten(-1, (2, 4)).transpose(0, 1)
        expected = attention.to_out((mixed @ v).transpose(0, 1).flatten(1))
    torch.testing.assert_close(y, expected)


# The U-Net


@pytest.fixture
def unet():
    torch.manual_seed(0)
    options = {"image_size": 8, "in_channels": 4, "model_channels": 32, "out_channels": 4, "num_res_blocks": 1}
    return UNetModel(
        **options, attention_resolutions=[2, 1], channel_mult=[1, 1], num_heads=2, context_dim=24
    ).eval()  # fmt: skip


def test_a_unet_is_bit_equal_without_steering_and_in_other_rows(unet):
    generator = torch.Generator().manual_seed(1)
    x, t = torch.randn(2, 4, 8, 8, generator=generator), torch.tensor([400, 400])
    cond = Conditioning.from_tokens(torch.randn(2, 5, 24, generator=generator))
    steering = BoxSteering(1, boxes_of(LEFT, NOWHERE), 1.0)
    with torch.no_grad():
        plain = unet(x, t, cond)
        assert torch.equal(unet(x, t, cond, Control(steering=(steering,))), plain)  # sigma 0
        steered = unet(x, t, cond, Control(steering=(steering,)).at_noise(4.0))
    assert torch.equal(steered[0], plain[0])
    assert not torch.allclose(steered[1], plain[1], atol=1e-4)


def test_guidance_steers_the_branch_of_the_graph_alone(unet):
    generator = torch.Generator().manual_seed(1)
    x, t = torch.randn(1, 4, 8, 8, generator=generator), torch.tensor([400])
    null, cond = (Conditioning.from_tokens(torch.randn(1, 5, 24, generator=generator)) for _ in range(2))
    control = Control(steering=(BoxSteering(0, boxes_of(LEFT, NOWHERE), 1.0, 4.0),))
    with torch.no_grad():
        alone = torch.cat([unet(x, t, null), unet(x, t, cond, control)])
        both = unet(
            x.repeat(2, 1, 1, 1), t.repeat(2), conditioning.cat(null, cond), control.repeat([False, True], 1)
        )  # fmt: skip
    torch.testing.assert_close(both, alone, rtol=0, atol=1e-5)


def test_the_noise_level_reaches_every_steered_row():
    control = Control(steering=(BoxSteering(0, boxes_of(LEFT), 0.5), BoxSteering(3, boxes_of(LEFT), 2.0)))
    assert [each.strength for each in control.at_noise(math.e - 1).steering] == pytest.approx([0.5, 2.0])


def test_steering_works_in_half_precision(unet):
    x, t = torch.randn(1, 4, 8, 8), torch.tensor([400])
    cond = Conditioning.from_tokens(torch.randn(1, 5, 24))
    control = Control(steering=(BoxSteering(0, boxes_of(LEFT, NOWHERE), 0.3, 14.6),))
    with torch.no_grad():
        expected = unet(x, t, cond, control)
        torch.testing.assert_close(unet.bfloat16()(x, t, cond, control), expected, rtol=0, atol=0.1)
