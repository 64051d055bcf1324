"""Arithmetic on large matrices in place: some rows at a time, in float32 at least, rounded once."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.model.norms import widened

_ELEMENTS = 2**20


def row_slices(W: Float[Tensor, "row column"]) -> Iterator[slice]:
    """Slices of a bounded number of rows."""
    step = max(1, _ELEMENTS // max(1, W.shape[1]))
    for start in range(0, len(W), step):
        yield slice(start, start + step)


def change_rows(W: Float[Tensor, "row column"], change: Callable[[Tensor], object]) -> None:
    """Changes a matrix in place; `change` edits some of its rows in place."""
    for rows in row_slices(W):
        wide = widened(W[rows])
        change(wide)
        if wide.dtype != W.dtype:
            W[rows] = wide.to(W.dtype)


def center_rows(W: Float[Tensor, "row column"]) -> None:
    """Takes its mean off each row, in place."""
    change_rows(W, lambda rows: rows.sub_(rows.mean(1, keepdim=True)))


def column_means(W: Float[Tensor, "row column"]) -> Float[Tensor, " column"]:
    """The mean over all rows, in float32 at least."""
    total = widened(W[:0]).sum(0)
    for rows in row_slices(W):
        total += widened(W[rows]).sum(0)
    return total / len(W)


def times(W: Float[Tensor, "row column"], x: Float[Tensor, " column"]) -> Float[Tensor, " row"]:
    """`W x`, in float32 at least."""
    return torch.cat([widened(W[rows]) @ widened(x) for rows in row_slices(W)])
