"""Where an interval or a p value does not hold its level, it says so.

In: the independent units (prompts, or frames) that a test was made on. Out: a warning, or nothing. What is warned of is
what simulation shows (``tests/maths/test_level.py``), at 95 %:

- The bootstrap (BCa) covers .83 of the time on 5 units, .88 on 8, .93 on 20 and 24; on skewed effects a little less.
- Student's t and the sign-flip test hold on symmetric effects for any n. On skewed ones (exponential) the t interval
  covers .88 at 5 to 12 units, .92 at 24, .935 at 60, and the p value is below .05 in .10 of null data sets at 8 units,
  .08 at 24. By theory the error goes with the squared skewness of the mean, skewness² / n (Hall 1992, "The Bootstrap
  and Edgeworth Expansion"), and at 4 / 60 a thousand data sets hardly show it. So it warns where effects are seen to be
  more skewed than that, in more cells than by chance.
- Two groups, unpaired: the skewness of the difference of means, by the same rule. Where both groups are alike it
  cancels, and Welch's interval covers .95; on 8 against 60 skewed effects it covers .89.

Below 5 units no skewness can be seen; t covers .91 on 2 skewed ones, and no p value comes below .05.
"""

import warnings

import numpy as np
from jaxtyping import Bool, Float

from pellucid.base.errors import MisreadWarning

BOOTSTRAP_FROM = 20
"""Units from which on the bootstrap is given without a warning."""
SKEWNESS_FROM = 5
"""Units below which no sample can show that it is skewed."""
ENOUGH = 4 / 60
"""The squared skewness of a mean from which on the level is seen to suffer."""
CHANCE = 0.001
"""The share of cells of normal effects that look skewed, and how seldom such cells lead to a warning."""
LIMITS = {5: 1.477, 6: 1.707, 7: 1.855, 8: 1.944, 10: 2.017, 12: 2.015, 16: 1.928, 20: 1.812, 24: 1.684, 32: 1.493}
"""By n, the skewness that one in a thousand samples of normal numbers exceeds (of a million samples each)."""


def seen_skewed(
    x: Float[np.ndarray, "n cells"], other: Float[np.ndarray, "m cells"] | None = None
) -> Bool[np.ndarray, " cells"]:
    """The cells whose mean is so skewed that the level suffers, and whose effects more than chance makes normal ones.

    Args:
        x: The independent units.
        other: Those of another group, if it is the difference of the two means that is looked at.

    Example:
        >>> seen_skewed(np.array([[1.0, 1.0], [2.0, 1.1], [3.0, 1.2], [4.0, 1.0], [5.0, 1.1], [6.0, 90.0]]))
        array([False,  True])
    """
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        size = np.abs(x).max(axis=0) if other is None else np.maximum(np.abs(x).max(axis=0), np.abs(other).max(axis=0))
        seen, variance, third = _moments(x / size)
        if other is not None:
            also, more, minus = _moments(other / size)
            seen, variance, third = seen | also, variance + more, third - minus
        return seen & (third**2 > ENOUGH * variance**3)


def _moments(x: Float[np.ndarray, "n cells"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether the sample looks skewed, and the variance and third cumulant of its mean."""
    n = len(x)
    away = x - x.mean(axis=0)
    variance, third = (away**2).mean(axis=0), (away**3).mean(axis=0)
    limit = np.interp(n, list(LIMITS), list(LIMITS.values())) if n >= SKEWNESS_FROM else np.inf
    return np.abs(third) > limit * variance**1.5, variance / n, third / n**2


def warn_of_level(n: int, skewed: int, cells: int, *, method: str = "sign-flip", stacklevel: int = 3) -> None:
    """Says that what was computed on `n` units may not hold its level; ``stacklevel=3`` is the caller of the caller.

    Args:
        n: Independent units.
        skewed: Of how many cells the effects are `seen_skewed`.
        cells: How many cells there are.
        method: Of the interval.
        stacklevel: Whose line is named.

    Warns:
        MisreadWarning: It may not.
    """
    from scipy.special import bdtrc

    if method == "bootstrap" and 1 < n < BOOTSTRAP_FROM:
        warnings.warn(
            f"the bootstrap's interval is too narrow on fewer than {BOOTSTRAP_FROM} independent prompts or frames, got "
            f"{n}; take method='t', or more",
            MisreadWarning,
            stacklevel=stacklevel,
        )
    elif skewed and bdtrc(skewed - 1, cells, CHANCE) <= CHANCE * (1 + 1e-9):
        warnings.warn(
            f"the effects of {skewed} of {cells} cells are so skewed that on {n} independent prompts or frames "
            "their intervals are too narrow and their p values too small; take more",
            MisreadWarning,
            stacklevel=stacklevel,
        )
