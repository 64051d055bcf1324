"""Text to train on: documents become rows of token ids, and some documents are held out."""

from collections.abc import Iterator
from dataclasses import dataclass
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
        held_out: The share of documents that is kept for the probes.
        copies: Passages that are made to stand twice; None: the text as it is.

    Raises:
        ConfigError: A value cannot be.
    """

    source: str | tuple[str, ...]
    length: int
    column: str | None = None
    split: str | None = None
    documents: int | None = None
    held_out: float = 0.05
    copies: Copies | None = None

    def __post_init__(self) -> None:
        if self.length < 2 or not 0 <= self.held_out < 1:
            raise ConfigError(
                f"length must be 2 or more and 0 ≤ held_out < 1, got length={self.length}, held_out={self.held_out}"
            )

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
        return Corpus(source=self.source, column=self.column, split=self.split, documents=self.documents)

    def training(self) -> Iterator[str]:
        """The documents that are not held out."""
        return (text for text in self.corpus if not held_out(text, self.held_out))

    def packed(self, tokenizer: Tokenizer, folder: Path | None = None) -> Packed:
        """The rows.

        Args:
            tokenizer: Of the model.
            folder: Where rows go that memory cannot hold; None: a temporary one.
        """
        return pack(self.corpus, tokenizer, length=self.length, held_out=self.held_out, folder=folder)
