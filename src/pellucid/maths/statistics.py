"""From effects on single prompts to how sure one may be of their mean.

In: effects ``[prompt *cells]``, one number a prompt for each cell of a sweep. Out: mean, interval and p value of each
cell, cells apart. Where prompts share templates, frames are what is counted (`frames.py`); where a method does not hold
its level, it says so (`level.py`). The methods rest on a few thousand weighted sums over the prompts; the weights
(signs, or counts of a resample) are the same for every cell, so the work is a matrix product. It goes in blocks of
cells and of weights, so that memory stays bounded however many of both there are; the weights are drawn anew from the
seed for each block of cells rather than kept.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, product
from math import floor, prod

import numpy as np
from jaxtyping import Float, Shaped
from torch import Tensor

from pellucid.base.errors import ArgumentError, nearest
from pellucid.maths.frames import Frames, by_prompt, real_numbers
from pellucid.maths.level import seen_skewed, warn_of_level

METHODS = ("t", "sign-flip", "bootstrap")
EXACT_UP_TO = 12
"""Prompts up to which every choice of signs is tried."""
DRAWS = 9_999
"""Sign flips, or resamples, drawn where not all are tried."""
BLOCK = 2**22
"""Numbers held at once in a block: 32 MB of float64."""


@dataclass(frozen=True)
class Effect:
    """The mean effect over prompts and how sure it is: float64 arrays of the cells' shape, always.

    For one-dimensional input that shape is ``()``; a 0-d array compares, prints and converts as a float does.
    """

    mean: Float[np.ndarray, "*cells"]
    low: Float[np.ndarray, "*cells"]
    high: Float[np.ndarray, "*cells"]
    p_value: Float[np.ndarray, "*cells"]
    n: int
    """Prompts, or frames where they were given."""


def effect(
    x: Shaped[Tensor, "..."] | Shaped[np.ndarray, "..."],
    *,
    interval: float = 0.95,
    method: str = "t",
    seed: int = 0,
    frames: Sequence[Hashable] | Shaped[np.ndarray, "..."] | None = None,
    quiet: bool = False,
) -> Effect:
    """The mean over the first axis with its interval, and the p value of its being zero.

    The p value is that of the two-sided sign-flip test, whichever interval is asked for: under the null
    hypothesis an effect is as likely as its negative. Up to 12 prompts all signs are tried; beyond, 9,999
    are drawn, and the observed one counts among them (Phipson and Smyth 2010). It cannot go below
    ``2^(1-n)``: with fewer than 6 prompts nothing reaches p < 0.05.

    Args:
        x: ``[prompt *cells]``, real numbers; the prompts must be independent of each other, or else have `frames`.
        interval: How often the interval should hold the true mean, between 0 and 1.
        method: ``"t"``: Student's interval, which of all here covers skewed effects on few prompts least badly.
            ``"sign-flip"``: every mean that the sign-flip test does not reject; infinite on both sides where
            n is too small for it to reject anything. ``"bootstrap"``: BCa, 9,999 resamples; too narrow on few
            prompts (at 95 % it covers .88 on 8 and .93 on 24).
        seed: For whatever is drawn. The numbers of a cell do not depend on the other cells.
        frames: The template of each prompt, by name or number. Prompts of one frame are averaged first; mean, interval
            and p value are then those of the frames' means, each frame with the same weight however many prompts it
            has, and `n` counts frames. None: each prompt stands for itself.
        quiet: Not to warn.

    Returns:
        In the unit of `x`. One prompt (or frame) has a mean but no interval: `low`, `high` and `p_value` are NaN. A
        cell with a NaN or an infinity on any prompt has NaN for these three as well, and as mean what
        numpy's mean is.

    Raises:
        ArgumentError: No prompt; not real numbers; an unknown method; an interval not between 0 and 1; not one frame
            id a prompt.

    Warns:
        MisreadWarning: The level may not hold: the bootstrap on fewer than 20 prompts or frames; effects visibly too
            skewed for their number.

    Source: BCa: Efron 1987, "Better Bootstrap Confidence Intervals". The inverted sign-flip test: Hartigan
    1969, "Using Subsample Values as Typical Values".

    Example:
        >>> found = effect(np.array([0.9, 1.1, 1.0, 1.2, 0.8, 1.0]))
        >>> print(f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}], p = {found.p_value:.3f}")
        1.00 [0.85, 1.15], p = 0.031
        >>> found = effect(np.array([0.9, 1.1, 1.0, 1.2, 0.8]), frames=["gave", "gave", "gave", "lent", "sent"])
        >>> print(f"{found.mean:.2f} over {found.n} frames")
        1.00 over 3 frames
    """
    if method not in METHODS:
        raise ArgumentError(f"method must be a known one, got {method!r}{nearest(method, METHODS)}")
    if not 0 < interval < 1:
        raise ArgumentError(f"interval must lie between 0 and 1, got {interval}; 0.95 is usual")
    numbers = by_prompt(x)
    shape, units = numbers.shape[1:], None if frames is None else Frames.of(frames, len(numbers))
    columns, n = numbers.reshape(len(numbers), prod(shape)), len(numbers) if units is None else len(units.ids)
    parts, skewed = np.full((4, prod(shape)), np.nan), 0
    width = max(1, BLOCK // max(len(numbers), DRAWS))
    for start in range(0, prod(shape), width):
        part = slice(start, start + width)
        block = columns[:, part].astype(np.float64)
        block = block if units is None else units.means(block)
        parts[:, part] = _part(block, 1 - interval, method, seed)
        skewed += int(seen_skewed(block).sum())
    if not quiet:
        warn_of_level(n, skewed, prod(shape), method=method)
    mean, low, high, p_value = parts.reshape(4, *shape)
    return Effect(*(np.asarray(result) for result in (mean, low, high, p_value)), n=n)


def corrected(p: Shaped[Tensor, "..."] | Shaped[np.ndarray, "..."], *, method: str = "fdr") -> Float[np.ndarray, "..."]:
    """The p values of many cells, corrected for there being many.

    Of the cells below 0.05 after it, no more than 5 % are expected to be false finds.

    Args:
        p: Of any shape; all its cells are one family. NaN (a cell that cannot be, or has one prompt) is
            passed over.
        method: ``"fdr"``: Benjamini and Hochberg 1995, for cells that are independent or positively
            dependent.

    Returns:
        float64 of the shape of `p`, NaN where `p` is.

    Raises:
        ArgumentError: An unknown method; a p value outside 0 to 1.

    Example:
        >>> corrected(np.array([0.01, 0.04, np.nan, 0.03]))
        array([0.03, 0.04,  nan, 0.04])
    """
    from scipy.stats import false_discovery_control

    if method != "fdr":
        raise ArgumentError(f"method must be fdr, got {method!r}")
    result = real_numbers(p).astype(np.float64)
    known = ~np.isnan(result)
    if ((result[known] < 0) | (result[known] > 1)).any():
        found = f"{result[known].min():g} to {result[known].max():g}"
        raise ArgumentError(f"p values must lie from 0 to 1, got {found}; give p values, not effects")
    if known.any():
        result[known] = false_discovery_control(result[known], method="bh")
    return result


def max_statistic(
    x: Shaped[Tensor, "..."] | Shaped[np.ndarray, "..."],
    *,
    seed: int = 0,
    frames: Sequence[Hashable] | Shaped[np.ndarray, "..."] | None = None,
) -> Float[np.ndarray, "..."]:
    """The p values of many cells' mean effects, corrected for there being many by how they vary together.

    The sign-flip test of `effect`, with each choice of signs shared by all cells, and each cell compared with the cell
    that then lies farthest from zero, measured by its own root mean square. The probability that any cell of no effect
    comes out below 0.05 is at most 5 %, however the cells depend on each other; where they go together, as neighbouring
    cells do, this finds more than a correction that takes each for itself.

    Args:
        x: ``[prompt *cells]``, real numbers; all cells are one family.
        seed: For the signs, beyond 12 prompts.
        frames: As for `effect`: the signs of the frames' means are flipped, each frame with the same weight.

    Returns:
        float64 of the shape of the cells. NaN for a cell that is not finite on each prompt, and for one prompt (frame).

    Raises:
        ArgumentError: No prompt, or no real numbers; not one frame id a prompt.

    Warns:
        MisreadWarning: Effects are visibly too skewed for their number, so that p values come out too small.

    Source: Westfall and Young 1993, "Resampling-Based Multiple Testing", single step; Nichols and Holmes 2002.

    Example:
        >>> max_statistic(np.array([[0.9, 0.1], [1.1, -0.2], [1.0, 0.1], [1.2, 0.1], [0.8, -0.2], [1.0, 0.1]]))
        array([0.03125, 1.     ])
    """
    numbers = by_prompt(x)
    cells = numbers.shape[1:]
    columns = numbers.reshape(len(numbers), prod(cells)).astype(np.float64)
    columns = columns if frames is None else Frames.of(frames, len(numbers)).means(columns)
    n = len(columns)
    warn_of_level(n, int(seen_skewed(columns).sum()), prod(cells))
    p_value = np.full(prod(cells), np.nan)
    sound = np.isfinite(columns).all(axis=0)
    if n == 1 or not sound.any():
        return p_value.reshape(cells)
    size = np.sqrt((columns[:, sound] ** 2).sum(axis=0))
    scaled = columns[:, sound] / np.where(size == 0, 1, size)
    observed, width = np.abs(scaled.sum(axis=0)), max(1, BLOCK // max(n, DRAWS))
    farthest = np.sort(np.max([_farthest(scaled[:, i : i + width], seed) for i in range(0, len(size), width)], axis=0))
    least = observed - 4 * n * np.finfo(np.float64).eps * np.sqrt(n)  # what lies closer is a tie by rounding
    p_value[sound] = 1 - np.searchsorted(farthest, least) / len(farthest)
    return p_value.reshape(cells)


def smallest_p(n: int) -> float:
    """The smallest p value to expect of the sign-flip test on `n` prompts: ``2^(1-n)``, but no less than 1e-4.

    Example:
        >>> smallest_p(5)
        0.0625
    """
    return max(0.5 ** (n - 1), 1 / (DRAWS + 1))


def split(n: int, frames: Sequence[Hashable] | None = None) -> tuple[Sequence[int], Sequence[int]]:
    """The prompts to choose a cell on, and the others, to say what it measures: the best looks better than it is.

    Of three prompts one chooses; a single one must do both. Whole frames go to one side: their prompts are alike.

    Args:
        n: How many prompts.
        frames: The template of each; None: each prompt stands for itself.

    Example:
        >>> split(5)
        (range(0, 2), range(2, 5))
        >>> split(6, ["a", "b", "c", "a", "b", "c"])
        ([0, 3], [1, 2, 4, 5])
    """
    if frames is None:
        return range(max(1, n // 2)), range(n // 2, n)
    names = list(dict.fromkeys(frames))
    first, second = (set(side) for side in (names[: max(1, len(names) // 2)], names[len(names) // 2 :]))
    return [at for at in range(n) if frames[at] in first], [at for at in range(n) if frames[at] in second]


def _part(x: Float[np.ndarray, "n cells"], alpha: float, method: str, seed: int) -> Float[np.ndarray, "4 cells"]:
    """Mean, low, high and p value of a block of cells."""
    results = np.full((4, x.shape[1]), np.nan)
    with np.errstate(invalid="ignore", over="ignore"):
        results[0] = x.mean(axis=0)
    sound = np.isfinite(results[0])  # not finite on one prompt, not finite in the mean
    if len(x) > 1 and sound.any():
        bounds = {"t": _t, "sign-flip": _inverted, "bootstrap": _bca}[method]
        results[1:3, sound] = bounds(x[:, sound], alpha, seed)
        results[3, sound] = _sign_flip(x[:, sound], seed)
    return results


def _t(x: Float[np.ndarray, "n cells"], alpha: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    from scipy.special import stdtrit

    n, mean = len(x), x.mean(axis=0)
    reach = stdtrit(n - 1, 1 - alpha / 2) * x.std(axis=0, ddof=1) / np.sqrt(n)
    return mean - reach, mean + reach


def _sign_flip(x: Float[np.ndarray, "n cells"], seed: int) -> Float[np.ndarray, " cells"]:
    """The share of sign choices whose sum is at least as far from zero as the observed one."""
    rows, blocks = _signs(len(x), seed)
    least = np.abs(x.sum(axis=0)) - _slack(x)
    reached = np.ones(x.shape[1])  # the observed signs
    for signs in blocks:
        reached += (np.abs(signs @ x) >= least).sum(axis=0)
    return reached / (rows + 1)


def _farthest(x: Float[np.ndarray, "n cells"], seed: int) -> Float[np.ndarray, " choices"]:
    """How far from zero the sum of the farthest cell lies, for each choice of signs, the observed one first."""
    _, blocks = _signs(len(x), seed)
    return np.concatenate([np.abs(signs @ x).max(axis=1) for signs in chain([np.ones((1, len(x)))], blocks)])


def _inverted(x: Float[np.ndarray, "n cells"], alpha: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The means that the sign-flip test does not reject.

    A choice of signs splits the prompts in two. With m taken off every effect, its sum is at least as far
    from zero as the observed one exactly if m lies between the means of the two parts: so the p value of m
    is the share of splits whose means enclose it, the bounds are order statistics, and nothing is searched.
    """
    n, total = len(x), x.sum(axis=0)
    rows, blocks = _signs(n, seed)
    # m is kept if (1 + splits that enclose it) / (1 + rows) > alpha; 1e-9 mends 1 - 0.9 = 0.0999….
    needed = floor(alpha * (rows + 1) + 1e-9)
    if needed == 0:
        return np.full(x.shape[1], -np.inf), np.full(x.shape[1], np.inf)
    lower, upper = [], []
    for signs in blocks:
        ours = (signs > 0).sum(axis=1, keepdims=True)
        taken = (signs > 0).astype(np.float64) @ x
        whole = (ours == 0) | (ours == n)  # not split at all: encloses everything
        means = taken / np.maximum(ours, 1), (total - taken) / np.maximum(n - ours, 1)
        lower.append(np.where(whole, -np.inf, np.minimum(*means)))
        upper.append(np.where(whole, np.inf, np.maximum(*means)))
    low = np.partition(np.concatenate(lower), needed - 1, axis=0)[needed - 1]
    high = np.partition(np.concatenate(upper), rows - needed, axis=0)[rows - needed]
    return np.minimum(low, total / n), np.maximum(high, total / n)  # by rounding alone they could pass it


