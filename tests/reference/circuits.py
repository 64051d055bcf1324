"""Circuits of two heads, written out densely: what `analysis.weights` and `analysis.composition` must say."""

import torch
from torch import Tensor

from pellucid import HookedTransformer, LayerNorm


def rotation(model: HookedTransformer, distance: int) -> Tensor:
    """``R [d_head d_head]`` such that q R k is the score of a key so many positions before its query."""
    d_head, R = model.cfg.d_head, torch.eye(model.cfg.d_head, dtype=model.cfg.dtype)
    dim = model.cfg.rotary_dim
    if dim is None:
        return R
    for i in range(dim // 2):
        angle = torch.tensor(distance / model.cfg.rotary_base ** (2 * i / dim), dtype=model.cfg.dtype)
        j = i + dim // 2
        R[i, i], R[i, j], R[j, i], R[j, j] = angle.cos(), angle.sin(), -angle.sin(), angle.cos()
    assert R.shape == (d_head, d_head)
    return R


def embedding(model: HookedTransformer, extended: bool) -> Tensor:
    """``[d_vocab d_model]``"""
    if not extended:
        return model.W_E
    block = model.blocks[0]
    return torch.stack([token + block.mlp(block.ln2(token[None, None]))[0, 0] for token in model.W_E])


def two_heads(model: HookedTransformer, previous, induction, *, extended: bool = False, distance: int = 0) -> Tensor:
    """``[d_vocab d_vocab]``: queries by keys."""
    first, second = model.OV[previous].AB, model.QK[induction]
    queries = embedding(model, extended)
    keys = embedding(model, extended and previous[0] > 0)
    return queries @ second.A @ rotation(model, distance) @ second.B @ (keys @ first).T


def hits(circuit: Tensor, k: int) -> float:
    """The share of rows whose own column is among the k largest."""
    return sum(i in row.argsort(descending=True)[:k] for i, row in enumerate(circuit)) / len(circuit)


def neighbour_rank(W_E: Tensor, token: int, other: int) -> int:
    """1 if the other is the nearest of all tokens but the token itself."""
    cosines = torch.nn.functional.cosine_similarity(W_E[token], W_E, dim=-1)
    nearest = [i for i in cosines.argsort(descending=True).tolist() if i != token]
    return 1 + nearest.index(other)


def composition(model: HookedTransformer, sender, receiver) -> list[float]:
    """Q, K and V, norms folded first, no baseline taken off; all matrices dense."""
    eye = torch.eye(model.cfg.d_model, dtype=model.cfg.dtype)
    centre = eye - eye.mean(0) if isinstance(model.config.norm, LayerNorm) else eye

    def folded(layer, W):
        w = getattr(model.blocks[layer].ln1, "w", None)
        return centre @ (W if w is None else w.diag() @ W)

    OV1 = folded(sender[0], model.W_V[sender]) @ model.W_O[sender] @ centre
    QK2 = folded(receiver[0], model.W_Q[receiver]) @ folded(receiver[0], model.W_K[receiver]).T
    OV2 = folded(receiver[0], model.W_V[receiver]) @ model.W_O[receiver] @ centre
    size = torch.linalg.matrix_norm
    return [(size(OV1 @ M) / (size(OV1) * size(M))).item() for M in (QK2, QK2.T, OV2)]
