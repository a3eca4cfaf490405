from functools import partial
from pathlib import Path

import pytest
import torch
from coco_files import write_coco
from noise_vg import encoders_of, vg_params, write_noise_vg
from tiny import tiny_model

from ldm.data.cache_writing import write_cache
from ldm.data.vg import VGTrain


@pytest.fixture
def bad_inputs() -> Path:
    """The folder of inputs that readers once failed on."""
    folder = Path(__file__).resolve().parents[3] / "shared/bad_inputs"
    if not folder.is_dir():
        pytest.skip(f"the bad inputs are not beside the checkout ({folder})")
    return folder


@pytest.fixture(scope="session")
def noise_vg(tmp_path_factory):
    """The folder of a preprocessed Visual Genome of noise images."""
    return write_noise_vg(tmp_path_factory.mktemp("vg"))


@pytest.fixture
def dataset(noise_vg):
    """The training set of `noise_vg`."""
    return VGTrain(**vg_params(noise_vg))


@pytest.fixture(scope="session")
def model():
    """A tiny model whose trainable parameters are random, so that graphs and styles have an effect."""
    torch.manual_seed(1)
    model = tiny_model()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture(scope="session")
def cache(noise_vg, model, tmp_path_factory):
    """A complete cache of the training and validation splits, in shards of 4 and 2 images."""
    folder = tmp_path_factory.mktemp("cache")
    for split, options in (("train", {}), ("validation", {"max_samples": 2})):
        dataset = VGTrain(**vg_params(noise_vg, **options))
        result = write_cache(dataset, folder / split, *encoders_of(model), shard_size=4)
        assert result.missing == 0 and result.written == result.images
    return folder


@pytest.fixture
def coco(tmp_path):
    """coco(annotations, stuff=None, **options) -> COCOValidation, with its files in tmp_path."""
    return partial(write_coco, tmp_path)
