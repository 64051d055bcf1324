"""Heatmaps, lines and scatter plots by plotly, as notebooks of the field write them by hand; pictures of Measurements.

They show at once where a notebook is, or where a renderer was chosen, and return the figure always. A script opens
nothing: plotly's own default there, a browser and a server to feed it, is only used by who asks for it by name.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Shaped
from torch import Tensor

from pellucid.base.errors import ArgumentError
from pellucid.base.tensors import to_numpy
from pellucid.measurement import Measurement
from pellucid.viz.charts import shown
from pellucid.viz.visible import label, printable

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Values = Shaped[Tensor, "..."] | Shaped[np.ndarray, "..."] | Sequence[Any]
"""What can be drawn."""

SCALE = "RdBu"
NOMINAL = {"head", "kv_head", "neuron", "component", "d_model", "d_head", "d_mlp", "d_vocab"}
"""Axes whose order means nothing: no line leads from one to the next."""
AMOUNTS = {"step"}
"""Axes whose labels are amounts: a line has room for those between."""


def imshow(tensor: Values, renderer: str | None = None, xaxis: str = "", yaxis: str = "", **px: Any) -> "Figure":
    """A heatmap: red negative, blue positive, 0 in the middle.

    Args:
        tensor: ``[row column]``; any further axis must become facets or frames, such as by ``facet_col=0``.
        renderer: How plotly shows it; None: as ``plotly.io.renderers.default`` says.
        xaxis: What the columns are.
        yaxis: What the rows are.
        **px: Anything that ``plotly.express.imshow`` takes, such as `title`, `x`, `y`, `zmin`. Labels in `x` and `y`
            may be tokens: they may occur twice, and are shown as what they are.

    Raises:
        ArgumentError: Not two axes; labels that are too few or too many.

    Example:
        >>> figure = imshow(np.eye(2), x=["The", " cat"], xaxis="Position", yaxis="Layer")
        >>> list(figure.data[0].x)
        ['The', '·cat']
    """
    import plotly.express

    values = to_numpy(tensor)
    further = [key for key in ("facet_col", "animation_frame") if px.get(key) is not None]
    if values.ndim != 2 + len(further):
        advice = "" if further else "; choose some of them, or make an axis facets with facet_col=0"
        raise ArgumentError(f"a heatmap needs {2 + len(further)} axes here, got shape {list(values.shape)}{advice}")
    taken = {px[key] % values.ndim for key in further}
    sizes = [size for axis, size in enumerate(values.shape) if axis not in taken]
    options: dict[str, Any] = {"color_continuous_scale": SCALE} | _tensors(px)
    if not {"zmin", "zmax", "range_color", "color_continuous_midpoint"} & px.keys():
        options["color_continuous_midpoint"] = 0.0
    options["labels"] = {"x": xaxis, "y": yaxis} | options.get("labels", {})
    categories = {}
    for key, size in (("y", sizes[0]), ("x", sizes[1])):
        if options.get(key) is not None:
            options[key], categories[key] = _labels(key, options[key], size)
    if any(categories.values()):
        options.setdefault("aspect", "auto")  # plotly makes cells square on axes of numbers only
    figure = plotly.express.imshow(values, **options)
    traces: Any = figure.data
    for trace in traces:  # as it is, plotly tells 2e-6 as 2μ
        trace.update(hovertemplate=(trace.hovertemplate or "").replace("%{z}", "%{z:.4g}"))
    _type_axes(figure, categories)
    for key, size, update in (("y", sizes[0], figure.update_yaxes), ("x", sizes[1], figure.update_xaxes)):
        if key not in categories:
            _tick_each(update, size)
    return shown(figure, renderer)


def line(
    tensor: Values,
    renderer: str | None = None,
    xaxis: str = "",
    yaxis: str = "",
    *,
    names: Sequence[str] | None = None,
    **px: Any,
) -> "Figure":
    """One line, or several over the same places.

    Args:
        tensor: ``[place]``, or ``[place line]``: each column is a line.
        renderer: How plotly shows it; None: as ``plotly.io.renderers.default`` says.
        xaxis: What the places are.
        yaxis: What the numbers are.
        names: What each of several lines is called; None: numbers.
        **px: Anything that ``plotly.express.line`` takes, such as `title`, `x` (numbers, or labels such as tokens).

    Raises:
        ArgumentError: Neither one nor two axes; labels or names that are too few or too many.

    Example:
        >>> figure = line([3.3, 2.9, 0.1], xaxis="Position", yaxis="Loss")
        >>> figure.data[0].y.tolist()
        [3.3, 2.9, 0.1]
    """
    import plotly.express

    values = to_numpy(tensor)
    if values.ndim not in (1, 2):
        raise ArgumentError(f"lines need the axes [place] or [place, line], got shape {list(values.shape)}")
    options = _tensors(px)
    categories = {}
    if options.get("x") is not None:
        options["x"], categories["x"] = _labels("x", options["x"], len(values))
    if values.ndim == 1:
        options["labels"] = {"x": xaxis, "y": yaxis} | options.get("labels", {})
        figure = plotly.express.line(y=values, **options)
    else:
        options.setdefault("x", np.arange(len(values)))
        figure = plotly.express.line(y=list(values.T), **options)
        figure.update_layout(xaxis_title=xaxis, yaxis_title=yaxis, legend_title="")
        called, _ = _labels("names", list(range(values.shape[1])) if names is None else names, values.shape[1])
        for trace, name in zip(figure.data, map(str, called), strict=True):
            trace.update(name=name, hovertemplate=f"{name}: %{{y:.4g}}<extra></extra>")  # pyright: ignore[reportAttributeAccessIssue]
    _type_axes(figure, categories)
    return shown(figure, renderer)


def scatter(
    x: Values, y: Values, xaxis: str = "", yaxis: str = "", caxis: str = "", renderer: str | None = None, **px: Any
) -> "Figure":
    """Points.

    Args:
        x: Where they lie; any shape, point by point.
        y: Of the same shape.
        xaxis: What `x` is.
        yaxis: What `y` is.
        caxis: What their colour is, where `color` is given.
        renderer: How plotly shows it; None: as ``plotly.io.renderers.default`` says.
        **px: Anything that ``plotly.express.scatter`` takes, such as `title`, `color` and `hover_name` (as many as
            points).

    Raises:
        ArgumentError: `x` and `y` differ in shape.

    Example:
        >>> figure = scatter([0.1, 0.9], [0.2, 0.8], xaxis="duplicate", yaxis="induction", hover_name=["0.0", "0.1"])
        >>> figure.data[0].hovertext.tolist()
        ['0.0', '0.1']
    """
    import plotly.express

    places = {"x": to_numpy(x), "y": to_numpy(y)}
    if places["x"].shape != places["y"].shape:
        shapes = " and ".join(str(list(place.shape)) for place in places.values())
        raise ArgumentError(f"x and y must have one shape, got {shapes}")
    options: dict[str, Any] = {"render_mode": "svg"} | _tensors(
        px
    )  # plotly's other mode makes code at run time, which pages forbid
    options["labels"] = {"x": xaxis, "y": yaxis, "color": caxis} | options.get("labels", {})
    for key, part in options.items():
        if isinstance(part, np.ndarray) and part.shape == places["x"].shape:
            options[key] = part.ravel()
    for key in ("hover_name", "text"):
        if isinstance(options.get(key), list | tuple):
            options[key] = [label(part) for part in options[key]]
    return shown(plotly.express.scatter(x=places["x"].ravel(), y=places["y"].ravel(), **options), renderer)


def plot(measurement: Measurement, *, renderer: str | None = None, **px: Any) -> "Figure":
    """A picture of a Measurement: a heatmap of two axes; of one a line, or points where their order means nothing.

    The interval of each number, where there is one, is a band, a bar, or told under the mouse.

    Args:
        measurement: Of one axis or two: ``.mean("prompt")``, ``.sel`` and ``.top`` take axes away.
        renderer: How plotly shows it; None: as ``plotly.io.renderers.default`` says.
        **px: Anything that ``plotly.express.imshow``, ``line`` or ``scatter`` takes, such as `title`.

    Raises:
        ArgumentError: Not one axis or two, or no cells.

    Example:
        >>> from pellucid import HookedTransformer
        >>> from pellucid.analysis.heads import PREVIOUS, head_scores
        >>> from pellucid.analysis.repeated import repeated_tokens
        >>> model = HookedTransformer.from_pretrained("toy-induction")
        >>> scores = head_scores(model, repeated_tokens(model), PREVIOUS)
        >>> figure = plot(scores.mean("prompt"))
        >>> figure.layout.xaxis.title.text, figure.layout.coloraxis.colorbar.title.text
        ('head', 'attention mass')
    """
    dims = measurement.dims
    if len(dims) not in (1, 2) or not measurement.values.size:
        raise ArgumentError(
            f"a picture needs a Measurement of one axis or two, with cells, got {list(measurement.shape)} over "
            f"{', '.join(dims) or 'no axis'}; .mean('prompt'), .sel(…) and .top(k) take axes away, .item() one cell"
        )
    px = ({} if measurement.name is None else {"title": printable(measurement.name)}) | px
    return (_heatmap if len(dims) == 2 else _series)(measurement, renderer, px)


def _heatmap(measurement: Measurement, renderer: str | None, px: dict[str, Any]) -> "Figure":
    import plotly.express

    options: dict[str, Any] = {"color_continuous_scale": SCALE, "aspect": "auto"} | px
    if not {"zmin", "zmax", "range_color", "color_continuous_midpoint"} & px.keys():
        options["color_continuous_midpoint"] = 0.0
    named = dict(zip(("y", "x"), measurement.dims, strict=True))
    options["labels"] = {**named, "color": measurement.unit} | options.get("labels", {})
    categories = {}
    for key, dim in named.items():
        places = _axis(measurement, dim)
        options[key], categories[key] = _labels(key, places, len(places))
    figure = plotly.express.imshow(measurement.values, **options)
    _type_axes(figure, categories)
    _tick_each(figure.update_yaxes, measurement.shape[0])
    _tick_each(figure.update_xaxes, measurement.shape[1])
    told = np.array(_told(measurement), dtype=object).reshape(measurement.shape)
    figure.update_traces(text=told, hovertemplate="%{text}<extra></extra>")
    return shown(figure, renderer)


def _series(measurement: Measurement, renderer: str | None, px: dict[str, Any]) -> "Figure":
    import plotly.express

    (dim,) = measurement.dims
    axis = measurement.dataset[dim].values.tolist() if dim in AMOUNTS else _axis(measurement, dim)
    places, category = _labels("x", axis, len(axis))
    value = f"{printable(measurement.name)} ({measurement.unit})" if measurement.name else measurement.unit
    options: dict[str, Any] = {**px, "labels": {"x": dim, "y": value} | px.get("labels", {})}
    ends = _ends(measurement)
    nominal = category or dim in NOMINAL
    if nominal:
        if ends is not None:
            options |= {"error_y": ends[1] - measurement.values, "error_y_minus": measurement.values - ends[0]}
        options = {"render_mode": "svg"} | options
    draw = plotly.express.scatter if nominal else plotly.express.line
    figure = draw(x=places, y=measurement.values, **options)
    figure.update_traces(text=_told(measurement), hovertemplate="%{text}<extra></extra>")
    if not nominal:
        figure.update_layout(hovermode="x")
        if ends is not None:
            _band(figure, places, *ends)
    _type_axes(figure, {"x": category})
    _tick_each(figure.update_xaxes, len(places))
    return shown(figure, renderer)


def _band(figure: Any, x: Any, low: np.ndarray, high: np.ndarray) -> None:
    """The interval of a line, in the line's colour; where it has no interval, there is a gap."""
    colour = figure.data[0].line.color or "#636efa"
    rgb = ", ".join(str(int(colour[at : at + 2], 16)) for at in (1, 3, 5)) if colour.startswith("#") else "99, 110, 250"
    plain: dict[str, Any] = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
    figure.add_scatter(x=x, y=low, **plain)
    figure.add_scatter(x=x, y=high, fill="tonexty", fillcolor=f"rgba({rgb}, 0.25)", **plain)


