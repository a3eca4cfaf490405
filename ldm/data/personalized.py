"""A few pictures of one thing or style, or a captioned folder, from which words, LoRA or a whole model are trained.

With a `metadata.jsonl` (Hugging Face's imagefolder form: file_name and text in each line), captions are its texts; otherwise
they are made from templates with a word (textual inversion, Gal et al. 2208.01618; DreamBooth, Ruiz et al. 2208.12242).
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ldm.data.values import require_count, require_share
from ldm.graph.sides import swap_sides
from ldm.graph.text_tokens import TRIGGER
from ldm.util.errors import ConfigError, UserError, did_you_mean
from ldm.util.files import read_text
from ldm.util.images import find_image_errors, read_image, resize_square, to_tensor
from ldm.util.moving import mover

METADATA = "metadata.jsonl"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
KEYS = ("file_name", "text", "boxes")
# CLIP's prompts for ImageNet and for paintings, of which Gal et al. used these (2208.01618, appendix E).
TEMPLATES = {
    "object": tuple(
        f"{start} {{}}"
        for start in (
            "a photo of a", "a rendering of a", "a cropped photo of the", "the photo of a", "a photo of a clean",
            "a photo of a dirty", "a dark photo of the", "a photo of my", "a photo of the cool", "a close-up photo of a",
            "a bright photo of the", "a cropped photo of a", "a photo of the", "a good photo of the", "a photo of one",
            "a close-up photo of the", "a rendition of the", "a photo of the clean", "a rendition of a", "a photo of a nice",
            "a good photo of a", "a photo of the nice", "a photo of the small", "a photo of the weird", "a photo of the large",
            "a photo of a cool", "a photo of a small",
        )
    ),
    "style": tuple(
        f"{start} in the style of {{}}"
        for start in (
            "a painting", "a rendering", "a cropped painting", "the painting", "a clean painting", "a dirty painting",
            "a dark painting", "a picture", "a cool painting", "a close-up painting", "a bright painting", "a good painting",
            "a rendition", "a nice painting", "a small painting", "a weird painting", "a large painting",
        )
    ),
}  # fmt: skip
CLASS_PICTURES = "images"  # subfolder of class_dir, as sample.py writes it


@dataclass(frozen=True)
class Example:
    """One picture for training.

    Attributes:
        image: (3,S,S) in [-1,1].
        text: its caption.
        weights: (1,S,S) of the loss at each place, or None for the same everywhere.
        seed: from which its noise is drawn, the same whichever process trains on it.
    """

    image: Tensor
    text: str
    weights: Tensor | None
    seed: int


@dataclass(frozen=True, eq=False)
class Examples:
    """A batch of pictures, followed by as many class images with prior preservation.

    Attributes:
        image: (R,3,S,S).
        texts: R captions.
        weights: (R,1,S,S) of the loss at each place, or None.
        seeds: R of the noise.
        count: number B of the pictures themselves; the other R - B are class images.
    """

    image: Tensor
    texts: tuple[str, ...]
    weights: Tensor | None
    seeds: tuple[int, ...]
    count: int

    @classmethod
    def of(cls, examples: Sequence[Example], count: int | None = None) -> Examples:
        weights = None
        if any(each.weights is not None for each in examples):
            ones = torch.ones(1, *examples[0].image.shape[1:])
            weights = torch.stack([ones if each.weights is None else each.weights for each in examples])
        image = torch.stack([each.image for each in examples])
        texts, seeds = tuple(each.text for each in examples), tuple(each.seed for each in examples)
        return cls(image, texts, weights, seeds, len(examples) if count is None else count)

    def to(self, device: torch.device | str, non_blocking: bool | None = None) -> Examples:
        """Moves the tensors; see `ldm.util.moving.mover`."""
        return self._map(mover(device, non_blocking))

    def pin_memory(self) -> Examples:
        return self._map(Tensor.pin_memory)

    def __len__(self) -> int:
        return len(self.texts)

    def _map(self, function: Callable[[Tensor], Tensor]) -> Examples:
        weights = None if self.weights is None else function(self.weights)
        return replace(self, image=function(self.image), weights=weights)


@dataclass(frozen=True)
class Picture:
    """A picture file: its caption (None for templates), and boxes x0 y0 x1 y1 in [0,1] inside of which the loss counts."""

    path: Path
    text: str | None = None
    boxes: tuple[tuple[float, ...], ...] = ()


class Personalized(Dataset):
    """Pictures with captions, for `ldm.models.diffusion.personalization.Personalization`.

    Args:
        data_root: folder of the pictures, with or without metadata.jsonl.
        image_size: side of the squares that the model reads, in pixels.
        word: what stands in the templates, such as <my-cat>, or "sks dog".
        templates: `object`, `style`, or a list of texts with {} for the word.
        repeats: how often an epoch shows each picture, with other captions and flips.
        flip: probability that a picture is mirrored; its caption's left and right then change places.
        center_crop: whether the middle square is cut out; otherwise the picture is squeezed, as elsewhere in this project.
        mask_dir: folder of masks with the pictures' names (any suffix), white where the loss counts.
        outside: weight of the loss elsewhere, outside of masks and boxes.
        class_dir: folder of class images for prior preservation: those in its subfolder `images/`, or else its own.
        class_prompt: their caption, such as "a photo of a cat".
        class_images: how many of them to use; missing ones are sampled at the start (callback ClassPictures).
        seed: of captions, flips and noise; trainer.py sets it.

    Raises:
        UserError: a file is missing, damaged or empty.
    """

    def __init__(
        self,
        data_root: str,
        image_size: int = 512,
        word: str = "",
        templates: str | list[str] = "object",
        repeats: int = 100,
        flip: float = 0.5,
        center_crop: bool = True,
        mask_dir: str | None = None,
        outside: float = 0.0,
        class_dir: str | None = None,
        class_prompt: str | None = None,
        class_images: int = 0,
        seed: int = 0,
    ):
        place = "data.params.train.params"
        self.root, self.image_size, self.word = Path(data_root).expanduser(), image_size, word
        self.repeats = require_count(f"{place}.repeats", repeats)
        self.flip, self.outside = require_share(f"{place}.flip", flip), require_share(f"{place}.outside", outside)
        self.center_crop, self.seed, self.epoch = center_crop, seed, 0
        self.pictures = read_pictures(self.root)
        self.templates = _templates(templates, f"{place}.templates")
        if any(picture.text is None for picture in self.pictures) and not word:
            raise ConfigError(
                f"{place}.word: missing, as {self.root} has no {METADATA} with captions; give a word such as <my-cat> "
                "(--placeholder_string)"
            )
        self.masks = _masks(Path(mask_dir).expanduser(), self.pictures) if mask_dir else {}
        self.class_dir = Path(class_dir).expanduser() if class_dir else None
        self.class_prompt, self.class_images = class_prompt, require_count(f"{place}.class_images", class_images, 0)
        if (class_dir is None) != (class_prompt is None) or bool(class_images) != bool(class_dir):
            raise ConfigError(
                f"{place}: class_dir, class_prompt and class_images belong together; give all three or none"
            )
        self._class_files: list[Path] = []

    def __len__(self) -> int:
        return len(self.pictures) * self.repeats

    def __getitem__(self, index: int) -> tuple[Example, ...]:
        """The picture, and a class image with prior preservation."""
        chance = random.Random(f"personalized/{self.seed}/{self.epoch}/{index}")
        picture = self.pictures[index % len(self.pictures)]
        text = picture.text
        if text is None:
            text = chance.choice(self.templates).format(self.word)
        example = self._example(picture, text, chance)
        if self.class_dir is None:
            return (example,)
        files = self.class_files()
        other = Picture(files[index % len(files)])
        return example, self._example(other, f"{self.class_prompt}", chance)

    def collate(self, samples: Sequence[tuple[Example, ...]]) -> Examples:
        """A batch: all pictures, then the class images."""
        return Examples.of([example for column in zip(*samples) for example in column], len(samples))

    def captions(self) -> dict[str, str]:
        """All captions by where they come from, templates included."""
        found = {f"{each.path}": each.text for each in self.pictures if each.text is not None}
        if len(found) < len(self.pictures):
            found |= {f"template {each!r}": each.format(self.word) for each in self.templates}
        return found

    def class_files(self) -> list[Path]:
        """The class images. Raises UserError if there are too few."""
        if not self._class_files:
            assert self.class_dir is not None
            folder = self.class_dir / CLASS_PICTURES
            files = _image_files(folder if folder.is_dir() else self.class_dir)[: self.class_images]
            if len(files) < self.class_images:
                raise UserError(
                    f"{self.class_dir}: has {len(files)} class images, not {self.class_images}; lower class_images, or "
                    "let the callback class_pictures make them"
                )
            self._class_files = files
        return self._class_files

    def check(self) -> Iterator[str]:
        """Reads all pictures and masks and yields each problem as 'where: what'."""
        yield from find_image_errors([*(each.path for each in self.pictures), *self.masks.values()])

    def _example(self, picture: Picture, text: str, chance: random.Random) -> Example:
        image = read_image(picture.path, upright=True)
        weights = self._weights(picture, image.size)
        tensor = to_tensor(self._square(image))
        if chance.random() < self.flip:
            tensor, text = tensor.flip(-1), mirror_caption(text)
            weights = None if weights is None else weights.flip(-1)
        return Example(tensor, text, weights, chance.getrandbits(48))

    def _square(self, image: Image.Image) -> Image.Image:
        if self.center_crop:
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            image = image.crop((left, top, left + side, top + side))
        return resize_square(image, self.image_size)

    def _weights(self, picture: Picture, size: tuple[int, int]) -> Tensor | None:  # width, height -> (1,S,S)
        if picture.path in self.masks:
            mask = read_image(self.masks[picture.path], upright=True, background="black").convert("L")
        elif picture.boxes:
            width, height = size
            mask = Image.new("L", size)
            for x0, y0, x1, y1 in picture.boxes:
                mask.paste(255, (round(x0 * width), round(y0 * height), round(x1 * width), round(y1 * height)))
        else:
            return None
        white = torch.from_numpy(np.asarray(self._square(mask), dtype=np.float32) / 255)[None]
        return self.outside + (1 - self.outside) * white


def mirror_caption(text: str) -> str:
    """The caption of the mirrored picture: left and right change places, but not within a learned word."""
    parts = re.split(f"({TRIGGER.pattern})", text)
    return "".join(part if number % 2 else swap_sides(part) for number, part in enumerate(parts))


def read_pictures(root: Path) -> list[Picture]:
    """The pictures of a folder, with the captions of its metadata.jsonl if there is one. Raises UserError."""
    if (root / METADATA).is_file():
        return list(_read_metadata(root))
    return [Picture(path) for path in find_pictures(root)]


def find_pictures(root: Path) -> list[Path]:
    """The picture files of a folder by name. Raises UserError if there is no such folder, or none in it."""
    if not root.is_dir():
        raise UserError(f"{root}: there is no such folder of pictures; name one with --data_root")
    if not (files := _image_files(root)):
        raise UserError(f"{root}: contains no pictures ({', '.join(SUFFIXES[:4])}); name a folder with some")
    return files


def _read_metadata(root: Path) -> Iterator[Picture]:
    lines = [(n, line) for n, line in enumerate(read_text(root / METADATA).split("\n"), 1) if line.strip()]
    if not lines:
        raise UserError(f"{root / METADATA}: is empty; write a line for each picture, or remove the file")
    for number, line in lines:
        where = f"{root / METADATA}, line {number}"
        example = '{"file_name": "1.jpg", "text": "a photo of <my-cat>"}'
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            raise UserError(f"{where}: not JSON; write {example}") from None
        if not isinstance(value, dict) or not all(isinstance(value.get(key), str) for key in KEYS[:2]):
            raise UserError(f"{where}: a picture has a file_name and a text; write {example}")
        if unknown := [key for key in value if did_you_mean(key, KEYS) and key not in KEYS]:
            raise UserError(f"{where}: unknown key {unknown[0]!r}{did_you_mean(unknown[0], KEYS)}")
        path = root / value["file_name"]
        if not path.resolve().is_relative_to(root.resolve()):
            raise UserError(f"{where}: {value['file_name']!r} is outside of the folder; move the picture into it")
        if not path.is_file():
            raise UserError(f"{where}: there is no picture {path}; correct file_name or remove the line")
        yield Picture(path, value["text"], _boxes(value.get("boxes") or [], where))


def _boxes(value: Any, where: str) -> tuple[tuple[float, ...], ...]:
    def is_box(box: Any) -> bool:
        is_list = isinstance(box, list) and len(box) == 4 and all(type(x) in (int, float) for x in box)
        return is_list and 0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1

    if not isinstance(value, list) or not all(map(is_box, value)):
        raise UserError(f"{where}: boxes are lists [x0, y0, x1, y1] in [0,1] with x0 < x1 and y0 < y1; correct them")
    return tuple(tuple(map(float, box)) for box in value)


def _image_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES) if folder.is_dir() else []


def _masks(folder: Path, pictures: Sequence[Picture]) -> dict[Path, Path]:
    by_stem = {path.stem: path for path in _image_files(folder)}
    for picture in pictures:
        if picture.path.stem not in by_stem:
            raise UserError(f"{folder}: has no mask for {picture.path.name}; add {picture.path.stem}.png")
    return {picture.path: by_stem[picture.path.stem] for picture in pictures}


def _templates(value: str | list[str], place: str) -> tuple[str, ...]:
    if isinstance(value, str):
        if value not in TEMPLATES:
            raise ConfigError(f"{place} is {value!r}; give object, style, or a list of texts with {{}} for the word")
        return TEMPLATES[value]
    for template in value:
        if template.count("{}") != 1 or template.replace("{}", "").count("{") or template.replace("{}", "").count("}"):
            raise ConfigError(f"{place}: {template!r} needs {{}} once, where the word is to stand")
    if not value:
        raise ConfigError(f"{place} is empty; give a list of texts with {{}} for the word")
    return tuple(value)
