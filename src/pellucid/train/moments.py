"""At which steps something is done: densely at first, where most happens, then evenly."""

from dataclasses import dataclass

from pellucid.base.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Steps 0 and the last, the powers of two between, and every so-manieth.

    Args:
        log_spaced: Whether the powers of two are among them.
        every: Every so-manieth step; 0 for none; None for as many as make the default number of equal parts.

    Raises:
        ConfigError: A value cannot be.
    """

    log_spaced: bool = True
    every: int | None = None

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 0:
            raise ConfigError(f"every must be 0 or more steps, got {self.every}")

    def steps(self, steps: int, *, parts: int) -> frozenset[int]:
        """Those of a run.

        Args:
            steps: All that it takes.
            parts: Equal parts of it, where `every` is None.

        Example:
            >>> sorted(Moments(every=25).steps(80, parts=10))
            [0, 1, 2, 4, 8, 16, 25, 32, 50, 64, 75, 80]
        """
        every = max(1, steps // parts) if self.every is None else self.every
        found = {0, steps}
        if self.log_spaced:
            found |= {2**i for i in range(steps.bit_length()) if 2**i <= steps}
        if every:
            found |= set(range(0, steps + 1, every))
        return frozenset(found)
