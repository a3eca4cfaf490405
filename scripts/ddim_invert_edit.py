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
from dataclasses import fields
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ldm.editing.arguments import (
    CLIP_OPTIONS,
    PHOTOGRAPH_OPTIONS,
    PROGRAM,
    SAMPLING_OPTIONS,
    SINGLE_EDIT_OPTIONS,
    given,
    parse_arguments,
)
from ldm.editing.options import LOCAL_METHOD, EditOptions, default_guidance_scale, default_sampler
from ldm.models.diffusion.samplers import SAMPLERS
from ldm.util.cli import run_program
from ldm.util.errors import UserError
from ldm.util.files import writable_folder
from ldm.util.options import from_mapping, given_values
from ldm.util.words_option import given_additions, learned_files, mode_of

if TYPE_CHECKING:
    from ldm.words.naming import Naming


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    return parse_arguments(argv, __doc__ or "")


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
    if found := given(arguments, CLIP_OPTIONS):
        raise UserError(f"{found}: only for the edit of a clip; name one with --ref, or leave these options out")
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
    if found := given(arguments, PHOTOGRAPH_OPTIONS):
        raise UserError(
            f"{found}: only for the edit of a photograph, and {arguments.ref} is a clip; leave these options out"
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
    if not reference and (found := given(arguments, edit_only)):
        raise UserError(f"{found}: only for the edit of a photograph; name one with --ref, or leave these options out")
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
    from ldm.models.runtime import prepare_for_inference, warn_of_slow_half_precision

    warn_of_slow_half_precision(arguments.precision, device)
    prepare_for_inference(model, device, arguments.precision, arguments.low_memory)


def _progress_bar(steps, description: str):
    from tqdm import tqdm

    return tqdm(steps, description, unit="step", leave=False)


if __name__ == "__main__":
    sys.exit(main())
