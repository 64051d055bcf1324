"""A table that can be sorted by each of its columns: numbers with their intervals, beside what they belong to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Shaped
from torch import Tensor

from pellucid.base.errors import ArgumentError, UnknownNameError, nearest
from pellucid.base.tensors import to_numpy
from pellucid.measurement import Measurement
from pellucid.viz.view import View
from pellucid.viz.visible import printable

MOST = 20_000
"""Rows that a browser shows without effort."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Numbers:
    """A column of numbers."""

    name: str
    values: Float[np.ndarray, " row"]
    low: Float[np.ndarray, " row"] | None = None
    high: Float[np.ndarray, " row"] | None = None
    unit: str = ""


@dataclass(eq=False, repr=False)
class SortableTable(View):
    """Rows with a name, and columns of numbers."""

    module: ClassVar[str] = "table.js"

    rows: list[str]
    rows_name: str
    columns: list[Numbers]
    sort: str | None = None
    """The column that the rows are sorted by at first, largest first."""

    def title(self) -> str:
        """How many rows, and the columns."""
        return f"Table of {len(self.rows)} rows: {', '.join(column.name for column in self.columns)}"

    def data(self) -> dict[str, Any]:
        """Columns as their numbers, with the ends of the intervals where there are any."""
        columns = [
            {
                "name": column.name,
                "unit": column.unit,
                **{
                    key: part.astype(np.float64)
                    for key, part in (("values", column.values), ("low", column.low), ("high", column.high))
                    if part is not None
                },
            }
            for column in self.columns
        ]
        rows = [printable(row) for row in self.rows]
        return {"rows": rows, "rows_name": self.rows_name, "columns": columns, "sort": self.sort}


def sortable_table(
    columns: Mapping[str, Measurement | Shaped[Tensor, "..."] | Shaped[np.ndarray, "..."] | Sequence[float]],
    *,
    rows: Sequence[str] | None = None,
    rows_name: str = "",
    sort: str | None = None,
) -> SortableTable:
    """Shows numbers in a table that each column can sort, such as the scores of every head beside their controls.

    In a notebook the table appears at once. Anywhere else it is returned, and ``.save("page.html")`` writes it as a
    page.

    Args:
        columns: Name of each column, and its numbers, ``[row]``; or a Measurement, with one row for each cell.
        rows: What the rows are called; if not given, as the cells of the first Measurement.
        rows_name: What they are, ``"head"``.
        sort: The column that they are sorted by at first; None: as they come.

    Raises:
        ArgumentError: No column; columns of different length, or Measurements of different cells; too many rows.
        UnknownNameError: No column is called `sort`.
        MissingExtraError: In a notebook without anywidget.

    Example:
        >>> sortable_table({"score": [0.9, 0.1]}, rows=["1.0", "1.1"], rows_name="head")
        <Table of 2 rows: score; .save('page.html') writes a page>
    """
    if not columns:
        raise ArgumentError("columns must hold one column or more, got none")
    if rows is None:
        rows = _cells(columns)
    numbers = [_numbers(name, column) for name, column in columns.items()]
    for column in numbers:
        if column.values.shape != (len(rows),):
            raise ArgumentError(
                f"each column must have one number for each of the {len(rows)} rows, "
                f"got {column.name!r} of shape {list(column.values.shape)}"
            )
    if len(rows) > MOST:
        raise ArgumentError(f"a table may have {MOST} rows, got {len(rows)}; .top({MOST}) has the largest")
    if sort is not None and sort not in columns:
        raise UnknownNameError(f"sort must be a column, got {sort!r}{nearest(sort, columns)}")
    view = SortableTable(rows=[str(row) for row in rows], rows_name=rows_name, columns=numbers, sort=sort)
    view.show()
    return view


def _cells(columns: Mapping[str, Any]) -> list[str]:
    """What the cells of all the Measurements are called."""
    measured = {name: column.labels for name, column in columns.items() if isinstance(column, Measurement)}
    if not measured:
        raise ArgumentError("rows must be given where no column is a Measurement, got none")
    rows = next(iter(measured.values()))
    for name, labels in measured.items():
        if labels != rows:
            raise ArgumentError(f"all Measurements must have the same cells, got others in {name!r}; choose with .sel")
    return rows


def _numbers(name: str, column: Any) -> Numbers:
    if not isinstance(column, Measurement):
        return Numbers(name=name, values=to_numpy(column).astype(np.float64))
    ends = {}
    for key in ("low", "high"):
        if key in column.dataset:
            ends[key] = column.dataset[key].values.ravel()
    return Numbers(name=name, values=column.values.ravel(), unit=column.unit, **ends)
