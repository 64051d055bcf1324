"""Libraries that are only needed for some things."""

from importlib import import_module
from types import ModuleType

from pellucid.base.errors import MissingExtraError


def optional(module: str, *, extra: str) -> ModuleType:
    """The module, or an error that gives the line that installs it.

    Raises:
        MissingExtraError: `module` is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtraError(f"{module} must be installed for this; run: pip install 'pellucid[{extra}]'") from error
