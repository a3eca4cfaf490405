"""scripts/curate.py from pictures to a set: what it writes, refuses and repeats, and that training reads it."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from paths import ROOT, SHARED
from pile import central_crop, mirrored, picture, save, write_pile

from ldm.data.curated import CuratedError, CuratedTrain, CuratedValidation
from ldm.data.datamodule import build_datasets
from ldm.data.protocols import SceneGraphDataset
from ldm.util.config import instantiate_from_config
from ldm.util.errors import ConfigError


@pytest.fixture
def pile(tmp_path):
    """Twelve pictures in two folders, of which three have a fault planted beside them."""
    for label, first in (("cups", 0), ("pens", 20)):
        write_pile(tmp_path / "pile" / label, 6, first)
    shutil.copy(tmp_path / "pile/cups/a00.png", tmp_path / "pile/cups/z_copy.png")
    save(picture(1).resize((80, 80)), tmp_path / "pile/cups/z_small.jpg", quality=60)
    save(mirrored(picture(20)), tmp_path / "pile/pens/z_flip.png")
    save(central_crop(picture(21)), tmp_path / "pile/pens/z_crop.png")
    return tmp_path / "pile"


@pytest.fixture
def curate(load_script, tmp_path, capsys):
    """curate(words...) -> exit code, output, errors; crops are searched only where --crop-neighbours says so."""

    def run(*words, out="set"):
        words = ["--out", str(tmp_path / out), "--crop-neighbours", "0", *map(str, words)]
        code = load_script("curate").main(words)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def lines(folder) -> dict[str, dict]:
    return {line["name"]: line for line in map(json.loads, (folder / "metadata.jsonl").read_text().splitlines())}


def test_planted_faults_are_removed_each_with_its_reason_and_keeper(curate, pile, tmp_path):
    code, out, _ = curate("--images", pile, "--tower", "pixels", "--crop-neighbours", 15)
    assert code == 0 and "wrote 12 pictures" in out
    found = lines(tmp_path / "set")
    removed = {
        name: (line["reason"].partition(" (")[0], line["keeper"]) for name, line in found.items() if not line["kept"]
    }
    assert removed.pop("pens/z_crop.png", None) or removed.pop("pens/a01.png")  # of equal size, the sharper one is kept
    assert removed == {
        "cups/z_copy.png": ("exact copy", "cups/a00.png"),
        "cups/z_small.jpg": ("near duplicate", "cups/a01.png"),
        "pens/z_flip.png": ("mirror image", "pens/a00.png"),
    }
    assert (tmp_path / "set/train.txt").read_text().split() == [name for name, line in found.items() if line["kept"]]
    assert found["cups/a00.png"]["reason"].startswith("kept of its duplicates: the largest")


def test_the_report_is_one_page_that_opens_offline(curate, pile, tmp_path):
    curate("--images", pile, "--tower", "pixels", "--clusters", 2)
    page = (tmp_path / "set/report.html").read_text()
    assert not re.search(r"(src|href)=[\"'](?!data:)", page) and "http" not in page.replace("http-equiv", "")
    assert page.count("data:image/jpeg;base64,") > 20 and page.count("<circle") == 13  # the enlarged crop is kept
    for heading in ("Pictures after each stage", "Duplicates", "Clusters", "Map", "Coverage of words"):
        assert f"<h2>{heading}</h2>" in page


def test_its_yaml_repeats_it(curate, pile, tmp_path):
    curate(
        "--images",
        pile,
        "--tower",
        "pixels",
        "--validation-share",
        0.3,
        "--seed",
        3,
        "--cap",
        4,
        "--balance-by",
        "label",
    )
    again = yaml.safe_load((tmp_path / "set/curation.yaml").read_text())
    assert again["images"] == [str(pile)] and again["options"]["cap"] == 4
    code, *_ = curate("--again", tmp_path / "set/curation.yaml", out="again")
    first, second = lines(tmp_path / "set"), lines(tmp_path / "again")
    assert code == 0 and [(n, x["kept"], x["split"]) for n, x in first.items()] == [
        (n, x["kept"], x["split"]) for n, x in second.items()
    ]
    assert {x["split"] for x in first.values()} == {"train", "validation"}


def test_names_by_hand_are_respected_by_the_second_run(curate, pile, tmp_path):
    words = ("--images", pile, "--tower", "pixels", "--clusters", 2)
    curate(*words)
    path = tmp_path / "set/clusters.yaml"
    entries = yaml.safe_load(path.read_text())
    entries[0]["name"] = "Things"
    path.write_text(yaml.safe_dump(entries))
    curate(*words)
    assert "Things" in {line.get("cluster") for line in lines(tmp_path / "set").values()}


def test_a_leak_between_splits_ends_it_with_one_sentence(curate, pile, tmp_path):
    save(picture(2), tmp_path / "other/q.jpg", quality=70)
    save(picture(77), tmp_path / "other/r.png")
    words = ("--images", pile, f"validation={tmp_path / 'other'}", "--tower", "pixels")
    code, _, err = curate(*words)
    assert code == 2 and "train's cups/a02.png and validation's q.jpg" in err and err.count("\n") <= 3
    code, *_ = curate(*words, "--leaks", "remove")
    found = lines(tmp_path / "set")
    assert code == 0 and found["q.jpg"]["kept"] and found["cups/a02.png"]["reason"].startswith("leak: near duplicate")


def test_a_dry_run_counts_and_writes_nothing(curate, pile, tmp_path):
    code, out, _ = curate("--images", pile, "--dry-run")
    assert code == 0 and "16 pictures: 16 train" in out and "2 labels: cups 8, pens 8" in out
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "name pictures with --images"),
        (("--images", "nowhere"), "there is no such file or folder"),
        (
            ("--images", "PILE", "--tower", "pixels", "--min-side", "500"),
            "no picture is left of 16; 15 were removed for: 96 pixels",
        ),
        (("--images", "PILE", "--tower", "ViT-Q"), "--tower"),
        (("--images", "PILE", "--num-shards", "2"), "together"),
        (("--images", "PILE", "--cap", "3"), "say what it counts"),
        (("--images", "PILE", "--tower", "pixels", "--triggers", "mugs=q"), "mugs=q is in no caption"),
    ],
)
def test_mistakes_are_one_sentence(curate, pile, words, message):
    code, _, err = curate(*(str(pile) if word == "PILE" else word for word in words))
    assert code == 2 and message in err.splitlines()[-1] and "Traceback" not in err


# The result as a data set ----------------------------------------------------------------------------------------------


def test_training_reads_the_kept_pictures_of_its_split(curate, pile, tmp_path):
    curate("--images", pile, "--tower", "pixels", "--validation-share", 0.3)
    section = {"params": {"root": str(tmp_path / "set"), "image_size": 32}}
    built = build_datasets(
        {
            "train": {"target": "ldm.data.curated.CuratedTrain", **section},
            "validation": {"target": "ldm.data.curated.CuratedValidation", **section},
        }
    )
    kept = [line for line in lines(tmp_path / "set").values() if line["kept"]]
    assert len(built["train"]) + len(built["validation"]) == len(kept)
    image, graph = built["train"][0]
    assert image.shape == (3, 32, 32) and graph.objects in (("cups",), ("pens",)) and graph.known_triples == ()
    assert isinstance(built["train"], SceneGraphDataset) and list(built["train"].check()) == []
    assert built["train"].vocab == built["validation"].vocab


def test_a_choice_from_another_data_set_keeps_its_graphs_and_names(realdata, curate, tmp_path):
    folder = realdata / "coco_instances_tiny_coco"
    annotations = next(folder.rglob("instances_train*.json"))
    images = next(path.parent for path in folder.rglob("*.jpg"))
    source = {
        "target": "ldm.data.coco.COCOTrain",
        "params": {"image_dir": str(images), "instances_json": str(annotations), "stuff_only": False, "image_size": 32},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"data": {"params": {"train": source}}}))
    code, _, err = curate("--config", tmp_path / "c.yaml", "--tower", "pixels", "--cap", 2, "--balance-by", "object")
    assert code == 0, err
    whole = instantiate_from_config(source)
    chosen = CuratedTrain(tmp_path / "set", dataset=source)
    assert 0 < len(chosen) < len(whole) and set(chosen.image_names()) < set(whole.image_names())
    row = whole.image_names().index(chosen.image_names()[0])
    assert chosen[0][1] == whole[row][1] and chosen.image_path(0) == whole.image_path(row)
    assert chosen.image_size == 32


def test_a_set_that_is_missing_broken_or_empty_is_named(curate, pile, tmp_path):
    with pytest.raises(CuratedError, match="there is no curated set"):
        CuratedTrain(tmp_path)
    curate("--images", pile, "--tower", "pixels")
    with pytest.raises(CuratedError, match="no picture of validation"):
        CuratedValidation(tmp_path / "set")
    with pytest.raises(ConfigError, match="split must be"):
        CuratedTrain(tmp_path / "set", split="all")
    (tmp_path / "set/metadata.jsonl").write_text("{}\n")
    with pytest.raises(CuratedError, match="line 1"):
        CuratedTrain(tmp_path / "set")


# Several processes, and real pictures ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_write_the_set_of_one(curate, pile, tmp_path):
    words = ["--images", str(pile), "--tower", "pixels", "--shard-size", "5", "--crop-neighbours", "15"]
    curate(*words, out="one")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "scripts/curate.py", "--out", str(tmp_path / "two"), *words, "--num-shards", "2"]
    processes = [subprocess.Popen([*command, "--shard-index", f"{i}"], cwd=ROOT, env=environment) for i in (1, 0)]
    assert [process.wait(120) for process in processes] == [0, 0]
    assert (tmp_path / "one/metadata.jsonl").read_text() == (tmp_path / "two/metadata.jsonl").read_text()


@pytest.mark.slow
def test_near_duplicates_of_real_film_frames_are_of_one_clip(curate, tmp_path):
    photos = SHARED / "photos" / "instances_val.json"
    if not photos.is_file():
        pytest.skip(f"the photographs are not beside the checkout ({photos})")
    words = ("--images", f"validation={photos}", "--only", "kind=real", "--tower", "pixels", "--crop-neighbours", 0)
    code, out, _ = curate(*words, "--clustering", "none", "--group-by", "clip")
    share = float(re.search(r"([\d.]+)% of \d+ pairs of duplicates are within one clip", out)[1])
    assert share > 99
    found = lines(tmp_path / "set")
    removed = [line for line in found.values() if not line["kept"]]
    assert code == 0 and len(removed) > 250
    assert sum(found[line["keeper"]]["clip"] == line["clip"] for line in removed) > 0.99 * len(removed)


@pytest.mark.slow
def test_a_split_of_real_film_frames_by_picture_is_refused_as_leaky(load_script, tmp_path, capsys):
    photos = SHARED / "photos" / "instances_val.json"
    if not photos.is_file():
        pytest.skip(f"the photographs are not beside the checkout ({photos})")
    data = json.loads(photos.read_text())
    real = [image for image in data["images"] if image["kind"] == "real"][:600]
    sources = []
    for split, images in (("train", real[::2]), ("validation", real[1::2])):
        path = tmp_path / split / "metadata.jsonl"
        path.parent.mkdir()
        named = [{**image, "file_name": str(photos.parent / "images" / image["file_name"])} for image in images]
        path.write_text("\n".join(map(json.dumps, named)))
        sources.append(f"{split}={path}")
    words = ["--out", str(tmp_path / "set"), "--tower", "pixels", "--crop-neighbours", "0", "--images", *sources]
    assert load_script("curate").main(words) == 2
    assert re.search(r"\d{2,} pairs of pictures leak between splits", capsys.readouterr().err)
