import pytest
import torch
from checkpoints.video_models import PARAMS, UNET, make, to_sgm_unet

from ldm.checkpoints.errors import CheckpointError
from ldm.checkpoints.loading import load_part
from ldm.modules.conditioning import Conditioning, TextTokens
from ldm.modules.diffusionmodules.video_unet import VideoUNetModel, added_embedding
from ldm.modules.temporal_svd import TimeMixer

FRAMES, CLIPS = 3, 2


@pytest.fixture(scope="module")
def theirs():
    return make("UNetSpatioTemporalConditionModel", UNET)


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(CLIPS, FRAMES, 8, 8, 8, generator=generator)
    tokens = torch.randn(CLIPS, 2, 24, generator=generator)
    ids = torch.tensor([[6.0, 127.0, 0.02], [11.0, 40.0, 0.1]])
    return x, torch.tensor([0.7]), tokens, ids


def conditioning(tokens, vector, graph=None):
    text = TextTokens.from_tokens(tokens.repeat_interleave(FRAMES, 0), vector.repeat_interleave(FRAMES, 0))
    return Conditioning.from_text(text) if graph is None else graph._replace(text=text)


def vector_of(ids):  # diffusers' own embedding of the three numbers
    from diffusers.models.embeddings import Timesteps

    return Timesteps(8, True, 0)(ids.flatten()).view(len(ids), -1)


@torch.no_grad()
def run(unet, inputs, **kwargs):
    x, t, tokens, ids = inputs
    out = unet(x.flatten(0, 1), t.expand(len(x) * FRAMES), conditioning(tokens, vector_of(ids), **kwargs))
    return out.unflatten(0, (CLIPS, FRAMES))


def loaded(state, **changes):
    unet = VideoUNetModel(**PARAMS | changes).eval()
    load_part(unet, state, "unet")
    return unet


@torch.no_grad()
def test_svds_u_net_computes_what_diffusers_computes(theirs, inputs):
    expected = theirs(*inputs).sample
    ours = run(loaded(theirs.state_dict()), inputs)
    assert (ours - expected).abs().max() < 1e-4 * expected.abs().max()


