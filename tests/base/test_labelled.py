"""What every labelled dataset promises; refusals are tested through Measurement in tests/test_measurement.py."""

import numpy as np
import torch

from pellucid.base.labelled import labelled, listed


def test_variables_are_floats_and_labels_whole_numbers_or_strings():
    made = labelled(
        torch.ones(2, 2, dtype=torch.bfloat16),
        ("layer", "position"),
        coords={"position": np.array(["a", "end"]), "prompt": 3, "token": ("layer", ["x\0", "y"])},
        variables={"clean": ("layer", np.array([1, 2], dtype=np.int16))},
    )
    dtypes = {key: part.dtype for key, part in made.variables.items()}
    assert dtypes == {
        **{"value": np.float32, "clean": np.float64, "layer": np.int64, "prompt": np.int64},
        **{"position": object, "token": object},
    }
    assert made["token"].values.tolist() == ["x\0", "y"]


def test_only_second_coordinates_are_marked():
    made = labelled([1.0], ("pos",), coords={"layer": 0, "token": ("pos", ["x"])}, variables={})
    assert {key for key, part in made.coords.items() if "second" in part.attrs} == {"token"}


def test_no_memory_is_shared_with_what_came_in():
    values, clean = np.zeros(2), np.zeros(2)
    made = labelled(values, ("layer",), coords={}, variables={"clean": ("layer", clean)})
    assert not np.shares_memory(made["value"].values, values)
    assert not np.shares_memory(made["clean"].values, clean)


def test_a_list_for_a_message_is_short():
    assert listed([]) == "none"
    assert listed([1, "a"]) == "1, a"
    assert listed(range(100)) == "0, 1, 2, 3, 4, 5, …, 99"
