"""Trains the detector on true renders: pictures stay on the device, and are varied there batch by batch."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ldm.synthetic.rendered.augmentation import rotate_hues, transplant, zoom_and_shift
from ldm.synthetic.rendered.degradation import ThrowawayAutoencoder, degrade, reconstruction_loss
from ldm.synthetic.rendered.detector import Detector, take_over
from ldm.synthetic.rendered.targets import SceneTensors, detector_loss
from ldm.synthetic.rendered.vocabulary import TABLE, DetectorVocabulary
from ldm.util.errors import UserError
from ldm.util.files import atomic_write

SAVE_EVERY = 60.0  # seconds between saved states
EMA = 0.999
LEAST_RATE = 0.01  # learning rate at the end, as a share of the highest
MIXED = 4  # one picture in so many goes through the autoencoder
ZOOMED = 0.5  # share of the pictures that are zoomed and shifted
TRANSPLANTED = 0.8  # share of the pictures that get a window of another one, if one of those tried is possible
CALM_FROM, CALM = 0.85, 0.3  # of the training: from there on, these shares are so much smaller


@dataclass(frozen=True)
class TrainingOptions:
    """How long and how to train; it ends after `steps`, or after `minutes` if these come first.

    Args:
        minutes: of training in all, earlier pieces of a resumed one counted in; None for no limit.
        learning_rate: highest, reached after `warm_up` of the training.
        autoencoder: whether some pictures are reconstructions of a throw-away autoencoder, which learns beside the
            detector until `autoencoder_until` of the training and is used from `autoencoder_from` on.
        hues: share of the pictures whose hues are rotated, and whose colours are not learned.
        width: of the detector.
        seed: of the order of the pictures and of their changes.
    """

    steps: int = 8000
    minutes: float | None = None
    batch: int = 256
    learning_rate: float = 2e-3
    warm_up: float = 0.03
    weight_decay: float = 0.03
    autoencoder: bool = True
    autoencoder_from: float = 0.15
    autoencoder_until: float = 0.4
    hues: float = 0.0
    width: float = 1.0
    seed: int = 0


class Pictures(NamedTuple):
    """N pictures and what they show, on one device.

    Args:
        pixels: (N,3,SIDE,SIDE) uint8.
    """

    pixels: Tensor
    scenes: SceneTensors

    @staticmethod
    def on(device: torch.device | str, pixels: np.ndarray, scenes: SceneTensors) -> Pictures:
        """Args: pixels (N,SIDE,SIDE,3) uint8."""
        moved = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2)  # channels last, as convolutions like it
        return Pictures(moved, scenes.to(device))


class DetectorTraining:
    """A training run that can be saved and resumed.

    Args:
        state: file for the state of an unfinished run; resumed if it exists.
        vocabulary: the words of the pictures.
        initial: a detector of any vocabulary to start from, as far as its weights fit.

    Raises:
        UserError: the state belongs to a run with other options or words, or `initial` has another width.
    """

    def __init__(
        self,
        data: Pictures,
        options: TrainingOptions,
        state: Path | None = None,
        vocabulary: DetectorVocabulary = TABLE,
        initial: Detector | None = None,
    ):
        self.data, self.options, self.state, self.vocabulary = data, options, state, vocabulary
        self.device = data.pixels.device
        torch.manual_seed(options.seed)
        self.detector = self._module(Detector(options.width, vocabulary))
        self.average = self._module(Detector(options.width, vocabulary)).eval().requires_grad_(False)
        self.autoencoder = self._module(ThrowawayAutoencoder())
        fused = {"fused": True} if self.device.type == "cuda" else {}
        self.optimizer = torch.optim.AdamW(_groups(self.detector, options.weight_decay), betas=(0.9, 0.99), **fused)
        self.autoencoder_optimizer = torch.optim.AdamW(self.autoencoder.parameters(), 2e-3, betas=(0.9, 0.99), **fused)
        self.step, self.seconds = 0, 0.0
        self.taken_over = take_over(self.detector, initial.to(self.device)) if initial else (0, 0)
        self.average.load_state_dict(self.detector.state_dict())
        if state and state.exists():
            self._load(state)
        self.rng = random.Random(f"{options.seed}/{self.step}")
        torch.manual_seed(options.seed + self.step)
        self._order = torch.empty(0, dtype=torch.long, device=self.device)
        self._averaged = _pairs(self.average, self.detector)

    def run(self, report: Callable[[DetectorTraining, dict[str, float]], Any] = lambda training, losses: None) -> None:
        """Trains to the end.

        Args:
            report: called every 50 steps with the losses by field.
        """
        self.detector.train()
        began, before, saved = time.monotonic(), self.seconds, time.monotonic()
        while self.progress < 1:
            losses = self._train_step()
            self.step += 1
            if self.step % 10 == 0 or self.device.type == "cpu":  # the clock is read when the device has caught up
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)
                self.seconds = before + time.monotonic() - began
            if self.step % 50 == 0:
                report(self, {field: float(loss) for field, loss in losses.items()})
            if self.state and time.monotonic() - saved > SAVE_EVERY:
                self.save()
                saved = time.monotonic()
        if self.state:
            self.save()

    @property
    def progress(self) -> float:
        """Share of the training that is done."""
        by_time = self.seconds / (60 * self.options.minutes) if self.options.minutes else 0.0
        return max(self.step / self.options.steps, by_time)

    def _train_step(self) -> dict[str, Tensor]:
        rate = self.options.learning_rate * self._rate_factor()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        index = self._next_batch()
        pictures, scenes = self.data.pixels[index].float() / 255, self.data.scenes.select(index)
        mirrored = self._sometimes(0.5, len(index))
        pictures = torch.where(mirrored[:, None, None, None], pictures.flip(-1), pictures)
        calm = CALM if self.progress >= CALM_FROM else 1.0
        pictures, scenes = zoom_and_shift(
            pictures,
            scenes.mirrored(mirrored, len(self.vocabulary.parts["side"])),
            self._sometimes(calm * ZOOMED, len(index)),
        )
        pictures, scenes = transplant(pictures, scenes, self._sometimes(calm * TRANSPLANTED, len(index)))
        if self.options.hues:
            pictures, scenes = rotate_hues(pictures, scenes, self._sometimes(self.options.hues, len(index)))
        losses: dict[str, Tensor] = {}
        if self.options.autoencoder:
            pictures = self._mix_reconstructions(pictures, losses)
        pictures = degrade(pictures, self.rng).contiguous(memory_format=torch.channels_last)
        with self._autocast():
            maps = self.detector(pictures)
        fields = detector_loss(maps, scenes, self.vocabulary)
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(fields.values())).sum().backward()
        nn.utils.clip_grad_norm_(self.detector.parameters(), 10.0)
        self.optimizer.step()
        decay = min(EMA, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(*self._averaged, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        return losses | {field: loss.detach() for field, loss in fields.items()}

    def _mix_reconstructions(self, pictures: Tensor, losses: dict[str, Tensor]) -> Tensor:
        """Replaces some of the pictures, by degrees, by what the autoencoder makes of them; trains it, too, for a while."""
        count, progress = len(pictures) // MIXED, self.progress
        learning = progress < self.options.autoencoder_until
        if not count or not (learning or progress >= self.options.autoencoder_from):
            return pictures
        chosen = pictures[:count].contiguous(memory_format=torch.channels_last)
        with torch.set_grad_enabled(learning), self._autocast():
            reconstruction = self.autoencoder(chosen).float()
        if learning:
            loss = reconstruction_loss(reconstruction, chosen)
            self.autoencoder_optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.autoencoder_optimizer.step()
            losses["autoencoder"] = loss.detach()
        if progress < self.options.autoencoder_from:
            return pictures
        share = torch.rand(count, 1, 1, 1, device=self.device)
        mixed = torch.lerp(chosen, reconstruction.detach().clamp(0, 1), share)
        return torch.cat([mixed, pictures[count:]])

    def _sometimes(self, share: float, count: int) -> Tensor:
        return torch.rand(count, device=self.device) < share

    def _rate_factor(self) -> float:
        """Linear warm-up, then a cosine."""
        progress, warm_up = self.progress, self.options.warm_up
        if progress < warm_up:
            return (progress + 1e-3) / (warm_up + 1e-3)
        cosine = (1 + np.cos(np.pi * (progress - warm_up) / (1 - warm_up))) / 2
        return LEAST_RATE + (1 - LEAST_RATE) * float(cosine)

    def _next_batch(self) -> Tensor:
        count = min(self.options.batch, len(self.data.pixels))
        if len(self._order) < count:
            self._order = torch.randperm(len(self.data.pixels), device=self.device)
        index, self._order = self._order[:count], self._order[count:]
        return index

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def _module(self, module: nn.Module) -> Any:
        return module.to(self.device, memory_format=torch.channels_last)

    def _parts(self) -> dict[str, Any]:
        return {
            "detector": self.detector,
            "average": self.average,
            "autoencoder": self.autoencoder,
            "optimizer": self.optimizer,
            "autoencoder_optimizer": self.autoencoder_optimizer,
        }

    def save(self) -> None:
        """Writes the state, to resume from it."""
        assert self.state is not None
        content: dict[str, Any] = {name: part.state_dict() for name, part in self._parts().items()}
        content |= {"step": self.step, "seconds": self.seconds, "options": asdict(self.options)}
        with atomic_write(self.state) as part:
            torch.save(content, part)

    def _load(self, state: Path) -> None:
        try:
            content = torch.load(state, map_location=self.device, weights_only=True)
            options = content["options"]
        except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, ... for a broken file
            raise UserError(f"{state}: not the state of a training ({error}); delete it to begin anew") from None
        fixed = {"autoencoder", "width", "weight_decay"}
        differing = [name for name in fixed if options[name] != getattr(self.options, name)]
        if differing:
            raise UserError(f"{state}: a training with another {differing[0]!r}; delete it to begin anew")
        if content["detector"]["head.1.bias"].shape != self.detector.head[1].bias.shape:
            raise UserError(f"{state}: a training on pictures with other words; delete it to begin anew")
        for name, part in self._parts().items():
            part.load_state_dict(content[name])
        self.step, self.seconds = content["step"], content["seconds"]


def _groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for the weights of convolutions and linear layers alone."""
    parameters = list(module.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _pairs(average: nn.Module, module: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """The floating-point tensors of two equal modules, statistics included, that share memory with them."""
    names = [name for name, value in module.state_dict().items() if value.is_floating_point()]
    return [average.state_dict()[name] for name in names], [module.state_dict()[name] for name in names]
