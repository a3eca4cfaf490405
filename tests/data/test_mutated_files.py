"""Readers of data answer a damaged file with one sentence, or read it, whatever the damage."""

import contextlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from clevr_scenes import make_scene
from coco_files import HEIGHT, WIDTH, rectangle, write_coco
from mutations import mutate_bytes, mutate_h5, mutate_json
from noise_vg import vg_params
from PIL import Image
from raw_vg import inputs, write_raw_vg

from ldm.data import doctor
from ldm.data.cache import CachedDataset
from ldm.data.clevr import CLEVR
from ldm.data.coco import COCOTrain
from ldm.data.vg import VGTrain
from ldm.data.vg_preprocess import preprocess
from ldm.util.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore")  # numpy's and pycocotools' about odd values
FEW, MANY = 200, 4000


def use(build: Callable) -> None:
    """Builds a data set and uses all of it: samples, names, summary and --check."""
    dataset = build()
    doctor.report("train", dataset, list(dataset.check()))
    for index in range(min(len(dataset), 4)):
        with contextlib.suppress(UserError):
            dataset[index]
    dataset.image_names()


def outcomes(use: Callable[[random.Random], None], seeds: range) -> dict[str, int]:
    """How many mutations were read and how many were refused; fails for any exception but a UserError of one line."""
    counts = {"read": 0, "refused": 0}
    for seed in seeds:
        try:
            use(random.Random(seed))
            counts["read"] += 1
        except UserError as error:
            counts["refused"] += 1
            assert "\n" not in str(error), f"mutation {seed}: {error}"
        except Exception as error:
            raise AssertionError(f"mutation {seed}: {type(error).__name__}: {error}") from error
    return counts


@pytest.fixture
def coco_files(tmp_path) -> Path:
    """A folder of instances.json and stuff.json, with masks of all forms, and their images."""
    folder = tmp_path / "coco"
    folder.mkdir()
    counts = {"size": [HEIGHT, WIDTH], "counts": [300, 100, WIDTH * HEIGHT - 400]}
    text = {"size": [HEIGHT, WIDTH], "counts": "0c]1U1"}
    things = [rectangle(14 * k, 0, 12, 40, image=image) for image in (1, 2) for k in range(3)]
    things += [{**rectangle(5, 5, 30, 30, category=3), "segmentation": mask} for mask in (counts, text, [], None)]
    write_coco(folder, things, [rectangle(0, 20, 60, 20, category=92, image=image) for image in (1, 2)])
    return folder


@pytest.fixture
def clevr_files(tmp_path) -> Path:
    """A folder of scenes.json and its image."""
    folder = tmp_path / "clevr"
    folder.mkdir()
    Image.new("RGB", (120, 80)).save(folder / "one.png")
    (folder / "scenes.json").write_text(json.dumps({"scenes": [make_scene(), make_scene()]}))
    return folder


@pytest.fixture(params=[range(FEW), pytest.param(range(FEW, FEW + MANY), marks=pytest.mark.slow)], ids=["few", "many"])
def seeds(request):
    return request.param


def test_damaged_h5_files_of_visual_genome(noise_vg, tmp_path, seeds, capsys):
    def read(rng):
        path = shutil.copy(noise_vg / "made.h5", tmp_path / "made.h5")
        mutate_h5(Path(path), rng)
        use(lambda: VGTrain(**vg_params(noise_vg, h5_path=str(path), image_size=8)))

    counts = outcomes(read, seeds)
    assert min(counts.values()) > 0


def test_damaged_annotations_of_coco(coco_files, tmp_path, seeds, capsys):
    things, stuff = (json.loads((coco_files / f"{name}.json").read_text()) for name in ("instances", "stuff"))

    def read(rng):
        paths = [tmp_path / "instances.json", tmp_path / "stuff.json"]
        damaged = rng.randrange(2)
        for number, (path, data) in enumerate(zip(paths, (things, stuff))):
            path.write_bytes(mutate_json(data, rng) if number == damaged else json.dumps(data).encode())
        size = rng.choice([None, 16])
        use(lambda: COCOTrain(coco_files, *paths, min_objects_per_image=1, image_size=8, mask_size=size))

    counts = outcomes(read, seeds)
    assert min(counts.values()) > 0


def test_damaged_scenes_of_clevr(clevr_files, tmp_path, seeds, capsys):
    scenes = json.loads((clevr_files / "scenes.json").read_text())

    def read(rng):
        (tmp_path / "scenes.json").write_bytes(mutate_json(scenes, rng))
        use(lambda: CLEVR(clevr_files, tmp_path / "scenes.json", image_size=8))

    counts = outcomes(read, seeds)
    assert min(counts.values()) > 0


def test_damaged_caches(noise_vg, cache, tmp_path, seeds):
    dataset = VGTrain(**vg_params(noise_vg))
    index = json.loads((cache / "train/index.json").read_text())

    def read(rng):
        shutil.copytree(cache / "train", tmp_path / "train", dirs_exist_ok=True)
        if rng.random() < 0.5:
            (tmp_path / "train/index.json").write_bytes(mutate_json(index, rng))
        else:
            shard = tmp_path / "train" / rng.choice(["00000.npy", "00001.npy"])
            shard.write_bytes(mutate_bytes(shard.read_bytes(), rng, most=200))
        cached = CachedDataset(dataset, tmp_path / "train")
        for number in range(len(cached)):
            assert cached[number] and cached.flipped_image(number)

    counts = outcomes(read, seeds)
    assert min(counts.values()) > 0


def test_damaged_raw_files_of_visual_genome(tmp_path, seeds, capsys):
    folder, out = tmp_path / "a/raw", tmp_path / "a/b/out"
    folder.mkdir(parents=True)
    write_raw_vg(folder, {"train": [1, 2], "val": [3]}, ids=(1, 2, 3))
    originals = {path.name: path.read_bytes() for path in folder.iterdir()}
    few = {f"min_{what}_instances": 1 for what in ("object", "attribute", "relationship")}
    files = {"output_vocab_json": str(out / "vocab.json"), "output_h5_dir": str(out)}
    options = inputs(folder, min_objects_per_image=2, **few, **files)

    def read(rng):
        for name, content in originals.items():
            (folder / name).write_bytes(content)
        shutil.rmtree(out, ignore_errors=True)
        name = rng.choice(sorted(originals))
        damaged = mutate_bytes(originals[name], rng)
        if name.endswith(".json"):
            damaged = mutate_json(json.loads(originals[name]), rng)
        (folder / name).write_bytes(damaged)
        try:
            preprocess(options)
        except UserError:
            assert not out.exists() or not list(out.iterdir()), "something was written"
            raise
        finally:
            assert set(tmp_path.rglob("*.h5")) == set(out.glob("*.h5")), "something was written elsewhere"
        assert (out / "vocab.json").is_file() and (out / "train.h5").is_file()

    counts = outcomes(read, seeds)
    assert min(counts.values()) > 0
