"""Pictures and cells of the report on contractions: bars of layers, maps of groups, numbers without a negative nothing.

In: Measurements. Out: figures of plotly, and text for cells.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pellucid.maths.statistics import effect
from pellucid.measurement import Measurement
from pellucid.studies.result import Figure
from pellucid.viz.plots import imshow

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as Picture

ROW = 24
"""Pixels."""


def value(figure: Figure) -> str:
    """In prose: the number and its interval."""
    if figure.value is None:
        return "—"
    sure = "" if figure.low is None else f" [{rounded(figure.low, 2)}, {rounded(figure.high, 2)}]"
    return f"{rounded(figure.value, 2)}{sure}"


def rounded(x: float | None, digits: int) -> str:
    """As text; what rounds to nothing has no sign.

    Example:
        >>> rounded(-0.0001, 3), rounded(-0.12, 1)
        ('0.000', '-0.1')
    """
    return "—" if x is None else f"{x:z.{digits}f}"


def fractions(swept: Mapping[str, Measurement]) -> dict[str, Measurement]:
    """Means of patched runs: as fractions if the two runs of each surely differ, else all in logits."""
    sure = all(_differ(one) for one in swept.values())
    return {name: (one.normalised() if sure else one.effect()).mean("prompt") for name, one in swept.items()}


def _differ(swept: Measurement) -> bool:
    """Whether the clean run is surely above or below the other one: a fraction of nothing says nothing."""
    gap = swept.dataset["clean"].values.astype(np.float64) - swept.dataset["corrupted"].values
    found = effect(gap, frames=swept.frames, quiet=True)
    return bool(found.low > 0 or found.high < 0)


def bars(means: Mapping[str, Measurement], *, title: str) -> "Picture":
    """A bar for each layer of each, with its interval."""
    import plotly.graph_objects as go

    picture = go.Figure()
    for name, mean in means.items():
        data, y = mean.dataset, mean.values
        ends = {"array": data["high"].values - y, "arrayminus": y - data["low"].values}
        x = [str(layer) for layer in data["layer"].values.tolist()]
        known = {"error_y": ends | {"type": "data"}} if np.isfinite(data["low"].values).all() else {}
        picture.add_bar(x=x, y=y, name=name, hovertemplate=f"layer %{{x}}, {name}: %{{y:.4g}}<extra></extra>", **known)
    unit = next(iter(means.values())).unit
    picture.update_layout(title=title, barmode="group", xaxis_title="layer", yaxis_title=unit, xaxis_type="category")
    return picture


def group_map(
    by_group: Measurement, *, title: str, labels: Sequence[str], places: Sequence[int] | None = None
) -> "Picture":
    """A row for each part, a column for each group, with the numbers in the cells and the intervals under the mouse.

    Args:
        by_group: ``[group *cells]``.
        title: Above it.
        labels: What each cell is called.
        places: Which of the cells; None: all.
    """
    data, names = by_group.dataset, [str(name) for name in by_group.dataset["group"].values]
    flat: dict[str, Any] = {key: data[key].values.reshape(len(names), -1).T for key in ("value", "low", "high")}
    rows = list(range(len(flat["value"]))) if places is None else list(places)
    flat = {key: x[rows] for key, x in flat.items()}
    ends = np.stack([flat["low"], flat["high"]], -1)
    named = [labels[row] for row in rows]
    height = max(300, 160 + ROW * len(rows))
    options = {"title": title, "x": names, "y": named, "height": height, "labels": {"color": by_group.unit}}
    picture = imshow(flat["value"], aspect="auto", **options)
    told = "%{y}, %{x}: %{z:.4g}<br>[%{customdata[0]:.4g}, %{customdata[1]:.4g}]<extra></extra>"
    picture.update_traces(customdata=ends, hovertemplate=told, texttemplate="%{z:.2f}")
    return picture
