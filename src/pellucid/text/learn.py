"""A vocabulary learned from text: byte pairs, or word pieces.

In: documents and a size. Out: an ordinary `Tokenizer`. The learning is that of the `tokenizers` library.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from pellucid.base.errors import ArgumentError, ConfigError
from pellucid.text.policy import TextPolicy
from pellucid.text.tokenizer import Tokenizer

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
        inner, trainer, bos = self._byte_pairs() if self.kind == "BPE" else self._word_pieces()
        inner.train_from_iterator(documents, trainer, length=None)
        if inner.get_vocab_size() <= (BYTES + 1 if self.kind == "BPE" else 2):
            raise ArgumentError("a vocabulary must be learned from some text, got none that has a pair in it twice")
        unk = inner.token_to_id("[UNK]")
        special = [] if unk is None else [unk]
        policy = TextPolicy.of(bos_id=inner.token_to_id(bos), unk_id=unk, special_ids=special)
        return Tokenizer(inner, policy, name_or_path=f"{self.kind} of {inner.get_vocab_size()} tokens")

    def _byte_pairs(self) -> tuple[Any, Any, str]:
        from tokenizers import Tokenizer as Inner
        from tokenizers import decoders, models, pre_tokenizers, trainers

        inner = Inner(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(
            vocab_size=self.size, special_tokens=["<bos>"], initial_alphabet=alphabet, show_progress=False
        )
        return inner, trainer, "<bos>"

    def _word_pieces(self) -> tuple[Any, Any, str]:
        from tokenizers import Tokenizer as Inner
        from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

        inner = Inner(models.WordPiece(unk_token="[UNK]"))
        inner.normalizer = normalizers.NFC()
        inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        inner.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(
            vocab_size=self.size, special_tokens=["[CLS]", "[UNK]"], show_progress=False
        )
        return inner, trainer, "[CLS]"
