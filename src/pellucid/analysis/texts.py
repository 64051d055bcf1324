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
from pellucid.hooks.index import at_least
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
        TokenError: A text cannot be encoded, or the model has no tokenizer; an id is not in the vocabulary; rows of ids
            lack BOS, and the policy asks for it.

    Example:
        >>> from pellucid.text.vocabulary import integer_vocabulary
        >>> model = HookedTransformer.from_pretrained("toy-induction", device="cpu")
        >>> [(batch.tokens.tolist(), batch.start.tolist()) for batch in rows_of(model, ["5 6 7"], widest=1, length=3)]
        [([[0, 5, 6], [0, 7, 0]], [0, 2])]
    """
    n_ctx = model.config.n_ctx
    most = n_ctx if length is None else at_least("length", length, 2)
    if most > n_ctx:
        raise ArgumentError(f"length must lie in 2..{n_ctx}, the model's context, got {length}")
    first = at_least("first_document", first_document, 0)
    yield from _batches(model, _each(model, texts, most, first), widest)


def whole_documents(model: HookedTransformer, texts: Texts, *, widest: int) -> Iterator[Rows]:
    """Texts as `rows_of` gives them, but each in one row, however long: for what is counted without a run.

    Args:
        model: Whose tokenizer.
        texts: See `Texts`.
        widest: Numbers that all of a pass takes for each position, by which batches are made.

    Raises:
        ArgumentError: A row of ids is none; there is no token but BOS.
        TokenError: As for `rows_of`.

    Example:
        >>> model = HookedTransformer.from_pretrained("toy-induction", device="cpu")
        >>> [batch.tokens.shape for batch in whole_documents(model, ["5 " * 1000], widest=1)]
        [torch.Size([1, 1001])]
    """
    yield from _batches(model, _each(model, texts, None, 0), widest)


def _batches(model: HookedTransformer, rows: Iterable[tuple[list[int], int, int]], widest: int) -> Iterator[Rows]:
    held: list[tuple[list[int], int, int]] = []
    wide, found = 0, False
    for row in rows:
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


def _each(
    model: HookedTransformer, texts: Texts, length: int | None, first: int
) -> Iterator[tuple[list[int], int, int]]:
    """(ids, document, start) of each row."""
    for number, document in enumerate(_documents(texts), start=first):
        if isinstance(document, str):
            ids, front = _encoded(model, document)
            _check_ids(model, ids, number)
            body, step = ids[front:], max(1, len(ids)) if length is None else length - front
            for start in range(0, len(body), step):
                yield ids[:front] + body[start : start + step], number, start
            continue
        row = as_ids(document)
        if row.ndim == 0:
            raise ArgumentError(
                f"each of texts must be a text or a row of ids, got the number {int(row)} as document {number}; give "
                "one row as a list of rows, [[…]]"
            )
        if row.ndim != 1 or not 1 <= len(row) <= (length or len(row)):
            most = "1 or more" if length is None else f"1..{length}"
            raise ArgumentError(
                f"a row of ids must have {most} tokens, got {list(row.shape)} in document {number}; cut it, or give "
                "text, which is cut here"
            )
        _check_ids(model, row.tolist(), number)
        starts_with_bos(model, row[None])
        yield row.tolist(), number, 0


def _documents(texts: Texts) -> Iterable[Any]:
    if isinstance(texts, Tensor) and texts.ndim != 2:
        raise ArgumentError(f"rows of ids must be [row pos], got {list(texts.shape)}")
    if not isinstance(texts, Iterable):
        raise ArgumentError(f"texts must be a text, several, a Corpus, or rows of token ids, got {texts!r}")
    return [texts] if isinstance(texts, str) else texts


def _encoded(model: HookedTransformer, text: str) -> tuple[list[int], int]:
    """The ids of a text, and how many of them, none or one, are the BOS that each of its rows begins with."""
    if model.tokenizer is None:
        raise TokenError("text needs a model with a tokenizer, and this one came without; give rows of token ids")
    policy = model.tokenizer.policy
    ids = model.tokenizer.tokens([text], padding_side="right").tokens[0].tolist()
    return ids, int(policy.prepend_bos and policy.bos_id is not None)


def _check_ids(model: HookedTransformer, ids: list[int], number: int) -> None:
    outside = [i for i in (min(ids), max(ids)) if not 0 <= i < model.config.d_vocab]
    if outside:
        raise TokenError(
            f"token ids must lie in 0..{model.config.d_vocab - 1}, got {outside[0]} in document {number}; use the "
            "model's own tokenizer, and give rows of ids without padding"
        )


def _batch(model: HookedTransformer, rows: list[tuple[list[int], int, int]]) -> Rows:
    both = padded([ids for ids, _, _ in rows], pad_id=None, side="right")
    counted = both.mask.clone()
    if model.policy is not None and model.policy.bos_id is not None:
        counted[:, 0] &= both.tokens[:, 0] != model.policy.bos_id
    document, start = (torch.tensor([row[i] for row in rows]) for i in (1, 2))
    return Rows(both.tokens, both.mask, counted, document, start)
