"""Edit a photograph: invert it with DDIM, then sample it back under an edited scene graph and a style."""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
from datetime import datetime
from pathlib import Path

from ldm.util import UserError, finite, writable_folder


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--sg", required=True, metavar="JSON", help="scene graph of what the edited picture should show")
    add("--ref", metavar="IMAGE", help="the photograph to edit (default: the `image` that the graph names; with neither "
        "a picture is sampled from noise)")  # fmt: skip
    add("--source-sg", metavar="JSON", help="scene graph of the photograph as it is (default: inversion under the null "
        "graph)")  # fmt: skip
    add("--style", metavar="IMAGE", help="another image to take the look from (default: the photograph itself)")
    add("--run", metavar="DIR", help="log folder of a training run, for its last checkpoint and its config (with none "
        "of --run, --ckpt and --config: the weights that ship)")  # fmt: skip
    add("--ckpt", metavar="FILE", help="a checkpoint of trainer.py, or adapters exported from one, instead of a run")
    add("--config", metavar="YAML", help="a config, instead of the one in the checkpoint")
    add("--method", choices=["ddim", "fixed-point"], default="ddim", help="how to invert: fixed-point calls the U-Net "
        "more often and comes back more exactly (default: %(default)s)")  # fmt: skip
    add("--steps", type=int, default=50, help="DDIM steps, down and up (default: %(default)s)")
    add("--graph-scale", type=finite, default=1.0, help="guidance towards the graph; 1 is none (default: %(default)s)")
    add("--style-scale", type=finite, default=1.0, help="guidance towards the style; 1 is none (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the noise, where no photograph is inverted (default: %(default)s)")
    add("--outdir", metavar="DIR", help="where the pictures and the record go (default: outputs/<date and time>)")
    add("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    try:
        folder = run(arguments)
    except UserError as error:
        print(f"ddim_invert_edit.py: {error}", file=sys.stderr)
        return 2
    print(f"wrote {folder}/edited.png, panel.png and record.json")
    return 0


def run(arguments: argparse.Namespace) -> Path:
    # torch comes with these, and --help need not wait for it
    from ldm.data.images import read_image
    from ldm.editing import edit
    from ldm.run import choose_device, find_checkpoint, load_model
    from ldm.sampling import Settings, sample_images

    graph, source = one_graph(arguments.sg), arguments.source_sg and one_graph(arguments.source_sg)
    reference = arguments.ref or (graph.image and Path(arguments.sg).parent / graph.image)
    photograph = reference and read_image(reference, upright=True)
    style = arguments.style and read_image(arguments.style, upright=True)

    device = choose_device(arguments.device)
    arguments.outdir = str(writable_folder(arguments.outdir or f"outputs/{datetime.now():%Y-%m-%dT%H-%M-%S}", "--outdir"))
    checkpoint = find_checkpoint(arguments.run, arguments.ckpt, arguments.config)
    model = load_model(checkpoint, arguments.config, device)
    room = model.cond_stage_model.max_objects
    graph.validate(model.vocab, arguments.sg, room)
    if source:
        source.validate(model.vocab, arguments.source_sg, room)

    guidance = {"graph_scale": arguments.graph_scale, "style_scale": arguments.style_scale}
    if photograph is None:
        print("no photograph to edit: sampling a picture of the graph from noise")
        settings = Settings(arguments.steps, **guidance)
        picture = sample_images(model, [graph], [arguments.seed], settings, style)[0]
        record = {"checkpoint": checkpoint and str(checkpoint)}
        return write(arguments, {"edited": picture}, panel([("sampled", picture)], [("graph", graph)]), record)
    if source is None:
        print("no --source-sg: the photograph is inverted under the null graph, so the whole of it may change")

    result = edit(
        model, photograph, graph, source, style, arguments.method, arguments.steps, progress=bar, **guidance
    )
    for operation in result.operations:
        print(f"  {operation}")
    if source and not result.operations:
        print("  the two graphs say the same: nothing to change")
    if result.round_trip_error is not None:
        print(f"round trip: {result.round_trip_error:.1e} of the latent, {result.psnr:.2f} dB "
              f"(the autoencoder alone {result.psnr_autoencoder:.2f} dB)")  # fmt: skip
    pictures = [("reference", photograph), ("reconstruction", result.reconstruction), ("edit", result.image)]
    if style:
        pictures.insert(1, ("style", style))
    graphs = ([("source graph", source)] if source else []) + [("edited graph", graph)]
    record = {
        "reference": str(reference),
        "checkpoint": checkpoint and str(checkpoint),
        "operations": [str(operation) for operation in result.operations],
        "round_trip_error": result.round_trip_error,
        "psnr": result.psnr,
        "psnr_autoencoder": result.psnr_autoencoder,
    }
    sheet = panel(pictures, graphs, record["operations"])
    return write(arguments, {"edited": result.image, "reconstruction": result.reconstruction}, sheet, record)


def one_graph(path: str):
    from ldm.graph import GraphError, read_graphs

    graphs = read_graphs(path)
    if len(graphs) != 1:
        raise GraphError(f"{path}: holds {len(graphs)} graphs; an edit takes one, so put it in a file of its own")
    return graphs[0]


def bar(steps: range, what: str):
    from tqdm import tqdm

    return tqdm(steps, what, unit="step", leave=False)


def panel(pictures: list, graphs: list, caption: list[str] = ()):
    from ldm import plots

    return plots.panel([*pictures, *((title, plots.draw_graph(graph)) for title, graph in graphs)], caption)


def write(arguments: argparse.Namespace, pictures: dict, sheet, record: dict) -> Path:
    """Every file beside its place first, then renamed, so that none is ever half written."""
    import PIL
    import pytorch_lightning
    import torch

    record = {
        "arguments": vars(arguments),
        **record,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "pytorch_lightning": pytorch_lightning.__version__,
            "pillow": PIL.__version__,
        },
    }
    folder = Path(arguments.outdir)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "record.json").exists() and "reconstruction" not in pictures:
        (folder / "reconstruction.png").unlink(missing_ok=True)  # an earlier edit's, whose place this one takes
    for name, picture in {**pictures, "panel": sheet}.items():
        picture.save(folder / f".{name}.png")
        (folder / f".{name}.png").replace(folder / f"{name}.png")
    record = {key: None if value == math.inf else value for key, value in record.items()}  # of equal pictures' PSNR
    (folder / ".record.json").write_text(json.dumps(record, indent=2, allow_nan=False) + "\n")
    (folder / ".record.json").replace(folder / "record.json")
    return folder


if __name__ == "__main__":
    sys.exit(main())
