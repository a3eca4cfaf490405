"""What a first stage loses: images of a config's data set, encoded and decoded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from ldm.evaluation.image_sets import ImageSetError
from ldm.evaluation.report import bootstrap_interval
from ldm.models.encoders import FirstStage
from ldm.util.image_similarity import psnr, ssim
from ldm.util.images import to_image

MEASURES = {
    "psnr": "dB of a peak of 255, mean over images",
    "ssim": "Gaussian window, mean over images",
}


def choose_images(count: int, wanted: int) -> list[int]:
    """Indices of `wanted` images, or of all if there are fewer, evenly over the data set, whose neighbours are often alike."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(int)).tolist()


@torch.no_grad()
def measure(first_stage: FirstStage, images: Dataset[Tensor], indices: Sequence[int], device: str = "cpu") -> dict:
    """PSNR and SSIM of images to their reconstructions, as 8 bit images.

    Args:
        images: uint8 (3,S,S).
        indices: which of them.

    Returns:
        Means with their 95 % intervals of the bootstrap over images, the number of images, and the shape of a latent.

    Raises:
        ImageSetError: there are none.
    """
    if not indices:
        raise ImageSetError("no images to reconstruct; name a split that has some")
    rows, shape = [], ()
    for index in tqdm(indices, desc="reconstruction", unit="image", leave=False):
        image = images[index]
        z = first_stage.encode((image[None] / 127.5 - 1).to(device))
        pixels = to_image(first_stage.decode(z)[0].float().cpu())
        original = to_image(image / 127.5 - 1)
        rows.append({"psnr": psnr(pixels, original), "ssim": ssim(pixels, original)})
        shape = tuple(z.shape[1:])
    report: dict = {"images": len(rows), "latent": list(shape)}
    for key in MEASURES:
        report[key] = float(np.mean([row[key] for row in rows]))
        report[f"{key}_95"] = bootstrap_interval(rows, range(len(rows)), key)
    return report
