"""Measurement: the one type that every analysis returns.

In: numbers with named axes, their unit and the record of how they were made. Out: selections, the largest
cells, means with intervals, tables and files, each again with names, unit and record. It is a thin frame
around an `xarray.Dataset` with the variable ``value``, beside it ``low``, ``high`` and ``p_value`` where
they were computed, and whatever else an analysis adds. No method changes a Measurement: each gives a new
one.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from pellucid.base.axes import AXES, cell_name
from pellucid.base.errors import ArgumentError, CheckpointError, UnknownNameError, nearest
from pellucid.base.labelled import labelled, listed
from pellucid.base.netcdf import load_dataset, save_dataset
from pellucid.base.record import Record
from pellucid.base.registry import by_name
from pellucid.maths.statistics import effect

if TYPE_CHECKING:
    import pandas
    import xarray
    from plotly.graph_objects import Figure

UNITS = ("nats", "logits", "attention mass", "fraction", "tokens", "seconds", "bytes")
"""The one vocabulary of units. Accuracies, probabilities and ratios are fractions."""

SURENESS = ("low", "high", "p_value")
"""Variables that say how sure a mean is; a further mean cannot keep them."""


class Measurement:
    """Numbers with named axes, a unit, and the record of how they were made.

    Example:
        >>> values = [[[0.1, 0.9]], [[0.3, 0.8]]]
        >>> scores = Measurement(values, ("prompt", "layer", "head"), unit="fraction", record=Record())
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
            values: Real numbers, one axis for each of `dims`. float64 stays, other floats become float32
                (bfloat16 too), whole numbers and truth values float64.
            dims: Names out of `AXES`.
            unit: One of `UNITS`.
            record: How the numbers were made.
            name: What they are called in tables and pictures.
            coords: Labels, whole numbers or strings. For one of `dims`: as many as it is long, all different
                (0, 1, 2 … if not given). Any other name is a second coordinate, ``(dims, labels)``, such as
                ``{"token": ("pos", ["The", " cat"])}``; or, for an axis, the one label that all cells share.
            variables: Further numbers about the same cells, ``(dims, numbers)``, on all of `dims` or some.

        Raises:
            UnknownNameError: An axis or a unit that is not in the vocabulary.
            ArgumentError: What does not fit: number of axes, of labels, labels that occur twice, not real
                numbers.
        """
        if unit not in UNITS:
            raise UnknownNameError(f"unit must be one of {', '.join(UNITS)}, got {unit!r}{nearest(unit, UNITS)}")
        dataset = labelled(values, dims, coords=coords or {}, variables=variables or {})
        self._dataset = dataset.assign_attrs(unit=unit, name=name)
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
        """The name of each cell, in the order of `values.ravel()`: ``5.1``, ``L8N2744``, ``mlp3``."""
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

    def sel(self, **labels: Any) -> "Measurement":
        """The cells with these labels: one label takes its axis away, a list or an array of labels keeps it.

        Raises:
            UnknownNameError: An axis or a label that is not there. Labels are not places: ``-1`` is no layer.

        Example:
            >>> scores = Measurement([[0.1, 0.9]], ("layer", "head"), unit="fraction", record=Record())
            >>> scores.sel(layer=0, head=1).item()
            0.9
        """
        places: dict[str, Any] = {}
        shared = {}
        for dim, wanted in labels.items():
            self._known(dim)
            known = {label: place for place, label in enumerate(self._dataset[dim].values.tolist())}
            many = isinstance(wanted, Sequence | np.ndarray) and not isinstance(wanted, str)
            found = [_place(dim, label, known) for label in (wanted if many else [wanted])]
            places[dim] = found if many else found[0]
            if isinstance(wanted, str):  # xarray would make it numpy's string, which loses a final NUL
                shared[dim] = ((), np.array(str(wanted), dtype=object))
        return self._framed(self._dataset.isel(places).assign_coords(shared), self._record)

    def top(self, k: int, *, by: str = "value") -> "Measurement":
        """The `k` largest cells, largest first; NaN is passed over, of equal ones the first comes first.

        Args:
            k: How many; all if there are fewer.
            by: The variable that decides, such as ``"low"``: the cells that are surely large.

        Returns:
            One axis: that of a Measurement with one, else ``component``, labelled as the cells are called;
            the axes that it stands for are then second coordinates.

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
        second = {key: (part.dims, part.values, {"second": True}) for key, part in cells.coords.items()}
        return self._framed(cells.assign_coords(second | {"component": ("component", labels)}), self._record)

    def mean(self, dim: str, *, interval: float = 0.95, method: str = "t", seed: int = 0) -> "Measurement":
        """The mean over one axis, in float64; over prompts with its interval and p value.

        Over ``prompt`` the variables ``low``, ``high`` and ``p_value`` come from
        `pellucid.maths.statistics.effect`, which says what the other arguments mean; one prompt has no
        interval (NaN). Over any other axis it is a plain mean, and what an earlier mean over prompts said
        about sureness falls away: average the other axes first. NaN anywhere makes the mean NaN.

        Raises:
            UnknownNameError: No such axis.
            ArgumentError: The axis is empty; an unknown method; an interval that is not between 0 and 1.
        """
        self._known(dim)
        if not self._dataset.sizes[dim]:
            raise ArgumentError(f"{dim} must have one cell or more for a mean, got none")
        attrs = {"unit": self.unit, "name": self.name}
        rest = self._dataset.drop_vars(SURENESS, errors="ignore")
        parts = {}
        if dim == "prompt":
            values = np.moveaxis(self.values, self.dims.index(dim), 0)
            found = effect(values, interval=interval, method=method, seed=seed)
            attrs |= {"n": found.n, "interval": interval, "method": method, "seed": seed}
            parts = {"value": found.mean, "low": found.low, "high": found.high, "p_value": found.p_value}
            rest = rest.drop_vars("value")
        over = tuple(axis for axis in self.dims if axis != dim)
        means = rest.astype(np.float64).mean(dim, skipna=False)
        means = means.assign({key: (over, part) for key, part in parts.items()})
        means.attrs = attrs
        return self._framed(means, self._record)

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
                    f"both Measurements must have the same labels of {dim}, got {listed(ours)} and "
                    f"{listed(theirs)}; choose common ones with .sel"
                )
        ours, theirs = ({key: part.variable for key, part in x._dataset.coords.items()} for x in (self, other))
        kept = {key: part for key, part in ours.items() if key in theirs and part.equals(theirs[key])}
        both = f"{self.name} - {other.name}" if self.name and other.name else None
        with np.errstate(invalid="ignore"):  # two infinities make a NaN, and that is right
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

    def plot(self, **options: Any) -> "Figure":
        """A picture of one axis or two, with the intervals there are: `pellucid.viz.plots.plot`."""
        return by_name("plot")(self, **options)

    def save(self, path: str | Path) -> None:
        """Write everything into one NetCDF file; `load` gives it back exactly.

        Raises:
            OutputError: The place cannot be written.
            TooLargeError: The numbers take 2 GiB or more.
        """
        save_dataset(path, self._dataset.assign_attrs(record=self._record.to_dict()))

    @classmethod
    def load(cls, path: str | Path) -> "Measurement":
        """Read what `save` wrote.

        Raises:
            CheckpointError: The file is none that `save` wrote, or not whole.
        """
        dataset = load_dataset(path)
        if "value" not in dataset or not {"unit", "name", "record"} <= dataset.attrs.keys():
            raise CheckpointError(f"{path} must be a Measurement saved by .save, found another dataset")
        try:
            record = Record.from_dict(dataset.attrs.pop("record"))
        except ArgumentError as error:
            raise CheckpointError(f"{path} must hold a record that this version knows, found: {error}") from error
        return cls._framed(dataset, record)

    def __repr__(self) -> str:
        """Axes, unit, and the five largest cells with their intervals."""
        axes = " × ".join(f"{dim} {size}" for dim, size in zip(self.dims, self.shape, strict=True)) or "one value"
        title = f"Measurement{f' {self.name}' if self.name else ''}: {axes}, {self.unit}"
        if self.n == 1:
            title += ", one prompt: no interval"
        elif self.n is not None:
            attrs = self._dataset.attrs
            title += f", mean of {self.n} prompts, {100 * attrs['interval']:g} % interval ({attrs['method']})"
        best = self.top(5)
        lines = [f"{label}  {value:.4g}" for label, value in best.items()]
        if "low" in best._dataset and self.n != 1:
            bounds = (best._dataset[key].values.ravel() for key in ("low", "high"))
            lines = [f"{line}  [{low:.4g}, {high:.4g}]" for line, low, high in zip(lines, *bounds, strict=True)]
        return "\n  ".join([title, *lines])

    def _known(self, dim: str) -> None:
        if dim not in self.dims:
            raise UnknownNameError(f"this Measurement must have the axis, got {dim!r}{nearest(dim, self.dims)}")

    def _one_cell(self, asked: str) -> None:
        if self.values.size != 1:
            raise ArgumentError(
                f".{asked} needs exactly one cell, got shape {list(self.shape)}; choose with .sel or .top(1)"
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


def _cell_labels(dataset: "xarray.Dataset") -> list[str]:
    """The name of each cell of `value`, from its first coordinates: those that are or were axes."""
    value = dataset["value"]
    axes = [axis for axis in AXES if axis in dataset.coords and "second" not in dataset[axis].attrs]
    columns = [dataset[axis].broadcast_like(value).transpose(*value.dims).values.ravel().tolist() for axis in axes]
    if not axes:
        return [dataset.attrs["name"] or "value"] * value.size
    return [cell_name(dict(zip(axes, labels, strict=True))) for labels in zip(*columns, strict=True)]
