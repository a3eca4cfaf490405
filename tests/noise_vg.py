"""A preprocessed Visual Genome of noise images, and a tiny model whose latents of it can be cached."""

from pathlib import Path

import h5py
import numpy as np
from PIL import Image
from tiny import MODEL

from ldm.data.datamodule import DataModuleFromConfig
from ldm.models.encoders import make_encode_function
from ldm.synthetic.shapes import VOCAB

IMAGES = 6
QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


def write_noise_vg(folder: Path) -> Path:
    """Writes 6 images of two objects, one left of the other, with vocab.json and made.h5. Returns the folder."""
    (folder / "images/VG_100K").mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [f"VG_100K/{index}.png" for index in range(IMAGES)]
    for index, name in enumerate(names):
        pixels = rng.integers(0, 256, (30, 40 + index, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / name)
    VOCAB.write(folder / "vocab.json")
    arrays = {
        "image_paths": [name.encode() for name in names],
        "objects_per_image": [2] * IMAGES,
        "object_names": [[1, 2]] * IMAGES,
        "object_boxes": [[[0, 3, 10, 12], [20, 6, 12, 9]]] * IMAGES,
        "object_attributes": [[0, -1]] * 2 * IMAGES,
        "relationships_per_image": [1] * IMAGES,
        "relationship_subjects": [[0]] * IMAGES,
        "relationship_predicates": [[VOCAB.predicate_id("left of")]] * IMAGES,
        "relationship_objects": [[1]] * IMAGES,
    }
    with h5py.File(folder / "made.h5", "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return folder


def vg_params(folder: Path, **options) -> dict:
    """Parameters of VGTrain for the files in `folder`, 32 px."""
    files = {"vocab": folder / "vocab.json", "h5_path": folder / "made.h5", "image_dir": folder / "images"}
    return {**{name: str(path) for name, path in files.items()}, "image_size": 32, **options}


def data_module(folder: Path, **options) -> DataModuleFromConfig:
    """The data module of the files in `folder`; its validation set is the first two images."""
    train = {"target": "ldm.data.vg.VGTrain", "params": vg_params(folder)}
    validation = {"target": "ldm.data.vg.VGValidation", "params": vg_params(folder, max_samples=2)}
    return DataModuleFromConfig(3, train, validation, num_workers=0, **options)


def encoders_of(model):
    """The encode function and the checksums of a model's encoders, as `write_cache` takes them."""
    return make_encode_function(model.first_stage_model, model.global_stage_model), model.encoder_checksums()


def training_config(folder: Path) -> dict:
    """A training config for the tiny model and the files in `folder`, without validation set."""
    train = {"target": "ldm.data.vg.VGTrain", "params": vg_params(folder)}
    data = {"target": "ldm.data.datamodule.DataModuleFromConfig"}
    data["params"] = {"batch_size": 3, "num_workers": 0, "train": train}
    return {"model": {**MODEL, "base_learning_rate": 1e-4}, "data": data}
