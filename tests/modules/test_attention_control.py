"""Attention control: mutual self-attention, token injection and attention maps, compared with closed forms."""

import math

import pytest
import torch

from ldm.modules import conditioning
from ldm.modules.attention import Context, CrossAttention, SpatialTransformer
from ldm.modules.attention_control import AttentionStore, Control, MutualSelfAttention, RowPair, TokenInjection, warp
from ldm.modules.conditioning import Conditioning
from ldm.modules.diffusionmodules.openaimodel import UNetModel

LEFT, RIGHT, TOP_LEFT, TOP_RIGHT = (0, 0, 0.5, 1), (0.5, 0, 1, 1), (0, 0, 0.5, 0.5), (0.5, 0, 1, 0.5)
ALL = (0.0, 0.0, 1.0, 1.0)
SMALL = {
    "image_size": 8,
    "in_channels": 4,
    "model_channels": 32,
    "out_channels": 4,
    "num_res_blocks": 1,
    "attention_resolutions": [2, 1],
    "channel_mult": [1, 2],
    "num_heads": 2,
    "context_dim": 24,
    "film_embedding_dim": 24,
    "box_bias": True,
}


@pytest.fixture
def unet():
    torch.manual_seed(0)
    unet = UNetModel(**SMALL).eval()
    for parameter in unet.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return unet


@pytest.fixture
def batch():
    """Three rows: a source, its target, and a row without control."""
    generator = torch.Generator().manual_seed(1)
    cond = Conditioning.from_tokens(torch.randn(3, 5, 24, generator=generator), torch.randn(3, 24, generator=generator))
    cond.mask[2, 3:] = False
    boxes = torch.tensor([0.1, 0.2, 0.7, 0.5]).repeat(3, 5, 1)
    return torch.randn(3, 4, 8, 8, generator=generator), torch.tensor([400] * 3), cond._replace(boxes=boxes)


@pytest.fixture
def attention():
    torch.manual_seed(0)
    return CrossAttention(8, 8, heads=2, dim_head=4)


def full_control():
    """A control with mutual self-attention, token injection and a store of maps."""
    blend = torch.linspace(0, 1, 64).view(1, 1, 8, 8)
    mutual = MutualSelfAttention(((TOP_LEFT, TOP_RIGHT),), blend)
    return Control((RowPair(0, 1, mutual, TokenInjection(torch.arange(6))),), AttentionStore())


def split_heads(linear, x):
    return linear(x).unflatten(-1, (2, 4)).transpose(-2, -3)


def attend(attention, x, keys, bias=0.0):
    """Attention of x (M,8) to `keys` (n,8)."""
    q, k, v = split_heads(attention.to_q, x), split_heads(attention.to_k, keys), split_heads(attention.to_v, keys)
    y = (q @ k.mT / math.sqrt(4) + bias).softmax(-1) @ v
    return attention.to_out(y.transpose(0, 1).flatten(1))


def attend_with_control(attention, x, mutual, size):
    """Self-attention in which row 1 attends to row 0."""
    with torch.no_grad():
        return attention(x, control=Control((RowPair(0, 1, mutual),)).at(0, size))


# Rows without control


def test_rows_without_control_are_bit_equal(unet, batch):
    with torch.no_grad():
        plain, edited = unet(*batch), unet(*batch, full_control())
    assert torch.equal(edited[[0, 2]], plain[[0, 2]])
    assert not torch.allclose(edited[1], plain[1], atol=1e-3)


def test_a_control_that_changes_no_attention_leaves_the_output_bit_equal(unet, batch):
    with torch.no_grad():
        plain = unet(*batch)
        assert torch.equal(unet(*batch, Control()), plain)
        assert torch.equal(unet(*batch, Control(maps=AttentionStore())), plain)
        assert torch.equal(unet(*batch, Control((RowPair(0, 1, MutualSelfAttention(blend=torch.zeros(8, 8))),))), plain)


def test_a_control_does_not_change_the_model(unet, batch):
    with torch.no_grad():
        plain = unet(*batch)
        unet(*batch, full_control())
        assert torch.equal(unet(*batch), plain)


def test_a_target_equal_to_its_source_stays_equal_under_control(unet, batch):
    x, t, cond = (batch[0][[0, 0]], batch[1][:2], conditioning.cat(batch[2].rows(slice(1)), batch[2].rows(slice(1))))
    control = Control((RowPair(0, 1, MutualSelfAttention(((TOP_LEFT, TOP_LEFT),)), TokenInjection(torch.arange(6))),))
    with torch.no_grad():
        source, target = unet(x, t, cond, control)
    torch.testing.assert_close(target, source, rtol=0, atol=1e-5)


def test_transformers_are_numbered_in_forward_order(unet):
    layers = [module.layer for module in unet.modules() if isinstance(module, SpatialTransformer)]
    assert layers == list(range(7))


def test_control_works_in_half_precision(unet, batch):
    with torch.no_grad():
        expected = unet(*batch, full_control())
        torch.testing.assert_close(unet.bfloat16()(*batch, full_control()), expected, rtol=0, atol=0.1)


