"""Texts as rows of token ids that a model can take, some at a time: what a pass over a corpus reads.

In: documents (a `Corpus`, strings, or rows of ids). Out: batches that fit in memory, padded on the right, each row with
its document and its place there. Nothing of earlier batches is kept.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from pellucid.analysis.reading import NUMBERS, starts_with_bos
from pellucid.base.errors import ArgumentError, TokenError
from pellucid.hooked_transformer import HookedTransformer
from pellucid.prompts import as_ids
from pellucid.text.batch import padded

Texts: TypeAlias = Any
"""A text, several, a `pellucid.text.corpus.Corpus`; or rows of token ids, ``[row pos]`` or lists of any lengths, which
are taken as they are."""
MOST = 1024
"""Rows of a batch, however short they are."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of texts."""

    tokens: Int[Tensor, "row pos"]
    """Padded on the right."""
    mask: Bool[Tensor, "row pos"]
    """True at real tokens."""
    counted: Bool[Tensor, "row pos"]
    """True at real tokens that are not the BOS in front, at which activations are like nowhere else."""
    document: Int[Tensor, " row"]
    """The number of the document that each row is of; rows of one document follow each other."""
    start: Int[Tensor, " row"]
    """What to add to a position in the row for the position in the document, ``model.to_tokens(document)``."""

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.tokens)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return self.mask.sum(1).tolist()

    @property
    def attention_mask(self) -> Tensor | None:
        """For a run; None where nothing is padded."""
        return None if bool(self.mask.all()) else self.mask


def rows_of(
    model: HookedTransformer, texts: Texts, *, widest: int, length: int | None = None, first_document: int = 0
) -> Iterator[Rows]:
    """Texts, cut to the model's context, in batches.

    A text begins with BOS where the tokenizer's policy puts it there. A longer one goes on in further rows, each with
    BOS in front; what stood in the row before is not seen there.

    Args:
        model: Whose tokenizer and context.
        texts: See `Texts`.
        widest: Numbers that all of a pass takes for each position, by which batches are made.
        length: Tokens of a row at most, BOS included; None: the model's context.
        first_document: The number of the first document, where these are a part of a corpus.

    Raises:
        ArgumentError: `length` does not fit the model; a row of ids is too long, or is none; there is no token but BOS.
        TokenError: A text cannot be encoded, or the model has no tokenizer; rows of ids lack BOS, and the policy asks
            for it.

    Example:
        >>> from pellucid.text.vocabulary import integer_vocabulary
        >>> model = HookedTransformer.from_pretrained("toy-induction", device="cpu")
        >>> [(batch.tokens.tolist(), batch.start.tolist()) for batch in rows_of(model, ["5 6 7"], widest=1, length=3)]
        [([[0, 5, 6], [0, 7, 0]], [0, 2])]
    """
    n_ctx = model.config.n_ctx
    if length is not None and not 2 <= length <= n_ctx:
        raise ArgumentError(f"length must lie in 2..{n_ctx}, the model's context, got {length}")
    if first_document < 0:
        raise ArgumentError(f"first_document must be 0 or more, got {first_document}")
    held: list[tuple[list[int], int, int]] = []
    wide, found = 0, False
    for row in _each(model, texts, length or n_ctx, first_document):
        fits = max(wide, len(row[0])) * (len(held) + 1) * max(1, widest) <= NUMBERS and len(held) < MOST
        if held and not fits:
            batch = _batch(model, held)
            found |= bool(batch.counted.any())
            yield batch
            held, wide = [], 0
        held.append(row)
        wide = max(wide, len(row[0]))
    if held:
        batch = _batch(model, held)
        found |= bool(batch.counted.any())
        yield batch
    if not found:
        raise ArgumentError("texts must hold a token besides BOS, got none; give some text")


def _each(model: HookedTransformer, texts: Texts, length: int, first: int) -> Iterator[tuple[list[int], int, int]]:
    """(ids, document, start) of each row."""
    documents: Iterable[Any] = [texts] if isinstance(texts, str) else texts
    if isinstance(documents, Tensor) and documents.ndim != 2:
        raise ArgumentError(f"rows of ids must be [row pos], got {list(documents.shape)}")
    for number, document in enumerate(documents, start=first):
        if isinstance(document, str):
            for ids, start in _windows(model, document, length):
                yield ids, number, start
            continue
        ids = as_ids(document)
        if ids.ndim != 1 or not 1 <= len(ids) <= length:
            raise ArgumentError(
                f"a row of ids must have 1..{length} tokens, got {list(ids.shape)} in document {number}; cut it, or "
                "give text, which is cut here"
            )
        starts_with_bos(model, ids[None])
        yield ids.tolist(), number, 0


def _windows(model: HookedTransformer, text: str, length: int) -> Iterator[tuple[list[int], int]]:
    if model.tokenizer is None:
        raise TokenError("text needs a model with a tokenizer, and this one came without; give rows of token ids")
    ids = model.tokenizer.tokens([text], padding_side="right").tokens[0].tolist()
    policy = model.tokenizer.policy
    front = ids[:1] if policy.prepend_bos and policy.bos_id is not None else []
    body, step = ids[len(front) :], length - len(front)
    for start in range(0, len(body), step):
        yield front + body[start : start + step], start


def _batch(model: HookedTransformer, rows: list[tuple[list[int], int, int]]) -> Rows:
    both = padded([ids for ids, _, _ in rows], pad_id=None, side="right")
    counted = both.mask.clone()
    if model.policy is not None and model.policy.bos_id is not None:
        counted[:, 0] &= both.tokens[:, 0] != model.policy.bos_id
    document, start = (torch.tensor([row[i] for row in rows]) for i in (1, 2))
    return Rows(both.tokens, both.mask, counted, document, start)
