"""Learn a map of word embeddings from other languages to the names of a vocabulary, and measure it on words left out.

    python scripts/align_words.py --out outputs/alignment.safetensors
    python scripts/align_words.py --vocab datasets/vg/vocab.json --seed 1 --out outputs/alignment.safetensors

It prints, by language and kind of names, how often the nearest name is right without and with the map, in a cross-validation that
leaves out names in one of their languages. Programs with --alignment use the map for the kinds where it wins, and only there.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the process silently until run_program handles it

import argparse
import sys

from ldm.util.cli import Parser, add_verbose_argument, run_program

PROGRAM = "align_words.py"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(PROGRAM, __doc__)
    add = parser.add_argument
    add("--vocab", metavar="JSON", help="sg2im's vocab.json (default: the names of the project's lexicon)")
    add("--seed", type=int, default=0, help="seed of the folds (default: %(default)s)")
    add("--out", required=True, metavar="FILE", help="file of the map, ending in .safetensors")
    add_verbose_argument(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    return run_program(lambda: run(arguments), PROGRAM, verbose=arguments.verbose)


def run(arguments: argparse.Namespace) -> None:
    from ldm.evaluation.name_lists import vocabulary
    from ldm.graph.vocab import Vocab
    from ldm.words.aligner import align, write_alignments
    from ldm.words.lexicon import KINDS, read_lexicon
    from ldm.words.sentence_encoder import load_encoder

    vocab = Vocab.read(arguments.vocab) if arguments.vocab else vocabulary()
    encoder, lexicon = load_encoder(), read_lexicon()
    known = lexicon.among(vocab)
    tables = zip(KINDS, (vocab.objects, vocab.predicates, vocab.attributes))
    found = [align(kind, names, known, encoder, arguments.seed) for kind, names in tables if known.forms[kind]]
    print(
        "| kind | language | words | top 1 without | top 3 | top 1 with the map | top 3 |\n|---|---|---|---|---|---|---|"
    )
    for each in found:
        for language, (count, *shares) in each.scores.items():
            print(
                f"| {each.kind} | {language} | {count} | " + " | ".join(f"{100 * share:.1f}" for share in shares) + " |"
            )
    write_alignments(arguments.out, found, encoder, arguments.seed)
    for each in found:
        print(f"{each.kind}: strength {each.strength}, {each.gained} words become right and {each.lost} wrong")
    used = [each.kind for each in found if each.wins]
    print(f"wrote {arguments.out}; the map wins for {', '.join(used) or 'no kind of names, so it will not be used'}")


if __name__ == "__main__":
    sys.exit(main())
