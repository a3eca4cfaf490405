"""Small COCO data sets that tests write to disk."""

import json
from pathlib import Path

from PIL import Image

from ldm.data.coco import COCOTrain, COCOValidation

CATEGORIES = ({"id": 1, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 4, "name": "ball"})
STUFF_CATEGORIES = ({"id": 92, "name": "grass"}, {"id": 183, "name": "other"})
WIDTH, HEIGHT = 60, 40


def rectangle(x, y, w, h, category=1, image=1, **fields):
    """An annotation whose mask fills its box, in pixels."""
    polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
    return {"image_id": image, "category_id": category, "bbox": [x, y, w, h], "segmentation": [polygon], **fields}


def write_coco(
    folder: Path,
    annotations,
    stuff=None,
    images=(1, 2, 3),
    kind=COCOValidation,
    categories=CATEGORIES,
    stuff_categories=STUFF_CATEGORIES,
    **options,
) -> COCOTrain:
    """Writes images and annotation files to `folder` and returns a data set of them."""
    listed = [{"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in images]
    for number, i in enumerate(images, 1):
        if not (folder / f"{i}.png").exists():
            Image.new("RGB", (WIDTH, HEIGHT), (40 * number % 256, 0, 255)).save(folder / f"{i}.png")
    paths = {}
    for name, items, names in (("instances", annotations, categories), ("stuff", stuff, stuff_categories)):
        if items is not None:
            items = [{"id": number, **item} for number, item in enumerate(items)]
            paths[f"{name}_json"] = folder / f"{name}.json"
            data = {"images": listed, "annotations": items, "categories": names}
            paths[f"{name}_json"].write_text(json.dumps(data))
    options = {"stuff_only": stuff is not None, "min_objects_per_image": 1, "image_size": 32, **options}
    return kind(folder, **paths, **options)
