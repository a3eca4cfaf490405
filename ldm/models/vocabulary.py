"""The vocabulary of a model before the model is built, so that a misspelt name is found at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ldm.checkpoints.graph_word_files import GraphWord, collect_graph_words
from ldm.checkpoints.own_files import read_own
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.vocab import KINDS, Vocab
from ldm.models.finding import is_run, last_checkpoint
from ldm.util.config import instantiate_from_config, plain
from ldm.util.config_merging import ConfigPaths, read_configs
from ldm.util.errors import UserError
from ldm.words.naming import Naming


def read_vocab(checkpoint: str | Path | None, config: ConfigPaths | None = None) -> Vocab | None:
    """The vocabulary that `load_model` will give a model, without its weights.

    Args:
        checkpoint: a run, a checkpoint of trainer.py, exported adapters, published weights, or None.
        config: the config that the user names, if any.

    Returns:
        None if neither tells it, which `load_model` then explains or makes up for.

    Raises:
        UserError: the vocabulary, or the data set of the config, is missing or damaged.
    """
    if checkpoint is not None and is_run(checkpoint):
        checkpoint = last_checkpoint(checkpoint)
    if checkpoint is not None and (saved := _saved_vocab(Path(checkpoint))):
        return Vocab.from_json(saved, f"{checkpoint}: vocabulary")
    merged = read_configs(config) if config else OmegaConf.create({})
    if reads_text_alone(merged):
        return None
    train = OmegaConf.select(merged, "data.params.train")
    train = None if train is None else plain(train)
    return training_vocab(train) if isinstance(train, dict) and "target" in train else None


def reads_text_alone(config: DictConfig) -> bool:
    """Whether a config is of a model without graph encoder, which reads graphs as text, in any words."""
    params = OmegaConf.select(config, "model.params")
    return (
        params is not None and params.get("cond_stage_config") is None and params.get("text_stage_config") is not None
    )


def check_names(
    graphs: Mapping[str, SceneGraph],
    checkpoint: str | Path | None,
    config: ConfigPaths | None,
    naming: Naming | None = None,
    words: Sequence[str | Path] = (),
    renames: Sequence[tuple[str, str]] = (),
) -> dict[str, SceneGraph]:
    """Checks the names of graphs, by where they come from, before a model is loaded, which takes seconds.

    Args:
        naming: what to do with words that the vocabulary lacks; None refuses them.
        words: files of learned words, whose graph words the vocabulary then has.
        renames: pairs of a learned word in these files and the name that it gets.

    Returns:
        The graphs in the vocabulary's names; unchanged if the model takes words as they are.

    Raises:
        GraphError: a name is not in the vocabulary, as far as `read_vocab` finds it.
    """
    naming = naming or Naming()
    vocab = None if naming.embeds else read_vocab(checkpoint, config)
    if vocab and words:
        vocab = extended_vocab(vocab, collect_graph_words(words, dict(renames)).words)
    return naming.name_all(graphs, vocab) if vocab else dict(graphs)


def extended_vocab(vocab: Vocab, words: Mapping[str, GraphWord], sizes: Mapping[str, int] | None = None) -> Vocab:
    """The vocabulary with graph words behind its own names (see `Vocab.extended`).

    Raises:
        UserError: a word is a name of the vocabulary already.
    """
    for name, word in words.items():
        if name in vocab.ids[KINDS.index(word.kind)]:
            raise UserError(
                f"{word.source}: the word {name!r} is a name of the vocabulary already; give it a new one, such as --rename "
                f"'{name}=my {name}'"
            )
    by_kind = {kind: [name for name, word in words.items() if word.kind == kind] for kind in KINDS}
    return vocab.extended(by_kind, sizes)


def training_vocab(train: dict) -> Vocab:
    """The vocabulary of a training set: of the file that its config names, else of the data set, which is built once.

    Args:
        train: target and params of the data set.
    """
    params = train.get("params")
    path = params.get("vocab") if isinstance(params, dict) else None
    return Vocab.read(path) if path else _vocab_of_dataset(json.dumps(train))


@lru_cache(maxsize=1)
def _vocab_of_dataset(train: str) -> Vocab:
    return instantiate_from_config(json.loads(train)).vocab


def is_own_checkpoint(path: Path) -> bool:
    """Whether a file is a checkpoint of trainer.py or exported adapters."""
    return read_own(path) is not None


def _saved_vocab(path: Path) -> Any:
    """The vocabulary in a checkpoint of trainer.py or in exported adapters, as JSON data; None in any other file."""
    return (read_own(path) or {}).get("vocab")
