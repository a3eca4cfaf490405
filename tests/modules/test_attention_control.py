"""Attention control against closed forms: what a target sees of its source, and what nobody else notices."""

import math

import pytest
import torch

from ldm.editing.attention import common_tokens
from ldm.graph.batch import encode
from ldm.graph.scene_graph import SceneGraph, Vocab
from ldm.modules import conditioning
from ldm.modules.attention import Context, CrossAttention, SpatialTransformer
from ldm.modules.attention_control import Control, AttentionStore, MutualSelfAttention, RowPair, TokenInjection, warp
from ldm.modules.conditioning import Conditioning
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.modules.nsg_encoder import NSGEncoder

LEFT, RIGHT, TOP_LEFT, TOP_RIGHT = (0, 0, 0.5, 1), (0.5, 0, 1, 1), (0, 0, 0.5, 0.5), (0.5, 0, 1, 0.5)
ALL = (0.0, 0.0, 1.0, 1.0)
SMALL = dict(
    image_size=8, in_channels=4, model_channels=32, out_channels=4, num_res_blocks=1, attention_resolutions=[2, 1],
    channel_mult=[1, 2], num_heads=2, context_dim=24, film_embedding_dim=24, box_bias=True,
)


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
    """Three rows: a source, its target, and one that is neither."""
    generator = torch.Generator().manual_seed(1)
    cond = Conditioning.from_tokens(torch.randn(3, 5, 24, generator=generator), torch.randn(3, 24, generator=generator))
    cond.mask[2, 3:] = False
    boxes = torch.tensor([0.1, 0.2, 0.7, 0.5]).repeat(3, 5, 1)
    return torch.randn(3, 4, 8, 8, generator=generator), torch.tensor([400] * 3), cond._replace(boxes=boxes)


@pytest.fixture
def attention():
    torch.manual_seed(0)
    return CrossAttention(8, 8, heads=2, dim_head=4)


def everything(words=6):
    """A control that uses all there is."""
    where = torch.linspace(0, 1, 64).view(1, 1, 8, 8)
    mutual = MutualSelfAttention(((TOP_LEFT, TOP_RIGHT),), where)
    return Control((RowPair(0, 1, mutual, TokenInjection(torch.arange(words))),), AttentionStore())


def heads(linear, x):
    return linear(x).unflatten(-1, (2, 4)).transpose(-2, -3)


def attend(attention, x, keys, bias=0.0):  # what attention gives where x (M,8) sees `keys` (n,8)
    q, k, v = heads(attention.to_q, x), heads(attention.to_k, keys), heads(attention.to_v, keys)
    y = (q @ k.mT / math.sqrt(4) + bias).softmax(-1) @ v
    return attention.to_out(y.transpose(0, 1).flatten(1))


def controlled(attention, x, mutual, size):
    """Row 1 sees row 0."""
    with torch.no_grad():
        return attention(x, control=Control((RowPair(0, 1, mutual),)).at(0, size))


# Bystanders -----------------------------------------------------------------------------------------------------------


def test_rows_that_a_control_does_not_name_are_the_same_to_the_bit(unet, batch):
    with torch.no_grad():
        plain, steered = unet(*batch), unet(*batch, everything())
    assert torch.equal(steered[[0, 2]], plain[[0, 2]])
    assert not torch.allclose(steered[1], plain[1], atol=1e-3)


def test_an_empty_control_and_one_that_only_looks_change_nothing_to_the_bit(unet, batch):
    with torch.no_grad():
        plain = unet(*batch)
        assert torch.equal(unet(*batch, Control()), plain)
        assert torch.equal(unet(*batch, Control(maps=AttentionStore())), plain)
        assert torch.equal(unet(*batch, Control((RowPair(0, 1, MutualSelfAttention(blend=torch.zeros(8, 8))),))), plain)


def test_a_control_leaves_nothing_behind_in_the_model(unet, batch):
    with torch.no_grad():
        plain = unet(*batch)
        unet(*batch, everything())
        assert torch.equal(unet(*batch), plain)


