"""Sample images of scene graphs, from a file or from a split of the data set, or of texts; or clips of storyboards.

    python scripts/sample.py --sg graph.json --n-per-graph 4
    python scripts/sample.py --sg data/flat/storyboard.json --out clip.mp4
    python scripts/sample.py --ckpt v1-5.safetensors --prompt "a cat on a red sofa" --n_samples 4
    torchrun --nproc-per-node 8 -- scripts/sample.py --run logs/<run> --split test --n 1000 --outdir outputs/test

(Without the --, torchrun takes --run and --n for options of its own.)
The same command with the same --outdir samples what is missing. An image depends only on the model, the options, the seed
and the index of its graph or prompt: not on --batch-size, --n or the number of processes. With --layout search, its line in
index.jsonl has the boxes that it was sampled with, and the relations that these could not satisfy.

A storyboard is a JSON file of scene graphs that change in time (ldm/graph/storyboard.py). Its clip is written as --out says, as
.mp4, .webm, .webp, .gif or frames in a folder, with a film strip (.png) and a record (.json) beside it.

Texts are for models that were trained on them, such as Stable Diffusion. The flags of LDM's txt2img.py mean what they do there.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the process silently until run_program handles it

import argparse
import json
import os
import sys
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from ldm.sampling.options import SampleOptions
from ldm.sampling.text_options import Prompt, TextOptions, read_prompts
from ldm.util.cli import Parser, add_model_arguments, add_verbose_argument, at_least, finite, positive, run_program
from ldm.util.errors import UserError
from ldm.util.files import atomic_write, writable_folder
from ldm.util.lora_option import add_lora_argument
from ldm.util.options import add_arguments, from_mapping, given_values
from ldm.util.score_option import add_min_score_argument
from ldm.util.words_option import add_words_arguments, check_words_arguments, given_additions, learned_files, mode_of

if TYPE_CHECKING:
    from ldm.graph.storyboard import Storyboard
    from ldm.words.naming import Naming

# Flags that only one kind of input takes: name of the argument, and what to do instead.
GRAPH_FLAGS = {
    "--graph-scale": ("graph_scale", "use --scale"),
    "--style-scale": ("style_scale", "leave it out"),
    "--text-scale": ("text_scale", "use --scale"),
    "--steer": ("steer", "leave it out"),
    "--steer-peak": ("steer_peak", "leave it out"),
    "--layout": ("layout", "leave it out"),
    "--style": ("style", "leave it out"),
    "--n-per-graph": ("n_per_graph", "use --n_samples"),
    "--out": ("out", "use --outdir"),
    "--first": ("first", "leave it out"),
    "--overlap": ("overlap", "leave it out"),
}
TEXT_FLAGS = {
    "--scale": ("scale", "use --graph-scale"),
    "--negative": ("negative", "leave it out"),
    "--n_samples": ("n_samples", "use --n-per-graph"),
    "--H": ("height", "leave it out"),
    "--W": ("width", "leave it out"),
    "--long-prompt": ("long_prompt", "leave it out"),
    "--quick-decode": ("quick_decode", "leave it out"),
}
CLIP_FLAGS = {flag: GRAPH_FLAGS[flag] for flag in ("--out", "--first", "--overlap")}
IMAGE_FLAGS = {  # of sets of images
    "--n": ("n", "leave it out"),
    "--n-per-graph": ("n_per_graph", "use another --seed"),
    "--outdir": ("outdir", "use --out"),
    "--lora": ("lora", "leave it out"),
    "--prediction": ("prediction", "leave it out"),
    "--words": ("words", "write names of the vocabulary"),
}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser("sample.py", __doc__)
    add = parser.add_argument
    graphs = parser.add_mutually_exclusive_group(required=True)
    graphs.add_argument("--sg", metavar="JSON", help="file with a scene graph or a list of them, or with a storyboard")
    graphs.add_argument(
        "--split", choices=["train", "validation", "test"], help="graphs of this split of the run's data"
    )
    graphs.add_argument("--prompt", metavar="TEXT", help="a text, for a model that was trained on text")
    graphs.add_argument(
        "--prompts",
        metavar="JSONL",
        help='file with a text per line: "a cat", or {"prompt": "a cat", "negative": "blurry", "seed": 1}',
    )
    add_model_arguments(parser)
    add_lora_argument(parser)
    add_min_score_argument(parser)
    add_words_arguments(parser)
    add(
        "--prediction",
        choices=("eps", "v"),
        help="what the U-Net of a Stable Diffusion without --config predicts (default: as its weights state)",
    )
    add("--n", type=positive, help="use the first N graphs or prompts (default: all)")
    add("--n-per-graph", type=positive, metavar="N", help="images per graph (default: 1)")
    add("--style", metavar="IMAGE", help="image to take the look from (default: none; of clips, their first frame)")
    add("--seed", type=int, default=0, help="seed from which each image's own seed is derived (default: %(default)s)")
    add("--batch-size", type=positive, default=16, help="images between two writes to disk (default: %(default)s)")
    add("--outdir", metavar="DIR", help="output folder (default: outputs/<date and time>)")
    add_verbose_argument(parser)
    add_arguments(parser.add_argument_group("how to sample"), SampleOptions)
    add_clip_arguments(parser.add_argument_group("clips of storyboards"))
    add_text_arguments(parser.add_argument_group("how to sample texts"))
    arguments = parser.parse_args(argv)
    check_words_arguments(parser, arguments)
    return arguments


def add_clip_arguments(group: argparse._ActionsContainer) -> None:
    """Adds the options of clips."""
    add = group.add_argument
    add(
        "--out",
        metavar="PATH",
        help="clip.mp4, .webm, .webp or .gif, or a folder of frames (default: outputs/<date and time>.webp)",
    )
    add(
        "--first",
        metavar="IMAGE",
        help="image that the clip begins with; the storyboard's first graph is what it shows",
    )
    add(
        "--overlap",
        type=at_least(0),
        metavar="N",
        help="of storyboards that are longer than the clips of the model's training: frames that neighbouring windows share "
        "(default: half of a clip)",
    )


def add_text_arguments(group: argparse._ActionsContainer) -> None:
    """Adds the options of texts, under the names that LDM's txt2img.py has for them."""
    add_arguments(group, TextOptions, ("scale", "negative", "long_prompt", "quick_decode"))
    add, size = group.add_argument, "in pixels (default: that of the model's training)"
    add("--n_samples", type=positive, metavar="N", help="images per prompt (default: 1)")
    add("--H", "--height", type=positive, dest="height", metavar="PIXELS", help=f"height {size}")
    add("--W", "--width", type=positive, dest="width", metavar="PIXELS", help=f"width {size}")
    add("--ddim_steps", type=positive, dest="steps", metavar="N", help="the same as --steps")
    add("--ddim_eta", type=finite, dest="eta", metavar="ETA", help="the same as --eta")
    add("--plms", action="store_true", help="a sampler of LDM that is not here; --sampler dpm++ replaces it")


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    return run_program(
        lambda: run(arguments),
        "sample.py",
        if_stopped="the same command with this --outdir continues",
        if_out_of_memory="choose another --device",
        verbose=arguments.verbose,
    )


