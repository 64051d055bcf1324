"""Every error that Pellucid raises on purpose, and the words they share.

A message says what must hold, what was found and what to do. Each class is also the built-in exception that fits, so
that
`except ValueError` or `except KeyError` written by a user keeps working.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class PellucidError(Exception):
    """Base of every error that Pellucid raises on purpose."""

    def __str__(self) -> str:
        """The message itself (`KeyError` would print its repr)."""
        return str(self.args[0]) if self.args else ""


class ConfigError(PellucidError, ValueError):
    """A configuration that cannot be."""


class ArgumentError(PellucidError, ValueError):
    """An argument that cannot be, or that contradicts another."""


class UnknownNameError(PellucidError, KeyError):
    """A name that nothing here bears: a hook point, a model, an axis, a column."""


class HookError(PellucidError, ValueError):
    """A hook or an edit gave back what cannot take the activation's place."""


class TokenError(PellucidError, ValueError):
    """Text or tokens that the model's vocabulary or its policy cannot take."""


class CheckpointError(PellucidError, ValueError):
    """A file of weights, configuration or tokenizer that cannot be read as what it should be."""


class OutputError(PellucidError, OSError):
    """A place to write that cannot be written, or that holds results already."""


class TrainingError(PellucidError, ArithmeticError):
    """A training run that cannot go on, such as one whose loss is no number any more."""


class TooLargeError(PellucidError, MemoryError):
    """A result that does not fit in memory."""


class MissingExtraError(PellucidError, ImportError):
    """An optional library that is not installed."""


class MisreadWarning(UserWarning):
    """A result that is right but may be misread."""


def nearest(name: str, known: Iterable[str], *, count: int = 3) -> str:
    """`"; nearest: a, b"`: the known names most like `name`, for the end of an error message, or what there is if few.

    Example:
        >>> nearest("hook_patern", ["hook_pattern", "hook_q", "hook_z", "hook_v", "hook_k"])
        '; nearest: hook_pattern'
    """
    known = list(known)
    close = get_close_matches(name, known, n=count, cutoff=0.6)
    if close:
        return f"; nearest: {', '.join(close)}"
    return f"; there is: {', '.join(known)}" if 0 < len(known) <= 12 else ""
