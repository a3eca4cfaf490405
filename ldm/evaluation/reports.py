"""What the commands of scripts/evaluate.py do: measure, write tables and pictures, and say where they are."""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ldm.evaluation.arguments import CLIP_OPTIONS
from ldm.sampling.options import SampleOptions
from ldm.util.errors import UserError, did_you_mean
from ldm.util.options import given_values
from ldm.util.words_option import EMBEDDED, learned_files

if TYPE_CHECKING:
    from ldm.evaluation.benchmark import Benchmark, BenchmarkReport


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


def report_on_reconstruction(arguments: argparse.Namespace) -> None:
    """Measures what the first stage of a config loses, prints the numbers and writes the report."""
    from ldm.evaluation import reconstruction
    from ldm.evaluation.image_sets import Split
    from ldm.evaluation.report import write_report
    from ldm.models.loading import choose_device, load_encoders, read_model_config
    from ldm.util.files import writable_folder

    out, device = Path(arguments.out), choose_device(arguments.device)
    writable_folder(out.parent, "--out")
    images = Split(arguments.config, arguments.split, arguments.size)
    first_stage = load_encoders(read_model_config(None, None, arguments.config), with_text=False).first_stage.to(device)
    indices = reconstruction.choose_images(len(images), arguments.n)
    report = reconstruction.measure(first_stage, images, indices, device)
    write_report(out, {**report, "measures": reconstruction.MEASURES, "data": str(images)}, given_arguments(arguments))
    for key, form in (("psnr", ".2f"), ("ssim", ".4f")):
        low, high = (format(edge, form) for edge in report[f"{key}_95"])
        print(f"{key:10}{report[key]:{form}} ({low} to {high})")
    print(f"{report['images']} images, latents of {' x '.join(map(str, report['latent']))}; wrote {out}")


def report_on_edits(arguments: argparse.Namespace) -> None:
    """Runs the edit benchmark."""
    from ldm.evaluation import edit_benchmark

    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # editors of the user's, named as package.module.function
    options = {key: getattr(arguments, key) for key in ("steps", "graph_scale", "style_scale")}
    report = edit_benchmark.run(
        benchmark_of(arguments, "edits", checkpoint_for_scenes(arguments)),
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
    from ldm.evaluation.renaming import Renaming
    from ldm.sampling.options import SampleOptions

    embeds = arguments.words == EMBEDDED
    if embeds and not arguments.renamed:
        raise UserError("--words embed: only with --renamed FILE; without it all words are names of the vocabulary")
    options = SampleOptions(
        steps=arguments.steps,
        graph_scale=arguments.graph_scale,
        style_scale=arguments.style_scale,
        sampler=arguments.sampler,
    )
    report = sample_benchmark.run(
        benchmark_of(arguments, "scenes", checkpoint_for_scenes(arguments)),
        options,
        arguments.seed,
        arguments.boxes,
        arguments.layout,
        arguments.references,
        Renaming.read(arguments.renamed, arguments.seed, embeds) if arguments.renamed else None,
    )
    finish(report, arguments)


def report_on_clips(arguments: argparse.Namespace) -> None:
    """Runs the clip benchmark."""
    from ldm.evaluation import clip_benchmark
    from ldm.models.video_loading import find_video_checkpoint

    given = {name: value for name, value in given_values(arguments, SampleOptions).items() if name in CLIP_OPTIONS}
    checkpoint = find_video_checkpoint(arguments.run, arguments.ckpt, arguments.config, arguments.scenes)
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
    from ldm.evaluation import graph_words
    from ldm.models.loading import choose_device, load_model
    from ldm.sampling.options import SampleOptions
    from ldm.util.files import writable_folder

    if not (arguments.words or arguments.learned):
        raise UserError("nothing was learned: name --words FILE, such as logs/<run>/learned/graph_words.safetensors")
    device, folder = choose_device(arguments.device), writable_folder(arguments.outdir, "--outdir")
    checkpoint = checkpoint_for_scenes(arguments)
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


def checkpoint_for_scenes(arguments: argparse.Namespace) -> Path | None:
    """The checkpoint that the arguments name; by default the adapters that ship for the scenes."""
    from ldm.checkpoints import shipped
    from ldm.models.finding import find_checkpoint

    weights = shipped.weights_for(arguments.scenes)
    return find_checkpoint(arguments.run, arguments.ckpt, arguments.config, weights)


def benchmark_of(arguments: argparse.Namespace, name: str, checkpoint: Path | None) -> Benchmark:
    """A model on the scenes, with the folder of results, that the arguments name."""
    from ldm.evaluation.benchmark import Benchmark
    from ldm.models.loading import choose_device

    device = choose_device(arguments.device)
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
        getattr(arguments, "classifier", None),
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
