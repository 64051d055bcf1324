"""How a figure of plotly appears: as its user chose, else in the notebook there is, else as a page or not at all."""

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.base.files import written_aside
from pellucid.base.optional import optional
from pellucid.viz.document import Document
from pellucid.viz.showing import cell, is_unshown, keep, notebook

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

STATIC = "notebook"
"""Plotly's renderer of HTML that shows without a kernel; its script comes once a notebook."""
BROWSERS = {"browser", "chrome", "chromium", "firefox"}
"""Renderers of plotly that start a server and open a window."""


def shown(figure: "Figure", renderer: str | None = None) -> "Figure":
    """Show a figure, and give it back.

    Args:
        figure: Any figure of plotly.
        renderer: As plotly calls it; None: its default, unless that would open a window unasked.

    Raises:
        MissingExtraError: In a notebook without nbformat, which plotly needs there.
    """
    if is_unshown():
        return figure
    if renderer is None and not _wanted():
        keep(_title(figure) or "plot", partial(save, figure))
        return figure
    if notebook():
        optional("nbformat", extra="notebook")
        _also_static()
    figure.show(renderer)
    # A notebook shows the last line of a cell: what that cell has shown is not shown twice.
    figure._ipython_display_ = partial(_again, figure, renderer, cell())
    return figure


def save(figure: "Figure", path: str | Path) -> None:
    """Write a page that shows a figure: one file, which opens from disk and asks the network for nothing.

    Raises:
        OutputError: The place cannot be written.
    """
    document = Document(_title(figure) or "Plot")
    page = document.page(f"<main>{document.chart(figure)}</main>")
    with written_aside(path) as aside:
        aside.write_text(page, encoding="utf-8")


def _title(figure: Any) -> str | None:
    return figure.layout.title.text


def _wanted() -> bool:
    """Whether plotly's default is somebody's wish: in a script its own is a browser, or nothing."""
    import plotly.io

    default = plotly.io.renderers.default
    if not default:
        return False
    return notebook() is not None or "PLOTLY_RENDERER" in os.environ or not set(default.split("+")) <= BROWSERS


def _also_static() -> None:
    """Where plotly gives data alone, which a front end with its extension draws: HTML too, for pages made of it."""
    import plotly.io

    if plotly.io.renderers.default in ("plotly_mimetype", "vscode") and "PLOTLY_RENDERER" not in os.environ:
        plotly.io.renderers.default += f"+{STATIC}"


def _again(figure: "Figure", renderer: str | None, shown_in: Any) -> None:
    if shown_in is None or shown_in != cell():
        figure.show(renderer)
