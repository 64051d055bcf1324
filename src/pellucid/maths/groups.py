"""Whether two groups of prompts have the same effect, another one, or too few prompts to tell.

In: effects ``[prompt *cells]`` of two groups, and the δ below which a difference does not matter, declared beforehand.
Out: for each cell the difference, how sure it is, a verdict, and where there is none how many frames would give one.
That no difference was found does not show that there is none, which is why *shared* needs a δ and a test of its own.
"""

import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb, prod

import numpy as np
from jaxtyping import Float, Shaped
from torch import Tensor

from pellucid.base.errors import ArgumentError, MisreadWarning
from pellucid.maths import statistics
from pellucid.maths.frames import Frames, by_prompt
from pellucid.maths.level import seen_skewed, warn_of_level
from pellucid.maths.statistics import corrected, effect

Ids = Sequence[Hashable] | Shaped[np.ndarray, "..."]
EQUIVALENCE_ALPHA = 0.05
"""Of each of the two one-sided tests behind *shared*: together a 90 % interval."""
POWER = 0.8
MOST = 10**9
"""Frames beyond which `n_to_decide` says infinity."""


@dataclass(frozen=True)
class GroupsCompared:
    """Group a minus group b: arrays of the cells' shape, in the unit of the effects unless they say otherwise."""

    difference: Float[np.ndarray, "*cells"]
    low: Float[np.ndarray, "*cells"]
    """Of the interval that is corrected for there being many cells."""
    high: Float[np.ndarray, "*cells"]
    p_value: Float[np.ndarray, "*cells"]
    """Of there being no difference, not corrected."""
    verdict: Shaped[np.ndarray, "*cells"]
    """``"shared"``, ``"different"`` or ``"undecided"``."""
    n_to_differ: Float[np.ndarray, "*cells"]
    """Frames in each group (if paired: in both) at which it comes out different; NaN as for `n_to_decide`."""
    n_to_share: Float[np.ndarray, "*cells"]
    """Those at which it comes out shared."""
    n: tuple[int, int]
    """Frames of a and of b; prompts where no frames were given."""
    paired: bool

    @property
    def n_to_decide(self) -> Float[np.ndarray, "*cells"]:
        """Whichever comes first; NaN where it is decided, or where one frame tells no spread."""
        return np.asarray(np.minimum(self.n_to_differ, self.n_to_share))


