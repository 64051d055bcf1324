"""What was found about one role: for each head a score beside its control, a test of one against the other, a verdict.

In: scores and controls, by prompt or by token; or, from weights, what each head has and what it has by chance. Out: a
row for each head. A head that cannot play the role is no part of what is corrected for, and says why it cannot.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from pellucid.analysis.zoo_roles import ZooRole
from pellucid.base.errors import ArgumentError, MisreadWarning, UnknownNameError, nearest
from pellucid.maths.statistics import corrected, smallest_p
from pellucid.measurement import Measurement

ALPHA = 0.05
CORRECTIONS = ("fdr", "max")
VERDICTS = {True: "yes", False: "no", None: "untested"}


class HeadRow(NamedTuple):
    """One head in one role."""

    head: str
    score: float
    low: float
    """Of the score, over prompts or tokens; NaN where nothing was sampled, or once alone."""
    high: float
    control: float
    p: float
    """Of score against control, corrected over the heads; NaN where nothing can be tested."""
    plays: bool | None
    """Clearly above its control; None: there are too few prompts to tell."""
    partner: str | None = None
    """The earlier head that it composes with most."""
    share: float | None = None
    """What the role asks for besides: see `Found.share`."""
    barred: str | None = None
    """Why it cannot play the role."""

    @property
    def verdict(self) -> str:
        """Whether it plays the role, in a word."""
        return "cannot" if self.barred else VERDICTS[self.plays]


@dataclass(frozen=True, eq=False, kw_only=True)
class Found:
    """Every head in one role."""

    role: ZooRole
    score: Measurement | None = None
    """``[prompt layer head]``, or ``[layer head]`` from weights; None: see `reason`."""
    control: Measurement | None = None
    """On the same axes."""
    test: Measurement | None = None
    """Score minus control, ``[layer head]``, with ``p_value`` and ``p_corrected``, by prompts with ``low`` and ``high``
    too. NaN for barred heads; None: one prompt."""
    reason: str = ""
    """Why there is no score, or no head that can play it."""
    partners: tuple[str, ...] = ()
    """For each head the one that it composes with most."""
    barred: np.ndarray | None = field(default=None, repr=False)
    """``[layer head]``: why a head cannot play it; empty where it can."""
    share: Measurement | None = None
    """What the role asks for besides, ``[layer head]``, such as the share of names that a head copies."""
    how: str = ""
    """How it was tested, and on what."""
    unit: str = "prompts"
    """What the axis ``prompt`` of a score holds."""
    alpha: float = ALPHA
    smallest: float = np.nan
    """The smallest p that so many prompts, or draws, can give."""
    family: bool = True
    """Whether p was corrected by how many heads there are; else by the farthest of them."""

    @classmethod
    def of(
        cls,
        role: ZooRole,
        score: Measurement,
        control: Measurement,
        *,
        correction: str = "fdr",
        alpha: float = ALPHA,
        barred: np.ndarray | None = None,
        unit: str = "prompts",
    ) -> "Found":
        """A role that is told from prompts: the difference by prompt is tested, and corrected over the heads.

        Args:
            role: Which.
            score: ``[prompt layer head]``.
            control: On the same axes.
            correction: ``"fdr"`` or ``"max"``, as for `Measurement.significant`.
            alpha: As there.
            barred: ``[layer head]``: why a head cannot play it; such heads are not tested, nor corrected for.
            unit: What the axis ``prompt`` holds; or, where several of one ``frame`` count as one, what a frame is:
                templates, if prompts are all that is said.

        Raises:
            ArgumentError: Score and control speak of different cells; `alpha` cannot be.
            UnknownNameError: There is no such correction.

        Warns:
            MisreadWarning: Nothing was found, and nothing could have been: there are too few prompts.
        """
        check_test(correction, alpha)
        if reason := _nothing(score):
            return cls(role=role, reason=reason)
        n, frames = score.shape[0], score.frames
        if frames is not None:
            n, unit = len(set(frames)), "templates" if unit == "prompts" else unit
        how = f"sign flips of {n} {unit}, corrected over the heads ({correction})"
        made = {"role": role, "score": score, "control": control, "barred": barred, "alpha": alpha, "unit": unit}
        if n == 1 or not score.values.size:
            return cls(**made, how=f"one {unit[:-1]}: no interval and no test")
        difference = score - control
        difference = difference if barred is None else _without(difference, barred)
        with warnings.catch_warnings():
            if unit != "prompts":  # nobody can take more tokens than there are: the verdict says `untested`
                warnings.filterwarnings("ignore", "no single cell", MisreadWarning)
            found, means = difference.significant(alpha, correction=correction), difference.mean("prompt")
        p = found.dataset["p_corrected"].values  # `significant` leaves out the means of what is not
        keys = ("low", "high", "p_value")
        test = Measurement(
            means.values,
            means.dims,
            unit=means.unit,
            record=found.record.add(settings={"correction": correction, "alpha": alpha}),
            name=f"{role.name}, score minus control",
            variables={
                "p_corrected": (means.dims, p),
                **{key: (means.dims, found.dataset[key].values) for key in keys},
            },
        )
        return cls(**made, test=test, how=how, smallest=smallest_p(n), family=correction == "fdr")

    @classmethod
    def by_chance(
        cls,
        role: ZooRole,
        score: Measurement,
        chance: Float[np.ndarray, "draw layer head"],
        *,
        alpha: float = ALPHA,
        barred: np.ndarray | None = None,
        partners: Sequence[str] = (),
    ) -> "Found":
        """A role that is told from the weights: each head's rank among draws that chance made, by the farthest head.

        Args:
            role: Which.
            score: ``[layer head]``.
            chance: What these heads have by chance. A draw is of all heads together.
            alpha: The probability that any head of chance plays the role.
            barred: As for `of`.
            partners: As told.

        Returns:
            As control the mean of the draws. There is no interval: of the weights nothing is sampled.
        """
        if reason := _nothing(score):
            return cls(role=role, reason=reason)
        draws, dims = len(chance), score.dims
        chance = chance if barred is None else np.where(barred != "", np.nan, chance)
        own, p = _ranks(score.values, chance)
        record = score.record.add(settings={"draws": draws})
        values, name = chance.mean(0), f"{role.name}, control"
        control = Measurement(values, dims, unit=score.unit, record=record, name=name)
        test = Measurement(
            score.values - values,
            dims,
            unit=score.unit,
            record=record.add(settings={"alpha": alpha}),
            name=f"{role.name}, score minus control",
            variables={"p_value": (dims, own), "p_corrected": (dims, p)},
        )
        how = f"from weights, where nothing is sampled, so no interval; p: rank among {draws} draws by chance"
        made = {"role": role, "score": score, "control": control, "test": test, "barred": barred, "alpha": alpha}
        more = {"partners": tuple(partners), "smallest": 1 / (draws + 1), "family": False}
        return cls(**made, **more, how=f"{how}, of the farthest head in each")

    def rows(self) -> list[HeadRow]:
        """A row for each head, those that lie farthest above their control first; barred heads come last."""
        if self.score is None or self.control is None:
            return []
        with_prompts = "prompt" in self.score.dims
        means = self.score.mean("prompt").dataset if with_prompts else self.score.dataset
        control = (self.control.mean("prompt") if with_prompts else self.control).values
        values, none = means["value"].values, np.full(means["value"].shape, np.nan)
        low, high = (means[key].values if key in means else none for key in ("low", "high"))
        p = none if self.test is None else self.test.dataset["p_corrected"].values
        gap, why = values - control, self._why(values.shape)
        gap = np.where(why != "", np.nan, gap)
        order, rows = np.argsort(-np.nan_to_num(gap.ravel(), nan=-np.inf), kind="stable"), []
        for at in (np.unravel_index(i, gap.shape) for i in order):
            parts = {"score": values, "low": low, "high": high, "control": control, "p": p}
            here = {name: float(x[at]) for name, x in parts.items()}
            partner = self.partners[int(np.ravel_multi_index(at, gap.shape))] if self.partners else None
            share = None if self.share is None else float(self.share.values[at])
            more = {"partner": partner or None, "share": share, "barred": str(why[at]) or None}
            rows.append(HeadRow(f"{at[0]}.{at[1]}", **here, plays=self._plays(float(gap[at]), here["p"], at), **more))
        return rows

    def leader(self) -> HeadRow | None:
        """The head that lies farthest above its control; None where no head can play it."""
        rows = self.rows()
        return rows[0] if rows and not rows[0].barred else None

    def players(self) -> list[str]:
        """The heads that clearly play it, best first."""
        return [row.head for row in self.rows() if row.plays]

    def bars(self) -> dict[str, list[str]]:
        """For each reason why heads cannot play it, these heads."""
        found: dict[str, list[str]] = {}
        for row in self.rows():
            if row.barred:
                found.setdefault(row.barred, []).append(row.head)
        return found

    def best(self) -> Measurement | None:
        """The best head's score, chosen on one half of the prompts and measured on the other; None without prompts."""
        if self.score is None or self.control is None or self.test is None or "prompt" not in self.score.dims:
            return None
        by = self.score - self.control
        best = self.score.best(1, by=by if self.barred is None else _without(by, self.barred))
        return best if best.values.size else None

    def _why(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.full(shape, "") if self.barred is None else self.barred

    def _plays(self, gap: float, p: float, at: tuple[np.intp, ...]) -> bool | None:
        if not np.isfinite(gap) or gap < self.role.least:
            return False
        if np.isnan(p) or p <= self.alpha:
            return None if np.isnan(p) else True
        return False if self._reachable(at) else None

    def _reachable(self, at: tuple[np.intp, ...]) -> bool:
        """Whether this head could have come out significant, the others being as they are."""
        if not self.family or self.test is None:
            return self.smallest <= self.alpha
        p = self.test.dataset["p_value"].values.copy()
        p[at] = self.smallest
        return bool(corrected(p)[at] <= self.alpha)


def check_test(correction: str, alpha: float) -> None:
    """Whether heads can be tested so.

    Raises:
        UnknownNameError: There is no such correction.
        ArgumentError: `alpha` is not between 0 and 1.
    """
    if correction not in CORRECTIONS:
        known = nearest(str(correction), CORRECTIONS)
        raise UnknownNameError(f"correction must be fdr or max, got {correction!r}{known}")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < 1:
        raise ArgumentError(f"alpha must lie between 0 and 1, got {alpha!r}; 0.05 is usual")


def barred_where(where: np.ndarray | Tensor, why: str) -> np.ndarray:
    """`why` where heads cannot play a role, and nothing where they can.

    Example:
        >>> barred_where(np.array([[True, False]]), "lies too low").tolist()
        [['lies too low', '']]
    """
    return np.where(np.asarray(where), why, "")


def _nothing(score: Measurement) -> str:
    """Why scores say nothing; empty if they do."""
    if not score.values.size:
        return "the model has no attention heads"
    return "" if np.isfinite(score.values).any() else "the scores are no numbers"


def _without(measured: Measurement, barred: np.ndarray) -> Measurement:
    """The same with NaN for barred heads, which are then passed over."""
    coords = {
        str(key): x.values.tolist() if key in measured.dims else (tuple(map(str, x.dims)), x.values.tolist())
        for key, x in measured.dataset.coords.items()
    }
    values = np.where(barred != "", np.nan, measured.values)
    told = {"unit": measured.unit, "record": measured.record, "name": measured.name}
    return Measurement(values, measured.dims, coords=coords, **told)


def _ranks(
    score: Float[np.ndarray, "layer head"], chance: Float[np.ndarray, "draw layer head"]
) -> tuple[Float[np.ndarray, "layer head"], Float[np.ndarray, "layer head"]]:
    """The share of draws in which a head has as much, and in which the farthest head does; the score is one of them.

    Heads are compared by their own standard deviation, the score's part in it included as that of each draw is: so
    scores and draws stand alike, and if chance made the score too, any head has 5 % or less in no more than 5 % of all
    cases. By the deviation of the draws alone it would be 13 %, with 99 draws of 144 heads. What is lost so is little
    where there are many draws: a head 5 deviations out is found in 9 of 10 cases among 99, in 2 of 3 among 19.
    """
    both = np.concatenate([score[None], np.where(np.isnan(score), np.nan, chance)])
    spread = both.std(0)
    away = (both - both.mean(0)) / np.where(spread == 0, 1, spread)
    own = np.where(np.isnan(away[0]), np.nan, (away >= away[0]).mean(0))
    farthest = np.nan_to_num(away, nan=-np.inf).max((1, 2))
    among = (farthest[:, None, None] >= away[0]).mean(0)
    return own, np.where(np.isnan(away[0]), np.nan, among)
