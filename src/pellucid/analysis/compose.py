"""How much each head reads of what each earlier head writes, told from the weights.

In: a model. Out: for each pair of heads one number for the queries, one for the keys and one for the values of the
later head. Nothing as large as `[d_model d_model]` is formed: of each matrix only the side that meets the other one is
kept, since a norm does not change when an orthonormal side is taken off.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.base.errors import ArgumentError
from pellucid.base.seeds import generator
from pellucid.hooked_transformer import HookedTransformer, record_of
from pellucid.maths.factored import FactoredMatrix
from pellucid.measurement import Measurement
from pellucid.model.block import Block
from pellucid.model.norms import LayerNorm, widened

INPUTS = ("q", "k", "v")
DRAWS = 49
"""Random pairs of matrices that the baseline is the mean of."""
MODELS = 999
"""Random models that heads are compared with."""
PART = 2**21
"""Numbers of random models written at a time."""
LITERAL = 3 * 10**10
"""Multiplications up to which random models are multiplied out; beyond, the norm of a pair is drawn from its law."""


@torch.no_grad()
def composition(model: HookedTransformer, *, seed: int = 0) -> Measurement:
    """Q-, K- and V-composition of all pairs of heads, beyond what random weights would have.

    The norm of the product of what the sender writes and what the receiver reads, over the product of their norms:
    ‖W_OV¹ W_QK²‖ for queries, ‖W_OV¹ W_QK²ᵀ‖ for keys, ‖W_OV¹ W_OV²‖ for values; minus the mean of random matrices of
    these shapes. The norms before each head are folded in, and for LayerNorm the mean that it takes off, so that the
    numbers do not depend on whether the model was processed; biases and rotations are left out.

    Args:
        model: Any model with residual connections.
        seed: Of the random matrices.

    Returns:
        ``[sender receiver input]``, fraction; heads as "0.1", inputs "q", "k", "v"; 0 where the receiver does not lie
        in a later layer, or one of the two does nothing at all. ``raw`` is the number before ``baseline`` was taken
        off.

    Raises:
        ArgumentError: The model has no residual connections.

    Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits".

    Example:
        >>> model = HookedTransformer.from_pretrained("toy-induction")
        >>> composition(model).sel(receiver="1.0", input="k").top(1).label
        '0.1 → 1.0 k'
    """
    config = model.config
    if not config.residual:
        raise ArgumentError(
            "composition of heads needs residual connections, through which a later head reads what an earlier one "
            "wrote; this model has none"
        )
    heads = [f"{layer}.{head}" for layer in range(config.n_layers) for head in range(config.attention.n_heads)]
    raw = torch.zeros(len(heads), len(heads), len(INPUTS), dtype=torch.float64)
    n_heads, written = config.attention.n_heads, list[Tensor]()
    for layer, block in enumerate(model.blocks):
        writes, reads = _sides(block, _centred(model))
        receivers = slice(layer * n_heads, (layer + 1) * n_heads)
        for before, earlier in enumerate(written):
            senders = slice(before * n_heads, (before + 1) * n_heads)
            raw[senders, receivers] = _norms(earlier, reads).unflatten(1, (-1, len(INPUTS))).double().cpu()
        written.append(writes)
    one, other = _random(model, DRAWS, generator(seed)), _random(model, DRAWS, generator(seed + 1))
    baseline = float(torch.linalg.matrix_norm(one[0] @ other[1]).mean())
    axes = ("sender", "receiver", "input")
    return Measurement(
        torch.where(raw == 0, 0, raw - baseline),
        axes,
        unit="fraction",
        record=record_of(model, task="composition", seed=seed, settings={"norms": "folded"}),
        name="composition",
        coords={"sender": heads, "receiver": heads, "input": INPUTS},
        variables={"raw": (axes, raw), "baseline": ((), baseline)},
    )


@torch.no_grad()
def strongest_by_chance(
    model: HookedTransformer, *, draws: int = MODELS, seed: int = 0
) -> Float[Tensor, "draw layer head"]:
    """What each head composes with the earlier head that it composes with most, in models of random matrices.

    The strongest of many is strong by chance alone; so the strongest of a head is compared with that of as many random
    heads. It is the same for queries, keys and values. Small models are multiplied out; of large ones the norm of each
    pair is drawn (`_drawn`), which takes seconds whatever the size.

    Args:
        model: Of which shape.
        draws: Random models.
        seed: Of their matrices.

    Returns:
        Fraction; NaN in the first layer, which nothing lies before.
    """
    config, attention = model.config, model.config.attention
    n_layers, n_heads = config.n_layers, attention.n_heads
    found = torch.full((draws, n_layers, n_heads), torch.nan, dtype=torch.float64)
    pairs = n_layers * (n_layers - 1) // 2 * n_heads**2
    if draws * pairs * attention.d_head**2 * config.d_model > LITERAL:
        found[:, 1:] = _drawn(model, draws, seed)
        return found
    random = generator(seed)
    for part in found.split(max(1, PART // (n_layers * n_heads * config.d_model * attention.d_head))):
        written: list[Tensor] = []  # [draw sender_k d_model]
        for layer in range(n_layers):
            writes, reads = (x.unflatten(0, (len(part), n_heads)) for x in _random(model, len(part) * n_heads, random))
            if written:
                products = torch.cat(written, 1) @ reads.transpose(1, 2).flatten(2)
                blocks = products.unflatten(1, (-1, writes.shape[2])).unflatten(-1, (n_heads, -1))
                part[:, layer] = blocks.square().sum((2, 4)).sqrt().amax(1)
            written.append(writes.flatten(1, 2))
    return found


def _drawn(model: HookedTransformer, draws: int, seed: int) -> Float[Tensor, "draw later_layer head"]:
    """The largest of as many norms as there are earlier heads, for each head behind the first layer.

    Turned at random against each other, two matrices of norm 1 have a product whose squared norm is 1/n in the mean,
    for a stream of n dimensions. Its variance follows from how many directions each of them fills: from Σσ⁴ of their
    singular values, here the mean over some random heads. A beta law of this mean and variance is exact where heads
    have one dimension, and its norms are right within 1 % from 32 on; between them the largest may lie 2 % too low.
    Pairs that share a head are taken to be independent. The largest of N has the quantile that one alone has at
    u^(1/N): so no pool is drawn whose own largest would be a bound.
    """
    from scipy.special import betaincinv

    config, n = model.config, model.config.d_model - _centred(model)
    a = _concentration(model, generator(seed))
    second = (
        3 * a * a + 2 * a * (1 - a) + (1 - a) ** 2 * (n + 1) / (n - 1)  # E of products of squared cells, one row or two
    ) / (n * (n + 2))
    mean, variance = 1 / n, second - 1 / n**2
    size = mean * (1 - mean) / variance - 1
    earlier = config.attention.n_heads * np.arange(1, config.n_layers)[:, None]
    u = np.random.default_rng(seed).random((draws, config.n_layers - 1, config.attention.n_heads))
    beyond = -np.expm1(np.log1p(-u) / earlier)  # 1 − (1 − u)^(1/N), sharp where it is small
    return torch.from_numpy(np.sqrt(1 - betaincinv((1 - mean) * size, mean * size, beyond)))


def _concentration(model: HookedTransformer, random: torch.Generator) -> float:
    """Σσ⁴ of the singular values of what a random head writes, of norm 1: the mean over some heads."""
    d_model, d_head = model.config.d_model, model.config.attention.d_head
    heads, found = min(1000, max(16, 2**24 // (d_model * d_head))), []
    for _ in range(heads):
        left, right = (torch.randn(d_head, d_model, generator=random) for _ in range(2))
        both = (left @ left.T) @ (right @ right.T)
        found.append(float((both @ both).trace() / both.trace() ** 2))
    return float(np.mean(found))


def _sides(
    block: Block, centred: bool
) -> tuple[Float[Tensor, "head k d_model"], Float[Tensor, "head_input d_model k"]]:
    """What each head writes, and what it reads for queries, keys and values: matrices of norm 1."""
    attn, w = block.attn, getattr(block.ln1, "w", None)

    def reading(W: Tensor) -> Tensor:
        W = widened(W) if w is None else widened(W) * widened(w)[:, None]
        W = W - W.mean(-2, keepdim=True) if centred else W
        return W.repeat_interleave(attn.config.n_heads // len(W), dim=0)

    W_O = widened(attn.W_O)
    QK = FactoredMatrix(reading(attn.W_Q), reading(attn.W_K).mT)
    OV = FactoredMatrix(reading(attn.W_V), W_O - W_O.mean(-1, keepdim=True) if centred else W_O)
    read = torch.stack([M.collapse_r() for M in (QK, QK.T, OV)], dim=1)
    return _unit(OV.collapse_l()), _unit(read.flatten(0, 1))


def _unit(x: Float[Tensor, "*heads a b"]) -> Float[Tensor, "*heads a b"]:
    """Of norm 1, or zeros."""
    return x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)


def _norms(
    left: Float[Tensor, "sender k d_model"], right: Float[Tensor, "receiver d_model k"]
) -> Float[Tensor, "sender receiver"]:
    """The norm of each left matrix times each right one."""
    products = left.flatten(0, 1) @ right.transpose(0, 1).flatten(1)
    blocks = products.view(*left.shape[:2], len(right), -1)
    return blocks.square().sum((1, 3)).sqrt()


def _random(
    model: HookedTransformer, n: int, random: torch.Generator
) -> tuple[Float[Tensor, "n k d_model"], Float[Tensor, "n d_model k"]]:
    """What random heads write, and what they read: matrices of norm 1."""
    d_model, d_head = model.config.d_model, model.config.attention.d_head
    A, C = (torch.randn(n, d_model, d_head, generator=random) for _ in range(2))
    B, D = (torch.randn(n, d_head, d_model, generator=random) for _ in range(2))
    if _centred(model):
        A, C = (W - W.mean(-2, keepdim=True) for W in (A, C))
        B = B - B.mean(-1, keepdim=True)
    inner, outer = (torch.linalg.qr(W, mode="r").R for W in (A, D.mT))  # orthonormal sides are taken off
    return _unit(inner @ B), _unit(C @ outer.mT)


def _centred(model: HookedTransformer) -> bool:
    """Whether norms take off the mean."""
    return isinstance(model.config.norm, LayerNorm)
