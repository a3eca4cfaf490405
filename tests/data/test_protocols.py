"""Which data set has which interface."""

from ldm.data.cache import CachedDataset
from ldm.data.clevr import CLEVR
from ldm.data.coco import COCOTrain
from ldm.data.demo import DemoTrain
from ldm.data.flips import StoresFlippedImages
from ldm.data.protocols import GraphDataset, ImageFileDataset, SceneGraphDataset, SeededDataset


def test_visual_genome_coco_and_clevr_have_the_complete_interface(dataset, realdata):
    coco, clevr = realdata / "coco_instances_tiny_coco", realdata / "clevr/test"
    datasets = (
        dataset,
        COCOTrain(
            coco / "images/train2017", coco / "annotations/instances_train2017.json", stuff_only=False, max_samples=1
        ),
        CLEVR(clevr / "images", clevr / "CLEVR_scenes.json", max_samples=1),
    )
    for each in datasets:
        assert isinstance(each, SceneGraphDataset) and isinstance(each, SeededDataset)


def test_generated_scenes_have_graphs_but_no_image_files():
    demo = DemoTrain(1, 32)
    assert isinstance(demo, GraphDataset) and not isinstance(demo, ImageFileDataset)
    assert list(demo.check()) == []


def test_only_a_cache_stores_flipped_images(dataset, cache):
    assert isinstance(CachedDataset(dataset, cache / "train"), StoresFlippedImages)
    assert not isinstance(dataset, StoresFlippedImages)
