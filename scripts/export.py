"""Take what a run trained out of it, as safetensors in half precision, and list files that are to ship.

    python scripts/export.py adapters --run logs/<run> --out adapters.safetensors --peft peft
    python scripts/export.py first_stage --run logs/<run> --out data/demo/vq.safetensors
    python scripts/export.py manifest data/demo/vq.safetensors --command "python trainer.py ..." --seed 23 \\
        --minutes 30 --cores 2 --measured psnr=31.2

Weights are the averaged ones, where the run kept averages.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

PARTS = {
    "adapters": "all that a LatentDiffusion trained, its config and its vocabulary: a --ckpt for the other scripts",
    "first_stage": "a whole autoencoder, for first_stage_config.params.ckpt_path",
    "image_tower": "the image tower of a stage 1 that trained it, for global_stage_config.params.pretrained",
    "unet": "a whole U-Net without adapters, for model.params.ckpt_path",
}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="WHAT")
    for name, explanation in PARTS.items():
        command = commands.add_parser(name, help=explanation, description=explanation)
        command.set_defaults(do=export, what=name)
        source = command.add_mutually_exclusive_group(required=True)
        source.add_argument("--run", metavar="DIR", help="log folder of a training run, for its last checkpoint")
        source.add_argument("--ckpt", metavar="FILE", help="a checkpoint of trainer.py, instead of a run's last one")
        command.add_argument("--out", required=True, metavar="FILE", help="where to write, such as NAME.safetensors")
        if name == "adapters":
            command.add_argument("--peft", metavar="DIR", help="write LoRA once more, in Hugging Face peft's layout")
    explanation = "enter a file, and how it was made, into the MANIFEST.json beside it"
    command = commands.add_parser("manifest", help=explanation, description=explanation)
    command.set_defaults(do=enter)
    add = command.add_argument
    add("file", help="a file of weights as it will ship")
    add("--command", required=True, help="the exact command that trained it")
    add("--seed", type=int, required=True)
    add("--minutes", type=float, required=True, help="that the training took")
    add("--cores", type=int, required=True, help="CPU cores that it had")
    add("--device", default="cpu", help="what it ran on (default: %(default)s)")
    add("--measured", nargs="*", default=[], metavar="NAME=VALUE", help="what the weights reach, and on what")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    from ldm.util.errors import UserError  # from here on torch is imported, which --help need not wait for

    try:
        for line in arguments.do(arguments):
            print(line)
    except UserError as error:
        print(f"export.py: {error}", file=sys.stderr)
        return 2
    return 0


def export(arguments: argparse.Namespace) -> list[str]:
    from ldm.models.export import export_adapters, export_part
    from ldm.models.loading import checkpoint_of
    from ldm.util.files import writable_folder

    path = Path(arguments.out)
    writable_folder(path.parent, "--out")
    checkpoint = arguments.ckpt or checkpoint_of(arguments.run)
    if arguments.what == "adapters":
        tensors = export_adapters(checkpoint, path)
    else:
        tensors = export_part(arguments.what, checkpoint, path)
    lines = [f"wrote {path}: {len(tensors)} tensors, {path.stat().st_size:,} bytes"]
    if arguments.what == "adapters" and arguments.peft:
        lines += [f"wrote {made}" for made in export_peft(path, Path(arguments.peft))]
    return lines


def export_peft(adapters: Path, folder: Path) -> list[Path]:
    from ldm.checkpoints.loading import save_safetensors
    from ldm.models.loading import load_model
    from ldm.modules.lora import lora_layers, peft_config, peft_state_dict
    from ldm.util.errors import UserError
    from ldm.util.files import writable_folder

    writable_folder(folder, "--peft")
    unet = load_model(adapters).unet
    if not lora_layers(unet):
        raise UserError(f"--peft {folder}: this run has no LoRA layers (unet_config.params.lora_rank); leave it out")
    paths = [folder / "adapter_model.safetensors", folder / "adapter_config.json"]
    save_safetensors(paths[0], peft_state_dict(unet))
    beside = paths[1].with_suffix(".part")
    beside.write_text(json.dumps(peft_config(unet), indent=2) + "\n")
    beside.replace(paths[1])
    return paths


def enter(arguments: argparse.Namespace) -> list[str]:
    from ldm.checkpoints import shipped
    from ldm.util.errors import UserError

    measured = {}
    for pair in arguments.measured:
        name, equals, value = pair.partition("=")
        if not (name and equals and value):
            raise UserError(f"--measured {pair}: write NAME=VALUE, such as psnr=31.2")
        try:
            measured[name] = json.loads(value)  # a number
        except ValueError:
            measured[name] = value
    how = {key: getattr(arguments, key) for key in ("command", "seed", "minutes", "cores", "device")}
    entry = shipped.record_in_manifest(arguments.file, **how, measured=measured)
    return [f"{arguments.file}: {entry.bytes:,} bytes, sha256 {entry.sha256}"]


if __name__ == "__main__":
    sys.exit(main())
