"""What the singular values of a matrix say about it."""

import torch
from jaxtyping import Float
from torch import Tensor


def effective_rank(W: Float[Tensor, "*batch rows columns"]) -> Float[Tensor, "*batch"]:
    """In how many directions a matrix reaches: the exponential of the entropy of its normalised singular values.

    Args:
        W: The matrix.

    Returns:
        From 1, where all rows are multiples of one, to the smaller side, where all singular values are equal; 0 for
        zeros.

    Source: Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality".

    Example:
        >>> effective_rank(torch.eye(3)).item()
        3.0
    """
    values = torch.linalg.svdvals(W.double())
    total = values.sum(-1, keepdim=True)
    shares = torch.where(total > 0, values / total, torch.zeros_like(values))
    entropy = torch.special.entr(shares).sum(-1)
    return torch.where(total[..., 0] > 0, entropy.exp(), torch.zeros_like(entropy))
