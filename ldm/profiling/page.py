"""The table of a documentation page that holds the CPU's and the GPU's figures side by side; each run fills in its own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ldm.profiling.measure import Measurement
from ldm.profiling.timing import Spread
from ldm.util.errors import UserError
from ldm.util.files import atomic_write
from ldm.util.tables import markdown_table

BEGIN, END = "<!-- speed: begin (scripts/benchmark.py --page) -->", "<!-- speed: end -->"
DEVICES = ("CPU", "GPU")
FIGURES = ("ms per image", "times diffusers'", "of peak", "GB")
HEADER = ("what", "how", *(f"{device}: {figure}" for device in DEVICES for figure in FIGURES))

Rows = dict[tuple[str, str], dict[str, list[str]]]  # (what, how) -> device -> cells


def fill_in(page: Path, device: str, measurements: Iterable[Measurement]) -> None:
    """Replaces a device's figures in the table of a page; the other device's stay.

    Args:
        page: a Markdown file with the lines BEGIN and END.
        device: one of DEVICES.

    Raises:
        UserError: the page cannot be read, or has no such lines.
    """
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"--page {page}: {error.strerror}; name a Markdown file") from error
    before, begin, rest = text.partition(BEGIN)
    table, end, after = rest.partition(END)
    if not (begin and end):
        raise UserError(f"--page {page}: it has no table between the lines {BEGIN!r} and {END!r}; add these two lines")
    rows = merge(read_table(table), device, measurements)
    with atomic_write(page) as temporary:
        temporary.write_text(f"{before}{BEGIN}\n\n{make_table(rows)}\n\n{END}{after}", encoding="utf-8")


def merge(rows: Rows, device: str, measurements: Iterable[Measurement]) -> Rows:
    """The rows with a device's new figures instead of its old ones; rows without any figure are left out."""
    merged = {key: {name: cells for name, cells in row.items() if name != device} for key, row in rows.items()}
    for measurement in measurements:
        key = measurement.comparison, measurement.variant
        merged[key] = {**merged.get(key, {}), device: _cells(measurement)}
    return {key: row for key, row in merged.items() if row}


def make_table(rows: Rows) -> str:
    """The table in Markdown, without a final newline."""
    empty = [""] * len(FIGURES)
    cells = [(*key, *(cell for device in DEVICES for cell in row.get(device, empty))) for key, row in rows.items()]
    return markdown_table(HEADER, cells, text_columns=2)


def read_table(text: str) -> Rows:
    """Inverse of `make_table`. Lines that are no rows of such a table are left out."""
    rows: Rows = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) != len(HEADER) or cells[0] == HEADER[0] or set(cells[0]) <= {"-"}:
            continue
        figures = (cells[2 + i * len(FIGURES) : 2 + (i + 1) * len(FIGURES)] for i in range(len(DEVICES)))
        rows[cells[0], cells[1]] = {device: each for device, each in zip(DEVICES, figures) if any(each)}
    return rows


def _cells(measurement: Measurement) -> list[str]:
    m = measurement
    return [
        _spread(m.seconds, 1000, 1),
        "" if m.speedup_over_peer is None else _spread(m.speedup_over_peer, 1, 2),
        "" if m.peak_share is None else f"{m.peak_share:.0%}",
        "" if m.memory is None else f"{m.memory / 1e9:.2f}",
    ]


def _spread(spread: Spread, factor: float, digits: int) -> str:
    median, low, high = (f"{factor * number:.{digits}f}" for number in spread)
    return f"{median} ({low}–{high})"
