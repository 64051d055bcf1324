"""Datasets as NetCDF 3 files, so that what is read is what was written.

The format, written by xarray's scipy backend, holds float32 and float64 arrays well, but neither 64-bit
integers, nor strings as they are, nor an axis of length 0. So the arrays of numbers are its variables, and
one JSON attribute holds the rest: coordinates, attributes, arrays without numbers.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pellucid.base.errors import ArgumentError, CheckpointError, TooLargeError
from pellucid.base.files import written_aside

if TYPE_CHECKING:
    import xarray

ATTRIBUTE = "pellucid"
SCHEMA = 1
LARGEST = 2**31 - 4
"""Bytes that the format holds in one variable."""


def save_dataset(path: str | Path, dataset: "xarray.Dataset") -> None:
    """Write a dataset; nobody ever finds half a file.

    Args:
        path: The file; one that exists is replaced, folders are made.
        dataset: Variables float32 or float64; coordinates int64, or strings as objects; attributes of the
            dataset and of the coordinates as JSON can hold them.

    Raises:
        ArgumentError: An attribute that JSON cannot hold.
        TooLargeError: A variable of 2 GiB or more.
        OutputError: The place cannot be written.
    """
    for key, variable in dataset.data_vars.items():
        if variable.nbytes > LARGEST:
            raise TooLargeError(
                f"{path}: a variable must be smaller than 2 GiB in a NetCDF 3 file, "
                f"got {key} of {variable.nbytes} bytes; save it in parts, chosen by label"
            )
    empty = {key: variable for key, variable in dataset.data_vars.items() if not variable.size}
    header = {
        "schema": SCHEMA,
        "attributes": dataset.attrs,
        "coordinates": {key: _described(part) | {"attributes": part.attrs} for key, part in dataset.coords.items()},
        "empty": {key: _described(part) for key, part in empty.items()},
    }
    try:
        text = json.dumps(header)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{path}: attributes must be JSON values, got: {error}") from error
    full = dataset.drop_vars([*dataset.coords, *empty])
    full.attrs = {ATTRIBUTE: text}
    with written_aside(path) as aside, aside.open("wb") as file:
        full.to_netcdf(file, engine="scipy", encoding={key: {"_FillValue": None} for key in full.data_vars})


def load_dataset(path: str | Path) -> "xarray.Dataset":
    """The inverse of `save_dataset`.

    Raises:
        CheckpointError: There is no such file, or it is none that `save_dataset` wrote, or it is cut off.
    """
    import xarray

    try:
        with Path(path).open("rb") as file:
            raw = xarray.load_dataset(file, engine="scipy", decode_cf=False)
        header = json.loads(raw.attrs[ATTRIBUTE])
        if header["schema"] != SCHEMA:
            raise ValueError(f"schema {header['schema']}, which another version wrote")
        numbers = {key: (part.dims, part.values.astype(part.dtype.newbyteorder("="))) for key, part in raw.items()}
        empty = {key: _restored(part) for key, part in header["empty"].items()}
        coordinates = {key: (*_restored(part), part["attributes"]) for key, part in header["coordinates"].items()}
        return xarray.Dataset(numbers | empty, coords=coordinates, attrs=header["attributes"])
    except Exception as error:  # the backend raises whatever a broken file makes it stumble over
        found = "no such file" if isinstance(error, FileNotFoundError) else f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{path} must be a file that Pellucid saved as NetCDF, found: {found}") from error


def _described(part: "xarray.DataArray") -> dict[str, Any]:
    kind = "string" if part.dtype == object else part.dtype.name
    return {"dims": part.dims, "shape": part.shape, "kind": kind, "items": part.values.ravel().tolist()}


def _restored(part: dict[str, Any]) -> tuple[tuple[str, ...], np.ndarray]:
    kind = object if part["kind"] == "string" else part["kind"]
    return tuple(part["dims"]), np.array(part["items"], dtype=kind).reshape(part["shape"])