def test_gradients_flow_through_a_control_with_and_without_gradient_checkpointing(unet, batch):
    x, t, cond = batch
    gradients = []
    for unet.use_checkpoint in (False, True):
        tokens = cond.tokens.clone().requires_grad_()
        unet(x, t, cond._replace(tokens=tokens), full_control())[1].sum().backward()
        gradients.append(tokens.grad)
    assert gradients[0][0].any()  # the target depends on the source's tokens
    assert not gradients[0][2].any()
    torch.testing.assert_close(gradients[0], gradients[1])


# Mutual self-attention


def test_the_target_attends_to_its_sources_keys_and_values(attention):
    x = torch.randn(3, 6, 8)
    y = attend_with_control(attention, x, MutualSelfAttention(), (2, 3))
    torch.testing.assert_close(y[1], attend(attention, x[1], x[0]))


def test_blend_weights_mutual_and_plain_self_attention(attention):
    x = torch.randn(2, 4, 8)
    y = attend_with_control(attention, x, MutualSelfAttention(blend=torch.tensor([[1.0, 0.0], [0.25, 0.0]])), (2, 2))
    plain, mutual = attend(attention, x[1], x[1]), attend(attention, x[1], x[0])
    expected = torch.stack([mutual[0], plain[1], 0.25 * mutual[2] + 0.75 * plain[2], plain[3]])
    torch.testing.assert_close(y[1], expected)


def test_a_moved_object_is_attended_to_at_its_new_box_and_masked_at_its_old_one(attention):
    """On 2 x 2 cells, from top left to top right: the keys are the top left cell's and those of the lower two cells."""
    x = torch.randn(2, 4, 8)
    y = attend_with_control(attention, x, MutualSelfAttention(((TOP_LEFT, TOP_RIGHT),)), (2, 2))
    torch.testing.assert_close(y[1], attend(attention, x[1], x[0, [0, 2, 3]]))


def test_a_removed_object_is_masked(attention):
    x = torch.randn(2, 4, 8)
    y = attend_with_control(attention, x, MutualSelfAttention(((LEFT, None),)), (2, 2))
    torch.testing.assert_close(y[1], attend(attention, x[1], x[0, [1, 3]]))


def test_a_half_covered_cell_is_masked_by_half(attention):
    x = torch.randn(2, 2, 8)
    y = attend_with_control(
        attention, x, MutualSelfAttention((((0, 0, 0.25, 1), None),)), (1, 2)
    )  # half of the first of two cells
    torch.testing.assert_close(y[1], attend(attention, x[1], x[0], torch.tensor([math.log(0.5), 0.0])))


def test_removing_everything_gives_finite_outputs(attention):
    y = attend_with_control(attention, torch.randn(2, 4, 8), MutualSelfAttention(((ALL, None), (LEFT, None))), (2, 2))
    assert y.isfinite().all()


# Warping


def test_warp_by_whole_cells_shifts_the_content():
    features = torch.randn(3, 8, 8)
    warped = warp(features, [((1 / 8, 2 / 8, 4 / 8, 4 / 8), (4 / 8, 5 / 8, 7 / 8, 7 / 8))])
    rolled = features.roll((3, 3), (1, 2))
    assert torch.equal(warped[:, 5:7, 4:7], rolled[:, 5:7, 4:7])
    warped[:, 5:7, 4:7] = features[:, 5:7, 4:7]
    assert torch.equal(warped, features)


def test_warp_by_half_a_cell_averages_neighbours():
    features = torch.randn(1, 8)
    warped = warp(features, [((0, 0, 4 / 8, 1), (1.5 / 8, 0, 5.5 / 8, 1))])
    f = features[0]
    # The box covers half of its first and of its last cell; this half comes from half a cell.
    expected = torch.stack(
        [
            f[0],
            (f[1] + f[0]) / 2,
            (f[0] + f[1]) / 2,
            (f[1] + f[2]) / 2,
            (f[2] + f[3]) / 2,
            (f[3] + f[5]) / 2,
            f[6],
            f[7],
        ]
    )
    torch.testing.assert_close(warped[0], expected)


def test_warp_to_a_larger_box_repeats_cells_and_back_restores_them():
    features = torch.randn(2, 8, 8)
    box = (2 / 8, 2 / 8, 4 / 8, 4 / 8)
    large = warp(features, [(box, ALL)])
    assert torch.equal(large, features[:, 2:4, 2:4].repeat_interleave(4, 1).repeat_interleave(4, 2))
    torch.testing.assert_close(warp(large, [(ALL, box)])[:, 2:4, 2:4], features[:, 2:4, 2:4])


def test_warp_keeps_a_constant_constant():
    boxes = torch.rand(40, 2, 2, generator=torch.Generator().manual_seed(0)).sort(1).values.flatten(1).tolist()
    for old, new in zip(boxes[::2], boxes[1::2]):
        warped = warp(torch.ones(5, 7, dtype=torch.float64), [(tuple(old), tuple(new))])
        torch.testing.assert_close(warped, torch.ones(5, 7, dtype=torch.float64))


