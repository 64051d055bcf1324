"""Batches without end, and where in them a run is.

Every process draws the same global batches, so that their number does not change what is read.
"""

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int, Integer
from torch import Tensor

from pellucid.base.seeds import generator
from pellucid.train.copies import Copies
from pellucid.train.sequences import IGNORED, Batch, Sequences


@runtime_checkable
class Stream(Protocol):
    """Batches, one after the other."""

    batch: int
    """Rows of each."""

    def __next__(self) -> Batch:
        """The next one."""
        ...

    @property
    def place(self) -> Tensor:
        """What tells where it is."""
        ...

    @place.setter
    def place(self, place: Tensor) -> None: ...


class Drawn:
    """Sequences that are made on the fly.

    Args:
        sequences: Of which kind.
        batch: Rows of a batch.
        seed: Of all of them.
    """

    def __init__(self, sequences: Sequences, *, batch: int, seed: int) -> None:
        self.sequences, self.batch = sequences, batch
        self._draws = generator(seed)

    def __next__(self) -> Batch:
        return self.sequences.draw(self.batch, self._draws)

    @property
    def place(self) -> Tensor:
        """The generator's state."""
        return self._draws.get_state()

    @place.setter
    def place(self, place: Tensor) -> None:
        self._draws.set_state(place)


class Shuffled:
    """Rows of text, in another order each time they all have been read.

    Args:
        rows: `[row length]` token ids; may be a file that is mapped into memory.
        batch: Rows of a batch.
        seed: Of the orders, and of what is copied.
        copies: Passages that are made to stand twice; None: the rows stay as they are.
        steps: Batches of the whole run, over which the share of copies may change.
    """

    def __init__(
        self,
        rows: Integer[np.ndarray, "row length"],
        *,
        batch: int,
        seed: int,
        copies: Copies | None = None,
        steps: int = 1,
    ) -> None:
        self.rows, self.batch, self.seed, self.copies = rows, batch, seed, copies
        self.length = batch * steps
        self._next = 0
        self._order: tuple[int, np.ndarray] | None = None

    def __next__(self) -> Batch:
        places = range(self._next, self._next + self.batch)
        self._next += self.batch
        n = len(self.rows)
        picked = np.stack([self.rows[self._shuffled(place // n)[place % n]] for place in places])
        if self.copies is not None:
            draws = np.random.default_rng([self.seed, places.start, 1])
            share = self.copies.at(places.start / self.length)
            picked = self.copies.copied(picked, share=share, draws=draws)
        return next_tokens(torch.from_numpy(picked.astype(np.int64)))

    @property
    def place(self) -> Tensor:
        """The number of rows that were read."""
        return torch.tensor(self._next)

    @place.setter
    def place(self, place: Tensor) -> None:
        self._next = int(place)

    def _shuffled(self, time: int) -> np.ndarray:
        """The order of the rows when they are read for the so-manieth time."""
        if self._order is None or self._order[0] != time:
            self._order = time, np.random.default_rng([self.seed, time]).permutation(len(self.rows))
        return self._order[1]


def next_tokens(tokens: Int[Tensor, "batch pos"]) -> Batch:
    """Rows whose every token but the first is a target."""
    return Batch(tokens, torch.cat([tokens[:, 1:], torch.full_like(tokens[:, :1], IGNORED)], dim=1))