def test_a_target_equal_to_its_source_stays_equal_under_control(unet, batch):
    x, t, cond = (batch[0][[0, 0]], batch[1][:2], conditioning.cat(batch[2].rows(1), batch[2].rows(1)))
    control = Control((RowPair(0, 1, MutualSelfAttention(((TOP_LEFT, TOP_LEFT),)), TokenInjection(torch.arange(6))),))
    with torch.no_grad():
        source, target = unet(x, t, cond, control)
    torch.testing.assert_close(target, source, rtol=0, atol=1e-5)


def test_every_attention_layer_is_numbered_once_from_the_input_up(unet):
    layers = [module.layer for module in unet.modules() if isinstance(module, SpatialTransformer)]
    assert layers == list(range(7))


def test_half_precision_is_controlled_too(unet, batch):
    with torch.no_grad():
        expected = unet(*batch, everything())
        torch.testing.assert_close(unet.bfloat16()(*batch, everything()), expected, rtol=0, atol=0.1)


def test_gradients_flow_through_a_control_with_and_without_recomputing(unet, batch):
    x, t, cond = batch
    gradients = []
    for unet.use_checkpoint in (False, True):
        tokens = cond.tokens.clone().requires_grad_()
        unet(x, t, cond._replace(tokens=tokens), everything())[1].sum().backward()
        gradients.append(tokens.grad)
    assert gradients[0][0].any()  # the source's tokens matter to the target
    assert not gradients[0][2].any()
    torch.testing.assert_close(gradients[0], gradients[1])


# Mutual self-attention ------------------------------------------------------------------------------------------------


def test_the_target_attends_to_its_sources_keys_and_values(attention):
    x = torch.randn(3, 6, 8)
    y = controlled(attention, x, MutualSelfAttention(), (2, 3))
    torch.testing.assert_close(y[1], attend(attention, x[1], x[0]))


def test_outside_of_the_mask_the_target_sees_itself(attention):
    x = torch.randn(2, 4, 8)
    y = controlled(attention, x, MutualSelfAttention(blend=torch.tensor([[1.0, 0.0], [0.25, 0.0]])), (2, 2))
    own, theirs = attend(attention, x[1], x[1]), attend(attention, x[1], x[0])
    expected = torch.stack([theirs[0], own[1], 0.25 * theirs[2] + 0.75 * own[2], own[3]])
    torch.testing.assert_close(y[1], expected)


def test_what_moved_is_seen_in_its_new_place_and_no_longer_in_its_old_one(attention):
    """2 x 2 cells: from the top left to the top right. The keys: the top left's at the top right, and the lower two."""
    x = torch.randn(2, 4, 8)
    y = controlled(attention, x, MutualSelfAttention(((TOP_LEFT, TOP_RIGHT),)), (2, 2))
    torch.testing.assert_close(y[1], attend(attention, x[1], x[0, [0, 2, 3]]))


def test_what_is_removed_is_not_seen(attention):
    x = torch.randn(2, 4, 8)
    y = controlled(attention, x, MutualSelfAttention(((LEFT, None),)), (2, 2))
    torch.testing.assert_close(y[1], attend(attention, x[1], x[0, [1, 3]]))


def test_a_half_covered_cell_is_half_hidden(attention):
    x = torch.randn(2, 2, 8)
    y = controlled(attention, x, MutualSelfAttention((((0, 0, 0.25, 1), None),)), (1, 2))  # half of the first of two cells
    torch.testing.assert_close(y[1], attend(attention, x[1], x[0], torch.tensor([math.log(0.5), 0.0])))


def test_removing_all_there_is_leaves_numbers(attention):
    y = controlled(attention, torch.randn(2, 4, 8), MutualSelfAttention(((ALL, None), (LEFT, None))), (2, 2))
    assert y.isfinite().all()


# Warping --------------------------------------------------------------------------------------------------------------


def test_a_shift_by_whole_cells_rolls_the_thing():
    features = torch.randn(3, 8, 8)
    warped = warp(features, [((1 / 8, 2 / 8, 4 / 8, 4 / 8), (4 / 8, 5 / 8, 7 / 8, 7 / 8))])
    rolled = features.roll((3, 3), (1, 2))
    assert torch.equal(warped[:, 5:7, 4:7], rolled[:, 5:7, 4:7])
    warped[:, 5:7, 4:7] = features[:, 5:7, 4:7]
    assert torch.equal(warped, features)


