"""A view's data as its module gets it: JSON values, and arrays as bytes with their kind and shape."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

KINDS = ("float32", "float64")
"""Kinds of numbers that travel as bytes; modules know how to read them."""


def packed(value: Any, encode: Callable[[bytes], Any]) -> Any:
    """The same value with each array of numbers as ``{kind, shape, bytes}``, little-endian.

    Args:
        value: JSON values and arrays of one of `KINDS`.
        encode: What becomes of the bytes: a notebook takes them as they are, a page as text.

    Example:
        >>> packed({"loss": np.array([1.0])}, bytes.hex)
        {'loss': {'kind': 'float64', 'shape': [1], 'bytes': '000000000000f03f'}}
    """
    if isinstance(value, np.ndarray):
        kind = value.dtype.name
        if kind not in KINDS:
            raise TypeError(f"arrays of a view must be {' or '.join(KINDS)}, got {kind}")
        little = value.astype(value.dtype.newbyteorder("<"), copy=False)
        return {"kind": kind, "shape": list(value.shape), "bytes": encode(little.tobytes())}
    if isinstance(value, Mapping):
        return {key: packed(part, encode) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [packed(part, encode) for part in value]
    return value
