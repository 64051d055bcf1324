"""How the learning rate rises and falls."""

import math
from dataclasses import dataclass
from typing import Literal

from pellucid.base.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A linear warm-up, then one of three ways on.

    Args:
        shape: ``"stable-decay"``: the highest rate, and at the end a straight line down (Hu et al. 2024);
            ``"cosine"``: half a cosine down (Loshchilov and Hutter 2017); ``"constant"``: the highest rate to the end.
        warmup: Steps until the highest rate is reached.
        decay: The share of all steps that the straight line takes, of ``"stable-decay"``; 1 is a line from the warm-up
            on.
        floor: The share of the highest rate that a way down ends at.

    Raises:
        ConfigError: A value cannot be.

    Example:
        >>> plan = Schedule(shape="stable-decay", warmup=2, decay=0.4)
        >>> [round(plan.rate(step, 10), 2) for step in range(10)]
        [0.33, 0.67, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
    """

    shape: Literal["stable-decay", "cosine", "constant"] = "stable-decay"
    warmup: int = 100
    decay: float = 1.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        if self.warmup < 0:
            raise ConfigError(f"warmup must be 0 or more steps, got {self.warmup}")
        for name in ("decay", "floor"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be a share, from 0 to 1, got {getattr(self, name)}")

    def rate(self, step: int, steps: int) -> float:
        """The share of the highest rate that a step takes, of so many."""
        rising = (step + 1) / (self.warmup + 1)
        if self.shape == "constant":
            return min(rising, 1.0)
        down = steps - self.warmup
        if self.shape == "stable-decay":
            falling = steps - step
            down = min(down, round(self.decay * steps))
            left = min(1.0, falling / down) if down > 0 else 1.0
        else:
            left = 0.5 + 0.5 * math.cos(math.pi * min(1.0, max(0.0, (step - self.warmup) / down)))
        return min(rising, self.floor + (1 - self.floor) * left)

    def check(self, steps: int) -> None:
        """Whether so many steps are enough.

        Raises:
            ConfigError: The warm-up takes them all.
        """
        if self.warmup >= steps:
            raise ConfigError(
                f"schedule.warmup must be less than steps, got warmup={self.warmup}, steps={steps}; train longer, or "
                "warm up for less"
            )
