import numpy as np
import pytest

from pellucid.base.errors import ArgumentError, UnknownNameError
from pellucid.base.frame import Frame
from pellucid.base.record import Record


def frame(values, unit="nats", **more):
    return Frame(values, ("head",), unit=unit, record=Record(seed=3), name="x", **more)


def test_stacked_frames_are_one_along_a_new_first_axis():
    variables = [{"low": ("head", [number, number])} for number in (1.0, 2.0)]
    parts = {5: frame([1.0, 2.0], variables=variables[0]), 1: frame([3.0, 4.0], variables=variables[1])}
    found = Frame.stacked("step", parts)
    assert found.dims == ("step", "head") and found.values.tolist() == [[1, 2], [3, 4]]
    assert found.dataset["step"].values.tolist() == [5, 1]
    assert found.dataset["low"].values.tolist() == [[1, 1], [2, 2]]
    assert (found.unit, found.name, found.record) == ("nats", "x", Record(seed=3))
    parts[5].values[:] = 9
    assert found.values[0].tolist() == [1, 2], "it holds its own numbers"


def test_what_was_chosen_from_a_stack_can_be_stacked_again():
    whole = Frame.stacked("step", {0: frame([1.0, 2.0]), 4: frame([3.0, 4.0]), 9: frame([5.0, 6.0])})
    again = Frame.stacked("step", {step: whole.sel(step=step) for step in (0, 9)})
    assert again.values.tolist() == [[1, 2], [5, 6]] and again.dataset["step"].values.tolist() == [0, 9]


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({}, "one frame or more must be given to be stacked along step, got none"),
        ({0: frame([1.0]), 1: frame([1.0], unit="logits")}, "all parts must be alike, got nats and logits"),
        ({0: frame([1.0]), 1: frame([1.0, 2.0])}, "head"),
        ({0: frame([1.0]), 1: frame([1.0], variables={"low": ("head", [0.0])})}, "alike"),
    ],
)
def test_frames_that_are_not_alike_cannot_be_stacked(parts, said):
    with pytest.raises(ArgumentError, match=said):
        Frame.stacked("step", parts)


def test_the_axis_must_be_one_of_the_vocabulary():
    with pytest.raises(UnknownNameError, match="epoch"):
        Frame.stacked("epoch", {0: frame(np.ones(2))})
