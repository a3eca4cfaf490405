"""Edit a photograph: say by two scene graphs what is to change, and it changes there; or take on another look by a style.

    python scripts/ddim_invert_edit.py --ref photo.jpg --source-sg photo.json --sg edited.json
    torchrun --nproc-per-node 4 -- scripts/ddim_invert_edit.py --batch edits.jsonl --outdir outputs/edits

(Without the --, torchrun would take --run for its own.)
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from ldm.util.cli import finite, positive
from ldm.util.errors import UserError
from ldm.util.files import writable_folder

PRECISIONS = ("fp32", "fp16", "bf16")
METHODS = ("ddim", "fixed-point", "bdia", "direct", "null", "ddpm", "noise")
SWEEPS = {name: finite for name in ("graph-scale", "style-scale", "strength", "margin", "feather", "rescale")} | {"steps": int}
OPTIONS = (
    "method", "sampler", "steps", "graph_scale", "style_scale", "region", "strength", "interval", "rescale", "keep", "margin", "feather",
    "passes", "seed",
)  # fmt: skip
OF_NOISE = ("sampler", "steps", "graph_scale", "style_scale", "seed")  # those of a picture that is sampled from noise too
OF_ONE = ("source_sg", "mask", "n", "sweep", "previews", "attention")  # what is neither of noise nor of many


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--sg", metavar="JSON", help="scene graph of what the edited picture should show")
    what.add_argument("--batch", metavar="JSONL", help='many edits, a line each: {"ref": ..., "source_sg": ..., "sg": ..., '
        '"style": ..., "mask": ..., "out": ...}, with names of files from the folder of this one, and options such as '
        '"graph_scale": 3; goes on with the same --outdir')  # fmt: skip
    add = parser.add_argument
    add("--ref", metavar="IMAGE", help="the photograph to edit (default: the `image` that the graph names; with neither "
        "a picture is sampled from noise)")  # fmt: skip
    add("--source-sg", metavar="JSON", help="scene graph of the photograph as it is (default: inversion under the null "
        "graph)")  # fmt: skip
    add("--style", metavar="IMAGE", help="another image to take the look from, everywhere (default: the photograph itself)")
    add("--mask", metavar="IMAGE", help="white where the picture may change (default: where the operations say)")
    add("--region", choices=["auto", "none"], help="none lets the whole picture change (default: auto)")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--run", metavar="DIR", help="log folder of a training run, for its last checkpoint and its config "
        "(with none of --run, --ckpt and --config: the weights that ship)")  # fmt: skip
    weights.add_argument("--ckpt", metavar="FILE", help="a checkpoint of trainer.py, or adapters exported from one")
    add("--config", metavar="YAML", help="a config, instead of the one in the checkpoint")
    add("--method", choices=METHODS, help="how the photograph is inverted (default: noise, which inverts nothing, within a "
        "region; direct without one)")  # fmt: skip
    add("--sampler", choices=["ddim", "dpm++"], help="dpm++ is of second order, and needs fewer steps; with the methods "
        "ddim, direct and noise (default: dpm++ of noise and direct, and without a photograph; else ddim)")  # fmt: skip
    add("--steps", type=int, help="of the sampler, down and up (default: 50 of ddim, 10 of dpm++)")
    add("--strength", type=finite, help="share of the noise levels that the edit goes through; less stays nearer to the "
        "photograph (default: 1)")  # fmt: skip
    add("--graph-scale", type=finite, help="guidance towards the graph; 1 is none (default: 2 where the model was trained "
        "for it)")  # fmt: skip
    add("--style-scale", type=finite, help="guidance towards the style (default: 2 likewise)")
    add("--interval", type=finite, nargs=2, metavar=("LOW", "HIGH"), help="shares of the noise levels at which to guide "
        "(default: 0 1)")  # fmt: skip
    add("--rescale", type=finite, help="share of the contrast that guidance adds to take back (default: 0)")
    add("--margin", type=finite, help="how far around boxes the region is whole, in latent cells (default: 1)")
    add("--feather", type=finite, help="how far beyond that it fades (default: 1)")
    add("--keep", action="store_true", default=None, help="what moves keeps its look by attention to the photograph; takes "
        "twice as long")  # fmt: skip
    add("--passes", type=positive, help="how often a --style is taken over, each time of what the last pass made (default: 2 "
        "by the method direct, else 1)")  # fmt: skip
    add("--seed", type=int, help="of what is drawn (default: 0)")
    add("--n", type=positive, help="edits that differ by their seeds (default: 1)")
    add("--sweep", type=sweep, metavar="OPTION=VALUES", help=f"an edit for each value, as in graph-scale=1,3,5; of "
        f"{', '.join(SWEEPS)}")  # fmt: skip
    add("--previews", type=positive, nargs="?", const=8, metavar="N", help="also show what the edit was heading "
        "for at some steps (8)")  # fmt: skip
    add("--attention", action="store_true", default=None, help="also show where the model sees each object")
    add("--outdir", metavar="DIR", help="where the pictures and the record go (default: outputs/<date and time>)")
    add("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    add("--precision", choices=PRECISIONS, default="fp32", help="what the U-Net computes in; the halves are for GPUs, which "
        "are much faster by them and hold its weights in half the memory (default: %(default)s)")  # fmt: skip
    add("--low-memory", action="store_true", help="slower, for GPUs of 8 GB: keep the autoencoder and CLIP on the CPU but "
        "for their own passes; where all is on a CPU, hold no second form of the U-Net's convolutions")  # fmt: skip
    arguments = parser.parse_args(argv)
    if arguments.batch and (alone := given(arguments, ("ref", "style", *OF_ONE))):
        parser.error(f"{alone}: of one edit, and --batch names many; its lines may say more")
    return arguments


def given(arguments: argparse.Namespace, names: Iterable[str]) -> str:
    """Those of the options that were given, as they are written."""
    return ", ".join(f"--{name.replace('_', '-')}" for name in names if getattr(arguments, name) is not None)


def sweep(word: str) -> tuple[str, list]:
    name, _, values = word.partition("=")
    try:
        return name, [SWEEPS[name](value) for value in values.split(",")]
    except (KeyError, ValueError):
        raise argparse.ArgumentTypeError(f"{word!r} is not as graph-scale=1,3,5, of {', '.join(SWEEPS)}") from None


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    import torch  # only now, as --help need not wait for it

    try:
        return run_batch(arguments) if arguments.batch else run(arguments)
    except UserError as error:
        print(f"ddim_invert_edit.py: {error}", file=sys.stderr)
    except torch.OutOfMemoryError:
        print("ddim_invert_edit.py: out of GPU memory: free some of it, or choose another --device", file=sys.stderr)
    except KeyboardInterrupt:
        goes_on = f"; the same command with --outdir {arguments.outdir} goes on" * bool(arguments.batch and arguments.outdir)
        print(f"ddim_invert_edit.py: stopped{goes_on}", file=sys.stderr)
        return 130
    return 2


def options_of(arguments: argparse.Namespace) -> dict:
    """Of `edit`, those that were given: the others are its own to choose."""
    return {name: getattr(arguments, name) for name in OPTIONS if getattr(arguments, name) is not None}


def run_batch(arguments: argparse.Namespace) -> int:
    from ldm.editing.batch import edit_all, numbered_lines
    from ldm.models.loading import choose_device, find_checkpoint, fingerprint, load_model

    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if arguments.outdir is None and world > 1:
        raise UserError("--outdir is missing: several processes must agree where the pictures go")
    path = Path(arguments.batch)
    texts = numbered_lines(path)
    folder = output_folder(arguments)
    arguments.outdir = str(folder)
    device = choose_device(arguments.device)
    checkpoint = find_checkpoint(arguments.run, arguments.ckpt, arguments.config)
    model = load_model(checkpoint, arguments.config)
    made_by = {"checkpoint": checkpoint and str(checkpoint), "weights": fingerprint(model), "device": device.partition(":")[0]}
    made_by["precision"] = arguments.precision
    settle_on(device, model, arguments)
    failures = edit_all(model, path, texts, folder, options_of(arguments), made_by, rank, world)
    if rank > 0:
        return 2 if failures else 0
    if failures:
        raise UserError(f"{failures} of the lines could not be edited; the same command goes on with them when they are right")
    print(f"edited pictures in {folder}, with index.jsonl and sheet.png")
    return 0


def run(arguments: argparse.Namespace) -> int:
    from ldm.editing.edit import variants
    from ldm.editing.outputs import figures, pictures, sentences, write
    from ldm.models.loading import choose_device, find_checkpoint, load_model
    from ldm.util.images import read_image

    graph, source = one_graph(arguments.sg), arguments.source_sg and one_graph(arguments.source_sg)
    reference = arguments.ref or (graph.image and Path(arguments.sg).parent / graph.image)
    if not reference and (alone := given(arguments, (*OF_ONE, *(name for name in OPTIONS if name not in OF_NOISE)))):
        raise UserError(f"{alone}: of the edit of a photograph, and there is none; name one by --ref, or leave that out")
    photograph, style = (name and read_image(name, upright=True) for name in (reference, arguments.style))
    mask = arguments.mask and read_image(arguments.mask, upright=True, ground="black")
    device = choose_device(arguments.device)
    folder = output_folder(arguments)
    arguments.outdir = str(folder)
    checkpoint = find_checkpoint(arguments.run, arguments.ckpt, arguments.config)
    model = load_model(checkpoint, arguments.config)
    settle_on(device, model, arguments)
    room = model.cond_stage_model.max_objects
    graph.validate(model.vocab, arguments.sg, room)
    if source:
        source.validate(model.vocab, arguments.source_sg, room)
    record = {"arguments": vars(arguments), "checkpoint": checkpoint and str(checkpoint)}
    if photograph is None:
        made, facts = sampled(arguments, model, graph, style)
        write(folder, made, {**record, **facts})
        print(f"wrote {folder}/edited.png, panel.png and record.json")
        return 0

    if source is None:
        whole = "" if mask else ", so the whole of it may change"
        print(f"no --source-sg: the photograph is inverted under the null graph{whole}")
    runs, count, options = [], arguments.n or 1, options_of(arguments)
    what, values = arguments.sweep or ("", [None])
    for value in values:
        chosen = {what.replace("-", "_"): value} if what else {}
        made = variants(
            count, model, photograph, graph, source, style, mask=mask, previews=0 if runs else arguments.previews or 0,
            attention=bool(arguments.attention) and not runs, reconstruct=not runs, progress=bar, **{**options, **chosen},
        )  # fmt: skip
        title, several = [f"{what} {value}"] if what else [], count > 1
        runs += [(" ".join([*title, *[f"seed {it.settings.seed}"] * several]), it) for it in made]
    first = runs[0][1]
    if source:
        print("\n".join(f"  {sentence}" for sentence in sentences(first, source)))
    if arguments.keep and not first.settings.keep:
        nothing = "nothing moves" + " and no style is asked for" * (style is None) if source else "no --source-sg says what moves"
        print(f"--keep: {nothing}, so it changes nothing")
    if (arguments.passes or 1) > first.settings.passes:
        print("--passes: no --style is to be taken over, so it changes nothing")
    if first.round_trip_error is not None:
        print(f"round trip: {first.round_trip_error:.1e} of the latent, {first.psnr:.2f} dB "
              f"(the autoencoder alone {first.psnr_autoencoder:.2f} dB)")  # fmt: skip
    found = pictures(runs, count if count > 1 else len(runs), photograph, source, style)
    write(folder, found, {**record, "reference": str(reference), **figures(first)})
    print(f"wrote {folder}/{', '.join(f'{name}.png' for name in found)} and record.json")
    return 0


def sampled(arguments: argparse.Namespace, model, graph, style) -> tuple[dict, dict]:
    """The picture of a graph, and its panel, where there is no photograph; and what the record says of them."""
    from ldm import plots
    from ldm.editing.options import STEPS, WITHIN, default_guidance_scale, default_sampler
    from ldm.sampling.sample import SampleOptions, apply_layout, default_layout, sample_images

    print("no photograph to edit: sampling a picture of the graph from noise")
    sampler = arguments.sampler or default_sampler(WITHIN)  # as the edit that goes on from noise
    usual = {"sampler": sampler, "steps": STEPS[sampler], "layout": default_layout(model)}
    usual |= dict.fromkeys(("graph_scale", "style_scale"), default_guidance_scale(model))
    asked = usual | {"seed": 0} | {key: value for key, value in options_of(arguments).items() if key in OF_NOISE}
    seed = asked.pop("seed")
    settings = SampleOptions(**asked)
    graph, complaint = apply_layout(graph, seed, settings)
    if complaint:
        print(complaint)
    picture = sample_images(model, [graph], [seed], settings, style)[0]
    panel = plots.panel([("sampled", picture), ("graph", plots.draw_graph(graph))], [complaint] if complaint else [])
    facts = {"settings": {**vars(settings), "seed": seed}, "graph": graph.to_json(), "complaint": complaint}
    return {"edited": picture, "panel": panel}, facts


def settle_on(device: str, model, arguments: argparse.Namespace) -> None:
    from ldm.models.runtime import prepare_for_inference

    prepare_for_inference(model, device, arguments.precision, arguments.low_memory)


def output_folder(arguments: argparse.Namespace) -> Path:
    return writable_folder(arguments.outdir or f"outputs/{datetime.now():%Y-%m-%dT%H-%M-%S}", "--outdir")


def one_graph(path: str):
    from ldm.graph.scene_graph import read_graphs
    from ldm.graph.validation import GraphError

    graphs = read_graphs(path)
    if len(graphs) != 1:
        raise GraphError(f"{path}: holds {len(graphs)} graphs; an edit takes one, so put it in a file of its own")
    return graphs[0]


def bar(steps: range, what: str):
    from tqdm import tqdm

    return tqdm(steps, what, unit="step", leave=False)


if __name__ == "__main__":
    sys.exit(main())
