"""Writes the parts of the documentation that follow from code: the tables of options, and the configuration reference.

python docs/generate.py [folder]
"""

import sys
from pathlib import Path

from configuration_reference import page as configuration_page

from ldm.curation.options import CurationOptions
from ldm.editing.options import EditOptions
from ldm.sampling.options import SampleOptions
from ldm.sampling.text_options import TextOptions
from ldm.util.options import markdown_table

DOCS = Path(__file__).parent


def pages() -> dict[str, str]:
    """Path below docs/ -> text."""
    return {
        "generated/curation_options.md": markdown_table(CurationOptions),
        "generated/edit_options.md": markdown_table(EditOptions),
        "generated/sample_options.md": markdown_table(SampleOptions),
        "generated/text_options.md": markdown_table(TextOptions),
        "configuration.md": configuration_page(),
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS
    for name, text in pages().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
