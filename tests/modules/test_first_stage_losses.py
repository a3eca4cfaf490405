"""The losses that make first stages crisp have their published values, and each reaches its own network only."""

import pytest
import torch
from torch import nn

from ldm.modules.losses.discriminator import PatchDiscriminator, discriminator_loss, generator_loss
from ldm.modules.losses.feature_distance import FeatureDistance, tiles
from ldm.modules.losses.perceptual_adversarial import PerceptualAdversarialLoss, adaptive_weight
from ldm.util.config import instantiate_from_config
from ldm.util.errors import ConfigError

TOWER = {
    "target": "ldm.modules.global_film.CLIPGlobalEncoder",
    "params": {
        "init": "random",
        "model_name": {"embed_dim": 8, "image_size": 16, "layers": 2, "width": 16, "patch_size": 8, "head_width": 8},
    },
}


def images(count: int = 2, side: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(count)) * 2 - 1


class LastLayer(nn.Module):
    """A first stage that is its last layer: a 1 x 1 convolution that begins near the identity."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3)[:, :, None, None] + 0.1 * torch.randn(3, 3, 1, 1))

    def forward(self, image):
        return nn.functional.conv2d(image, self.weight)


def test_the_hinge_losses_have_their_closed_form():
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0, 0.5])
    assert discriminator_loss(real, fake).item() == pytest.approx(((0 + 0.5 + 2) / 3 + (0 + 1 + 1.5) / 3) / 2)
    assert generator_loss(fake).item() == pytest.approx(2.5 / 3)


@pytest.mark.parametrize("layers, patch", [(1, 16), (2, 34), (3, 70)])
def test_the_discriminator_judges_patches_of_the_published_size(layers, patch):
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(8, layers)
    discriminator.main = nn.Sequential(*(m for m in discriminator.main if not isinstance(m, nn.GroupNorm)))
    image = torch.zeros(1, 3, 128, 128, requires_grad=True)
    judged = discriminator(image)
    judged[0, 0, judged.shape[2] // 2, judged.shape[3] // 2].backward()
    rows = image.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert rows[-1] - rows[0] + 1 == patch


def test_the_judgement_of_an_image_does_not_depend_on_the_rest_of_the_batch():
    discriminator = PatchDiscriminator(8, 2)
    torch.testing.assert_close(discriminator(images(3))[:1], discriminator(images(3)[:1]))


def test_the_adaptive_weight_is_the_ratio_of_the_gradients_norms():
    layer = nn.Parameter(torch.tensor([3.0, 4.0]))
    loss, adversarial = (layer * torch.tensor([6.0, 8.0])).sum(), (layer * torch.tensor([0.0, 5.0])).sum()
    assert adaptive_weight(loss, adversarial, layer).item() == pytest.approx(10 / 5, rel=1e-4)
    assert adaptive_weight(loss, 0 * adversarial, layer) == 1e4  # its upper limit


def test_the_adaptive_weight_gives_the_adversarial_gradient_its_share():
    torch.manual_seed(0)
    first_stage, image = LastLayer(), images()
    losses = PerceptualAdversarialLoss(adversarial_weight=0.25, channels=8, layers=1)
    reconstruction = first_stage(image)
    pixel_loss = (reconstruction - image).abs().mean()
    gradient = torch.autograd.grad(pixel_loss, first_stage.weight, retain_graph=True)[0]
    added, _ = losses(image, reconstruction, pixel_loss, first_stage.weight, 0)
    adversarial = torch.autograd.grad(added, first_stage.weight)[0]
    assert adversarial.norm().item() == pytest.approx(0.25 * gradient.norm().item(), rel=0.05)


@pytest.mark.parametrize("adversarial_start", [0, 5])
def test_each_loss_reaches_its_own_network_only(adversarial_start):
    torch.manual_seed(0)
    first_stage, image = LastLayer(), images()
    losses = PerceptualAdversarialLoss(adversarial_start=adversarial_start, adaptive=False, channels=8, layers=1)
    added, values = losses(image, first_stage(image), torch.zeros(()), first_stage.weight, 1)
    added.backward()
    gradients = [parameter.grad.clone() for parameter in losses.discriminator.parameters()]
    assert ("generator_loss" in values) == (first_stage.weight.grad is not None) == (adversarial_start == 0)

    losses.zero_grad()
    real, fake = losses.discriminator(image), losses.discriminator(first_stage(image).detach())
    discriminator_loss(real, fake).backward()
    for gradient, parameter in zip(gradients, losses.discriminator.parameters()):
        torch.testing.assert_close(gradient, parameter.grad)


def test_before_its_start_the_discriminator_has_zero_gradients_and_adds_nothing():
    losses = PerceptualAdversarialLoss(discriminator_start=3, channels=8, layers=1)
    image = images()
    for step, started in ((2, False), (3, True)):
        losses.zero_grad()
        first_stage = LastLayer()
        reconstruction = first_stage(image)
        added, _ = losses(image, reconstruction, reconstruction.square().mean(), first_stage.weight, step)
        added.backward()
        assert bool(added) == started
        assert all(parameter.grad is not None for parameter in losses.discriminator.parameters())
        assert any(parameter.grad.any() for parameter in losses.discriminator.parameters()) == started


def test_without_weight_and_tower_nothing_is_added():
    losses = PerceptualAdversarialLoss(adversarial_weight=0)
    assert list(losses.parameters()) == [] and losses.parts() == {}
    assert losses(images(), images(), torch.ones(()), torch.ones(()), 0) == (0, {})


def test_the_feature_distance_is_zero_for_equal_images_and_has_a_gradient_for_others():
    distance = FeatureDistance(instantiate_from_config(TOWER))
    image = images().requires_grad_()
    assert distance(images(), images()) == 0
    distance(image, images(3)[:2]).backward()
    assert image.grad.abs().amax((1, 2, 3)).min() > 0
    assert not any(parameter.requires_grad for parameter in distance.parameters())


def test_the_feature_distance_compares_standardised_tokens_after_each_block():
    distance, a, b = FeatureDistance(instantiate_from_config(TOWER)), images(side=16), images(3, 16)[:2]
    visual = distance.tower.visual
    tokens = []
    for image in (a, b):
        x = visual._embeds(distance.tower.preprocess(image))
        layers = []
        for block in visual.transformer.resblocks:
            x = block(x)
            layers.append((x - x.mean(-1, keepdim=True)) / x.std(-1, unbiased=False, keepdim=True))
        tokens.append(torch.stack(layers))
    torch.testing.assert_close(distance(a, b), (tokens[0] - tokens[1]).square().mean(), rtol=1e-3, atol=0)


def test_tiles_show_every_pixel_once_at_full_resolution():
    image = images(2, 32)
    cut = tiles(image, 16)
    assert cut.shape == (8, 3, 16, 16)
    assert torch.equal(cut[1], image[0, :, :16, 16:]) and torch.equal(cut[6], image[1, :, 16:, :16])
    assert tiles(image[:, :, :31], 16) is not None and tiles(image[:, :, :31], 16).shape == (2, 3, 31, 32)


def test_a_wrong_tower_or_weight_is_refused_in_one_sentence():
    with pytest.raises(ConfigError, match="Identity has no patches"):
        PerceptualAdversarialLoss(tower={"target": "torch.nn.Identity"})
    with pytest.raises(ValueError, match="feature_weight is -1"):
        PerceptualAdversarialLoss(feature_weight=-1)
