"""Compare models on a validation set: pictures, scores, paired differences to a base, and a verdict.

    python scripts/validate.py run shapes --n 12 --steps 10 --sampler dpm++ --base configs/flat/adapters.yaml --model trained=shipped
    python scripts/validate.py run validation.jsonl --model a=logs/<run> --model lora=base+style.safetensors:0.5,1
    python scripts/validate.py run edits_val.json --base photograph --model mine=logs/<run>
    python scripts/validate.py run mapping_file.json --base photograph --model theirs=pictures:output/theirs --scores pie
    torchrun --nproc-per-node 4 -- scripts/validate.py run validation.jsonl --model a=logs/<run> --outdir outputs/a
    python scripts/validate.py run validation.jsonl --num-shards 4 --shard-index 2 --outdir outputs/part2
    python scripts/validate.py merge outputs/part0 outputs/part1 outputs/part2 outputs/part3 --outdir outputs/all
    python scripts/validate.py vote validation.jsonl outputs/all --serve
    python scripts/validate.py merge outputs/all --votes outputs/all/votes.jsonl

A model is NAME=SOURCE[+LORA:SCALE,...][@OPTION=VALUE...]. SOURCE is a log folder, a checkpoint, a config (the frozen model
alone), or one of: base, shipped, photograph (unedited), truth (the true result), pictures:DIR (made before), or a function of
yours as package.module.function, from a line to an image. A picture depends on its line and its model alone. The same command
continues where it was stopped. A shard in which something failed says so at the end and exits with 1; the report is written
only when every picture of every model is there.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the process silently until run_program handles it

import argparse
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from ldm.sampling.options import SampleOptions
from ldm.sampling.text_options import TextOptions
from ldm.util.cli import Parser, add_verbose_argument, at_least, positive, run_program
from ldm.util.errors import UserError
from ldm.util.options import add_arguments, from_mapping, given_values

TEXT_ONLY = ("scale", "negative", "height", "width", "long_prompt")  # the others are those of graphs


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command's arguments; `carry_out` is the function that does it."""
    parser = Parser("validate.py", __doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="make and score pictures; report when all are there")
    run.set_defaults(carry_out=run_validation)
    add_run_arguments(run)
    add_report_arguments(run)
    add_verbose_argument(run)
    add_arguments(run.add_argument_group("how to sample and edit"), SampleOptions)
    add_arguments(run.add_argument_group("how to sample prompts"), TextOptions, TEXT_ONLY)
    merge = commands.add_parser("merge", help="report on shards that ran elsewhere, or again with votes")
    merge.set_defaults(carry_out=merge_shards)
    merge.add_argument("folders", nargs="+", metavar="DIR", help="folders that `run` wrote")
    merge.add_argument("--outdir", metavar="DIR", help="folder of the report (default: the first folder)")
    add_report_arguments(merge)
    vote = commands.add_parser("vote", help="write a page on which people compare pictures, blinded")
    vote.set_defaults(carry_out=write_votes)
    add_line_arguments(vote)
    vote.add_argument("folders", nargs="+", metavar="DIR", help="folders that `run` wrote")
    vote.add_argument("--outdir", metavar="DIR", help="folder of page and key (default: the first folder)")
    vote.add_argument("--seed", type=int, default=0, help="of sides and order (default: %(default)s)")
    vote.add_argument("--pairs", type=positive, metavar="N", help="pairs of each model (default: one per line)")
    vote.add_argument("--serve", action="store_true", help="serve the page too, and keep the votes (votes.jsonl)")
    vote.add_argument("--host", default="127.0.0.1", help="with --serve: address to listen on (default: %(default)s)")
    vote.add_argument("--port", type=at_least(0), help="with --serve: port (default: the first free one from 8765 on)")
    return parser.parse_args(argv)


