"""Edit a photograph by its scene graph: two graphs say what changes, a reference image says how everything looks.

    python scripts/ddim_invert_edit.py --ref photo.jpg --source-sg photo.json --sg edited.json
    python scripts/ddim_invert_edit.py --ref clip.mp4 --source-sg a.json --sg b.json   # a clip and two storyboards
    torchrun --nproc-per-node 4 -- scripts/ddim_invert_edit.py --batch edits.jsonl --outdir outputs/edits

(Without the --, torchrun takes --run for an option of its own.)
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the process silently until run_program handles it

import argparse
import os
import sys
from collections.abc import Iterable
from dataclasses import fields
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ldm.editing.options import LOCAL_METHOD, EditOptions, default_guidance_scale, default_sampler
from ldm.models.diffusion.samplers import SAMPLERS
from ldm.util.cli import Parser, add_model_arguments, add_verbose_argument, at_least, positive, run_program
from ldm.util.errors import UserError, did_you_mean
from ldm.util.files import writable_folder
from ldm.util.lora_option import add_lora_argument
from ldm.util.options import add_arguments, from_mapping, given_values, option_types
from ldm.util.score_option import add_min_score_argument
from ldm.util.words_option import add_words_arguments, check_words_arguments, given_additions, learned_files, mode_of

if TYPE_CHECKING:
    from ldm.words.naming import Naming

PRECISIONS = ("fp32", "fp16", "bf16")
PROGRAM = "ddim_invert_edit.py"
SAMPLING_OPTIONS = ("sampler", "steps", "graph_scale", "style_scale", "seed")  # of an image sampled from noise, too
SINGLE_EDIT_OPTIONS = ("source_sg", "mask", "n", "sweep", "previews", "attention")  # of the edit of one photograph only
CLIP_OPTIONS = ("out", "frame_attention", "overlap")  # of the edit of a clip only
PHOTOGRAPH_OPTIONS = (
    "mask",
    "lora",
    "prediction",
    "low_memory",
    "n",
    "sweep",
    "previews",
    "attention",
    "words",
)  # not of a clip


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(PROGRAM, __doc__)
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--sg", metavar="JSON", help="scene graph of what the edited image should show")
    target.add_argument(
        "--batch",
        metavar="JSONL",
        help='many edits, one JSON object per line: {"ref": ..., "source_sg": ..., "sg": ..., "style": ..., "mask": ..., '
        '"out": ...} and options such as "graph_scale": 3; file names are relative to this file; the same command with '
        "the same --outdir continues",
    )
    add = parser.add_argument
    add(
        "--ref",
        metavar="IMAGE",
        help="the photograph to edit (default: the `image` that the graph names; without either, an image is sampled from "
        "noise)",
    )
    add("--source-sg", metavar="JSON", help="scene graph of the photograph as it is (default: the null graph)")
    add("--style", metavar="IMAGE", help="another image to take the look from (default: the photograph itself)")
    add("--mask", metavar="IMAGE", help="white where the image may change (default: what the operations touch)")
    add_model_arguments(parser)
    add_lora_argument(parser)
    add_min_score_argument(parser)
    add_words_arguments(parser)
    add(
        "--prediction",
        choices=("eps", "v"),
        help="what the U-Net of a Stable Diffusion without --config predicts (default: as its weights state)",
    )
    add(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="precision of the U-Net; fp16 and bf16 halve its memory and are much faster on GPUs (default: %(default)s)",
    )
    add(
        "--low-memory",
        action="store_true",
        help="slower, for GPUs with 8 GB: autoencoder and image encoder stay on the CPU except while they run; on a CPU, "
        "convolutions use less memory",
    )
    add("--outdir", metavar="DIR", help="output folder (default: outputs/<date and time>)")
    add_verbose_argument(parser)
    add_arguments(parser.add_argument_group("how to edit"), EditOptions)
    add = parser.add_argument_group("edits of clips, with storyboards as --source-sg and --sg").add_argument
    add(
        "--out",
        metavar="PATH",
        help="edited clip: .mp4, .webm, .webp or .gif, or a folder of frames (default: edited.webp in --outdir)",
    )
    add(
        "--frame-attention",
        action=argparse.BooleanOptionalAction,
        help="each frame attends to the first and the previous one (default: for models without temporal layers)",
    )
    add(
        "--overlap",
        type=at_least(0),
        metavar="N",
        help="frames that windows of long clips share (default: half of a window)",
    )
    several = parser.add_argument_group("several edits, and diagnostics")
    add = several.add_argument
    add("--n", type=positive, help="number of edits, with different seeds (default: 1)")
    add("--sweep", type=sweep, metavar="OPTION=VALUES", help="one edit per value, as in graph-scale=1,3,5")
    add("--previews", type=positive, nargs="?", const=8, metavar="N", help="also show N steps of the way (8)")
    add("--attention", action="store_true", default=None, help="also show where the U-Net attends to each object")
    arguments = parser.parse_args(argv)
    check_words_arguments(parser, arguments)
    if arguments.batch and (given := _given(arguments, ("ref", "style", *SINGLE_EDIT_OPTIONS, *CLIP_OPTIONS))):
        parser.error(f"{given}: for a single edit; with --batch, write it into the lines of the file")
    return arguments


def sweep(word: str) -> tuple[str, list]:
    """'graph-scale=1,3' -> ("graph_scale", [1.0, 3.0])."""
    types = {name: kind for name, kind in option_types(EditOptions).items() if name != "seed"}
    number = {name: int if "int" in str(kind) else float for name, kind in types.items() if _is_number(kind)}
    name, _, values = word.partition("=")
    name = name.replace("-", "_")
    if name not in number:
        known = [known.replace("_", "-") for known in number]
        raise argparse.ArgumentTypeError(f"{word!r}: sweep one of {', '.join(known)}{did_you_mean(name, known)}")
    try:
        return name, [
            getattr(from_mapping(EditOptions, {name: number[name](value)}), name) for value in values.split(",")
        ]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{word!r} is not of the form graph-scale=1,3,5 ({error})") from None


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    arguments.outdir, explicit = arguments.outdir or f"outputs/{datetime.now():%Y-%m-%dT%H-%M-%S}", arguments.outdir
    return run_program(
        lambda: edit_batch(arguments, explicit) if arguments.batch else edit_clip_or_photograph(arguments),
        PROGRAM,
        if_stopped=f"the same command with --outdir {arguments.outdir} continues" if arguments.batch else "",
        if_out_of_memory="try --precision fp16, --low-memory or another --device",
        verbose=arguments.verbose,
    )


def edit_batch(arguments: argparse.Namespace, explicit_outdir: str | None) -> int:
    """Makes the edits of a JSON Lines file."""
    from ldm.editing.batch import edit_all, numbered_lines
    from ldm.models.loading import fingerprint
    from ldm.words.naming import Naming

    options = _options(arguments)
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if explicit_outdir is None and world > 1:
        raise UserError("--outdir is missing: several processes need a common output folder")
    path = Path(arguments.batch)
    texts, folder = numbered_lines(path), writable_folder(arguments.outdir, "--outdir")
    model, device, checkpoint = _load(arguments)
    provenance = {"checkpoint": checkpoint, "weights": fingerprint(model), "device": device.partition(":")[0]}
    provenance |= {"precision": arguments.precision, **given_additions(arguments)}
    provenance |= {"decided": list(model.decided)} if model.decided else {}
    _prepare(model, device, arguments)
    naming = Naming(mode_of(arguments.words), arguments.dictionary, arguments.alignment)
    failures = edit_all(model, path, texts, folder, options, provenance, rank, world, arguments.min_score, naming)
    print("".join(f"{remark}\n" for remark in naming.remarks), end="")
    if rank > 0:
        return 2 if failures else 0
    if failures:
        raise UserError(f"{failures} lines could not be edited; correct them and run the same command again")
    print(f"edited images in {folder}, with index.jsonl and sheet.png")
    return 0


def edit_clip_or_photograph(arguments: argparse.Namespace) -> int:
    """Edits the clip or the photograph that --ref names."""
    from ldm.data.clip_files import is_clip

    if arguments.ref and is_clip(arguments.ref):
        return edit_one_clip(arguments)
    if given := _given(arguments, CLIP_OPTIONS):
        raise UserError(f"{given}: only for the edit of a clip; name one with --ref, or leave these options out")
    return edit_one(arguments)


def edit_one_clip(arguments: argparse.Namespace) -> int:
    """Edits a clip by two storyboards."""
    from ldm.data.clip_files import read_clip, refuse_format
    from ldm.editing.clip_outputs import write
    from ldm.editing.clips import ClipEditRequest, edit_clip
    from ldm.graph.storyboard import read_storyboard
    from ldm.models.loading import choose_device
    from ldm.models.video_loading import find_video_checkpoint, load_video_model
    from ldm.util.images import read_image

    options = from_mapping(EditOptions, _options(arguments))
    if given := _given(arguments, PHOTOGRAPH_OPTIONS):
        raise UserError(
            f"{given}: only for the edit of a photograph, and {arguments.ref} is a clip; leave these options out"
        )
    if arguments.precision != "fp32":
        raise UserError(f"--precision {arguments.precision}: clips are edited in fp32; leave it out")
    if not arguments.source_sg:
        raise UserError(
            "--source-sg is missing: a clip is edited by two storyboards, of what it shows and of what it should show"
        )
    boards = {path: read_storyboard(path) for path in (arguments.source_sg, arguments.sg)}
    style, clip = arguments.style and read_image(arguments.style, upright=True), read_clip(arguments.ref)
    request = ClipEditRequest(clip.frames, boards[arguments.sg], boards[arguments.source_sg], style)
    folder = writable_folder(arguments.outdir, "--outdir")
    out = Path(arguments.out or folder / "edited.webp")
    refuse_format(out)
    checkpoint = find_video_checkpoint(arguments.run, arguments.ckpt, arguments.config)
    model = load_video_model(checkpoint, arguments.config, choose_device(arguments.device))
    for path, board in boards.items():
        board.validate(model.vocab, path, model.image.cond_stage_model.max_objects)
    edit = edit_clip(model, request, options, arguments.frame_attention, arguments.overlap, _progress_bar)
    print("".join(f"  {operation}\n" for operation in edit.operations), end="")
    record = {"arguments": vars(arguments), "checkpoint": checkpoint and str(checkpoint)}
    write(folder, out, edit, request, clip.fps or request.storyboard.fps, record)
    print(f"wrote {out}, and panel.png and record.json in {folder}")
    return 0


def edit_one(arguments: argparse.Namespace) -> int:
    """Edits one photograph, or samples an image of the graph where there is no photograph."""
    from ldm.graph.graph_files import read_graph
    from ldm.models.finding import find_checkpoint
    from ldm.models.vocabulary import check_names
    from ldm.util.images import read_image
    from ldm.words.naming import Naming

    options = _options(arguments)
    read = partial(read_graph, photograph=arguments.ref, min_score=arguments.min_score)
    graph, source = read(arguments.sg), arguments.source_sg and read(arguments.source_sg)
    reference = arguments.ref or (graph.image and Path(arguments.sg).parent / graph.image)
    edit_only = [
        *SINGLE_EDIT_OPTIONS,
        *(field.name for field in fields(EditOptions) if field.name not in SAMPLING_OPTIONS),
    ]
    if not reference and (given := _given(arguments, edit_only)):
        raise UserError(f"{given}: only for the edit of a photograph; name one with --ref, or leave these options out")
    photograph, style = (name and read_image(name, upright=True) for name in (reference, arguments.style))
    mask = arguments.mask and read_image(arguments.mask, upright=True, background="black")
    checkpoint = find_checkpoint(arguments.run, arguments.ckpt, arguments.config)
    naming = Naming(mode_of(arguments.words), arguments.dictionary, arguments.alignment)
    graphs = {arguments.sg: graph, **({arguments.source_sg: source} if source else {})}
    words = learned_files(arguments.words), arguments.rename
    graphs = check_names(graphs, checkpoint, arguments.config, naming, *words)
    folder = writable_folder(arguments.outdir, "--outdir")
    model, device, checkpoint = _load(arguments)
    if naming.embeds:
        model.open_vocabulary(graphs.values())
    graphs = naming.name_all(graphs, model.vocab, model.cond_stage_model.max_objects)
    graph, source = graphs[arguments.sg], graphs.get(arguments.source_sg)
    remarks = naming.remarks
    print("".join(f"{remark}\n" for remark in remarks), end="")
    _prepare(model, device, arguments)
    record = {"arguments": vars(arguments), "checkpoint": checkpoint, "decided": list(model.decided)} | naming.record()
    if photograph is None:
        _sample(model, graph, style, options, folder, record, naming)
    else:
        _edit(
            model,
            (photograph, graph, source, style, mask, naming.wordings(source, graph), remarks),
            options,
            arguments,
            folder,
            record | {"reference": str(reference)},
        )
    return 0


def _edit(
    model, images_and_graphs: tuple, options: dict, arguments: argparse.Namespace, folder: Path, record: dict
) -> None:
    from ldm.editing.options import EditRequest
    from ldm.editing.outputs import images_of, measurements, sentences, write
    from ldm.editing.pipeline import variants

    request = EditRequest(*images_and_graphs)
    if request.source_graph is None:
        whole = "" if request.mask else ", so the whole image may change"
        print(f"no --source-sg: the photograph is inverted under the null graph{whole}")
    runs, count = [], arguments.n or 1
    swept, values = arguments.sweep or ("", [None])
    for value in values:
        chosen = from_mapping(EditOptions, options | ({swept: value} if swept else {}))
        first = not runs
        edits = variants(
            count,
            model,
            request,
            chosen,
            previews=(arguments.previews or 0) if first else 0,
            attention=bool(arguments.attention) and first,
            reconstruction=first,
            progress=_progress_bar,
        )
        title = [f"{swept.replace('_', '-')} {value}"] if swept else []
        for edit in edits:
            seed = [f"seed {edit.plan.options.seed}"] if count > 1 else []
            runs.append((" ".join([*title, *seed]), edit))
    edit = runs[0][1]
    _report(edit, request, options, sentences(edit, request))
    images = images_of(runs, count if count > 1 else len(runs), request)
    write(folder, images, {**record, **measurements(edit)})
    print(f"wrote {folder}/{', '.join(f'{name}.png' for name in images)} and record.json")


def _report(edit, request, options: dict, lines: list[str]) -> None:
    """Says what was done, which options had no effect, and how good the reconstruction is."""
    if request.source_graph:
        print("\n".join(f"  {line}" for line in lines))
    if options.get("keep") and not edit.keeps_appearance:
        nothing_moves = "nothing moves" + ("" if request.style else " and no style is given")
        print(
            f"--keep has no effect: {nothing_moves if request.source_graph else 'without --source-sg nothing is known to move'}"
        )
    if options.get("passes", 1) > edit.plan.options.passes:
        print("--passes has no effect: no --style is given")
    again = edit.reconstruction
    if again and again.round_trip_error is not None:
        print(
            f"reconstruction: relative error of the latent {again.round_trip_error:.1e}, PSNR {again.psnr:.2f} dB "
            f"(autoencoder alone {again.psnr_autoencoder:.2f} dB)"
        )


def _sample(model, graph, style, options: dict, folder: Path, record: dict, naming: Naming) -> None:
    """Samples an image of the graph from noise, with the defaults of an edit."""
    from ldm import plots
    from ldm.editing.outputs import write
    from ldm.sampling.sample import SampleOptions, apply_layout, default_layout, sample_images

    print("no photograph to edit: sampling an image of the graph from noise")
    sampler, scale = options.get("sampler") or default_sampler(LOCAL_METHOD), default_guidance_scale(model)
    values = {
        "sampler": sampler,
        "steps": SAMPLERS[sampler].default_steps,
        "graph_scale": scale,
        "style_scale": scale,
        "seed": 0,
    }
    values |= {"layout": default_layout(model)} | options
    seed = values.pop("seed")
    settings = from_mapping(SampleOptions, values)
    wordings = naming.wordings(graph)
    graph, complaint = apply_layout(graph, seed, settings)
    if complaint:
        print(complaint)
    image = sample_images(model, [graph], [seed], settings, style)[0]
    written = next((each.show(graph) for each in wordings), graph)
    remarks = [*naming.remarks, *([complaint] if complaint else [])]
    panel = plots.panel([("sampled", image), ("graph", plots.draw_graph(written))], remarks)
    facts = {"settings": {**vars(settings), "seed": seed}, "graph": graph.to_json(), "complaint": complaint}
    write(folder, {"edited": image, "panel": panel}, {**record, **facts})
    print(f"wrote {folder}/edited.png, panel.png and record.json")


def _options(arguments: argparse.Namespace) -> dict:
    """The options given on the command line; checks them. Raises UserError."""
    options = given_values(arguments, EditOptions)
    from_mapping(EditOptions, options)
    return options


def _load(arguments: argparse.Namespace) -> tuple:
    """Model, device, and the checkpoint's path or None."""
    from ldm.models.loading import choose_device, find_checkpoint, load_model

    device = choose_device(arguments.device)
    checkpoint = find_checkpoint(arguments.run, arguments.ckpt, arguments.config)
    model = load_model(
        checkpoint,
        arguments.config,
        loras=arguments.lora,
        prediction=arguments.prediction,
        words=learned_files(arguments.words),
        renames=arguments.rename,
    )
    return model, device, checkpoint and str(checkpoint)


def _prepare(model, device: str, arguments: argparse.Namespace) -> None:
    from ldm.models.runtime import prepare_for_inference

    prepare_for_inference(model, device, arguments.precision, arguments.low_memory)


def _given(arguments: argparse.Namespace, names: Iterable[str]) -> str:
    """Those of the options that are on the command line, as they are written there."""
    return ", ".join(f"--{name.replace('_', '-')}" for name in names if _is_given(getattr(arguments, name)))


def _is_given(value: object) -> bool:
    return value is not None and value is not False and value != []  # 0 counts as given


def _is_number(kind: object) -> bool:
    return kind in (int, float) or str(kind) in ("int | None", "float | None")


def _progress_bar(steps, description: str):
    from tqdm import tqdm

    return tqdm(steps, description, unit="step", leave=False)


if __name__ == "__main__":
    sys.exit(main())
