"""Measure the quality of images, edits and samples; each report is a JSON file with the protocol of every number.

    python scripts/evaluate.py images --samples outputs/vg --config configs/vg.yaml --split validation
    python scripts/evaluate.py images --samples edits --reference originals --metrics psnr,ssim
    python scripts/evaluate.py reconstruction --config configs/demo.yaml --n 300
    python scripts/evaluate.py edits --methods autoencoder,plain,sdedit,edit
    python scripts/evaluate.py edits --n 4 --operations remove,move --methods edit:graph_scale=3
    python scripts/evaluate.py edits --scenes rendered --tasks datasets/rendered/test --methods truth,edit --seeds 3
    python scripts/evaluate.py edits --scenes photographs --tasks datasets/photographs --classifier crop_classifier.safetensors
    python scripts/evaluate.py edits --scenes clevr --tasks CLEVR_v1.0/val --checker clevr_checker.safetensors --ckpt adapters.safetensors
    python scripts/evaluate.py scenes --boxes all,none
    python scripts/evaluate.py scenes --boxes all --renamed data/words/renamed_korean.json
    python scripts/evaluate.py names --list gold
    python scripts/evaluate.py clips --n 200
    python scripts/evaluate.py words --ckpt v1-5.safetensors --words learned_embeds.safetensors --class-word cat --pictures my_cat
    python scripts/evaluate.py graph-words --words graph_words.safetensors --means "small red striped triangle"
    python scripts/evaluate.py compare outputs/edits-shapes-11111111 outputs/edits-shapes-22222222

images: FID and Inception Score against real images; with --paired also PSNR, SSIM and LPIPS, and the diversity of several
samples of a graph. The weights of the metrics' networks are not downloaded; an error says which file to put where.
reconstruction: PSNR and SSIM of a config's images that its first stage has encoded and decoded.
edits: how often editors make edits with a known answer on synthetic scenes, CLEVR's pictures or photographs, and how much of the rest they
preserve.
scenes: how often samples of held-out synthetic scenes show what their graphs say.
names: how well words of other languages, synonyms, homonyms and misspelt or meaningless words are read as names.
clips: how often clips of held-out storyboards do, frame by frame, and how much the rest flickers.
compare: the difference in success of two methods or models on the same edits, with its interval.
words: learned words and LoRA beside the untrained model: likeness to the pictures, fidelity to prompts, other words (CLIP).
graph-words: how often a learned name of graphs gives what it means, and whether all else is as before (exact checker).
edits, scenes and clips can be interrupted and resumed; they also write a table and sheets of pictures.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the process silently until run_program handles it

import argparse
import sys

from ldm.evaluation.arguments import (
    add_benchmark_arguments,
    add_clip_arguments,
    add_comparison_arguments,
    add_edit_arguments,
    add_graph_word_arguments,
    add_image_arguments,
    add_name_arguments,
    add_reconstruction_arguments,
    add_scene_arguments,
    add_word_arguments,
)
from ldm.evaluation.reports import (
    report_on_clips,
    report_on_comparison,
    report_on_edits,
    report_on_graph_words,
    report_on_images,
    report_on_names,
    report_on_reconstruction,
    report_on_scenes,
    report_on_words,
)
from ldm.util.cli import Parser, run_program


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command's arguments; `report` is the function that carries it out."""
    parser = Parser("evaluate.py", __doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    images = commands.add_parser("images", help="FID, IS, PSNR, SSIM, LPIPS and diversity of folders of images")
    images.set_defaults(report=report_on_images, resumable=False)
    add_image_arguments(images)
    reconstruction = commands.add_parser("reconstruction", help="what the first stage of a config loses")
    reconstruction.set_defaults(report=report_on_reconstruction, resumable=False)
    add_reconstruction_arguments(reconstruction)
    edits = commands.add_parser("edits", help="success and preservation of editors, on edits with a known answer")
    edits.set_defaults(report=report_on_edits, resumable=True)
    add_edit_arguments(edits)
    add_benchmark_arguments(edits, "edits of each operation")
    scenes = commands.add_parser(
        "scenes", help="whether samples of held-out synthetic scenes show what their graphs say"
    )
    scenes.set_defaults(report=report_on_scenes, resumable=True)
    add_scene_arguments(scenes)
    add_benchmark_arguments(scenes, "scenes of each kind")
    names = commands.add_parser("names", help="how well words that a vocabulary lacks are read as its names")
    names.set_defaults(report=report_on_names, resumable=False)
    add_name_arguments(names)
    clips = commands.add_parser(
        "clips", help="whether clips of held-out storyboards show in every frame what these say"
    )
    clips.set_defaults(report=report_on_clips, resumable=True)
    add_clip_arguments(clips)
    add_benchmark_arguments(clips, "clips")
    comparison = commands.add_parser("compare", help="success of two methods or models on the same edits")
    comparison.set_defaults(report=report_on_comparison, resumable=False)
    add_comparison_arguments(comparison)
    words = commands.add_parser("words", help="how well a word was learned, and what was forgotten")
    words.set_defaults(report=report_on_words, resumable=False)
    add_word_arguments(words)
    graph_words = commands.add_parser("graph-words", help="how often a learned name of graphs gives what it means")
    graph_words.set_defaults(report=report_on_graph_words, resumable=False)
    add_graph_word_arguments(graph_words)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Runs the program; returns its exit code."""
    arguments = parse(argv)
    return run_program(
        lambda: arguments.report(arguments),
        "evaluate.py",
        if_stopped="the same command continues" if arguments.resumable else "",
        if_out_of_memory="" if arguments.resumable else "lower --batch-size",
        verbose=getattr(arguments, "verbose", False),
    )


if __name__ == "__main__":
    sys.exit(main())
