"""The loss of predicted tokens, from the stream that the unembedding reads.

Logits that are few are made at once. Many are made chunk after chunk, each with its gradient, and never kept: they are
by far the largest thing of a step, and going through memory with them costs more than the products.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from pellucid.train.sequences import IGNORED

MANY = 2**22
"""Logits of a batch from which on they are made in chunks."""
CHUNK = 2**21
"""Logits of a chunk, about."""
FEWEST = 512
"""Rows of a chunk at least: of fewer, the products take longer than they must."""


def summed_loss(
    x: Float[Tensor, "*rows d_model"],
    W_U: Float[Tensor, "d_model d_vocab"],
    b_U: Float[Tensor, " d_vocab"] | None,
    targets: Int[Tensor, "*rows"],
) -> Float[Tensor, ""]:
    """The sum of the losses of all targets that count, in nats.

    Args:
        x: The stream after the final norm.
        W_U: The unembedding.
        b_U: Its bias, if any.
        targets: The right tokens; `IGNORED` counts nothing.
    """
    rows, wanted = x.flatten(0, -2), targets.flatten()
    if len(rows) * W_U.shape[1] >= MANY and not torch.is_autocast_enabled(x.device.type):
        return _Chunked.apply(rows, W_U, b_U, wanted)
    return F.cross_entropy(F.linear(rows, W_U.T, b_U), wanted, ignore_index=IGNORED, reduction="sum")


class _Chunked(torch.autograd.Function):
    """Logits, loss and gradients of some rows at a time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, W_U: Tensor, b_U: Tensor | None, targets: Tensor) -> Tensor:
        n, W = max(FEWEST, CHUNK // W_U.shape[1]), W_U.T
        wanted = any(ctx.needs_input_grad)
        grad_x, grad_W = (torch.empty_like(x), torch.zeros_like(W)) if wanted else (None, None)
        grad_b = torch.zeros_like(b_U) if wanted and b_U is not None else None
        total = x.new_zeros((), dtype=torch.promote_types(x.dtype, torch.float32))
        for rows in range(0, len(x), n):
            part, right = x[rows : rows + n], targets[rows : rows + n, None]
            counts, place = right != IGNORED, right.clamp(min=0)
            logits = F.linear(part, W, b_U).to(total.dtype)
            log_probs = logits.log_softmax(-1)
            total -= (log_probs.gather(1, place) * counts).sum()
            if grad_x is None or grad_W is None:
                continue
            error = log_probs.exp_()
            error.scatter_add_(1, place, torch.full_like(place, -1, dtype=error.dtype)).mul_(counts)
            error = error.to(x.dtype)
            torch.mm(error, W, out=grad_x[rows : rows + n])
            grad_W.addmm_(error.T, part)
            if grad_b is not None:
                grad_b += error.sum(0)
        ctx.save_for_backward(grad_x, grad_W, grad_b)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        grad_x, grad_W, grad_b = ctx.saved_tensors
        scaled = [None if part is None else part * grad for part in (grad_x, grad_W, grad_b)]
        return scaled[0], None if scaled[1] is None else scaled[1].T, scaled[2], None
