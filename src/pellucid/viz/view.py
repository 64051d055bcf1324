"""Views: pictures of our own. A view is data plus one ES module, drawn alike in a notebook and in a page."""

from abc import ABC, abstractmethod
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from pellucid.base.files import written_aside
from pellucid.base.optional import optional
from pellucid.viz.document import Document
from pellucid.viz.modules import source
from pellucid.viz.packing import packed
from pellucid.viz.showing import cell, framed, is_unshown, keep, notebook, switch_on_widgets


class View(ABC):
    """A picture that can be hovered and reached with the keyboard.

    Each view is a dataclass of what it shows, and names the file of ``viz/static`` that draws it.
    """

    module: ClassVar[str]
    """Name of the ES module, whose default export is ``{ render({ model, el }) }``."""

    _shown_in: tuple[int, int] | None = None

    @abstractmethod
    def data(self) -> dict[str, Any]:
        """What the module gets as ``model.get("data")``: JSON values, and arrays of float32 or float64."""

    @abstractmethod
    def title(self) -> str:
        """What is to be seen, in a few words."""

    def show(self) -> None:
        """Show it here and now: in a notebook in the output of the cell that runs, even from inside a hook.

        Where no notebook is, it is saved in the folder that the variable PELLUCID_PICTURES names, if any.

        Raises:
            MissingExtraError: In a notebook without anywidget.
        """
        if is_unshown():
            return
        if notebook():
            from IPython.display import display

            switch_on_widgets()
            display(self._bundle(), raw=True)
            self._shown_in = cell()
        else:
            keep(self.title(), self.save)

    def save(self, path: str | Path) -> None:
        """Write a page that shows it: one file, which opens from disk and asks the network for nothing.

        Raises:
            OutputError: The place cannot be written.
        """
        with written_aside(path) as aside:
            aside.write_text(self._page(), encoding="utf-8")

    def widget(self) -> Any:
        """It as a widget for notebooks.

        Raises:
            MissingExtraError: anywidget is not installed.
        """
        return _widget_class(self.module)(data=packed(self.data(), bytes))

    def _page(self) -> str:
        document = Document(self.title())
        return document.page(f"<main>{document.view(self.module, self.data())}</main>")

    def _bundle(self) -> dict[str, Any]:
        """What each front end shows: the widget, or the page in a frame where there is no kernel, as in static HTML."""
        bundle = self.widget()._repr_mimebundle_()
        data: dict[str, Any] = dict(bundle[0] if isinstance(bundle, tuple) else bundle)
        return data | {"text/html": framed(self._page(), self.title()), "text/plain": repr(self)}

    def __repr__(self) -> str:
        """What is to be seen, and how to keep it."""
        return f"<{self.title()}; .save('page.html') writes a page>"

    def _ipython_display_(self) -> None:
        """A notebook calls this for the last line of a cell: what the same cell has shown is not shown twice."""
        if self._shown_in is None or self._shown_in != cell():
            self.show()


@cache
def _widget_class(module: str) -> type:
    anywidget = optional("anywidget", extra="notebook")
    traitlets = optional("traitlets", extra="notebook")
    parts = {"_esm": source(module), "data": traitlets.Dict().tag(sync=True), "__module__": __name__}
    return type(f"Widget_{module.removesuffix('.js')}", (anywidget.AnyWidget,), parts)
