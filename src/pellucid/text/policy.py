"""What stands before a text, what fills up a batch, and which tokens are no text at all.

One frozen value, so that an analysis can see it and a record can hold it; to change it, make another with
`dataclasses.replace`.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from pellucid.base.errors import ArgumentError, TokenError

Side = Literal["left", "right"]


@dataclass(frozen=True, kw_only=True)
class TextPolicy:
    """How text becomes a batch of token ids.

    Raises:
        TokenError: BOS is to be put in front and there is none.
        ArgumentError: An id below 0, or a side that is neither "left" nor "right".

    Example:
        >>> TextPolicy(bos_id=0, prepend_bos=True).special_ids
        frozenset({0})
    """

    bos_id: int | None = None
    eos_id: int | None = None
    pad_id: int | None = None
    """Fills up the shorter rows of a batch. None: only a mask tells what is real."""
    unk_id: int | None = None
    """What text becomes that the vocabulary lacks. It may be an ordinary token (a space, say)."""
    prepend_bos: bool
    """BOS is put before every text, unless the call says otherwise."""
    padding_side: Side = "right"
    special_ids: frozenset[int] = frozenset()
    """Tokens that are no text. `bos_id`, `eos_id` and `pad_id` always belong to them."""

    def __post_init__(self) -> None:
        named = {"bos_id": self.bos_id, "eos_id": self.eos_id, "pad_id": self.pad_id, "unk_id": self.unk_id}
        for name, value in named.items():
            if value is not None and value < 0:
                raise ArgumentError(f"{name} must be a token id or None, got {value}; pass None for no such token.")
        if self.prepend_bos and self.bos_id is None:
            raise TokenError(
                "prepend_bos needs a BOS token, and this policy has bos_id=None; pass prepend_bos=False or a bos_id."
            )
        checked_side(self.padding_side)
        never_text = {named[name] for name in ("bos_id", "eos_id", "pad_id")} - {None}
        object.__setattr__(self, "special_ids", frozenset(self.special_ids | never_text))

    @classmethod
    def of(
        cls,
        *,
        bos_id: int | None = None,
        eos_id: int | None = None,
        pad_id: int | None = None,
        unk_id: int | None = None,
        special_ids: Collection[int] = (),
    ) -> "TextPolicy":
        """The field's defaults: BOS before every text if there is one; padded with pad, else EOS, else BOS.

        Example:
            >>> policy = TextPolicy.of(bos_id=1, eos_id=2)
            >>> policy.prepend_bos, policy.pad_id
            (True, 2)
        """
        filler = next((i for i in (pad_id, eos_id, bos_id) if i is not None), None)
        return cls(
            bos_id=bos_id,
            eos_id=eos_id,
            pad_id=filler,
            unk_id=unk_id,
            prepend_bos=bos_id is not None,
            special_ids=frozenset(special_ids),
        )


def checked_side(side: str) -> Side:
    """`side` itself, if it is one.

    Raises:
        ArgumentError: It is neither "left" nor "right".
    """
    if side not in ("left", "right"):
        raise ArgumentError(f'padding_side must be "left" or "right", got {side!r}.')
    return side


def padding_mask(
    tokens: Int[Tensor, "batch pos"], policy: TextPolicy, side: str | None = None, *, prepend_bos: bool | None = None
) -> Bool[Tensor, "batch pos"]:
    """Which tokens of a padded batch are real, told from the ids alone.

    On the left the leading run of pad ids is padding; where pad and BOS are one token and BOS stands in front,
    the last of that run is the BOS, and real. BOS stands there too if every row begins with that token: the
    longest row of a batch has no padding. On the right the trailing run is padding only if the pad token serves
    nothing else: an EOS or BOS at the end of a text may well be meant. Whoever padded the batch knows better
    than this function.

    Args:
        tokens: ``[batch pos]``.
        policy: What is padding, what is BOS.
        side: Where the padding is; None: where the policy puts it.
        prepend_bos: Whether BOS was put in front; None: as the policy says.

    Returns:
        ``[batch pos]``, True for real tokens; all True if the policy has no pad id.

    Raises:
        ArgumentError: `side` is neither "left" nor "right".

    Example:
        >>> policy = TextPolicy.of(bos_id=0)
        >>> padding_mask(torch.tensor([[0, 0, 0, 7, 8]]), policy, "left").tolist()
        [[False, False, True, True, True]]
    """
    side = checked_side(policy.padding_side if side is None else side)
    pad = policy.pad_id
    if pad is None or (side == "right" and pad in (policy.bos_id, policy.eos_id)):
        return torch.ones_like(tokens, dtype=torch.bool)
    filler = tokens == pad
    if side == "right":
        return ~filler.flip(-1).cumprod(-1).bool().flip(-1)
    leading = filler.cumprod(-1).bool()
    in_front = policy.prepend_bos if prepend_bos is None else prepend_bos
    if pad != policy.bos_id or not (in_front or bool(leading[:, :1].all())):
        return ~leading
    padding = leading.clone()
    padding[:, :-1] &= leading[:, 1:]
    padding[:, -1:] = False
    return ~padding
