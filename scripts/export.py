"""Export trained weights as safetensors in half precision, and list files that ship with the project in a manifest.

    python scripts/export.py adapters --run logs/<run> --out adapters.safetensors --peft peft
    python scripts/export.py first_stage --run logs/<run> --out data/flat/vq.safetensors
    python scripts/export.py manifest data/flat/vq.safetensors --command "python trainer.py ..." --seed 23 \\
        --minutes 30 --cores 2 --measured psnr=31.2

EMA weights are exported where the run kept them.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the process silently until run_program handles it

import argparse
import json
import sys
from pathlib import Path

from ldm.util.cli import Parser, add_verbose_argument, finite, positive, run_program
from ldm.util.errors import UserError
from ldm.util.files import atomic_write, writable_folder

PARTS = {
    "adapters": "all trained parameters of a LatentDiffusion, its config and its vocabulary (--ckpt of the other scripts)",
    "first_stage": "a whole autoencoder (first_stage_config.params.ckpt_path)",
    "image_tower": "the image tower of a pre-training run with train_image (global_stage_config.params.pretrained)",
    "unet": "a whole U-Net without adapters, with the text encoder if the run trained one (model.params.ckpt_path)",
}
WORD_FORMS = ("diffusers", "ldm", "a1111", "sdxl")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser("export.py", __doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, description in PARTS.items():
        command = commands.add_parser(name, help=description, description=description)
        command.set_defaults(run_command=export, part=name)
        source = command.add_mutually_exclusive_group(required=True)
        source.add_argument("--run", metavar="DIR", help="log folder of a training run: its last checkpoint")
        source.add_argument("--ckpt", metavar="FILE", help="checkpoint of trainer.py")
        command.add_argument("--out", required=True, metavar="FILE", help="the file to write, such as NAME.safetensors")
        if name == "adapters":
            command.add_argument(
                "--peft",
                metavar="DIR",
                help="also write the LoRA layers as adapter_model.safetensors of Hugging Face peft, for this project's U-Net, "
                "and as pytorch_lora_weights.safetensors of diffusers, for its U-Net",
            )
            command.add_argument(
                "--kohya", metavar="FILE", help="also write the LoRA layers in the layout of kohya's scripts"
            )
        add_verbose_argument(command)
    description = (
        "the words and the LoRA that a run learned from a few pictures, for other programs (docs/learned_words.md)"
    )
    command = commands.add_parser("learned", help=description, description=description)
    command.set_defaults(run_command=export_learned)
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", metavar="DIR", help="log folder of a training run: its last checkpoint")
    source.add_argument("--ckpt", metavar="FILE", help="checkpoint of trainer.py, or exported adapters")
    command.add_argument("--words", metavar="FILE", help="file of the words to write, .safetensors, .bin or .pt")
    command.add_argument("--form", choices=WORD_FORMS, default="diffusers", help="its form (default: %(default)s)")
    command.add_argument("--lora", metavar="FILE", help="LoRA to write, as diffusers' pytorch_lora_weights.safetensors")
    command.add_argument("--kohya", metavar="FILE", help="LoRA to write in the layout of kohya's scripts")
    command.add_argument("--peft", metavar="DIR", help="LoRA of the text encoders to write, in folders of peft")
    add_verbose_argument(command)
    description = "add a file, and how it was made, to the MANIFEST.json beside it"
    command = commands.add_parser("manifest", help=description, description=description)
    command.set_defaults(run_command=add_to_manifest, verbose=False)
    add = command.add_argument
    add("file", help="file of weights that ships with the project")
    add("--command", required=True, help="the command that trained it")
    add("--seed", type=int, required=True, help="seed of the training")
    add("--minutes", type=finite, required=True, help="duration of the training")
    add("--cores", type=positive, required=True, help="CPU cores that the training used")
    add("--device", default="cpu", help="device that the training used (default: %(default)s)")
    add("--measured", nargs="*", default=[], metavar="NAME=VALUE", help="results measured with these weights")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    return run_program(lambda: arguments.run_command(arguments), "export.py", verbose=arguments.verbose)


def export(arguments: argparse.Namespace) -> None:
    from ldm.models.export import export_adapters, export_part
    from ldm.models.loading import last_checkpoint

    path = Path(arguments.out)
    writable_folder(path.parent, "--out")
    if arguments.part == "adapters":
        for option, folder in (
            ("--peft", arguments.peft),
            ("--kohya", arguments.kohya and Path(arguments.kohya).parent),
        ):
            if folder:
                writable_folder(folder, option)
    checkpoint = arguments.ckpt or last_checkpoint(arguments.run)
    if arguments.part == "adapters":
        tensors = export_adapters(checkpoint, path)
    else:
        tensors = export_part(arguments.part, checkpoint, path)
    print(f"wrote {path}: {len(tensors)} tensors, {path.stat().st_size:,} bytes")
    if arguments.part == "adapters" and (arguments.peft or arguments.kohya):
        for written in export_lora(path, arguments.peft, arguments.kohya):
            print(f"wrote {written}")


def export_lora(adapters: Path, peft: str | None, kohya: str | None) -> list[Path]:
    """Writes the LoRA layers of exported adapters for other programs.

    Args:
        adapters: the exported adapters.
        peft: folder for adapter_model.safetensors and adapter_config.json, and for diffusers' pytorch_lora_weights.safetensors.
        kohya: file in kohya's layout.
    """
    from ldm.checkpoints.saving import save_safetensors
    from ldm.models.loading import load_model
    from ldm.modules.lora import lora_layers, peft_config, peft_state_dict
    from ldm.modules.lora_files import diffusers_lora, kohya_lora

    unet = load_model(adapters).unet
    if not lora_layers(unet):
        raise UserError("--peft, --kohya: this run has no LoRA layers (unet_config.params.lora_rank); leave them out")
    files = {}
    if peft:
        folder = Path(peft)
        config = folder / "adapter_config.json"
        with atomic_write(config) as temporary:
            temporary.write_text(json.dumps(peft_config(unet), indent=2) + "\n")
        files[folder / "adapter_model.safetensors"] = peft_state_dict(unet)
        files[folder / "pytorch_lora_weights.safetensors"] = diffusers_lora(unet)
    if kohya:
        files[Path(kohya)] = kohya_lora(unet)
    for path, tensors in files.items():
        save_safetensors(path, tensors, {"format": "pt"})
    return [*files, *([config] if peft else [])]


def export_learned(arguments: argparse.Namespace) -> None:
    """Writes words and LoRA."""
    wanted = {"words": arguments.words, "diffusers": arguments.lora, "kohya": arguments.kohya, "peft": arguments.peft}
    wanted = {form: Path(path) for form, path in wanted.items() if path}
    if not wanted:
        raise UserError("nothing to write: name --words, --lora, --kohya or --peft")
    from ldm.models.loading import last_checkpoint, load_model
    from ldm.models.personal_files import write_lora_file, write_word_file

    for form, path in wanted.items():
        writable_folder(path if form == "peft" else path.parent, "--peft" if form == "peft" else f"{path}")
    model = load_model(arguments.ckpt or last_checkpoint(arguments.run))
    for form, path in wanted.items():
        is_words = form == "words"
        for written in write_word_file(model, path, arguments.form) if is_words else write_lora_file(model, path, form):
            print(f"wrote {written}")


def add_to_manifest(arguments: argparse.Namespace) -> None:
    from ldm.checkpoints.shipped import record_in_manifest

    entry = record_in_manifest(
        arguments.file,
        command=arguments.command,
        seed=arguments.seed,
        minutes=arguments.minutes,
        cores=arguments.cores,
        device=arguments.device,
        measured=dict(parse_result(text) for text in arguments.measured),
    )
    print(f"{arguments.file}: {entry.bytes:,} bytes, sha256 {entry.sha256}")


def parse_result(text: str) -> tuple[str, float | str]:
    """'psnr=31.2' -> ("psnr", 31.2)."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise UserError(f"--measured {text}: write NAME=VALUE, such as psnr=31.2")
    try:
        return name, json.loads(value)  # a number
    except ValueError:
        return name, value


if __name__ == "__main__":
    sys.exit(main())
