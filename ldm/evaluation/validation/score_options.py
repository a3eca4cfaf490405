"""The scores of a validation by their names, and what they need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ldm.evaluation.metric_networks import Networks, default_weights_folder, find_weights, load_networks
from ldm.evaluation.validation import pie_scores
from ldm.evaluation.validation.clip import Clip, OpenClip
from ldm.evaluation.validation.lines import ValidationLine
from ldm.evaluation.validation.scores import (
    CheckerScore,
    ClassifierScore,
    ClipScore,
    LpipsScore,
    PixelScore,
    Score,
)
from ldm.synthetic.worlds import find_reader
from ldm.util.config import resolve
from ldm.util.errors import UserError, did_you_mean

PIE = ("pie-pixels", "pie-lpips", "pie-structure", "pie-clip")
NAMES = ("pixels", "checker", "clip", "lpips", "fid", "pie", *PIE)


@dataclass(frozen=True)
class ScoreOptions:
    """What scores need besides their names.

    Args:
        world: synthetic world of the checker.
        clip: 'ARCHITECTURE:FILE'.
        weights: folder of the other networks' weights; None for torch's own.
        classifier: function of the user's, as package.module.function.
        device: where networks run.
    """

    world: str | None = None
    clip: str | None = None
    weights: str | None = None
    classifier: str | None = None
    device: str = "cpu"

    @property
    def folder(self) -> Path:
        """Of the weights."""
        return Path(self.weights).expanduser() if self.weights else default_weights_folder()


def default_names(lines: Sequence[ValidationLine], options: ScoreOptions) -> list[str]:
    """The scores that suit some lines and need no weights beyond those that are named."""
    edits = any(line.is_edit for line in lines)
    masked = all(line.region is not None for line in lines)
    names = ["pie-pixels"] if masked else ["pixels"] if edits else []
    names += ["checker"] if options.world else []
    return names + (["clip"] if options.clip else [])


def expand_names(names: Sequence[str]) -> list[str]:
    """The names, with 'pie' as its four parts. Raises UserError for an unknown one."""
    for name in names:
        if name not in NAMES:
            raise UserError(f"--scores {name}: choose from {', '.join(NAMES)}{did_you_mean(name, NAMES)}")
    return list(dict.fromkeys(part for name in names for part in (PIE if name == "pie" else [name])))


def make_scores(names: Sequence[str], options: ScoreOptions) -> dict[str, Score]:
    """The scores of these names, 'fid' apart, which is no number of a single picture.

    Raises:
        UserError: a name is unknown, or weights are missing; the message says which file to put where.
    """
    builders: dict[str, Callable[[], Score]] = {
        "pixels": lambda: PixelScore({"measures": "see their definitions"}),
        "checker": lambda: _make_checker(options.world),
        "clip": lambda: ClipScore(_make_clip(options)),
        "lpips": lambda: LpipsScore(_load_lpips(options, "alex"), options.device),
        "pie-pixels": pie_scores.PiePixels,
        "pie-lpips": lambda: pie_scores.PieLpips(_load_lpips(options, "squeeze"), options.device),
        "pie-structure": lambda: pie_scores.PieStructure(*pie_scores.load_dino(options.folder, options.device)),
        "pie-clip": lambda: pie_scores.PieClip(_make_clip(options)),
    }
    scores = {name: builders[name]() for name in expand_names(names) if name != "fid"}
    if options.classifier:
        scores["classifier"] = ClassifierScore(options.classifier, resolve(options.classifier), {})
    return scores


def _make_checker(world: str | None) -> CheckerScore:
    if world is None:
        raise UserError("--scores checker: name the synthetic world that has one with --world, such as shapes")
    find_reader(world)
    return CheckerScore(world)


def _make_clip(options: ScoreOptions) -> Clip:
    if options.clip is None:
        raise UserError("CLIP needs weights: name them with --clip, such as ViT-L-14-quickgelu:ViT-L-14.pt")
    return OpenClip(options.clip, options.device)


def _load_lpips(options: ScoreOptions, net: str) -> Networks:
    return load_networks(find_weights(["lpips"], options.folder, net), net, options.device)