def _ends(measurement: Measurement) -> tuple[np.ndarray, np.ndarray] | None:
    data = measurement.dataset
    if "low" not in data or np.isnan(data["low"].values).all():  # a single prompt has no interval
        return None
    return data["low"].values, data["high"].values


def _told(measurement: Measurement) -> list[str]:
    """What the mouse tells of each cell."""
    lines = [[label(name), f"{value:.4g} {measurement.unit}"] for name, value in measurement.items()]
    ends = _ends(measurement)
    if ends is not None:
        for told, low, high in zip(lines, *(end.ravel() for end in ends), strict=True):
            told.append(f"[{low:.4g}, {high:.4g}]")
    return ["<br>".join(told) for told in lines]


def _axis(measurement: Measurement, dim: str) -> list[Any]:
    """Labels of an axis, with the token where there is one."""
    data = measurement.dataset
    labels = data[dim].values.tolist()
    if "token" in data.coords and data["token"].dims == (dim,) and dim != "token":
        return [f"{token} {place}" for token, place in zip(data["token"].values.tolist(), labels, strict=True)]
    if all(isinstance(place, int) for place in labels) and labels != list(range(labels[0], labels[0] + len(labels))):
        return [str(place) for place in labels]  # chosen ones: no room is left for the others
    return labels


