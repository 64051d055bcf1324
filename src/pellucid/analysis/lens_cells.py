"""What states say, cell by cell: their most probable tokens, and what they leave to the token that is asked about.

In: states of some cells at a time. Out: tables of tokens and of numbers that grow until all cells are filled. Every
lens is made of these; what differs is which states are read.
"""

import warnings
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.base.errors import MisreadWarning
from pellucid.hooked_transformer import HookedTransformer
from pellucid.model.norms import widened

COPIES = 6
"""Tensors as wide as the vocabulary that are there at once for each position."""


def said(model: HookedTransformer, states: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_vocab"]:
    """Log-probabilities that states give through the final norm and `W_U`, in max(dtype, float32); nats."""
    return widened(model.unembed(model.ln_final(states.to(model.dtype)))).log_softmax(-1)


def divergence(final: Float[Tensor, "row d_vocab"], log_p: Float[Tensor, "row d_vocab"]) -> Float[Tensor, " row"]:
    """KL(final ‖ state) of log-probabilities, nats; what rounding puts below 0 is 0."""
    return (final.exp() * (final - log_p)).sum(-1).clamp(min=0)


class Cells:
    """Tokens and numbers of each cell; -1 and NaN where none was read."""

    def __init__(self, model: HookedTransformer, shape: tuple[int, ...], k: int, *others: str) -> None:
        dtype = torch.float64 if model.dtype == torch.float64 else torch.float32
        self.k = min(k, model.config.vocab_out)
        self.ids = torch.full((*shape, self.k), -1)
        self.shares = torch.full((*shape, self.k), torch.nan, dtype=dtype)
        names = ("probability", "rank", *others)
        self.values = {name: torch.full(shape, torch.nan, dtype=dtype) for name in names}
        self._broken = 0

    def keep(
        self,
        at: tuple[Any, ...],
        log_p: Float[Tensor, "row d_vocab"],
        asked: Int[Tensor, " row"],
        **others: Float[Tensor, " row"],
    ) -> None:
        """Fills some cells.

        Args:
            at: Where they lie.
            log_p: What their states say; a state that is no number leaves NaN.
            asked: The token that probability and rank speak of; -1 for none.
            **others: Further numbers by name.
        """
        top = log_p.topk(self.k, dim=-1)
        own = log_p.gather(1, asked.clamp(min=0)[:, None])
        none = (asked < 0) | log_p.isnan().any(1)
        self._broken += int(log_p.isnan().any(1).sum())
        self.ids[at], self.shares[at] = top.indices.cpu(), top.values.exp().cpu().to(self.shares.dtype)
        found = {"probability": own[:, 0].exp(), "rank": (log_p > own).sum(1).to(log_p.dtype)}
        found = {name: x.masked_fill(none, torch.nan) for name, x in found.items()}
        for name, x in (found | others).items():
            self.values[name][at] = x.cpu().to(self.shares.dtype)

    def done(self) -> None:
        """Says how many cells are no numbers, if any.

        Warns:
            MisreadWarning: Some states are not finite.
        """
        if self._broken:
            warnings.warn(
                f"{self._broken} states are not finite and say nothing: their cells are NaN; look for where the model "
                "overflows, in a wider dtype",
                MisreadWarning,
                stacklevel=3,
            )
