"""Text to train on: documents become rows of token ids, and some documents are held out."""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from pellucid.base.errors import ConfigError
from pellucid.text.corpus import Corpus
from pellucid.text.packing import Packed, held_out, pack
from pellucid.text.tokenizer import Tokenizer
from pellucid.train.copies import Copies


@dataclass(frozen=True, kw_only=True)
class Text:
    """Documents, packed into rows that begin with BOS.

    Args:
        source: Files, folders, or a data set: see `pellucid.text.corpus.Corpus`.
        length: Tokens of a row, BOS included.
        column: Of a CSV or JSONL file or a data set, that with the text; None: the usual one.
        split: Of a data set.
        documents: Read at most so many.
        longest: Cut texts of more characters, at a line end, into documents of about so many.
        bos: Whether rows begin with BOS; False also tells the model's tokenizer to put none before a text.
        held_out: The share of documents that is kept for the probes.
        share: Of the other documents, the share that is trained on; what is held out stays the same.
        copies: Passages that are made to stand twice; None: the text as it is.

    Raises:
        ConfigError: A value cannot be.
    """

    source: str | tuple[str, ...]
    length: int
    column: str | None = None
    split: str | None = None
    documents: int | None = None
    longest: int | None = None
    bos: bool = True
    held_out: float = 0.05
    share: float = 1.0
    copies: Copies | None = None

    def __post_init__(self) -> None:
        if self.length < 2 or not 0 <= self.held_out < 1:
            raise ConfigError(
                f"length must be 2 or more and 0 ≤ held_out < 1, got length={self.length}, held_out={self.held_out}"
            )
        if not 0 < self.share <= 1:
            raise ConfigError(f"share must be above 0 and at most 1, got {self.share}")
        if self.copies is not None and 1 + 2 * self.copies.longest > self.length:
            raise ConfigError(
                f"a copied passage must fit a row twice, 1 + 2 copies.longest ≤ length={self.length}, got "
                f"longest={self.copies.longest}; shorten it"
            )

    @property
    def longest_row(self) -> int:
        """Tokens of a row."""
        return self.length

    @property
    def corpus(self) -> Corpus:
        """All documents."""
        return Corpus(
            source=self.source,
            column=self.column,
            split=self.split,
            documents=self.documents,
            longest=self.longest,
        )

    def training(self) -> Iterator[str]:
        """The documents that are not held out."""
        return (text for text in self._read() if not held_out(text, self.held_out))

    def packed(self, tokenizer: Tokenizer, folder: Path | None = None) -> Packed:
        """The rows.

        Args:
            tokenizer: Of the model.
            folder: Where rows go that memory cannot hold; None: a temporary one.
        """
        return pack(self._read(), tokenizer, length=self.length, held_out=self.held_out, folder=folder)

    def _read(self) -> Iterator[str]:
        """What is held out, and of the rest the share that is trained on, chosen by the hash of its hash."""
        for text in self.corpus:
            if self.share == 1 or held_out(text, self.held_out) or held_out(_digest(text), self.share):
                yield text


def _digest(text: str) -> str:
    return sha256(text.encode(errors="surrogatepass")).hexdigest()
