"""Clean what files say before terminals, tables, pages and figures show it.

A stranger's names may hold escape sequences, which write to the clipboard or hide lines, direction
marks, which reorder what is read, and formulas, which a spreadsheet evaluates.
"""

from __future__ import annotations

FORMULAS = tuple("=+-@＝＋－＠")
"""First characters of a cell that spreadsheets evaluate, in wide form, too."""


def clean(text: str) -> str:
    """Return `text` as one line: each character that is not printable as its escape sequence."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def clean_cell(value: object) -> object:
    """Return a cell of a CSV file for people: text is cleaned and never a formula."""
    if not isinstance(value, str):
        return value
    text = clean(value)
    return f"'{text}" if text.lstrip().startswith(FORMULAS) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