def add_line_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that name the lines."""
    parser.add_argument(
        "lines",
        metavar="FILE",
        help="validation.jsonl (docs/validation.md), PIE-Bench's mapping_file.json, edits_*.json of aligned photographs, or "
        "shapes for held-out drawn scenes",
    )
    parser.add_argument(
        "--n", type=at_least(1), help="only the first N lines, or drawn scenes (default: all lines, 100 scenes)"
    )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `run` only."""
    add = parser.add_argument
    add_line_arguments(parser)
    add("--base", default="shipped", metavar="SOURCE", help="what models are compared with (default: %(default)s)")
    add(
        "--model",
        action="append",
        default=[],
        metavar="NAME=SOURCE",
        help="a model to compare with the base; may be given several times",
    )
    add(
        "--config",
        nargs="+",
        action="extend",
        metavar="YAML",
        help="config of published weights (default: the checkpoint's)",
    )
    add(
        "--scores",
        type=lambda text: text.split(","),
        help="some of pixels,checker,clip,lpips,fid,pie,pie-pixels,pie-lpips,pie-structure,pie-clip (default: those that suit "
        "the lines and need no weights that are not named)",
    )
    add("--world", help="synthetic world whose checker judges the pictures (default: the one of drawn scenes)")
    add("--num-shards", type=positive, help="how many machines share the lines (default: 1, or torchrun's processes)")
    add("--shard-index", type=at_least(0), help="which share this is, from 0 on")
    add("--workers", type=at_least(1), default=1, help="processes that score (default: %(default)s)")
    add("--outdir", metavar="DIR", help="folder of the results (default: outputs/validation-<name of the lines>)")


