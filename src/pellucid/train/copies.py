"""Passages that stand twice in a row of text: a dose of what induction heads are for."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Integer

from pellucid.base.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Copies:
    """In some rows one passage is written again, over what stood further on.

    Length, place and distance are drawn anew each time, so that no position tells where the copy's words come from.
    Every token stays a target, also the first one of a copy, which nothing tells.

    Args:
        share: Of the rows, at the beginning of the run.
        last_share: At its end, a straight line between; None: the same.
        shortest: The shortest passage, in tokens.
        longest: The longest one; each between is as likely.

    Raises:
        ConfigError: A value cannot be.

    Example:
        >>> rows = np.arange(12)[None]
        >>> Copies(share=1.0, shortest=3, longest=3).copied(rows, share=1.0, draws=np.random.default_rng(0)).tolist()
        [[0, 1, 2, 3, 4, 5, 6, 2, 3, 4, 10, 11]]
    """

    share: float
    last_share: float | None = None
    shortest: int = 10
    longest: int = 120

    def __post_init__(self) -> None:
        for name, value in (("share", self.share), ("last_share", self.at(1.0))):
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} must be a share, from 0 to 1, got {value}")
        if not 1 <= self.shortest <= self.longest:
            raise ConfigError(f"1 ≤ shortest ≤ longest must hold, got shortest={self.shortest}, longest={self.longest}")

    def at(self, done: float) -> float:
        """The share of the rows when so much of the run is done, from 0 to 1."""
        last = self.share if self.last_share is None else self.last_share
        return self.share + (last - self.share) * min(done, 1.0)

    def copied(
        self, rows: Integer[np.ndarray, "row length"], *, share: float, draws: np.random.Generator
    ) -> Integer[np.ndarray, "row length"]:
        """Rows some of which have a passage twice; the first token of a row, its BOS, is in none."""
        rows = rows.copy()
        for row in np.flatnonzero(draws.random(len(rows)) < share):
            n = int(draws.integers(self.shortest, self.longest + 1))
            free = rows.shape[1] - 1 - 2 * n
            before, until = sorted(draws.integers(0, free + 1, 2).tolist())
            again = 1 + until + n
            rows[row, again : again + n] = rows[row, 1 + before : 1 + before + n]
        return rows
