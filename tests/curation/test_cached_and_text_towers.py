"""Embeddings from a latent cache, and names of clusters from a text tower."""

import json
import shutil

import numpy as np
import open_clip
import pytest
import torch
import yaml
from pile import picture, save, write_pile

from ldm.curation.cached import CachedTower
from ldm.curation.clusters import cluster_kmeans
from ldm.curation.errors import CurationError
from ldm.curation.names import propose_by_text
from ldm.curation.partition import unit
from ldm.curation.pictures import read_pictures
from ldm.curation.towers import ImageTower, PixelTower, load_tower
from ldm.data.cache import CacheError
from ldm.data.cache_writing import write_cache
from ldm.data.curated import CuratedTrain
from ldm.graph.batch import Latents
from ldm.modules.global_film import CLIPGlobalEncoder

VISION = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16}
TOWER = {**VISION, "embed_dim": 8}
TEXT = {"width": 32, "layers": 2, "heads": 2, "embed_dim": 8}


@pytest.fixture
def cached(load_script, tmp_path):
    """A curated set of six pictures, its config, and its latent cache with embeddings of a small tower."""
    write_pile(tmp_path / "pile/things", 6)
    words = ["--images", str(tmp_path / "pile"), "--tower", "pixels", "--out", str(tmp_path / "set")]
    assert load_script("curate").main([*words, "--crop-neighbours", "0"]) == 0
    source = {"target": "ldm.data.curated.CuratedTrain", "params": {"root": str(tmp_path / "set"), "image_size": 32}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"data": {"params": {"train": source}}}))
    torch.manual_seed(0)
    encoder = CLIPGlobalEncoder(TOWER, init="random")
    sums = {"first stage": "a", "image encoder": "b"}

    def encode(images):
        return Latents(torch.zeros(len(images), 4, 4, 4), encoder(images))

    write_cache(CuratedTrain(tmp_path / "set", image_size=32), tmp_path / "cache/train", encode, sums, mirrored=False)
    return tmp_path, encoder


def test_a_cache_gives_the_embeddings_that_its_tower_computed(cached):
    folder, encoder = cached
    dataset = CuratedTrain(folder / "set", image_size=32)
    images = torch.stack([dataset[index][0] for index in range(len(dataset))])
    pictures = read_pictures([str(folder / "pile")])
    opened = [picture(index) for index in range(6)]
    found = CachedTower(folder / "cache", pictures)(opened, pictures)
    assert np.allclose(found, encoder(images).numpy(), atol=2e-3)


def test_curate_takes_a_cache_in_and_loads_no_tower(cached, load_script, monkeypatch):
    folder, _ = cached
    monkeypatch.setattr("ldm.curation.towers.load_tower", lambda *_: pytest.fail("a tower was loaded"))
    words = ["--config", str(folder / "c.yaml"), "--cache", str(folder / "cache"), "--out", str(folder / "again")]
    assert load_script("curate").main([*words, "--crop-neighbours", "0"]) == 0
    lines = (folder / "again/metadata.jsonl").read_text().splitlines()
    assert len(lines) == 6 and yaml.safe_load((folder / "again/curation.yaml").read_text())["cache"]
    assert len({json.loads(line)["name"] for line in lines}) == 6


def test_a_cache_that_does_not_fit_is_named(cached):
    folder, _ = cached
    pictures = read_pictures([str(folder / "pile")])
    save(picture(99), folder / "pile/things/new.png")
    with pytest.raises(CurationError, match=r"1 pictures are not in this cache, such as things/new\.png"):
        CachedTower(folder / "cache", read_pictures([str(folder / "pile")]))
    with pytest.raises(CurationError, match="was 96x96 pixels when it was cached, and is 48x48 now"):
        CachedTower(folder / "cache", pictures)([picture(0).resize((48, 48))], pictures[:1])
    with pytest.raises(CacheError, match="there is no cache"):
        CachedTower(folder / "nowhere", pictures)
    plain = folder / "plain/train"
    dataset = CuratedTrain(folder / "set", image_size=32)
    write_cache(dataset, plain, lambda x: Latents(torch.zeros(len(x), 4, 4, 4)), {"first stage": "a"}, mirrored=False)
    with pytest.raises(CurationError, match="holds no image embeddings"):
        CachedTower(folder / "plain", pictures)
    shutil.rmtree(folder / "cache/train")
    with pytest.raises(CacheError, match="there is no cache"):
        CachedTower(folder / "cache", pictures)


