"""Classes without training are those that configs name, without Lightning and with the same numbers."""

import inspect

import pytest
import torch
from pytorch_lightning import LightningModule
from tiny import MODEL
from torch import nn

from ldm.models.encoders import checksum
from ldm.util.config import WITHOUT_TRAINING, instantiate_from_config, instantiate_without_training, resolve


@pytest.mark.parametrize("published, plain", WITHOUT_TRAINING.items())
def test_a_class_without_training_has_the_name_and_the_parameters_of_the_published_one(published, plain):
    trained, plain = resolve(published), resolve(plain)
    assert issubclass(trained, plain) and trained is not plain and trained.__name__ == plain.__name__
    assert not issubclass(plain, LightningModule)
    assert inspect.signature(trained) == inspect.signature(plain)


def build(function) -> nn.Module:
    torch.manual_seed(0)
    return function(MODEL)


def test_a_model_is_the_same_with_and_without_training():
    trained, plain = build(instantiate_from_config), build(instantiate_without_training)
    assert isinstance(trained, LightningModule) and not isinstance(plain, LightningModule)
    ours, theirs = plain.state_dict(), trained.state_dict()
    assert list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert plain.saved_state().keys() == trained.saved_state().keys()
    assert plain.encoder_checksums() == trained.encoder_checksums() and plain.device == trained.device


@pytest.mark.parametrize("part", ["first_stage_config", "global_stage_config"])
def test_caches_of_encoders_with_training_stay_valid_without_it(part):
    config = MODEL["params"][part]
    trained, plain = (
        build(lambda _: instantiate_from_config(config)),
        build(lambda _: instantiate_without_training(config)),
    )
    assert type(trained) is not type(plain) and checksum(trained) == checksum(plain)
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    encode = [part.encode if part is not None and hasattr(part, "encode") else part for part in (trained, plain)]
    with torch.no_grad():
        assert torch.equal(*(function(image) for function in encode))


def test_messages_name_the_published_class():
    with pytest.raises(ValueError, match=r"ldm\.models\.autoencoder\.AutoencoderKL takes no parameter 'embed'"):
        instantiate_without_training({"target": "ldm.models.autoencoder.AutoencoderKL", "params": {"embed": 4}})
