"""Datasets of labelled numbers: what `pellucid.measurement` frames and `pellucid.base.netcdf` writes.

In: numbers, names of their axes, labels. Out: an `xarray.Dataset` whose variables are float32 or float64,
whose axes all bear names that `is_axis` knows and all have labels, whole numbers or strings, and which shares no
memory with what came in.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from pellucid.base.axes import AXES, is_axis
from pellucid.base.errors import ArgumentError, UnknownNameError, nearest

if TYPE_CHECKING:
    import xarray


def labelled(
    values: Any,
    dims: Sequence[str],
    *,
    coords: Mapping[str, Any],
    variables: Mapping[str, tuple[str | Sequence[str], Any]],
) -> "xarray.Dataset":
    """A dataset with the variable ``value`` and whatever else is given about the same cells.

    Args:
        values: Tensor, array or nested lists of real numbers.
        dims: The axes of `values`; see `pellucid.base.axes`.
        coords: Labels of an axis; or ``(dims, labels)``, a second coordinate, marked by the attribute
            ``second``; or the one label on an axis of the vocabulary that all cells share.
        variables: ``(dims, numbers)``.

    Raises:
        UnknownNameError: An axis that is not in the vocabulary.
        ArgumentError: Whatever does not fit together.
    """
    import xarray

    dims = (dims,) if isinstance(dims, str) else tuple(dims)
    for dim in dims:
        if not is_axis(dim):
            raise UnknownNameError(f"dims must be axes of the vocabulary, got {dim!r}{nearest(dim, AXES)}")
    value = _numbers("values", values)
    if value.ndim != len(dims) or len(set(dims)) != len(dims):
        found = f"{', '.join(dims) or 'none'} for shape {list(value.shape)}"
        raise ArgumentError(f"dims must name each axis of values once, got {found}")
    sizes = dict(zip(dims, value.shape, strict=True))
    parts = {"value": (dims, value)}
    for key, (over, numbers) in variables.items():
        parts[_new(key, {*parts, *AXES})] = _placed(key, over, _numbers(key, numbers), sizes)
    labels: dict[str, Any] = {dim: (dim, np.arange(size)) for dim, size in sizes.items()}
    for key, given in coords.items():
        labels[key if key in sizes else _new(key, {*parts})] = _coordinate(key, given, sizes)
    return xarray.Dataset(parts, coords=labels)


def listed(labels: Sequence[object]) -> str:
    """Labels for a message: a few of them, and the last."""
    shown = labels if len(labels) <= 12 else [*labels[:6], "…", labels[-1]]
    return ", ".join(map(str, shown)) or "none"


def _numbers(key: str, values: Any) -> Float[np.ndarray, "..."]:
    """A copy as float32 or float64."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    try:
        array = np.array(values)
    except ValueError as error:  # nested lists of different length
        raise ArgumentError(f"{key} must be a rectangle of numbers, got: {error}") from error
    if array.dtype.kind not in "fiub":
        raise ArgumentError(f"{key} must hold real numbers, got {array.dtype}")
    small = array.dtype.kind == "f" and array.dtype.itemsize <= 4
    return array.astype(np.float32 if small else np.float64, copy=False)


def _labels(key: str, labels: Any) -> Int[np.ndarray, "..."] | Shaped[np.ndarray, "..."]:
    """Labels as int64, or as Python strings (numpy's own lose a final NUL)."""
    try:
        array = np.array(labels.tolist() if isinstance(labels, Tensor) else labels, dtype=object)
        kinds = {type(label) for label in array.ravel().tolist()}
        if all(issubclass(kind, int | np.integer) and kind is not bool for kind in kinds):
            return array.astype(np.int64)
    except (ValueError, OverflowError) as error:  # lists of different length; beyond 64 bits
        raise ArgumentError(f"labels of {key} must be whole numbers of 64 bits or strings: {error}") from error
    if all(issubclass(kind, str) for kind in kinds):
        try:
            "".join(array.ravel().tolist()).encode()
        except UnicodeEncodeError as error:  # neither files nor all versions of pandas take half a character
            raise ArgumentError(f"labels of {key} must be valid Unicode, got {error.object[error.start]!r}") from error
        return array
    found = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise ArgumentError(f"labels of {key} must be all whole numbers or all strings, got {found}")


def _new(key: str, taken: set[str]) -> str:
    if key in taken or key == "label" or not key.isidentifier():
        raise ArgumentError(f"variables and coordinates must have names of their own, got {key!r}; choose another")
    return key


def _placed(
    key: str, over: str | Sequence[str], array: np.ndarray, sizes: Mapping[str, int]
) -> tuple[tuple[str, ...], np.ndarray]:
    """An array with its axes, which must be some of the Measurement's."""
    dims = (over,) if isinstance(over, str) else tuple(over)
    expected = [sizes.get(dim) for dim in dims]
    if expected != list(array.shape):
        raise ArgumentError(
            f"{key} must lie on axes of values, which are {dict(sizes)}, "
            f"got {', '.join(dims) or 'none'} for shape {list(array.shape)}"
        )
    return dims, array


def _coordinate(key: str, given: Any, sizes: Mapping[str, int]) -> tuple[Any, ...]:
    """As xarray takes it: axes, labels, attributes."""
    if key in sizes:
        dims, labels = _placed(key, key, _labels(key, given), sizes)
        if len(set(labels.tolist())) != len(labels):
            raise ArgumentError(f"labels of {key} must all be different, got {listed(labels.tolist())}")
        return dims, labels
    if isinstance(given, tuple) and len(given) == 2:
        return *_placed(key, given[0], _labels(key, given[1]), sizes), {"second": True}
    if not is_axis(key) or not isinstance(given, int | str | np.integer):
        raise ArgumentError(
            "a coordinate must be the labels of an axis, a pair (axes, labels), or one label for an axis "
            f"of the vocabulary, got {key}={given!r}"
        )
    return (), _labels(key, given)
