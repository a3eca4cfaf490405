"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable


def markdown_table(header: Iterable[str], rows: Iterable[Iterable[str]], text_columns: int = 1) -> str:
    """A Markdown table, without a final newline.

    Args:
        header: headings of the columns.
        rows: texts of the cells, row by row.
        text_columns: the number of columns, from the left, that hold text; the others hold numbers, aligned right.
    """
    header = list(header)
    alignment = "|" + "---|" * text_columns + "---:|" * (len(header) - text_columns)
    lines = [f"| {' | '.join(cells)} |" for cells in (header, *rows)]
    return "\n".join([lines[0], alignment, *lines[1:]])
