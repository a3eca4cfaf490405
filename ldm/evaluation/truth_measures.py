"""How near an edited image comes to the true result, where that differs from the source: pixels, structure, features, shadows.

A checker tells whether an edit is right; these numbers show a right edit that looks wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ldm.graph.validation import Box
from ldm.models.diffusion.latent_diffusion import LatentDiffusion
from ldm.models.preprocess import to_model_input
from ldm.modules.image_encoder import CLIPGlobalEncoder
from ldm.util import image_similarity

NOISE = 8  # levels of 255 by which rendering and compression alone change a pixel
LEAST_SHADOW = 0.002  # share of the image's pixels; fewer changed ones outside the boxes are no shadow

Features = Callable[[Image.Image], Tensor]  # image -> (g,g,W), a feature vector for each patch


def difference(a: Image.Image, b: Image.Image) -> np.ndarray:
    """(H,W): largest difference of a pixel's colour channels, in levels of 255."""
    pixels = (np.asarray(image.convert("RGB"), np.int16) for image in (a, b))
    return np.abs(np.subtract(*pixels)).max(-1)


def changed_pixels(source: Image.Image, truth: Image.Image, levels: int = NOISE) -> np.ndarray:
    """(H,W) bool: where the true result differs from the source by more than `levels`."""
    return difference(source, truth) > levels


def compare_with_truth(
    image: Image.Image, truth: Image.Image, changed: np.ndarray, features: Features | None = None
) -> dict:
    """PSNR, SSIM and feature distance to the true result within the changed region; empty where nothing changed.

    Args:
        changed: (H,W) bool, see `changed_pixels`.
        features: of the image's patches; without it there is no feature distance.
    """
    if not changed.any():
        return {}
    numbers = {
        "truth_psnr": image_similarity.psnr(image, truth, changed),
        "truth_ssim": image_similarity.ssim(image, truth, changed),
    }
    if features is not None:
        numbers["truth_features"] = feature_distance(features(image), features(truth), changed)
    return {key: min(value, 99.0) for key, value in numbers.items()}


def feature_distance(a: Tensor, b: Tensor, changed: np.ndarray) -> float:
    """1 - cosine of the features (g,g,W) of two images, averaged over patches with their shares of changed pixels."""
    weight = torch.from_numpy(changed.astype(np.float32))[None, None]
    weight = torch.nn.functional.adaptive_avg_pool2d(weight, a.shape[:2])[0, 0].to(a)
    distance = 1 - torch.nn.functional.cosine_similarity(a, b, dim=-1)
    return float((weight * distance).sum() / weight.sum())


def patch_features(model: LatentDiffusion) -> Features | None:
    """The function that computes an image's patch features by the model's image tower; None for a model without one."""
    encoder = model.global_stage_model
    if not isinstance(encoder, CLIPGlobalEncoder):
        return None
    transformer = encoder.visual.get_submodule("transformer")

    def features(image: Image.Image) -> Tensor:
        tokens: list[Tensor] = []
        hook = transformer.register_forward_hook(lambda module, inputs, output: tokens.append(output))
        try:
            encoder(to_model_input(model, image))
        finally:
            hook.remove()
        patches = tokens[0][0, 1:].float()  # the first token is that of the whole image
        side = round(len(patches) ** 0.5)
        return patches.view(side, side, -1)

    return features


def shadow_follows(
    image: Image.Image, source: Image.Image, truth: Image.Image, changed: np.ndarray, boxes: Sequence[Box]
) -> bool | None:
    """Whether shadows and reflections are nearer to the true result than to the source.

    Args:
        changed: (H,W) bool, see `changed_pixels`; those outside all boxes are shadows and reflections.
        boxes: of the whole objects that changed, before and after, without their shadows.

    Returns:
        None where no shadow or reflection changed.
    """
    shadow = changed & image_similarity.mask_outside(boxes, len(changed))
    if shadow.mean() < LEAST_SHADOW:
        return None
    result, before, after = (np.asarray(each.convert("RGB"), float)[shadow] for each in (image, source, truth))
    return bool(np.abs(result - after).mean() < np.abs(result - before).mean())
