"""Models load from published checkpoints with their config, and their datasets and fingerprints belong to them."""

import copy

import pytest
import torch
import yaml
from tiny import MODEL, tiny_model

from ldm.checkpoints.reading import CheckpointError
from ldm.models.loading import fingerprint, load_dataset, load_model
from ldm.synthetic.shapes import VOCAB
from ldm.util.errors import UserError

CGIP = {
    "target": "ldm.modules.cgip.cgip.CGIPModel",
    "params": {
        "num_objs": len(VOCAB.objects),
        "num_preds": len(VOCAB.predicates),
        "width": 24,
        "layers": 1,
        "embed_dim": 24,
        "init": "random",
    },
}
UNET = copy.deepcopy(MODEL["params"]["unet_config"])
UNET["params"] |= {"film_embedding_dim": None, "lora_rank": None, "context_local_dim": 72}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A checkpoint of a whole model in the published form, and its config, whose own weight files do not exist."""
    folder = tmp_path_factory.mktemp("published")
    model = tiny_model(freeze_unet=False, cond_stage_config=CGIP, unet_config=UNET, global_stage_config=None)
    torch.save({"state_dict": model.state_dict()}, folder / "whole.ckpt")
    config = copy.deepcopy(model.config)
    config["model"]["params"]["cond_stage_trainable"] = False
    for part in ("first_stage_config", "cond_stage_config"):
        del config["model"]["params"][part]["params"]["init"]
        config["model"]["params"][part]["params"]["ckpt_path"] = "nowhere.ckpt"
    vg = {"target": "ldm.data.vg.VGTrain", "params": {"vocab": str(folder / "vocab.json")}}
    config["data"]["params"]["train"] = vg
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    VOCAB.write(folder / "vocab.json")
    return folder, model


def test_a_published_checkpoint_gives_every_part_of_the_model_its_weights(published):
    folder, model = published
    loaded = load_model(folder / "whole.ckpt", folder / "config.yaml")
    parts = ("model.", "first_stage_model.", "cond_stage_model.")
    ours = {key: value for key, value in loaded.state_dict().items() if key.startswith(parts)}
    theirs = {key: value for key, value in model.state_dict().items() if key.startswith(parts)}
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_loaded_model_has_the_fastest_memory_format(published):
    folder, _ = published
    loaded = load_model(folder / "whole.ckpt", folder / "config.yaml")
    weights = [layer.weight for layer in loaded.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


def test_the_vocabulary_is_read_without_building_the_training_set(published):
    folder, _ = published
    assert load_model(folder / "whole.ckpt", folder / "config.yaml").vocab == VOCAB


def test_a_published_checkpoint_without_a_config_is_refused(published):
    with pytest.raises(CheckpointError, match="config"):
        load_model(published[0] / "whole.ckpt")


def test_a_folder_that_is_no_run_is_refused_without_a_config(tmp_path):
    (tmp_path / "unet").mkdir()
    with pytest.raises(CheckpointError, match="no log folder of a run.*--config"):
        load_model(tmp_path)


def test_a_folder_without_weights_is_refused_with_the_files_in_it(published):
    folder, _ = published
    with pytest.raises(CheckpointError, match="name a file in it: whole.ckpt"):
        load_model(folder, folder / "config.yaml")


def test_parts_that_a_folder_lacks_come_from_the_files_that_the_config_names(published, tmp_path):
    folder, model = published
    (tmp_path / "unet").mkdir()
    torch.save(model.unet.state_dict(), tmp_path / "unet" / "diffusion_pytorch_model.bin")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    for part in ("first_stage_config", "cond_stage_config"):
        config["model"]["params"][part]["params"]["ckpt_path"] = str(folder / "whole.ckpt")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert fingerprint(load_model(tmp_path, tmp_path / "config.yaml")) == fingerprint(
        load_model(folder / "whole.ckpt", folder / "config.yaml")
    )


def test_a_split_that_is_not_in_the_config_is_refused_by_name(published):
    model = load_model(published[0] / "whole.ckpt", published[0] / "config.yaml")
    assert len(load_dataset(model, "validation")) == 4
    with pytest.raises(UserError, match="no split 'test', only train, validation"):
        load_dataset(model, "test")


def test_the_fingerprint_changes_with_the_weights_only(published):
    folder, _ = published
    model = load_model(folder / "whole.ckpt", folder / "config.yaml")
    before = fingerprint(model)
    assert before == fingerprint(load_model(folder / "whole.ckpt", folder / "config.yaml"))
    next(model.first_stage_model.parameters())[0] += 1e-3
    assert fingerprint(model) != before


def test_the_fingerprint_of_given_weights_never_changes():
    model = torch.nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0]]))
        model.bias.zero_()
    assert fingerprint(model) == "091d44d3c8623806"  # records hold these
