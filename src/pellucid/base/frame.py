"""Labelled numbers with their unit and the record of how they were made: what a `Measurement` is, before it is asked.

In: numbers, names of their axes, labels. Out: selections, the largest cells, tables, files. It is a thin frame around
an `xarray.Dataset`; no method changes it.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from jaxtyping import Float, Shaped
from torch import Tensor

from pellucid.base.cells import cell_labels, check_same_cells, chosen, dims_of, largest
from pellucid.base.errors import ArgumentError, CheckpointError, UnknownNameError, nearest
from pellucid.base.labelled import labelled
from pellucid.base.netcdf import load_dataset, save_dataset
from pellucid.base.record import Record

if TYPE_CHECKING:
    import pandas
    import xarray

UNITS = (
    *("nats", "logits", "attention mass", "fraction", "tokens", "steps", "dimensions", "activation", "seconds"),
    "bytes",
    "bits per byte",
)
"""The one vocabulary of units. Accuracies, probabilities and ratios are fractions; lengths of vectors are in that of
activations."""

F = TypeVar("F", bound="Frame")


class Frame:
    """Numbers with named axes, a unit, and the record of how they were made."""

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
            dims: See `pellucid.base.axes`.
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
    def _framed(cls: type[F], dataset: "xarray.Dataset", record: Record) -> F:
        """A frame of a dataset that is known to be right."""
        made = cls.__new__(cls)
        made._dataset, made._record = dataset, record
        return made

    @classmethod
    def stacked(cls: type[F], dim: str, parts: Mapping[Any, F]) -> F:
        """Several frames of the same cells as one, along a new first axis.

        Args:
            dim: The axis.
            parts: The frames by their labels on it, whole numbers or strings.

        Returns:
            Unit, name and record are those of the first.

        Raises:
            ArgumentError: There are none, or they speak of different cells or units.
            UnknownNameError: No such axis in the vocabulary.

        Example:
            >>> parts = {n: Frame([n, 2 * n], ("head",), unit="tokens", record=Record()) for n in (1, 5)}
            >>> Frame.stacked("step", parts).values.tolist()
            [[1.0, 2.0], [5.0, 10.0]]
        """
        import xarray

        frames = list(parts.values())
        if not frames:
            raise ArgumentError(f"one frame or more must be given to be stacked along {dim}, got none")
        first = frames[0]
        for other in frames[1:]:
            if other.unit != first.unit or set(other._dataset) != set(first._dataset):
                raise ArgumentError(f"all parts must be alike, got {first.unit} and {other.unit}")
            check_same_cells(first._dataset, other._dataset)
        labels = labelled(np.zeros(len(frames)), (dim,), coords={dim: list(parts)}, variables={})
        bare = [frame._dataset.drop_vars(dim, errors="ignore") for frame in frames]  # a label that a selection left
        data = xarray.concat(bare, dim, coords="minimal", compat="override")
        data = data.assign_coords({dim: labels[dim]}).assign_attrs(first._dataset.attrs)
        return cls._framed(data.transpose(dim, *first.dims, ...), first.record)

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
        return dims_of(self._dataset)

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
        return cell_labels(self._dataset)

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

    def sel(self: F, **labels: Any) -> F:
        """The cells with these labels: one label takes its axis away, a list or an array of labels keeps it.

        Raises:
            UnknownNameError: An axis or a label that is not there. Labels are not places: ``-1`` is no layer.

        Example:
            >>> scores = Frame([[0.1, 0.9]], ("layer", "head"), unit="fraction", record=Record())
            >>> scores.sel(layer=0, head=1).item()
            0.9
        """
        return self._framed(chosen(self._dataset, labels), self._record)

    def top(self: F, k: int, *, by: str = "value") -> F:
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
        return self._framed(largest(self._dataset, k, by), self._record)

    def to_frame(self) -> "pandas.DataFrame":
        """A table with one row a cell: its labels, its name as ``label``, and every variable."""
        import pandas

        data, value = self._dataset, self._dataset["value"]
        columns = [*self.dims, *(key for key in data.coords if key not in self.dims), *data.data_vars]
        table = {key: data[key].broadcast_like(value).transpose(*self.dims).values.ravel() for key in columns}
        frame = pandas.DataFrame(table)
        frame.insert(len(data.coords), "label", self.labels)
        return frame

    def save(self, path: str | Path) -> None:
        """Write everything into one NetCDF file; `load` gives it back exactly.

        Raises:
            OutputError: The place cannot be written.
            TooLargeError: The numbers take 2 GiB or more.
        """
        save_dataset(path, self._dataset.assign_attrs(record=self._record.to_dict()))

    @classmethod
    def load(cls: type[F], path: str | Path) -> F:
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

    def _one_cell(self, asked: str) -> None:
        if self.values.size != 1:
            raise ArgumentError(
                f".{asked} needs exactly one cell, got shape {list(self.shape)}; choose with .sel or .top(1)"
            )
