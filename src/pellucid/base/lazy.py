"""Names of a package that are imported when they are first used (PEP 562), so that importing it costs nothing."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package.

    Args:
        package: Its name, for the error.
        homes: The module that each name is found in.

    Example:
        >>> lazy("package", {"sqrt": "math"})("sqrt")(4)
        2.0
    """

    def find(name: str) -> Any:
        if name in homes:
            return getattr(import_module(homes[name]), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find
