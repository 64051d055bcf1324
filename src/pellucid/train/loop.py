"""A training loop: batches in, a trained model and its loss curve out.

The loss reads the logits where they are: what should not count has an ignored target, so nothing of
`[batch pos d_vocab]` is copied.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from pellucid.base.errors import ConfigError
from pellucid.base.seeds import generator
from pellucid.train.sequences import IGNORED, Batch


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast: AdamW, a linear warm-up, then a linear way down to zero.

    Args:
        steps: Updates of the weights.
        batch: Sequences for each.
        lr: The highest learning rate.
        betas: Of AdamW.
        weight_decay: Of AdamW.
        warmup: Steps until the highest learning rate is reached.
        clip: Largest norm of the gradient.
        seed: Of the batches.

    Raises:
        ConfigError: A value cannot be.
    """

    steps: int
    batch: int
    lr: float
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.0
    warmup: int = 100
    clip: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or not 0 <= self.warmup < self.steps:
            raise ConfigError(
                "steps and batch must be 1 or more and 0 ≤ warmup < steps, got "
                f"steps={self.steps}, batch={self.batch}, warmup={self.warmup}"
            )

    def rate(self, step: int) -> float:
        """The share of the highest learning rate that a step takes."""
        return min((step + 1) / (self.warmup + 1), (self.steps - step) / (self.steps - self.warmup))


def train(
    model: nn.Module,
    draw: Callable[[int, torch.Generator], Batch],
    schedule: Schedule,
    *,
    on_step: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Trains a model in place.

    Args:
        model: Tokens `[batch pos]` in, logits `[batch pos d_vocab]` out.
        draw: Makes a batch of so many sequences, such as `PeriodicSequences(...).draw`.
        schedule: How long and how fast.
        on_step: Called after each step with its number, from 0, and its loss.

    Returns:
        The loss of each step, in nats.
    """
    device = next(model.parameters()).device
    draws = generator(schedule.seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=schedule.lr, betas=schedule.betas, weight_decay=schedule.weight_decay, fused=True
    )
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.rate)
    losses = []
    for step in range(schedule.steps):
        tokens, targets = (part.to(device) for part in draw(schedule.batch, draws))
        loss = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
        optimizer.step()
        rates.step()
        losses.append(loss.item())
        if on_step is not None:
            on_step(step, losses[-1])
    return losses
