"""Training sequences that are made on the fly, of random tokens, as small values.

In: a generator. Out: tokens, and beside them the targets that a loss may count. Each kind is one frozen class with
`draw`; the same generator draws the same sequences. Token 0 is BOS, and never drawn.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from pellucid.base.errors import ConfigError

IGNORED = -100
"""A target that no loss counts; what `torch.nn.functional.cross_entropy` ignores by default."""
MARK = 1
"""The token after BOS's: what separates a question from its answer, or fills a place that says nothing."""


class Batch(NamedTuple):
    """Sequences, and what follows each position."""

    tokens: Int[Tensor, "batch pos"]
    targets: Int[Tensor, "batch pos"]
    """The next token where it can be known from what came before, else `IGNORED`."""
    source: Int[Tensor, "batch k_pos"] | None = None
    """What an encoder reads."""


@runtime_checkable
class Sequences(Protocol):
    """A kind of sequence."""

    @property
    def d_vocab(self) -> int:
        """Token ids that it may draw, from 0."""
        ...

    @property
    def longest_row(self) -> int:
        """Tokens of the longest row, whichever side reads it."""
        ...

    def draw(self, batch: int, generator: torch.Generator) -> Batch:
        """Some sequences."""
        ...


@dataclass(frozen=True, kw_only=True)
class PeriodicSequences:
    """BOS, then random tokens that repeat with a period of their own until the sequence is full.

    The period is drawn anew for each sequence: one fixed period teaches "look back by so many positions", which a model
    of one layer can do by position.

    Args:
        d_vocab: Number of token ids; 0 is BOS and never drawn.
        length: Tokens of a sequence, BOS included.
        shortest: The shortest period, in tokens.
        longest: The longest one; each between is as likely.
        offset: The most random tokens that stand before the first period, each number from 0 on as likely: with any,
            a place in the sequence does not tell the place in the period.
        noise: The share of tokens that others replace, drawn anew; they are no targets.

    Raises:
        ConfigError: The periods are none, or no token of a sequence could be predicted.

    Example:
        >>> sequences = PeriodicSequences(d_vocab=10, length=8, shortest=3, longest=3)
        >>> tokens, targets, _ = sequences.draw(1, torch.Generator().manual_seed(0))
        >>> tokens.tolist(), targets.tolist()
        ([[0, 9, 1, 3, 9, 1, 3, 9]], [[-100, -100, -100, -100, 1, 3, 9, -100]])
    """

    d_vocab: int
    length: int
    shortest: int
    longest: int
    offset: int = 0
    noise: float = 0.0

    def __post_init__(self) -> None:
        _check_vocabulary(self.d_vocab, 2, "BOS and a token")
        if not 1 <= self.shortest <= self.longest <= self.length - 3 - self.offset or self.offset < 0:
            raise ConfigError(
                f"0 ≤ offset and 1 ≤ shortest ≤ longest ≤ length − 3 − offset must hold, so that each sequence has a "
                f"token that can be predicted, got shortest={self.shortest}, longest={self.longest}, "
                f"length={self.length}, offset={self.offset}"
            )
        if not 0 <= self.noise < 1:
            raise ConfigError(f"noise must be a share, 0 ≤ noise < 1, got {self.noise}")

    @property
    def longest_row(self) -> int:
        """Tokens of a sequence."""
        return self.length

    def draw(self, batch: int, generator: torch.Generator) -> Batch:
        """Some sequences.

        The targets are those after the first period. The token with which the second one begins is not among them:
        nothing tells that the first one is over.
        """
        first = torch.randint(1, self.d_vocab, (batch, self.longest), generator=generator)
        period = torch.randint(self.shortest, self.longest + 1, (batch, 1), generator=generator)
        place, begin = torch.arange(self.length - 1), torch.zeros(1, 1, dtype=torch.int64)
        drawn = first.gather(1, place.expand(batch, -1) % period)
        if self.offset:
            begin = torch.randint(0, self.offset + 1, (batch, 1), generator=generator)
            before = torch.randint(1, self.d_vocab, (batch, self.length - 1), generator=generator)
            repeated = first.gather(1, (place - begin).clamp(min=0) % period)
            drawn = torch.where(place < begin, before, repeated)
        known = place - begin > period
        if self.noise:
            hit = torch.rand(drawn.shape, generator=generator) < self.noise
            drawn = torch.where(hit, torch.randint(1, self.d_vocab, drawn.shape, generator=generator), drawn)
            known = known & ~hit
        return _batch(drawn, torch.where(known, drawn, IGNORED))