def compare_groups(
    a: Shaped[Tensor, "..."] | Shaped[np.ndarray, "..."],
    b: Shaped[Tensor, "..."] | Shaped[np.ndarray, "..."],
    *,
    frames: tuple[Ids, Ids] | None = None,
    delta: int | float,
    interval: float = 0.95,
    seed: int = 0,
) -> GroupsCompared:
    """What two groups of prompts share, and in what they differ.

    Prompts are averaged within their frames, each frame with the same weight. Where both groups have the same frames,
    it is the difference on each frame that counts (Student's t interval, sign-flip p value); else the groups are taken
    to be independent (Welch's t interval; p value by permuting which frame is of which group, of Welch's t: every
    choice up to 10,000 of them, else 9,999 drawn, the observed one counting among them; exact where nothing at all
    differs, and below 0.05 in up to 0.08 of cases where one group of 5 to 8 spreads three times as far as the other).

    *shared*: the 90 % interval of the difference lies within ±`delta`, which is two one-sided tests at 0.05 each
    (Schuirmann 1987), not corrected for the number of cells. *different*: the corrected interval excludes 0. The
    correction is that of the false coverage rate (Benjamini and Yekutieli 2005): of the intervals that exclude 0, no
    more than 5 % are expected to miss. With m cells, of which Benjamini and Hochberg find r different by their t
    tests, every interval is at 1 − 0.05 max(r, 1) / m, and exactly those r exclude 0. A cell that is both, surely
    different but by less than `delta`, is *shared*: such a difference was declared not to matter. Else *undecided*.

    `n_to_differ` and `n_to_share` take difference and spread to be what they look like, and are the smallest n at which
    that verdict is reached with probability 0.8. At `n_to_decide`, the smaller of them, some verdict is more probable
    than that, since the other may be reached too. With F the noncentral t distribution, c its quantile without a
    difference, and s(n) the standard error at n: *different*: 1 − F(c; d / s(n)) + F(−c; d / s(n)) at the corrected
    level; *shared*: F(−c; (d − δ) / s(n)) − F(c; (d + δ) / s(n)) at level 0.05. Both are rough where the spread is, on
    few frames.

    Args:
        a: ``[prompt *cells]``, real numbers.
        b: The same cells, on as many prompts as there are.
        frames: The frame of each prompt of `a`, and of each of `b`. None: every prompt stands for itself, unpaired.
        delta: The difference up to which the groups count as the same, more than 0, in the unit of the effects.
        interval: How often the corrected interval should hold the difference; *different* rests on it.
        seed: For signs and permutations that are drawn.

    Returns:
        One frame in a group has a difference but no interval, and so has a cell that is not finite on every prompt:
        NaN, and *undecided*.

    Raises:
        ArgumentError: Different cells; `delta` not above 0; frames that are not one a prompt; what `effect` refuses.

    Warns:
        MisreadWarning: Some frames, not all, are in both groups, which then are not independent; the difference is
            visibly too skewed for the number of frames.

    Source: Welch's t permuted: Janssen 1997. Power: Phillips 1990, "Power of the Two One-Sided Tests Procedure".

    Example:
        >>> a, b = np.array([[1.1, 3.0], [0.9, 3.2], [1.0, 2.9], [1.2, 3.1]]), np.ones((4, 2))
        >>> found = compare_groups(a, b, frames=([1, 2, 3, 4], [1, 2, 3, 4]), delta=0.5)
        >>> found.verdict.tolist(), found.paired
        (['shared', 'different'], True)
        >>> found = compare_groups(a, b + [[0, 0], [1, 0], [0, 0], [0, 0]], delta=0.5)
        >>> found.verdict.tolist(), found.n_to_decide.tolist()
        (['undecided', 'different'], [20.0, nan])
    """
    ours, theirs = by_prompt(a), by_prompt(b)
    cells = ours.shape[1:]
    if cells != theirs.shape[1:]:
        raise ArgumentError(
            f"a and b must have the same cells behind the first axis, got {list(cells)} and {list(theirs.shape[1:])}; "
            "average or select until they do"
        )
    if not 0 < delta < np.inf:
        raise ArgumentError(f"delta must be a difference above 0, got {delta}; give the smallest one that matters")
    if not 0 < interval < 1:
        raise ArgumentError(f"interval must lie between 0 and 1, got {interval}; 0.95 is usual")
    ours, theirs = (x.reshape(len(x), prod(cells)).astype(np.float64) for x in (ours, theirs))
    paired = False
    if frames is not None:
        one, other = (Frames.of(ids, len(x)) for ids, x in zip(frames, (ours, theirs), strict=True))
        ours, theirs, paired = one.means(ours), other.means(theirs), _same_frames(one.ids, other.ids)
        if paired:
            place = {frame: where for where, frame in enumerate(other.ids)}
            theirs = theirs[[place[frame] for frame in one.ids]]
    with np.errstate(invalid="ignore", over="ignore"):
        spread = _paired(ours - theirs) if paired else _welch(ours, theirs)
        p_value = effect(ours - theirs, seed=seed).p_value if paired else _permuted(ours, theirs, seed)
    if not paired:  # else `effect` said so
        warn_of_level(min(len(ours), len(theirs)), int(seen_skewed(ours, theirs).sum()), prod(cells))
    low, high, *judged = _judged(spread, float(delta), 1 - interval)
    parts = [np.asarray(x.reshape(cells)) for x in (spread.difference, low, high, p_value, *judged)]
    return GroupsCompared(*parts, n=(len(ours), len(theirs)), paired=paired)


@dataclass(frozen=True)
class _Spread:
    """The difference, and how its standard error goes with the number of frames."""

    difference: Float[np.ndarray, " cells"]
    error: Float[np.ndarray, " cells"]
    freedom: Float[np.ndarray, " cells"]
    of_one: Float[np.ndarray, " cells"]
    """Standard error with one frame (in each group)."""
    per_frame: Float[np.ndarray, " cells"]
    """Degrees of freedom for each frame (in each group) but one."""

    @property
    def known(self) -> np.ndarray:
        """The cells that have a spread at all."""
        return np.isfinite(self.difference) & np.isfinite(self.error)


