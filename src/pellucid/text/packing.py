"""Documents become rows of token ids, all of one length.

Documents are read once, in order, and tokenised some at a time. Each goes wholly to the training side or wholly to the
held-out side, and there joins a stream that is cut into rows. The rows stay in memory while they fit a bound, and go to
a file beyond it; which of the two it was, does not show in them.
"""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from jaxtyping import UInt

from pellucid.base.errors import ArgumentError, OutputError, TokenError
from pellucid.base.memory import free_memory
from pellucid.text.tokenizer import Tokenizer

_BYTES_AT_ONCE = 2**20
_DOCUMENTS_AT_ONCE = 1024
_MODEST = 2**30
"""Bytes of rows that are held where the system does not tell how much memory is free."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Packed:
    """Rows of token ids, and of what they were made.

    Bits per byte of the held-out documents are ``nats per token / ln 2 * n_held_out_tokens / n_held_out_bytes``.
    """

    train: UInt[np.ndarray, "row length"]
    """Read-only; may be a file that is mapped into memory."""
    held_out: UInt[np.ndarray, "held_out_row length"]
    """The same; no row where the held-out documents do not fill one."""
    hash: str
    """SHA-256 of the SHA-256 of each document's UTF-8, in order, both sides: what was read, and where each ended."""
    n_documents: int
    """Of the training side, as are the next two; its unfinished last row is counted here, though it was dropped."""
    n_tokens: int
    """Of the documents: without the BOS of the rows and without what separates documents."""
    n_bytes: int
    """Of the documents, as UTF-8."""
    n_held_out_documents: int
    n_held_out_tokens: int
    n_held_out_bytes: int
    bos: bool
    """Each row begins with BOS."""


def held_out(text: str, share: float) -> bool:
    """Whether a document is held out: its own SHA-256 decides, so neither the order nor other documents matter.

    A document that is there twice is on the same side both times, and one held out at some share is so at any larger.

    Args:
        text: The document.
        share: Of all documents; 0 holds out none.

    Raises:
        ArgumentError: `share` is not at least 0 and below 1.

    Example:
        >>> [text for text in ("one", "two", "three", "four") if held_out(text, 0.5)]
        ['one', 'two', 'four']
    """
    _check_share(share)
    return _is_held_out(sha256(text.encode()).digest(), share)


def pack(
    corpus: Iterable[str],
    tokenizer: Tokenizer,
    *,
    length: int,
    held_out: float = 0.0,
    folder: str | Path | None = None,
    max_bytes: int | None = None,
) -> Packed:
    """Rows of token ids from documents.

    In the stream that is cut into rows, EOS stands between two documents, or BOS in a vocabulary without EOS, or
    nothing in one without both. A row begins with BOS where the tokenizer's policy puts it before a text; what then
    would follow it is passed over if it is BOS or the separator, so that no row begins with two of these. The
    unfinished last row of each side is dropped.

    Args:
        corpus: A `Corpus`, or any documents.
        tokenizer: Its vocabulary and its policy; special tokens that stand in a text as such are read as such.
        length: Tokens of a row, BOS included.
        held_out: The share of documents that is held out.
        folder: Where the rows go that memory cannot hold, in files without a name: they take their room as long as the
            rows are in use, and then are gone, however the process ended. None: the system's folder for such files.
        max_bytes: Rows of more than so many bytes go to a file; None: a quarter of the free memory.

    Returns:
        The rows of both sides, in the smallest unsigned integers that fit the vocabulary.

    Raises:
        ArgumentError: An argument that cannot be, or training documents that do not fill one row.
        TokenError: A document that the vocabulary cannot take.
        OutputError: `folder` cannot be written, or is full.

    Example:
        >>> from pellucid.text.vocabulary import integer_vocabulary
        >>> pack(["5 6 7", "8 9"], integer_vocabulary(10), length=3).train.tolist()
        [[0, 5, 6], [0, 7, 0], [0, 8, 9]]
    """
    _check(corpus, length, held_out, max_bytes)
    form, digests = _Form.of(tokenizer, length), sha256()
    train, kept = sides = _Side(form), _Side(form)
    with _Store(form, max_bytes=_bound(max_bytes), folder=folder) as store:
        for batch in _batches(corpus, held_out, digests):
            for document, ids in zip(batch, _ids(tokenizer, batch), strict=True):
                sides[document.held_out].add(np.array(ids, form.dtype), document.n_bytes)
            for place, side in enumerate(sides):
                store.append(place, side.rows())
        train_rows, held_out_rows = store.rows()
    if not len(train_rows):
        raise _too_short(train, kept, length)
    return Packed(
        train=train_rows,
        held_out=held_out_rows,
        hash=digests.hexdigest(),
        n_documents=train.documents,
        n_tokens=train.tokens,
        n_bytes=train.bytes,
        n_held_out_documents=kept.documents,
        n_held_out_tokens=kept.tokens,
        n_held_out_bytes=kept.bytes,
        bos=form.front is not None,
    )


