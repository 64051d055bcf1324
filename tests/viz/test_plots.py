"""Heatmaps, lines and points as notebooks of the field call them, and pictures of Measurements."""

import numpy as np
import pytest
import torch

from pellucid import Measurement, viz
from pellucid.base.errors import ArgumentError
from pellucid.base.record import Record

MATRIX = torch.tensor([[0.5, -1.0, 0.25], [0.0, 1.0, 2.0]], requires_grad=True)


def test_a_heatmap_is_red_and_blue_around_zero():
    figure = viz.imshow(MATRIX.bfloat16(), xaxis="Head", yaxis="Layer", title="Scores")
    assert np.array(figure.data[0].z).tolist() == MATRIX.tolist()
    assert figure.layout.coloraxis.cmid == 0
    assert figure.layout.coloraxis.colorscale[0][1] == "rgb(103,0,31)"
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("Head", "Layer")
    assert figure.layout.title.text == "Scores"


def test_what_the_user_chose_goes_before():
    figure = viz.imshow(MATRIX, zmin=0, zmax=1, color_continuous_scale="Blues", labels={"color": "score"}, xaxis="Head")
    assert (figure.layout.coloraxis.cmid, figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (None, 0, 1)
    assert figure.layout.coloraxis.colorbar.title.text == "score"
    assert figure.layout.xaxis.title.text == "Head"


def test_labels_that_are_tokens_are_shown_as_they_are_each_once():
    figure = viz.imshow(MATRIX, x=["<s>", " the", "\n"], y=["1", "1"])
    assert (figure.data[0].x, figure.data[0].y) == (("&lt;s&gt;", "·the", "↵"), ("1 0", "1 1"))
    assert (figure.layout.xaxis.type, figure.layout.yaxis.type) == ("category", "category")
    assert viz.imshow(MATRIX, x=[10, 20, 30]).layout.xaxis.type is None


def test_few_rows_have_a_tick_each_many_have_not():
    assert viz.imshow(MATRIX).layout.xaxis.dtick == 1
    assert viz.imshow(torch.zeros(2, 100)).layout.xaxis.dtick is None


def test_further_axes_are_facets_or_frames():
    assert len(viz.imshow(torch.zeros(4, 2, 3), facet_col=0, x=["a", "b", "c"]).data) == 4
    assert len(viz.imshow(torch.zeros(2, 3, 4), facet_col=-1).data) == 4
    assert len(viz.imshow(torch.zeros(5, 2, 3), animation_frame=0).frames) == 5


@pytest.mark.parametrize(
    ("tensor", "px", "said"),
    [
        (torch.zeros(3), {}, r"needs 2 axes here, got shape \[3\]; choose some of them, or make an axis facets"),
        (torch.zeros(2, 2, 3), {}, r"needs 2 axes here, got shape \[2, 2, 3\]"),
        (torch.zeros(2, 3), {"facet_col": 0}, r"needs 3 axes here, got shape \[2, 3\]$"),
        (MATRIX, {"x": ["a"]}, "x must be 3 labels, got 1"),
        (MATRIX, {"y": "ab"}, "y must be 2 labels, got a string"),
    ],
)
def test_a_heatmap_that_cannot_be_is_refused(tensor, px, said):
    with pytest.raises(ArgumentError, match=said):
        viz.imshow(tensor, **px)


def test_a_line_has_the_names_of_its_axes():
    figure = viz.line(torch.tensor([3.0, 2.0, 1.0]), xaxis="Position", yaxis="Loss", title="Loss by position")
    assert figure.data[0].y.tolist() == [3.0, 2.0, 1.0]
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("Position", "Loss")
    figure = viz.line([1.0, 2.0], x=["1", " b"])
    assert list(figure.data[0].x) == ["1", "·b"]
    assert figure.layout.xaxis.type == "category"


def test_columns_are_lines():
    figure = viz.line(torch.tensor([[1.0, 5.0], [2.0, 6.0], [3.0, 7.0]]), xaxis="Position", yaxis="Loss")
    assert [trace.y.tolist() for trace in figure.data] == [[1.0, 2.0, 3.0], [5.0, 6.0, 7.0]]
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("Position", "Loss")


def test_lines_that_cannot_be_are_refused():
    with pytest.raises(ArgumentError, match=r"\[place\] or \[place, line\], got shape \[1, 2, 3\]"):
        viz.line(torch.zeros(1, 2, 3))
    with pytest.raises(ArgumentError, match="x must be 3 labels, got 2"):
        viz.line([1.0, 2.0, 3.0], x=[1, 2])


def test_points_lie_where_they_should_and_keep_names_and_colours():
    figure = viz.scatter(
        MATRIX,
        MATRIX * 2,
        "duplicate",
        "induction",
        "layer",
        color=torch.arange(6).reshape(2, 3),
        hover_name=["<s>"] * 6,
    )
    (trace,) = figure.data
    assert trace.x.tolist() == MATRIX.flatten().tolist()
    assert trace.y.tolist() == (2 * MATRIX).flatten().tolist()
    assert trace.marker.color.tolist() == [0, 1, 2, 3, 4, 5]
    assert trace.hovertext[0] == "&lt;s&gt;"
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("duplicate", "induction")
    assert figure.layout.coloraxis.colorbar.title.text == "layer"
    with pytest.raises(ArgumentError, match=r"must have one shape, got \[2\] and \[3\]"):
        viz.scatter([1, 2], [1, 2, 3])


def test_many_points_need_no_code_made_at_run_time():
    assert viz.scatter(torch.zeros(2000), torch.zeros(2000)).data[0].type == "scatter"


def measured(shape, dims, **options) -> Measurement:
    values = np.random.default_rng(0).normal(size=shape)
    return Measurement(values, dims, unit="nats", record=Record(), **options)


def test_a_measurement_of_two_axes_is_a_heatmap_that_names_each_cell():
    mean = measured((6, 2, 3), ("prompt", "layer", "head"), name="Δloss").mean("prompt")
    figure = mean.plot()
    assert np.array(figure.data[0].z).tolist() == mean.values.tolist()
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("head", "layer")
    assert (figure.layout.title.text, figure.layout.coloraxis.colorbar.title.text) == ("Δloss", "nats")
    low, high = (mean.dataset[key].values[1, 2] for key in ("low", "high"))
    assert figure.data[0].text[1][2] == f"1.2<br>{mean.values[1, 2]:.4g} nats<br>[{low:.4g}, {high:.4g}]"


def test_tokens_beside_the_positions_become_the_labels():
    coords = {"token": ("pos", ["<s>", " a", " a"])}
    figure = measured((2, 3), ("layer", "pos"), coords=coords).plot(title="Patched")
    assert figure.data[0].x == ("&lt;s&gt; 0", "·a 1", "·a 2")
    assert figure.layout.title.text == "Patched"


def test_chosen_labels_leave_no_gaps():
    figure = measured((2, 12), ("layer", "head")).sel(head=[3, 11]).plot()
    assert figure.data[0].x == ("3", "11")
    assert figure.layout.xaxis.type == "category"


def test_a_measurement_of_one_axis_is_a_line_in_its_interval():
    mean = measured((6, 30), ("prompt", "pos"), name="loss").mean("prompt")
    line, low, high = mean.plot().data
    assert (line.mode, line.y.tolist()) == ("lines", mean.values.tolist())
    assert low.y.tolist() == mean.dataset["low"].values.tolist()
    assert (high.y.tolist(), high.fill) == (mean.dataset["high"].values.tolist(), "tonexty")
    assert mean.plot().layout.yaxis.title.text == "loss (nats)"


def test_steps_are_amounts_with_room_between_them():
    figure = measured((3,), ("step",), coords={"step": [0, 1, 128]}).plot()
    assert (figure.data[0].mode, figure.data[0].x.tolist()) == ("lines", [0, 1, 128])
    assert figure.layout.xaxis.type != "category"


def test_several_lines_have_their_names_and_places():
    figure = viz.line(np.array([[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]]), x=[0, 5, 50], names=["seed 0", "seed 1"])
    assert [(trace.name, trace.x.tolist(), trace.y.tolist()) for trace in figure.data] == [
        ("seed 0", [0, 5, 50], [1, 2, 3]),
        ("seed 1", [0, 5, 50], [4, 5, 6]),
    ]
    with pytest.raises(ArgumentError, match="names"):
        viz.line(np.zeros((3, 2)), names=["one"])


def test_where_order_means_nothing_there_are_points_with_bars():
    mean = measured((6, 2, 3), ("prompt", "layer", "head")).mean("prompt")
    (points,) = mean.sel(layer=1).plot().data
    assert points.mode == "markers"
    assert (points.error_y.array + points.y).tolist() == pytest.approx(mean.dataset["high"].values[1].tolist())
    assert (points.y - points.error_y.arrayminus).tolist() == pytest.approx(mean.dataset["low"].values[1].tolist())
    (top,) = mean.top(3).plot().data
    assert list(top.x) == mean.top(3).labels


def test_one_prompt_has_no_interval_to_draw():
    mean = measured((1, 5), ("prompt", "pos")).mean("prompt")
    assert len(mean.plot().data) == 1


@pytest.mark.parametrize(("shape", "dims"), [((), ()), ((2, 2, 2), ("prompt", "layer", "head")), ((0,), ("pos",))])
def test_a_measurement_of_no_or_many_axes_cannot_be_drawn(shape, dims):
    with pytest.raises(ArgumentError, match=r"one axis or two, with cells, got .*; .mean\('prompt'\)"):
        measured(shape, dims).plot()
