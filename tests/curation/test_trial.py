"""A pool with planted junk, and the comparison of its curated half with a random one."""

import json
import math
import random
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from ldm.curation.measures import measure
from ldm.curation.planted import JUNK, PLANTED, spoil, write_pool
from ldm.data.curated import CuratedTrain
from ldm.graph.scene_graph import SceneGraph
from ldm.synthetic.checker import check
from ldm.synthetic.worlds import WORLDS


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool")
    write_pool(folder, 60, seed=1)
    return folder


@pytest.fixture
def lines(pool):
    return [json.loads(line) for line in (pool / "metadata.jsonl").read_text().splitlines()]


def test_half_of_the_pool_is_junk_of_five_kinds_and_another_seed_draws_another(pool, lines, tmp_path):
    counts = Counter(line[PLANTED] for line in lines)
    assert counts == {"nothing": 30, **dict.fromkeys(JUNK, 6)}
    write_pool(tmp_path, 60, seed=1)
    assert (tmp_path / "metadata.jsonl").read_text() == (pool / "metadata.jsonl").read_text()
    write_pool(tmp_path, 60, seed=2)
    assert (tmp_path / "metadata.jsonl").read_text() != (pool / "metadata.jsonl").read_text()


def test_a_good_picture_is_what_its_graph_says_and_a_mirrored_one_is_not(pool, lines):
    def passes(line):
        graph = SceneGraph.from_json(line["graph"])
        return check(graph, Image.open(pool / line["file_name"])).passed

    good = [passes(line) for line in lines if line[PLANTED] == "nothing"]
    mirrored = [passes(line) for line in lines if line[PLANTED] == "mirrored"]
    assert sum(good) >= 0.9 * len(good) and sum(mirrored) < len(mirrored)


def test_what_is_spoilt_has_the_fault_that_its_kind_names():
    picture = WORLDS["shapes"].render(*_scene(3))
    before, measured = measure(picture), {kind: measure(spoil(picture, kind)) for kind in JUNK}
    assert measured["blurred"].sharpness < before.sharpness / 20 and measured["dark"].brightness < 0.1
    assert measured["flat"].contrast == 0 and measured["copy"].sharpness == pytest.approx(before.sharpness, rel=0.5)
    assert np.array_equal(np.asarray(spoil(picture, "mirrored")), np.asarray(picture)[:, ::-1])


def test_a_curated_set_keeps_attributes(load_script, pool, lines, tmp_path):
    words = ["--images", str(pool), "--tower", "pixels", "--crop-neighbours", "0", "--clustering", "none"]
    assert load_script("curate").main([*words, "--min-contrast", "0.05", "--out", str(tmp_path / "set")]) == 0
    dataset = CuratedTrain(tmp_path / "set", image_size=64)
    graphs = {line["file_name"]: line["graph"] for line in lines}
    for index, name in enumerate(dataset.image_names()):
        graph = dataset[index][1]
        assert [list(names) for names in graph.known_attributes] == graphs[name]["attributes"]
        assert set(sum(graphs[name]["attributes"], [])) <= set(dataset.vocab.attributes)


def test_halves_are_of_one_size_and_the_curated_one_is_of_kept_pictures(load_script, tmp_path):
    trial = load_script("try_curation")
    (tmp_path / "curation").mkdir()
    made = [
        {"name": f"{i}.png", "file_name": f"../{i}.png", "kept": i % 3 > 0, "planted": "nothing" if i % 3 else "flat"}
        for i in range(30)
    ]
    (tmp_path / "curation/metadata.jsonl").write_text("\n".join(map(json.dumps, made)))
    planted = trial.write_halves(tmp_path / "curation", tmp_path, 1)
    assert planted["curated"] == {"nothing": 15} and sum(planted["random"].values()) == 15
    assert planted["random"]["flat"] > 0
    for arm in trial.ARMS:
        rows = [json.loads(line) for line in (tmp_path / arm / "metadata.jsonl").read_text().splitlines()]
        assert len(rows) == 15 and all(row["kept"] and row["file_name"].startswith("../") for row in rows)


def test_the_table_has_the_mean_over_seeds_with_students_interval(load_script):
    trial = load_script("try_curation")
    reports = [
        {
            "measures": {"passed": {"factor": 100}},
            "planted": {"random": {"flat": 2}, "curated": {"nothing": 2}},
            "differences": [
                {
                    "model": "curated",
                    "type": kind,
                    "measure": "passed",
                    "base": 0.1,
                    "difference": d,
                    "interval": [0, 1],
                }
                for kind in ("with boxes", "without boxes")
            ],
        }
        for d in (0.1, 0.2, 0.3)
    ]
    half = 4.302652729911275 * 10 / math.sqrt(3)  # Student's t of two degrees of freedom
    text = trial.table(reports, [1, 2, 3])
    assert f"+20.0 ({20 - half:.1f} to {20 + half:.1f})" in text and "planted in the random halves: flat 6" in text


def _scene(seed: int):
    rng = random.Random(seed)
    return WORLDS["shapes"].random_graph(rng), WORLDS["shapes"].random_background(rng)
