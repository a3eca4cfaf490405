"""Small trees in the form of FOD-A's VOC copy that tests write to disk."""

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 300
GROUNDS = {"sand": (195, 170, 150), "plaster": (241, 238, 227), "floor": (115, 115, 116), "concrete": (150, 150, 150)}

XML = """<annotation><filename>{stem}.jpg</filename><size><width>300</width><height>300</height><depth>3</depth></size>
{things}</annotation>"""
THING = """<object><name>{name}</name>{conditions}<bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox>
</object>"""


def write_frame(folder: Path, number: int, things, ground="concrete", light="dim", weather="dry", stated=True) -> None:
    """A frame with rectangles of a colour for each thing (name, box), on noise in the ground's colour."""
    pixels = np.random.default_rng(number).normal(GROUNDS[ground], 4, (SIZE, SIZE, 3))
    for name, (x0, y0, x1, y1) in things:
        pixels[y0:y1, x0:x1] = [(37 * ord(letter)) % 200 for letter in name[:3]]
    conditions = f"<weather>{weather.title()}</weather><light>{light.title()}</light>" if stated else ""
    objects = "".join(THING.format(*box, name=name, conditions=conditions) for name, box in things)
    stem = f"{number:06}"
    for part in ("Annotations", "JPEGImages"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "Annotations" / f"{stem}.xml").write_text(XML.format(stem=stem, things=objects))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "JPEGImages" / f"{stem}.jpg", quality=95)


def write_fod(folder: Path, frames: int = 6) -> Path:
    """Six clips of three categories, each category on two days."""
    number = 0
    for day in range(2):
        for name, width in (("Bolt", 40), ("Hammer", 70), ("Wire", 55)):
            for frame in range(frames):
                x, y = 90 + 9 * frame, 80 + 7 * frame
                write_frame(folder, number, [(name, (x, y, x + width, y + 45))], weather=("dry", "wet")[day])
                number += 1
    return folder