@dataclass(frozen=True, kw_only=True)
class TranslatedSequences:
    """An encoder reads random tokens, and a decoder writes the same ones after BOS: copying as a translation.

    Args:
        d_vocab: Number of token ids; 0 is BOS, 1 a blank, and neither is drawn.
        length: Tokens to be written.
        blanks: Blanks at random places among those that the encoder reads (spatial noise): with any, a token's place in
            the answer does not tell its place in the source.

    Raises:
        ConfigError: A value cannot be.

    Example:
        >>> sequences = TranslatedSequences(d_vocab=10, length=3, blanks=2)
        >>> tokens, targets, source = sequences.draw(1, torch.Generator().manual_seed(0))
        >>> source.tolist(), tokens.tolist(), targets.tolist()
        ([[6, 9, 1, 7, 1]], [[0, 6, 9]], [[6, 9, 7]])
    """

    d_vocab: int
    length: int
    blanks: int = 0

    def __post_init__(self) -> None:
        _check_vocabulary(self.d_vocab, 4, "BOS, a blank and two tokens")
        if self.length < 2 or self.blanks < 0:
            raise ConfigError(
                f"length must be 2 or more and blanks 0 or more, got length={self.length}, blanks={self.blanks}"
            )

    @property
    def longest_row(self) -> int:
        """Tokens of the source."""
        return self.length + self.blanks

    def draw(self, batch: int, generator: torch.Generator) -> Batch:
        """Some sequences; every token that the decoder writes is a target."""
        drawn = torch.randint(2, self.d_vocab, (batch, self.length), generator=generator)
        source = torch.full((batch, self.longest_row), MARK)
        order = torch.rand(batch, self.longest_row, generator=generator).argsort(1)
        source.scatter_(1, order[:, : self.length].sort(1).values, drawn)
        tokens = torch.cat([torch.zeros(batch, 1, dtype=torch.int64), drawn[:, :-1]], dim=1)
        return Batch(tokens, drawn, source)


@dataclass(frozen=True, kw_only=True)
class MostFrequentToken:
    """BOS, random tokens of which one stands more often than any other, a mark, and which one it was.

    Args:
        d_vocab: Number of token ids; 0 is BOS, 1 the mark, and neither is drawn.
        length: Tokens between BOS and the mark.
        distinct: Different tokens that a sequence draws from.

    Raises:
        ConfigError: A value cannot be.

    Example:
        >>> sequences = MostFrequentToken(d_vocab=10, length=5, distinct=3)
        >>> tokens, targets, _ = sequences.draw(1, torch.Generator().manual_seed(1))
        >>> tokens.tolist(), targets[0, -1].item()
        ([[0, 6, 6, 3, 6, 8, 1]], 6)
    """

    d_vocab: int
    length: int
    distinct: int

    def __post_init__(self) -> None:
        _check_distinct(self.d_vocab, self.length, self.distinct)

    @property
    def longest_row(self) -> int:
        """Tokens of a sequence."""
        return self.length + 2

    def draw(self, batch: int, generator: torch.Generator) -> Batch:
        """Some sequences; the answer is the only target. Where two tokens would be the most frequent, one gives way."""
        drawn, names, picks = _some(self.d_vocab, self.length, self.distinct, batch, generator)
        counts = torch.zeros(batch, self.distinct, dtype=torch.int64).scatter_add_(1, picks, torch.ones_like(picks))
        most, winner = counts.max(1, keepdim=True)
        rival = (counts == most).scatter(1, winner, False)
        tied = rival.any(1, keepdim=True) & (picks == rival.long().argmax(1, keepdim=True))
        first_tied = tied & (tied.long().cumsum(1) == 1)
        answer = names.gather(1, winner)
        return _answered(torch.where(first_tied, answer, drawn), answer)


