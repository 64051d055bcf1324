"""How often a text has what weights say: tokens, pairs of them, and triples with something in between.

In: documents as rows of ids, some at a time. Out: counts. A text is read once for each question, and no table of all
pairs is kept. Documents are whole: no model runs on them, so that they need not be cut.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.analysis.texts import Texts, whole_documents
from pellucid.hooked_transformer import HookedTransformer


def bigram_counts(
    batches: Iterable[np.ndarray], tokens: Int[Tensor, " row"], out: Int[Tensor, "row k"], d_vocab: int
) -> tuple[Int[Tensor, "row k"], Int[Tensor, " row"]]:
    """How often each of some tokens is followed by each of its `out`, and how often by anything."""
    place = np.full(d_vocab, -1)
    place[tokens.numpy()] = np.arange(len(tokens))
    wanted, counts, occurs = out.numpy(), np.zeros(out.shape, np.int64), np.zeros(len(tokens), np.int64)
    for text in batches:
        first, follows = text[:, :-1].ravel(), text[:, 1:].ravel()
        at = np.where((first >= 0) & (follows >= 0), place[first], -1)
        follows, at = follows[at >= 0], at[at >= 0]
        np.add.at(occurs, at, 1)
        np.add.at(counts, at, wanted[at] == follows[:, None])
    own = place[tokens.numpy()]  # a token may have been given twice
    return torch.from_numpy(counts[own]), torch.from_numpy(occurs[own])


def trigram_counts(
    triples: Int[Tensor, "triple part"], batches: Iterable[np.ndarray], *, before: int | None = None
) -> Int[Tensor, "triple count"]:
    """How often d stands behind s, and o follows then; how often d stands without s, and o follows then.

    Args:
        triples: Head, s, d, o of each.
        batches: Rows of ids, ``[row pos]``, −1 where there is none; s must stand in the row of d.
        before: So many tokens before d at most; None: anywhere before.
    """
    found = np.zeros((len(triples), 4), np.int64)
    for text in batches:
        place = np.arange(text.shape[1])
        reach = text.shape[1] if before is None else min(before, text.shape[1])  # where s is not, it is farther
        for i, (_, s, d, o) in enumerate(triples.tolist()):
            latest = np.maximum.accumulate(np.where(text == s, place, -2 * text.shape[1]), axis=1)[:, :-2]
            near = np.zeros_like(text[:, :-1], dtype=bool)
            near[:, 1:] = place[1:-1] - latest <= reach
            here = (text[:, :-1] == d) & (text[:, 1:] >= 0)
            follows = text[:, 1:] == o
            behind, without = here & near, here & ~near
            found[i] += behind.sum(), (behind & follows).sum(), without.sum(), (without & follows).sum()
    return torch.from_numpy(found)


def lift(counts: Int[Tensor, "triple count"]) -> Float[Tensor, " triple"]:
    """How many times likelier, half an occurrence being added to each count; NaN where d stands on one side only."""
    n, k, n_without, k_without = counts.double().unbind(1)
    found = ((k + 0.5) / (n + 1)) / ((k_without + 0.5) / (n_without + 1))
    return found.where((n > 0) & (n_without > 0), torch.nan)


def id_rows(model: HookedTransformer, texts: Texts) -> Iterator[np.ndarray]:
    """Documents as rows of ids, ``[row pos]``, −1 behind their end; each begins with BOS as the policy says."""
    for rows in whole_documents(model, texts, widest=64):
        yield rows.tokens.masked_fill(~rows.mask, -1).numpy()


def occurrences(batches: Iterable[np.ndarray], d_vocab: int) -> Float[Tensor, " d_vocab"]:
    """How often each token stands in some rows."""
    counts = sum(np.bincount(text[text >= 0], minlength=d_vocab) for text in batches)
    return torch.as_tensor(counts).double()
