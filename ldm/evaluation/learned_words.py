"""How well a word was learned: likeness to its pictures, fidelity to prompts, and whether other words are as they were.

Each number stands beside that of the untrained model, which reads the class's word in place of the learned one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ldm import plots
from ldm.data.personalized import read_pictures
from ldm.evaluation.clip_similarity import ClipSimilarity
from ldm.models.diffusion.latent_diffusion import LatentDiffusion
from ldm.sampling.sample import derive_seed
from ldm.sampling.text_options import Prompt, TextOptions
from ldm.sampling.text_to_image import sample_texts
from ldm.util.files import atomic_write
from ldm.util.images import read_image
from ldm.util.tables import markdown_table

IDENTITY = "a photo of {}"
PROMPTS = (  # of things that a class's word has in many pictures, after DreamBooth's list (2208.12242, section 4.2)
    "a photo of {} on a beach",
    "a photo of {} in the snow",
    "a photo of {} with a city in the background",
    "a painting of {}",
    "a photo of a red {}",
    "a photo of {} on a wooden table",
)
OTHERS = ("dog", "car", "house", "tree", "person", "boat", "apple", "chair")
MEASURES = {
    "identity": "image-image similarity (CLIP) of samples and the word's pictures",
    "prompt_fidelity": "image-text similarity (CLIP) of samples and their prompts, with the class's word in them",
    "other_words": "image-text similarity (CLIP) of samples of other words and these",
    "unchanged": "image-image similarity (CLIP) of samples of other words with those of the untrained model",
}


@dataclass(frozen=True)
class WordScores:
    """What was measured of one model.

    Attributes:
        identity, prompt_fidelity, other_words, unchanged: see MEASURES.
    """

    identity: float
    prompt_fidelity: float
    other_words: float
    unchanged: float


class WordBenchmark:
    """Samples of a word and of others, measured by CLIP.

    Args:
        word: the learned word.
        class_word: the word of its class, such as cat, which an untrained model reads instead.
        pictures: folder of the pictures that it was learned from.
        clip: the CLIP that measures.
        repeats: samples of each prompt.
        options: how to sample.
        others: other words.
        seed: from which the seeds of the samples are derived; samples of both models have the same.
    """

    def __init__(
        self,
        word: str,
        class_word: str,
        pictures: str | Path,
        clip: ClipSimilarity,
        repeats: int = 4,
        options: TextOptions = TextOptions(),
        others: Sequence[str] = OTHERS,
        seed: int = 0,
    ):
        self.word, self.class_word, self.clip, self.repeats = word, class_word, clip, repeats
        self.options, self.others, self.seed = options, tuple(others), seed
        self.own = clip.images([read_image(each.path, upright=True) for each in read_pictures(Path(pictures))])
        self.samples: dict[str, list[Image.Image]] = {}

    def run(
        self,
        untrained: LatentDiffusion,
        trained: LatentDiffusion,
        as_untrained: Callable[[], AbstractContextManager] = nullcontext,
    ) -> dict[str, WordScores]:
        """Measures both models.

        Args:
            untrained, trained: the models; the same one if `as_untrained` makes the difference.
            as_untrained: context in which `untrained` samples.
        """
        with as_untrained():
            before = self._sample("untrained", untrained, self.class_word)
        after = self._sample("trained", trained, self.word)
        return {"untrained": self._scores(before, before), "trained": self._scores(after, before)}

    def _sample(self, name: str, model: LatentDiffusion, word: str) -> tuple[list[Image.Image], ...]:
        """Samples of the word by itself, in prompts, and of other words."""
        groups = (
            [IDENTITY.format(word)],
            [prompt.format(word) for prompt in PROMPTS],
            list(map(IDENTITY.format, self.others)),
        )
        made = []
        for group, texts in enumerate(groups):
            places = [(index, repeat) for index in range(len(texts)) for repeat in range(self.repeats)]
            seeds = [derive_seed(self.seed, group * 1000 + index, repeat) for index, repeat in places]
            made.append(sample_texts(model, [Prompt(texts[index]) for index, _ in places], seeds, self.options))
        self.samples[name] = [made[0][0], made[1][0], made[2][0]]
        return tuple(made)

    def _scores(self, made: tuple[list[Image.Image], ...], before: tuple[list[Image.Image], ...]) -> WordScores:
        single, prompted, others = map(self.clip.images, made)
        texts = [prompt.format(self.class_word) for prompt in PROMPTS]
        first = others if made is before else self.clip.images(before[2])
        return WordScores(
            float((single @ self.own.T).mean()),
            self._agreement(prompted, texts),
            self._agreement(others, list(map(IDENTITY.format, self.others))),
            float((others * first).sum(1).mean()),
        )

    def _agreement(self, images: Tensor, texts: Sequence[str]) -> float:  # (B * repeats,E)
        rows = self.clip.texts(texts).repeat_interleave(self.repeats, 0)
        return float((images * rows).sum(1).mean())


def table(scores: dict[str, WordScores]) -> str:
    """The scores as a Markdown table, a row for each measure."""
    rows = [
        [f"{name}: {meaning}", *(f"{asdict(each)[name]:.3f}" for each in scores.values())]
        for name, meaning in MEASURES.items()
    ]
    return markdown_table(["", *scores], rows) + "\n"


def write(folder: Path, benchmark: WordBenchmark, scores: dict[str, WordScores], protocol: dict[str, Any]) -> None:
    """Writes report.json, table.md and a sheet of the first samples of both models."""
    report = {"scores": {name: asdict(each) for name, each in scores.items()}, "protocol": protocol}
    for name, text in (("report.json", json.dumps(report, indent=2) + "\n"), ("table.md", table(scores))):
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    panels = [
        plots.panel([(name, image)], height=256) for name, images in benchmark.samples.items() for image in images
    ]
    with atomic_write(folder / "sheet.png") as temporary:
        plots.grid(panels, columns=3).save(temporary, "PNG")