def _bca(x: Float[np.ndarray, "n cells"], alpha: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Bias-corrected, accelerated bootstrap of the mean; equal effects have an interval of no width."""
    from scipy.special import ndtr, ndtri

    n, mean, slack = len(x), x.mean(axis=0), _slack(x) / len(x)
    means = np.sort(np.concatenate([counts @ x / n for counts in _resamples(n, seed)]), axis=0)
    # Ties count half. Half a draw at either end keeps the correction finite.
    below = ((means < mean - slack).mean(axis=0) + (means <= mean + slack).mean(axis=0)) / 2
    bias = ndtri(np.clip(below, 0.5 / DRAWS, 1 - 0.5 / DRAWS))
    away = x - mean
    spread = (away**2).sum(axis=0)
    flat = spread <= n * slack**2
    acceleration = (away**3).sum(axis=0) / (6 * np.where(flat, 1, spread) ** 1.5)
    bounds = []
    for tail in (alpha / 2, 1 - alpha / 2):
        shifted = bias + ndtri(tail)
        share = ndtr(bias + shifted / np.maximum(1 - acceleration * shifted, 1e-12))
        bounds.append(np.where(flat, mean, _quantile(means, share)))
    return bounds[0], bounds[1]


def _quantile(ordered: Float[np.ndarray, "draws cells"], share: Float[np.ndarray, " cells"]) -> np.ndarray:
    """Each column's own quantile, between two draws in proportion."""
    place = share * (len(ordered) - 1)
    under = np.floor(place).astype(int)
    over = np.minimum(under + 1, len(ordered) - 1)
    first, second = (np.take_along_axis(ordered, index[None], axis=0)[0] for index in (under, over))
    return first + (place - under) * (second - first)


def _slack(x: Float[np.ndarray, "n cells"]) -> Float[np.ndarray, " cells"]:
    """How far two sums of the same numbers can differ by rounding: what lies closer is a tie."""
    return 4 * len(x) * np.finfo(np.float64).eps * np.abs(x).sum(axis=0)


def _signs(n: int, seed: int) -> tuple[int, Iterator[Float[np.ndarray, "rows n"]]]:
    """How many choices of signs are tried besides the observed one, and these in blocks."""
    if n <= EXACT_UP_TO:
        # A choice and its negative reach equally far: the first sign stays. The first choice is as observed.
        every = np.array([(1.0, *rest) for rest in product((1.0, -1.0), repeat=n - 1)])[1:]
        return len(every), iter([every])
    random = np.random.default_rng(seed)
    return DRAWS, (random.integers(0, 2, (rows, n)) * 2.0 - 1.0 for rows in _blocks(n))


def _resamples(n: int, seed: int) -> Iterator[Float[np.ndarray, "rows n"]]:
    """How often each prompt is drawn, in blocks of resamples."""
    random = np.random.default_rng(seed)
    for rows in _blocks(n):
        flat = (random.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]).ravel()
        yield np.bincount(flat, minlength=rows * n).reshape(rows, n).astype(np.float64)


def _blocks(n: int) -> Iterator[int]:
    """Sizes of the blocks in which the draws go, for `n` prompts; they add up to all draws."""
    size = max(1, BLOCK // (4 * n))
    for start in range(0, DRAWS, size):
        yield min(size, DRAWS - start)
