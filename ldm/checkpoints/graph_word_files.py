"""Files of graph words: names that a graph encoder has learned, each a row of its tables.

A safetensors file with a tensor (D,) for each word, called KIND/WORD, and in its metadata the digest of the tables beside which the
words were learned: a row means nothing beside other tables.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import safetensors
import safetensors.torch
from torch import Tensor

from ldm.checkpoints.errors import CheckpointError
from ldm.checkpoints.saving import save_safetensors
from ldm.checkpoints.word_files import find_rename, same_name
from ldm.graph.vocab import KINDS

METADATA = "graph_words"  # key of the JSON in a file's metadata: {"encoder": digest}


class GraphWord(NamedTuple):
    """A learned name of graphs.

    Attributes:
        kind: object, predicate or attribute.
        row: (D,) of the graph encoder's table.
        encoder: digest of the encoder's tables (`ldm.modules.graph_words.tables_digest`).
        source: the file that it is from.
    """

    kind: str
    row: Tensor
    encoder: str
    source: str = ""


class Collected(NamedTuple):
    """What `collect_graph_words` found.

    Attributes:
        words: by name.
        others: files of other words, such as those of text encoders.
        renames: those that no graph word used.
    """

    words: dict[str, GraphWord]
    others: list[str | Path]
    renames: dict[str, str]


def holds_graph_words(path: str | Path) -> bool:
    """Whether a file is one of graph words."""
    return _metadata(path) is not None


def read_graph_words(path: str | Path) -> dict[str, GraphWord]:
    """The words of a file by name.

    Raises:
        CheckpointError: it is damaged, or no file of graph words.
    """
    stated = _metadata(path)
    if stated is None:
        raise CheckpointError(f"{path}: no file of graph words; name one that a training of graph words wrote")
    found: dict[str, GraphWord] = {}
    for key, row in safetensors.torch.load_file(path).items():
        kind, _, name = key.partition("/")
        if kind not in KINDS or not name or row.ndim != 1 or not row.isfinite().all() or name in found:
            raise CheckpointError(f"{path}: {key!r} is no row of a graph word; the file is damaged")
        found[name] = GraphWord(kind, row.float(), f"{stated.get('encoder')}", f"{path}")
    if not found:
        raise CheckpointError(f"{path}: holds no word; the file is damaged")
    return found


def write_graph_words(path: str | Path, words: Mapping[str, GraphWord]) -> Path:
    """Writes words that were learned beside the same tables."""
    digest = {word.encoder for word in words.values()}
    if len(digest) != 1:
        raise CheckpointError(f"{path}: the words are of {len(digest)} graph encoders; write one file for each")
    tensors = {f"{word.kind}/{name}": word.row.detach().cpu().clone() for name, word in words.items()}
    save_safetensors(path, tensors, {METADATA: json.dumps({"encoder": digest.pop()})})
    return Path(path)


def collect_graph_words(paths: Sequence[str | Path], renames: Mapping[str, str] | None = None) -> Collected:
    """The graph words of several files, with their new names.

    Args:
        paths: files of words of any kind.
        renames: name in a file -> the name that it gets; FILE/NAME renames it in this file only.

    Raises:
        CheckpointError: a file is damaged, or two words have the same name.
    """
    renames, used = dict(renames or {}), set()
    found: dict[str, GraphWord] = {}
    others = []
    for path in paths:
        if not holds_graph_words(path):
            others.append(path)
            continue
        for name, word in read_graph_words(path).items():
            key = find_rename(path, name, renames)
            used.add(key)
            new = name if key is None else renames[key]
            if new in found:
                raise same_name(new, found[new].source, path, name)
            found[new] = word
    return Collected(found, others, {key: new for key, new in renames.items() if key not in used})


def _metadata(path: str | Path) -> dict | None:
    """What the file states; None for other files, also missing ones."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            stated = json.loads((file.metadata() or {}).get(METADATA, "null"))
    except Exception:  # another format, or a damaged file, which the reader of other words explains
        return None
    return stated if isinstance(stated, dict) else None
