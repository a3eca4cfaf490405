"""The files of a curated set: metadata.jsonl, lists of the splits, vocabulary, names of clusters, and what repeats it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ldm.curation.duplicates import RULE
from ldm.curation.names import FILE, write_names
from ldm.curation.pictures import METADATA
from ldm.curation.pipeline import Curation
from ldm.graph.sides import swap_sides
from ldm.graph.vocab import IMAGE, IN_IMAGE, Vocab
from ldm.util.files import atomic_write

OPTIONS, VOCABULARY = "curation.yaml", "vocab.json"
MEASURES = ("sharpness", "brightness", "contrast", "clipped")


def write_set(curation: Curation, out: Path, sources: dict[str, Any]) -> None:
    """Writes all files except the report.

    Args:
        out: the folder; paths of pictures in metadata.jsonl are relative to it.
        sources: what the command line named besides the options, for the file that repeats the curation.
    """
    _write(out / METADATA, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in metadata(curation, out)))
    rows = curation.kept
    for split in sorted({picture.split for picture in curation.pictures}):
        names = [curation.pictures[row].name for row in rows if curation.pictures[row].split == split]
        _write(out / f"{split}.txt", "".join(f"{name}\n" for name in names))
    vocabulary(curation).write(out / VOCABULARY)
    options = yaml.safe_load(curation.options.to_yaml()) or {}
    _write(out / OPTIONS, yaml.safe_dump({**sources, "options": options}, sort_keys=False, allow_unicode=True))
    if curation.clusters is not None:
        chosen = [curation.pictures[row] for row in curation.clustered.tolist()]
        write_names(out / FILE, curation.names, curation.proposed, chosen, curation.clusters)


def metadata(curation: Curation, out: Path) -> Iterator[dict[str, Any]]:
    """A line per picture of the pool, whether it is kept, and why not."""
    clusters, records = curation.cluster_names(), curation.records
    measures = {name: records[name] for name in MEASURES}
    has_duplicates = {why.keeper for why in curation.removed.values()}
    for row, picture in enumerate(curation.pictures):
        why = curation.removed.get(row)
        line: dict[str, Any] = {
            "file_name": Path(os.path.relpath(picture.path, out)).as_posix(),
            "name": picture.name,
            "split": picture.split,
            "kept": why is None,
        }
        if why is not None:
            line["reason"] = why.reason
            if why.keeper >= 0:
                line["keeper"] = curation.pictures[why.keeper].name
        elif row in has_duplicates:
            line["reason"] = f"kept of its duplicates: {RULE}"
        if row in clusters:
            line["cluster"] = clusters[row]
        text = curation.captions.get(row, picture.caption)
        if text:
            line["text"] = text
            if (mirrored := swap_sides(text)) != text:
                line["text_mirrored"] = mirrored
        if row in curation.views:
            line["view"] = Path(os.path.relpath(curation.views[row], out)).as_posix()
        line |= {"labels": list(picture.labels)} if picture.labels else {}
        line |= {"graph": dict(picture.graph)} if picture.graph else {}
        line |= {"objects": list(picture.objects)} if picture.objects and not picture.graph else {}
        line |= {key: value for key, value in picture.properties.items() if key not in line}
        scores = {name: round(float(column[row]), 4) for name, column in measures.items()}
        scores |= {name: values[row] for name, values in curation.scores.items() if values[row] is not None}
        yield line | {"scores": scores}


def vocabulary(curation: Curation) -> Vocab:
    """The object words, predicates and attributes of the whole pool, so that all splits have one vocabulary."""
    words, predicates, attributes = set(), set(), set()
    for picture in curation.pictures:
        words |= {*picture.objects, *(() if picture.objects else picture.labels)}
        for _, predicate, _ in (picture.graph or {}).get("relationships") or ():
            predicates.add(predicate)
        for names in (picture.graph or {}).get("attributes") or ():
            attributes |= {*(names or ())}
    predicates = sorted(predicates - {IN_IMAGE})
    return Vocab((IMAGE, *sorted(words - {IMAGE})), (IN_IMAGE, *predicates), tuple(sorted(attributes)))


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")
