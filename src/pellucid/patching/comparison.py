"""How far an estimate is to be trusted: beside the exact sweep of the same cells.

In: what `sweep` and `attribute`, or `paths` and `attribute_paths`, gave. Out: a `Comparison`, which can be drawn.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from pellucid.base.errors import ArgumentError
from pellucid.measurement import Measurement
from pellucid.report.page import Page
from pellucid.viz.plots import scatter
from pellucid.viz.showing import unshown

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

LARGE = 0.1
"""Of the largest exact effect: so large must a cell's be to be missed."""
MISSED = 0.1
"""Of its exact effect: an estimate below that has missed it."""
WORST = 20
SAME = (
    *("metric", "direction", "site", "groups", "corrupt", "freeze"),
    *("senders", "receivers", "through", "norm"),
)
"""Settings in which an estimate and what it is compared with must agree."""


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Means over the prompts of each cell's effect, exact and estimated; cells that cannot be are left out."""

    labels: list[str]
    exact: Float[np.ndarray, " cell"]
    estimate: Float[np.ndarray, " cell"]
    unit: str
    method: str
    unsigned: bool
    """Whether both are sizes of effects, without a sign."""

    @property
    def rank_correlation(self) -> float:
        """Spearman's, of the sizes of the effects; NaN where one of the two is the same everywhere."""
        from scipy.stats import rankdata

        ranks = [rankdata(np.abs(x)) for x in (self.exact, self.estimate)]
        if min(len(np.unique(rank)) for rank in ranks) < 2:
            return float("nan")
        return float(np.corrcoef(*ranks)[0, 1])

    def false_negatives(self, k: int) -> list[str]:
        """The cells among the k of the largest exact effect that are not among the k of the largest estimate.

        Raises:
            ArgumentError: `k` is not a number of cells.
        """
        if not 1 <= k <= len(self.labels):
            raise ArgumentError(f"k must lie in 1..{len(self.labels)}, the number of cells, got {k}")
        true, found = (np.argsort(-np.abs(x), kind="stable")[:k].tolist() for x in (self.exact, self.estimate))
        return [self.labels[at] for at in true if at not in set(found)]

    def worst(self, k: int) -> list[str]:
        """The cells whose estimate is farthest off, the farthest first."""
        return [self.labels[at] for at in np.argsort(-np.abs(self.exact - self.estimate), kind="stable")[:k].tolist()]

    @property
    def missed(self) -> list[str]:
        """Cells of a large exact effect that the estimate takes for next to nothing."""
        sizes = np.abs(self.exact)
        large = sizes >= LARGE * max(sizes.max(initial=0.0), np.finfo(np.float32).tiny)
        return [self.labels[at] for at in np.flatnonzero(large & (np.abs(self.estimate) < MISSED * sizes)).tolist()]

    def plot(self, *, renderer: str | None = None) -> "Figure":
        """Each cell, its exact effect to the right and its estimate upwards."""
        what = "size of the effect" if self.unsigned else "effect"
        figure = scatter(
            self.exact,
            self.estimate,
            xaxis=f"exact {what}, {self.unit}",
            yaxis=f"estimated {what}, {self.unit}",
            renderer=renderer,
            hover_name=list(self.labels),
        )
        ends = [float(min(self.exact.min(), self.estimate.min())), float(max(self.exact.max(), self.estimate.max()))]
        figure.add_scatter(x=ends, y=ends, mode="lines", name="equal", line={"dash": "dot"}, hoverinfo="skip")
        return figure

    def page(self) -> Page:
        """A page: how well they agree, which cells are off, and whether to trust the estimate."""
        k = min(10, len(self.labels))
        lost = self.false_negatives(k)
        page = Page(
            f"An estimate by {self.method} beside the truth",
            lead=f"{len(self.labels):,} cells. Rank correlation of the sizes: {self.rank_correlation:.3f}. Of the {k} "
            f"largest, the estimate misses {len(lost)}{': ' + ', '.join(lost) if lost else ''}.",
        )
        if self.missed:
            page.note(
                f"Not to be trusted here: {', '.join(self.missed[:WORST])} matter, by an effect of {LARGE:.0%} of the "
                "largest or more, and the estimate takes them for next to nothing. A gradient is flat where a softmax "
                "or a nonlinearity is saturated; atp* repairs that of queries and keys.",
                kind="warning",
            )
        with unshown():
            page.figure(self.plot(), "Each cell; on the dotted line the estimate is right.")
        at = {label: number for number, label in enumerate(self.labels)}
        rows = [
            (label, f"{self.exact[at[label]]:.4f}", f"{self.estimate[at[label]]:.4f}") for label in self.worst(WORST)
        ]
        return page.table(("cell", f"exact, {self.unit}", f"estimate, {self.unit}"), rows, "The cells farthest off.")

    def save(self, path: str | Path) -> None:
        """Writes the page."""
        self.page().save(path)

    def __repr__(self) -> str:
        k = min(10, len(self.labels))
        lost = len(self.false_negatives(k))
        return f"{self.method}: rank correlation {self.rank_correlation:.3f}, {lost} of the {k} largest missed"