def _same_frames(ours: tuple[Hashable, ...], theirs: tuple[Hashable, ...]) -> bool:
    common = len(set(ours) & set(theirs))
    if 0 < common < max(len(ours), len(theirs)):
        warnings.warn(
            f"groups are paired only on the same frames, and {common} of {len(ours)} in a and {len(theirs)} in b are "
            "the same; they are compared as if independent; leave the other frames out to pair these",
            MisreadWarning,
            stacklevel=3,
        )
    return common == len(ours) == len(theirs)


def _paired(x: Float[np.ndarray, "n cells"]) -> _Spread:
    n, ones = len(x), np.ones(x.shape[1])
    of_one = x.std(axis=0, ddof=1) if n > 1 else np.nan * ones
    return _Spread(x.mean(axis=0), of_one / np.sqrt(n), (n - 1) * ones, of_one, ones)


def _welch(a: Float[np.ndarray, "m cells"], b: Float[np.ndarray, "n cells"]) -> _Spread:
    nothing = np.full(a.shape[1], np.nan)
    ours, theirs = (x.var(axis=0, ddof=1) if len(x) > 1 else nothing for x in (a, b))
    one, other = ours / len(a), theirs / len(b)
    with np.errstate(divide="ignore"):
        freedom = (one + other) ** 2 / (one**2 / max(1, len(a) - 1) + other**2 / max(1, len(b) - 1))
        per_frame = (ours + theirs) ** 2 / (ours**2 + theirs**2)
    least = min(len(a), len(b)) - 1.0  # where neither varies, the ratio is 0 / 0
    freedom, per_frame = np.where(one + other == 0, least, freedom), np.where(one + other == 0, 1.0, per_frame)
    return _Spread(a.mean(axis=0) - b.mean(axis=0), np.sqrt(one + other), freedom, np.sqrt(ours + theirs), per_frame)


def _judged(spread: _Spread, delta: float, alpha: float) -> tuple[np.ndarray, ...]:
    """Low, high, verdict, and the frames at which it would differ, and be shared."""
    from scipy.special import stdtr, stdtrit

    known, difference, error, freedom = spread.known, spread.difference, spread.error, spread.freedom
    with np.errstate(invalid="ignore", divide="ignore"):
        t = np.where(difference == 0, 0.0, np.abs(difference) / error)
    p = np.where(known, 2 * stdtr(freedom, -t), np.nan)
    found = max(1, int((corrected(p) <= alpha).sum()))
    level = alpha * found / max(1, int(known.sum()))
    reach = -stdtrit(freedom, level / 2) * error
    low, high = np.where(known, difference - reach, np.nan), np.where(known, difference + reach, np.nan)
    within = np.abs(difference) - stdtrit(freedom, EQUIVALENCE_ALPHA) * error < delta
    verdict = np.where(known & within, "shared", np.where((low > 0) | (high < 0), "different", "undecided"))
    needed = np.full((2, len(known)), np.nan)
    open_ = known & (verdict == "undecided")
    needed[:, open_] = _frames_needed(np.abs(difference[open_]), spread, open_, delta, level)
    return low, high, verdict, *needed


def _frames_needed(
    d: Float[np.ndarray, " open"], spread: _Spread, which: np.ndarray, delta: float, level: float
) -> Float[np.ndarray, "2 open"]:
    """The smallest n at which *different*, and that at which *shared*, has the power asked for."""
    from scipy.special import nctdtr, ndtri, stdtrit

    of_one, per_frame = spread.of_one[which], spread.per_frame[which]

    def different(n: np.ndarray) -> np.ndarray:
        error, freedom = of_one / np.sqrt(n), per_frame * (n - 1)
        beyond = -stdtrit(freedom, level / 2)
        return 1 - nctdtr(freedom, d / error, beyond) + nctdtr(freedom, d / error, -beyond)

    def shared(n: np.ndarray) -> np.ndarray:
        error, freedom = of_one / np.sqrt(n), per_frame * (n - 1)
        beyond = -stdtrit(freedom, EQUIVALENCE_ALPHA)
        return nctdtr(freedom, (d - delta) / error, -beyond) - nctdtr(freedom, (d + delta) / error, beyond)

    power = float(ndtri(POWER))
    with np.errstate(divide="ignore"):  # what a normal distribution says, from where the search starts
        about_different = (of_one * (power - ndtri(level / 2)) / d) ** 2
        about_shared = (of_one * (power - ndtri(EQUIVALENCE_ALPHA)) / np.maximum(0, delta - d)) ** 2
    needed = np.stack([_first(different, about_different), _first(shared, about_shared)])
    return np.where(needed > MOST, np.inf, needed)


