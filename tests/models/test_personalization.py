"""The loss, the parameters and the samples of a model that learns from a few pictures."""

import pytest
import torch
from personal_models import TEXT_XL, batch_of, config, personalization, pictures, write_pictures

from ldm.data.personalized import Examples
from ldm.models.diffusion.denoising_loss import mean_errors
from ldm.modules.encoders.words import initial_vectors, learned_words
from ldm.modules.lora import lora_layers
from ldm.util.config import instantiate_from_config
from ldm.util.errors import ConfigError, UserError

LORA = [{"part": "unet", "rank": 2}, {"part": "text", "rank": 2}]
CAPTIONS = ["a photo of <my-cat>", "a drawing of <my-cat>"]


@pytest.fixture(scope="module")
def examples(tmp_path_factory) -> Examples:
    return batch_of(pictures(write_pictures(tmp_path_factory.mktemp("cat"), CAPTIONS), flip=0))


def step(model, batch):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    model.losses(batch)[0].mean().backward()
    optimizer.step()
    return optimizer


def test_a_step_changes_nothing_but_the_vectors_bit_by_bit(examples):
    model = personalization()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = step(model, examples)
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["text_stage_model.learned.vectors"]
    assert [tuple(value["exp_avg"].shape) for value in optimizer.state.values()] == [(1, 32)]
    table = model.text_stage_model.model.token_embedding.weight
    assert table.grad is None and not table.requires_grad


def test_a_word_starts_as_its_initializer_whatever_the_number_of_its_tokens_and_vectors():
    model = personalization(words=[{"word": "<a>", "init": "cat", "vectors": 1}])
    for text in ("{}", "a photo of {} on a sofa"):
        encode = model.text_stage_model
        assert torch.equal(encode([text.format("<a>")]).tokens, encode([text.format("cat")]).tokens)
    same = personalization(words=[{"word": "<b>", "init": "fluffy white cat", "vectors": 3}]).text_stage_model
    assert torch.equal(same(["my <b> !"]).tokens, same(["my fluffy white cat !"]).tokens)
    rows = initial_vectors(same, "fluffy white cat", 3)[0]
    (one,), (two,), (six,) = (initial_vectors(same, "fluffy white cat", count) for count in (1, 2, 6))
    torch.testing.assert_close(one, rows.mean(0, keepdim=True))
    torch.testing.assert_close(two, torch.stack([rows[0], rows[1:].mean(0)]))
    assert torch.equal(six, rows.repeat_interleave(2, 0))


def test_progressive_words_read_their_first_vectors_as_if_there_were_no_others():
    model = personalization(words=[{"word": "<a>", "init": "fluffy white cat", "vectors": 3}])
    text, known = "my <a> and <a> !", "my fluffy white and fluffy white !"
    model.learned[0].in_use.fill_(2)
    assert torch.equal(model.text_stage_model([text]).tokens, model.text_stage_model([known]).tokens)
    assert len(learned_words(model.text_stage_model)["<a>"][0]) == 2


def test_both_towers_of_sdxl_learn_the_word(examples):
    unet = config(None)["params"]["unet_config"]
    unet = {
        **unet,
        "params": {**unet["params"], "context_dim": 64, "num_classes": "sequential", "adm_in_channels": 24 + 6 * 256},
    }
    model = personalization(text_stage_config=TEXT_XL, unet_config=unet, lora=LORA)
    step(model, examples)
    initial, trained = [each.initial for each in model.learned], [each.vectors for each in model.learned]
    assert len(trained) == 2 and all((a - b).abs().min() > 0.05 for a, b in zip(initial, trained))


def test_every_adapter_and_word_has_a_gradient_by_the_second_step_and_nothing_else_ever(examples):
    model = personalization(lora=LORA)
    optimizer = step(model, examples)
    optimizer.zero_grad()
    model.losses(examples)[0].mean().backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all(p.grad is not None and p.grad.any() for p in trained.values())
    kinds = ("lora_A", "lora_B", "learned.vectors")
    assert all(name.endswith(kinds) for name in trained)
    assert {name for name, p in model.named_parameters() if p.grad is not None} == set(trained)


def test_the_loss_of_a_picture_does_not_depend_on_the_others_of_its_batch(examples):
    model = personalization().eval()
    together = model.losses(examples)[0]
    for row in range(2):
        alone = Examples(
            examples.image[row : row + 1], examples.texts[row : row + 1], None, examples.seeds[row : row + 1], 1
        )
        torch.testing.assert_close(model.losses(alone)[0], together[row : row + 1], rtol=1e-5, atol=1e-6)


