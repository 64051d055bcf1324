"""Numbers that say which part of an axis is meant: whoever wrote them (Python, numpy, torch), plain ints come out."""

import operator
from collections.abc import Iterable, Sequence
from typing import Any, SupportsIndex, TypeAlias

from pellucid.base.errors import ArgumentError

Index: TypeAlias = SupportsIndex | Sequence[SupportsIndex] | slice | None


def plain(index: Any, what: str) -> Any:
    """The same index in plain ints; None, slices and names as they are.

    Args:
        index: A number, several, a slice, None for all, or a name.
        what: What it is called, for the error.

    Raises:
        ArgumentError: It is a boolean, or no whole number.

    Example:
        >>> import numpy as np
        >>> import torch
        >>> plain(torch.tensor(3), "head"), plain([np.int64(1), 2], "head")
        (3, [1, 2])
    """
    if index is None or isinstance(index, slice | str):
        return index
    index = index.tolist() if hasattr(index, "tolist") else index
    return [_whole(i, what) for i in index] if isinstance(index, Iterable) else _whole(index, what)


def at_least(what: str, number: Any, least: int) -> int:
    """A whole number that is not below `least`.

    Raises:
        ArgumentError: It is below, or no whole number.

    Example:
        >>> at_least("k", 3, 1)
        3
    """
    try:
        found = plain(number, what)
    except ArgumentError:
        found = None
    if not isinstance(found, int) or found < least:
        raise ArgumentError(f"{what} must be {least} or more, a whole number, got {number!r}")
    return found


def _whole(number: Any, what: str) -> int:
    number = number.tolist() if hasattr(number, "tolist") else number
    if isinstance(number, bool):
        raise ArgumentError(
            f"{what} must be given by number, got the boolean {number}; give the numbers that a mask is true at, "
            "as in mask.nonzero()[:, 0]"
        )
    try:
        return operator.index(number)
    except TypeError as error:
        raise ArgumentError(f"{what} must be a whole number, several, or a slice, got {number!r}") from error
