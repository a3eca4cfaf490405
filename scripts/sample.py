"""Sample pictures of scene graphs: of those in a file, or of a data set's split.

    python scripts/sample.py --sg graph.json --n-per-graph 4
    torchrun --nproc-per-node 8 -- scripts/sample.py --run logs/<run> --split test --n 1000 --outdir outputs/test

(Without the --, torchrun would take --run and --n for its own.)
Started again with the same --outdir, it makes what is missing. A picture depends on the model, the settings, the seed
and its graph's place among the graphs, and on nothing else: not on --batch-size, --n or the number of processes.
With --layout search, its line in index.jsonl has the boxes that it was made with, and what these could not be made to show.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from ldm.util.cli import finite, positive
from ldm.util.errors import UserError
from ldm.util.files import writable_folder


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--sg", metavar="JSON", help="a scene graph, or a list of them")
    what.add_argument("--split", choices=["train", "validation", "test"], help="graphs of this set in the run's config")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--run", metavar="DIR", help="log folder of a training run, for its last checkpoint and its config "
        "(with none of --run, --ckpt and --config: the weights that ship)")  # fmt: skip
    weights.add_argument("--ckpt", metavar="FILE", help="a checkpoint of trainer.py, adapters exported from one, or, with "
        "--config, a published one")  # fmt: skip
    add("--config", metavar="YAML", help="a config, instead of the one in the checkpoint")
    add("--n", type=positive, help="take the first N graphs (default: all)")
    add("--n-per-graph", type=positive, default=1, metavar="N", help="pictures of each (default: %(default)s)")
    add("--style", metavar="IMAGE", help="the image to take the look from (default: none, as learned)")
    add("--layout", choices=["search", "none"], help="boxes for objects that have none, so that what the graph says holds: "
        "searched before sampling, for each picture its own, or left to the model (default: search for a model whose "
        "attention leans towards boxes, else none)")  # fmt: skip
    add("--sampler", choices=["ddim", "dpm++"], default="ddim", help="dpm++ is of second order, and needs fewer steps "
        "(default: %(default)s)")  # fmt: skip
    add("--steps", type=positive, default=50, help="of the sampler, a call of the U-Net each (default: %(default)s)")
    add("--eta", type=finite, default=0.0, help="of ddim; 0 is deterministic, 1 is DDPM's noise (default: %(default)s)")
    add("--graph-scale", type=finite, default=1.0, help="guidance towards the graph; 1 is none (default: %(default)s)")
    add("--style-scale", type=finite, default=1.0, help="guidance towards the style; 1 is none (default: %(default)s)")
    add("--seed", type=int, default=0, help="of all the pictures' own seeds (default: %(default)s)")
    add("--batch-size", type=positive, default=16, help="pictures between two writes to disk (default: %(default)s)")
    add("--outdir", metavar="DIR", help="where the pictures go (default: outputs/<date and time>)")
    add("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one, each process its own)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    import torch  # only now, as --help need not wait for it

    try:
        return run(arguments)
    except UserError as error:
        print(f"sample.py: {error}", file=sys.stderr)
    except torch.OutOfMemoryError:
        print("sample.py: out of GPU memory: free some of it, or choose another --device", file=sys.stderr)
    except KeyboardInterrupt:
        print("sample.py: stopped; the same command with this --outdir goes on", file=sys.stderr)
        return 130
    return 2


def run(arguments: argparse.Namespace) -> int:
    from ldm.models.loading import choose_device, find_checkpoint, fingerprint, load_model
    from ldm.sampling.folder import sample_all
    from ldm.sampling.sample import SampleOptions, default_layout
    from ldm.util.images import read_image

    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    folder = choose_folder(arguments.outdir, world)
    style = arguments.style and read_image(arguments.style, upright=True)
    device = choose_device(arguments.device)
    checkpoint = find_checkpoint(arguments.run, arguments.ckpt, arguments.config)
    model = load_model(checkpoint, arguments.config, device)
    scenes = choose_scenes(arguments, model)
    layout = arguments.layout or default_layout(model)
    guidance = arguments.graph_scale, arguments.style_scale
    settings = SampleOptions(arguments.steps, arguments.eta, *guidance, arguments.sampler, layout)
    made_by = {"style": arguments.style, "device": device.partition(":")[0]}
    made_by |= {"checkpoint": checkpoint and str(checkpoint), "weights": fingerprint(model)}
    if sample_all(
        model, scenes, folder, settings, style, arguments.seed, arguments.n_per_graph, made_by, arguments.batch_size,
        rank, world,
    ):  # fmt: skip
        count = len(scenes) * arguments.n_per_graph
        print(f"{count} pictures in {folder}: images/, graphs/, index.jsonl and sheet.png")
    return 0


def choose_folder(outdir: str | None, world: int) -> Path:
    if outdir is None and world > 1:
        raise UserError("--outdir is missing: several processes must agree where the pictures go")
    return writable_folder(outdir or f"outputs/{datetime.now():%Y-%m-%dT%H-%M-%S}", "--outdir")


def choose_scenes(arguments: argparse.Namespace, model) -> Sequence:
    """Pairs of an image, None for a graph out of a file, and a graph."""
    from torch.utils.data import Subset

    from ldm.graph.scene_graph import read_graphs
    from ldm.models.loading import load_dataset

    if arguments.sg:
        scenes = [(None, graph) for graph in read_graphs(arguments.sg)]
        for index, (_, graph) in enumerate(scenes):
            graph.validate(model.vocab, f"{arguments.sg}: graph {index}", model.cond_stage_model.max_objects)
    else:
        scenes = load_dataset(model, arguments.split)
    count = arguments.n or len(scenes)
    if count > len(scenes):
        raise UserError(f"--n {count}: there are {len(scenes)} graphs in {arguments.sg or arguments.split}; take fewer")
    return Subset(scenes, range(count))


if __name__ == "__main__":
    sys.exit(main())
