"""Measurement: the one type that every analysis returns.

In: numbers with named axes, their unit and the record of how they were made. Out: selections, the largest
cells, means with intervals, tables and files, each again with names, unit and record. It is a thin frame
around an `xarray.Dataset` with the variable ``value``, beside it ``low``, ``high`` and ``p_value`` where
they were computed, and whatever else an analysis adds. No method changes a Measurement: each gives a new
one.
"""

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from pellucid.base.cells import check_axis, check_same_cells, check_variable, largest
from pellucid.base.errors import ArgumentError, MisreadWarning, UnknownNameError, nearest
from pellucid.base.frame import UNITS, Frame
from pellucid.base.registry import by_name
from pellucid.base.shown import Showing, Shown
from pellucid.maths import statistics

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["UNITS", "Measurement"]

SURENESS = ("low", "high", "p_value", "p_corrected")
"""Variables that say how sure a mean is; a further mean cannot keep them."""
BASES = {"denoise": "corrupted", "noise": "clean"}
"""The variable that holds the unpatched run's metric, by the direction in which runs are patched."""


class Measurement(Showing, Frame):
    """Numbers with named axes, a unit, and the record of how they were made.

    Example:
        >>> from pellucid.base.record import Record
        >>> values = [[[0.1, 0.9]], [[0.3, 0.8]]]
        >>> scores = Measurement(values, ("prompt", "layer", "head"), unit="fraction", record=Record())
        >>> scores.mean("prompt").top(1)
        Measurement: component 1, fraction, mean of 2 prompts, 95 % interval (t)
          0.1  0.85  [0.2147, 1.485]
        >>> scores.mean("prompt").top(1).label
        '0.1'
    """

    def mean(self, dim: str, *, interval: float = 0.95, method: str = "t", seed: int = 0) -> "Measurement":
        """The mean over one axis, in float64; over prompts with its interval and p value.

        Over ``prompt`` the variables ``low``, ``high`` and ``p_value`` come from
        `pellucid.maths.statistics.effect`, which says what the other arguments mean; one prompt has no
        interval (NaN). Where prompts have a second coordinate ``frame``, the template that each was made from,
        it is frames that are counted, each with the same weight.

        Over any other axis it is a plain mean, and what an earlier mean over prompts said
        about sureness falls away: average the other axes first. NaN anywhere makes the mean NaN.

        Raises:
            UnknownNameError: No such axis.
            ArgumentError: The axis is empty; an unknown method; an interval that is not between 0 and 1.
        """
        check_axis(self._dataset, dim)
        if not self._dataset.sizes[dim]:
            raise ArgumentError(f"{dim} must have one cell or more for a mean, got none")
        attrs = {"unit": self.unit, "name": self.name}
        rest = self._dataset.drop_vars(SURENESS, errors="ignore")
        parts = {}
        if dim == "prompt":
            values = np.moveaxis(self.values, self.dims.index(dim), 0)
            quiet = method != "bootstrap"  # tests say where their level may not hold: `significant`
            found = statistics.effect(
                values, interval=interval, method=method, seed=seed, frames=self.frames, quiet=quiet
            )
            attrs |= {"units": "prompts" if self.frames is None else "frames", "n": found.n}
            attrs |= {"interval": interval, "method": method, "seed": seed}
            parts = {"value": found.mean, "low": found.low, "high": found.high, "p_value": found.p_value}
            rest = rest.drop_vars("value")
        over = tuple(axis for axis in self.dims if axis != dim)
        means = rest.astype(np.float64).mean(dim, skipna=False)
        means = means.assign({key: (over, part) for key, part in parts.items()})
        means.attrs = attrs
        return self._framed(means, self._record)

    def __sub__(self, other: "Measurement") -> "Measurement":
        """Cell minus cell, such as a score minus its control on the same prompts.

        Axes, labels and unit must be the same. Subtract first and average then: intervals of means fall away.

        Raises:
            ArgumentError: Axes, labels or unit differ.
        """
        if not isinstance(other, Measurement):
            return NotImplemented
        if self.unit != other.unit:
            raise ArgumentError(f"both Measurements must have the same unit, got {self.unit} and {other.unit}")
        check_same_cells(self._dataset, other._dataset)
        ours, theirs = ({key: part.variable for key, part in x._dataset.coords.items()} for x in (self, other))
        kept = [key for key, part in ours.items() if key in theirs and part.equals(theirs[key])]
        both = f"{self.name} - {other.name}" if self.name and other.name else None
        with np.errstate(invalid="ignore"):  # two infinities make a NaN, and that is right
            value = (self.dims, self.values - other.values)
        minus = {"minus": {"name": other.name, "record": other.record.to_dict()}}
        difference = self._changed(value, name=both, settings=minus)
        dropped = [key for key in self._dataset.coords if key not in kept]
        return self._framed(difference._dataset.drop_vars(dropped), difference._record)

    def effect(self, base: str | None = None) -> "Measurement":
        """What a patch changed: each cell minus what the unpatched run gave.

        Subtract first and average then: intervals of means fall away, and so do the other variables.

        Args:
            base: The variable to take off, such as ``"corrupted"``. None: ``"corrupted"`` if the record's settings say
                ``direction="denoise"``, ``"clean"`` if they say ``"noise"``.

        Raises:
            UnknownNameError: There is no such variable.
            ArgumentError: None is named, and the record does not say which; sizes without a sign.
        """
        direction = self._record.settings.get("direction")
        self._check_signed()
        base = BASES.get(str(direction)) if base is None else base
        if base is None:
            raise ArgumentError(
                f"base must be named where the record has no direction, got {direction}; name a variable"
            )
        check_variable(self._dataset, "base", base)
        value = self._dataset["value"] - self._dataset[base]
        name = self.name and f"{self.name}, effect"
        return self._changed(value.transpose(*self.dims).variable, name=name, settings={"effect": base})

    def normalised(self, *, per_prompt: bool = False) -> "Measurement":
        """Each cell as a fraction of the way from the corrupted run, 0, to the clean one, 1.

        Its mean over prompts is the ratio of the mean effects, not the mean of the ratios, which a prompt of almost
        equal runs would rule. For that each prompt's number is linearised about that ratio, so that the interval of the
        mean is right as well (the delta method): it is no longer that prompt's own fraction. Choose prompts before.

        Args:
            per_prompt: Each prompt by its own runs instead; the mean over prompts is then the mean of the ratios.

        Returns:
            The same axes, as fractions; other variables fall away.

        Raises:
            UnknownNameError: There is no variable ``clean`` or ``corrupted``.
            ArgumentError: Both runs give the same, so that nothing lies between them; sizes without a sign.
        """
        self._check_signed()
        data = self._dataset
        for base in ("clean", "corrupted"):
            check_variable(data, f"{base}, which a fraction needs,", base)
        each = per_prompt or "prompt" not in self.dims
        wide = data.astype(np.float64)
        gap, effect = wide["clean"] - wide["corrupted"], wide["value"] - wide["corrupted"]
        whole = gap if each else self._mean_of(gap)
        if bool((whole == 0).any()):
            raise ArgumentError(
                "the clean and the corrupted run must differ for a fraction of the way between them, got the same "
                "number from both; leave such prompts out with .sel"
            )
        ratio = (effect if each else self._mean_of(effect)) / whole
        value = (ratio + (effect - ratio * gap) / whole).transpose(*self.dims)
        settings = {"normalised": "mean of ratios" if per_prompt else "ratio of means"}
        return self._changed(value.variable, name=self.name, settings=settings, unit="fraction")

    def significant(self, alpha: float = 0.05, *, correction: str = "fdr", seed: int = 0) -> "Measurement":
        """The mean over prompts, of those cells alone that differ from zero after correction for there being many.

        Of the metric of patched runs, it is the effect that is tested: what differs from the unpatched run.

        Args:
            alpha: The share of false finds that is put up with (`"fdr"`), or the probability of any (`"max"`).
            correction: ``"fdr"``: Benjamini and Hochberg; each cell's own p value. ``"max"``: the max-statistic, with
                sign flips that all cells share; it needs the prompts.
            seed: Of the sign flips, beyond 12 prompts.

        Returns:
            The other cells are NaN; `low`, `high`, `p_value` and ``p_corrected`` are there for all.

        Raises:
            UnknownNameError: An unknown correction; no prompts, where they are needed.
            ArgumentError: `alpha` is not between 0 and 1; fractions of which 1, not 0, is the unpatched run.

        Warns:
            MisreadWarning: Nothing was found, and nothing could have been: there are too few prompts.
        """
        known = ("fdr", "max")
        if correction not in known:
            raise UnknownNameError(f"correction must be fdr or max, got {correction!r}{nearest(correction, known)}")
        if not 0 < alpha < 1:
            raise ArgumentError(f"alpha must lie between 0 and 1, got {alpha}; 0.05 is usual")
        settings = self._record.settings
        if settings.get("direction") == "noise" and "normalised" in settings:
            raise ArgumentError(
                "what is tested must be 0 where nothing changes, got fractions of noised runs, which are 1 there; "
                "take .effect().significant()"
            )
        base = BASES.get(str(settings.get("direction")))
        if base in self._dataset and "prompt" in self.dims and "unsigned" not in settings:
            return self.effect(base).significant(alpha, correction=correction, seed=seed)
        if correction == "max" or "p_value" not in self._dataset:
            check_axis(self._dataset, "prompt")
        found = self.mean("prompt", seed=seed) if "prompt" in self.dims else self
        if correction == "max":
            by_prompt = np.moveaxis(self.values, self.dims.index("prompt"), 0)
            p = statistics.max_statistic(by_prompt, seed=seed, frames=self.frames)
        else:
            p = statistics.corrected(found._dataset["p_value"].values)
        data = found._dataset.assign(p_corrected=(found.dims, p))
        data["value"] = data["value"].where(data["p_corrected"] <= alpha)
        data.attrs |= {"alpha": alpha, "correction": correction}
        if not (p <= alpha).any():
            _warn_if_unreachable(found.n or 1, int(np.isfinite(found.values).sum()), alpha, correction)
        return self._framed(data, found._record)

    def best(self, k: int = 1, *, by: "Measurement | None" = None, interval: float = 0.95) -> "Measurement":
        """The `k` largest mean cells, chosen on one half of the prompts and measured on the other.

        The best of many cells looks better than it is on the prompts that it was chosen on, and its interval there is
        too high. A single prompt must do both.

        Args:
            k: How many; all if there are fewer.
            by: What decides, such as score minus control; None: this Measurement itself.
            interval: As for `mean`.

        Returns:
            As `top` gives them, with `low`, `high`, `p_value` and ``chosen_on``: what decided, over the prompts that
            they were chosen on.

        Raises:
            UnknownNameError: There is no prompt axis.
            ArgumentError: `by` speaks of other cells; `k` is not positive.
        """
        by = self if by is None else by
        check_axis(self._dataset, "prompt")
        check_same_cells(self._dataset, by._dataset)
        choosing, reporting = map(list, statistics.split(self._dataset.sizes["prompt"], self.frames))
        decided = by._framed(by._dataset.isel(prompt=choosing), by._record).mean("prompt")
        found = self._framed(self._dataset.isel(prompt=reporting), self._record).mean("prompt", interval=interval)
        data = found._dataset.assign(chosen_on=decided._dataset["value"].variable)
        labels = self._dataset["prompt"].values[choosing].tolist()
        record = self._record.add(settings={"chosen_on": {"prompts": labels, "by": by.name}})
        return self._framed(largest(data, k, "chosen_on"), record)

    def _mean_of(self, x: Any) -> Any:
        """The mean over prompts, each frame with the same weight where prompts have frames."""
        if "prompt" not in x.dims:
            return x
        if self.frames is None:
            return x.mean("prompt", skipna=False)
        weights = np.array([1 / self.frames.count(frame) for frame in self.frames]) / len(set(self.frames))
        return (x * x["prompt"].copy(data=weights)).sum("prompt", skipna=False)

    @property
    def frames(self) -> list[str] | None:
        """The frame of each prompt, where prompts have them."""
        told = self._dataset.coords.get("frame")
        return [str(name) for name in told.values] if told is not None and told.dims == ("prompt",) else None

    def _check_signed(self) -> None:
        if "unsigned" in self._record.settings:
            raise ArgumentError(
                "the values must be those of the metric, got sizes of changes, which have no sign and no unpatched run "
                "to be taken off; take them as they are"
            )

    def plot(self, **options: Any) -> "Figure":
        """A picture of one axis or two, with the intervals there are: `pellucid.viz.plots.plot`."""
        return by_name("plot")(self, **options)

    def _shown(self, *, brief: bool) -> Shown:
        """What it is, and its ten largest cells with their p values; in brief five, without."""
        axes = " × ".join(f"{dim} {size}" for dim, size in zip(self.dims, self.shape, strict=True)) or "one value"
        title, attrs = f"Measurement{f' {self.name}' if self.name else ''}: {axes}, {self.unit}", self._dataset.attrs
        if self.n == 1:
            title += f", one {attrs.get('units', 'prompts')[:-1]}: no interval"
        elif self.n is not None:
            sure = f"{100 * attrs['interval']:g} % interval ({attrs['method']})"
            title += f", mean of {self.n} {attrs.get('units', 'prompts')}, {sure}"
        if "alpha" in attrs:
            title += f", significant at {attrs['alpha']:g} ({attrs['correction']})"
        best = self.top(5 if brief else 10)
        columns = {"": best.labels, self.unit: [f"{value:.4g}" for value in best.values.ravel()]}
        sure = {key: best._dataset[key].values.ravel() for key in SURENESS if key in best._dataset and self.n != 1}
        if "low" in sure:
            bounds = zip(sure["low"], sure["high"], strict=True)
            columns["interval"] = [f"[{low:.4g}, {high:.4g}]" for low, high in bounds]
        if not brief and "p_value" in sure:
            columns["p"] = [f"{value:.2g}" for value in sure.get("p_corrected", sure["p_value"])]
        rows = [list(row) for row in zip(*columns.values(), strict=True)]
        found = int(np.isfinite(self.values).sum())
        return Shown(title=title, columns=list(columns), rows=rows, rest=max(0, found - len(rows)))

    def _changed(
        self, value: Any, *, name: str | None, settings: dict[str, Any], unit: str | None = None
    ) -> "Measurement":
        """Other numbers about the same cells; what was said about the old ones falls away."""
        data = self._dataset.drop_vars(list(self._dataset.data_vars)).assign(value=value)
        data.attrs = {"unit": unit or self.unit, "name": name}
        return self._framed(data, self._record.add(settings=settings))


def _warn_if_unreachable(n: int, cells: int, alpha: float, correction: str) -> None:
    """Says when nothing was found because nothing could have been, and what would help."""
    family = cells if correction == "fdr" else 1

    def within_reach(n: int) -> bool:
        return statistics.smallest_p(n) * family <= alpha

    if n > 1 and within_reach(n):
        return
    needed = next((more for more in range(n, statistics.EXACT_UP_TO + 2) if more > 1 and within_reach(more)), None)
    advice = "take correction='max', which does not count them" if needed is None else f"take {needed} prompts or more"
    warnings.warn(
        f"no single cell can come out significant: with n={n} prompts the smallest p value is "
        f"{statistics.smallest_p(n):.2g}, or {min(1.0, statistics.smallest_p(n) * family):.2g} after correction over "
        f"{cells} cells, and {alpha:g} was asked for; {advice}",
        MisreadWarning,
        stacklevel=3,
    )
