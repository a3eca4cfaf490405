"""Between two passes of a restyle: the second edits what the first left, whose style is nearer already to the one asked for."""

from __future__ import annotations

import torch
from torch import Tensor

from ldm.editing.region import in_cells
from ldm.graph.batch import encode
from ldm.graph.scene_graph import SceneGraph
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.modules.conditioning import Conditioning

PASSES = 2  # where nothing else is asked for: after one alone, too much of the picture's own style is left
TRUST = 0.4  # share of the way to the style asked for that a pass has gone beyond what its picture tells


def left_by_a_pass(
    model: LatentDiffusion, z: Tensor, graph: SceneGraph, target: Conditioning, told: bool
) -> tuple[Tensor, Conditioning]:
    """The latent z (1,C,h,w) that a pass towards `target` made, as the next one finds it, and its condition, which is the null
    graph's if no graph was `told`.

    The background goes through the picture, so that it is one that the first stage can show; what the graph's boxes hold
    would only lose by that. The picture's style is read with an error, by which the next pass would miss the target's: so it
    is taken for a mixture of the two."""
    look = model.decode(z).clamp(-1, 1)
    held = torch.zeros_like(z[:, :1])
    for box in graph.boxes if told else ():
        if box is not None:
            held[in_cells(box, z.shape[-2:], margin=0, feather=0).to(held) > 0] = 1
    z = torch.lerp(model.encode(look), z, held)
    if not told:
        return z, model.unconditional(1)
    own = model.condition(encode([graph], model.vocab).to(model.device), look)
    return z, own._replace(style=torch.lerp(own.style, target.style, TRUST))