def run(arguments: argparse.Namespace) -> None:
    from ldm.graph.storyboard import find_storyboard

    refuse_foreign_flags(arguments)
    if arguments.prompt is not None or arguments.prompts:
        run_texts(arguments)
    elif arguments.sg and (storyboard := find_storyboard(arguments.sg)):
        run_storyboard(arguments, storyboard)
    else:
        refuse_flags(arguments, CLIP_FLAGS, "storyboards", f"{arguments.sg or '--split'}")
        run_graphs(arguments)


def refuse_flags(arguments: argparse.Namespace, flags: dict, owner: str, where: str) -> None:
    """Raises UserError for flags that are given, but are for other inputs: name of the argument, and what to do instead."""
    for flag, (name, instead) in flags.items():
        if getattr(arguments, name) not in (None, False, []):
            raise UserError(f"{flag} is for {owner}; with {where} {instead}")


def refuse_foreign_flags(arguments: argparse.Namespace) -> None:
    """Raises UserError for --plms, and for options of texts beside graphs or of graphs beside texts."""
    if arguments.plms:
        raise UserError(
            "--plms: PLMS is not available; use --sampler dpm++ --steps 20, which is of second order like it"
        )
    reads_text = arguments.prompt is not None or arguments.prompts
    others = GRAPH_FLAGS if reads_text else TEXT_FLAGS
    refuse_flags(arguments, others, *(("graphs", "--prompt") if reads_text else ("texts", "--sg and --split")))