def _same_runs(exact: Measurement, estimate: Measurement) -> bool:
    """Whether the unpatched runs gave the same numbers, as far as rounding goes."""
    if exact.shape[exact.dims.index("prompt")] != estimate.shape[estimate.dims.index("prompt")]:
        return False
    sides = [[x.dataset[side].values.astype(float) for side in ("clean", "corrupted")] for x in (exact, estimate)]
    return bool(np.allclose(*sides, rtol=1e-2, atol=1e-3, equal_nan=True))


def compare(exact: Measurement, estimate: Measurement) -> Comparison:
    """How well an estimate agrees with the exact sweep of the same cells.

    Args:
        exact: Of `sweep` or `paths`.
        estimate: Of `attribute` or `attribute_paths`, with the same arguments. Where it is unsigned (``"atp*"``), it
            is compared with the size of the exact effect of each prompt.

    Raises:
        ArgumentError: They are of other cells, another metric, direction or number of prompts.

    Example:
        >>> from pellucid import HookedTransformer, patching
        >>> model = HookedTransformer.from_pretrained("toy-induction")
        >>> both = patching.pairs([[0, 5, 9, 7, 3, 8, 5, 9]], [[0, 5, 9, 4, 3, 8, 5, 9]], answer=7, wrong=4)
        >>> asked = {"site": "z", "over": ("layer", "head")}
        >>> found = compare(patching.sweep(model, both, **asked), patching.attribute(model, both, **asked))
        >>> found.rank_correlation > 0.9, found.false_negatives(3)
        (True, [])
    """
    told, ours = exact.record.settings, estimate.record.settings
    for what in SAME:
        if (told.get(what) or None) != (ours.get(what) or None):
            raise ArgumentError(f"both must have one {what}, got {told.get(what)} and {ours.get(what)}")
    if exact.record.model != estimate.record.model or not _same_runs(exact, estimate):
        raise ArgumentError(
            "both must be of one model and the same prompts, got other values of the runs that are not patched"
        )
    if "method" in told or "method" not in ours:
        raise ArgumentError(
            "the first must be exact, the second an estimate, got others; give sweep's, then attribute's"
        )
    if exact.dims != estimate.dims or exact.shape != estimate.shape or exact.labels != estimate.labels:
        raise ArgumentError(
            f"both must be of the same cells, got {exact.dims} {exact.shape} and {estimate.dims} {estimate.shape}"
        )
    unsigned = "unsigned" in ours
    effect = exact.effect()
    true = np.abs(effect.values) if unsigned else effect.values
    guess = estimate.values if unsigned else estimate.effect().values
    at = exact.dims.index("prompt")
    true, guess = (x.astype(np.float64).mean(at).ravel() for x in (true, guess))
    names = effect.mean("prompt").labels
    there = ~np.isnan(true) & ~np.isnan(guess)
    labels = [name for name, kept in zip(names, there, strict=True) if kept]
    if not labels:
        raise ArgumentError("there must be one cell at least that can be, got none; look at senders and receivers")
    return Comparison(labels, true[there], guess[there], exact.unit, str(ours["method"]), unsigned)
