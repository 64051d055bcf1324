"""A report: headings, prose, numbered figures and tables, in one file that opens from disk.

In: text, views, figures of plotly. Out: a page that asks the network for nothing, is read in light and dark, on paper,
and with the keyboard.
"""

import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pellucid.base.errors import ArgumentError
from pellucid.base.files import written_aside
from pellucid.report.prose import phrase, prose
from pellucid.viz.document import Document
from pellucid.viz.view import View

NOTES = ("note", "warning")
STYLE = Path(__file__).with_name("page.css")


class Page:
    """A report in the making; each method adds to its end and gives the page back.

    Text is a little Markdown (`pellucid.report.prose`); tokens go into it by `pellucid.report.prose.code`.

    Args:
        title: What the report is about.
        lead: What was found, in a sentence or two.

    Example:
        >>> page = Page("Two heads", lead="They are all it takes.")
        >>> _ = page.section("Which heads?").text("The head **1.0** looks back, and 0.1 *prepares* it.")
        >>> "<strong>1.0</strong>" in page.html()
        True
    """

    def __init__(self, title: str, *, lead: str = "") -> None:
        self.title = title
        self._lead = lead
        self._document = Document(title, style=STYLE.read_text(encoding="utf-8"))
        self._parts: list[str] = []
        self._sections: list[tuple[str, str]] = []
        self._numbers = {"Figure": 0, "Table": 0}

    def section(self, heading: str) -> "Page":
        """Begin a section; the table of contents names it."""
        plain = re.sub("<[^>]+>", "", phrase(heading))
        words = re.sub(r"[^a-z0-9]+", "-", html.unescape(plain).lower()).strip("-") or "section"
        anchor = f"{len(self._sections) + 1}-{words}"
        self._sections.append((anchor, phrase(heading)))
        return self._add(f'<h2 id="{anchor}">{phrase(heading)}</h2>')

    def text(self, text: str) -> "Page":
        """Add paragraphs or lists."""
        return self._add(prose(text))

    def note(self, text: str, *, kind: str = "note") -> "Page":
        """Add something to be kept in mind.

        Args:
            text: What it is.
            kind: ``"note"``, or ``"warning"`` for what may be misread.

        Raises:
            ArgumentError: Another kind.
        """
        if kind not in NOTES:
            raise ArgumentError(f"kind must be one of {', '.join(NOTES)}, got {kind!r}")
        return self._add(f'<aside class="{kind}" aria-label="{kind.capitalize()}">{prose(text)}</aside>')

    def figure(self, picture: Any, caption: str) -> "Page":
        """Add a picture.

        Args:
            picture: A view (`pellucid.viz`), or a figure of plotly.
            caption: What is to be seen, and how to read it.

        Raises:
            ArgumentError: Neither; or no caption.
        """
        if isinstance(picture, View):
            place = self._document.view(picture.module, picture.data())
        elif hasattr(picture, "to_plotly_json"):
            place = self._document.chart(picture)
        else:
            raise ArgumentError(f"a picture must be a view or a figure of plotly, got {type(picture).__name__}")
        return self._captioned("Figure", place, caption)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], caption: str) -> "Page":
        """Add a table; the first cell of a row says what the row is.

        Args:
            columns: Heads.
            rows: Cells: text, or numbers, of which four digits are shown; None where there is nothing.
            caption: What the table shows.

        Raises:
            ArgumentError: A row that is shorter or longer than `columns`; no caption.
        """
        for row in rows:
            if len(row) != len(columns):
                raise ArgumentError(f"each row must have {len(columns)} cells, got {len(row)}: {list(row)}")
        heads = "".join(f'<th scope="col">{phrase(column)}</th>' for column in columns)
        body = "".join(f"<tr>{_cell(row[0], 'th')}{''.join(map(_cell, row[1:]))}</tr>" for row in rows)
        table = f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
        place = f'<div class="wide" tabindex="0" role="region" aria-label="Table">{table}</div>'
        return self._captioned("Table", place, caption)

    def html(self) -> str:
        """The page as text."""
        lead = f'<div class="lead">{prose(self._lead)}</div>' if self._lead else ""
        links = "".join(f'<li><a href="#{anchor}">{heading}</a></li>' for anchor, heading in self._sections)
        contents = f'<nav aria-label="Contents"><ol>{links}</ol></nav>' if links else ""
        body = "\n".join(self._parts)
        return self._document.page(
            f"<main><header><h1>{html.escape(self.title)}</h1>{lead}{contents}</header>\n{body}</main>"
        )

    def save(self, path: str | Path) -> None:
        """Write the page; nobody ever finds half of it.

        Raises:
            OutputError: The place cannot be written.
        """
        with written_aside(path) as aside:
            aside.write_text(self.html(), encoding="utf-8")

    def _captioned(self, kind: str, place: str, caption: str) -> "Page":
        if not caption.strip():
            raise ArgumentError(f"a {kind.lower()} must have a caption that says how to read it, got none")
        self._numbers[kind] += 1
        number = self._numbers[kind]
        name = f"{kind.lower()}-{number}"
        return self._add(
            f'<figure id="{name}" aria-labelledby="{name}-caption">{place}'
            f'<figcaption id="{name}-caption"><b>{kind} {number}.</b> {phrase(caption)}</figcaption></figure>'
        )

    def _add(self, part: str) -> "Page":
        self._parts.append(part)
        return self


def _cell(value: object, tag: str = "td") -> str:
    if value is None:
        return f"<{tag}>—</{tag}>"
    if isinstance(value, float):
        return f'<{tag} class="number">{value:.4g}</{tag}>'.replace("nan", "—")
    if isinstance(value, int) and not isinstance(value, bool):
        return f'<{tag} class="number">{value}</{tag}>'
    scope = ' scope="row"' if tag == "th" else ""
    return f"<{tag}{scope}>{phrase(str(value))}</{tag}>"
