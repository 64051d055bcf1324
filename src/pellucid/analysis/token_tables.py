"""Which tokens a head writes for, and which it attends to, read off the weights alone.

In: a model, and some tokens. Out: for each of them the tokens that score highest in the head's OV or QK circuit. These
are as large as the vocabulary squared, and are formed some rows at a time. What of a token is read, and what is left
out, `token_circuits.py` says.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.analysis.token_circuits import (
    PART,
    attention_of,
    embedded,
    normed,
    ov_sides,
    rotation,
    shared,
    token_ids,
    turned,
)
from pellucid.base.errors import ArgumentError
from pellucid.base.record import Record
from pellucid.base.shown import Showing, Shown
from pellucid.hooked_transformer import HookedTransformer, record_of
from pellucid.model.norms import widened


@dataclass(frozen=True, eq=False, repr=False)
class TokenTable(Showing):
    """For each of some rows the tokens that score highest (or lowest), best first."""

    title: str
    labels: list[str]
    """What each row speaks of: a token, or a direction."""
    ids: Int[Tensor, "row k"]
    scores: Float[Tensor, "row k"]
    words: list[list[str]]
    """The tokens as text; their ids where the model has no tokenizer."""
    record: Record
    own_rank: Int[Tensor, " row"] | None = None
    """How many tokens score higher than the row's own: 0 where it is on top. None where rows are no tokens."""

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.labels)

    def _shown(self, *, brief: bool) -> Shown:
        rows, k = (10, 5) if brief else (20, 10)
        shown = [[label, *map(repr, words[:k])] for label, words in zip(self.labels[:rows], self.words, strict=False)]
        columns = ["", *map(str, range(1, 1 + min(k, self.ids.shape[1])))]
        return Shown(title=self.title, columns=columns, rows=shown, rest=max(0, len(self) - rows))


@torch.no_grad()
def ov_tokens(
    model: HookedTransformer,
    layer: int,
    head: int,
    tokens: Any = None,
    k: int = 10,
    *,
    embedding: str = "raw",
    largest: bool = True,
) -> TokenTable:
    """Which tokens a head writes for where it attends to a token: `norm(e) W_V W_O` through the final norm and `W_U`.

    Args:
        model: Model to read.
        layer: Of the head.
        head: Which head of the layer.
        tokens: Those attended to: ids, or texts that are one token each; None: all.
        k: How many tokens are told for each.
        embedding: What is read of a token: ``"raw"``: `W_E`; ``"extended"``: also what the first MLP makes of it, for
            heads above layer 0.
        largest: False: the ones that it writes against.

    Returns:
        Scores in logits, but for the final norm's scale.

    Raises:
        ArgumentError: There is no such head; no MLP to extend by; `k` is not positive.
        UnknownNameError: There is no such embedding.
        TokenError: A text is not one token.

    Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits", the OV circuit.

    Example:
        >>> model = HookedTransformer.from_pretrained("toy-induction", device="cpu")
        >>> ov_tokens(model, 1, 0, [11, 12]).own_rank.tolist()
        [0, 0]
    """
    ids = token_ids(model, tokens)
    _, at = attention_of(model, layer, head)
    read, written = ov_sides(model, layer, at, embedded(model, ids, embedding, layer))
    name = f"OV of head {layer}.{at}: tokens written {'for' if largest else 'against'}, for each attended to"
    settings = {"which": "OV", "layer": layer, "head": at, "embedding": embedding, "largest": largest}
    return token_table(model, name, read, written, k=k, ids=ids, settings=settings)


@torch.no_grad()
def qk_tokens(
    model: HookedTransformer,
    layer: int,
    head: int,
    tokens: Any = None,
    k: int = 10,
    *,
    embedding: str = "raw",
    distance: int | None = None,
) -> TokenTable:
    """Which tokens, as keys, a head attends to from a token: `norm(e) W_Q (norm(e′) W_K)ᵀ`, scaled as scores are.

    Args:
        model: Model to read.
        layer: Of the head.
        head: Which head of the layer.
        tokens: Those that attend: ids, or texts that are one token each; None: all.
        k: How many keys are told for each.
        embedding: As for `ov_tokens`.
        distance: How many positions the key lies before the query, for models with rotary positions, and only them.

    Returns:
        Attention scores, before the softmax.

    Raises:
        ArgumentError: As for `ov_tokens`; a distance is missing, or makes no difference here.
        UnknownNameError: There is no such embedding.
        TokenError: A text is not one token.

    Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits", the QK circuit.

    Example:
        >>> model = HookedTransformer.from_pretrained("toy-induction", device="cpu")
        >>> qk_tokens(model, 1, 0, [11], k=3).ids.shape
        torch.Size([1, 3])
    """
    ids, everything = token_ids(model, tokens), token_ids(model, None)
    attn, at = attention_of(model, layer, head)
    norm = model.blocks[layer].ln1
    keys = normed(norm, embedded(model, everything, embedding, layer))
    keys = keys @ widened(shared(attn.W_K, at, attn.config.n_heads))
    queries = normed(norm, embedded(model, ids, embedding, layer)) @ widened(attn.W_Q[at]) * attn.config.factor
    queries = turned(queries, rotation(model, distance))
    name = f"QK of head {layer}.{at}: keys attended to most, for each query"
    settings = {"which": "QK", "layer": layer, "head": at, "embedding": embedding, "distance": distance}
    return token_table(model, name, queries, keys.T, k=k, ids=ids, settings=settings)


def token_table(
    model: HookedTransformer,
    title: str,
    left: Float[Tensor, "row d"],
    right: Float[Tensor, "d vocab"],
    *,
    k: int,
    ids: Int[Tensor, " row"] | None,
    settings: dict[str, Any],
) -> TokenTable:
    """The best columns of each row of a product, some rows at a time.

    Args:
        model: Whose tokens the columns are.
        title: What the table is.
        left: Its rows.
        right: Its columns.
        k: How many are told.
        ids: The token of each row; None: directions, which have no token but a number.
        settings: What else it depends on; ``largest`` says which end is best.
    """
    if k < 1:
        raise ArgumentError(f"k must be 1 or more, got {k}")
    k, size, largest = min(k, right.shape[1]), max(1, PART // right.shape[1]), bool(settings.get("largest", True))
    found, ranks = [], []
    for start in range(0, len(left), size):
        scores = left[start : start + size] @ right
        found.append(scores.topk(k, dim=-1, largest=largest))
        if ids is not None and right.shape[1] == model.config.d_vocab:
            ranks.append((scores > scores.gather(1, ids[start : start + size, None])).sum(1))
    scores, best = (torch.cat([part[i] for part in found]).cpu() for i in (0, 1))
    labels = [str(i) for i in range(len(left))] if ids is None else list(map(repr, words_of(model, ids.tolist())))
    words = words_of(model, best.flatten().tolist())
    return TokenTable(
        title,
        labels,
        best,
        scores,
        [words[row * k : (row + 1) * k] for row in range(len(left))],
        record_of(model, task="token table", settings=settings),
        torch.cat(ranks).cpu() if ranks else None,
    )


def words_of(model: HookedTransformer, ids: Sequence[int]) -> list[str]:
    """Tokens as text; their ids where the model has no tokenizer."""
    return list(map(str, ids)) if model.tokenizer is None else model.tokenizer.strings(ids)
