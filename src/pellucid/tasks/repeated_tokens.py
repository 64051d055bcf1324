"""Repeated tokens: random ones, then the same again; what follows can be known from the first copy.

Source: Olsson et al. 2022, "In-context Learning and Induction Heads".
"""

import random
from dataclasses import dataclass
from typing import Any, ClassVar

from pellucid.base.errors import ArgumentError, TokenError
from pellucid.tasks.pairs import Pairs
from pellucid.tasks.task import Task


@dataclass(frozen=True)
class RepeatedTokensTask(Task):
    """BOS, random tokens, and the beginning of the same again; corrupted: the token to be found is another one.

    Positions: ``answer``, where it stands in the first copy; ``match``, the one before, which is the last token's
    earlier place; ``end``.

    Args:
        length: Tokens of a copy.

    Raises:
        ArgumentError: A copy is too short.

    Example:
        >>> from pellucid import HookedTransformer
        >>> tokenizer = HookedTransformer.from_pretrained("toy-induction").tokenizer
        >>> pairs = RepeatedTokensTask(length=3).pairs(tokenizer, n=1)
        >>> pairs.clean.tolist(), pairs.corrupted.tolist(), pairs.answer.tolist()
        ([[0, 51, 34, 42, 51, 34]], [[0, 51, 34, 45, 51, 34]], [[42]])
    """

    length: int = 20

    name: ClassVar[str] = "repeated_tokens"
    about: ClassVar[str] = "random tokens that stand twice"

    def __post_init__(self) -> None:
        if self.length < 2:
            raise ArgumentError(f"length must be 2 or more, got {self.length}")

    def pairs(self, tokenizer: Any, *, n: int | None = None, seed: int = 0, group: str | None = None) -> Pairs:
        """Some pairs.

        Args:
            tokenizer: Whose vocabulary is drawn from, special tokens left out.
            n: How many; None: 30.
            seed: The same seed gives the same pairs.
            group: There are none.

        Raises:
            TokenError: The vocabulary is too small, or there is no tokenizer.
            UnknownNameError: A group is asked for.
        """
        self._group(group)
        if tokenizer is None:
            raise TokenError(
                f"{self.name} draws from a vocabulary, and the model has no tokenizer; set model.tokenizer"
            )
        special = tokenizer.policy.special_ids
        ids = sorted(set(tokenizer.get_vocab().values()) - special)
        if len(ids) < self.length + 1:
            raise TokenError(
                f"{self.length + 1} tokens beside special ones are needed, got {len(ids)}; give a smaller length"
            )
        draws = random.Random(f"{self.name} {seed}")
        front = [] if tokenizer.bos_token_id is None or not tokenizer.policy.prepend_bos else [tokenizer.bos_token_id]
        clean, corrupted, answer, wrong, places = [], [], [], [], []
        for _ in range(30 if n is None else n):
            *drawn, other = draws.sample(ids, self.length + 1)
            at = self.length - 1
            changed = [*drawn[:at], other, *drawn[at + 1 :]]
            clean.append([*front, *drawn, *drawn[:at]])
            corrupted.append([*front, *changed, *drawn[:at]])
            answer.append(drawn[at])
            wrong.append(other)
            places.append(len(front) + at)
        positions = {"answer": places, "match": [place - 1 for place in places]}
        return Pairs.from_tokens(clean, corrupted, answer=answer, wrong=wrong, positions=positions)
