"""What weights read of tokens, and through which norms: the ends of circuits between tokens.

In: a model and tokens. Out: rows and matrices that a circuit starts or ends with. A token is read as its embedding,
alone in the stream: positions and all biases are left out, the norms' too. What a norm multiplies by, and the mean that
LayerNorm takes off, are in; so processing the weights changes nothing.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.analysis.weights import EMBEDDINGS, PART
from pellucid.base.errors import ArgumentError, UnknownNameError, nearest
from pellucid.hooked_transformer import HookedTransformer
from pellucid.hooks.index import plain
from pellucid.model.attention import Attention
from pellucid.model.decompose import before_norm
from pellucid.model.norms import Norm, widened


def token_ids(model: HookedTransformer, tokens: Any) -> Int[Tensor, " token"]:
    """Ids of tokens that may be texts; all, if None."""
    n = model.config.d_vocab
    if tokens is None:
        return torch.arange(n, device=model.device)
    given = tokens.tolist() if hasattr(tokens, "tolist") else tokens
    given = given if isinstance(given, list | tuple) else [given]
    ids = [model.to_single_token(token) if isinstance(token, str) else plain(token, "tokens") for token in given]
    if not ids or not all(0 <= one < n for one in ids):
        raise ArgumentError(f"tokens must be one or more, ids in 0..{n - 1} or texts, got {given!r}")
    return torch.tensor(ids, device=model.device)


def within(what: str, index: Any, n: int) -> int:
    """An index that must be a whole number below n."""
    at = plain(index, what)
    if not isinstance(at, int) or not 0 <= at < n:
        raise ArgumentError(f"{what} must lie in 0..{n - 1}, got {index!r}")
    return at


def attention_of(model: HookedTransformer, layer: int, head: int) -> tuple[Attention, int]:
    """The attention of a layer, and the number of one of its heads."""
    within("layer", layer, model.config.n_layers)
    return model.blocks[layer].attn, within("head", head, model.config.attention.n_heads)


def shared(W: Float[Tensor, "kv_head d_model d_head"], head: int, n_heads: int) -> Float[Tensor, "d_model d_head"]:
    """The keys' or values' weights that a query head uses; several may share them."""
    return W[head * len(W) // n_heads]


def embedded(
    model: HookedTransformer, ids: Int[Tensor, " token"], embedding: str, layer: int
) -> Float[Tensor, "token d_model"]:
    """What a layer is taken to read of tokens: `W_E`, or also `MLP₀(norm(W_E))`."""
    if embedding not in EMBEDDINGS:
        raise UnknownNameError(f"embedding must be a known one, got {embedding!r}{nearest(embedding, EMBEDDINGS)}")
    rows = model.W_E[ids]
    if embedding == "raw":
        return widened(rows)
    mlp, config = model.blocks[0].mlp, model.config.mlp
    if mlp is None or config is None:
        raise ArgumentError(
            "the extended embedding needs the first block's MLP, and this model has attention only; use embedding='raw'"
        )
    if layer == 0:
        return widened(rows)
    added = [mlp(model.blocks[0].ln2(part[None]))[0] for part in rows.split(max(1, PART // config.d_mlp))]
    return widened(rows) + widened(torch.cat(added))


def normed(norm: Norm, x: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    """Rows, each normalised by its own scale; without the norm's bias."""
    return linear(norm, x) / norm.scale(x)


def linear(norm: Norm, x: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    """Rows as a norm passes them on whose scale is 1; without its bias."""
    one = torch.ones_like(x[:, :1])
    return norm.held(x, one) - norm.held(torch.zeros_like(x), one)


def folded(norm: Norm, W: Float[Tensor, "d_model n"]) -> Float[Tensor, "d_model n"]:
    """A matrix with the norm in it that it is read through, the scale apart."""
    return before_norm(norm, W.T, torch.ones_like(W.T[:, :1]))[0].T
