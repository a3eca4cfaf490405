"""Rendered scenes of both looks as one data set."""

from pathlib import Path

import pytest
from clevr_shards import SOLIDS, write_shard
from noise_vg import encoders_of
from paths import ROOT
from tiny import tiny_model

from ldm.data.cache import CachedDataset
from ldm.data.cache_writing import write_cache
from ldm.data.protocols import HasStyleReferences, SceneGraphDataset, SeededDataset
from ldm.data.rendered import RenderedTrain
from ldm.data.rendered_looks import RenderedLooksTrain, RenderedLooksValidation
from ldm.synthetic.rendered.things import VOCAB
from ldm.synthetic.rendered.vocabulary import BOTH_LOOKS, CLEVR
from ldm.util.config import instantiate_from_config, plain
from ldm.util.config_merging import read_configs
from ldm.util.errors import ConfigError

TABLE = Path(__file__).parent / "rendered"


@pytest.fixture
def clevr(tmp_path):
    for number in range(2):
        write_shard(tmp_path / "clevr" / f"shard-0000{number}", SOLIDS, SOLIDS[1:])
    return tmp_path / "clevr"


def test_names_of_things_on_a_table_keep_their_ids_and_every_word_of_clevr_is_known():
    for ours, theirs in zip(BOTH_LOOKS.ids, VOCAB.ids):
        assert theirs.items() <= ours.items()
    assert BOTH_LOOKS.attributes[-3:] == ("gray", "cyan", "brown")
    assert {*CLEVR.kinds} <= {*BOTH_LOOKS.objects}
    assert {*CLEVR.sizes, *CLEVR.colours, *CLEVR.materials} <= {*BOTH_LOOKS.attributes}


def test_the_pictures_are_those_of_both_folders_and_the_first_shard_of_each_is_held_out(clevr):
    train, validation = RenderedLooksTrain(TABLE, clevr), RenderedLooksValidation(TABLE, clevr)
    assert (
        isinstance(train, SceneGraphDataset)
        and isinstance(train, HasStyleReferences)
        and isinstance(train, SeededDataset)
    )
    assert len(train) == len(RenderedTrain(TABLE)) + 2 and len(validation) == 1 + 2
    assert [train.image_path(index).resolve() for index in (3, 4)] == [
        (clevr / "shard-00001" / f"00000{number}.webp").resolve() for number in range(2)
    ]
    assert len(set(train.image_names())) == len(train) and not list(train.check())
    assert train.image_names()[:3] == RenderedTrain(TABLE).image_names()
    for index in range(len(train)):
        train.complete_graph(index).validate(train.vocab)
    assert sorted(train.complete_graph(3).objects) == ["cube", "cylinder", "sphere"]


def test_a_reference_has_the_look_of_its_picture(clevr):
    train = RenderedLooksTrain(TABLE, clevr, reference=True)
    assert [train.style_reference(index) for index in (3, 4)] == [4, 3]
    assert all(train.style_reference(index) < 3 for index in range(3))
    picture, graph, reference = train[3]
    assert picture.shape == reference.shape == (3, 128, 128) and len(graph.objects) == 3


def test_max_samples_is_of_each_folder(clevr):
    assert len(RenderedLooksTrain(TABLE, clevr, max_samples=1)) == 2


def test_latents_of_both_looks_are_cached(clevr, tmp_path):
    train = RenderedLooksTrain(TABLE, clevr, image_size=32)
    write_cache(train, tmp_path / "cache", *encoders_of(tiny_model()), shard_size=2)
    cached = CachedDataset(train, tmp_path / "cache")
    assert len(cached) == len(train) and cached[4][1] == train[4][1]


def test_the_config_of_both_looks_builds_its_data_and_fits_its_encoder(clevr, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = read_configs([ROOT / "configs" / "demo.yaml", ROOT / "configs" / "demo" / "clevr.yaml"])
    train = plain(config.data.params.train)
    train["params"] |= {"root": str(TABLE), "clevr_root": str(clevr)}
    data = instantiate_from_config(train)
    params = config.model.params.cond_stage_config.params
    names = (params.num_objs, params.num_preds, params.num_attributes)
    assert names == tuple(map(len, (data.vocab.objects, data.vocab.predicates, data.vocab.attributes)))
    assert params.max_tokens >= 10 + 1 + 10 * 9 / 2 + 10
    train["params"]["boxxes"] = "all"
    with pytest.raises(ConfigError, match="boxxes"):
        instantiate_from_config(train)