def test_a_masked_loss_is_the_mean_over_what_is_white():
    errors = torch.rand(2, 4, 8, 8)
    mask = torch.zeros(2, 1, 16, 16)
    mask[0, :, :, :8], mask[1] = 1, 1
    found = mean_errors(errors, mask)
    torch.testing.assert_close(found, torch.stack([errors[0, :, :, :4].mean(), errors[1].mean()]))
    assert torch.equal(mean_errors(errors, torch.zeros(2, 1, 16, 16)), torch.zeros(2))


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_min_snr_weights_are_those_of_diffusers_formula(prediction):
    """diffusers.training_utils.compute_snr, and the weights as its examples state them."""
    diffusers = pytest.importorskip("diffusers")
    from diffusers.training_utils import compute_snr

    scheduler = diffusers.DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    t = torch.tensor([0, 10, 300, 999])
    snr = compute_snr(scheduler, t)
    expected = torch.minimum(snr, torch.full_like(snr, 5.0)) / (snr if prediction == "eps" else snr + 1)
    found = personalization(min_snr=5.0, parameterization=prediction).snr_weights(t)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_with_v_loss_each_picture_counts_by_its_timestep(examples):
    plain, weighted = personalization(), personalization(v_loss=True)
    weighted.load_state_dict(plain.state_dict())
    losses, t = plain.losses(examples)
    expected = losses / plain.schedule.alphas_cumprod[t].float()
    torch.testing.assert_close(weighted.losses(examples)[0], expected)


def test_the_prior_loss_is_added_with_its_weight(examples):
    both = Examples(examples.image, ("a photo of <my-cat>", "a cat"), None, examples.seeds, 1)
    rows = Examples(both.image, both.texts, None, both.seeds, 2)
    model = personalization(prior_weight=0.25)
    own, prior = model.losses(rows)[0]
    torch.testing.assert_close(model.losses(both)[0], (own + 0.25 * prior)[None])


def test_the_untrained_model_is_the_one_without_word_and_adapters(examples):
    model = personalization(lora=LORA)
    before = model.losses(examples)[0].detach()
    for _ in range(2):
        step(model, examples)
    after = model.losses(examples)[0].detach()
    with model.untrained():
        torch.testing.assert_close(model.losses(examples)[0].detach(), before)
    torch.testing.assert_close(model.losses(examples)[0].detach(), after)
    assert not torch.allclose(before, after, rtol=1e-3)


def test_logged_images_show_the_fixed_prompts_before_and_after_from_the_same_noise(examples):
    model = personalization(sample_prompts=["a photo of <my-cat>", "a dog"])
    images = model.log_images(examples, n=4, steps=2)
    assert {name: len(batch) for name, batch in images.items()} == {"inputs": 2, "base": 2, "trained": 2}
    assert torch.equal(images["base"], images["trained"]), "nothing was trained yet"
    step(model, examples)
    images = model.log_images(examples, n=4, steps=2)
    assert not torch.allclose(images["base"][0], images["trained"][0], atol=1e-4)
    torch.testing.assert_close(images["base"][1], images["trained"][1], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "params, words",
    [
        ({"words": None}, "nothing would be trained"),
        ({"words": [{"word": "<a>", "inti": "cat"}]}, "did you mean 'init'"),
        ({"words": [{"word": "<a>", "vectors": 0}]}, "from 1 to 64"),
        ({"words": [{"word": "<a>"}, {"word": "<A>"}]}, "name each once"),
        ({"words": [{"word": "my cat"}]}, "spaces separate words"),
        ({"words": [{"word": "<a>", "init": ""}]}, "contains no word"),
        ({"rates": {"lora": 1e-4}}, "rates of words, unet and text"),
        ({"no_such_key": 1}, "no_such_key"),
    ],
)
def test_a_wrong_config_is_one_sentence(params, words):
    with pytest.raises((ConfigError, UserError), match=words):
        instantiate_from_config(config(None, **params) if params != {"words": None} else without_words())


def without_words():
    values = config(None)
    del values["params"]["words"]
    return values


def test_lora_of_any_target_is_built_from_a_config():
    targets = [
        {"part": "unet", "targets": ["resnets", "to_q"], "rank": 3, "alpha": 1.5},
        {"part": "text", "targets": ["mlp"]},
    ]
    model = personalization(lora=targets)
    layers = lora_layers(model.unet)
    assert {(layer.rank, layer.alpha) for layer in layers.values()} == {(3, 1.5)} and len(layers) > 10
    assert len(lora_layers(model.text_stage_model)) == 6
