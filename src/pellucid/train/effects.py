"""Which setting of a grid matters how much: every other value against the first, all else equal.

In: the runs of a grid. Out: for each value of each key a mean difference; over seeds with its interval.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pellucid.maths.statistics import effect
from pellucid.train.grid import Label
from pellucid.train.grid_run import GridResult, Ran

SEED = "seed"


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What one value of a key changes, against the key's first value."""

    key: str
    value: Label
    against: Label
    difference: float
    """The mean over pairs of runs that differ in this key alone."""
    low: float | None
    high: float | None
    """Student's t interval over seeds; None with fewer than two."""
    pairs: int
    seeds: int


def effects(result: GridResult, figure: str | None = None) -> list[Effect]:
    """The effects of all keys but the seed, the largest key first.

    Args:
        result: The runs.
        figure: Which; None: what the runs are compared by.
    """
    figure = figure or result.figure
    known = {_key(run): run.figures[figure] for run in result.runs if figure in run.figures}
    found = []
    for key, labels in result.grid.varied.items():
        ours = [one for value in labels[1:] if key != SEED for one in _effect(result, known, key, value, labels[0])]
        found.append(ours)
    found.sort(key=lambda ours: -max((abs(one.difference) for one in ours), default=0.0))
    return [one for ours in found for one in ours]


def _effect(
    result: GridResult, known: dict[tuple[Label, ...], float], key: str, value: Label, first: Label
) -> Iterator[Effect]:
    keys = list(result.grid.varied)
    place, seed = keys.index(key), keys.index(SEED) if SEED in keys else None
    by_seed: dict[Label | None, list[float]] = defaultdict(list)
    for labels, number in known.items():
        other = (*labels[:place], first, *labels[place + 1 :])
        if labels[place] == value and other in known:
            by_seed[None if seed is None else labels[seed]].append(number - known[other])
    if not by_seed:
        return
    means = np.array([np.mean(pairs) for pairs in by_seed.values()])
    low = high = None
    if seed is not None and len(means) > 1:
        interval = effect(means, quiet=True)
        low, high = float(interval.low), float(interval.high)
    pairs = sum(map(len, by_seed.values()))
    yield Effect(
        key=key,
        value=value,
        against=first,
        difference=float(means.mean()),
        low=low,
        high=high,
        pairs=pairs,
        seeds=0 if seed is None else len(means),
    )


def _key(run: Ran) -> tuple[Label, ...]:
    return tuple(run.member.labels.values())
