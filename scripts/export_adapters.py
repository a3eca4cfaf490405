"""Take the trained parts out of a run: all of them as safetensors, and LoRA once more in Hugging Face peft's layout."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True, metavar="DIR", help="log folder of a training run")
    parser.add_argument("--outdir", metavar="DIR", help="where the files go (default: RUN/adapters)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    from ldm.run import checkpoint_of  # from here on torch is imported, which --help need not wait for
    from ldm.util import UserError, writable_folder

    try:
        folder = arguments.outdir or checkpoint_of(arguments.run).parents[1] / "adapters"
        for path in export(arguments.run, writable_folder(folder, "--outdir")):
            print(f"wrote {path}")
    except UserError as error:
        print(f"export_adapters.py: {error}", file=sys.stderr)
        return 2
    return 0


def export(run: str, folder: Path) -> list[Path]:
    """Averaged weights; the config and the vocabulary go into the safetensors file's metadata."""
    import torch

    from ldm.checkpoint import save_safetensors
    from ldm.modules.lora import lora_layers, peft_config, peft_state_dict
    from ldm.run import checkpoint_of, load_model

    checkpoint = checkpoint_of(run)
    model = load_model(checkpoint)
    saved, weights = torch.load(checkpoint, weights_only=True, mmap=True)["state_dict"], model.state_dict()
    trained = [name for name in saved if not name.startswith("model_ema.")]
    metadata = {"config": json.dumps(model.config), "vocab": json.dumps(model.vocab.to_json())}
    paths = [folder / "adapters.safetensors"]
    save_safetensors(paths[0], {name: weights[name] for name in trained}, metadata)
    if lora_layers(model.unet):
        paths += [folder / "peft" / "adapter_model.safetensors", folder / "peft" / "adapter_config.json"]
        save_safetensors(paths[1], peft_state_dict(model.unet))
        beside = paths[2].with_suffix(".part")
        beside.write_text(json.dumps(peft_config(model.unet), indent=2) + "\n")
        beside.replace(paths[2])
    return paths


if __name__ == "__main__":
    sys.exit(main())
