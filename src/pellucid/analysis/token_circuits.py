"""What weights read of tokens, and through which norms: the ends of circuits between tokens.

In: a model and tokens. Out: rows and matrices that a circuit starts or ends with. A token is read as its embedding,
alone in the stream: positions and all biases are left out, the norms' too. What a norm multiplies by, and the mean that
LayerNorm takes off, are in; so processing the weights changes nothing.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.base.errors import ArgumentError, UnknownNameError, nearest
from pellucid.hooked_transformer import HookedTransformer
from pellucid.hooks.index import plain
from pellucid.model.attention import Attention
from pellucid.model.decompose import before_norm
from pellucid.model.norms import Norm, widened
from pellucid.model.positional import Rotary, rotate

EMBEDDINGS = ("raw", "extended")
"""What heads are taken to read of a token: `W_E`, or `W_E` and what the first MLP makes of it alone."""
PART = 2**21
"""Numbers of a circuit formed at a time: 8 MB of float32, which stay in a processor's cache."""


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


def check_one_vocabulary(model: HookedTransformer, what: str) -> None:
    """Whether tokens go out as they come in.

    Args:
        model: Of which.
        what: What needs it.

    Raises:
        ArgumentError: They go out by another vocabulary.
    """
    config = model.config
    if config.vocab_out != config.d_vocab:
        raise ArgumentError(
            f"{what} needs tokens that go out by the vocabulary they come in by, got d_vocab={config.d_vocab} and "
            f"d_vocab_out={config.vocab_out}"
        )


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


def token_embedding(model: HookedTransformer) -> str:
    """``"extended"`` where there is a first MLP to extend by, else ``"raw"``."""
    return "raw" if model.config.mlp is None or not model.config.n_layers else "extended"


def ov_sides(
    model: HookedTransformer,
    layer: int,
    head: int,
    stream: Float[Tensor, "token d_model"],
    unembedding: Float[Tensor, "d_model d_vocab"] | None = None,
) -> tuple[Float[Tensor, "token d_head"], Float[Tensor, "d_head d_vocab"]]:
    """The two factors of a head's OV: what it reads of each token, and what it then writes for all tokens.

    Args:
        model: Model to read.
        layer: Of the head.
        head: Which head of the layer.
        stream: What the layer reads of the tokens: `embedded`.
        unembedding: ``widened(model.W_U)``, for whoever asks for many heads; None: made here.
    """
    block, n_heads = model.blocks[layer], model.config.attention.n_heads
    values = normed(block.ln1, stream) @ widened(shared(block.attn.W_V, head, n_heads))
    unembedding = widened(model.W_U) if unembedding is None else unembedding
    return values, linear(model.ln_final, widened(block.attn.W_O[head])) @ unembedding


def ov_rows(
    model: HookedTransformer, ids: Int[Tensor, " token"]
) -> Iterator[tuple[int, int, slice, Float[Tensor, "row d_vocab"]]]:
    """Rows of every head's OV, some at a time: layer, head, which of the tokens, and what it writes for each token.

    A token is read as `token_embedding` says.
    """
    size, unembedding = max(1, PART // max(1, model.config.vocab_out)), widened(model.W_U)
    for layer in range(model.config.n_layers):
        stream = embedded(model, ids, token_embedding(model), layer)
        for head in range(model.config.attention.n_heads):
            values, written = ov_sides(model, layer, head, stream, unembedding)
            for start in range(0, len(ids), size):
                rows = slice(start, start + size)
                yield layer, head, rows, values[rows] @ written


def rotation(model: HookedTransformer, distance: int | None) -> tuple[Tensor, Tensor] | None:
    """Cosines and sines of the angles between a query and a key so far before it; None without rotary positions.

    Raises:
        ArgumentError: The distance is missing, or makes no difference here.
    """
    if not isinstance(model.config.positions, Rotary) or model.rotary is None:
        if distance is not None:
            raise ArgumentError(
                f"distance makes no difference in a model whose positions are not rotary, got {distance}; leave it out"
            )
        return None
    if distance is None or not 0 <= distance < model.config.n_ctx:
        raise ArgumentError(
            "with rotary positions the circuit depends on the distance from key to query: distance must lie in "
            f"0..{model.config.n_ctx - 1}, got {distance}; S − 1 is that of repeated tokens"
        )
    W_E = model.W_E
    return model.rotary.at(torch.tensor([[distance]], device=W_E.device), model.config.n_ctx, W_E)


def turned(queries: Float[Tensor, "row d_head"], by: tuple[Tensor, Tensor] | None) -> Float[Tensor, "row d_head"]:
    """Queries turned by a `rotation`, keys being left where they are."""
    return queries if by is None else rotate(queries[None, None], *by)[0, 0]


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
