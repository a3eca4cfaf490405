"""Trains the classifier of crops on unaltered photographs, and says how often it is right on others."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldm.evaluation.photographs.classifier import SEEN, SIDE, CropClassifier
from ldm.evaluation.photographs.crops import Crops
from ldm.util.errors import UserError
from ldm.util.files import atomic_write

SHIFT, ZOOM = 0.08, 1.25  # of what is seen: shares of a crop's side, and the largest factor
BALANCE = 0.5  # exponent by which rare classes are drawn more often: 0 as they are, 1 all alike
SMOOTHING = 0.05  # of the labels
EVALUATED = 256  # crops at once


@dataclass(frozen=True)
class TrainingOptions:
    """How long and how to train."""

    epochs: int = 20
    batch: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    seed: int = 0


def train(
    crops: Crops,
    options: TrainingOptions,
    state_path: Path,
    report: Callable[[int, float], None] = lambda epoch, loss: None,
) -> CropClassifier:
    """Trains a classifier; an interrupted training goes on at its last complete epoch.

    Args:
        state_path: where the state of an unfinished training is kept.
        report: called after each epoch with its number, from 1, and its mean loss.

    Raises:
        UserError: the state is damaged, or of a training of other options or crops.
    """
    torch.manual_seed(options.seed)
    classifier = CropClassifier(crops.classes).train()
    steps = options.epochs * math.ceil(len(crops.labels) / options.batch)
    adam = torch.optim.AdamW(classifier.parameters(), options.learning_rate, weight_decay=options.weight_decay)
    rates = torch.optim.lr_scheduler.OneCycleLR(adam, options.learning_rate, steps, pct_start=0.1)
    parts = {"classifier": classifier, "adam": adam, "rates": rates}
    settings = {**asdict(options), "crops": len(crops.labels), "classes": list(crops.classes)}
    first = _restore(state_path, parts, settings)
    counts = torch.bincount(crops.labels, minlength=len(crops.classes)).float().clamp(min=1)
    weights = counts[crops.labels] ** -BALANCE
    for epoch in range(first, options.epochs):
        generator = torch.Generator().manual_seed(1000 * options.seed + epoch)
        order = torch.multinomial(weights, len(weights), replacement=True, generator=generator)
        losses = []
        for rows in order.split(options.batch):
            seen = vary(crops.pixels[rows].float() / 127.5 - 1, generator)
            loss = F.cross_entropy(classifier(seen), crops.labels[rows], label_smoothing=SMOOTHING)
            adam.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(classifier.parameters(), 1.0)
            adam.step()
            rates.step()
            losses.append(loss.item())
        with atomic_write(state_path) as temporary:
            states = {name: part.state_dict() for name, part in parts.items()}
            torch.save({"settings": settings, "epoch": epoch + 1, **states}, temporary)
        report(epoch + 1, sum(losses) / len(losses))
    return classifier.eval()


def vary(crops: Tensor, generator: torch.Generator) -> Tensor:
    """Random views: turned, mirrored, shifted and zoomed, in another light, blurred or noisy.

    Args:
        crops: (B,3,C,C) in [-1,1].

    Returns:
        (B,3,SIDE,SIDE).
    """
    count = len(crops)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    angle, zoom = uniform(-math.pi, math.pi), SEEN * ZOOM ** uniform(-1, 1)
    mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    rows = [torch.stack([cos * mirror, -sin, uniform(-SHIFT, SHIFT)], 1)]
    rows.append(torch.stack([sin * mirror, cos, uniform(-SHIFT, SHIFT)], 1))
    grid = F.affine_grid(torch.stack(rows, 1), [count, 3, SIDE, SIDE], align_corners=False)
    seen = F.grid_sample(crops, grid, padding_mode="reflection", align_corners=False)
    gain, offset = uniform(0.75, 1.3).view(-1, 1, 1, 1), uniform(-0.15, 0.15).view(-1, 1, 1, 1)
    tint = 1 + 0.08 * torch.randn(count, 3, 1, 1, generator=generator)
    seen = seen * gain * tint + offset
    blurred = F.avg_pool2d(F.pad(seen, (1, 1, 1, 1), mode="replicate"), 3, 1)
    seen = torch.lerp(seen, blurred, (uniform(-1, 1).clamp(min=0)).view(-1, 1, 1, 1))
    noise = (uniform(-0.08, 0.08).clamp(min=0)).view(-1, 1, 1, 1)
    return (seen + noise * torch.randn(seen.shape, generator=generator)).clamp(-1, 1)


def confusion(classifier: CropClassifier, crops: Crops) -> Tensor:
    """(K,K): of the crops of class i, how many are called class j."""
    counts = torch.zeros(len(crops.classes), len(crops.classes), dtype=torch.long)
    for pixels, labels in zip(crops.pixels.split(EVALUATED), crops.labels.split(EVALUATED)):
        answers = classifier.probabilities(pixels).argmax(1)
        counts.index_put_((labels, answers), torch.ones_like(labels), accumulate=True)
    return counts


def _restore(path: Path, parts: dict, settings: dict) -> int:
    """Loads the state of an unfinished training, if there is one; returns how many epochs are done."""
    if not path.exists():
        return 0
    try:
        state = torch.load(path, weights_only=True)
        same = state["settings"] == settings
        for name, part in parts.items() if same else ():
            part.load_state_dict(state[name])
        epoch = int(state["epoch"])
    except Exception as error:  # torch raises many kinds for a damaged file
        raise UserError(f"{path}: this state is damaged ({type(error).__name__}); delete it to begin anew") from None
    if not same:
        raise UserError(f"{path}: the state of a training of other crops or options; delete it to begin anew")
    return epoch
