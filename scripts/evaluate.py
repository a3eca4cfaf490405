"""Measure the quality of images, edits and samples; each report is a JSON file with the protocol of every number.

    python scripts/evaluate.py images --samples outputs/vg --config configs/vg.yaml --split validation
    python scripts/evaluate.py images --samples edits --reference originals --metrics psnr,ssim
    python scripts/evaluate.py edits --methods autoencoder,plain,sdedit,edit
    python scripts/evaluate.py edits --n 4 --operations remove,move --methods edit:graph_scale=3
    python scripts/evaluate.py edits --scenes rendered --tasks datasets/rendered/test --methods truth,edit --seeds 3
    python scripts/evaluate.py scenes --boxes all,none
    python scripts/evaluate.py scenes --boxes all --renamed data/words/renamed_korean.json
    python scripts/evaluate.py names --list gold
    python scripts/evaluate.py clips --n 200
    python scripts/evaluate.py words --ckpt v1-5.safetensors --words learned_embeds.safetensors --class-word cat --pictures my_cat
    python scripts/evaluate.py graph-words --words graph_words.safetensors --means "small red striped triangle"
    python scripts/evaluate.py compare outputs/edits-shapes-11111111 outputs/edits-shapes-22222222

images: FID and Inception Score against real images; with --paired also PSNR, SSIM and LPIPS, and the diversity of several
samples of a graph. The weights of the metrics' networks are not downloaded; an error says which file to put where.
edits: how often editors make edits with a known answer on synthetic scenes, and how much of the rest they preserve.
scenes: how often samples of held-out synthetic scenes show what their graphs say.
names: how well words of other languages, synonyms, homonyms and misspelt or meaningless words are read as names.
clips: how often clips of held-out storyboards do, frame by frame, and how still they hold elsewhere.
compare: the difference in success of two methods or models on the same edits, with its interval.
words: learned words and LoRA beside the untrained model: like the pictures, obedient to prompts, other words as before (CLIP).
graph-words: how often a learned name of graphs gives the thing that it means, and whether all else is as before (exact checker).
edits, scenes and clips can be interrupted and resumed; they also write a table and sheets of pictures.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the process silently until run_program handles it

import argparse
import os
import re
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ldm.models.diffusion.samplers import SAMPLERS
from ldm.sampling.options import SampleOptions
from ldm.util.cli import Parser, add_model_arguments, add_verbose_argument, at_least, finite, run_program
from ldm.util.errors import UserError, did_you_mean
from ldm.util.lora_option import add_lora_argument
from ldm.util.options import add_arguments, given_values
from ldm.util.words_option import add_learned_words_arguments, learned_files

if TYPE_CHECKING:
    from ldm.evaluation.benchmark import Benchmark, BenchmarkReport

CLIP_OPTIONS = ("steps", "graph_scale", "style_scale", "sampler")  # of sampling


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command's arguments; `report` is the function that carries it out."""
    parser = Parser("evaluate.py", __doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    images = commands.add_parser("images", help="FID, IS, PSNR, SSIM, LPIPS and diversity of folders of images")
    images.set_defaults(report=report_on_images, resumable=False)
    add_image_arguments(images)
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


def add_edit_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `evaluate.py edits` only."""
    add = parser.add_argument
    add(
        "--methods",
        type=split,
        default="plain,sdedit,edit",
        help="editors to compare: autoencoder, truth (the true answer through the autoencoder), plain (DDIM inversion), "
        "sdedit, edit, an inversion method of `edit` (ddim, fixed-point, ...), or your own function as "
        "package.module.function (see ldm/evaluation/editors.py); each may have options, as in "
        "sdedit:strength=0.7:steps=20; `edit` has its own defaults for other options (default: %(default)s)",
    )
    add(
        "--operations",
        type=split,
        help="some of replace,recolour,remove,add,move,resize,relation,restyle,two (default: all)",
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
        help="file of words by kind and name, which replace those of the graphs and are read again with --words open",
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
    """The arguments that `edits` and `scenes` share."""
    add = parser.add_argument
    add_model_arguments(parser)
    add("--scenes", default="shapes", help="synthetic world: shapes or rendered (default: %(default)s)")
    add(
        "--tasks",
        metavar="DIR",
        help="for rendered scenes: folder that scripts/render_scenes.py wrote (for `edits` with --edits all)",
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


def report_on_images(arguments: argparse.Namespace) -> None:
    """Measures a folder of images, prints the numbers and writes the report."""
    from ldm.evaluation import image_quality, metric_networks
    from ldm.evaluation.image_sets import Folder, Split
    from ldm.evaluation.report import write_report
    from ldm.models.loading import choose_device
    from ldm.util.files import writable_folder

    for metric in arguments.metrics or ():
        if metric not in image_quality.METRICS:
            known = image_quality.METRICS
            raise UserError(f"--metrics {metric}: choose from {', '.join(known)}{did_you_mean(metric, known)}")
    device, out = choose_device(arguments.device), Path(arguments.out or Path(arguments.samples) / "report.json")
    writable_folder(out.parent, "--out")
    if out.is_dir():
        raise UserError(f"--out {out}: is a folder; name a file in it")
    samples = Folder(arguments.samples, arguments.size, arguments.n)
    metrics = arguments.metrics or image_quality.default_metrics(samples, arguments.paired)
    folder = Path(arguments.weights) if arguments.weights else metric_networks.default_weights_folder()
    weights = metric_networks.find_weights(metrics, folder.expanduser(), arguments.lpips_net)
    reference = None
    if arguments.config:
        reference = Split(arguments.config, arguments.split, arguments.size)
    elif arguments.reference:
        reference = Folder(arguments.reference, arguments.size)
    networks = metric_networks.load_networks(weights, arguments.lpips_net, device)
    report = image_quality.evaluate(
        samples, reference, metrics, networks, arguments.n, arguments.batch_size, arguments.workers, device
    )
    write_report(out, report, given_arguments(arguments))
    for name, numbers in report["metrics"].items():
        values = (f"{key} {value:.4f}" for key, value in numbers.items() if isinstance(value, float))
        print(f"{name:10}{', '.join(values)}")
    for remark in report["remarks"]:
        print(f"  {remark}")
    print(f"wrote {out}")


def report_on_edits(arguments: argparse.Namespace) -> None:
    """Runs the edit benchmark."""
    from ldm.evaluation import edit_benchmark

    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # editors of the user's, named as package.module.function
    options = {key: getattr(arguments, key) for key in ("steps", "graph_scale", "style_scale")}
    report = edit_benchmark.run(
        benchmark_of(arguments, "edits"),
        arguments.methods,
        arguments.operations,
        options,
        range(arguments.seed, arguments.seed + arguments.seeds),
        failures_first=arguments.show == "failures",
    )
    finish(report, arguments)


def report_on_comparison(arguments: argparse.Namespace) -> None:
    """Prints how two sets of edits differ."""
    from ldm.evaluation import comparison

    methods = arguments.methods or [None, None]
    if len(methods) == 1:
        methods *= 2
    if len(methods) != 2:
        raise UserError(f"--methods {','.join(methods)}: name one method, or one for each folder")
    summaries = comparison.compare(Path(arguments.first), Path(arguments.second), tuple(methods))
    print(comparison.table(summaries), end="")


def report_on_names(arguments: argparse.Namespace) -> None:
    """Measures how words are read."""
    from ldm.evaluation import name_benchmark
    from ldm.evaluation.report import write_report
    from ldm.util.files import writable_folder
    from ldm.words.aligner import read_alignments

    out = Path(arguments.out)
    writable_folder(out.parent, "--out")
    alignments = read_alignments(arguments.alignment) if arguments.alignment else {}
    report = name_benchmark.NameBenchmark(arguments.list, alignments=alignments).report()
    write_report(out, report, given_arguments(arguments))
    print(name_benchmark.tables(report), end="")
    print(f"wrote {out}")


def report_on_scenes(arguments: argparse.Namespace) -> None:
    """Runs the sample benchmark."""
    from ldm.evaluation import sample_benchmark
    from ldm.sampling.options import SampleOptions

    options = SampleOptions(
        steps=arguments.steps,
        graph_scale=arguments.graph_scale,
        style_scale=arguments.style_scale,
        sampler=arguments.sampler,
    )
    report = sample_benchmark.run(
        benchmark_of(arguments, "scenes"),
        options,
        arguments.seed,
        arguments.boxes,
        arguments.layout,
        arguments.references,
        arguments.renamed,
    )
    finish(report, arguments)


def report_on_clips(arguments: argparse.Namespace) -> None:
    """Runs the clip benchmark."""
    from ldm.evaluation import clip_benchmark
    from ldm.models.video_loading import find_video_checkpoint

    given = {name: value for name, value in given_values(arguments, SampleOptions).items() if name in CLIP_OPTIONS}
    checkpoint = find_video_checkpoint(arguments.run, arguments.ckpt, arguments.config)
    benchmark = benchmark_of(arguments, "clips", checkpoint)
    report = clip_benchmark.run(
        benchmark, given, arguments.methods, arguments.seed, arguments.frames, arguments.overlap
    )
    finish(report, arguments)


def report_on_words(arguments: argparse.Namespace) -> None:
    """Measures a learned word, and other words, before and after."""
    from contextlib import nullcontext

    from ldm.evaluation import learned_words
    from ldm.evaluation.clip_similarity import ClipSimilarity
    from ldm.models.diffusion.personalization import Personalization
    from ldm.models.loading import choose_device, find_checkpoint, load_model
    from ldm.sampling.text_options import TextOptions
    from ldm.util.files import writable_folder

    device, folder = choose_device(arguments.device), writable_folder(arguments.outdir, "--outdir")
    clip = ClipSimilarity(arguments.clip, arguments.clip_weights, device)
    checkpoint = find_checkpoint(arguments.run, arguments.ckpt, arguments.config)
    files = learned_files(arguments.words)
    trained = load_model(checkpoint, arguments.config, device, arguments.lora, words=files, renames=arguments.rename)
    adds, learns = files or arguments.lora, isinstance(trained, Personalization)
    if not (adds or learns):
        raise UserError("nothing was learned: name --words or --lora, or a --run of configs/sd1_words.yaml")
    untrained = load_model(checkpoint, arguments.config, device) if adds else trained
    benchmark = learned_words.WordBenchmark(
        arguments.word or only_word(trained),
        arguments.class_word,
        arguments.pictures,
        clip,
        arguments.n,
        TextOptions(steps=arguments.steps, scale=arguments.scale),
        arguments.others or learned_words.OTHERS,
        arguments.seed,
    )
    before = untrained.untrained if isinstance(untrained, Personalization) else nullcontext
    scores = benchmark.run(untrained, trained, before)
    learned_words.write(folder, benchmark, scores, given_arguments(arguments))
    print(learned_words.table(scores), end="")
    print(f"wrote {folder}/report.json, table.md and sheet.png")


def report_on_graph_words(arguments: argparse.Namespace) -> None:
    """Measures learned names of graphs, each file by itself."""
    from ldm.checkpoints import shipped
    from ldm.evaluation import graph_words
    from ldm.models.loading import choose_device, find_checkpoint, load_model
    from ldm.sampling.options import SampleOptions
    from ldm.util.files import writable_folder

    if not (arguments.words or arguments.learned):
        raise UserError("nothing was learned: name --words FILE, such as logs/<run>/learned/graph_words.safetensors")
    device, folder = choose_device(arguments.device), writable_folder(arguments.outdir, "--outdir")
    weights = shipped.OF_SCENES.get(arguments.scenes, shipped.SHIPPED)
    checkpoint = find_checkpoint(arguments.run, arguments.ckpt, arguments.config, weights)
    scales = {"graph_scale": arguments.scale, "style_scale": arguments.scale}
    benchmark = graph_words.GraphWordBenchmark(
        arguments.means,
        arguments.scenes,
        arguments.n,
        arguments.seed_offset,
        arguments.boxes,
        arguments.seed,
        SampleOptions(sampler=arguments.sampler, steps=arguments.steps, **scales),
    )
    load = partial(load_model, checkpoint, arguments.config, device)
    learned = {file: partial(load, words=[file], renames=arguments.rename) for file in arguments.words}
    learned |= {run: partial(load_model, run, None, device) for run in arguments.learned}
    rows = benchmark.run(load(), learned)
    graph_words.write(folder, benchmark, rows, given_arguments(arguments))
    print(graph_words.table(rows), end="")
    print(f"wrote {folder}/report.json, table.md and sheet.png")


def only_word(model) -> str:
    """The only learned word of a model. Raises UserError if it has none or several."""
    from ldm.modules.encoders.words import learned_words

    words = list(learned_words(model.text_stage_model)) if model.text_stage_model is not None else []
    if len(words) != 1:
        raise UserError(
            f"--word: this model has {len(words)} learned words ({', '.join(words)}); say which one to measure"
        )
    return words[0]


def benchmark_of(arguments: argparse.Namespace, name: str, checkpoint: Path | None = None) -> Benchmark:
    """The model, the scenes and the folder that the arguments name; `checkpoint` where the model is not one of images."""
    from ldm.checkpoints import shipped
    from ldm.evaluation.benchmark import Benchmark
    from ldm.models.loading import choose_device, find_checkpoint

    device = choose_device(arguments.device)
    if name != "clips":
        weights = shipped.OF_SCENES.get(arguments.scenes, shipped.SHIPPED)
        checkpoint = find_checkpoint(arguments.run, arguments.ckpt, arguments.config, weights)
    return Benchmark(
        name,
        arguments.scenes,
        arguments.n,
        arguments.seed_offset,
        checkpoint and str(checkpoint),
        arguments.config,
        device,
        arguments.workers,
        arguments.outdir,
        arguments.tasks,
    )


def finish(report: BenchmarkReport, arguments: argparse.Namespace) -> None:
    """Writes the report and prints its table."""
    report.write(given_arguments(arguments))
    print(report.table, end="")
    print(f"wrote {report.folder}/report.json, table.md, rows.jsonl and sheets of pictures")
    for remark in report.remarks:
        print(f"  {remark}")


def given_arguments(arguments: argparse.Namespace) -> dict:
    """The arguments for the report: all that are values."""
    return {name: value for name, value in vars(arguments).items() if name not in ("report", "resumable", "verbose")}


if __name__ == "__main__":
    sys.exit(main())