def test_a_shift_by_half_a_cell_mixes_neighbours_half_and_half():
    features = torch.randn(1, 8)
    warped = warp(features, [((0, 0, 4 / 8, 1), (1.5 / 8, 0, 5.5 / 8, 1))])
    f = features[0]
    # Of the first and the last cell the thing covers a half; what is there of it comes from half a cell.
    expected = torch.stack([
        f[0], (f[1] + f[0]) / 2, (f[0] + f[1]) / 2, (f[1] + f[2]) / 2, (f[2] + f[3]) / 2, (f[3] + f[5]) / 2, f[6], f[7]
    ])
    torch.testing.assert_close(warped[0], expected)


def test_growing_to_twice_the_size_repeats_and_shrinking_back_returns():
    features = torch.randn(2, 8, 8)
    box = (2 / 8, 2 / 8, 4 / 8, 4 / 8)
    large = warp(features, [(box, ALL)])
    assert torch.equal(large, features[:, 2:4, 2:4].repeat_interleave(4, 1).repeat_interleave(4, 2))
    torch.testing.assert_close(warp(large, [(ALL, box)])[:, 2:4, 2:4], features[:, 2:4, 2:4])


def test_a_constant_stays_constant_under_any_warp():
    boxes = torch.rand(40, 2, 2, generator=torch.Generator().manual_seed(0)).sort(1).values.flatten(1).tolist()
    for old, new in zip(boxes[::2], boxes[1::2]):
        warped = warp(torch.ones(5, 7, dtype=torch.float64), [(tuple(old), tuple(new))])
        torch.testing.assert_close(warped, torch.ones(5, 7, dtype=torch.float64))


def test_the_last_of_two_things_lies_in_front():
    features = torch.arange(4.0).view(1, 4)
    cells = [(i / 4, 0, (i + 1) / 4, 1) for i in range(4)]
    assert warp(features, [(cells[0], cells[3]), (cells[1], cells[3])]).tolist() == [[0, 1, 2, 1]]


# Words ----------------------------------------------------------------------------------------------------------------


def cross(attention, x, tokens, words, mask=None):
    context = Context.from_tokens(tokens, torch.ones(tokens.shape[:2]).bool() if mask is None else mask)
    with torch.no_grad():
        return attention(x, context, control=Control((RowPair(0, 1, tokens=words),)).at(0, (x.shape[1], 1)))


def test_with_all_tokens_shared_the_target_puts_its_own_values_where_the_source_looks(attention):
    x, tokens = torch.randn(2, 5, 8), torch.randn(2, 3, 8)
    seen = cross(attention, x, tokens, TokenInjection(torch.tensor([2, 0, 1])))[1]
    q, k = heads(attention.to_q, x[0]), heads(attention.to_k, tokens[0])
    where = (q @ k.mT / 2).softmax(-1)[..., [2, 0, 1]]
    y = where @ heads(attention.to_v, tokens[1])
    torch.testing.assert_close(seen, attention.to_out(y.transpose(0, 1).flatten(1)))


def test_with_the_sources_tokens_and_the_identity_the_target_gets_the_sources_output(attention):
    x, tokens = torch.randn(2, 5, 8), torch.randn(1, 3, 8).expand(2, 3, 8)
    y = cross(attention, x, tokens, TokenInjection(torch.arange(3)))
    torch.testing.assert_close(y[1], y[0])
    assert not torch.allclose(x[1], x[0])


def test_with_no_token_shared_the_target_looks_for_itself(attention):
    x, tokens = torch.randn(2, 5, 8), torch.randn(2, 3, 8)
    for none in (torch.full((3,), -1), torch.full((0,), -1)):
        y = cross(attention, x, tokens, TokenInjection(none))
        with torch.no_grad():
            torch.testing.assert_close(y, attention(x, Context.from_tokens(tokens, torch.ones(2, 3).bool())))


def test_a_padded_token_is_looked_at_by_no_one(attention):
    x, tokens = torch.randn(2, 5, 8), torch.randn(2, 3, 8)
    mask = torch.tensor([[True, True, False]] * 2)
    short = cross(attention, x, tokens[:, :2], TokenInjection(torch.tensor([1, -1])))
    torch.testing.assert_close(cross(attention, x, tokens, TokenInjection(torch.tensor([1, -1, -1])), mask), short)


