"""A model's vocabulary is known before the model is loaded."""

import copy

import pytest
import torch
import yaml
from tiny import tiny_model

from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import GraphError
from ldm.models import vocabulary
from ldm.models.export import export_adapters
from ldm.models.vocabulary import check_names, read_vocab
from ldm.synthetic.shapes import VOCAB


@pytest.fixture(scope="module")
def files(checkpoint, tmp_path_factory):
    """Adapters, a vocabulary, and two configs: one whose data set has the vocabulary, and one that names its file."""
    folder = tmp_path_factory.mktemp("files")
    export_adapters(checkpoint, folder / "adapters.safetensors")
    config = copy.deepcopy(tiny_model().config)
    (folder / "demo.yaml").write_text(yaml.safe_dump(config))
    VOCAB.write(folder / "vocab.json")
    train = {"target": "ldm.data.vg.VGTrain", "params": {"vocab": str(folder / "vocab.json"), "h5_path": "nowhere"}}
    (folder / "vg.yaml").write_text(yaml.safe_dump(config | {"data": {"params": {"train": train}}}))
    torch.save({"state_dict": {}}, folder / "published.ckpt")
    return folder


def test_runs_checkpoints_adapters_and_configs_tell_their_vocabulary(checkpoint, files):
    for source in (checkpoint, checkpoint.parents[1], files / "adapters.safetensors"):
        assert read_vocab(source) == VOCAB
    for config in ("demo.yaml", "vg.yaml"):
        assert read_vocab(None, files / config) == VOCAB
        assert read_vocab(files / "published.ckpt", files / config) == VOCAB


def test_files_without_a_vocabulary_are_left_to_the_loading_of_the_model(files):
    (files / "damaged.ckpt").write_bytes(b"damaged")
    for name in ("published.ckpt", "damaged.ckpt", "missing.ckpt", ""):
        assert read_vocab(files / name) is None
    check_names({"graph": SceneGraph(("cirle",))}, files / "damaged.ckpt", None)


def test_an_unknown_name_is_an_error_that_says_where_it_is(checkpoint):
    check_names({"graph.json": SceneGraph(("circle",))}, checkpoint, None)
    with pytest.raises(GraphError, match="^graph.json, objects.0.: .*did you mean 'circle'"):
        check_names({"graph.json": SceneGraph(("cirle",))}, checkpoint, None)


def test_a_data_set_is_built_once_for_its_vocabulary(files, monkeypatch):
    built = []
    build = vocabulary.instantiate_from_config
    monkeypatch.setattr(vocabulary, "instantiate_from_config", lambda config: built.append(config) or build(config))
    vocabulary._vocab_of_dataset.cache_clear()
    for _ in range(2):
        read_vocab(None, files / "demo.yaml")
    assert len(built) == 1
