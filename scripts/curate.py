"""Make a training set of a pile of pictures: find duplicates, cluster, filter, balance, and report each step.

    python scripts/curate.py --images docs/images --tower pixels --out outputs/curated
    python scripts/curate.py --images datasets/pile --config configs/vg.yaml --validation-share 0.05 --out outputs/curated
    python scripts/curate.py --images train=datasets/a.json validation=datasets/b.json --group-by clip --out outputs/curated
    python scripts/curate.py --config configs/vg.yaml --splits train validation --leaks remove --out outputs/curated
    python scripts/curate.py --config configs/vg.yaml --cache datasets/vg/cache --out outputs/curated
    torchrun --nproc-per-node 4 -- scripts/curate.py --images datasets/pile --out outputs/curated
    python scripts/curate.py --again outputs/curated/curation.yaml --cap 500 --balance-by cluster --out outputs/balanced

writes metadata.jsonl (each picture, whether it is kept and why not), train.txt and validation.txt, vocab.json,
clusters.yaml (names of clusters, which you may change and a later run keeps), report.html (opens offline) and curation.yaml
(repeats it, with --again). Embeddings are kept in the folder, so that another run needs seconds. A killed command goes on when
it is given again. To train on the result, name it in a config: ldm.data.curated.CuratedTrain, with params {root: outputs/curated}.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the process silently until run_program handles it

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from ldm.curation.options import CurationOptions, read_options
from ldm.util.cli import Parser, at_least, positive, run_program
from ldm.util.errors import UserError
from ldm.util.files import atomic_write, writable_folder
from ldm.util.options import add_arguments, given_values

SOURCES = ("images", "config", "splits", "tower", "weights", "cache", "declared_pairs")  # that curation.yaml repeats
LISTS = ("images", "config", "splits")
COMMON = (("RANK", 0), ("WORLD_SIZE", 1))


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser("curate.py", __doc__)
    add = parser.add_argument
    add("--out", metavar="DIR", help="folder of the curated set")
    add(
        "--images",
        nargs="+",
        action="extend",
        metavar="[SPLIT=]PATH",
        help="folder, metadata.jsonl or annotations in COCO's form; of train, if no split is named",
    )
    add("--config", nargs="+", action="extend", metavar="YAML", help="config with the image tower, and with data sets")
    add(
        "--splits",
        nargs="+",
        choices=["train", "validation", "test"],
        help="without --images: splits of the config's data.params to curate (default: train)",
    )
    add("--tower", metavar="NAME", help="CLIP by OpenAI's or open_clip's name, or pixels, which needs no weights")
    add("--weights", metavar="FILE", help="weights of --tower (default: OpenAI's file in ~/.cache/clip)")
    add(
        "--cache",
        metavar="DIR",
        help="latent cache of the config's data sets, whose image embeddings are taken; no tower runs then",
    )
    add("--declared-pairs", metavar="JSON", help="pairs of pictures that are alike on purpose: a list of [a, b]")
    add("--again", metavar="YAML", help="curation.yaml of an earlier run, whose options and sources are taken")
    add("--store", metavar="DIR", help="folder of the embeddings (default: embeddings/ in --out)")
    add("--dry-run", action="store_true", help="count what there is, and embed nothing")
    add("--rehearse", nargs="+", type=positive, metavar="N", help="measure time and memory on N made-up embeddings")
    add("--num-shards", type=positive, default=None, metavar="N", help="number of processes that share the folder")
    add("--shard-index", type=at_least(0), default=None, metavar="I", help="number of this process, from 0")
    add("--batch-size", type=positive, default=32, help="pictures to embed at once (default: %(default)s)")
    add("--shard-size", type=positive, default=512, metavar="N", help="pictures per file (default: %(default)s)")
    add("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one, a different one for each process)")
    add_arguments(parser.add_argument_group("options, which curation.yaml repeats"), CurationOptions)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    return run_program(
        lambda: run(arguments),
        "curate.py",
        if_stopped="the same command goes on",
        if_out_of_memory="lower --batch-size, or choose another --device",
    )


def run(arguments: argparse.Namespace) -> None:
    if arguments.rehearse:
        from ldm.curation.rehearsal import rehearse

        for rows in arguments.rehearse:
            print(rehearse(rows).sentence(), flush=True)
        return
    _take_earlier_sources(arguments)
    options = read_options(arguments.again, given_values(arguments, CurationOptions))
    if not arguments.images and not arguments.config:
        raise UserError("name pictures with --images, or a config with data sets with --config")
    pictures, config = _read_pool(arguments, options)
    if arguments.dry_run:
        from ldm.curation.pipeline import describe_pool

        print("\n".join(describe_pool(pictures, options.group_by)))
        return
    if not arguments.out:
        raise UserError("name the folder of the result with --out")
    _curate(arguments, options, pictures, config, Path(writable_folder(arguments.out, "--out")))


def _curate(arguments: argparse.Namespace, options: CurationOptions, pictures: list, config: Any, out: Path) -> None:
    from ldm.curation.cached import CachedTower
    from ldm.curation.pictures import read_declared_pairs
    from ldm.curation.pipeline import agreements, balance_sentence, curate
    from ldm.curation.report import report_page
    from ldm.curation.store import embed
    from ldm.curation.towers import load_tower
    from ldm.curation.writing import write_set
    from ldm.models.loading import choose_device

    rank, world = _share(arguments)
    device = choose_device(arguments.device)
    if arguments.cache and arguments.tower:
        raise UserError("--cache and --tower: the embeddings are of one or the other; leave one out")
    if arguments.cache:
        tower = CachedTower(arguments.cache, pictures)
    else:
        tower = load_tower(arguments.tower, arguments.weights, config, device)
    declared = read_declared_pairs(arguments.declared_pairs, pictures) if arguments.declared_pairs else frozenset()
    store = Path(arguments.store or out / "embeddings") / tower.checksum[:16]
    records = embed(pictures, store, tower, rank, world, arguments.shard_size, arguments.batch_size)
    curation = curate(pictures, records, options, declared, out, rank, world, tower.embed_texts)
    if curation is None:
        return
    write_set(curation, out, {name: value for name in SOURCES if (value := getattr(arguments, name))})
    command = "python scripts/curate.py " + " ".join(sys.argv[1:])
    with atomic_write(out / "report.html") as temporary:
        temporary.write_text(report_page(curation, tower.name, command), encoding="utf-8")
    for stage, left in curation.stages:
        print(f"{left:8} {stage}")
    for sentence in (*agreements(curation), *filter(None, [balance_sentence(curation)])):
        print(sentence)
    print(f"wrote {len(curation.kept)} pictures to {out}; see {out / 'report.html'}")


def _read_pool(arguments: argparse.Namespace, options: CurationOptions) -> tuple[list, Any]:
    from ldm.curation.options import pairs_of
    from ldm.curation.pictures import pictures_of_dataset, read_pictures, select
    from ldm.data.datamodule import build_datasets
    from ldm.util.config import plain
    from ldm.util.config_merging import read_configs

    config = read_configs(arguments.config) if arguments.config else None
    if arguments.images:
        pictures = read_pictures(arguments.images)
    else:
        splits = plain(config)["data"]["params"]
        chosen = arguments.splits or ["train"]
        missing = [split for split in chosen if not splits.get(split)]
        if missing:
            raise UserError(f"{arguments.config[-1]}: has no data.params.{missing[0]}; name another split, or --images")
        datasets = build_datasets({split: splits[split] for split in chosen})
        pictures = [
            picture
            for split, dataset in datasets.items()
            for picture in pictures_of_dataset(_with_files(dataset, split), split)
        ]
    return (select(pictures, pairs_of(options.only, "only")) if options.only else pictures), config


def _with_files(dataset: Any, split: str) -> Any:
    """The data set. Raises UserError unless its pictures are files."""
    from ldm.data.protocols import ImageFileDataset

    if not isinstance(dataset, ImageFileDataset):
        raise UserError(
            f"data.params.{split}: the pictures of {type(dataset).__name__} are no files; name a folder with --images"
        )
    return dataset


def _take_earlier_sources(arguments: argparse.Namespace) -> None:
    """What curation.yaml says about the pictures, unless the command line says it."""
    if not arguments.again:
        return
    from ldm.curation.options import read_yaml

    earlier = read_yaml(arguments.again)
    if not isinstance(earlier, dict) or "options" not in earlier:
        return
    for name in SOURCES:
        value = earlier.get(name)
        words = value if name in LISTS and isinstance(value, list) else [value]
        if value is not None and (
            not all(isinstance(word, str) for word in words) or name in LISTS and words == [value]
        ):
            kind = "a list of texts" if name in LISTS else "a text"
            raise UserError(f"{arguments.again}: {name} is not {kind}; correct it")
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)


def _share(arguments: argparse.Namespace) -> tuple[int, int]:
    """Number of this process, and of all: of --shard-index and --num-shards, else of torchrun."""
    if (arguments.num_shards is None) != (arguments.shard_index is None):
        raise UserError("give --num-shards and --shard-index together")
    if arguments.num_shards is None:
        return tuple(int(os.environ.get(name, default)) for name, default in COMMON)  # type: ignore[return-value]
    if arguments.shard_index >= arguments.num_shards:
        raise UserError(f"--shard-index {arguments.shard_index}: must be below --num-shards {arguments.num_shards}")
    return arguments.shard_index, arguments.num_shards


if __name__ == "__main__":
    sys.exit(main())
