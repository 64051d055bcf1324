"""How much each head reads of what each earlier head writes, told from the weights.

In: a model. Out: for each pair of heads one number for the queries, one for the keys and one for the values of the
later head. Nothing as large as `[d_model d_model]` is formed: of each matrix only the side that meets the other one is
kept, since a norm does not change when an orthonormal side is taken off.
"""

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
"""Random pairs of matrices that the baseline is the mean of; random models that heads are compared with."""


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
    sides = [_sides(block, _centred(model)) for block in model.blocks]
    raw = torch.zeros(len(heads), len(heads), len(INPUTS), dtype=torch.float64)
    n_heads = config.attention.n_heads
    for layer, (written, _) in enumerate(sides[:-1]):
        read = torch.cat([later for _, later in sides[layer + 1 :]])
        rows = slice(layer * n_heads, (layer + 1) * n_heads)
        raw[rows, rows.stop :] = _norms(written, read).unflatten(1, (-1, len(INPUTS))).double().cpu()
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
    model: HookedTransformer, *, draws: int = DRAWS, seed: int = 0
) -> Float[Tensor, "draw layer head"]:
    """What each head composes with the earlier head that it composes with most, in models of random matrices.

    The strongest of many is strong by chance alone; so the strongest of a head is compared with that of as many random
    heads. It is the same for queries, keys and values.

    Args:
        model: Of which shape.
        draws: Random models.
        seed: Of their matrices.

    Returns:
        Fraction; NaN in the first layer, which nothing lies before.
    """
    n_layers, n_heads = model.config.n_layers, model.config.attention.n_heads
    found = torch.full((draws, n_layers, n_heads), torch.nan, dtype=torch.float64)
    random = generator(seed)
    for draw in found:
        written: list[Tensor] = []
        for layer in range(n_layers):
            writes, reads = _random(model, n_heads, random)
            if written:
                draw[layer] = torch.stack([_norms(earlier, reads).amax(0) for earlier in written]).amax(0)
            written.append(writes)
    return found


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
