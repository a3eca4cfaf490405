"""Every option of a curation: makes the command line, the YAML file that repeats it, and the table in the documentation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ldm.curation.errors import CurationError
from ldm.util.errors import UserError
from ldm.util.files import read_text
from ldm.util.options import from_mapping, option, validate


@dataclass(frozen=True)
class CurationOptions:
    """The fields are documented by their help texts. Lists are words with commas between them."""

    # which pictures
    only: str | None = option(None, "take pictures with these properties only: key=value,...", metavar="KEY=VALUE,...")
    group_by: str | None = option(
        None, "property whose pictures belong together, such as clip or source; 'folder' for the folder they lie in"
    )
    validation_share: float = option(
        0.0, "share of the pictures that becomes a validation split, by whole groups", minimum=0, maximum=0.9
    )
    leaks: str = option("error", "pictures of two splits that are duplicates", choices=("error", "remove"))
    # duplicates
    max_hash_distance: int = option(
        6, "near duplicates: differing bits of the perceptual hash, of 64", minimum=0, maximum=32
    )
    min_cosine: float = option(
        0.95, "near duplicates: least cosine of the embeddings (both conditions hold)", minimum=-1, maximum=1
    )
    crop_neighbours: int = option(
        4, "nearest pictures of each that are tried as a crop of it; 0: none", minimum=0, maximum=1000
    )
    min_crop_correlation: float = option(
        0.93, "crops: least correlation of the crop with its place", above=0, maximum=1
    )
    # filters
    min_side: int = option(0, "shorter side in pixels, at least", minimum=0)
    max_aspect: float = option(0.0, "longer side over shorter side, at most; 0: any", minimum=0)
    min_sharpness: float = option(0.0, "variance of the Laplacian, at least", minimum=0)
    min_contrast: float = option(0.0, "standard deviation of the grey values in 0..1, at least", minimum=0)
    max_clipped: float = option(1.0, "share of black or white pixels, at most", minimum=0, maximum=1)
    min_objects: int = option(0, "annotated objects, at least", minimum=0)
    max_objects: int = option(0, "annotated objects, at most; 0: any number", minimum=0)
    vocabulary: str | None = option(None, "file with a word per line: pictures without any of them are left out")
    scores: str | None = option(
        None,
        "scores by functions of a picture, and their largest value: package.module.function=0.2,...",
        metavar="FUNCTION=MAX,...",
    )
    # clusters
    clustering: str = option("kmeans", "how pictures are grouped", choices=("kmeans", "hdbscan", "none"))
    clusters: int = option(0, "number of clusters; 0: the one of several with the best silhouette", minimum=0)
    min_cluster_size: int = option(10, "HDBSCAN: pictures of the smallest cluster", minimum=2)
    name_words: str | None = option(
        None, "file with a word per line: names of clusters are proposed by the text tower of --tower, from these words"
    )
    centre: bool = option(False, "subtract the mean embedding before clustering, since embeddings lie in a narrow cone")
    # balance
    balance_by: str = option(
        "none", "what the cap counts", choices=("none", "cluster", "label", "object"), default_text="none"
    )
    cap: int = option(0, "most pictures of one cluster, label or object word; 0: no cap", minimum=0)
    rare: int = option(10, "object words of fewer pictures are named in the report", minimum=0)
    # captions
    clean_tags: bool = option(False, "captions are tags with commas between: clean them and remove repeated ones")
    triggers: str | None = option(
        None, "words that are put before captions, by cluster or label: name=word,...", metavar="NAME=WORD,..."
    )
    translate: str | None = option(None, "function of a caption that returns it in another language")
    max_tokens: int = option(77, "captions with more tokens of CLIP are reported", minimum=1)
    # what else
    view: str | None = option(None, "function of a picture that returns a derived one, such as its line art")
    seed: int = option(0, "of everything that is drawn at random", minimum=0)

    def __post_init__(self):
        validate(self)
        if self.cap and self.balance_by == "none":
            raise CurationError("cap: say what it counts with balance_by cluster, label or object")
        if self.balance_by == "cluster" and self.clustering == "none":
            raise CurationError("balance_by cluster: there are none with clustering none; choose kmeans or hdbscan")

    def to_yaml(self) -> str:
        """The options that are not the defaults."""
        given = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }
        return yaml.safe_dump(given, sort_keys=False, allow_unicode=True)


def read_options(path: str | None, given: Mapping) -> CurationOptions:
    """Options of a YAML file, which those of the command line override.

    Raises:
        CurationError: the file or an option is invalid.
    """
    values: dict = {}
    if path:
        loaded = read_yaml(path) or {}
        values = (loaded.get("options", loaded) or {}) if isinstance(loaded, dict) else loaded
        if not isinstance(values, dict):
            raise CurationError(f"{path}: holds no options; write a line such as 'min_cosine: 0.9' for each")
    try:
        return from_mapping(CurationOptions, {**values, **given})
    except UserError as error:
        raise CurationError(f"{path}: {error}" if path else f"{error}") from None


def read_yaml(path: str | Path) -> Any:
    """What a YAML file of plain values holds. Raises CurationError if it is damaged."""
    text = read_text(path)
    try:
        return yaml.safe_load(text)
    except RecursionError:
        raise CurationError(f"{path}: lists are nested too deeply; correct it") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a number of thousands of digits, an impossible date
        raise CurationError(f"{path}: not YAML ({' '.join(str(error).split())[:150]}); correct it") from None


def pairs_of(text: str | None, name: str) -> dict[str, str]:
    """Reads 'a=1,b=2'. Raises CurationError for a part without '='."""
    result = {}
    for part in filter(None, (text or "").split(",")):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise CurationError(f"{name}: {part!r} has no '='; write name=value, with commas between several")
        result[key.strip()] = value.strip()
    return result
