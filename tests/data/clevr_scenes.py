"""Made-up scenes in CLEVR's format."""


def make_scene(columns=(20, 60, 100), rows=(40, 60, 50), **changes) -> dict:
    """A scene of spheres at these image positions, with the relations that follow from them."""
    objects = [
        {
            "shape": "sphere",
            "size": "small",
            "color": "gray",
            "material": "metal",
            "rotation": 0.0,
            "pixel_coords": [column, row, 10.0],
            "3d_coords": [0.0, 0.0, 0.35],
        }
        for column, row in zip(columns, rows)
    ]
    order = {
        "left": lambda j, i: columns[j] < columns[i],
        "right": lambda j, i: columns[j] > columns[i],
        "front": lambda j, i: rows[j] > rows[i],
        "behind": lambda j, i: rows[j] < rows[i],
    }
    count = range(len(columns))
    related = {name: [[j for j in count if holds(j, i)] for i in count] for name, holds in order.items()}
    scene = {"objects": objects, "relationships": related, "image_filename": "one.png"}
    return scene | {"directions": {"right": [1.0, 0.0, 0.0]}} | changes