def add_report_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that a report needs."""
    add = parser.add_argument
    add("--clip", metavar="NAME:FILE", help="CLIP of open_clip, such as ViT-L-14-quickgelu:ViT-L-14.pt")
    add("--weights", metavar="DIR", help="folder of other networks' weights (default: ~/.cache/torch/hub/checkpoints)")
    add("--reference", metavar="DIR", help="real images, for fid")
    add("--classifier", metavar="FUNCTION", help="package.module.function from an image to the name of its class")
    add("--labelled", metavar="JSONL", help="pictures with `file` and `label`, for the classifier's errors")
    add("--votes", nargs="+", default=[], metavar="JSONL", help="files that the page of `vote` saved")
    add("--votes-key", metavar="JSON", help="key of these votes (default: votes_key.json in the folder of results)")
    add("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one, else the CPU)")


def main(argv: list[str] | None = None) -> int:
    """Runs the program; returns its exit code."""
    arguments = parse(argv)
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # functions of the user's, named as package.module.function
    return run_program(
        lambda: arguments.carry_out(arguments),
        "validate.py",
        if_stopped="the same command continues",
        if_out_of_memory="choose another --device",
        verbose=getattr(arguments, "verbose", False),
    )


def run_validation(arguments: argparse.Namespace) -> int:
    """Makes and scores a share of the pictures, and reports if all are there. Returns the exit code."""
    given = given_values(arguments, SampleOptions)
    from_mapping(SampleOptions, given)
    of_texts = given_values(arguments, TextOptions)
    from_mapping(TextOptions, of_texts)
    given = {**of_texts, **given}
    from functools import partial

    from ldm.editing.batch import sum_over_processes
    from ldm.evaluation.validation import merge, models, plan, score_options, shards
    from ldm.util.files import writable_folder

    shard, processes = choose_shard(arguments)
    lines = choose_lines(arguments)
    specs = models.parse_models(arguments.base, arguments.model)
    options = score_options_of(arguments)
    names = score_options.expand_names(arguments.scores or score_options.default_names(lines, options))
    scores = score_options.make_scores(names, options)
    measures = {name: measure for score in scores.values() for name, measure in score.measures.items()}
    outdir = arguments.outdir or f"outputs/validation-{Path(arguments.lines).stem}"
    folder = writable_folder(outdir, "--outdir")
    whole = plan.make_plan(lines, [spec.name for spec in specs], names, measures)
    plan.write_plan(folder, whole)
    load = partial(models.make_maker, config=arguments.config, device=options.device, shared=given, world=options.world)
    failures = shards.run_shard(whole, lines, specs, load, options, shard, folder, arguments.workers)
    failures.tell()
    failed = sum_over_processes(failures.count, processes)
    if failed:
        return 1
    if processes > 1 and shard.index > 0:
        return 0
    try:
        results = merge.collect([folder])
    except merge.IncompleteError as error:
        if shard.count == processes:  # nobody else will make them
            raise
        print(f"{shard} is done. For the report {error}")
        print("when all are done: validate.py merge with the folders of all shards")
        return 0
    finish(results, folder, arguments)
    return 0


def merge_shards(arguments: argparse.Namespace) -> None:
    """Reports on shards that ran elsewhere."""
    from ldm.evaluation.validation import merge
    from ldm.util.files import writable_folder

    results = merge.collect([Path(folder) for folder in arguments.folders])
    finish(results, writable_folder(arguments.outdir or arguments.folders[0], "--outdir"), arguments)


def write_votes(arguments: argparse.Namespace) -> None:
    """Writes the page for human votes."""
    from ldm.evaluation.validation import merge, votes
    from ldm.util.files import writable_folder

    missing = [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]
    if arguments.serve and missing:
        raise UserError(f"--serve: {' and '.join(missing)} missing: pip install -e '.[app]', or leave --serve out")
    results = merge.collect([Path(folder) for folder in arguments.folders])
    folder = writable_folder(arguments.outdir or arguments.folders[0], "--outdir")
    page = votes.write_page(results, choose_lines(arguments), folder, arguments.seed, arguments.pairs)
    if arguments.serve:
        from ldm.app.ballots import VOTES, Ballots
        from ldm.app.voting import serve_vote

        serve_vote(Ballots(page.parent, folder / VOTES), arguments.host, arguments.port)
        print(f"for the report: validate.py merge {' '.join(arguments.folders)} --votes {folder / VOTES}")
        return
    print(f"wrote {page} with its pictures; give voters this folder, and keep {folder / votes.KEY} to yourself")


def choose_shard(arguments: argparse.Namespace):
    """The share of this process, and of how many processes of torchrun it is one.

    Raises:
        UserError: only one of the two options is given, or under torchrun.
    """
    from ldm.evaluation.validation.shards import Shard

    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if (arguments.num_shards is None) != (arguments.shard_index is None):
        raise UserError("--num-shards and --shard-index go together: which of how many shares this is")
    if arguments.num_shards is None:
        if processes > 1 and arguments.outdir is None:
            raise UserError("--outdir is missing: several processes need a common folder")
        return Shard(int(os.environ.get("RANK", "0")), processes), processes
    if processes > 1:
        raise UserError("--num-shards: torchrun's processes share the lines already; give one or the other")
    return Shard(arguments.shard_index, arguments.num_shards), 1


def choose_lines(arguments: argparse.Namespace) -> list:
    """The lines that the arguments name. Raises UserError."""
    from ldm.synthetic.worlds import WORLDS

    if arguments.lines in WORLDS:
        from ldm.evaluation.validation.drawn import drawn_lines

        arguments.world = arguments.lines
        return drawn_lines(arguments.lines, arguments.n or 100)
    from ldm.evaluation.validation.reading import read_lines

    return read_lines(arguments.lines)[: arguments.n]


def score_options_of(arguments: argparse.Namespace):
    """What the scores need."""
    from ldm.evaluation.validation.score_options import ScoreOptions
    from ldm.models.loading import choose_device

    world = getattr(arguments, "world", None)
    device = choose_device(arguments.device)
    return ScoreOptions(world, arguments.clip, arguments.weights, arguments.classifier, device)


def finish(results, folder: Path, arguments: argparse.Namespace) -> None:
    """Writes and prints the report."""
    from ldm.evaluation.validation.outcome import Extras, write_outcome

    extras = Extras(arguments.reference, arguments.labelled, arguments.votes, arguments.votes_key)
    given = {name: value for name, value in vars(arguments).items() if name not in ("carry_out", "verbose")}
    print(write_outcome(results, folder, score_options_of(arguments), extras, given), end="")
    print(f"wrote {folder}/report.json, table.md and sheet.png")


if __name__ == "__main__":
    sys.exit(main())
