"""Datasets through files; the round trip of whole Measurements is tested in tests/test_measurement.py."""

import numpy as np
import pytest
import xarray

from pellucid.base.errors import ArgumentError, CheckpointError
from pellucid.base.netcdf import ATTRIBUTE, load_dataset, save_dataset


def dataset(**attributes):
    return xarray.Dataset(
        {"value": (("layer", "pos"), np.array([[1, np.nan]], dtype=np.float32)), "empty": ("head", np.zeros(0))},
        coords={
            "layer": np.array([2**40]),
            "token": ("pos", np.array(["Ġcat\0", "猫 😀"], dtype=object), {"second": True}),
            "group": ((), np.array("are", dtype=object)),
        },
        attrs=attributes,
    )


def test_numbers_labels_and_attributes_come_back_as_they_were(tmp_path):
    before = dataset(unit="nats", nested={"a": [1, None, "é"]})
    save_dataset(tmp_path / "a.nc", before)
    after = load_dataset(tmp_path / "a.nc")
    assert after.identical(before)
    for key in before.variables:
        assert after.variables[key].dtype == before.variables[key].dtype
        assert after.variables[key].attrs == before.variables[key].attrs


def test_a_file_in_the_byte_order_of_the_format_comes_back_in_that_of_the_machine(tmp_path):
    save_dataset(tmp_path / "a.nc", dataset())
    assert load_dataset(tmp_path / "a.nc")["value"].dtype.isnative


def test_saving_changes_nothing_in_the_dataset(tmp_path):
    made = dataset(unit="nats")
    save_dataset(tmp_path / "a.nc", made)
    assert made.identical(dataset(unit="nats"))


def test_attributes_that_json_cannot_hold_are_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(ArgumentError, match=r"a\.nc: attributes must be JSON values, got: .*set"):
        save_dataset(tmp_path / "a.nc", dataset(bad={1, 2}))
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_a_later_form_is_refused(tmp_path):
    xarray.Dataset(attrs={ATTRIBUTE: '{"schema": 99}'}).to_netcdf(tmp_path / "a.nc", engine="scipy")
    with pytest.raises(CheckpointError, match=r"a\.nc must be .*schema 99, which another version wrote"):
        load_dataset(tmp_path / "a.nc")
