"""Measurement: the one type that every analysis returns.

In: numbers with named axes, their unit and the record of how they were made. Out: selections, the largest cells, means
with intervals, tables and files, each again with names, unit and record. It is a thin frame around an `xarray.Dataset`
with the variable ``value``, beside it ``low``, ``high`` and ``p_value`` where they were computed, and whatever else an
analysis adds. No method changes a Measurement: each gives a new one.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from pellucid.base.errors import ArgumentError, CheckpointError, OutputError, UnknownNameError, nearest
from pellucid.base.files import written_aside
from pellucid.base.record import Record
from pellucid.maths.statistics import effect

if TYPE_CHECKING:
    import pandas
    import xarray

AXES = (
    *("prompt", "layer", "pos", "q_pos", "k_pos", "head", "kv_head", "neuron", "component"),
    *("d_model", "d_head", "d_mlp", "d_vocab", "sender", "receiver", "input", "position"),
    *("group", "role", "step", "token"),
)
"""The one vocabulary of axes: every dimension of every Measurement bears one of these names."""

UNITS = ("nats", "logits", "attention mass", "fraction", "tokens", "seconds", "bytes")
"""The one vocabulary of units. Accuracies, probabilities and ratios are fractions."""

SURENESS = ("low", "high", "p_value")
"""Variables that say how sure a mean is; a further mean cannot keep them."""

LARGEST = 2**31 - 4
"""Bytes that NetCDF 3 holds in one variable."""


class Measurement:
    """Numbers with named axes, a unit, and the record of how they were made.

    Example:
        >>> scores = Measurement([[[0.1, 0.9]], [[0.3, 0.8]]], ("prompt", "layer", "head"), unit="fraction", record=Record())
        >>> scores.mean("prompt").top(1)
        Measurement: component 1, fraction, mean of 2 prompts, 95 % interval (t)
          0.1  0.85  [0.2147, 1.485]
        >>> scores.mean("prompt").top(1).label
        '0.1'
    """

    def __init__(
        self,
        values: Shaped[Tensor, "..."] | Shaped[np.ndarray, "..."] | Sequence[Any] | float,
        dims: Sequence[str],
        *,
        unit: str,
        record: Record,
        name: str | None = None,
        coords: Mapping[str, Any] | None = None,
        variables: Mapping[str, tuple[str | Sequence[str], Any]] | None = None,
    ) -> None:
        """Frame some numbers; they are copied, so later changes to `values` change nothing here.

        Args:
            values: Real numbers, one axis for each of `dims`. float64 stays, other floats become float32 (bfloat16 too),
                whole numbers and truth values float64.
            dims: Names out of `AXES`.
            unit: One of `UNITS`.
            record: How the numbers were made.
            name: What they are called in tables and pictures.
            coords: Labels, whole numbers or strings. For one of `dims`: as many as it is long, all different (0, 1, 2 …
                if not given). Any other name is a second coordinate, ``(dims, labels)``, such as
                ``{"token": ("pos", ["The", " cat"])}``; or, for an axis, the one label that all cells share.
            variables: Further numbers about the same cells, ``(dims, numbers)``, on all of `dims` or some.

        Raises:
            UnknownNameError: An axis or a unit that is not in the vocabulary.
            ArgumentError: What does not fit: number of axes, of labels, labels that occur twice, not real numbers.
        """
        import xarray

        dims = (dims,) if isinstance(dims, str) else tuple(dims)
        for dim in dims:
            if dim not in AXES:
                raise UnknownNameError(f"dims must be axes of the vocabulary, got {dim!r}{nearest(dim, AXES)}")
        if unit not in UNITS:
            raise UnknownNameError(f"unit must be one of {', '.join(UNITS)}, got {unit!r}{nearest(unit, UNITS)}")
        value = _numbers("values", values)
        if value.ndim != len(dims) or len(set(dims)) != len(dims):
            raise ArgumentError(
                f"dims must name each axis of values once, got {', '.join(dims) or 'none'} for shape "
                f"{list(value.shape)}"
            )
        sizes = dict(zip(dims, value.shape, strict=True))
        parts = {"value": (dims, value)}
        for key, (over, numbers) in (variables or {}).items():
            parts[_new(key, parts)] = _placed(key, over, _numbers(key, numbers), sizes)
        labels: dict[str, Any] = {dim: (dim, np.arange(size)) for dim, size in sizes.items()}
        for key, given in (coords or {}).items():
            labels[_new(key, parts)] = _coordinate(key, given, sizes)
        self._dataset = xarray.Dataset(parts, coords=labels, attrs={"unit": unit, "name": name})
        self._record = record

    @classmethod
    def _framed(cls, dataset: "xarray.Dataset", record: Record) -> "Measurement":
        """A Measurement of a dataset that is known to be right."""
        made = cls.__new__(cls)
        made._dataset, made._record = dataset, record
        return made

    @property
    def dataset(self) -> "xarray.Dataset":
        """The dataset inside, as a shallow copy."""
        return self._dataset.copy()

    @property
    def values(self) -> Float[np.ndarray, "..."]:
        """The numbers, float32 or float64, in the order of `dims`."""
        return self._dataset["value"].values

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the axes."""
        return tuple(str(dim) for dim in self._dataset["value"].dims)

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return self._dataset["value"].shape

    @property
    def unit(self) -> str:
        """What the numbers are counted in."""
        return self._dataset.attrs["unit"]

    @property
    def name(self) -> str | None:
        """What the numbers are called."""
        return self._dataset.attrs["name"]

    @property
    def record(self) -> Record:
        """How the numbers were made."""
        return self._record

    @property
    def n(self) -> int | None:
        """Prompts that this is the mean of; None where it is not a mean over prompts."""
        return self._dataset.attrs.get("n")

    @property
    def labels(self) -> list[str]:
        """The name of each cell, in the order of `values.ravel()`: heads as ``5.1``, neurons as ``L8N2744``."""
        return _cell_labels(self._dataset)

    @property
    def label(self) -> str:
        """The name of the one cell there is.

        Raises:
            ArgumentError: There is not exactly one cell.
        """
        self._one_cell("label")
        return self.labels[0]

    def item(self) -> float:
        """The number in the one cell there is.

        Raises:
            ArgumentError: There is not exactly one cell.
        """
        self._one_cell("item")
        return float(self.values.item())

    def items(self) -> Iterator[tuple[str, float]]:
        """Each cell's name and number."""
        return zip(self.labels, self.values.ravel().tolist(), strict=True)

    def sel(self, **labels: int | str | Sequence[int | str]) -> "Measurement":
        """The cells with these labels: one label takes its axis away, a list of labels keeps it.

        Raises:
            UnknownNameError: An axis or a label that is not there. Labels are not places: ``-1`` is no layer.

        Example:
            >>> scores = Measurement([[0.1, 0.9]], ("layer", "head"), unit="fraction", record=Record())
            >>> scores.sel(layer=0, head=1).item()
            0.9
        """
        places: dict[str, Any] = {}
        for dim, wanted in labels.items():
            self._known(dim)
            known = {label: place for place, label in enumerate(self._dataset[dim].values.tolist())}
            one = isinstance(wanted, int | str | np.integer)
            found = [_place(dim, label, known) for label in ([wanted] if one else wanted)]
            places[dim] = found[0] if one else found
        return self._framed(self._dataset.isel(places), self._record)

    def top(self, k: int, *, by: str = "value") -> "Measurement":
        """The `k` largest cells, largest first; NaN is passed over, of equal ones the first comes first.

        Args:
            k: How many; all if there are fewer.
            by: The variable that decides, such as ``"low"``: the cells that are surely large.

        Returns:
            One axis: that of a Measurement with one, else ``component``, labelled as the cells are called; the axes that
            it stands for are then second coordinates.

        Raises:
            ArgumentError: `k` is not positive; the variable is not on all axes.
            UnknownNameError: There is no such variable.
        """
        import xarray

        if k < 1:
            raise ArgumentError(f"k must be 1 or more, got {k}")
        if by not in self._dataset.data_vars:
            known = [str(key) for key in self._dataset.data_vars]
            raise UnknownNameError(f"by must be a variable of this Measurement, got {by!r}{nearest(by, known)}")
        if self._dataset[by].dims != self._dataset["value"].dims:
            raise ArgumentError(f"by must be a variable on all of {self.dims}, got {by!r} on {self._dataset[by].dims}")
        order = _largest(self._dataset[by].values.ravel(), k)
        if len(self.dims) == 1:
            return self._framed(self._dataset.isel({self.dims[0]: order}), self._record)
        places = np.unravel_index(order, self.shape) if self.dims else ()
        cells = self._dataset.isel(
            {dim: xarray.DataArray(at, dims="cell") for dim, at in zip(self.dims, places, strict=True)}
        )
        if not self.dims:
            cells = cells.expand_dims("cell").isel(cell=order)
        labels = np.array(_cell_labels(cells), dtype=object)
        cells = cells.drop_vars("component", errors="ignore").rename(cell="component")
        for coordinate in cells.coords.values():
            coordinate.attrs["second"] = True
        return self._framed(cells.assign_coords(component=labels), self._record)

    def mean(self, dim: str, *, interval: float = 0.95, method: str = "t", seed: int = 0) -> "Measurement":
        """The mean over one axis, in float64; over prompts with its interval and p value.

        Over ``prompt`` the variables ``low``, ``high`` and ``p_value`` come from `pellucid.maths.statistics.effect`, which
        says what the other arguments mean; one prompt has no interval (NaN). Over any other axis it is a plain mean, and
        what an earlier mean over prompts said about sureness falls away: average the other axes first. NaN anywhere makes
        the mean NaN.

        Raises:
            UnknownNameError: No such axis.
            ArgumentError: The axis is empty; an unknown method; an interval that is not between 0 and 1.
        """
        self._known(dim)
        if not self._dataset.sizes[dim]:
            raise ArgumentError(f"{dim} must have one cell or more for a mean, got none")
        plain = self._dataset.drop_vars(SURENESS, errors="ignore").astype(np.float64).mean(dim, skipna=False)
        plain.attrs = {"unit": self.unit, "name": self.name}
        if dim == "prompt":
            values = np.moveaxis(self.values, self.dims.index(dim), 0)
            found = effect(values, interval=interval, method=method, seed=seed)
            over = plain["value"].dims
            parts = {"value": found.mean, "low": found.low, "high": found.high, "p_value": found.p_value}
            plain = plain.assign({key: (over, part) for key, part in parts.items()})
            plain.attrs |= {"n": found.n, "interval": interval, "method": method, "seed": seed}
        return self._framed(plain, self._record)

    def __sub__(self, other: "Measurement") -> "Measurement":
        """Cell minus cell, such as a score minus its control on the same prompts.

        Axes, labels and unit must be the same. Subtract first and average then: intervals of means fall away.

        Raises:
            ArgumentError: Axes, labels or unit differ.
        """
        import xarray

        if not isinstance(other, Measurement):
            return NotImplemented
        for word, ours, theirs in (("unit", self.unit, other.unit), ("axes", self.dims, other.dims)):
            if ours != theirs:
                raise ArgumentError(f"both Measurements must have the same {word}, got {ours} and {theirs}")
        for dim in self.dims:
            ours, theirs = (part._dataset[dim].values.tolist() for part in (self, other))
            if ours != theirs:
                raise ArgumentError(
                    f"both Measurements must have the same labels of {dim}, got {_listed(ours)} and {_listed(theirs)}; "
                    "choose common ones with .sel"
                )
        theirs = other._dataset.coords
        kept = {key: ours for key, ours in self._dataset.coords.items() if key in theirs and ours.equals(theirs[key])}
        both = f"{self.name} - {other.name}" if self.name and other.name else None
        value = (self.dims, self.values - other.values)
        dataset = xarray.Dataset({"value": value}, coords=kept, attrs={"unit": self.unit, "name": both})
        minus = {"minus": {"name": other.name, "record": other.record.to_dict()}}
        return self._framed(dataset, self._record.add(settings=minus))

    def to_frame(self) -> "pandas.DataFrame":
        """A table with one row a cell: its labels, its name as ``label``, and every variable."""
        import pandas

        data, value = self._dataset, self._dataset["value"]
        columns = [*self.dims, *(key for key in data.coords if key not in self.dims), *data.data_vars]
        table = {key: data[key].broadcast_like(value).transpose(*self.dims).values.ravel() for key in columns}
        frame = pandas.DataFrame(table)
        frame.insert(len(data.coords), "label", self.labels)
        return frame
