"""The editor in the browser: draw the scene graph on a photograph, change it, and see the edit happen.

    python scripts/app.py
    python scripts/app.py --run logs/<run> --sessions outputs/app

It prints the address of the page, with the token that opens it. From another machine, forward the port by the SSH command that
is printed too, and open the same address.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the process silently until run_program handles it

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ldm.util.cli import Parser, add_memory_arguments, add_model_arguments, add_verbose_argument, at_least, run_program
from ldm.util.errors import UserError
from ldm.util.files import writable_folder
from ldm.util.lora_option import add_lora_argument

if TYPE_CHECKING:
    from ldm.app.clips import ClipMaker
    from ldm.graph.vocab import Vocab
    from ldm.models.diffusion.video import VideoDiffusion
    from ldm.words.open_words import OpenWords

PROGRAM = "app.py"
PACKAGES = ("fastapi", "uvicorn", "websockets")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(PROGRAM, __doc__)
    add = parser.add_argument
    add_model_arguments(parser)
    add_lora_argument(parser)
    add_memory_arguments(parser)
    add(
        "--host",
        default="127.0.0.1",
        help="address to listen on; another one than this lets other machines connect, unencrypted (default: %(default)s)",
    )
    add("--port", type=at_least(0), help="port to listen on, 0 for any (default: the first free one from 8765 on)")
    add(
        "--sessions",
        metavar="DIR",
        default="outputs/app",
        help="folder of photographs and edits; the same folder continues (default: %(default)s)",
    )
    add(
        "--words",
        choices=("open", "off"),
        help="open: graphs may have any words, in sixteen languages, which are read as names of the vocabulary (default: open if "
        "the extra `words` is installed)",
    )
    add(
        "--dictionary",
        action="append",
        default=[],
        metavar="JSON",
        help='file of names by words, such as {"양": "sheep"}, which go before everything else; may be given several times',
    )
    add_verbose_argument(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    return run_program(
        lambda: run(arguments),
        PROGRAM,
        if_stopped="the same command continues",
        if_out_of_memory="try --precision fp16, --low-memory or another --device",
        verbose=arguments.verbose,
    )


def run(arguments: argparse.Namespace) -> None:
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UserError(f"{' and '.join(missing)} missing: pip install -e '.[app]'")
    folder = writable_folder(arguments.sessions, "--sessions")

    from ldm.app.editor import Editor
    from ldm.app.launch import serve
    from ldm.models.loading import choose_device, find_checkpoint, load_model
    from ldm.models.runtime import prepare_for_inference, warn_of_slow_half_precision

    device = choose_device(arguments.device)
    checkpoint = find_checkpoint(arguments.run, arguments.ckpt, arguments.config)
    model = load_model(checkpoint, arguments.config, loras=arguments.lora)
    warn_of_slow_half_precision(arguments.precision, device)
    prepare_for_inference(model, device, arguments.precision, arguments.low_memory)
    words = open_words(arguments, model.vocab)
    clips = None if arguments.lora else clip_maker(checkpoint, device)
    editor = Editor(model, folder, model_name(arguments), model_words(arguments), words=words, clips=clips)
    serve(editor, arguments.host, arguments.port)


def open_words(arguments: argparse.Namespace, vocab: Vocab) -> OpenWords | None:
    """What reads words that the vocabulary lacks. Raises UserError: a dictionary does not fit, or the encoder is not installed."""
    from ldm.graph.vocab import OpenVocab
    from ldm.words.naming import Naming
    from ldm.words.sentence_encoder import is_installed

    wanted = arguments.words == "open" or bool(arguments.dictionary)
    if arguments.words == "off" or isinstance(vocab, OpenVocab) or not (wanted or is_installed()):
        return None
    return Naming("open", arguments.dictionary).open_words(vocab)


def clip_maker(adapters: Path | None, device: str) -> ClipMaker | None:
    """What samples clips by temporal layers in the folder of the model's adapters; None if there are none."""
    from ldm.app.clips import ClipMaker
    from ldm.checkpoints.shipped import TEMPORAL

    temporal = adapters and adapters.with_name(TEMPORAL)

    def load() -> VideoDiffusion:
        from ldm.models.video_loading import load_video_model

        return load_video_model(temporal, device=device)

    return ClipMaker(load) if temporal and temporal.is_file() else None


def model_name(arguments: argparse.Namespace) -> str:
    """What the page calls the model."""
    if arguments.run or arguments.ckpt:
        return Path(arguments.run or arguments.ckpt).name
    if arguments.config:
        return Path(arguments.config[-1]).name
    return "the weights that ship with the project"


def model_words(arguments: argparse.Namespace) -> list[str]:
    """The words of a command line that load the same model."""
    words: list[str] = []
    for flag, value in (("--run", arguments.run), ("--ckpt", arguments.ckpt), ("--device", arguments.device)):
        words += [flag, value] if value else []
    words += ["--config", *arguments.config] if arguments.config else []
    for path, scale in arguments.lora:
        words += ["--lora", f"{path}:{scale!r}"]
    words += ["--precision", arguments.precision] if arguments.precision != "fp32" else []
    return words + (["--low-memory"] if arguments.low_memory else [])


if __name__ == "__main__":
    sys.exit(main())