def _check(corpus: Iterable[str], length: int, share: float, max_bytes: int | None) -> None:
    if isinstance(corpus, str):
        raise ArgumentError(
            f"corpus must be documents, got the string {corpus[:40]!r}; put one text in a list, name a file by "
            "Corpus(source=...)."
        )
    if length < 2:
        raise ArgumentError(f"length must be 2 or more, so that a row has a token to predict; got {length}.")
    if max_bytes is not None and max_bytes < 0:
        raise ArgumentError(f"max_bytes must be 0 or more, got {max_bytes}; 0 puts all rows into files.")
    _check_share(share)


def _bound(max_bytes: int | None) -> int:
    if max_bytes is not None:
        return max_bytes
    free = free_memory(torch.device("cpu"))
    return _MODEST if free is None else free // 4


def _too_short(train: "_Side", kept: "_Side", length: int) -> ArgumentError:
    beside = f", beside {kept.documents} held-out documents" if kept.documents else ""
    return ArgumentError(
        f"the training documents must fill one row of length={length}, got {train.tokens} tokens in "
        f"{train.documents} documents{beside}; give more text, or a smaller length or held_out."
    )


def _check_share(share: float) -> None:
    if not 0 <= share < 1:
        raise ArgumentError(f"the share that is held out must be at least 0 and below 1, got {share}.")


def _is_held_out(digest: bytes, share: float) -> bool:
    return int.from_bytes(digest[:8], "big") < share * 2**64


# Documents


@dataclass(frozen=True)
class _Document:
    number: int
    text: str
    n_bytes: int
    held_out: bool


def _batches(corpus: Iterable[str], share: float, digests: Any) -> Iterator[list[_Document]]:
    """Documents, as many at a time as are tokenised together; their digests are added to `digests`."""
    batch: list[_Document] = []
    size = 0
    for number, text in enumerate(corpus, start=1):
        try:
            raw = text.encode()
        except UnicodeEncodeError as error:
            raise _not_taken(number, text, error) from error
        digest = sha256(raw).digest()
        digests.update(digest)
        batch.append(_Document(number, text, len(raw), _is_held_out(digest, share)))
        size += len(raw)
        if size >= _BYTES_AT_ONCE or len(batch) >= _DOCUMENTS_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _ids(tokenizer: Tokenizer, batch: list[_Document]) -> Iterator[list[int]]:
    inner = tokenizer.inner
    # The fast one leaves out where in the text a token stood; older versions of `tokenizers` lack it.
    encode = getattr(inner, "encode_batch_fast", inner.encode_batch)
    try:
        encodings = encode([document.text for document in batch], add_special_tokens=False)
    except Exception:
        for document in batch:
            try:
                inner.encode(document.text, add_special_tokens=False)
            except Exception as error:
                raise _not_taken(document.number, document.text, error) from error
        raise
    return (encoding.ids for encoding in encodings)


def _not_taken(number: int, text: str, error: Exception) -> TokenError:
    shown = repr(text if len(text) <= 60 else text[:60] + "…")
    return TokenError(
        f"document {number} must be valid Unicode made of the vocabulary's tokens, got {shown} ({error}); "
        "leave it out, or write it with these tokens only."
    )


# Rows


