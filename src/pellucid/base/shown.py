"""A title and a few rows of words, as text, for a terminal (rich) and for a notebook (HTML)."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import rich.table


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What is shown of a result; the first column names things, the others hold numbers.

    Example:
        >>> print(Shown(title="scores", columns=["head", "score"], rows=[["5.1", "0.9"]], rest=143).text())
        scores
          5.1  0.9
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    rest: int = 0
    """How many rows are not shown."""

    def text(self) -> str:
        """Lines; cells without words are left out."""
        return "\n  ".join([self.title, *("  ".join(filter(None, row)) for row in self.rows)])

    def table(self) -> "rich.table.Table":
        """For a terminal."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(self.title), title_justify="left", caption=self._more() or None, box=None)
        for i, column in enumerate(self.columns):
            table.add_column(Text(column), justify="right" if i else "left")
        for row in self.rows:
            table.add_row(*map(Text, row))
        return table

    def html(self) -> str:
        """For a notebook."""

        def row(tag: str, cells: list[str]) -> str:
            sides = ["left", *["right"] * len(cells)]
            parts = [f'<{tag} style="text-align:{sides[i]}">{escape(cell)}</{tag}>' for i, cell in enumerate(cells)]
            return f"<tr>{''.join(parts)}</tr>"

        head, body = row("th", self.columns), "".join(row("td", cells) for cells in self.rows)
        more = f'<tfoot><tr><td colspan="{len(self.columns)}">{self._more()}</td></tr></tfoot>' if self.rest else ""
        return (
            f'<table><caption style="text-align:left">{escape(self.title)}</caption>'
            f"<thead>{head}</thead><tbody>{body}</tbody>{more}</table>"
        )

    def _more(self) -> str:
        return f"and {self.rest:,} more" if self.rest else ""


class Showing(ABC):
    """A result that says the same of itself as text, in a terminal (rich) and in a notebook.

    A dataclass that is one needs ``repr=False``, or it writes a text of its own.
    """

    @abstractmethod
    def _shown(self, *, brief: bool) -> Shown:
        """What is to be seen; in brief as text."""

    def __repr__(self) -> str:
        return self._shown(brief=True).text()

    def __rich__(self) -> "rich.table.Table":
        return self._shown(brief=False).table()

    def _repr_html_(self) -> str:
        return self._shown(brief=False).html()
