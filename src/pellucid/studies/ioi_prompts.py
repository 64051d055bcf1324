"""The prompts of the study of indirect objects: each with two corrupted ones, and controls in which nothing repeats."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor

from pellucid.base.errors import ArgumentError
from pellucid.hooked_transformer import HookedTransformer
from pellucid.tasks.ioi import IOI, POSITIONS
from pellucid.tasks.pairs import Pairs


@dataclass(frozen=True, eq=False)
class Prompts:
    """The same clean prompts twice.

    Args:
        turned: Corrupted: the second subject is the other name, so that the answer turns round.
        unrepeated: Corrupted: three other names, none of which is repeated.

    Raises:
        ArgumentError: The clean prompts differ, or a position or an answer is not told.
    """

    turned: Pairs
    unrepeated: Pairs

    def __post_init__(self) -> None:
        for name, pairs in (("turned", self.turned), ("unrepeated", self.unrepeated)):
            missing = [place for place in POSITIONS if place not in pairs.positions]
            if missing or pairs.answer is None or pairs.wrong is None:
                raise ArgumentError(
                    f"{name} must name the positions {', '.join(POSITIONS)} and both names as answer and wrong, got "
                    f"none for {', '.join(missing) or 'an answer'}"
                )
        if not torch.equal(self.turned.clean, self.unrepeated.clean):
            raise ArgumentError("both must have the same clean prompts, got others; make them from one seed")

    @classmethod
    def of(cls, model: HookedTransformer, *, n: int | None = None, seed: int = 0, task: IOI | None = None) -> "Prompts":
        """Those of the task, for a model.

        Raises:
            TokenError: The model's tokenizer lacks the names as single tokens, or it has none.
        """
        task = IOI() if task is None else task
        made = [
            replace(task, corruption=corruption).pairs(model.tokenizer, n=n, seed=seed)
            for corruption in ("s2", "random")
        ]
        return cls(*made)

    def __len__(self) -> int:
        """Number of prompts."""
        return len(self.turned)

    @cached_property
    def names(self) -> Int[Tensor, " token"]:
        """All names, token ids."""
        sides = [x for x in (self.turned.answer, self.turned.wrong) if x is not None]
        return torch.cat([x[:, 0] for x in sides]).unique()

    @cached_property
    def control(self) -> Pairs:
        """The unrepeated prompts as clean ones: the first names are right and wrong, though nothing says which."""
        tokens, rows = self.unrepeated.corrupted, torch.arange(len(self))
        first, second = (tokens[rows, self.unrepeated.positions[name]][:, None] for name in ("IO", "S1"))
        return replace(self.unrepeated, clean=tokens, answer=first, wrong=second)
