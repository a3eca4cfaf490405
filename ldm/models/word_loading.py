"""Gives a model learned words from files: names of its graph encoder, and words of its text encoder."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ldm.checkpoints.graph_word_files import GraphWord, collect_graph_words
from ldm.checkpoints.word_files import collect_words
from ldm.graph.vocab import KINDS, OpenVocab
from ldm.models.diffusion.latent_diffusion import LatentDiffusion
from ldm.models.vocabulary import extended_vocab
from ldm.modules.encoders.words import add_word
from ldm.modules.graph_words import LearnsNames, table_sizes, tables_digest
from ldm.modules.word_encoder import ReadsMeanings
from ldm.util.errors import UserError

logger = logging.getLogger(__name__)


def load_words(
    model: LatentDiffusion, paths: Sequence[str | Path], renames: Mapping[str, str] | None = None
) -> list[str]:
    """Adds the learned words of files.

    Returns:
        Their names.

    Raises:
        UserError: a file cannot be read, does not fit the model, or has a word that is there already.
    """
    graph_words, paths, renames = collect_graph_words(paths, renames)
    if graph_words:
        add_graph_words(model, graph_words)
    if not paths and not renames:
        return list(graph_words)
    if model.text_stage_model is None and paths:
        raise UserError(f"--words {paths[0]}: this model has no text encoder to read words with; leave --words out")
    found = collect_words(paths, renames)
    for name, word in found.items():
        try:
            add_word(model.text_stage_model, name, word.vectors)
        except UserError as error:
            raise UserError(f"{word.source}: {error}") from error
        logger.info("word: %s, %d vectors, from %s", name, len(word.vectors[0]), word.source)
    return [*graph_words, *found]


def add_graph_words(model: LatentDiffusion, words: Mapping[str, GraphWord]) -> None:
    """Adds names to the model's vocabulary, and their rows to its graph encoder.

    Raises:
        UserError: the words were learned beside other tables, or a name is there already.
    """
    encoder, source = model.cond_stage_model, next(iter(words.values())).source
    if not isinstance(encoder, LearnsNames) or model.vocab is None or isinstance(model.vocab, OpenVocab):
        raise UserError(
            f"{source}: graph words, and this model has no graph encoder with a vocabulary of its own; use the model that they were "
            "learned with"
        )
    digest = tables_digest(encoder)
    for name, word in words.items():
        if word.encoder != digest:
            raise UserError(
                f"{word.source}: the word {name!r} was learned with another graph encoder; use the model that it was learned with"
            )
    model.vocab = extended_vocab(model.vocab, words, table_sizes(encoder))
    for kind in KINDS:
        if rows := [word.row for word in words.values() if word.kind == kind]:
            encoder.add_rows(kind, torch.stack(rows))
    if isinstance(encoder, ReadsMeanings):
        encoder.bind_words(model.vocab)
    for name, word in words.items():
        logger.info("graph word: %s, %s, from %s", name, word.kind, word.source)