def run_texts(arguments: argparse.Namespace) -> None:
    given = given_values(arguments, TextOptions)
    options = from_mapping(TextOptions, given)
    prompts = [Prompt(arguments.prompt)] if arguments.prompts is None else read_prompts(arguments.prompts)
    count = arguments.n or len(prompts)
    if count > len(prompts):
        raise UserError(f"--n {count}: there are only {len(prompts)} prompts; take fewer")
    from ldm.models.finding import find_checkpoint
    from ldm.models.loading import choose_device, fingerprint
    from ldm.sampling.text_folder import sample_all_texts

    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    checkpoint = find_checkpoint(arguments.run, arguments.ckpt, arguments.config)
    folder, device = choose_folder(arguments.outdir, world), choose_device(arguments.device)
    model = load(arguments, checkpoint, device)
    provenance = {"device": device.partition(":")[0], "checkpoint": checkpoint and str(checkpoint)}
    provenance |= {"weights": fingerprint(model), **given_additions(arguments)}
    repeats = arguments.n_samples or 1
    sizes = repeats, provenance, arguments.batch_size, rank, world
    if sample_all_texts(model, prompts[:count], folder, options, arguments.seed, *sizes):
        print(f"{count * repeats} images in {folder}: images/, index.jsonl and sheet.png")


def run_graphs(arguments: argparse.Namespace) -> None:
    given = given_values(arguments, SampleOptions)
    from_mapping(SampleOptions, given)
    from ldm.words.naming import Naming  # imports torch, after the options have been checked

    naming = Naming(mode_of(arguments.words), arguments.dictionary, arguments.alignment)
    places, checkpoint = read_checked_graphs(arguments, naming)
    from ldm.models.loading import choose_device, fingerprint
    from ldm.sampling.folder import sample_all
    from ldm.sampling.sample import default_options
    from ldm.util.images import read_image

    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    folder = choose_folder(arguments.outdir, world)
    style = arguments.style and read_image(arguments.style, upright=True)
    device = choose_device(arguments.device)
    model = load(arguments, checkpoint, device)
    scenes = choose_scenes(arguments, model, places, naming)
    print("".join(f"{remark}\n" for remark in naming.remarks), end="")
    options = from_mapping(SampleOptions, default_options(model) | given)
    provenance = {"style": arguments.style, "device": device.partition(":")[0]}
    provenance |= {"checkpoint": checkpoint and str(checkpoint), "weights": fingerprint(model)}
    provenance |= given_additions(arguments)
    repeats = arguments.n_per_graph or 1
    sizes = repeats, provenance, arguments.batch_size
    if sample_all(model, scenes, folder, options, style, arguments.seed, *sizes, rank, world, naming):
        count = len(scenes) * repeats
        print(f"{count} images in {folder}: images/, graphs/, index.jsonl and sheet.png")