@dataclass(frozen=True, kw_only=True)
class TokenSet:
    """BOS, random tokens, a mark, and each of them once, in the order in which they first stood.

    Args:
        d_vocab: Number of token ids; 0 is BOS, 1 the mark, and neither is drawn.
        length: Tokens between BOS and the mark.
        distinct: Different tokens of a sequence; all of them stand in it.

    Raises:
        ConfigError: A value cannot be.

    Example:
        >>> sequences = TokenSet(d_vocab=10, length=4, distinct=2)
        >>> tokens, targets, _ = sequences.draw(1, torch.Generator().manual_seed(0))
        >>> tokens.tolist(), targets.tolist()
        ([[0, 5, 5, 4, 5, 1, 5]], [[-100, -100, -100, -100, -100, 5, 4]])
    """

    d_vocab: int
    length: int
    distinct: int

    def __post_init__(self) -> None:
        _check_distinct(self.d_vocab, self.length, self.distinct)

    @property
    def longest_row(self) -> int:
        """Tokens of a sequence."""
        return self.length + 1 + self.distinct

    def draw(self, batch: int, generator: torch.Generator) -> Batch:
        """Some sequences; the answer's tokens are the targets, and the last one is not read."""
        drawn, names, picks = _some(self.d_vocab, self.length, self.distinct, batch, generator)
        seen = picks[:, None] == torch.arange(self.distinct)[:, None]
        order = seen.long().argmax(2).argsort(1)
        return _answered(drawn, names.gather(1, order))


def _some(
    d_vocab: int, length: int, distinct: int, batch: int, generator: torch.Generator
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch distinct"], Int[Tensor, "batch pos"]]:
    """Tokens that are drawn from a few, each of which stands once at least; those few; and which of them stands where.

    The first places, in a random order, hold each once; the others any.
    """
    names = 2 + torch.rand(batch, d_vocab - 2, generator=generator).argsort(1)[:, :distinct]
    free = torch.randint(0, distinct, (batch, length - distinct), generator=generator)
    picks = torch.cat([torch.arange(distinct).expand(batch, -1), free], dim=1)
    picks = picks.gather(1, torch.rand(batch, length, generator=generator).argsort(1))
    return names.gather(1, picks), names, picks


def _answered(drawn: Int[Tensor, "batch pos"], answer: Int[Tensor, "batch answer"]) -> Batch:
    """BOS, the question, the mark, and the answer, whose tokens alone are targets."""
    mark = torch.full((len(drawn), 1), MARK)
    batch = _batch(torch.cat([drawn, mark, answer], dim=1), torch.cat([drawn, mark, answer], dim=1))
    asked = drawn.shape[1] + 1
    batch.targets[:, :asked] = IGNORED
    return Batch(batch.tokens[:, :-1], batch.targets[:, :-1])


def _batch(drawn: Int[Tensor, "batch pos"], targets: Int[Tensor, "batch pos"]) -> Batch:
    """BOS before the tokens, nothing after the targets."""
    bos = torch.zeros(len(drawn), 1, dtype=torch.int64)
    return Batch(torch.cat([bos, drawn], dim=1), torch.cat([targets, torch.full_like(bos, IGNORED)], dim=1))


def _check_vocabulary(d_vocab: int, least: int, what: str) -> None:
    if d_vocab < least:
        raise ConfigError(f"d_vocab must be {least} or more, {what}, got {d_vocab}")


def _check_distinct(d_vocab: int, length: int, distinct: int) -> None:
    if not 2 <= distinct <= min(length, d_vocab - 2):
        raise ConfigError(
            f"2 ≤ distinct ≤ length and distinct ≤ d_vocab − 2 must hold, got distinct={distinct}, length={length}, "
            f"d_vocab={d_vocab}"
        )
