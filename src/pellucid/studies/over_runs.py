"""Several runs: they are carried out; figures of them are means, shares, medians and differences, with their intervals.

In: a number for each run. Out: a `Figure`, or its reason where there is nothing to say.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped
from torch import Tensor

from pellucid.distributed.executor import Executor
from pellucid.distributed.journal import Journal
from pellucid.distributed.local import Local
from pellucid.maths.statistics import effect
from pellucid.studies.result import Figure

Numbers = Sequence[float] | Shaped[np.ndarray, " run"]


def carried_out(
    run: Callable[[Any], Mapping[str, Tensor]],
    jobs: Sequence[Any],
    executor: Executor | None,
    journal: Journal | None,
    advance: Callable[[int], object] | None,
) -> list[tuple[Any, dict[str, Tensor]]]:
    """Jobs, each with what it gave; with a journal that was begun, its jobs.

    Args:
        run: What does a job.
        jobs: As JSON values.
        executor: What runs them; None: this process, one after the other.
        journal: Where finished jobs are kept.
        advance: Is told 1 whenever a job has ended, by executors that tell it.
    """
    if journal is not None:
        jobs = journal.jobs or jobs
        journal.begin(jobs)
    more: dict[str, Any] = {} if advance is None else {"advance": advance}
    found = (executor or Local()).map(run, jobs, journal=journal, **more)
    return list(zip(jobs, found, strict=True))


def mean(
    numbers: Numbers,
    unit: str,
    *,
    label: str | None = None,
    reason: str = "no run has this",
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> Figure:
    """The mean over runs, with Student's t interval; runs without a number are left out.

    Args:
        numbers: One a run; NaN for none.
        unit: Of all.
        label: What they belong to.
        reason: Said where no run has a number.
        bounds: Between which every number must lie, and so the mean: the interval ends there.
    """
    known = _known(numbers)
    if not len(known):
        return Figure(unit=unit, label=label, reason=reason)
    if len(known) == 1:
        return Figure(unit=unit, value=float(known[0]), label=label, reason="one run has no interval")
    found = effect(known, quiet=True)
    low, high = np.clip([float(found.low), float(found.high)], *bounds)
    return Figure(unit=unit, value=float(found.mean), low=float(low), high=float(high), label=label)


def share(hits: Numbers, *, label: str | None = None, reason: str = "there is no such run") -> Figure:
    """In what share of the runs something is so, with Wilson's interval (Wilson 1927)."""
    from scipy.stats import binomtest

    n, k = len(hits), int(np.asarray(hits).sum())
    if not n:
        return Figure(unit="fraction", label=label, reason=reason)
    interval = binomtest(k, n).proportion_ci(method="wilson")
    return Figure(
        unit="fraction", value=k / n, low=float(interval.low), high=float(interval.high), label=label or f"{k} of {n}"
    )


def median(numbers: Numbers, unit: str, *, label: str | None = None, reason: str = "no run has this") -> Figure:
    """The median over runs, with the interval of order statistics (scipy's `quantile_test`), where there is one."""
    from scipy.stats import quantile_test

    known = _known(numbers)
    if not len(known):
        return Figure(unit=unit, label=label, reason=reason)
    value = float(np.median(known))
    interval = quantile_test(known, q=0, p=0.5).confidence_interval()
    if not np.isfinite([interval.low, interval.high]).all():
        return Figure(unit=unit, value=value, label=label, reason=f"{len(known)} runs are too few for an interval")
    return Figure(unit=unit, value=value, low=float(interval.low), high=float(interval.high), label=label)


def difference(ours: Numbers, theirs: Numbers, unit: str, *, label: str | None = None) -> Figure:
    """The mean of some runs minus that of others, with Welch's interval (Welch 1947)."""
    from scipy.stats import ttest_ind

    a, b = _known(ours), _known(theirs)
    if not len(a) or not len(b):
        return Figure(unit=unit, label=label, reason="one side has no run with this number")
    value = float(a.mean() - b.mean())
    if len(a) < 2 or len(b) < 2 or (a.std() == 0 and b.std() == 0):
        return Figure(unit=unit, value=value, label=label, reason="an interval needs two runs that differ on each side")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # scipy's, of equal numbers on one side, which are no harm
        interval = ttest_ind(a, b, equal_var=False).confidence_interval()
    return Figure(unit=unit, value=value, low=float(interval.low), high=float(interval.high), label=label)


def verdict(figure: Figure, *, above: str, below: str, undecided: str, than: float = 0.0) -> str:
    """One of three sentences: the interval lies above a number, below it, or neither can be said."""
    if figure.low is None or figure.high is None:
        return undecided
    return above if figure.low > than else below if figure.high < than else undecided


def _known(numbers: Numbers) -> Shaped[np.ndarray, " known"]:
    found = np.asarray(numbers, dtype=np.float64)
    return found[np.isfinite(found)]