def run_storyboard(arguments: argparse.Namespace, storyboard: Storyboard) -> None:
    """Samples the clip of a storyboard."""
    from ldm.data.clip_files import refuse_format, write_clip

    refuse_flags(arguments, IMAGE_FLAGS, "images", f"the storyboard {arguments.sg}")
    given = given_values(arguments, SampleOptions)
    from_mapping(SampleOptions, given)
    out = Path(arguments.out or f"outputs/{datetime.now():%Y-%m-%dT%H-%M-%S}.webp")
    refuse_format(out)
    writable_folder(out.parent, "--out")
    from ldm.graph.json_files import write_text
    from ldm.models.loading import choose_device, fingerprint
    from ldm.models.video_loading import find_video_checkpoint, load_video_model
    from ldm.models.vocabulary import check_names
    from ldm.sampling.clips import clip_panel, default_clip_options, place_clip, sample_clip
    from ldm.util.images import read_image

    checkpoint = find_video_checkpoint(arguments.run, arguments.ckpt, arguments.config)
    places = {f"{arguments.sg}, keyframes[{i}]": keyframe.graph for i, keyframe in enumerate(storyboard.keyframes)}
    check_names(places, checkpoint, arguments.config)
    style, first = (path and read_image(path, upright=True) for path in (arguments.style, arguments.first))
    model = load_video_model(checkpoint, arguments.config, choose_device(arguments.device))
    storyboard.validate(model.vocab, arguments.sg, model.image.cond_stage_model.max_objects)
    options = from_mapping(SampleOptions, default_clip_options(model, given))
    storyboard, remarks = place_clip(storyboard, arguments.seed, options)
    print("".join(f"  {remark}\n" for remark in remarks), end="")
    progress = partial(tqdm, desc="sampling", unit="step")
    frames = sample_clip(model, storyboard, arguments.seed, options, style, first, arguments.overlap, progress)
    write_clip(out, frames, storyboard.fps)
    with atomic_write(out.with_suffix(".png")) as temporary:
        clip_panel(storyboard, frames).save(temporary, "PNG")
    record = {"storyboard": storyboard.to_json(), "options": vars(options), "seed": arguments.seed, "remarks": remarks}
    record |= {"style": arguments.style, "first": arguments.first, "checkpoint": checkpoint and str(checkpoint)}
    write_text(out.with_suffix(".json"), json.dumps(record | {"weights": fingerprint(model)}, indent=1) + "\n")
    print(f"wrote {out}, {out.with_suffix('.png')} and {out.with_suffix('.json')}")


def load(arguments: argparse.Namespace, checkpoint: Path | None, device: str):
    """The model with its LoRA files and learned words."""
    from ldm.models.loading import load_model

    words = learned_files(arguments.words), arguments.rename
    return load_model(checkpoint, arguments.config, device, arguments.lora, arguments.prediction, *words)


def read_checked_graphs(arguments: argparse.Namespace, naming: Naming) -> tuple[dict, Path | None]:
    """The graphs of --sg, by where they come from, and the checkpoint. Raises UserError for names the model does not know."""
    from ldm.graph.graph_files import read_graphs
    from ldm.models.finding import find_checkpoint
    from ldm.models.vocabulary import check_names

    graphs = read_graphs(arguments.sg, min_score=arguments.min_score) if arguments.sg else []
    places = {f"{arguments.sg}: graph {index}": graph for index, graph in enumerate(graphs)}
    checkpoint = find_checkpoint(arguments.run, arguments.ckpt, arguments.config)
    words = learned_files(arguments.words), arguments.rename
    return check_names(places, checkpoint, arguments.config, naming, *words), checkpoint


def choose_folder(outdir: str | None, world: int) -> Path:
    """The output folder. Raises UserError if it cannot be written to, or if several processes have none in common."""
    if outdir is None and world > 1:
        raise UserError("--outdir is missing: several processes need a common output folder")
    return writable_folder(outdir or f"outputs/{datetime.now():%Y-%m-%dT%H-%M-%S}", "--outdir")


def choose_scenes(arguments: argparse.Namespace, model, graphs: dict, naming: Naming):
    """A Subset of pairs: image (None for a graph from a file), graph.

    Args:
        graphs: those of --sg, by where they come from.
        naming: what to do with words that the vocabulary lacks.

    Raises:
        UserError: names are unknown, or there are too few graphs.
    """
    from torch.utils.data import Subset

    from ldm.models.loading import load_dataset

    if arguments.sg:
        if naming.embeds:
            model.open_vocabulary(graphs.values())
        named = naming.name_all(graphs, model.vocab, model.cond_stage_model.max_objects)
        scenes = [(None, graph) for graph in named.values()]
    else:
        scenes = load_dataset(model, arguments.split)
    count = arguments.n or len(scenes)
    if count > len(scenes):
        raise UserError(f"--n {count}: {arguments.sg or arguments.split} has only {len(scenes)} graphs; take fewer")
    return Subset(scenes, range(count))


if __name__ == "__main__":
    sys.exit(main())
