"""Rows of token ids, made into one batch with its mask."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from pellucid.base.errors import ArgumentError
from pellucid.text.policy import checked_side


@dataclass(frozen=True)
class Encoded:
    """A batch of token ids, and which of them are real."""

    tokens: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]
    """True for tokens of the text and its BOS, False for padding."""


def padded(rows: Sequence[Sequence[int]], *, pad_id: int | None, side: str, length: int = 0) -> Encoded:
    """Rows of any length as one batch.

    Args:
        rows: Token ids of each row.
        pad_id: What fills up the shorter rows. None: id 0, which only the mask tells from a real one.
        side: "left" or "right", where the filling goes.
        length: The batch is at least this wide.

    Returns:
        ``[batch pos]`` int64, and its mask.

    Raises:
        ArgumentError: `side` is neither "left" nor "right".

    Example:
        >>> padded([[5, 6], [7]], pad_id=0, side="left").tokens.tolist()
        [[5, 6], [0, 7]]
    """
    left = checked_side(side) == "left"
    width = max([length, *map(len, rows)])
    tokens = torch.full((len(rows), width), 0 if pad_id is None else pad_id, dtype=torch.int64)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        tokens[i, place] = torch.tensor(row, dtype=torch.int64)
        mask[i, place] = True
    return Encoded(tokens, mask)


class BatchEncoding(dict[str, Any]):
    """``input_ids`` and ``attention_mask`` (1 for real tokens), by key or as attributes."""

    @property
    def input_ids(self) -> Any:
        """Token ids: a list, a list of lists, or ``[batch pos]``."""
        return self["input_ids"]

    @property
    def attention_mask(self) -> Any:
        """Of the form of `input_ids`: 1 for real tokens, 0 for padding."""
        return self["attention_mask"]

    def to(self, device: torch.device | str) -> "BatchEncoding":
        """A copy whose tensors are on `device`."""
        return BatchEncoding({k: v.to(device) if isinstance(v, Tensor) else v for k, v in self.items()})


def batch_encoding(
    rows: Sequence[Sequence[int]], batch: Encoded | None, *, alone: bool, return_tensors: str | None
) -> BatchEncoding:
    """Rows of ids in the form that was asked for.

    Args:
        rows: Token ids of each row.
        batch: The rows padded; None: they are not to be.
        alone: One text was given, not a list: lists lose their outer level, tensors keep it.
        return_tensors: None for lists, "pt" for torch, "np" for numpy.

    Raises:
        ArgumentError: Rows of different length as one tensor.
    """
    if batch is None and return_tensors is not None:
        lengths = sorted({len(row) for row in rows})
        if len(lengths) > 1:
            raise ArgumentError(f"rows of a tensor must have one length, got lengths {lengths}; pass padding=True.")
        batch = padded(rows, pad_id=None, side="right")
    if batch is None:
        ids, mask = [list(row) for row in rows], [[1] * len(row) for row in rows]
    else:
        ids, mask = batch.tokens, batch.mask.long()
        if return_tensors == "np":
            ids, mask = ids.numpy(), mask.numpy()
        elif return_tensors is None:
            ids, mask = ids.tolist(), mask.tolist()
    unpacked = alone and return_tensors is None
    return (
        BatchEncoding(input_ids=ids[0], attention_mask=mask[0])
        if unpacked
        else BatchEncoding(input_ids=ids, attention_mask=mask)
    )
