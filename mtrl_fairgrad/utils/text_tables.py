"""Tables as text: for the terminal and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of equal width, the first flush left, the others flush right, a rule under the
    heading.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in rows
    ]
    return [lines[0], "─" * len(lines[0]), *lines[1:]]


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Rows, the heading first, as the text of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def counted(number: int, noun: str) -> str:
    """`1 update`, `2 updates`, `2,000 updates`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