def _labels(key: str, labels: Any, size: int) -> tuple[list[Any], bool]:
    """Labels as plotly takes them, and whether they are names: those are visible, and each occurs once."""
    given = labels if isinstance(labels, str) else list(labels)
    if isinstance(given, str) or len(given) != size:
        found = "a string" if isinstance(given, str) else f"{len(given)}"
        raise ArgumentError(f"{key} must be {size} labels, got {found}")
    if not any(isinstance(part, str) for part in given):
        return given, False
    names = [label(part) for part in given]
    if len(set(names)) < len(names):
        names = [f"{name} {place}" for place, name in enumerate(names)]
    return names, True


def _type_axes(figure: "Figure", categories: Mapping[str, bool]) -> None:
    """Names stay names, also those that look like numbers or dates."""
    for key, category in categories.items():
        if category:
            (figure.update_xaxes if key == "x" else figure.update_yaxes)(type="category")


def _tick_each(update: Callable[..., Any], size: int) -> None:
    """A tick for each of few rows or columns: there is no head 0.5."""
    if size <= 24:
        update(dtick=1)


def _tensors(px: Mapping[str, Any]) -> dict[str, Any]:
    """Options with arrays in place of tensors, lists in place of lists of them."""
    return {key: to_numpy(part) if isinstance(part, Tensor) else part for key, part in px.items()}
