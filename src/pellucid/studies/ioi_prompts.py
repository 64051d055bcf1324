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
from pellucid.tasks.task import word_token


@dataclass(frozen=True, eq=False)
class Prompts:
    """The same clean prompts twice.

    Args:
        turned: Corrupted: the second subject is the other name, so that the answer turns round.
        unrepeated: Corrupted: three other names, none of which is repeated.
        known: All names that the task has for this model, token ids; None: those of the prompts.
        task: What made them; None: whoever handed them in.
        seed: Of the prompts.

    Raises:
        ArgumentError: The clean prompts differ, or a position or an answer is not told.
    """

    turned: Pairs
    unrepeated: Pairs
    known: Int[Tensor, " token"] | None = None
    task: str | None = None
    seed: int | None = None

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
        turned, unrepeated = (
            replace(task, corruption=corruption).pairs(model.tokenizer, n=n, seed=seed)
            for corruption in ("s2", "random")
        )
        words = task.said_words(model.tokenizer)["names"]
        known = torch.tensor([word_token(model.tokenizer, word) for word in words])
        return cls(turned, unrepeated, known, task.name, seed)

    def __len__(self) -> int:
        """Number of prompts."""
        return len(self.turned)

    @property
    def settings(self) -> dict[str, object]:
        """What a record must tell about the prompts, beside the seed."""
        frames = self.turned.frame
        templates = None if frames is None else len(set(frames))
        return {"prompts": len(self), "of": self.task or "given", "templates": templates, "names": len(self.names)}

    @cached_property
    def names(self) -> Int[Tensor, " token"]:
        """All names that are single tokens of the model, token ids; of prompts that were handed in, all in them."""
        sides = [x for x in (self.turned.answer, self.turned.wrong) if x is not None]
        return torch.cat([x[:, 0] for x in sides]).unique() if self.known is None else self.known

    @cached_property
    def control(self) -> Pairs:
        """The unrepeated prompts as clean ones: the first names are right and wrong, though nothing says which.

        Corrupted are the same prompts with their three names moved round, of which none is repeated either.
        """
        tokens, rows = self.unrepeated.corrupted, torch.arange(len(self))
        places = [self.unrepeated.positions[name] for name in ("IO", "S1", "S2")]
        moved = tokens.clone()
        for place, after in zip(places, (*places[1:], places[0]), strict=True):
            moved[rows, place] = tokens[rows, after]
        first, second = (tokens[rows, place][:, None] for place in places[:2])
        return replace(self.unrepeated, clean=tokens, corrupted=moved, answer=first, wrong=second)
