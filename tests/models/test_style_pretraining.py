"""Pre-training of image towers on styles: the loss in closed form, what it trains, and what it learns."""

import pytest
import torch
from test_pretraining import IMAGE, demo

from ldm.models.style_pretraining import StylePretraining
from ldm.util.errors import ConfigError


def make(**params) -> StylePretraining:
    torch.manual_seed(0)
    return StylePretraining(IMAGE, warmup_steps=0, **params)


def test_the_loss_is_the_cross_entropy_of_finding_each_ones_reference():
    model, batch = make(), demo(reference=True)
    image, reference = (model.style_embedding(x).double() for x in (batch.image, batch.reference))
    similar = 10 * image @ reference.T
    rows, columns = (torch.log_softmax(similar, dim).diagonal().mean() for dim in (1, 0))
    assert model.training_step(batch, 0).item() == pytest.approx(-(rows + columns).item() / 2, rel=1e-5)


def test_every_parameter_has_a_gradient():
    model = make()
    model.training_step(demo(reference=True), 0).backward()
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert names and all(model.get_parameter(name).grad is not None for name in names)


def test_embeddings_have_length_1_and_do_not_depend_on_the_rest_of_the_batch():
    model, batch = make(), demo(reference=True)
    embedding = model.style_embedding(batch.image)
    assert torch.allclose(embedding.norm(dim=1), torch.ones(6), atol=1e-6)
    assert torch.allclose(model.style_embedding(batch.image[:2]), embedding[:2], atol=1e-5)


def test_it_learns_to_find_references_by_their_background():
    model, batch = make(), demo(reference=True)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        model.training_step(batch, 0).backward()
        optimizer.step()
    image, reference = model.pair(batch)
    assert ((image @ reference.T).argmax(1) == torch.arange(6)).float().mean() > 0.8


def test_data_without_references_are_refused_with_what_to_do():
    with pytest.raises(ConfigError, match="set `reference: true` in the data set"):
        make().training_step(demo(), 0)
