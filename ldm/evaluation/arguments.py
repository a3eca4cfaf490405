"""Arguments of the commands of scripts/evaluate.py. Imports nothing large, so that --help is quick."""

from __future__ import annotations

import argparse
import re

from ldm.models.diffusion.samplers import SAMPLERS
from ldm.sampling.options import SampleOptions
from ldm.util.cli import add_model_arguments, add_verbose_argument, at_least, finite
from ldm.util.lora_option import add_lora_argument
from ldm.util.options import add_arguments
from ldm.util.words_option import MODES, RESOLVED, add_learned_words_arguments

CLIP_OPTIONS = ("steps", "graph_scale", "style_scale", "sampler")  # of sampling


def add_image_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `evaluate.py images`."""
    add = parser.add_argument
    add(
        "--samples",
        required=True,
        metavar="DIR",
        help="images to measure: of scripts/sample.py (index.jsonl names the graph of each), or any others; several "
        "samples of one graph lie in a subfolder of their own",
    )
    real = parser.add_mutually_exclusive_group()
    real.add_argument("--reference", metavar="DIR", help="folder of real images")
    real.add_argument(
        "--config",
        nargs="+",
        action="extend",
        metavar="YAML",
        help="config whose data section provides the real images, or several of which later ones override earlier ones",
    )
    add("--split", default="test", help="split of --config: train, validation or test (default: %(default)s)")
    add(
        "--paired",
        action="store_true",
        help="compare each sample with one real image (same file name in --reference, same graph_index in --config): "
        "adds PSNR, SSIM and LPIPS",
    )
    add("--metrics", type=lambda text: text.split(","), help="instead, some of fid,is,psnr,ssim,lpips,diversity")
    add("--n", type=at_least(1), help="use only the first N images of each side (default: all)")
    add("--size", type=at_least(32), default=256, help="pixels that all images are resized to (default: %(default)s)")
    add(
        "--lpips-net",
        choices=["alex", "vgg"],
        default="alex",
        help="network of LPIPS and diversity (default: %(default)s)",
    )
    add(
        "--weights",
        metavar="DIR",
        help="folder of the networks' weights (default: torch's own, ~/.cache/torch/hub/checkpoints)",
    )
    add("--batch-size", type=at_least(1), default=32, help="images per batch (default: %(default)s)")
    add("--workers", type=at_least(0), default=4, help="processes that load images (default: %(default)s)")
    add("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one, else the CPU)")
    add("--out", metavar="JSON", help="file of the report (default: report.json in the samples' folder)")


def add_reconstruction_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `evaluate.py reconstruction`."""
    add = parser.add_argument
    add(
        "--config",
        nargs="+",
        action="extend",
        required=True,
        metavar="YAML",
        help="config of a LatentDiffusion, whose first stage and data are used, or several of which later ones override earlier "
        "ones",
    )
    add("--split", default="validation", help="split of its data: train, validation or test (default: %(default)s)")
    add("--n", type=at_least(1), default=300, help="number of images, evenly over the split (default: %(default)s)")
    add("--size", type=at_least(8), default=128, help="side of the images in pixels (default: %(default)s)")
    add("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one, else the CPU)")
    add(
        "--out", metavar="JSON", default="outputs/reconstruction.json", help="file of the report (default: %(default)s)"
    )


