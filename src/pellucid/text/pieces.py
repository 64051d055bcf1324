"""One token as text, and text as one token.

Decoding an id alone does not show its text: tokenizers like SentencePiece drop the space of whatever stands
first. So a token is decoded behind another one, whose text is then taken away; and a text is encoded behind
something that it cannot merge with.
"""

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from torch import Tensor

from pellucid.base.errors import ArgumentError, TokenError

if TYPE_CHECKING:
    import tokenizers

Ids: TypeAlias = int | Sequence[int] | np.ndarray | Tensor

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_BEFORE = ("\n", ".")
"""What hardly any vocabulary merges with the text behind it; "." for tokenizers that drop line breaks."""


def as_ids(ids: Ids) -> list[int]:
    """One row of token ids as a list.

    Raises:
        ArgumentError: More than one row.
        TokenError: An id below 0.
    """
    if isinstance(ids, np.ndarray | Tensor):
        if ids.ndim > 1:
            raise ArgumentError(
                f"token ids must be one row, got shape {list(ids.shape)}; give a row at a time "
                "(batch_decode takes many)."
            )
        ids = ids.tolist()
    row = [int(i) for i in ids] if isinstance(ids, Sequence) else [int(ids)]
    if any(i < 0 for i in row):
        raise TokenError(f"a token id must not be below 0, got {min(row)}; leave such positions out.")
    return row


def encoded(inner: "tokenizers.Tokenizer", texts: Sequence[str]) -> "list[tokenizers.Encoding]":
    """Each text without any token that the tokenizer adds of itself.

    Raises:
        TokenError: A text that this vocabulary cannot take; it is shown.
    """
    try:
        return inner.encode_batch(list(texts), add_special_tokens=False)
    except Exception:
        for text in texts:
            try:
                inner.encode(text, add_special_tokens=False)
            except Exception as error:
                raise TokenError(
                    f"a text must be valid Unicode made of the vocabulary's {inner.get_vocab_size()} tokens, "
                    f"got {text!r} ({error}); write it with these tokens only."
                ) from error
        raise


def strings(inner: "tokenizers.Tokenizer", ids: Sequence[int]) -> list[str]:
    r"""The text of each token as it stands in the midst of a sentence.

    Special tokens give their own name, as do the tokens of vocabularies that are decoded by joining names
    (WordPiece, numbers). Bytes that are no whole character give ``\ufffd``. An id that the vocabulary lacks
    (models are often padded with such) reads ``<id 50300>``.
    """
    names = [inner.id_to_token(i) for i in ids]
    if not _joins_names(inner):
        added = inner.get_added_tokens_decoder()
        texts = _behind_another(inner, ids)
        names = [name if name is None or i in added else text for i, name, text in zip(ids, names, texts, strict=True)]
    return [f"<id {i}>" if name is None else name for i, name in zip(ids, names, strict=True)]


def single(inner: "tokenizers.Tokenizer", text: str, *, unk_id: int | None) -> int:
    """The one token that `text` is: in the midst of a sentence, else at the start of a text.

    The two differ where the tokenizer puts a space before every text: there ``" it"`` and ``"it"`` are the
    tokens with and without a space, and ``"Once"``, which has no token without one, is what a text that so
    starts begins with.

    Args:
        inner: The tokenizer.
        text: What must be one token.
        unk_id: What unknown text becomes; never an answer, unless `text` is that token's own text.

    Raises:
        TokenError: `text` is no token or several; they are shown.
    """
    alone = encoded(inner, [text])[0].ids
    if strings(inner, alone) == [text]:
        return alone[0]
    behind = list(_in_context(inner, text))
    for ids in behind:
        if strings(inner, ids) == [text]:
            return ids[0]
    # Where tokens go by their names, the name of a piece that no text begins with (##ing) is one token.
    named = inner.token_to_id(text) if _joins_names(inner) else None
    if len(alone) != 1 and named is not None:
        return named
    if len(alone) != 1:
        shown = strings(inner, min([alone, *behind], key=len))
        raise TokenError(
            f"the text must be exactly one token, {text!r} is {len(shown)}: {shown}; "
            "choose a text that is one (a leading space often decides)."
        )
    if alone[0] == unk_id:
        raise TokenError(
            f"the text must be in the vocabulary, {text!r} is not: it becomes {strings(inner, alone)}, "
            "which stands for all unknown text; choose another text."
        )
    return alone[0]


def _joins_names(inner: "tokenizers.Tokenizer") -> bool:
    from tokenizers.decoders import WordPiece

    return inner.decoder is None or isinstance(inner.decoder, WordPiece)


def _behind_another(inner: "tokenizers.Tokenizer", ids: Sequence[int]) -> list[str]:
    before = _anchor(inner)
    if before is None:
        return [inner.decode([i], skip_special_tokens=False) for i in ids]
    lead = inner.decode([before], skip_special_tokens=False)
    pairs = inner.decode_batch([[before, i] for i in ids], skip_special_tokens=False)
    return [text.removeprefix(lead) for text in pairs]


def _anchor(inner: "tokenizers.Tokenizer") -> int | None:
    """An ordinary token that stays what it is whatever follows."""
    added = inner.get_added_tokens_decoder()
    for i in range(inner.get_vocab_size()):
        name = inner.id_to_token(i)
        # A byte of a byte-fallback vocabulary would merge with a byte that follows, and spoil both.
        if name is None or i in added or _BYTE.fullmatch(name):
            continue
        text = inner.decode([i])
        if text.strip() and text.isprintable() and inner.decode([i, i]).startswith(text):
            return i
    return None


def _in_context(inner: "tokenizers.Tokenizer", text: str) -> Iterator[list[int]]:
    for before in _BEFORE:
        try:
            lead, whole = (encoding.ids for encoding in encoded(inner, [before, before + text]))
        except TokenError:
            continue
        if whole[: len(lead)] == lead:
            yield whole[len(lead) :]
