"""A small table of columns: enough to look at results, and to hand them to pandas or Polars."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mtrl_fairgrad.utils.text_tables import text_table
from mtrl_fairgrad.utils.validation import ConfigError, check_choice

if TYPE_CHECKING:
    import pandas  # pyright: ignore[reportMissingImports]

SHOWN_ROWS = 20
"""Rows that are shown of a longer table, half of them from its end."""


class Table:
    """Columns of equal length that cannot be written to.

        table["success"]                              # a column, as a NumPy array
        table[["task", "success"]]                    # some columns
        table[table["success"] > 0.5]                 # rows, by a condition
        table.where(task="push-v3", seed=[0, 1])      # rows, by values
        table.mean("success", by="env_steps")         # mean of each group of rows
        pandas.DataFrame(table.to_dict())             # or table.to_pandas()

    Args:
        columns: name -> values of all rows.
    """

    def __init__(self, columns: Mapping[str, Any]) -> None:
        self._columns = {name: _frozen(values) for name, values in columns.items()}

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(self._columns)

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and of columns."""
        return len(self), len(self._columns)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(next(iter(self._columns.values()), ()))

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the columns, as pandas does."""
        return iter(self._columns)

    def __getitem__(self, key: str | list[str] | NDArray[Any] | slice) -> Any:
        """Return a column by its name, or a table: of columns, or of rows by condition or slice.

        Raises:
            ConfigError: there is no such column, or no such choice.
        """
        if isinstance(key, str):
            return self._columns[check_choice("column", key, self._columns)]
        if isinstance(key, list) and any(isinstance(name, str) for name in key):
            return Table({name: self[name] for name in key})
        rows: Any = key
        if np.arange(len(self))[rows].ndim != 1:
            raise ConfigError(
                f"key={key!r} is not allowed: give the name of a column, a list of names, a "
                "condition or a slice; rows() yields single rows.",
                "key",
                key,
            )
        return Table({name: values[rows] for name, values in self._columns.items()})

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield each row as a dictionary of plain values."""
        lists = [values.tolist() for values in self._columns.values()]
        for row in zip(*lists, strict=True):
            yield dict(zip(self._columns, row, strict=True))

    def where(self, **values: Any) -> Table:
        """Return the rows that have these values, or one of a list of them, in these columns."""
        chosen = np.ones(len(self), bool)
        for name, value in values.items():
            chosen &= np.isin(self[name], value)
        return self[chosen]

    def mean(self, column: str, by: str) -> Table:
        """Return the mean of a column over the rows with equal values of `by`, which is sorted."""
        groups, places = np.unique(self[check_choice("by", by, self._columns)], return_inverse=True)
        sums = np.bincount(places, weights=self[column], minlength=len(groups))
        return Table({by: groups, column: sums / np.bincount(places, minlength=len(groups))})

    def to_dict(self) -> dict[str, NDArray[Any]]:
        """Return the columns by name, as `pandas.DataFrame` and `polars.DataFrame` take them."""
        return dict(self._columns)

    def to_pandas(self) -> pandas.DataFrame:
        """Return a `pandas.DataFrame`; pandas has to be installed."""
        import pandas  # pyright: ignore[reportMissingImports]

        return pandas.DataFrame(self.to_dict())

    # ---- showing ----

    def __repr__(self) -> str:
        """Return the table as text, in which only some rows of a long one are shown."""
        return "\n".join([*text_table(self._shown()), self._size()])

    def _repr_html_(self) -> str:
        """Return the table as a notebook shows it."""
        heading, *body = [[html.escape(cell) for cell in row] for row in self._shown()]
        lines = [f"<tr>{''.join(f'<th>{cell}</th>' for cell in heading)}</tr>"]
        lines += [f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in body]
        return f"<table>{''.join(lines)}</table><p>{self._size()}</p>"

    def _shown(self) -> list[list[str]]:
        """Return the cells of the heading and of the rows that are shown."""
        half, count = SHOWN_ROWS // 2, len(self)
        ends = [self] if count <= SHOWN_ROWS else [self[:half], self[count - half :]]
        parts = [[list(map(_cell, row.values())) for row in end.rows()] for end in ends]
        dots = [["…"] * len(self._columns)] if len(parts) > 1 else []
        return [list(self._columns), *parts[0], *dots, *(parts[1] if dots else [])]

    def _size(self) -> str:
        return f"[{len(self)} rows × {len(self._columns)} columns]"


def _frozen(values: Any) -> NDArray[Any]:
    array = np.array(values)
    array.setflags(write=False)
    return array


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
