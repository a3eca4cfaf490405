"""Transferring a style in several passes: the source of the next pass, made from the result of the previous one."""

from __future__ import annotations

import torch
from torch import Tensor

from ldm.editing.region import in_cells
from ldm.graph.scene_graph import SceneGraph
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.models.preprocess import encode_graph
from ldm.modules.conditioning import Conditioning

STYLE_MIX = 0.4  # share of the requested style in the source style of the next pass


def next_source(
    model: LatentDiffusion, latent: Tensor, graph: SceneGraph, target: Conditioning, knows_graph: bool
) -> tuple[Tensor, Conditioning]:
    """Latent and source conditioning of the next pass.

    The background is decoded and encoded again, which makes it an image that the first stage can represent; the content of
    the graph's boxes stays as it is, since it would only lose by that. The image encoder reads the style of the result
    with an error, by which the next pass would miss the requested style; a mixture of both styles avoids that.

    Args:
        latent: (1,C,h,w), result of the previous pass.
        target: conditioning of the edit.
        knows_graph: whether the photograph has a source graph; otherwise the source is the null graph.
    """
    image = model.decode(latent).clamp(-1, 1)
    height, width = latent.shape[-2:]
    kept = torch.zeros_like(latent[:, :1])
    for box in graph.boxes if knows_graph else ():
        if box is not None:
            kept[in_cells(box, (height, width), margin=0, feather=0).to(kept) > 0] = 1
    latent = torch.lerp(model.encode(image), latent, kept)
    if not knows_graph:
        return latent, model.unconditional(1)
    source = model.condition(encode_graph(graph, model), image)._replace(text=target.text)
    return latent, source._replace(style=torch.lerp(source.style, target.style, STYLE_MIX))