def test_warp_draws_later_objects_in_front():
    features = torch.arange(4.0).view(1, 4)
    cells = [(i / 4, 0, (i + 1) / 4, 1) for i in range(4)]
    assert warp(features, [(cells[0], cells[3]), (cells[1], cells[3])]).tolist() == [[0, 1, 2, 1]]


# Token injection


def inject(attention, x, tokens, source, mask=None):
    """Cross-attention in which row 1 uses row 0's probabilities for the tokens `source`."""
    context = Context.from_tokens(tokens, torch.ones(tokens.shape[:2]).bool() if mask is None else mask)
    with torch.no_grad():
        return attention(
            x,
            context,
            control=Control((RowPair(0, 1, tokens=TokenInjection(torch.as_tensor(source))),)).at(0, (x.shape[1], 1)),
        )


def test_with_all_tokens_shared_the_sources_probabilities_weight_the_targets_values(attention):
    x, tokens = torch.randn(2, 5, 8), torch.randn(2, 3, 8)
    y = inject(attention, x, tokens, torch.tensor([2, 0, 1]))[1]
    q, k = split_heads(attention.to_q, x[0]), split_heads(attention.to_k, tokens[0])
    probabilities = (q @ k.mT / 2).softmax(-1)[..., [2, 0, 1]]
    expected = probabilities @ split_heads(attention.to_v, tokens[1])
    torch.testing.assert_close(y, attention.to_out(expected.transpose(0, 1).flatten(1)))


def test_with_the_sources_tokens_the_target_has_the_sources_output(attention):
    x, tokens = torch.randn(2, 5, 8), torch.randn(1, 3, 8).expand(2, 3, 8)
    y = inject(attention, x, tokens, torch.arange(3))
    torch.testing.assert_close(y[1], y[0])
    assert not torch.allclose(x[1], x[0])


def test_with_no_token_shared_cross_attention_is_unchanged(attention):
    x, tokens = torch.randn(2, 5, 8), torch.randn(2, 3, 8)
    for none in (torch.full((3,), -1), torch.full((0,), -1)):
        y = inject(attention, x, tokens, none)
        with torch.no_grad():
            torch.testing.assert_close(y, attention(x, Context.from_tokens(tokens, torch.ones(2, 3).bool())))


def test_padding_gets_no_injected_attention(attention):
    x, tokens = torch.randn(2, 5, 8), torch.randn(2, 3, 8)
    mask = torch.tensor([[True, True, False]] * 2)
    short = inject(attention, x, tokens[:, :2], torch.tensor([1, -1]))
    torch.testing.assert_close(inject(attention, x, tokens, torch.tensor([1, -1, -1]), mask), short)


# Attention maps


def test_stored_maps_are_attention_averaged_over_heads_and_evaluations(attention):
    tokens, maps = torch.randn(2, 3, 8), AttentionStore()
    context = Context.from_tokens(tokens, torch.tensor([[True] * 3, [True, True, False]]))
    expected = 0
    for _ in range(2):
        x = torch.randn(2, 4, 8)
        with torch.no_grad():
            attention(x, context, control=Control(maps=maps).at(5, (2, 2)))
            logits = split_heads(attention.to_q, x) @ split_heads(attention.to_k, tokens).mT / 2 + context.bias
            expected = expected + logits.softmax(-1).mean(1).mT.view(2, 3, 2, 2) / 2
    torch.testing.assert_close(maps.layer_mean(5), expected)
    torch.testing.assert_close(maps.layer_mean(5).sum(1), torch.ones(2, 2, 2))
    assert not maps.layer_mean(5)[1, 2].any()


def test_stored_maps_of_all_layers_are_resized_to_one_size(unet, batch):
    maps = AttentionStore()
    with torch.no_grad():
        unet(*batch, Control(maps=maps))
    assert {tuple(maps.layer_mean(layer).shape) for layer in range(7)} == {(3, 6, 8, 8), (3, 6, 4, 4)}
    assert maps.mean().shape == (3, 6, 8, 8)
    torch.testing.assert_close(maps.mean().sum(1), torch.ones(3, 8, 8))


# Guidance


def test_a_repeated_control_acts_on_each_guidance_branch_as_if_it_were_alone(unet, batch):
    x, t, cond = batch
    control = full_control()
    null = cond._replace(tokens=torch.zeros_like(cond.tokens))
    both = Control(control.pairs, AttentionStore()).repeat([False, True], 3)
    without_injection = Control((control.pairs[0]._replace(tokens=None),))  # null tokens are not shared
    with torch.no_grad():
        alone = [unet(x, t, c, each) for c, each in ((null, without_injection), (cond, Control(control.pairs)))]
        unet(x, t, cond, control)
        together = unet(x.repeat(2, 1, 1, 1), t.repeat(2), conditioning.cat(null, cond), both)
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)
    torch.testing.assert_close(both.maps.mean()[3:], control.maps.mean())
