"""Training sequences that are made on the fly: random tokens that repeat.

In: a generator. Out: tokens, and beside them the targets that a loss may count. The period is drawn anew for each
sequence: one fixed period teaches "look back by so many positions", which a model of one layer can do by position.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from pellucid.base.errors import ConfigError

IGNORED = -100
"""A target that no loss counts; what `torch.nn.functional.cross_entropy` ignores by default."""


class Batch(NamedTuple):
    """Sequences, and what follows each position."""

    tokens: Int[Tensor, "batch pos"]
    targets: Int[Tensor, "batch pos"]
    """The next token where it can be known from what came before, else `IGNORED`."""


@dataclass(frozen=True, kw_only=True)
class PeriodicSequences:
    """BOS, then random tokens that repeat with a period of their own until the sequence is full.

    Args:
        d_vocab: Number of token ids; 0 is BOS and never drawn.
        length: Tokens of a sequence, BOS included.
        shortest: The shortest period, in tokens.
        longest: The longest one; each between is as likely.

    Raises:
        ConfigError: The periods are none, or no token of a sequence could be predicted.

    Example:
        >>> sequences = PeriodicSequences(d_vocab=10, length=8, shortest=3, longest=3)
        >>> tokens, targets = sequences.draw(1, torch.Generator().manual_seed(0))
        >>> tokens.tolist(), targets.tolist()
        ([[0, 9, 1, 3, 9, 1, 3, 9]], [[-100, -100, -100, -100, 1, 3, 9, -100]])
    """

    d_vocab: int
    length: int
    shortest: int
    longest: int

    def __post_init__(self) -> None:
        if self.d_vocab < 2:
            raise ConfigError(f"d_vocab must be 2 or more, BOS and a token, got {self.d_vocab}")
        if not 1 <= self.shortest <= self.longest <= self.length - 3:
            raise ConfigError(
                f"1 ≤ shortest ≤ longest ≤ length − 3 must hold, so that each sequence has a token that can be "
                f"predicted, got shortest={self.shortest}, longest={self.longest}, length={self.length}"
            )

    def draw(self, batch: int, generator: torch.Generator) -> Batch:
        """Some sequences.

        The targets are those after the first period. The token with which the second one begins is not among them:
        nothing tells that the first one is over.
        """
        first = torch.randint(1, self.d_vocab, (batch, self.longest), generator=generator)
        period = torch.randint(self.shortest, self.longest + 1, (batch, 1), generator=generator)
        place = torch.arange(self.length - 1)
        drawn = first.gather(1, place % period)
        tokens = torch.cat([torch.zeros(batch, 1, dtype=torch.int64), drawn], dim=1)
        targets = torch.full_like(tokens, IGNORED)
        targets[:, :-1] = torch.where(place > period, drawn, IGNORED)
        return Batch(tokens, targets)