@torch.no_grad()
def test_a_change_of_any_layer_over_time_or_of_the_frames_order_changes_the_output(theirs, inputs):
    unet, expected = loaded(theirs.state_dict()), run(loaded(theirs.state_dict()), inputs)
    temporal = [n for n, _ in unet.named_parameters() if "time_stack" in n or "time_mixer" in n or "time_pos" in n]
    for name in temporal[:: max(1, len(temporal) // 12)]:
        parameter = unet.get_parameter(name)
        before = parameter.clone()
        parameter.mul_(0.5).add_(0.1)
        if not name.endswith("attn1.to_k.bias"):
            assert (run(unet, inputs) - expected).abs().max() > 1e-6, name
        parameter.copy_(before)
    x, *rest = inputs
    flipped = run(unet, (x.flip(1), *rest)).flip(1)
    assert (flipped - expected).abs().max() > 1e-3 * expected.abs().max()


def test_svds_own_keys_load_with_nothing_missing_and_nothing_unexpected(theirs, inputs):
    state = to_sgm_unet(theirs.state_dict())
    assert len(state) == len(theirs.state_dict())
    prefixed = {f"model.diffusion_model.{key}": value for key, value in state.items()}
    for each in (state, prefixed):
        unet = VideoUNetModel(**PARAMS).eval()
        report = load_part(unet, each, "unet")
        assert report.layout == "LDM" and not report.not_loaded and not report.unused
        assert set(report.loaded) == set(unet.state_dict())
        torch.testing.assert_close(run(unet, inputs), run(loaded(theirs.state_dict()), inputs), rtol=0, atol=0)


def test_loaded_files_keep_their_own_alphas(theirs):
    unet = loaded(theirs.state_dict())
    ours = {name: value for name, value in unet.state_dict().items() if name.endswith("mix_factor")}
    published = [v for k, v in theirs.state_dict().items() if k.endswith("mix_factor")]
    assert len(ours) == len(published) == 12 + 6
    assert sorted(float(v) for v in ours.values()) == sorted(map(float, published))


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_a_file_with_other_layers_over_time_is_refused_in_a_sentence(theirs, change):
    state = dict(theirs.state_dict())
    key = "down_blocks.0.resnets.1.time_mixer.mix_factor"
    if change == "missing":
        del state[key]
    elif change == "unexpected":
        state["down_blocks.0.resnets.7.time_mixer.mix_factor"] = torch.zeros(1)
    else:
        state[key] = torch.zeros(2)
    unet = VideoUNetModel(**PARAMS)
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    with pytest.raises(CheckpointError, match="Stable Video Diffusion"):
        load_part(unet, state, "unet")
    assert all(torch.equal(before[name], value) for name, value in unet.state_dict().items())


@torch.no_grad()
def test_the_graph_enters_by_attention_of_its_own_that_is_the_identity_at_first(theirs, inputs):
    unet, plain = loaded(theirs.state_dict(), graph_attention=True), loaded(theirs.state_dict())
    graph = Conditioning.from_tokens(torch.randn(CLIPS * FRAMES, 4, 24))
    expected = run(plain, inputs)
    torch.testing.assert_close(run(unet, inputs, graph=graph), expected, rtol=0, atol=0)
    for name, parameter in unet.named_parameters():
        if "to_v_graph" in name:
            parameter.fill_(0.05)
    assert (run(unet, inputs, graph=graph) - expected).abs().max() > 1e-3


def test_the_prepared_conditioning_gives_the_same_output(theirs, inputs):
    unet = loaded(theirs.state_dict())
    x, t, tokens, ids = inputs
    cond, rows = conditioning(tokens, vector_of(ids)), x.flatten(0, 1)
    with torch.no_grad():
        prepared = unet(rows, t.expand(len(rows)), unet.prepare(rows, cond))
    torch.testing.assert_close(prepared.unflatten(0, (CLIPS, FRAMES)), run(unet, inputs))


def test_only_adapters_train_and_recompute_changes_no_gradient(theirs, inputs):
    gradients = []
    for recompute in (False, True):
        unet = loaded(theirs.state_dict(), graph_attention=True, use_checkpoint=recompute)
        unet.freeze_body()
        trainable = {name for name, parameter in unet.named_parameters() if parameter.requires_grad}
        assert trainable and all("_graph" in name for name in trainable)
        x, t, tokens, ids = inputs
        graph = Conditioning.from_tokens(torch.ones(CLIPS * FRAMES, 4, 24))
        cond = conditioning(tokens, vector_of(ids), graph)
        unet(x.flatten(0, 1), t.expand(CLIPS * FRAMES), cond).square().mean().backward()
        gradients.append(unet.get_parameter("middle_block.1.transformer_blocks.0.attn2.to_v_graph.weight").grad)
        assert all(parameter.grad is None for name, parameter in unet.named_parameters() if name not in trainable)
    torch.testing.assert_close(*gradients)


def test_layers_over_time_train_if_asked_for(theirs):
    unet = loaded(theirs.state_dict(), train_temporal=True)
    unet.freeze_body()
    for name, parameter in unet.named_parameters():
        assert parameter.requires_grad == any(
            part in name for part in ("time_stack", "time_mixer", "time_pos_embed")
        ), name


def test_rows_that_are_no_whole_clips_are_refused(theirs):
    unet = loaded(theirs.state_dict())
    with pytest.raises(ValueError, match="4 frames are not whole clips of 3"):
        unet(torch.zeros(4, 8, 8, 8), torch.zeros(4))


def test_the_mixer_is_exactly_the_spatial_branch_where_both_agree():
    z = torch.randn(5, 7)
    mixer = TimeMixer(1.7)
    assert torch.equal(mixer(z, z), z)
    alpha = torch.tensor(1.7).sigmoid()
    torch.testing.assert_close(mixer(z, -z), alpha * z - (1 - alpha) * z)


def test_the_added_embedding_is_diffusers_embedding_of_each_number():
    timesteps = pytest.importorskip("diffusers.models.embeddings").Timesteps(256, True, 0)
    numbers = torch.tensor([[6.0, 127.0, 0.02], [24.0, 10.0, 0.0]])
    expected = timesteps(numbers.flatten()).view(2, -1)
    torch.testing.assert_close(added_embedding(*numbers.T), expected, atol=1e-5, rtol=0)
