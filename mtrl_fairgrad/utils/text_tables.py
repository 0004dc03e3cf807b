"""Tables as plain text, Markdown, LaTeX and CSV.

Cells are text, which is cleaned (`mtrl_fairgrad.utils.clean_text`), except where a program reads it
back; the first row is the heading.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence

from mtrl_fairgrad.utils.clean_text import clean, clean_cell

Rows = Sequence[Sequence[str]]


def text_table(rows: Rows) -> list[str]:
    """Return lines for the terminal: the first column is aligned left, the others right."""
    # The heading is passed as a row, since tabulate makes columns with a heading two wider.
    cells = [[clean(cell) for cell in row] for row in rows]
    heading, *body = _lines((), cells, "plain", words=False)
    return [heading, "─" * len(heading), *body]


def markdown_table(rows: Rows, words: bool = False) -> list[str]:
    """Return a table in GitHub's Markdown; special characters are escaped.

    Args:
        rows: rows of cells, the heading first.
        words: align all columns left, for cells that hold text rather than numbers.
    """
    return _lines(*_split(rows, markdown), "pipe", words)


def latex_table(rows: Rows, words: bool = False) -> list[str]:
    """Return a `tabular` with rules of the package booktabs; special characters are escaped.

    Args:
        rows: rows of cells, the heading first.
        words: break lines in all columns but the first, for cells that hold text.
    """
    lines = _lines(*_split(rows, _latex_cell), "latex_raw", words)
    if words:
        columns = r"p{0.38\linewidth}" * (len(rows[0]) - 1)
        lines[0] = rf"\begin{{tabular}}{{l{columns}}}"
    rules = iter((r"\toprule", r"\midrule", r"\bottomrule"))
    return [next(rules) if line == r"\hline" else line for line in lines]


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Return rows, the heading first, as the text of a CSV file that a program reads back."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def csv_report(rows: Iterable[Iterable[object]]) -> str:
    """Return rows, the heading first, as the text of a CSV file for spreadsheets."""
    return csv_text([map(clean_cell, row) for row in rows])


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: `1 update`, `2 updates`, `2,000 updates`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _split(rows: Rows, escape: Callable[[str], str]) -> tuple[list[str], list[list[str]]]:
    """Return the heading and the other rows, escaped."""
    heading, *body = [[escape(cell) for cell in row] for row in rows]
    return heading, body


def _lines(heading: Sequence[str], body: Rows, tablefmt: str, words: bool) -> list[str]:
    from tabulate import tabulate

    columns = len(heading or body[0])
    alignment = ("left", *["left" if words else "right"] * (columns - 1))
    table = tabulate(body, heading, tablefmt, disable_numparse=True, colalign=alignment)
    return table.splitlines()


# ---- escaping ----


def markdown(text: str) -> str:
    """Escape text for one line of Markdown, HTML tags included."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|~#&$" else c for c in clean(" ".join(text.split())))


def latex(text: str) -> str:
    """Escape text for one line of LaTeX in ASCII."""
    return "".join(_LATEX.get(c, c) for c in clean(" ".join(text.split())))


def _latex_cell(text: str) -> str:
    # A row that begins with a bracket or star would be read as an option of the \\ before it.
    cell = latex(text)
    return f"{{{cell}}}" if cell.startswith(("[", "*")) else cell


_LATEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": r"\textbar{}",
    "α": r"$\alpha$",
    "±": r"$\pm$",
    "·": r"$\cdot$",
    "×": r"$\times$",
    "–": "--",
    "“": "``",
    "”": "''",
    "−": "$-$",
    "Δ": r"$\Delta$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "‖": r"$\|$",
    "²": "$^2$",
}
