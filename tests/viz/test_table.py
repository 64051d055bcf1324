"""What a sortable table takes and refuses."""

import numpy as np
import pytest
import torch

from pellucid import Measurement, viz
from pellucid.base.errors import ArgumentError, UnknownNameError
from pellucid.base.record import Record
from pellucid.viz import table as module

SCORES = Measurement(np.arange(8.0).reshape(2, 2, 2), ("prompt", "layer", "head"), unit="fraction", record=Record())


def test_a_measurement_gives_names_unit_and_intervals():
    view = viz.sortable_table({"score": SCORES.mean("prompt"), "control": torch.zeros(4)}, rows_name="head")
    assert view.rows == ["0.0", "0.1", "1.0", "1.1"]
    score, control = view.data()["columns"]
    assert score["unit"] == "fraction"
    assert score["values"].tolist() == [2.0, 3.0, 4.0, 5.0]
    assert (score["low"] < score["values"]).all() and (score["high"] > score["values"]).all()
    assert "low" not in control and control["values"].dtype == np.float64


def test_names_may_be_given():
    view = viz.sortable_table({"score": SCORES.mean("prompt")}, rows=["a", "b\n", "c", ""])
    assert view.data()["rows"] == ["a", "b↵", "c", ""]


def test_what_cannot_be_is_refused(monkeypatch):
    mean = SCORES.mean("prompt")
    with pytest.raises(ArgumentError, match="one column or more, got none"):
        viz.sortable_table({})
    with pytest.raises(ArgumentError, match="rows must be given where no column is a Measurement"):
        viz.sortable_table({"x": [1.0]})
    with pytest.raises(ArgumentError, match=r"one number for each of the 4 rows, got 'x' of shape \[3\]"):
        viz.sortable_table({"score": mean, "x": [1.0, 2.0, 3.0]})
    with pytest.raises(ArgumentError, match="same cells, got others in 'other'; choose with .sel"):
        viz.sortable_table({"score": mean, "other": mean.sel(layer=[1, 0])})
    with pytest.raises(UnknownNameError, match="sort must be a column, got 'scores'; nearest: score"):
        viz.sortable_table({"score": mean}, sort="scores")
    monkeypatch.setattr(module, "MOST", 3)
    with pytest.raises(ArgumentError, match=r"a table may have 3 rows, got 4; .top\(3\) has the largest"):
        viz.sortable_table({"score": mean})
