"""What a floor needs from one above it, by_name by name: the only import by name there is.

A result can then draw itself, although pictures stand above results and know them.
"""

from importlib import import_module
from typing import Any

PLACES = {
    "plot": "pellucid.viz.plots:plot",
}
"""Name: module and attribute."""


def by_name(name: str) -> Any:
    """What bears this name in `PLACES`; its module is imported when it is first asked for.

    Example:
        >>> by_name("plot").__module__
        'pellucid.viz.plots'
    """
    module, attribute = PLACES[name].split(":")
    return getattr(import_module(module), attribute)
