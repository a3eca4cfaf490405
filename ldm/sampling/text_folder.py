"""Samples of many prompts, in a folder that several processes fill and that a restarted command completes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from ldm import plots
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.sampling.folder import SHEET_GRAPHS, SHEET_REPEATS, image_path
from ldm.sampling.sample import derive_seed
from ldm.sampling.text_options import Prompt, TextOptions, words_of
from ldm.sampling.text_to_image import image_size, refuse_without_text, sample_texts
from ldm.util.files import remove_leftovers
from ldm.util.image_folder import is_made, save_image, write_index

TITLE = 40  # characters of a prompt on the contact sheet


def sample_all_texts(
    model: LatentDiffusion,
    prompts: Sequence[Prompt],
    folder: Path,
    options: TextOptions,
    seed: int = 0,
    repeats: int = 1,
    provenance: Mapping[str, Any] | None = None,
    batch_size: int = 16,
    rank: int = 0,
    world: int = 1,
) -> bool:
    """Samples the images that the folder lacks.

    Args:
        prompts: the texts; a seed of theirs goes before `seed`.
        repeats: images per prompt.
        provenance: further entries of each record, such as the weights.
        batch_size: images between two writes to disk.
        rank, world: index of this process and number of processes.

    Returns:
        Whether all images are there now, those of other processes included.

    Raises:
        UserError: the model reads no text or does not take the size, or the folder has images made in another way.
    """
    refuse_without_text(model)
    image_size(model, options)
    places = [(index, repeat) for index in range(len(prompts)) for repeat in range(repeats)]
    share = places[rank::world]
    texts, negatives = words_of(prompts, options)
    shared = {**dataclasses.asdict(options), **(provenance or {})}
    remove_leftovers(folder)
    with tqdm(total=len(share), desc="sampling", unit="image", disable=rank > 0) as bar:
        for start in range(0, len(share), batch_size):
            batch, missing = share[start : start + batch_size], []
            for index, repeat in batch:
                own = prompts[index].seed
                number = derive_seed(seed if own is None else own, index if own is None else 0, repeat)
                record = {"file": image_path(index, repeat), "prompt_index": index, "repeat": repeat, "seed": number}
                record |= {**shared, "prompt": texts[index], "negative": negatives[index]}
                if not is_made(folder, record):
                    missing.append((prompts[index], record))
            images = sample_texts(model, [p for p, _ in missing], [r["seed"] for _, r in missing], options)
            for (_, record), image in zip(missing, images):
                save_image(folder / record["file"], image, record)
            bar.update(len(batch))
    return write_index(folder, [image_path(*place) for place in places], lambda: sheet(folder, texts, repeats))


def sheet(folder: Path, texts: Sequence[str], repeats: int) -> Image.Image:
    """A contact sheet of the first prompts."""
    panels = []
    for index, text in enumerate(texts[:SHEET_GRAPHS]):
        for repeat in range(min(repeats, SHEET_REPEATS)):
            title = (text if len(text) <= TITLE else f"{text[:TITLE]} ...").encode("utf-8", "replace").decode()
            panels.append(plots.panel([(title, Image.open(folder / image_path(index, repeat)))], height=256))
    return plots.grid(panels, columns=min(repeats, SHEET_REPEATS) if repeats > 1 else 4)