def add_edit_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `evaluate.py edits` only."""
    add = parser.add_argument
    add(
        "--methods",
        type=split,
        default="plain,sdedit,edit",
        help="editors to compare: autoencoder, truth (the true answer through the autoencoder), answer (the true answer "
        "itself), plain (DDIM inversion), sdedit, edit, an inversion method of `edit` (ddim, fixed-point, ...), or your own function as "
        "package.module.function (see ldm/evaluation/editors.py); each may have options, as in "
        "sdedit:strength=0.7:steps=20; `edit` has its own defaults for other options (default: %(default)s)",
    )
    add(
        "--operations",
        type=split,
        help="some of replace,recolour,remove,add,move,resize,relation,restyle,two; photographs have "
        "replace,remove,add,move, CLEVR's pictures the first six (default: all)",
    )
    add(
        "--classifier",
        "--checker",
        metavar="FILE",
        help="weights of what judges edits: for photographs a classifier, which scripts/train_crop_classifier.py wrote, for CLEVR's "
        "pictures a checker, which scripts/train_checker.py wrote",
    )
    add("--steps", type=at_least(1), default=50, help="DDIM steps of methods other than edit (default: %(default)s)")
    add("--graph-scale", type=finite, default=2.0, help="their guidance scale of the graph (default: %(default)s)")
    add("--style-scale", type=finite, default=2.0, help="their guidance scale of the style (default: %(default)s)")
    add("--seed", type=int, default=0, help="seed of methods that draw noise (default: %(default)s)")
    add(
        "--seeds",
        type=at_least(1),
        default=1,
        metavar="N",
        help="how many seeds, from --seed on, methods that draw noise make each edit with (default: %(default)s)",
    )
    add(
        "--show",
        choices=["failures", "any"],
        default="failures",
        help="what the sheets of pictures begin with (default: %(default)s)",
    )


def add_scene_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `evaluate.py scenes` only."""
    add = parser.add_argument
    add(
        "--boxes",
        type=split,
        default="all,none",
        help="which objects have a box in the graph: some of all,none,part (default: %(default)s)",
    )
    add(
        "--layout",
        type=split,
        help="some of search,none; search: missing boxes are generated by layout search before sampling; none: the model "
        "places the objects (default: none,search; for scenes with a floor none, since the search does not model perspective)",
    )
    add(
        "--references",
        type=split,
        help="source of the style: some of same (image of the scene), other (image of another scene), none (default: "
        "same,other; for a model without an image encoder none)",
    )
    add(
        "--sampler",
        choices=tuple(SAMPLERS),
        default="ddim",
        help="dpm++ (second order) needs fewer steps (default: %(default)s)",
    )
    add(
        "--steps", type=at_least(1), default=50, help="sampler steps, one call of the U-Net each (default: %(default)s)"
    )
    add("--graph-scale", type=finite, default=2.0, help="guidance scale of the graph (default: %(default)s)")
    add("--style-scale", type=finite, default=2.0, help="guidance scale of the style (default: %(default)s)")
    add("--seed", type=int, default=0, help="seed of the noise (default: %(default)s)")
    add(
        "--renamed",
        metavar="JSON",
        help="file of words by kind and name, which replace those of the graphs; the image is judged by the graphs as they were",
    )
    add(
        "--words",
        choices=MODES,
        default=RESOLVED,
        help="with --renamed, what becomes of these words: open: read again as names of the vocabulary; embed: given as they are to "
        "a model trained with open_words (default: %(default)s)",
    )


def add_name_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `evaluate.py names`."""
    add = parser.add_argument
    add(
        "--list",
        choices=("gold", "tuning"),
        default="gold",
        help="tuning: the words on which thresholds were chosen; gold: others (default: %(default)s)",
    )
    add("--alignment", metavar="FILE", help="map of embeddings that scripts/align_words.py wrote")
    add("--out", metavar="JSON", default="outputs/names/report.json", help="file of the report (default: %(default)s)")


def add_clip_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `evaluate.py clips` only."""
    add = parser.add_argument
    add(
        "--methods",
        type=split,
        default="truth,video,frames,frozen",
        help="some of truth (the true clip through the autoencoder), video (the model), frames (its image model frame by frame, with "
        "the same noise), frozen (the first frame), edits (the model, of clips in which an object changes) (default: %(default)s)",
    )
    add("--frames", type=at_least(4), default=16, help="frames of each clip (default: %(default)s)")
    add(
        "--overlap",
        type=at_least(0),
        help="frames that windows of longer clips share (default: half of the model's clips)",
    )
    add_arguments(parser.add_argument_group("how to sample"), SampleOptions, CLIP_OPTIONS)
    add("--seed", type=int, default=0, help="seed of the noise (default: %(default)s)")