@dataclass(frozen=True)
class _Form:
    """What a row looks like."""

    length: int
    dtype: np.dtype
    front: int | None
    between: int | None

    @classmethod
    def of(cls, tokenizer: Tokenizer, length: int) -> "_Form":
        policy = tokenizer.policy
        # Not the number of tokens: the ids of added ones may leave gaps.
        dtype = np.min_scalar_type(max(tokenizer.get_vocab().values()))
        between = policy.bos_id if policy.eos_id is None else policy.eos_id
        return cls(length, dtype, policy.bos_id if policy.prepend_bos else None, between)


class _Side:
    """The stream of one side, of which whole rows are taken."""

    def __init__(self, form: _Form) -> None:
        self.documents = self.tokens = self.bytes = 0
        self._form = form
        self._stream: list[np.ndarray] = []

    def add(self, ids: np.ndarray, n_bytes: int) -> None:
        form = self._form
        if len(ids) and self.tokens and form.between is not None:
            self._stream.append(np.array([form.between], form.dtype))
        self._stream.append(ids)
        self.documents += 1
        self.tokens += len(ids)
        self.bytes += n_bytes

    def rows(self) -> UInt[np.ndarray, "row length"]:
        """As many as are whole; what is left of the stream stays."""
        form = self._form
        stream = np.concatenate([np.empty(0, form.dtype), *self._stream])
        width = form.length - (form.front is not None)
        starts, at = [], 0
        while True:
            if form.front is not None:
                while at < len(stream) and stream[at] in (form.front, form.between):
                    at += 1
            if len(stream) - at < width:
                break
            starts.append(at)
            at += width
        self._stream = [stream[at:].copy()]
        rows = np.empty((len(starts), form.length), form.dtype)
        for row, start in zip(rows, starts, strict=True):
            row[form.length - width :] = stream[start : start + width]
        if form.front is not None:
            rows[:, 0] = form.front
        return rows


class _Store:
    """The rows of both sides: in memory, and once they are more than `max_bytes`, in files."""

    def __init__(self, form: _Form, *, max_bytes: int, folder: str | Path | None) -> None:
        self._form, self._max_bytes, self._folder = form, max_bytes, folder
        # A bytearray grows in place; a list of arrays would be there twice when they are joined.
        self._held = (bytearray(), bytearray())
        self._files: list[IO[bytes]] = []
        self._open = ExitStack()

    def __enter__(self) -> "_Store":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def append(self, side: int, rows: np.ndarray) -> None:
        if not self._files and sum(map(len, self._held)) + rows.nbytes > self._max_bytes:
            self._to_files()
        if not self._files:
            self._held[side].extend(rows.tobytes())
            return
        self._write(side, rows.tobytes())

    def rows(self) -> list[np.ndarray]:
        """Those of each side, read-only, so that they behave alike wherever they lie."""
        return [self._rows(side) for side in range(2)]

    def _rows(self, side: int) -> np.ndarray:
        form = self._form
        if self._files and self._files[side].tell():  # an empty file cannot be mapped
            # The map has a handle of its own, and lives on when this one is closed.
            return np.memmap(self._files[side], form.dtype, "r").reshape(-1, form.length)
        rows = np.frombuffer(self._held[side], form.dtype).reshape(-1, form.length)
        rows.flags.writeable = False
        return rows

    def _to_files(self) -> None:
        try:
            if self._folder is not None:
                Path(self._folder).mkdir(parents=True, exist_ok=True)
            for _ in self._held:
                file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 (closed by __exit__)
                self._files.append(self._open.enter_context(file))
        except OSError as error:
            raise self._not_written(error) from error
        for side, held in enumerate(self._held):
            self._write(side, held)
            held.clear()

    def _write(self, side: int, raw: bytes | bytearray) -> None:
        try:
            self._files[side].write(raw)
            self._files[side].flush()
        except OSError as error:
            raise self._not_written(error) from error

    def _not_written(self, error: OSError) -> OutputError:
        return OutputError(
            f"{self._folder or tempfile.gettempdir()} must take the rows that memory cannot hold, got: "
            f"{error.strerror or error}; choose another folder, or a larger max_bytes."
        )
