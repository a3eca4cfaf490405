"""Measure results, as JSON reports with their protocols.

    python scripts/evaluate.py images --samples outputs/vg --config configs/vg.yaml --split test
    python scripts/evaluate.py images --samples edits --reference originals --metrics psnr,ssim
    python scripts/evaluate.py edits --methods autoencoder,plain,sdedit,edit
    python scripts/evaluate.py edits --n 4 --operations remove,move --methods edit:graph_scale=3
    python scripts/evaluate.py scenes --boxes all,none

images: how good samples are, against real images: FID and IS by default, with --paired also PSNR, SSIM and LPIPS, and
diversity where a graph has several samples. The weights of their networks are not downloaded: it says which file belongs
where. edits: how often editors do what they are asked to, on drawn scenes whose right answer is known, and what they
leave alone. scenes: how often samples of held-out drawn scenes show what their graphs say. Both go on where they were
stopped, and write a table and pictures beside the report.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
from pathlib import Path

from ldm.util.cli import at_least
from ldm.util.errors import UserError


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    images = commands.add_parser("images", help="FID, IS, PSNR, SSIM, LPIPS and diversity of folders of images")
    images.set_defaults(report=report_on_images)
    add = images.add_argument
    add("--samples", required=True, metavar="DIR", help="images of scripts/sample.py (its index.jsonl says whose graph "
        "each shows), or any others, those of one graph in a subfolder of their own")  # fmt: skip
    real = images.add_mutually_exclusive_group()
    real.add_argument("--reference", metavar="DIR", help="real images")
    real.add_argument("--config", metavar="YAML", help="whose data section has the real images")
    add("--split", default="test", help="of --config: train, validation or test (default: %(default)s)")
    add("--paired", action="store_true", help="each sample belongs to one real image: the one of its file name in "
        "--reference, the one of its graph_index in --config; adds PSNR, SSIM and LPIPS")  # fmt: skip
    add("--metrics", type=lambda text: text.split(","), help="some of fid,is,psnr,ssim,lpips,diversity instead")
    add("--n", type=at_least(1), help="the first so many of either side (default: all)")
    add("--size", type=at_least(32), default=256, help="pixels that all images are resized to (default: %(default)s)")
    add("--lpips-net", choices=["alex", "vgg"], default="alex", help="(default: %(default)s, as diversity has it)")
    add("--weights", metavar="DIR", help="where the networks' weights are (default: torch's own folder, "
        "~/.cache/torch/hub/checkpoints)")  # fmt: skip
    add("--batch-size", type=at_least(1), default=32, help="(default: %(default)s)")
    add("--workers", type=at_least(0), default=4, help="processes that read ahead (default: %(default)s)")
    add("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    add("--out", metavar="JSON", help="where the report goes (default: report.json in the samples' folder)")

    edits = commands.add_parser("edits", help="success and preservation of editors on edits with a known right answer")
    edits.set_defaults(report=report_on_edits)
    add = edits.add_argument
    add("--methods", type=split, default="plain,sdedit,edit", help="autoencoder, truth (the right answer through the "
        "autoencoder), plain (DDIM inversion), sdedit, edit, how `edit` inverts (ddim, fixed-point, ...), or "
        "package.module.function for an editor of your own (ldm/editors.py says what it is given), each with options such "
        "as sdedit:strength=0.7:steps=20; `edit` has its own defaults for what is not said (default: %(default)s)")  # fmt: skip
    add("--operations", type=split, help="some of replace,recolour,remove,add,move,resize,relation,restyle,two instead")
    add("--steps", type=at_least(1), default=50, help="DDIM steps of the other methods (default: %(default)s)")
    add("--graph-scale", type=float, default=2.0, help="guidance of the other methods (default: %(default)s)")
    add("--style-scale", type=float, default=2.0, help="(default: %(default)s)")
    add("--seed", type=int, default=0, help="of the noise of methods that draw some (default: %(default)s)")
    add("--show", choices=["failures", "any"], default="failures", help="on the sheets of pictures (default: "
        "%(default)s)")  # fmt: skip
    of_model(edits, "edits of an operation")

    scenes = commands.add_parser("scenes", help="whether samples of held-out drawn scenes show what their graphs say")
    scenes.set_defaults(report=report_on_scenes)
    add = scenes.add_argument
    add("--boxes", type=split, default="all,none", help="of all objects, none or part of them (default: %(default)s)")
    add("--layout", type=split, help="search: objects without a box get one before sampling, as in sample.py; none: the "
        "model places them (default: none,search, of hard scenes none, since the search knows no perspective)")  # fmt: skip
    add("--references", type=split, help="whose style the samples are to have: the same scene's, another scene's, or none "
        "(default: same,other, of a model without an image encoder none)")  # fmt: skip
    add("--sampler", choices=["ddim", "dpm++"], default="ddim", help="dpm++ is of second order, and needs fewer steps "
        "(default: %(default)s)")  # fmt: skip
    add("--steps", type=at_least(1), default=50, help="of the sampler, a call of the U-Net each (default: %(default)s)")
    add("--graph-scale", type=float, default=2.0, help="(default: %(default)s)")
    add("--style-scale", type=float, default=2.0, help="(default: %(default)s)")
    add("--seed", type=int, default=0, help="of the noise (default: %(default)s)")
    of_model(scenes, "scenes of a kind")
    return parser.parse_args(argv)


def of_model(parser: argparse.ArgumentParser, what: str) -> None:
    """What the studies of a model on drawn scenes share."""
    add = parser.add_argument
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--run", metavar="DIR", help="log folder of a training run, for its last checkpoint and its config "
        "(default, with none of these three: the weights that ship)")  # fmt: skip
    weights.add_argument("--ckpt", metavar="FILE", help="a checkpoint of trainer.py, or adapters exported from one")
    add("--config", metavar="YAML", help="a config, instead of the one in the checkpoint")
    add("--scenes", choices=["shapes", "hard"], default="shapes", help="(default: %(default)s)")
    add("--n", type=at_least(1), default=200, help=f"{what} (default: %(default)s)")
    add("--seed-offset", type=at_least(0), default=0, help="number of the first held-out scene: one far away gives scenes "
        "that nobody has tuned on (default: %(default)s)")  # fmt: skip
    add("--workers", type=at_least(1), help="processes (default: one for every hundred pictures, up to the cores; one on a "
        "GPU)")  # fmt: skip
    add("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    add("--outdir", metavar="DIR", help="where everything goes (default: outputs/<command>-<scenes>-<the weights' digest>)")


def split(text: str) -> list[str]:
    """At commas outside of brackets."""
    return list(dict.fromkeys(re.split(r",(?![^\[]*\])", text)))


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    try:
        arguments.report(arguments)
    except UserError as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        goes_on = arguments.report is not report_on_images
        print(f"evaluate.py: stopped{'; the same command goes on' if goes_on else ''}", file=sys.stderr)
        return 130
    return 0


def report_on_images(arguments: argparse.Namespace) -> None:
    import torch

    from ldm.evaluation.image_quality import METRICS, PAIRED, evaluate, find_weights, load_networks
    from ldm.evaluation.image_sets import Folder, Split, of_one_graph
    from ldm.models.loading import choose_device
    from ldm.util.errors import did_you_mean
    from ldm.util.files import writable_folder

    for metric in arguments.metrics or ():
        if metric not in METRICS:
            raise UserError(f"--metrics {metric}: not one of {', '.join(METRICS)}{did_you_mean(metric, METRICS)}")
    device, out = choose_device(arguments.device), Path(arguments.out or Path(arguments.samples) / "report.json")
    writable_folder(out.parent, "--out")
    if out.is_dir():
        raise UserError(f"--out {out}: a folder; name a file in it")
    size, n = arguments.size, arguments.n
    samples = Folder(arguments.samples, size, n)
    usual = ["fid", "is", *(PAIRED if arguments.paired else ()), *(["diversity"] if of_one_graph(samples) else ())]
    metrics = arguments.metrics or usual
    weights_folder = Path(arguments.weights or Path(torch.hub.get_dir()) / "checkpoints").expanduser()
    weights = find_weights(metrics, weights_folder, arguments.lpips_net)
    reference = None
    if arguments.config:
        reference = Split(arguments.config, arguments.split, size)
    elif arguments.reference:
        reference = Folder(arguments.reference, size)

    networks = load_networks(weights, arguments.lpips_net, device)
    report = evaluate(samples, reference, metrics, networks, n, arguments.batch_size, arguments.workers, device)
    write(out, arguments, report)
    for name, number in report["metrics"].items():
        values = (f"{key} {value:.4f}" for key, value in number.items() if isinstance(value, float))
        print(f"{name:10}{', '.join(values)}")
    for remark in report["remarks"]:
        print(f"  {remark}")
    print(f"wrote {out}")


def report_on_edits(arguments: argparse.Namespace) -> None:
    from ldm.evaluation import edit_benchmark, editors
    from ldm.evaluation.edit_tasks import OPERATIONS, task
    from ldm.evaluation.runner import file_name

    sys.path += [] if os.getcwd() in sys.path else [os.getcwd()]  # where an editor of the user's may lie
    for method in arguments.methods:
        editors.parse(method)
    methods = [editors.versioned(method) for method in arguments.methods]
    operations = arguments.operations or list(OPERATIONS)
    graphs = [task(arguments.scenes, operation, arguments.seed_offset).target for operation in operations]
    shared = {key: getattr(arguments, key) for key in ("steps", "graph_scale", "style_scale", "seed")}
    numbers = range(arguments.seed_offset, arguments.seed_offset + arguments.n)
    jobs = [(method, operation, number) for number in numbers for operation in operations for method in methods]
    model, files = load(arguments, graphs)
    folder, settings, rows = study(arguments, model, shared, jobs, edit_benchmark.Recipe(*files, shared))
    for method in methods:
        sheet = edit_benchmark.sheet(folder, arguments.scenes, method, jobs, rows, arguments.show)
        save(sheet, folder / f"sheet_{file_name(method)}.png")
    lines = edit_benchmark.summary(jobs, rows)
    protocol = {**settings, "edit": editors.own_way()}
    finish(folder, arguments, protocol, edit_benchmark.MEASURES, lines, edit_benchmark.markdown(lines))
    for method in methods:
        refusals = [row["complaints"][0] for job, row in zip(jobs, rows) if job[0] == method and row.get("refused")]
        if refusals:
            print(f"  {method} refused {len(refusals)} edits: {refusals[0]}")


def report_on_scenes(arguments: argparse.Namespace) -> None:
    from ldm.data.demo import DemoValidation
    from ldm.evaluation import sample_benchmark
    from ldm.sampling.sample import LAYOUTS, SampleOptions
    from ldm.util.errors import did_you_mean

    layouts = arguments.layout or (["none"] if arguments.scenes == "hard" else ["none", "search"])
    for option, values, known in (
        ("layout", layouts, LAYOUTS),
        ("boxes", arguments.boxes, sample_benchmark.BOXES),
        ("references", arguments.references or (), sample_benchmark.REFERENCES),
    ):
        for value in values:
            if value not in known:
                raise UserError(f"--{option} {value}: not one of {', '.join(known)}{did_you_mean(value, known)}")
    graphs = [DemoValidation(arguments.seed_offset + 1, scenes=arguments.scenes)[arguments.seed_offset][1]]
    shared = {key: getattr(arguments, key) for key in ("sampler", "steps", "graph_scale", "style_scale", "seed")}
    settings = SampleOptions(arguments.steps, 0.0, arguments.graph_scale, arguments.style_scale, arguments.sampler)
    model, files = load(arguments, graphs)
    styled = model.global_stage_model is not None
    references = arguments.references or (["same", "other"] if styled else ["none"])
    if not styled and references != ["none"]:
        raise UserError(
            f"--references {','.join(references)}: this model has no image encoder (global_stage_config), so it cannot "
            "follow a style; leave it out, or ask for none"
        )
    kinds = sample_benchmark.kinds(arguments.boxes, layouts, references)
    numbers = range(arguments.seed_offset, arguments.seed_offset + arguments.n)
    jobs = [(*kind, number) for number in numbers for kind in kinds]
    recipe = sample_benchmark.Recipe(*files, settings, arguments.seed)
    folder, protocol, rows = study(arguments, model, shared, jobs, recipe)
    save(sample_benchmark.sheet(folder, arguments.scenes, jobs, rows), folder / "sheet.png")
    lines = sample_benchmark.summary(jobs, rows)
    finish(folder, arguments, protocol, sample_benchmark.MEASURES, lines, sample_benchmark.markdown(lines))


def load(arguments: argparse.Namespace, graphs: list) -> tuple:
    """The model that the arguments name, and (scenes, checkpoint, config, device), by which a recipe loads it elsewhere.

    graphs: some that the model must have words for.
    """
    from ldm.models.loading import choose_device, find_checkpoint, load_model

    device = choose_device(arguments.device)
    checkpoint = find_checkpoint(arguments.run, arguments.ckpt, arguments.config)
    model = load_model(checkpoint, arguments.config)
    for graph in graphs:
        graph.validate(model.vocab, f"the scenes {arguments.scenes!r}", model.cond_stage_model.max_objects)
    return model, (arguments.scenes, checkpoint and str(checkpoint), arguments.config, device)


def study(arguments: argparse.Namespace, model, shared: dict, jobs: list, recipe) -> tuple[Path, dict, list[dict]]:
    """The folder, the protocol of all rows, and the rows of these jobs, each of which recipe.prepare() knows how to do."""
    from ldm.evaluation.runner import run_jobs, source_digest
    from ldm.models.loading import fingerprint
    from ldm.util.files import writable_folder
    from ldm.util.processes import available_cores

    settings = {"scenes": arguments.scenes, "weights": fingerprint(model), **shared, "code of ldm/": source_digest()}
    command = "edits" if "methods" in arguments else "scenes"
    folder = writable_folder(
        arguments.outdir or f"outputs/{command}-{arguments.scenes}-{settings['weights'][:8]}", "--outdir"
    )
    few = 1 + len(jobs) // 100 if recipe.device == "cpu" else 1
    workers = arguments.workers or min(few, available_cores())
    rows = run_jobs(folder, settings, jobs, recipe.prepare, workers, command)
    return folder, {**settings, "seed_offset": arguments.seed_offset, "workers": workers, "device": recipe.device}, rows


def finish(folder: Path, arguments: argparse.Namespace, settings: dict, measures: dict, lines: list, table: str) -> None:
    """The report and, beside it and on the screen, the table."""
    write(folder / "report.json", arguments, {"protocol": {**settings, "measures": measures}, "results": lines})
    (folder / "table.md").write_text(table)
    print(table, end="")
    print(f"wrote {folder}/report.json, table.md, rows.jsonl and sheets of pictures")


def save(picture, path: Path) -> None:
    """Beside its place first, then renamed."""
    picture.save(path.with_name(f".{path.name}"), "PNG")
    path.with_name(f".{path.name}").replace(path)


def write(out: Path, arguments: argparse.Namespace, report: dict) -> None:
    """Beside its place first, then renamed, so that it is never half written."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": platform.python_version()}
    for package in ("torch", "torchvision", "pillow", "torchmetrics", "torch-fidelity", "lpips"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            pass
    given = {name: value for name, value in vars(arguments).items() if not callable(value)}
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}")
    part.write_text(json.dumps({**report, "arguments": given, "versions": versions}, indent=2) + "\n")
    part.replace(out)


if __name__ == "__main__":
    sys.exit(main())