def add_comparison_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `evaluate.py compare`."""
    parser.add_argument("first", metavar="DIR", help="folder that `edits` wrote")
    parser.add_argument("second", metavar="DIR", help="another one, or the same")
    parser.add_argument(
        "--methods",
        type=split,
        metavar="FIRST,SECOND",
        help="the method of each folder (default: its only one)",
    )


def add_word_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `evaluate.py words`."""
    add = parser.add_argument
    add_model_arguments(parser)
    add_lora_argument(parser)
    add_learned_words_arguments(parser)
    add("--pictures", required=True, metavar="DIR", help="the pictures that the word was learned from")
    add(
        "--word",
        help="the learned word, or the words of a DreamBooth, such as 'sks dog' (default: the only learned one)",
    )
    add(
        "--class-word",
        required=True,
        help="the word of its class, which the untrained model reads instead, such as cat",
    )
    add("--others", type=split, help="other words, to see what was forgotten (default: eight common things)")
    add("--n", type=at_least(1), default=4, help="samples of each prompt (default: %(default)s)")
    add("--steps", type=at_least(1), default=50, help="sampler steps (default: %(default)s)")
    add("--scale", type=finite, default=7.5, help="guidance scale of the text (default: %(default)s)")
    add("--seed", type=int, default=0, help="seed of the noise, the same for both models (default: %(default)s)")
    add(
        "--clip",
        default="ViT-B/32",
        help="CLIP that measures, by its name in OpenAI's or open_clip's list (default: %(default)s)",
    )
    add("--clip-weights", metavar="FILE", help="its weights (default: OpenAI's in ~/.cache/clip)")
    add("--outdir", metavar="DIR", default="outputs/words", help="folder of the results (default: %(default)s)")
    add_verbose_argument(parser)


def add_graph_word_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `evaluate.py graph-words`."""
    add = parser.add_argument
    add_model_arguments(parser)
    add_learned_words_arguments(parser)
    add(
        "--learned",
        action="append",
        default=[],
        metavar="RUN",
        help="a run that has learned a name together with LoRA; may be given several times",
    )
    add("--means", required=True, help="what the word of each file means, such as 'small red striped triangle'")
    add("--scenes", default="shapes", help="world whose scenes are drawn (default: %(default)s)")
    add("--n", type=at_least(1), default=200, help="scenes with the thing, and as many without (default: %(default)s)")
    add("--seed-offset", type=at_least(0), default=0, help="number of the first held-out scene (default: %(default)s)")
    add(
        "--boxes",
        choices=("all", "none", "part"),
        default="all",
        help="which objects have a box in the graph (default: %(default)s)",
    )
    add("--sampler", choices=tuple(SAMPLERS), default="dpm++", help="(default: %(default)s)")
    add("--steps", type=at_least(1), default=10, help="sampler steps (default: %(default)s)")
    add("--scale", type=finite, default=2.0, help="guidance scale of graph and style (default: %(default)s)")
    add("--seed", type=int, default=0, help="seed of the noise (default: %(default)s)")
    add("--outdir", metavar="DIR", default="outputs/graph-words", help="folder of the results (default: %(default)s)")
    add_verbose_argument(parser)


def add_benchmark_arguments(parser: argparse.ArgumentParser, unit: str) -> None:
    """The arguments that `edits`, `scenes` and `clips` share."""
    add = parser.add_argument
    add_model_arguments(parser)
    add(
        "--scenes",
        default="shapes",
        help="synthetic world: shapes or rendered; for `edits` also clevr and photographs (default: %(default)s)",
    )
    add(
        "--tasks",
        metavar="DIR",
        help="for rendered scenes: folder that scripts/render_scenes.py wrote (for `edits` with --edits all, for `clips` with "
        "--frames); for clevr: pictures with CLEVR_scenes.json; for photographs: that of scripts/prepare_photographs.py",
    )
    add(
        "--n",
        type=at_least(1),
        default=200,
        help=f"number of {unit}, or fewer if --tasks has no more (default: %(default)s)",
    )
    add(
        "--seed-offset",
        type=at_least(0),
        default=0,
        help="number of the first held-out scene, or of the first in --tasks; numbers that were not used for tuning give unseen scenes (default: "
        "%(default)s)",
    )
    add(
        "--workers",
        type=at_least(1),
        help="processes (default: one per hundred images, up to the number of cores; one on a GPU, where more are faster "
        "if its memory holds as many models)",
    )
    add("--outdir", metavar="DIR", help="folder of the results (default: outputs/COMMAND-SCENES-WEIGHTS)")
    add_verbose_argument(parser)


def split(text: str) -> list[str]:
    """Splits at commas outside of brackets, without repetitions."""
    return list(dict.fromkeys(re.split(r",(?![^\[]*\])", text)))
