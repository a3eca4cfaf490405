"""Objects taken out of a picture: what a graph then has to say in their place."""

from __future__ import annotations

import torch
from torch import Tensor

from ldm.graph import GraphBatch

FILL = 0.0  # mid grey in [-1,1], close to the mean of CLIP's images


def draw_objects(graph: GraphBatch, probability: float) -> Tensor:  # -> (O,) bool
    """Each object that has a box, on its own, with that probability; never `__image__`, which would be everything."""
    can_be = (graph.objs != 0) & (graph.boxes[:, 0] >= 0)
    return can_be & (torch.rand(len(graph.objs), device=graph.objs.device) < probability)


def mask_objects(image: Tensor, graph: GraphBatch, hidden: Tensor) -> Tensor:  # (B,3,H,W), (O,) bool -> (B,3,H,W)
    """The image with FILL at every pixel whose middle lies in the box of a hidden object."""
    (x0, y0, x1, y1), image_of = graph.boxes[hidden].T[..., None], graph.obj_to_img[hidden]
    x, y = ((torch.arange(size, device=image.device) + 0.5) / size for size in (image.shape[3], image.shape[2]))
    inside = ((x0 <= x) & (x < x1))[:, None, :] & ((y0 <= y) & (y < y1))[:, :, None]
    boxes_over = torch.zeros_like(image[:, 0]).index_add(0, image_of, inside.to(image.dtype))
    return torch.where(boxes_over[:, None] > 0, FILL, image)