def _first(power: Callable[[np.ndarray], np.ndarray], about: np.ndarray) -> Float[np.ndarray, " open"]:
    """The first n from 2 on that has the power asked for, by doubling and halving; beyond `MOST` where none has."""
    about = np.minimum(about, 4.0 * MOST)
    low, high = np.maximum(1, np.floor(0.9 * about) - 2), np.ceil(1.1 * about) + 8
    low = np.where((low > 1) & (power(np.maximum(2, low)) >= POWER), 1, low)
    while (short := (high <= MOST) & (power(high) < POWER)).any():
        low, high = np.where(short, high, low), np.where(short, 2 * high, high)
    while (wide := (high <= MOST) & (high - low > 1)).any():
        middle = np.where(wide, np.floor((low + high) / 2), high)
        enough = power(middle) >= POWER
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return high


def _permuted(a: Float[np.ndarray, "m cells"], b: Float[np.ndarray, "n cells"], seed: int) -> np.ndarray:
    """The share of ways to deal the frames to the groups for which Welch's t lies at least as far from zero."""
    pooled = np.concatenate([a, b])
    m, total, result = len(a), len(pooled), np.full(pooled.shape[1], np.nan)
    if min(m, total - m) < 2:
        return result
    sound = np.flatnonzero(np.isfinite(pooled).all(axis=0))
    for start in range(0, len(sound), width := max(1, statistics.BLOCK // max(total, statistics.DRAWS))):
        part = sound[start : start + width]
        x = pooled[:, part] - pooled[:, part].mean(axis=0)
        size, slack = x.std(axis=0), 4 * np.finfo(np.float64).eps * np.abs(pooled[:, part]).max(axis=0)
        x = np.where(size <= slack, 0, x) / np.where(size <= slack, 1, size)  # equal but for rounding: equal
        least = _welch_squared(_first_of(m, total), x)[0] * (1 - 1e-9)  # what lies closer is a tie by rounding
        counted, reached = 0, np.zeros(len(part))
        for dealt in _deals(m, total, seed):
            counted, reached = counted + len(dealt), reached + (_welch_squared(dealt, x) >= least).sum(axis=0)
        result[part] = reached / counted
    return result


def _welch_squared(dealt: Float[np.ndarray, "rows total"], x: Float[np.ndarray, "total cells"]) -> np.ndarray:
    """Welch's t, squared, for each way to deal; `x` has mean 0 and variance 1, or is 0."""
    total = len(x)
    m = int(dealt[0].sum())
    n, sums, squares = total - m, dealt @ x, dealt @ x**2
    ours = (squares - sums**2 / m) / (m * (m - 1))
    theirs = ((x**2).sum(axis=0) - squares - sums**2 / n) / (n * (n - 1))
    return (sums * (1 / m + 1 / n)) ** 2 / np.maximum(ours + theirs, 1e-12)


def _first_of(m: int, total: int) -> Float[np.ndarray, "1 total"]:
    return (np.arange(total) < m).astype(np.float64)[None]


def _deals(m: int, total: int, seed: int) -> Iterator[Float[np.ndarray, "rows total"]]:
    """Which frames go to the first group, in blocks; the observed way is among them."""
    if comb(total, m) <= statistics.DRAWS + 1:
        every = np.zeros((comb(total, m), total))
        for row, chosen in zip(every, combinations(range(total), m), strict=True):
            row[list(chosen)] = 1
        yield every
        return
    random, size = np.random.default_rng(seed), max(1, statistics.BLOCK // (4 * total))
    yield _first_of(m, total)
    for start in range(0, statistics.DRAWS, size):
        rows = min(size, statistics.DRAWS - start)
        yield (random.random((rows, total)).argsort(axis=1) < m).astype(np.float64)
