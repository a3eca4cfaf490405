"""The same photograph, 200 wide and 100 high, as each importer's project describes it: a red circle left of a square."""

import json
from pathlib import Path

from PIL import Image

from ldm.graph.scene_graph import SceneGraph

OBJECTS, BOXES, TRIPLES = ("circle", "square"), ((0.1, 0.2, 0.3, 0.6), (0.5, 0.2, 0.9, 1.0)), ((0, "left of", 1),)
FRACTIONS = [list(box) for box in BOXES]
SGEDIT = {
    "objects": list(OBJECTS),
    "tuples": [["circle", "left of", "<square-1>"]],
    "bboxes": FRACTIONS,
    "desc": ["", ""],
    "alias": ["<circle-0>", "<square-1>"],
}
EXECUTED_EDIT = {
    "gen_objects": ["square"],
    "gen_bboxes": [[0.5, 0.2, 0.9, 1.0]],
    "modified_sg": {"objects": list(OBJECTS), "tuples": [["circle", "left of", "square"]]},
}
GQA_GRAPH = {
    "width": 200,
    "height": 100,
    "location": "indoors",
    "objects": {
        "11": {"name": "circle", "x": 20, "y": 20, "w": 40, "h": 40, "attributes": ["red"],
               "relations": [{"name": "left of", "object": "12"}]},
        "12": {"name": "square", "x": 100, "y": 20, "w": 80, "h": 80, "attributes": [], "relations": []},
    },
}  # fmt: skip
VG_OBJECTS = [
    {"object_id": 11, "names": ["circle"], "synsets": [], "x": 20, "y": 20, "w": 40, "h": 40, "attributes": ["Red "]},
    {"object_id": 12, "names": ["square"], "synsets": [], "x": 100, "y": 20, "w": 80, "h": 80},
]
VG_RELATION = {"relationship_id": 1, "predicate": "LEFT of", "synsets": [], "subject_id": 11, "object_id": 12}
VG_GRAPH = {"image_id": 7, "width": 200, "height": 100, "objects": VG_OBJECTS, "relationships": [VG_RELATION]}
COCO = {
    "images": [{"id": 7, "file_name": "photo.png", "width": 200, "height": 100}],
    "annotations": [
        {"id": 11, "image_id": 7, "category_id": 1, "bbox": [20, 20, 40, 40], "segmentation": [], "iscrowd": 0},
        {"id": 12.0, "image_id": "7", "category_id": 2.0, "bbox": [100.0, 20, 80, 80]},
    ],
    "categories": [{"id": 1, "name": "circle"}, {"id": "2", "name": "square"}],
}
PREDICTION = {  # in pixels of a picture of 1000 x 500
    "bbox": [[100.0, 100, 300, 300], [0, 0, 1000, 500], [500, 100, 900, 500]],
    "bbox_labels": [1, 2, 2],
    "bbox_scores": [0.9, 0.2, 0.5],
    "rel_pairs": [[0, 2], [0, 1], [2, 0]],
    "rel_labels": [1, 1, 2],
    "rel_scores": [0.8, 0.9, 0.3],
}
DICTIONARY = {
    "idx_to_files": ["elsewhere/photo.png"],
    "ind_to_classes": ["__background__", "circle", "square"],
    "ind_to_predicates": ["__background__", "left of", "right of"],
}
FULL = SceneGraph(OBJECTS, BOXES, (("red",), ()), TRIPLES, ("11", "12"))
WITHOUT_ATTRIBUTES = SceneGraph(OBJECTS, BOXES, triples=TRIPLES)
BOXES_ONLY = SceneGraph(OBJECTS, BOXES, ids=("11", "12"))
EXPECTED = {  # name of a format -> (content of a file, its graph)
    "SGEdit": (SGEDIT, WITHOUT_ATTRIBUTES),
    "Scene-Graph-Benchmark": ({"0": PREDICTION}, WITHOUT_ATTRIBUTES),
    "Visual Genome": ([VG_GRAPH], FULL),
    "COCO": (COCO, BOXES_ONLY),
    "GQA": ({"7": GQA_GRAPH}, FULL),
}


def write_foreign(folder: Path, content: object, dictionary: object = DICTIONARY) -> Path:
    """A file in a folder with the photograph and the dictionary of predictions."""
    Image.new("RGB", (200, 100)).save(folder / "photo.png")
    (folder / "custom_data_info.json").write_text(json.dumps(dictionary))
    (folder / "graph.json").write_text(json.dumps(content))
    return folder / "graph.json"
