"""Encode a data set once: latents, image embeddings and encoded captions of each image and of its mirror image.

    python scripts/cache_latents.py --config configs/vg.yaml --out datasets/vg/cache --estimate
    python scripts/cache_latents.py --config configs/vg.yaml --out datasets/vg/cache
    torchrun --nproc-per-node 4 -- scripts/cache_latents.py --config configs/vg.yaml --out datasets/vg/cache
    python trainer.py --base configs/vg.yaml -t --gpus 0, data.params.cache=datasets/vg/cache

With data.params.cache, training reads no images and runs no encoder; data.params.flip=0.5 flips half of the images, with
their graphs. The same command, with any number of processes, resumes an interrupted one. A cache belongs to the weights and
settings of the encoders that wrote it; training with other encoders is an error.

For a model with a text encoder, the captions are those of the graphs as they are in the first epoch; data sets that draw
objects or relations anew in each epoch keep that caption beside the new graph. Encoded captions take most of the room: 118 kB
of 77 x 768 numbers beside 8 kB of latents for Stable Diffusion 1 at 256 pixels. With --no-text, the text encoder runs in training.

Visual Genome's training and validation splits (67,627 images at 256 pixels) need 1.25 GB, or half of that with --no-mirror.
On 4 CPU cores, both encoders take 0.97 s per image, so that images and mirror images take 36 hours: use a GPU.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the process silently until run_program handles it

import argparse
import os
import sys

from ldm.util.cli import Parser, at_least, positive, run_program, split_overrides
from ldm.util.files import writable_folder


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser("cache_latents.py", __doc__)
    add = parser.add_argument
    add(
        "--config",
        nargs="+",
        action="extend",
        metavar="YAML",
        required=True,
        help="config that training will use, or several of which later ones override earlier ones",
    )
    add("--out", metavar="DIR", required=True, help="cache folder, with a subfolder for each split")
    add(
        "--split",
        choices=["train", "validation", "test", "all"],
        default="all",
        help="splits of data.params to encode (default: %(default)s)",
    )
    add(
        "--no-mirror",
        action="store_true",
        help="do not encode mirror images: takes half the time, but data.params.flip cannot be used",
    )
    add(
        "--no-text",
        action="store_true",
        help="do not encode captions: takes less room, but a model with a text encoder then runs it in training",
    )
    add("--batch-size", type=positive, default=16, help="images to encode at once (default: %(default)s)")
    add(
        "--shard-size",
        type=positive,
        default=512,
        metavar="N",
        help="images per file; an interruption loses at most this many (default: %(default)s)",
    )
    add(
        "--num-workers",
        type=at_least(0),
        default=4,
        metavar="N",
        help="processes that read images (default: %(default)s)",
    )
    add("--estimate", action="store_true", help="encode two batches, print the expected size and duration, and exit")
    add("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one, a different one for each process)")
    add("overrides", nargs="*", metavar="section.key=value", help="changes to the config, as for trainer.py")
    words, overrides = split_overrides(sys.argv[1:] if argv is None else argv)  # or --config would take them as files
    arguments = parser.parse_args(words)
    arguments.overrides += overrides
    return arguments


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    return run_program(
        lambda: run(arguments),
        "cache_latents.py",
        if_stopped="the same command resumes",
        if_out_of_memory="lower --batch-size, or choose another --device",
    )


def run(arguments: argparse.Namespace) -> None:
    from ldm.models.encoders import Encoders
    from ldm.models.loading import choose_device, load_encoders
    from ldm.training import precompute

    config = precompute.read_training_config(arguments.config, arguments.overrides)
    # before the encoders, since their weights take long to load
    datasets = precompute.build_split_datasets(config, arguments.split, " ".join(arguments.config))
    folder = writable_folder(arguments.out, "--out")
    device = choose_device(arguments.device)
    encoders = load_encoders(config, with_text=not arguments.no_text)
    encoders = Encoders(*(None if encoder is None else encoder.to(device) for encoder in encoders))
    mirrored = not arguments.no_mirror
    if arguments.estimate:
        sentences = precompute.estimate_caches(datasets, encoders, mirrored, arguments.batch_size)
    else:
        sentences = precompute.write_caches(
            datasets,
            folder,
            encoders,
            mirrored,
            shard_size=arguments.shard_size,
            batch_size=arguments.batch_size,
            num_workers=arguments.num_workers,
            rank=int(os.environ.get("RANK", "0")),
            world=int(os.environ.get("WORLD_SIZE", "1")),
        )
    for sentence in sentences:
        print(sentence, flush=True)


if __name__ == "__main__":
    sys.exit(main())
