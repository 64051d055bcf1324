"""The smallest view: it proves that pictures show here."""

from dataclasses import dataclass
from typing import Any, ClassVar

from pellucid.viz.view import View
from pellucid.viz.visible import printable


@dataclass(eq=False, repr=False)
class Greeting(View):
    """A name, greeted."""

    module: ClassVar[str] = "hello.js"

    name: str

    def title(self) -> str:
        """The greeting."""
        return f"Hello, {printable(self.name)}"

    def data(self) -> dict[str, Any]:
        """The name as it is shown."""
        return {"name": printable(self.name)}


def hello(name: str) -> Greeting:
    """Greets somebody with a picture; where it appears, all pictures do.

    Raises:
        MissingExtraError: In a notebook without anywidget.

    Example:
        >>> hello("Neel")
        <Hello, Neel; .save('page.html') writes a page>
    """
    view = Greeting(name)
    view.show()
    return view
