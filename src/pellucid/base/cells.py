"""The cells of a labelled dataset: chosen by their labels, the largest of them, and what each is called."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from pellucid.base.axes import cell_name, in_order
from pellucid.base.errors import ArgumentError, UnknownNameError, nearest
from pellucid.base.labelled import listed

if TYPE_CHECKING:
    import xarray


def dims_of(dataset: "xarray.Dataset") -> tuple[str, ...]:
    """The axes of ``value``."""
    return tuple(str(dim) for dim in dataset["value"].dims)


def check_axis(dataset: "xarray.Dataset", dim: str) -> None:
    """Whether there is such an axis.

    Raises:
        UnknownNameError: There is none.
    """
    if dim not in dims_of(dataset):
        found = f"got {dim!r}{nearest(dim, dims_of(dataset))}"
        raise UnknownNameError(f"this Measurement must have the axis, {found}")


def check_variable(dataset: "xarray.Dataset", asked: str, name: str) -> None:
    """Whether there is such a variable.

    Raises:
        UnknownNameError: There is none; `asked` says what it was wanted for.
    """
    known = [str(key) for key in dataset.data_vars]
    if name not in known:
        raise UnknownNameError(f"{asked} must be a variable of this Measurement, got {name!r}{nearest(name, known)}")


def chosen(dataset: "xarray.Dataset", labels: Mapping[str, Any]) -> "xarray.Dataset":
    """The cells with these labels: one label takes its axis away, several keep it.

    Raises:
        UnknownNameError: An axis or a label that is not there.
    """
    places: dict[str, Any] = {}
    shared = {}
    for dim, wanted in labels.items():
        check_axis(dataset, dim)
        known = {label: place for place, label in enumerate(dataset[dim].values.tolist())}
        many = isinstance(wanted, Sequence | np.ndarray) and not isinstance(wanted, str)
        found = [_place(dim, label, known) for label in (wanted if many else [wanted])]
        places[dim] = found if many else found[0]
        if isinstance(wanted, str):  # xarray would make it numpy's string, which loses a final NUL
            shared[dim] = ((), np.array(str(wanted), dtype=object))
    return dataset.isel(places).assign_coords(shared)


def largest(dataset: "xarray.Dataset", k: int, by: str) -> "xarray.Dataset":
    """The `k` largest cells, as `Measurement.top` gives them.

    Raises:
        ArgumentError: `k` is not positive; the variable is not on all axes.
        UnknownNameError: There is no such variable.
    """
    import xarray

    dims = dims_of(dataset)
    if k < 1:
        raise ArgumentError(f"k must be 1 or more, got {k}")
    check_variable(dataset, "by", by)
    if dataset[by].dims != dataset["value"].dims:
        raise ArgumentError(f"by must be a variable on all of {dims}, got {by!r} on {dataset[by].dims}")
    order = _largest(dataset[by].values.ravel(), k)
    if len(dims) == 1:
        return dataset.isel({dims[0]: order})
    places = np.unravel_index(order, dataset["value"].shape) if dims else ()
    cells = dataset.isel({dim: xarray.DataArray(at, dims="cell") for dim, at in zip(dims, places, strict=True)})
    if not dims:
        cells = cells.expand_dims("cell").isel(cell=order)
    labels = np.array(cell_labels(cells), dtype=object)
    cells = cells.drop_vars("component", errors="ignore").rename(cell="component")
    second = {key: (part.dims, part.values, {"second": True}) for key, part in cells.coords.items()}
    return cells.assign_coords(second | {"component": ("component", labels)})


def cell_labels(dataset: "xarray.Dataset") -> list[str]:
    """The name of each cell of ``value``, from its first coordinates: those that are or were axes."""
    value = dataset["value"]
    axes = [axis for axis in in_order(map(str, dataset.coords)) if "second" not in dataset[axis].attrs]
    columns = [dataset[axis].broadcast_like(value).transpose(*value.dims).values.ravel().tolist() for axis in axes]
    if not axes:
        return [dataset.attrs["name"] or "value"] * value.size
    return [cell_name(dict(zip(axes, labels, strict=True))) for labels in zip(*columns, strict=True)]


def check_same_cells(ours: "xarray.Dataset", theirs: "xarray.Dataset") -> None:
    """Whether two datasets speak of the same cells, in the same order.

    Raises:
        ArgumentError: Axes or labels differ.
    """
    if dims_of(ours) != dims_of(theirs):
        raise ArgumentError(f"both Measurements must have the same axes, got {dims_of(ours)} and {dims_of(theirs)}")
    for dim in dims_of(ours):
        here, there = (part[dim].values.tolist() for part in (ours, theirs))
        if here != there:
            raise ArgumentError(
                f"both Measurements must have the same labels of {dim}, got {listed(here)} and "
                f"{listed(there)}; choose common ones with .sel"
            )


def _place(dim: str, label: object, known: Mapping[Any, int]) -> int:
    try:
        return known[label]
    except (KeyError, TypeError):  # TypeError: a slice, or whatever else cannot be a label
        near = nearest(str(label), map(str, known)) or f"; there is: {listed(list(known))}"
        raise UnknownNameError(f"{dim} must be a label that is there, got {label!r}{near}") from None


def _largest(values: Float[np.ndarray, " cells"], k: int) -> Int[np.ndarray, " k"]:
    """Where the `k` largest are, largest first; without sorting all, which may be millions."""
    finite = values[~np.isnan(values)]
    k = min(k, len(finite))
    if not k:
        return np.empty(0, dtype=np.int64)
    near = np.flatnonzero(values >= np.partition(finite, -k)[-k])
    return near[np.argsort(-values[near], kind="stable")][:k]
