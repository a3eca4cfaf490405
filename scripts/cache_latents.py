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

from ldm.util.cli import at_least, positive
from ldm.util.errors import UserError
from ldm.util.files import writable_folder


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config", metavar="YAML", required=True, help="the config that training will use")
    add("--out", metavar="DIR", required=True, help="the cache: a subfolder for each split")
    add("--split", choices=["train", "validation", "test", "all"], default="all",
        help="of the config's data.params (default: %(default)s)")  # fmt: skip
    add("--no-mirror", action="store_true", help="leave out mirror images: half the time, but no data.params.flip")
    add("--batch-size", type=positive, default=16, help="images encoded at once (default: %(default)s)")
    add("--shard-size", type=positive, default=512, metavar="N",
        help="images to a file, at most so many are lost by a kill (default: %(default)s)")  # fmt: skip
    add("--num-workers", type=at_least(0), default=4, metavar="N", help="processes that read ahead (default: %(default)s)")
    add("--estimate", action="store_true", help="encode two batches, say how large and how long all of it would be, and end")
    add("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one, each process its own)")
    add("overrides", nargs="*", metavar="section.key=value", help="changes to the config, as trainer.py takes them")
    return parser.parse_args(argv)


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
    from ldm.models.encoders import make_encode_function
    from ldm.models.loading import choose_device, load_encoders
    from ldm.training import precompute

    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    config = precompute.configured(arguments.config, arguments.overrides)
    datasets = precompute.choose(config, arguments.split, arguments.config)  # before the encoders are loaded
    folder = writable_folder(arguments.out, "--out")
    device = choose_device(arguments.device)
    encoders = tuple(part and part.to(device) for part in load_encoders(config))
    mirrored = not arguments.no_mirror
    if arguments.estimate:
        sentences = precompute.estimates(datasets, make_encode_function(*encoders), mirrored, arguments.batch_size)
    else:
        sentences = precompute.fill_all(
            datasets, folder, encoders, rank, world, mirrored=mirrored, shard_size=arguments.shard_size,
            batch_size=arguments.batch_size, num_workers=arguments.num_workers,
        )  # fmt: skip
    for sentence in sentences:
        print(sentence, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
