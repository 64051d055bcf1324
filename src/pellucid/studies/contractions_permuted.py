"""Whether groups differ at all, by dealing their names anew: a test that is exact however skewed the effects are.

In: effects ``[frame group *cells]``. Out: for each group and cell a p value that is corrected for all of them, and
verdicts that rest on such p values. Under the null hypothesis the groups of a frame are exchangeable: whichever is
called which, the effects of all parts together are as probable. A group that only spreads wider breaks that too, and
may come out different with no other mean.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from pellucid.maths.groups import GroupsCompared
from pellucid.maths.statistics import BLOCK

DRAWS = 4_999
"""Ways to deal the names that are drawn; the observed one counts besides."""
ALPHA = 0.05
"""The share of studies without a difference that may find one anywhere."""
SHARED_SPREAD = 0.1
"""How much of the mean variance of all groups is added to a group's own. With none, a group whose few frames agree by
chance is as sure as can be. Of ten groups that fall into two exact classes, 4 and 6, one does in 6 of 100 deals of ten
frames, so that the classes could not come out different. With much, a group that only spreads wider comes out too
often."""


def dealt_anew(values: np.ndarray, *, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """The p values of each group standing apart from the mean of the others, all groups and cells one family.

    Within each frame the groups' names are dealt anew, alike for all cells, and each group and cell is compared with
    the farthest of all that then result. How far is told by |t| over frames, with the variance of the group and
    `SHARED_SPREAD` of that of all.

    Args:
        values: ``[frame group *cells]``.
        draws: How many deals are drawn.
        seed: For the deals.

    Returns:
        ``[group *cells]``; NaN where a cell is not finite for each frame and group, and for one frame.

    Source: Westfall and Young 1993, "Resampling-Based Multiple Testing", single step. That the observed deal counts:
    Phipson and Smyth 2010. A variance that is added: Tusher et al. 2001.
    """
    n, groups = values.shape[:2]
    x = values.reshape(n, groups, -1).astype(np.float64)
    p_value, sound = np.full(x.shape[1:], np.nan), np.isfinite(x).all((0, 1))
    if n < 2 or not sound.any():
        return p_value.reshape(values.shape[1:])
    x = x[..., sound]
    away, slack = x - x.mean(1, keepdims=True), 4 * np.finfo(np.float64).eps * np.abs(x).max((0, 1))
    size = np.abs(away).max((0, 1))
    away = np.where(size <= slack, 0, away) / np.where(size <= slack, 1, size)  # equal but for rounding: equal
    observed = _farness(away, np.arange(groups)[None, None].repeat(n, 1))[0]
    least, reached = observed * (1 - 1e-9), np.ones_like(observed)  # what lies closer is a tie by rounding
    for deals in _deals(n, groups, x.shape[2], draws, seed):
        farthest = np.sort(_farness(away, deals).max((1, 2)))
        reached += len(farthest) - np.searchsorted(farthest, least)
    p_value[:, sound] = reached / (draws + 1)
    return p_value.reshape(values.shape[1:])


def _deals(n: int, groups: int, cells: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """``[draw frame group]``: whose effects a group is dealt, in blocks."""
    random, size = np.random.default_rng(seed), max(1, BLOCK // (groups * max(n, cells)))
    for start in range(0, draws, size):
        yield random.random((min(size, draws - start), n, groups)).argsort(-1)


def _farness(away: np.ndarray, deals: np.ndarray) -> np.ndarray:
    """``[draw group cell]``, 0 to 1, the larger the larger |t| is; `away` is ``[frame group cell]``."""
    n, squares = len(away), away**2
    sums, own = np.zeros((2, len(deals), *away.shape[1:]))
    for frame in range(n):
        sums += away[frame][deals[:, frame]]
        own += squares[frame][deals[:, frame]]
    sums **= 2
    own = np.maximum(n * own - sums, 0)
    whole = sums + own + SHARED_SPREAD * own.mean(1, keepdims=True)
    return np.divide(sums, whole, out=np.zeros_like(whole), where=whole > 0)


def resting_on(p_value: np.ndarray, found: GroupsCompared) -> GroupsCompared:
    """The same with *different* where a p value that is corrected for all cells is at most 0.05.

    Intervals stay as they are, and so does what is *shared*. Where it is undecided although the interval leaves 0 out,
    the frames that would decide cannot be told, and `n_to_differ` is the number at hand.
    """
    known = np.isfinite(found.low) & (found.verdict != "shared")
    apart = known & (p_value <= ALPHA)
    verdict = np.where(known, np.where(apart, "different", "undecided"), found.verdict)
    left = known & ~apart & (found.verdict == "different")
    differ = np.where(left, found.n[0], np.where(apart, np.nan, found.n_to_differ))
    share = np.where(left, np.inf, np.where(apart, np.nan, found.n_to_share))
    return replace(found, p_value=p_value, verdict=verdict, n_to_differ=differ, n_to_share=share)
