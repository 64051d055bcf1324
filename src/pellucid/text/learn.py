"""A vocabulary learned from text: byte pairs, or word pieces.

In: documents and a size. Out: an ordinary `Tokenizer`. The learning is that of the `tokenizers` library.
"""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pellucid.base.errors import ArgumentError, ConfigError
from pellucid.text.policy import TextPolicy
from pellucid.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import tokenizers

BYTES = 256
"""Byte-level pairs begin with as many tokens, so that no text is unknown to them."""


@dataclass(frozen=True, kw_only=True)
class LearnedVocabulary:
    """How a vocabulary is learned.

    Args:
        size: Tokens at most, special ones included; fewer where the text has no more to learn.
        kind: ``"BPE"``: byte-level pairs (Sennrich et al. 2016; Radford et al. 2019), special token ``<bos>``;
            every text comes back as it was. ``"WordPiece"``: pieces of words (Schuster and Nakajima 2012), special
            tokens ``[CLS]``, which is BOS, and ``[UNK]``; white space is lost, as are characters that the text it
            learned from did not have.

    Raises:
        ConfigError: `size` leaves no room for a pair.
    """

    size: int
    kind: Literal["BPE", "WordPiece"] = "BPE"

    def __post_init__(self) -> None:
        least = BYTES + 2 if self.kind == "BPE" else 3
        if self.size < least:
            raise ConfigError(f"size must be {least} or more for {self.kind}, got {self.size}")

    def learned(self, documents: Iterable[str]) -> Tokenizer:
        """The tokenizer that some documents give; the same for the same documents in the same order.

        Args:
            documents: Training text alone: what is held out must not be looked at.

        Raises:
            ArgumentError: There is nothing to learn from.
        """
        inner, bos = self._byte_pairs(documents) if self.kind == "BPE" else self._word_pieces(documents)
        unk = inner.token_to_id("[UNK]")
        special = [] if unk is None else [unk]
        policy = TextPolicy.of(bos_id=inner.token_to_id(bos), unk_id=unk, special_ids=special)
        return Tokenizer(inner, policy, name_or_path=f"{self.kind} of {inner.get_vocab_size()} tokens")

    def _byte_pairs(self, documents: Iterable[str]) -> "tuple[tokenizers.Tokenizer, str]":
        from tokenizers import Tokenizer as Inner
        from tokenizers import decoders, models, pre_tokenizers, trainers

        inner = Inner(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(
            vocab_size=self.size, special_tokens=["<bos>"], initial_alphabet=alphabet, show_progress=False
        )
        inner.train_from_iterator(documents, trainer)
        _check_learned(inner.get_vocab_size() > BYTES + 1)
        return inner, "<bos>"

    def _word_pieces(self, documents: Iterable[str]) -> "tuple[tokenizers.Tokenizer, str]":
        """The text is held in memory: the library numbers pieces as they come, unless all characters are told."""
        from tokenizers import Tokenizer as Inner
        from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

        texts = [unicodedata.normalize("NFC", text) for text in documents]
        characters = sorted({c for text in texts for c in text if not c.isspace()})
        names = ["[CLS]", "[UNK]"]
        told = [*names, *characters, *(f"##{c}" for c in characters)]
        learning = Inner(models.WordPiece(unk_token="[UNK]"))
        learning.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        learning.train_from_iterator(
            texts, trainers.WordPieceTrainer(vocab_size=self.size, special_tokens=told, show_progress=False)
        )
        vocab = sorted(learning.get_vocab().items(), key=lambda one: one[1])[: self.size]
        _check_learned(len(vocab) > len(told))
        inner = Inner(models.WordPiece(dict(vocab), unk_token="[UNK]"))
        inner.normalizer = normalizers.NFC()
        inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        inner.decoder = decoders.WordPiece()
        inner.add_special_tokens(names)
        return inner, "[CLS]"


def _check_learned(something: bool) -> None:
    if not something:
        raise ArgumentError(
            "a vocabulary must be learned from text with pairs of characters that occur twice, and have room for them, "
            "got neither; give more text, or a larger size"
        )
