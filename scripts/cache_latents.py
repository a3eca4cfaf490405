"""Encode a data set's images once: latents and image embeddings, of each image and its mirror image.

    python scripts/cache_latents.py --config configs/vg.yaml --out datasets/vg/cache
    torchrun --nproc-per-node 4 -- scripts/cache_latents.py --config configs/vg.yaml --out datasets/vg/cache
    python trainer.py --base configs/vg.yaml -t --gpus 0, data.params.cache=datasets/vg/cache

Training with data.params.cache then reads no image and runs no encoder; data.params.flip=0.5 mirrors half of the images
and their graphs. Started again with the same --out, on any number of processes, it makes what is missing. A cache
belongs to the weights and settings of the encoders that made it: training refuses it with others.

All of Visual Genome's train and validation splits, 67,627 images at 256 pixels, are 1.25 GB on disk, half of that with
--no-mirror. An image takes twice the 0.97 s that both encoders take on 4 CPU cores, so 36 hours there; it is work for a
GPU.
"""

from __future__ import annotations

import argparse
import os
import sys

from ldm.util import UserError, writable_folder

SPLITS = ("train", "validation", "test")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config", metavar="YAML", required=True, help="the config that training will use")
    add("--out", metavar="DIR", required=True, help="the cache: a subfolder for each split")
    add("--split", choices=[*SPLITS, "all"], default="all", help="of the config's data.params (default: %(default)s)")
    add("--no-mirror", action="store_true", help="leave out mirror images: half the time, but no data.params.flip")
    add("--batch-size", type=positive, default=16, help="images encoded at once (default: %(default)s)")
    add("--shard-size", type=positive, default=512, metavar="N",
        help="images to a file, at most so many are lost by a kill (default: %(default)s)")  # fmt: skip
    add("--num-workers", type=int, default=4, metavar="N", help="processes that read ahead (default: %(default)s)")
    add("--estimate", action="store_true", help="encode two batches, say how large and how long all of it would be, and end")
    add("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one, each process its own)")
    add("overrides", nargs="*", metavar="section.key=value", help="changes to the config, as trainer.py takes them")
    return parser.parse_args(argv)


def positive(word: str) -> int:
    if word.isdecimal() and int(word):
        return int(word)
    raise argparse.ArgumentTypeError(f"{word!r} is not a whole number from 1 on")


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    import torch  # only now, as --help need not wait for it

    try:
        return run(arguments)
    except UserError as error:
        print(f"cache_latents.py: {' '.join(str(error).split())}", file=sys.stderr)
    except torch.OutOfMemoryError:
        print("cache_latents.py: out of GPU memory: lower --batch-size, or choose another --device", file=sys.stderr)
    except KeyboardInterrupt:
        print("cache_latents.py: stopped; the same command goes on", file=sys.stderr)
        return 130
    return 2


def run(arguments: argparse.Namespace) -> int:
    from omegaconf import OmegaConf

    from ldm.data.cache_writing import estimate, fill
    from ldm.models.encoders import checksums, encode_with
    from ldm.run import choose_device, load_encoders
    from ldm.util import read_config

    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    config = OmegaConf.merge(read_config(arguments.config), OmegaConf.from_dotlist(arguments.overrides))
    datasets = choose_datasets(config, arguments)
    folder = writable_folder(arguments.out, "--out")
    encoders = load_encoders(config)
    encode = encode_with(*(part and part.to(choose_device(arguments.device)) for part in encoders))
    for split, dataset in datasets.items() if arguments.estimate else ():
        whole = estimate(dataset, encode, not arguments.no_mirror, arguments.batch_size)
        hours = f"{whole.seconds / 3600:,.2f} hours of one process at the pace of {arguments.batch_size} images"
        print(f"{split}: {whole.images} images, {whole.size / 1e6:,.2f} MB, {hours}", flush=True)
    for split, dataset in datasets.items() if not arguments.estimate else ():
        filled = fill(
            dataset, folder / split, encode, checksums(*encoders), not arguments.no_mirror, arguments.shard_size,
            arguments.batch_size, arguments.num_workers, rank, world,
        )  # fmt: skip
        done = f"{filled.images} images in {folder / split}, {filled.size / 1e6:,.1f} MB"
        if filled.missing:
            done += f"; {filled.missing} shards are missing: other processes write them, or the same command later"
        if rank == 0 or not filled.missing:
            pace = f"{filled.written / filled.seconds:.2f} images per second in {filled.seconds / 60:.1f} minutes"
            print(f"{done}; {filled.written} of them by this process now, {pace}", flush=True)
    return 0


def choose_datasets(config, arguments: argparse.Namespace) -> dict:
    from omegaconf import OmegaConf

    from ldm.data.cache import image_names
    from ldm.util import instantiate_from_config

    splits = OmegaConf.select(config, "data.params") or {}
    chosen = [split for split in SPLITS if split in splits and arguments.split in (split, "all")]
    if not chosen or OmegaConf.select(config, "model.params.first_stage_config") is None:
        wanted = "data.params.train" if arguments.split == "all" else f"data.params.{arguments.split}"
        raise UserError(f"{arguments.config}: has no {wanted} or no model.params.first_stage_config; name another")
    try:
        datasets = {split: instantiate_from_config(splits[split]) for split in chosen}
    except (OSError, ValueError, TypeError) as error:
        raise error if isinstance(error, UserError) else UserError(f"{arguments.config}: {error}") from error
    for dataset in datasets.values():
        image_names(dataset)  # before the encoders are loaded
    return datasets


if __name__ == "__main__":
    sys.exit(main())
