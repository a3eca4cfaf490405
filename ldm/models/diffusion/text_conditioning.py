"""Texts as a part of the conditioning: which encoder reads them, what stands for a graph, and what stands for no text."""

from __future__ import annotations

import torch
from torch import Tensor

from ldm.graph.batch import Batch, GraphBatch, decode
from ldm.graph.caption import caption
from ldm.graph.text_spans import count_tokens
from ldm.graph.text_tokens import Texts
from ldm.graph.vocab import Vocab
from ldm.modules.conditioning import TextTokens
from ldm.modules.encoders.modules import TextEncoder


def captions(graph: GraphBatch, vocab: Vocab) -> list[str]:
    """A caption of each graph that fits into the text encoder."""
    graphs = decode(GraphBatch(*(None if part is None else part.cpu() for part in graph)), vocab)
    return [caption(each, count_tokens=count_tokens).text for each in graphs]


def encode_texts(
    text_encoder: TextEncoder,
    texts: Texts,
    size: tuple[int, int],
    chunked: bool = False,
    negative: bool = False,
) -> TextTokens:
    """Encodes B texts.

    Args:
        text_encoder: on the device where the result is to be.
        texts: B of them, or their tokens.
        size: height and width of the images in pixels.
        chunked: whether texts of more than 77 tokens are read in chunks instead of being cut.
        negative: whether "" stands for no text, which is not the same in SDXL.
    """
    encoded = text_encoder(texts, size, chunked)
    if negative and text_encoder.zero_if_empty and not isinstance(texts, Tensor):
        empty = torch.tensor([not text for text in texts], device=encoded.mask.device)
        encoded = encoded.where(empty, text_encoder.without_text(encoded))
    return encoded


def batch_texts(batch: Batch) -> TextTokens | Tensor | None:
    """What a batch holds of its captions: their tokens, or what the text encoder made of them, from a latent cache."""
    latents = batch.latents
    if batch.text_ids is not None or latents is None or latents.text is None:
        return batch.text_ids
    vector = None if latents.text_vector is None else latents.text_vector.float()
    return TextTokens.from_tokens(latents.text.float(), vector)
