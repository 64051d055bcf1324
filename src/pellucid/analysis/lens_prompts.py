"""What a lens reads: prompts in whatever form they are given, and the token that is asked about at each position.

In: texts, token ids or pairs; an answer, or what stands for one. Out: rows padded on the right, with their mask and
targets.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from pellucid.analysis.reading import starts_with_bos
from pellucid.base.errors import ArgumentError, TokenError, UnknownNameError, nearest
from pellucid.hooked_transformer import HookedTransformer
from pellucid.hooks.index import plain
from pellucid.prompts import as_ids
from pellucid.tasks.pairs import Pairs

TARGETS = ("prediction", "next")
"""What is asked about where there is no answer."""


@dataclass(frozen=True, eq=False)
class LensPrompts:
    """Prompts as they are read, padded on the right, and the token asked about at each position."""

    tokens: Int[Tensor, "prompt pos"]
    mask: Bool[Tensor, "prompt pos"]
    coords: dict[str, Any] = field(default_factory=dict)
    answer: Int[Tensor, " prompt"] | None = None
    targets: Int[Tensor, "prompt pos"] | None = None
    """-1 for none; None: what the model predicts."""

    @classmethod
    def of(cls, model: HookedTransformer, prompts: Any) -> "LensPrompts":
        """A text, several, token ids ``[pos]`` or ``[prompt pos]``, or the clean side of pairs.

        Raises:
            ArgumentError: They are none of these, or empty.
        """
        if isinstance(prompts, Pairs):
            answer = None if prompts.answer is None else prompts.answer[:, 0]
            found = cls(prompts.clean, prompts.mask, prompts.labels, answer)
        elif isinstance(prompts, str) or (
            isinstance(prompts, list | tuple) and prompts and isinstance(prompts[0], str)
        ):
            encoded = model.encoded(prompts, padding_side="right")
            found = cls(encoded.tokens, encoded.mask.bool())
        else:
            ids = as_ids(prompts)
            ids = ids[None] if ids.ndim == 1 else ids
            if ids.ndim != 2:
                raise ArgumentError(f"prompts must be token ids [pos] or [prompt pos], got {list(ids.shape)}")
            found = cls(ids, torch.ones_like(ids, dtype=torch.bool))
        if not found.tokens.numel():
            raise ArgumentError(f"prompts must be one or more, of one token or more, got {list(found.tokens.shape)}")
        starts_with_bos(model, found.tokens, may_lack=True)
        return found

    def at(self, position: int, what: str = "positions") -> Int[Tensor, " prompt"]:
        """Where a position lies in each prompt; negative ones count from the prompt's end.

        Args:
            position: Of every prompt.
            what: What it is called, for the error.

        Raises:
            ArgumentError: Some prompt has no such position.
        """
        lengths, place = self.mask.sum(1).cpu(), plain(position, what)
        shortest = int(lengths.min())
        if not isinstance(place, int) or not -shortest <= place < shortest:
            raise ArgumentError(f"{what} must lie in every prompt, the shortest of {shortest} tokens, got {position!r}")
        return lengths + place if place < 0 else torch.full_like(lengths, place)

    def chosen(self, positions: Any) -> Bool[Tensor, "prompt pos"]:
        """Which cells are read: some positions of every prompt; None: all.

        Raises:
            ArgumentError: No positions, or one that some prompt has not.
        """
        if positions is None:
            return self.mask
        positions = plain(positions, "positions")
        if not isinstance(positions, list) or not positions:
            raise ArgumentError(f"positions must be one or more whole numbers, in a list, got {positions!r}")
        found = torch.zeros_like(self.mask)
        for position in positions:
            found.scatter_(1, self.at(position).to(found.device)[:, None], True)
        return found

    def with_targets(self, model: HookedTransformer, answer: Any, target: str | None) -> tuple["LensPrompts", str]:
        """The same prompts with what is asked about, and the word for it: ``"answer"``, ``"prediction"``, ``"next"``.

        Args:
            model: Whose tokens they are.
            answer: One token, an id or a text, or one for each prompt; None: that of the pairs, else `target`.
            target: One of `TARGETS`; None: ``"prediction"``.

        Raises:
            UnknownNameError: `target` is none of these.
            ArgumentError: Both are given; not one answer, and not one for each prompt.
            TokenError: An answer is not one token of the vocabulary.
        """
        if target is not None and target not in TARGETS:
            raise UnknownNameError(f"target must be prediction or next, got {target!r}{nearest(target, TARGETS)}")
        if target is not None and answer is not None:
            raise ArgumentError(f"answer and target={target!r} both say what is asked about; give one of them")
        if answer is None and target is None and self.answer is not None:
            answer = self.answer
        tokens, mask = self.tokens, self.mask
        if answer is not None:
            ids = _answers(model, answer, len(tokens))
            everywhere = ids.to(tokens.device)[:, None].expand_as(tokens).masked_fill(~mask, -1)
            return LensPrompts(tokens, mask, self.coords, ids, everywhere), "answer"
        if target != "next":
            return self, "prediction"
        following = torch.full_like(tokens, -1)
        following[:, :-1] = tokens[:, 1:].masked_fill(~mask[:, 1:], -1)
        return LensPrompts(tokens, mask, self.coords, None, following), "next"


def _answers(model: HookedTransformer, answer: Any, n: int) -> Int[Tensor, " prompt"]:
    """One token for each prompt."""
    given = answer.tolist() if hasattr(answer, "tolist") else answer
    given = list(given) if isinstance(given, list | tuple) else [given] * n
    if len(given) != n:
        raise ArgumentError(f"answer must be one token, or one for each of {n} prompts, got {len(given)}")
    ids = as_ids([model.to_single_token(one) if isinstance(one, str) else one for one in given])
    if ids.ndim != 1:
        raise ArgumentError(f"answer must be one token for each prompt, got {list(ids.shape)}")
    if int(ids.min()) < 0 or int(ids.max()) >= model.config.vocab_out:
        raise TokenError(f"ids of answers must lie in 0..{model.config.vocab_out - 1}, got {ids.tolist()}")
    return ids
