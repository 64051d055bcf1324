"""Measurement: what goes in comes out, with its names, through every method and through a file."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pellucid.base.axes import AXES
from pellucid.base.errors import (
    ArgumentError,
    CheckpointError,
    MisreadWarning,
    OutputError,
    TooLargeError,
    UnknownNameError,
)
from pellucid.base.netcdf import save_dataset
from pellucid.base.record import Record
from pellucid.maths.statistics import corrected, effect, max_statistic
from pellucid.measurement import UNITS, Measurement

RECORD = Record(model="toy", seed=3, processing=("fold_ln",), settings={"rule": "article"})


def measurement(values, dims, **more):
    return Measurement(values, dims, **{"unit": "fraction", "record": RECORD} | more)


def scores(prompts=5, layers=2, heads=3, seed=0):
    values = np.random.default_rng(seed).normal(size=(prompts, layers, heads)).astype(np.float32)
    return measurement(values, ("prompt", "layer", "head"), name="induction", unit="attention mass")


def same(one, other):
    """Equal in every number (NaN included), type, label, attribute and record."""
    assert one.dataset.identical(other.dataset)
    assert one.record == other.record
    for key, part in one.dataset.variables.items():
        found = other.dataset.variables[key]
        assert part.dtype == found.dtype, key
        assert part.dims == found.dims
        if part.dtype != object:
            assert part.values.tobytes() == found.values.tobytes(), key
    return True


class TestMaking:
    def test_it_shows_what_it_was_made_of(self):
        made = scores()
        assert made.dims == ("prompt", "layer", "head")
        assert made.shape == (5, 2, 3)
        assert made.unit == "attention mass"
        assert made.name == "induction"
        assert made.record == RECORD
        assert made.n is None

    @pytest.mark.parametrize(
        ("dtype", "kept"),
        [
            (torch.bfloat16, np.float32),
            (torch.float16, np.float32),
            (torch.float32, np.float32),
            (torch.float64, np.float64),
            (torch.int64, np.float64),
            (torch.bool, np.float64),
        ],
    )
    def test_a_tensor_becomes_float32_or_float64(self, dtype, kept):
        values = measurement(torch.tensor([0, 1]).to(dtype), ("layer",)).values
        assert values.dtype == kept
        assert values.tolist() == [0, 1]

    def test_a_tensor_that_requires_grad_is_taken(self):
        assert measurement(torch.ones(2, requires_grad=True), ("layer",)).values.tolist() == [1, 1]

    def test_later_changes_of_the_input_change_nothing(self):
        array, tensor = np.zeros(2), torch.zeros(2)
        first, second = measurement(array, ("layer",)), measurement(tensor, ("layer",))
        array[0], tensor[0] = 5, 5
        assert first.values.tolist() == second.values.tolist() == [0, 0]

    def test_changing_the_dataset_that_it_gives_leaves_its_names_alone(self):
        made = scores()
        made.dataset.attrs["unit"] = "bytes"
        del made.dataset["value"]
        assert made.unit == "attention mass"
        assert made.shape == (5, 2, 3)

    def test_one_axis_may_be_named_by_a_string(self):
        assert measurement([1.0, 2.0], "layer").dims == ("layer",)

    def test_a_single_number_has_no_axis(self):
        made = measurement(3.5, ())
        assert (made.dims, made.shape, made.item()) == ((), (), 3.5)

    def test_axes_are_labelled_from_zero_unless_told(self):
        made = measurement(np.zeros((2, 2)), ("layer", "pos"), coords={"pos": [4, 7]})
        assert made.dataset["layer"].values.tolist() == [0, 1]
        assert made.dataset["pos"].values.tolist() == [4, 7]

    @pytest.mark.parametrize("labels", [(3, 4), np.array([3, 4]), torch.tensor([3, 4]), range(3, 5)])
    def test_labels_come_as_lists_arrays_or_tensors(self, labels):
        made = measurement([1, 2], "layer", coords={"layer": labels})
        assert made.sel(layer=4).item() == 2

    def test_tokens_are_a_second_coordinate_of_positions(self):
        made = measurement([1, 2, 3], "pos", coords={"token": ("pos", ["The", " cat", " The"])})
        assert made.dataset["token"].dims == ("pos",)
        assert made.sel(pos=[1, 2]).dataset["token"].values.tolist() == [" cat", " The"]
        assert made.labels == ["pos 0", "pos 1", "pos 2"]

    def test_a_second_coordinate_may_lie_on_several_axes(self):
        tokens = [["a", "b"], ["c", "d"]]
        made = measurement(np.eye(2), ("prompt", "pos"), coords={"token": (("prompt", "pos"), tokens)})
        assert made.sel(prompt=1, pos=0).dataset["token"].item() == "c"
        assert "token" not in made.mean("prompt").dataset

    def test_one_label_that_all_cells_share_is_part_of_their_names(self):
        assert measurement([1, 2], "head", coords={"layer": 5}).labels == ["5.0", "5.1"]

    def test_further_variables_lie_on_some_of_the_axes(self):
        made = measurement(np.ones((2, 3)), ("prompt", "layer"), variables={"clean": ("prompt", [1, 3])})
        assert made.sel(prompt=1).dataset["clean"].item() == 3
        assert made.mean("prompt").dataset["clean"].item() == 2
        assert made.mean("layer").dataset["clean"].values.tolist() == [1, 3]

    @pytest.mark.parametrize("unit", UNITS)
    def test_every_unit_of_the_vocabulary_is_taken(self, unit):
        assert measurement(1.0, (), unit=unit).unit == unit

    def test_copies_and_pickles_are_the_same(self):
        made = scores().mean("prompt").top(3)
        assert same(made, copy.deepcopy(made))
        assert same(made, pickle.loads(pickle.dumps(made)))


class TestRefusing:
    def test_an_axis_outside_the_vocabulary_is_refused_with_the_nearest(self):
        with pytest.raises(UnknownNameError, match="axes of the vocabulary, got 'heads'; nearest: head"):
            measurement([1.0], ("heads",))

    def test_batch_is_no_axis_of_a_result(self):
        with pytest.raises(UnknownNameError, match="got 'batch'"):
            measurement([1.0], ("batch",))

    def test_an_unknown_unit_is_refused_with_the_nearest(self):
        with pytest.raises(UnknownNameError, match="unit must be one of nats, .*got 'logit'; nearest: logits"):
            measurement([1.0], ("layer",), unit="logit")

    @pytest.mark.parametrize("dims", [("layer",), ("layer", "head", "pos"), ("layer", "layer"), ()])
    def test_axes_that_do_not_fit_the_shape_are_refused(self, dims):
        with pytest.raises(ArgumentError, match=r"dims must name each axis of values once, got .*\[2, 3\]"):
            measurement(np.zeros((2, 3)), dims)

    @pytest.mark.parametrize("values", [np.array(["a"]), np.array([1j]), torch.tensor([1j]), [None], [2**70]])
    def test_what_is_not_a_real_number_is_refused(self, values):
        with pytest.raises(ArgumentError, match="values must hold real numbers, got"):
            measurement(values, ("layer",))

    def test_lists_of_different_length_are_refused(self):
        with pytest.raises(ArgumentError, match="values must be a rectangle of numbers"):
            measurement([[1.0], [1.0, 2.0]], ("layer", "head"))

    def test_too_few_labels_are_refused_with_both_sizes(self):
        with pytest.raises(ArgumentError, match=r"pos must lie on axes of values.*'pos': 2.*shape \[3\]"):
            measurement([1, 2], "pos", coords={"pos": [0, 1, 2]})

    def test_labels_that_occur_twice_are_refused(self):
        with pytest.raises(ArgumentError, match="labels of pos must all be different, got 1, 1"):
            measurement([1, 2], "pos", coords={"pos": [1, 1]})

    @pytest.mark.parametrize("labels", [[1, "a"], [1.5, 2.5], [True, False], [None, None], [[1], 2]])
    def test_labels_are_all_whole_numbers_or_all_strings(self, labels):
        with pytest.raises(ArgumentError, match="labels of pos must be all whole numbers or all strings, got"):
            measurement([1, 2], "pos", coords={"pos": labels})

    def test_labels_beyond_64_bits_are_refused(self):
        with pytest.raises(ArgumentError, match="labels of pos must be whole numbers of 64 bits"):
            measurement([1, 2], "pos", coords={"pos": [1, 2**64]})

    def test_a_second_coordinate_on_an_axis_that_is_not_there_is_refused(self):
        with pytest.raises(ArgumentError, match="token must lie on axes of values.*got pos"):
            measurement([1, 2], "layer", coords={"token": ("pos", ["a", "b"])})

    @pytest.mark.parametrize("given", [["a", "b"], 1.5, ("a", "b", "c")])
    def test_a_coordinate_that_is_none_of_three_things_is_refused(self, given):
        with pytest.raises(ArgumentError, match=r"labels of an axis, a pair \(axes, labels\), or one label"):
            measurement([1, 2], "layer", coords={"token": given})

    @pytest.mark.parametrize("name", ["value", "layer", "head", "label", "two words"])
    def test_a_variable_needs_a_name_of_its_own(self, name):
        with pytest.raises(ArgumentError, match=f"names of their own, got '{name}'"):
            measurement([1, 2], "layer", variables={name: ("layer", [1, 2])})

    @pytest.mark.parametrize("name", ["value", "clean", "label"])
    def test_a_coordinate_needs_a_name_of_its_own(self, name):
        with pytest.raises(ArgumentError, match=f"names of their own, got '{name}'"):
            measurement([1], "layer", variables={"clean": ("layer", [1])}, coords={name: ("layer", ["a"])})

    def test_a_variable_of_another_shape_is_refused(self):
        with pytest.raises(ArgumentError, match="clean must lie on axes of values"):
            measurement([1, 2], "prompt", variables={"clean": ("prompt", [1, 2, 3])})


class TestSelecting:
    def test_one_label_takes_its_axis_away(self):
        made = scores()
        found = made.sel(layer=1, head=2)
        assert found.dims == ("prompt",)
        np.testing.assert_array_equal(found.values, made.values[:, 1, 2])
        assert found.record == RECORD

    def test_a_list_of_labels_keeps_its_axis_and_their_order(self):
        made = scores()
        found = made.sel(head=[2, 0], layer=np.array([1]))
        np.testing.assert_array_equal(found.values, made.values[:, 1:, [2, 0]])
        assert found.sel(head=2, prompt=0).label == "prompt 0 1.2"

    def test_numpys_whole_numbers_are_labels(self):
        assert scores().sel(head=np.int64(1)).shape == (5, 2)

    def test_strings_are_labels(self):
        made = measurement([1, 2], "position", coords={"position": ["subject 2", "end"]})
        assert made.sel(position="end").item() == 2

    def test_labels_are_not_places(self):
        made = measurement([1, 2], "pos", coords={"pos": [1, 0]})
        assert made.sel(pos=0).item() == 2

    def test_an_axis_that_is_not_there_is_refused_with_those_there_are(self):
        with pytest.raises(UnknownNameError, match="got 'pos'; there is: prompt, layer, head"):
            scores().sel(pos=0)

    @pytest.mark.parametrize("label", [7, -1, "1", None, slice(0, 2), [0, 7]])
    def test_a_label_that_is_not_there_is_refused_with_those_there_are(self, label):
        with pytest.raises(UnknownNameError, match="head must be a label .*, got .*; (there is|nearest): .*1"):
            scores().sel(head=label)

    def test_of_many_labels_the_error_lists_some(self):
        with pytest.raises(UnknownNameError, match="got 'x'; there is: 0, 1, 2, 3, 4, 5, …, 39"):
            measurement(np.zeros(40), "pos").sel(pos="x")

    def test_an_unknown_string_is_refused_with_the_nearest(self):
        made = measurement([1, 2], "position", coords={"position": ["subject 2", "end"]})
        with pytest.raises(UnknownNameError, match="got 'subject2'; nearest: subject 2"):
            made.sel(position="subject2")


class TestTop:
    def test_the_largest_come_first_with_their_labels(self):
        made = measurement([[0.1, 0.9], [0.5, 0.2]], ("layer", "head"))
        assert list(made.top(3).items()) == [("0.1", 0.9), ("1.0", 0.5), ("1.1", 0.2)]
        assert made.top(3).dims == ("component",)

    def test_the_axes_stay_as_second_coordinates(self):
        found = measurement([[0.1, 0.9], [0.5, 0.2]], ("layer", "head")).top(2)
        assert found.dataset["layer"].values.tolist() == [0, 1]
        assert found.dataset["head"].values.tolist() == [1, 0]
        assert found.sel(component="1.0").label == "1.0"
        assert found.top(1).label == "0.1"

    def test_one_axis_stays_itself(self):
        found = measurement([0.1, 0.9, 0.5], "pos", coords={"token": ("pos", ["a", "b", "c"])}).top(2)
        assert found.dims == ("pos",)
        assert found.labels == ["pos 1", "pos 2"]
        assert found.dataset["token"].values.tolist() == ["b", "c"]

    def test_top_of_a_selection_keeps_the_whole_name(self):
        made = measurement(np.arange(8.0).reshape(2, 2, 2), ("layer", "pos", "head"))
        assert made.sel(layer=1).top(1).label == "1.1 pos 1"
        assert made.sel(layer=1, pos=0).top(1).label == "1.1 pos 0"

    def test_a_component_axis_may_be_one_of_several(self):
        made = measurement(np.eye(2), ("prompt", "component"), coords={"component": ["embed", "mlp0"]})
        assert made.top(2).labels == ["prompt 0 embed", "prompt 1 mlp0"]
        assert made.top(2).dims == ("component",)

    def test_nan_is_passed_over(self):
        made = measurement([[np.nan, 0.1], [-np.inf, np.nan]], ("layer", "head"))
        assert made.top(10).labels == ["0.1", "1.0"]
        nothing = measurement([[np.nan]], ("layer", "head")).top(1)
        assert (nothing.shape, nothing.labels) == ((0,), [])

    def test_of_equal_cells_the_first_comes_first(self):
        made = measurement([0, 1, 1, 0, 1], "layer")
        assert made.top(2).labels == ["1", "2"]
        assert made.top(4).labels == ["1", "2", "4", "0"]

    def test_further_variables_come_along(self):
        made = measurement([[1, 2], [4, 3]], ("prompt", "layer"), variables={"clean": ("prompt", [10, 20])}).top(3)
        assert made.dataset["clean"].values.tolist() == [20, 20, 10]

    def test_another_variable_may_decide(self):
        made = measurement([1, 2, 3], "layer", variables={"low": ("layer", [0.5, -9, 0.1])})
        assert made.top(2, by="low").labels == ["0", "2"]

    def test_top_of_a_single_number_is_that_number(self):
        found = scores().sel(prompt=0, layer=1, head=1).top(1)
        assert (found.dims, found.labels) == (("component",), ["prompt 0 1.1"])

    def test_top_leaves_its_measurement_alone(self):
        made = scores().sel(prompt=0)
        before = made.labels
        made.top(2)
        assert made.labels == before
        assert not made.dataset["prompt"].attrs

    @given(arrays(np.float64, (3, 4), elements=st.floats(-2, 2) | st.just(np.nan)), st.integers(1, 15))
    @settings(deadline=None)
    def test_top_is_what_sorting_gives(self, values, k):
        found = measurement(values, ("layer", "head")).top(k)
        assert found.values.tolist() == sorted(values[~np.isnan(values)].tolist(), reverse=True)[:k]
        for label, value in found.items():
            layer, head = map(int, label.split("."))
            assert values[layer, head] == value

    @pytest.mark.parametrize("k", [0, -1])
    def test_none_at_all_is_refused(self, k):
        with pytest.raises(ArgumentError, match=f"k must be 1 or more, got {k}"):
            scores().top(k)

    def test_a_variable_that_is_not_there_is_refused(self):
        with pytest.raises(UnknownNameError, match="by must be a variable .*, got 'low'; there is: value"):
            scores().top(1, by="low")

    def test_a_variable_on_fewer_axes_is_refused(self):
        made = measurement(np.eye(2), ("prompt", "layer"), variables={"clean": ("prompt", [1, 2])})
        with pytest.raises(ArgumentError, match="on all of .*'prompt', 'layer'.*, got 'clean' on .*'prompt'"):
            made.top(1, by="clean")


class TestLabels:
    def test_a_head_by_a_score_reads_as_in_the_field(self):
        made = measurement(np.eye(12), ("layer", "head"))
        assert made.sel(layer=5).top(1).label == "5.5"
        assert measurement([[1]], ("layer", "neuron"), coords={"layer": [8], "neuron": [2744]}).label == "L8N2744"
        assert made.sel(head=0).top(1).label == "0.0"
        assert measurement([1, 2], "layer").top(1).label == "1"

    def test_they_follow_the_order_of_the_values(self):
        made = measurement(np.zeros((2, 2)), ("head", "layer"))
        assert made.labels == ["0.0", "1.0", "0.1", "1.1"]

    def test_a_number_without_axes_is_called_by_its_name(self):
        assert measurement(1.0, (), name="loss").label == "loss"
        assert measurement(1.0, ()).label == "value"

    @pytest.mark.parametrize("values", [[1, 2], []])
    def test_label_and_item_need_exactly_one_cell(self, values):
        made = measurement(np.array(values, dtype=float), "layer")
        with pytest.raises(ArgumentError, match=rf"\.label needs exactly one cell, got shape \[{len(values)}\]"):
            _ = made.label
        with pytest.raises(ArgumentError, match=r"\.item needs exactly one cell.*choose with \.sel or \.top"):
            made.item()

    def test_an_item_is_a_float(self):
        assert type(measurement([[2]], ("layer", "head")).item()) is float


class TestMean:
    def test_over_prompts_it_has_interval_and_p_value(self):
        made = scores()
        found, expected = made.mean("prompt", interval=0.9), effect(made.values, interval=0.9)
        assert found.dims == ("layer", "head")
        np.testing.assert_array_equal(found.values, expected.mean)
        for name in ("low", "high", "p_value"):
            np.testing.assert_array_equal(found.dataset[name].values, getattr(expected, name))
        assert found.n == 5
        assert (found.unit, found.name, found.record) == ("attention mass", "induction", RECORD)

    def test_the_prompt_axis_need_not_be_the_first(self):
        made = measurement(np.arange(6.0).reshape(2, 3), ("layer", "prompt"))
        np.testing.assert_array_equal(made.mean("prompt").values, [1, 4])

    @pytest.mark.parametrize("method", ["t", "sign-flip", "bootstrap"])
    def test_the_method_and_the_seed_are_handed_on(self, method):
        made = scores(prompts=20)
        expected = effect(made.values, method=method, seed=4)
        np.testing.assert_array_equal(made.mean("prompt", method=method, seed=4).dataset["low"], expected.low)

    def test_over_another_axis_it_is_a_plain_mean(self):
        made = scores()
        found = made.mean("layer")
        assert found.dims == ("prompt", "head")
        np.testing.assert_allclose(found.values, made.values.astype(float).mean(axis=1))
        assert set(found.dataset.data_vars) == {"value"}
        assert found.n is None

    def test_means_are_in_float64(self):
        assert scores().mean("layer").values.dtype == scores().mean("prompt").values.dtype == np.float64

    def test_a_further_mean_loses_the_interval(self):
        found = scores().mean("prompt").mean("head")
        assert set(found.dataset.data_vars) == {"value"}
        assert found.n is None

    def test_nan_makes_the_mean_nan(self):
        made = measurement([[np.nan, 1], [2, 3]], ("prompt", "pos"))
        np.testing.assert_array_equal(made.mean("pos").values, [np.nan, 2.5])
        np.testing.assert_array_equal(made.mean("prompt").values, [np.nan, 2])

    def test_one_prompt_has_a_mean_but_no_interval_and_that_is_said(self):
        found = scores(prompts=1).mean("prompt")
        assert np.isnan(found.dataset["low"]).all()
        assert np.isnan(found.dataset["p_value"]).all()
        assert np.isfinite(found.values).all()
        assert "one prompt: no interval" in repr(found)

    def test_second_coordinates_of_other_axes_stay_second(self):
        made = measurement(np.eye(2), ("prompt", "pos"), coords={"token": ("pos", ["a", "b"])})
        assert made.mean("prompt").labels == ["pos 0", "pos 1"]
        assert made.mean("prompt").dataset["token"].values.tolist() == ["a", "b"]

    def test_an_axis_that_is_not_there_is_refused(self):
        with pytest.raises(UnknownNameError, match="must have the axis, got 'pos'; there is: prompt, layer, head"):
            scores().mean("pos")

    @pytest.mark.parametrize("dim", ["prompt", "layer"])
    def test_an_empty_axis_is_refused(self, dim):
        with pytest.raises(ArgumentError, match=f"{dim} must have one cell or more for a mean, got none"):
            measurement(np.zeros((0, 0)), ("prompt", "layer")).mean(dim)

    def test_a_wrong_interval_or_method_is_refused(self):
        with pytest.raises(ArgumentError, match="interval must lie between"):
            scores().mean("prompt", interval=95.0)
        with pytest.raises(ArgumentError, match="nearest: bootstrap"):
            scores().mean("prompt", method="bootstap")


class TestSubtracting:
    def test_it_is_cell_minus_cell_and_both_records_are_kept(self):
        score, control = scores(), scores(seed=1)
        found = score - control
        np.testing.assert_array_equal(found.values, score.values - control.values)
        assert (found.unit, found.dims, found.labels) == (score.unit, score.dims, score.labels)
        assert found.name == "induction - induction"
        assert found.record.model == "toy"
        assert Record.from_dict(found.record.settings["minus"]["record"]) == control.record

    def test_averages_lose_their_intervals(self):
        found = scores().mean("prompt") - scores(seed=1).mean("prompt")
        assert set(found.dataset.data_vars) == {"value"}
        assert found.n is None

    def test_coordinates_that_differ_fall_away(self):
        made = scores()
        found = made.sel(layer=1) - made.sel(layer=0)
        assert found.labels[0] == "prompt 0 head 0"
        first, second = (measurement([1], "pos", coords={"token": ("pos", [token])}) for token in "ab")
        assert "token" not in (first - second).dataset
        assert "token" in (first - first).dataset

    def test_infinities_of_one_sign_give_nan(self):
        made = measurement([np.inf], "layer")
        assert np.isnan((made - made).item())

    def test_other_units_axes_and_labels_are_refused(self):
        made = scores()
        with pytest.raises(ArgumentError, match="same unit, got attention mass and nats"):
            _ = made - measurement(made.values, made.dims, unit="nats")
        with pytest.raises(ArgumentError, match="same axes, got .*'head'.* and .*'head'"):
            _ = made - made.sel(layer=0)
        with pytest.raises(ArgumentError, match=r"same labels of head, got 0, 1, 2 and 0, 1; choose .* \.sel"):
            _ = made - made.sel(head=[0, 1])

    def test_a_number_cannot_be_subtracted(self):
        with pytest.raises(TypeError):
            _ = scores() - 1


class TestFrame:
    def test_it_has_a_row_for_each_cell(self):
        made = scores().mean("prompt")
        frame = made.to_frame()
        assert list(frame.columns) == ["layer", "head", "label", "value", "low", "high", "p_value"]
        assert frame["label"].tolist() == made.labels
        assert frame["value"].tolist() == made.values.ravel().tolist()
        assert frame.loc[4, ["layer", "head"]].tolist() == [1, 1]

    def test_second_coordinates_and_variables_on_fewer_axes_are_columns(self):
        made = measurement(
            [[1, 2], [3, 4]],
            ("prompt", "pos"),
            coords={"token": ("pos", ["a", "b"])},
            variables={"clean": ("prompt", [10, 20])},
        )
        frame = made.to_frame()
        assert list(frame.columns) == ["prompt", "pos", "token", "label", "value", "clean"]
        assert frame["token"].tolist() == ["a", "b", "a", "b"]
        assert frame["clean"].tolist() == [10, 10, 20, 20]

    def test_the_order_of_the_axes_does_not_matter(self):
        made = measurement([[1, 2], [3, 4]], ("pos", "prompt"), variables={"clean": ("prompt", [10, 20])})
        assert made.to_frame()["clean"].tolist() == [10, 20, 10, 20]

    def test_one_cell_and_no_cell_are_frames_too(self):
        assert measurement(2.0, (), name="loss").to_frame().to_dict("records") == [{"label": "loss", "value": 2.0}]
        assert measurement(np.zeros((0, 2)), ("layer", "head")).to_frame().shape == (0, 4)
        selected = measurement(np.eye(2), ("layer", "head")).sel(layer=1, head=1)
        assert selected.to_frame().to_dict("records") == [{"layer": 1, "head": 1, "label": "1.1", "value": 1.0}]


LABELS = {
    "int": st.integers(-(2**63), 2**63 - 1),
    "str": st.text(max_size=4),  # half characters are refused, see below
}


@st.composite
def any_parts(draw):
    """Arguments of a Measurement, and labels to select. (beartype draws at random: nothing is made in here.)"""
    dims = tuple(draw(st.lists(st.sampled_from(AXES), max_size=3, unique=True)))
    shape = tuple(draw(st.integers(0, 3)) for _ in dims)
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    width = 32 if dtype is np.float32 else 64
    values = draw(arrays(dtype, shape, elements=st.floats(width=width)))
    coords, variables = {}, {}
    for dim, size in zip(dims, shape, strict=True):
        kind = LABELS[draw(st.sampled_from(["int", "str"]))]
        coords[dim] = draw(st.lists(kind, min_size=size, max_size=size, unique=True))
        if draw(st.booleans()):
            coords[f"second_{dim}"] = (dim, draw(st.lists(LABELS["str"], min_size=size, max_size=size)))
        if draw(st.booleans()):
            variables[f"mean_{dim}"] = (dim, draw(arrays(np.float32, size, elements=st.floats(width=32))))
    name = draw(st.none() | st.text(st.characters(exclude_categories=()), max_size=4))
    chosen = {dims[0]: coords[dims[0]][0]} if dims and shape[0] and draw(st.booleans()) else {}
    return {"values": values, "dims": dims, "coords": coords, "variables": variables, "name": name}, chosen


class TestFiles:
    @given(any_parts())
    @settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
    def test_what_is_read_is_what_was_written(self, tmp_path, parts):
        made = measurement(**parts[0]).sel(**parts[1])
        made.save(tmp_path / "a.nc")
        found = Measurement.load(tmp_path / "a.nc")
        assert same(made, found)
        assert found.labels == made.labels

    def test_results_of_methods_go_round_too(self, tmp_path):
        for number, made in enumerate(
            [
                scores().mean("prompt"),
                scores(prompts=1).mean("prompt"),
                scores().mean("prompt", method="sign-flip").top(3),
                scores().mean("prompt", interval=0.9).sel(layer=1).top(2),
                scores().top(1).sel(component=scores().top(1).label),
                scores() - scores(seed=1),
                scores().sel(prompt=0, layer=0, head=0),
            ]
        ):
            made.save(tmp_path / f"{number}.nc")
            found = Measurement.load(tmp_path / f"{number}.nc")
            assert same(made, found)
            assert repr(found) == repr(made)
            assert found.n == made.n

    def test_the_record_is_in_the_file(self, tmp_path):
        scores().save(tmp_path / "a.nc")
        assert Measurement.load(tmp_path / "a.nc").record == RECORD

    def test_it_is_a_netcdf_file_that_others_can_read(self, tmp_path):
        import xarray

        scores().save(tmp_path / "a.nc")
        assert (tmp_path / "a.nc").read_bytes()[:3] == b"CDF"
        with xarray.open_dataset(tmp_path / "a.nc", engine="scipy") as found:
            np.testing.assert_array_equal(found["value"].values, scores().values)

    def test_folders_are_made_and_an_old_file_is_replaced(self, tmp_path):
        path = tmp_path / "new" / "folder" / "a.nc"
        scores().save(path)
        scores(seed=1).save(str(path))
        np.testing.assert_array_equal(Measurement.load(str(path)).values, scores(seed=1).values)
        assert [part.name for part in path.parent.iterdir()] == ["a.nc"]

    def test_any_file_name_will_do(self, tmp_path):
        scores().save(tmp_path / "a.gz")
        assert same(scores(), Measurement.load(tmp_path / "a.gz"))

    def test_a_loaded_one_does_not_need_its_file_any_more(self, tmp_path):
        scores().save(tmp_path / "a.nc")
        found = Measurement.load(tmp_path / "a.nc")
        (tmp_path / "a.nc").unlink()
        assert same(scores(), found)

    def test_a_file_that_is_not_there_is_named(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"gone\.nc must be a file .*, found: no such file"):
            Measurement.load(tmp_path / "gone.nc")

    @pytest.mark.parametrize("content", [b"", b"hello", b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"])
    def test_a_file_of_another_kind_is_refused_by_name(self, tmp_path, content):
        (tmp_path / "a.nc").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"a\.nc must be a file that Pellucid saved as NetCDF, found"):
            Measurement.load(tmp_path / "a.nc")

    def test_a_folder_is_refused_by_name(self, tmp_path):
        with pytest.raises(CheckpointError, match="IsADirectoryError"):
            Measurement.load(tmp_path)

    def test_a_file_that_is_cut_off_is_refused_wherever_it_is_cut(self, tmp_path):
        scores(prompts=2).save(tmp_path / "whole.nc")
        whole = (tmp_path / "whole.nc").read_bytes()
        for length in range(0, len(whole), 7):
            (tmp_path / "cut.nc").write_bytes(whole[:length])
            with pytest.raises(CheckpointError, match=r"cut\.nc must be a file"):
                Measurement.load(tmp_path / "cut.nc")

    def test_somebody_elses_netcdf_file_is_refused(self, tmp_path):
        import xarray

        xarray.Dataset({"value": ("x", [1.0])}).to_netcdf(tmp_path / "a.nc", engine="scipy")
        with pytest.raises(CheckpointError, match=r"a\.nc must be a file that Pellucid saved .*KeyError"):
            Measurement.load(tmp_path / "a.nc")

    def test_a_dataset_that_is_no_measurement_is_refused(self, tmp_path):
        save_dataset(tmp_path / "a.nc", scores().dataset.drop_vars("value"))
        with pytest.raises(CheckpointError, match=r"a\.nc must be a Measurement saved by \.save"):
            Measurement.load(tmp_path / "a.nc")

    def test_a_record_of_a_later_version_is_refused(self, tmp_path):
        record = RECORD.to_dict() | {"fold": 7}
        save_dataset(tmp_path / "a.nc", scores().dataset.assign_attrs(record=record))
        with pytest.raises(CheckpointError, match=r"a\.nc must hold a record .*got 'fold'"):
            Measurement.load(tmp_path / "a.nc")

    def test_numbers_that_do_not_fit_the_format_are_refused_before_anything_is_written(self, tmp_path, monkeypatch):
        monkeypatch.setattr("pellucid.base.netcdf.LARGEST", 100)
        with pytest.raises(TooLargeError, match=r"a\.nc: .*smaller than 2 GiB.*got value of 120 bytes; save it in"):
            scores().save(tmp_path / "a.nc")
        assert list(tmp_path.iterdir()) == []

    def test_a_place_that_cannot_be_written_is_named(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(OutputError, match=r"file/a\.nc must be writable"):
            scores().save(tmp_path / "file" / "a.nc")
        with pytest.raises(OutputError, match="cannot be replaced by what was written"):
            scores().save(tmp_path)


class TestRepr:
    def test_it_says_axes_unit_interval_and_the_largest(self):
        made = measurement([[[0.1, 0.9]], [[0.3, 0.8]]], ("prompt", "layer", "head"), name="induction")
        assert repr(made.mean("prompt", interval=0.9)) == (
            "Measurement induction: layer 1 × head 2, fraction, mean of 2 prompts, 90 % interval (t)\n"
            "  0.1  0.85  [0.5343, 1.166]\n"
            "  0.0  0.2  [-0.4314, 0.8314]"
        )

    def test_it_shows_no_more_than_five(self):
        lines = repr(measurement(np.arange(9), "layer")).split("\n")
        assert lines[0] == "Measurement: layer 9, fraction"
        assert lines[1:] == ["  8  8", "  7  7", "  6  6", "  5  5", "  4  4"]

    def test_it_shows_one_value_and_none(self):
        assert repr(measurement(2.5, (), name="loss", unit="nats")) == (
            "Measurement loss: one value, nats\n  loss  2.5"
        )
        assert repr(measurement(np.zeros(0), "layer")) == "Measurement: layer 0, fraction"


def patched(prompts=8, layers=2, heads=3, seed=0, **settings):
    """As a sweep gives it: the raw metric, and that of the clean and the corrupted run."""
    random = np.random.default_rng(seed)
    corrupted = random.normal(size=prompts)
    clean = corrupted + random.uniform(2, 4, size=prompts)
    share = random.uniform(0, 1, size=(layers, heads))
    value = corrupted[:, None, None] + share * (clean - corrupted)[:, None, None]
    value += 0.1 * random.normal(size=value.shape)
    return measurement(
        value,
        ("prompt", "layer", "head"),
        name="logit difference",
        unit="logits",
        record=Record(settings=settings),
        variables={"clean": ("prompt", clean), "corrupted": ("prompt", corrupted)},
    )


class TestEffect:
    @pytest.mark.parametrize(("direction", "base"), [("denoise", "corrupted"), ("noise", "clean")])
    def test_it_is_the_difference_from_the_unpatched_run(self, direction, base):
        made = patched(direction=direction)
        found = made.effect()
        expected = made.values - made.dataset[base].values[:, None, None]
        np.testing.assert_allclose(found.values, expected)
        assert same(found, made.effect(base))
        assert (found.dims, found.unit, found.name) == (made.dims, "logits", "logit difference, effect")
        assert found.record.settings["effect"] == base
        assert list(found.dataset.data_vars) == ["value"]

    def test_axes_stay_in_their_order(self):
        made = measurement(np.ones((2, 3)), ("layer", "prompt"), variables={"clean": ("prompt", [1, 2, 3])})
        assert made.effect("clean").values.tolist() == [[0, -1, -2], [0, -1, -2]]

    def test_intervals_of_means_fall_away(self):
        found = patched().mean("prompt").effect("clean")
        assert list(found.dataset.data_vars) == ["value"]
        assert found.n is None

    def test_its_mean_has_the_interval_of_the_differences(self):
        made = patched()
        expected = effect(made.values - made.dataset["clean"].values[:, None, None])
        found = made.effect("clean").mean("prompt")
        np.testing.assert_allclose(found.dataset["low"], expected.low)

    def test_a_base_that_nobody_names_is_refused(self):
        with pytest.raises(ArgumentError, match="base must be named where the record has no direction, got None"):
            patched().effect()

    def test_a_base_that_is_not_there_is_refused(self):
        with pytest.raises(UnknownNameError, match="base must be a variable.* got 'cleen'; nearest: clean"):
            patched().effect("cleen")


class TestNormalised:
    def test_its_mean_is_the_ratio_of_the_mean_effects(self):
        made = patched()
        found = made.normalised().mean("prompt")
        clean, corrupted = (made.dataset[key].values for key in ("clean", "corrupted"))
        expected = (made.values.mean(0) - corrupted.mean()) / (clean.mean() - corrupted.mean())
        np.testing.assert_allclose(found.values, expected)
        assert found.unit == "fraction"
        assert found.record.settings["normalised"] == "ratio of means"

    def test_its_interval_is_that_of_the_delta_method(self):
        made = patched(prompts=6)
        gap = made.dataset["clean"].values - made.dataset["corrupted"].values
        part = made.values[:, 1, 2] - made.dataset["corrupted"].values
        ratio = part.mean() / gap.mean()
        error = np.std(part - ratio * gap, ddof=1) / gap.mean() / np.sqrt(6)
        found = made.normalised().sel(layer=1, head=2).mean("prompt")
        np.testing.assert_allclose(found.dataset["high"] - found.values, 2.5705818 * error)

    def test_the_clean_run_is_1_and_the_corrupted_0_for_certain(self):
        made = patched()
        for base, expected in (("clean", 1), ("corrupted", 0)):
            value = made.dataset[base].values[:, None]
            variables = {key: ("prompt", made.dataset[key].values) for key in ("clean", "corrupted")}
            one = measurement(value, ("prompt", "layer"), variables=variables)
            for found in (one.normalised(), one.normalised(per_prompt=True)):
                mean = found.mean("prompt")
                for part in (mean.values, mean.dataset["low"], mean.dataset["high"]):
                    np.testing.assert_allclose(part, expected, atol=1e-12)

    def test_on_request_each_prompt_has_its_own_fraction(self):
        made = patched()
        found = made.normalised(per_prompt=True)
        clean, corrupted = (made.dataset[key].values[:, None, None] for key in ("clean", "corrupted"))
        np.testing.assert_allclose(found.values, (made.values - corrupted) / (clean - corrupted))
        assert found.record.settings["normalised"] == "mean of ratios"

    def test_means_can_be_made_fractions_too(self):
        made = patched()
        np.testing.assert_allclose(made.mean("prompt").normalised().values, made.normalised().mean("prompt").values)

    def test_of_one_prompt_it_is_its_own_fraction(self):
        one = patched().sel(prompt=[3])
        np.testing.assert_allclose(one.normalised().values, one.normalised(per_prompt=True).values)

    @pytest.mark.parametrize("missing", ["clean", "corrupted"])
    def test_it_needs_both_runs(self, missing):
        other = {"clean": "corrupted", "corrupted": "clean"}[missing]
        made = measurement([1.0, 2.0], "prompt", variables={other: ("prompt", [0, 1])})
        with pytest.raises(UnknownNameError, match=f"{missing}, which a fraction needs, must be a variable"):
            made.normalised()

    def test_runs_that_give_the_same_are_refused(self):
        variables = {"clean": ("prompt", [1, 3]), "corrupted": ("prompt", [1, 2])}
        made = measurement([1.0, 2.0], "prompt", variables=variables)
        with pytest.raises(ArgumentError, match="must differ for a fraction.* leave such prompts out with .sel"):
            made.normalised(per_prompt=True)
        assert made.normalised().mean("prompt").item() == 0


class TestSignificant:
    def test_cells_that_are_not_are_nan_and_the_rest_stays(self):
        made = scores(prompts=12, layers=3, heads=5)
        mean = made.mean("prompt")
        p = corrected(mean.dataset["p_value"].values)
        found = made.significant(0.5)
        np.testing.assert_array_equal(found.values, np.where(p <= 0.5, mean.values, np.nan))
        assert 0 < np.isfinite(found.values).sum() < 15
        np.testing.assert_array_equal(found.dataset["p_corrected"], p)
        for key in ("low", "high", "p_value"):
            np.testing.assert_array_equal(found.dataset[key], mean.dataset[key])
        assert same(mean.significant(0.5), found)
        assert len(found.top(15).labels) == np.isfinite(found.values).sum()

    def test_the_max_statistic_shares_its_signs_over_cells(self):
        made = scores(prompts=12, layers=3, heads=5)
        found = made.significant(0.5, correction="max")
        np.testing.assert_array_equal(found.dataset["p_corrected"], max_statistic(made.values))
        moved = Measurement(made.values.transpose(1, 0, 2), ("layer", "prompt", "head"), unit="nats", record=RECORD)
        np.testing.assert_allclose(moved.significant(0.5, correction="max").values, found.values)

    def test_drawn_signs_follow_their_seed(self):
        made = scores(prompts=20)
        first, again, other = (made.significant(0.9, correction="max", seed=seed) for seed in (1, 1, 2))
        assert same(first, again)
        assert (first.dataset["p_corrected"] != other.dataset["p_corrected"]).any()

    def test_it_says_so_and_is_saved(self, tmp_path):
        made = scores(prompts=12).significant(0.9)
        assert repr(made).split("\n")[0].endswith("mean of 12 prompts, 95 % interval (t), significant at 0.9 (fdr)")
        made.save(tmp_path / "a.nc")
        assert same(Measurement.load(tmp_path / "a.nc"), made)

    @pytest.mark.parametrize("direction", ["denoise", "noise"])
    def test_of_patched_runs_it_is_the_effect_that_is_tested(self, direction):
        made = patched(prompts=12, direction=direction)
        found = made.significant(0.01)
        assert same(found, made.effect().significant(0.01))
        assert found.name == "logit difference, effect"
        silent = patched(prompts=12, direction=direction)
        base = {"denoise": "corrupted", "noise": "clean"}[direction]
        flat = silent.dataset[base].values[:, None, None] * np.ones(silent.shape)
        unmoved = measurement(
            flat + 1e-3 * np.resize([1, -1], (12, 1, 1)),
            silent.dims,
            unit="logits",
            record=silent.record,
            variables={name: ("prompt", silent.dataset[name].values) for name in ("clean", "corrupted")},
        )
        assert np.isnan(unmoved.significant(0.01).values).all()

    def test_fractions_of_noised_runs_which_are_1_where_nothing_changes_are_refused(self):
        with pytest.raises(ArgumentError, match="got fractions of noised runs.*take .effect"):
            patched(direction="noise").normalised().significant()
        assert patched(direction="denoise", prompts=12).normalised().significant().unit == "fraction"

    def test_a_further_mean_forgets_it(self):
        found = scores(prompts=12).significant(0.9).mean("layer")
        assert list(found.dataset.data_vars) == ["value"]
        assert "significant" not in repr(found)

    @pytest.mark.parametrize(
        ("prompts", "cells", "correction", "message"),
        [
            (
                5,
                1,
                "max",
                "n=5 prompts the smallest p value is 0.062, or 0.062 after correction over 1 cells, "
                ".* take 6 prompts or more",
            ),
            (
                6,
                6,
                "fdr",
                "n=6 prompts the smallest p value is 0.031, or 0.19 after correction over 6 cells, "
                "and 0.05 .* take 8 prompts",
            ),
            (1, 6, "fdr", "n=1 prompts the smallest p value is 1, or 1 after correction over 6 cells"),
            (
                20,
                600,
                "fdr",
                "0.06 after correction over 600 cells, .*take correction='max', which does not count them",
            ),
        ],
    )
    def test_significance_that_is_out_of_reach_is_said(self, prompts, cells, correction, message):
        values = np.resize([1.0, -1.01], (cells, prompts)).T if prompts % 2 == 0 else np.ones((prompts, cells))
        with pytest.warns(MisreadWarning, match=message):
            found = measurement(values, ("prompt", "head")).significant(correction=correction)
        assert np.isnan(found.values).all()

    def test_nothing_found_where_it_was_in_reach_is_no_warning(self):
        values = np.resize([1.0, -1.01], (3, 10)).T
        assert np.isnan(measurement(values, ("prompt", "head")).significant().values).all()

    def test_what_cannot_be_asked_is_refused(self):
        with pytest.raises(UnknownNameError, match="correction must be fdr or max, got 'mex'; nearest: max"):
            scores().significant(correction="mex")
        with pytest.raises(ArgumentError, match="alpha must lie between 0 and 1, got 5; 0.05 is usual"):
            scores().significant(5)
        with pytest.raises(UnknownNameError, match="must have the axis, got 'prompt'"):
            scores().mean("prompt").significant(correction="max")
        with pytest.raises(UnknownNameError, match="must have the axis, got 'prompt'"):
            measurement([1.0], "layer").significant()


class TestBest:
    def test_it_is_chosen_on_one_half_and_measured_on_the_other(self):
        made = scores(prompts=9, layers=3, heads=5)
        found = made.best(2)
        chosen, reported = made.sel(prompt=range(4)).mean("prompt"), made.sel(prompt=range(4, 9)).mean("prompt")
        assert found.labels == chosen.top(2).labels
        np.testing.assert_allclose(found.dataset["chosen_on"], chosen.top(2).values)
        layer, head = map(int, found.labels[0].split("."))
        there = reported.sel(layer=layer, head=head)
        assert found.values[0] == there.item()
        assert found.dataset["low"].values[0] == there.dataset["low"].item()
        assert found.n == 5
        assert found.record.settings["chosen_on"] == {"prompts": [0, 1, 2, 3], "by": "induction"}

    def test_another_measurement_may_decide(self):
        made, control = scores(), scores(seed=1)
        found = made.best(by=made - control)
        half = made.sel(prompt=[0, 1])
        assert found.labels == (half - control.sel(prompt=[0, 1])).mean("prompt").top(1).labels
        with pytest.raises(ArgumentError, match="same labels of layer, got 0, 1 and 0"):
            made.best(by=control.sel(layer=[0]))

    def test_of_noise_the_best_is_no_better_than_nothing(self):
        values = np.random.default_rng(0).normal(size=(40, 500))
        made = measurement(values, ("prompt", "head"))
        assert made.mean("prompt").top(1).dataset["low"].item() > 0  # looks like something, and is not
        assert made.best().dataset["low"].item() < 0 < made.best().dataset["high"].item()

    def test_a_single_prompt_does_both(self):
        found = scores(prompts=1).best()
        assert found.n == 1
        assert found.item() == pytest.approx(found.dataset["chosen_on"].item())

    def test_without_prompts_it_is_refused(self):
        with pytest.raises(UnknownNameError, match="must have the axis, got 'prompt'"):
            scores().mean("prompt").best()


class TestShowing:
    def test_a_terminal_and_a_notebook_show_ten_with_interval_and_p(self):
        found = scores(prompts=12, layers=3, heads=5).mean("prompt")
        shown = found._shown(brief=False)
        assert shown.columns == ["", "attention mass", "interval", "p"]
        assert [row[0] for row in shown.rows] == found.top(10).labels
        assert shown.rest == 5
        p = found.top(10).dataset["p_value"].values
        assert [row[3] for row in shown.rows] == [f"{value:.2g}" for value in p]
        assert found._repr_html_() == shown.html()
        assert found.__rich__().row_count == 10

    def test_corrected_p_values_take_the_place_of_p_values(self):
        found = scores(prompts=12, layers=3, heads=5).significant(0.9)
        p = found.top(10).dataset["p_corrected"].values
        assert [row[3] for row in found._shown(brief=False).rows] == [f"{value:.2g}" for value in p]

    def test_one_prompt_has_neither(self):
        assert scores(prompts=1).mean("prompt")._shown(brief=False).columns == ["", "attention mass"]


def test_importing_it_loads_no_slow_library():
    code = (
        "import sys, pellucid.measurement;"
        "slow = {'xarray', 'pandas', 'scipy'} & set(sys.modules);"
        "sys.exit(f'loaded: {slow}' if slow else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_labels_that_are_half_a_character_are_refused():
    with pytest.raises(ArgumentError, match=r"labels of token must be valid Unicode, got '\\ud800'"):
        Measurement([1.0], ("pos",), unit="nats", record=Record(), coords={"token": ("pos", ["\ud800"])})


class TestSettings:
    """Axes that bear the name of a setting of training runs."""

    def made(self):
        values = np.arange(12.0).reshape(2, 3, 2)
        values[0, 1, 1] = np.nan
        return Measurement(
            values,
            ("optimiser.lr", "seed", "model.attention"),
            unit="nats",
            record=RECORD,
            name="loss",
            coords={
                "optimiser.lr": ["0.001", "0.01"],
                "seed": [0, 2, 5],
                "model.attention": ["n_heads=1", "n_heads=2"],
            },
            variables={"tokens": (("optimiser.lr", "seed", "model.attention"), values * 2)},
        )

    def test_they_go_through_a_file(self, tmp_path):
        self.made().save(tmp_path / "runs.nc")
        assert same(Measurement.load(tmp_path / "runs.nc"), self.made())

    def test_runs_are_found_by_their_labels(self):
        made = self.made()
        found = made.sel(**{"optimiser.lr": "0.01", "seed": 5, "model.attention": "n_heads=1"})
        assert found.item() == 10 and found.dataset["tokens"].item() == 20
        assert made.sel(**{"optimiser.lr": "0.01"}).dims == ("seed", "model.attention")
        with pytest.raises(UnknownNameError, match="optimiser.lr must be a label that is there, got .0.1."):
            made.sel(**{"optimiser.lr": "0.1"})

    def test_the_best_run_is_named_by_its_settings(self):
        top = self.made().top(3)
        assert top.values.tolist() == [11, 10, 9]
        assert top.dataset["component"].values[0] == "optimiser.lr 0.01 seed 5 model.attention n_heads=2"

    def test_a_name_that_is_none_of_a_setting_is_refused(self):
        with pytest.raises((ArgumentError, UnknownNameError), match=r"optimizer\.lr"):
            measurement(np.zeros(2), ("optimizer.lr",))