# Maps -----------------------------------------------------------------------------------------------------------------


def test_maps_are_the_attention_averaged_over_heads_and_passes(attention):
    tokens, maps = torch.randn(2, 3, 8), AttentionStore()
    context = Context.from_tokens(tokens, torch.tensor([[True] * 3, [True, True, False]]))
    expected = 0
    for _ in range(2):
        x = torch.randn(2, 4, 8)
        with torch.no_grad():
            attention(x, context, control=Control(maps=maps).at(5, (2, 2)))
            logits = heads(attention.to_q, x) @ heads(attention.to_k, tokens).mT / 2 + context.bias
            expected = expected + logits.softmax(-1).mean(1).mT.view(2, 3, 2, 2) / 2
    torch.testing.assert_close(maps.layer_mean(5), expected)
    torch.testing.assert_close(maps.layer_mean(5).sum(1), torch.ones(2, 2, 2))
    assert not maps.layer_mean(5)[1, 2].any()


def test_maps_of_a_unet_have_all_layers_brought_to_one_size(unet, batch):
    maps = AttentionStore()
    with torch.no_grad():
        unet(*batch, Control(maps=maps))
    assert {tuple(maps.layer_mean(layer).shape) for layer in range(7)} == {(3, 6, 8, 8), (3, 6, 4, 4)}
    assert maps.mean().shape == (3, 6, 8, 8)
    torch.testing.assert_close(maps.mean().sum(1), torch.ones(3, 8, 8))


# Guidance, and graphs -------------------------------------------------------------------------------------------------


def test_a_repeated_control_steers_each_branch_as_if_it_were_alone(unet, batch):
    x, t, cond = batch
    control = everything()
    null = cond._replace(tokens=torch.zeros_like(cond.tokens))
    both = Control(control.pairs, AttentionStore()).repeat([False, True], 3)
    wordless = Control((control.pairs[0]._replace(tokens=None),))  # of the null's tokens none is shared
    with torch.no_grad():
        alone = [unet(x, t, c, each) for c, each in ((null, wordless), (cond, Control(control.pairs)))]
        unet(x, t, cond, control)
        together = unet(x.repeat(2, 1, 1, 1), t.repeat(2), conditioning.cat(null, cond), both)
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)
    torch.testing.assert_close(both.maps.mean()[3:], control.maps.mean())


def test_common_tokens_are_those_that_say_the_same_in_both_graphs():
    vocab = Vocab(("__image__", "cat", "dog", "hat"), ("__in_image__", "near", "on"), ("red",))
    boxes = [(0.0, 0, 0.3, 0.3), (0.5, 0, 0.8, 0.3), None]
    source = SceneGraph(["cat", "dog", "hat"], boxes, (), [(2, "on", 0), (0, "near", 1), (1, "near", 0)])
    # The dog moves, the hat comes first, a red cat is new.
    target = SceneGraph(
        ["hat", "cat", "dog", "cat"],
        [None, boxes[0], (0.5, 0.5, 0.8, 0.8), None],
        [(), (), (), ("red",)],
        [(1, "near", 2), (0, "on", 1), (3, "near", 1)],
    )
    encoder = NSGEncoder(4, 3, 1, dim=8, depth=1, heads=2, max_tokens=20, init="random")
    layouts = [encoder.layout(encode([graph], vocab)) for graph in (source, target)]
    common = common_tokens(source, target, layouts, style=True)
    # Tokens of the source: cat dog hat image | 3 triples | in-image of cat dog hat. Of the target: hat cat dog cat
    # image | 3 triples | in-image of hat cat dog cat. Then padding up to 20, and the style.
    assert common.tolist() == [2, 0, -1, -1, 3, -1, 4, -1, 9, 7, -1, -1] + [-1] * 8 + [20]
    assert common_tokens(source, target, layouts, style=False)[-1] == -1
    same = common_tokens(source, source, layouts[:1] * 2, style=True)
    assert same.tolist() == list(range(10)) + [-1] * 10 + [20]
