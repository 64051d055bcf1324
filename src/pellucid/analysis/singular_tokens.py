"""The singular directions of heads and MLPs, read as tokens, off the weights alone.

In: a model, and which matrix. Out: its strongest directions, each as the tokens that lie along what is read and those
that what is written speaks for. What is folded in, and what is left out, `token_circuits.py` says.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.analysis.token_circuits import attention_of, folded, linear, shared, within
from pellucid.analysis.token_tables import TokenTable, token_table
from pellucid.base.errors import ArgumentError, UnknownNameError, nearest
from pellucid.hooked_transformer import HookedTransformer
from pellucid.maths.factored import FactoredMatrix
from pellucid.model.norms import LayerNorm, widened

WHICH = ("OV", "QK", "MLP")


class SingularTokens(NamedTuple):
    """The strongest directions of a matrix, read as tokens; the two sides of a direction bear the same number."""

    strength: Float[Tensor, " direction"]
    """Singular values, largest first; of an MLP those of `W_out`."""
    reads: TokenTable
    """Tokens whose embeddings lie along what is read: by an OV, by a QK's query, by an MLP's `W_in`."""
    writes: TokenTable
    """Tokens that what is written speaks for; of a QK the tokens that lie along its key."""


@torch.no_grad()
def svd_tokens(
    model: HookedTransformer,
    layer: int,
    head: int | None = None,
    *,
    which: str = "OV",
    k: int = 10,
    directions: int = 5,
) -> SingularTokens:
    """The singular directions of a head's OV or QK, or of an MLP, as tokens.

    A direction and its opposite are one. The sign is the one by which the token that it says most of is written for;
    both sides of an OV or a QK turn together. An MLP's two sides, `W_in` and `W_out`, are matrices of their own: what
    lies between them is not linear, so equal numbers there mean nothing.

    Args:
        model: Model to read.
        layer: Which.
        head: Which head; None for an MLP.
        which: ``"OV"``, ``"QK"`` (without rotation) or ``"MLP"``.
        k: Tokens told for each direction.
        directions: How many.

    Raises:
        ArgumentError: There is no such head or MLP; `k` or `directions` is not positive.
        UnknownNameError: `which` is none of these.

    Source: Millidge and Black 2022, "The Singular Value Decompositions of Transformer Weight Matrices are Highly
    Interpretable".

    Example:
        >>> model = HookedTransformer.from_pretrained("toy-induction", device="cpu")
        >>> found = svd_tokens(model, 1, 0, directions=2, k=3)
        >>> found.strength.shape, found.writes.ids.shape
        (torch.Size([2]), torch.Size([2, 3]))
    """
    if which not in WHICH:
        raise UnknownNameError(f"which must be OV, QK or MLP, got {which!r}{nearest(which, WHICH)}")
    if (which == "MLP") != (head is None) or directions < 1:
        raise ArgumentError(
            f"an OV or QK needs a head and an MLP none, and directions must be 1 or more, got which={which!r}, "
            f"head={head} and directions={directions}"
        )
    read, strength, write = (x[..., :directions] for x in _directions(model, layer, head, which))
    E, U = widened(model.W_E), widened(model.W_U)
    reads = E @ read
    writes = E @ write if which == "QK" else (linear(model.ln_final, write.T) @ U).T
    sign = writes.gather(0, writes.abs().argmax(0, keepdim=True)).sign()
    own = reads.gather(0, reads.abs().argmax(0, keepdim=True)).sign() if which == "MLP" else sign
    place = f"{which} of {'layer' if head is None else 'head'} {layer}{'' if head is None else f'.{head}'}"
    settings = {"which": which, "layer": layer, "head": head, "directions": directions}
    labels = [f"{i}: {value:.3g}" for i, value in enumerate(strength.tolist())]
    tables = []
    for side, x in (("reads", reads * own), ("writes", writes * sign)):
        eye = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        title = f"{place}: tokens that each direction {side}"
        table = token_table(model, title, eye, x.T, k=k, ids=None, settings=settings)
        tables.append(TokenTable(title, labels, table.ids, table.scores, table.words, table.record))
    return SingularTokens(strength.cpu(), *tables)


def _directions(model: HookedTransformer, layer: int, head: int | None, which: str) -> tuple[Tensor, Tensor, Tensor]:
    """(what is read `[d_model k]`, singular values, what is written `[d_model k]`)."""
    centred = isinstance(model.config.norm, LayerNorm)
    if head is None:
        block = model.blocks[within("layer", layer, model.config.n_layers)]
        if block.mlp is None:
            raise ArgumentError("which='MLP' needs a model with MLPs, and this model has attention only; take 'OV'")
        read = torch.linalg.svd(folded(block.ln2, widened(block.mlp.W_in)), full_matrices=False).U
        W_out = widened(block.mlp.W_out)
        written = torch.linalg.svd(W_out - W_out.mean(-1, keepdim=True) if centred else W_out, full_matrices=False)
        return read, written.S, written.Vh.mT
    attn, at = attention_of(model, layer, head)
    norm, n_heads = model.blocks[layer].ln1, attn.config.n_heads
    if which == "QK":
        sides = (folded(norm, widened(W)) for W in (attn.W_Q[at], shared(attn.W_K, at, n_heads)))
        left, right = sides
        return FactoredMatrix(left, right.T).svd()
    W_O = widened(attn.W_O[at])
    W_O = W_O - W_O.mean(-1, keepdim=True) if centred else W_O
    return FactoredMatrix(folded(norm, widened(shared(attn.W_V, at, n_heads))), W_O).svd()
