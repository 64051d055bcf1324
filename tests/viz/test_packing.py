"""Arrays travel as bytes."""

import numpy as np
import pytest

from pellucid.viz.packing import packed


def test_arrays_become_bytes_wherever_they_lie():
    data = {"columns": [{"values": np.array([1.0, 2.0])}], "n": 3, "name": None}
    part = packed(data, bytes)["columns"][0]["values"]
    assert (part["kind"], part["shape"]) == ("float64", [2])
    assert np.frombuffer(part["bytes"], "<f8").tolist() == [1.0, 2.0]
    assert packed(data, bytes)["n"] == 3


def test_bytes_are_little_endian_and_row_by_row():
    values = np.arange(6, dtype=">f4").reshape(2, 3).T
    part = packed(values, bytes)
    assert (part["kind"], part["shape"]) == ("float32", [3, 2])
    assert np.frombuffer(part["bytes"], "<f4").tolist() == [0, 3, 1, 4, 2, 5]


def test_another_kind_of_numbers_is_refused():
    with pytest.raises(TypeError, match="must be float32 or float64, got int64"):
        packed(np.arange(3), bytes)