def test_texts_are_embedded_as_open_clip_embeds_them(tmp_path):
    torch.manual_seed(0)
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    clip = open_clip.CLIP(8, VISION, text).eval()
    torch.save(clip.state_dict(), tmp_path / "clip.pt")
    encoder = CLIPGlobalEncoder(TOWER, pretrained=str(tmp_path / "clip.pt"))
    texts = ["a photo of a cat.", "a photo of a very small dog."]
    with torch.no_grad():
        expected = clip.encode_text(open_clip.tokenize(texts)).numpy()
    found = ImageTower(encoder, "small", architecture=TEXT).embed_texts(texts)
    assert np.allclose(found, expected, atol=1e-5)


def test_towers_without_text_say_so(tmp_path):
    with pytest.raises(CurationError, match="pixels have no text tower"):
        PixelTower().embed_texts(["a"])
    with pytest.raises(CurationError, match="small has no text tower"):
        ImageTower(CLIPGlobalEncoder(TOWER, init="random"), "small").embed_texts(["a"])
    assert load_tower("pixels", None, None).name == "pixels at 16 x 16"


def test_a_cluster_gets_the_word_that_is_nearest_among_those_that_tell_it_apart():
    rng = np.random.default_rng(0)
    axes = np.eye(8, dtype=np.float32)
    vectors = unit(np.repeat(axes[:2], [20, 10], 0) + 0.05 * rng.standard_normal((30, 8)) + 2 * axes[7])
    clusters = cluster_kmeans(vectors, 2, centre=True)
    meaning = {"cat": axes[0], "dog": axes[1], "picture": axes[7], "car": axes[3]}
    asked = []

    def embed_texts(texts):
        asked.extend(texts)
        return np.stack([meaning[text.removeprefix("a photo of a ").rstrip(".")] for text in texts])

    assert propose_by_text(list(meaning), vectors, clusters, embed_texts) == ["cat", "dog"]
    assert asked[0] == "a photo of a cat."
    assert propose_by_text(["dog"], vectors, clusters, embed_texts) == ["dog", "dog 1"]


def test_the_command_takes_names_from_the_text_tower_and_keeps_those_by_hand(
    load_script, tmp_path, monkeypatch, capsys
):
    write_pile(tmp_path / "pile", 8)
    (tmp_path / "words.txt").write_text("Cup\n\npen\n")
    rng = np.random.default_rng(0)
    monkeypatch.setattr(PixelTower, "embed_texts", lambda self, texts: rng.standard_normal((len(texts), self.width)))
    words = ["--images", str(tmp_path / "pile"), "--tower", "pixels", "--clusters", "2", "--crop-neighbours", "0"]
    words += ["--out", str(tmp_path / "set"), "--name-words", str(tmp_path / "words.txt")]
    main = load_script("curate").main
    assert main(words) == 0
    path = tmp_path / "set/clusters.yaml"
    entries = yaml.safe_load(path.read_text())
    assert {entry["name"].split()[0] for entry in entries} <= {"cup", "pen"}
    entries[0]["name"] = "Mine"
    path.write_text(yaml.safe_dump(entries))
    assert main(words) == 0
    assert "Mine" in [entry["name"] for entry in yaml.safe_load(path.read_text())]
    (tmp_path / "words.txt").write_text("\n")
    assert main(words) == 2
    assert "name_words" in capsys.readouterr().err
