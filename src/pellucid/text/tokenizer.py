"""Text to token ids and back.

A thin shell around `tokenizers`: what people call on a tokenizer of Hugging Face, and beside it what Pellucid
itself uses, which adds no token but the BOS that the policy asks for.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pellucid.base.errors import ArgumentError, TokenError
from pellucid.base.files import written_aside
from pellucid.text import pieces
from pellucid.text.batch import BatchEncoding, Encoded, batch_encoding, padded
from pellucid.text.pieces import Ids, as_ids
from pellucid.text.policy import Side, TextPolicy, checked_side

if TYPE_CHECKING:
    import tokenizers

_SPACES = [(f" {mark}", mark) for mark in ".?!,"] + [(" ' ", "'")]
_SPACES += [(f" {ending}", ending) for ending in ("n't", "'m", "'s", "'ve", "'re")]

_NO_LIMIT = 10**9
"""Configurations write a huge number for "no limit"."""


class Tokenizer:
    """Text to token ids and back, by a vocabulary and a `TextPolicy`.

    Args:
        inner: The tokenizer of the `tokenizers` library. Its own padding and truncation are switched off.
        policy: BOS, padding and special tokens.
        name_or_path: Where it came from.
        settings: What `tokenizer_config.json` says besides; `save` writes it again.

    Raises:
        TokenError: The policy names an id that is not in the vocabulary.

    Example:
        >>> from pellucid.text.vocabulary import integer_vocabulary
        >>> tokenizer = integer_vocabulary(64)
        >>> tokenizer.tokens(["5 12 7", "9"]).tokens.tolist()
        [[0, 5, 12, 7], [0, 9, 0, 0]]
    """

    def __init__(
        self,
        inner: "tokenizers.Tokenizer",
        policy: TextPolicy,
        *,
        name_or_path: str = "",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        for i in sorted(policy.special_ids) + ([] if policy.unk_id is None else [policy.unk_id]):
            if inner.id_to_token(i) is None:
                raise TokenError(
                    f"the policy's ids must be in the vocabulary, {i} is not among its "
                    f"{inner.get_vocab_size()} tokens; give ids of this vocabulary."
                )
        inner.no_padding()
        inner.no_truncation()
        self.inner = inner
        self.policy = policy
        self.name_or_path = name_or_path
        self.settings = dict(settings or {})

    # What Pellucid uses

    def tokens(
        self,
        texts: Sequence[str],
        *,
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
        n_ctx: int | None = None,
    ) -> Encoded:
        """A padded batch of token ids, with BOS in front as the policy or the call says, and nothing else.

        Args:
            texts: One text a row; a string alone is one row.
            prepend_bos: None: as the policy says.
            padding_side: None: as the policy says.
            n_ctx: Rows are cut to this many tokens, BOS included; None: never.

        Returns:
            ``[batch pos]`` ids and mask.

        Raises:
            TokenError: BOS is asked for and there is none; a text begins with the BOS that is put in front; a
                text without any token; a text that the vocabulary cannot take.
            ArgumentError: No text, `n_ctx` below 1, or a side that is none.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not texts:
            raise ArgumentError("at least one text must be given, got none.")
        if n_ctx is not None and n_ctx < 1:
            raise ArgumentError(f"n_ctx must be at least 1, got {n_ctx}.")
        front = self._front(prepend_bos)
        rows = [front + encoding.ids for encoding in pieces.encoded(self.inner, texts)]
        for text, row in zip(texts, rows, strict=True):
            self._check_row(text, row, front)
        side = self.padding_side if padding_side is None else padding_side
        return padded([row[:n_ctx] for row in rows], pad_id=self.policy.pad_id, side=side)

    def strings(self, ids: Ids) -> list[str]:
        r"""The text of each token as it stands in the midst of a sentence, its leading space included.

        Args:
            ids: One row of token ids.

        Returns:
            A string for each id. Special tokens give their own name, as do those of vocabularies that are
            decoded by joining names (WordPiece, numbers). Bytes that are no whole character give ``\ufffd``.
            An id that the vocabulary lacks (models are often padded with such) reads ``<id 50300>``.

        Raises:
            ArgumentError: More than one row.
            TokenError: An id below 0.
        """
        return pieces.strings(self.inner, as_ids(ids))

    def single(self, text: str) -> int:
        """The one token that `text` is: in the midst of a sentence, else at the start of a text.

        ``single(strings([i])[0])`` is `i` for every token that the tokenizer can make from its own text.

        Raises:
            TokenError: `text` is several tokens, none, or not in the vocabulary; the pieces are shown.
        """
        return pieces.single(self.inner, text, unk_id=self.policy.unk_id)

    def _front(self, prepend_bos: bool | None) -> list[int]:
        wanted = self.policy.prepend_bos if prepend_bos is None else prepend_bos
        if wanted and self.policy.bos_id is None:
            raise TokenError("prepend_bos=True needs a BOS token, and this tokenizer has none; pass prepend_bos=False.")
        return [self.policy.bos_id] if wanted and self.policy.bos_id is not None else []

    def _check_row(self, text: str, row: list[int], front: list[int]) -> None:
        if not row:
            raise TokenError(
                f"a text without BOS must have at least one token, {text!r} has none; give some text, or "
                "prepend_bos=True."
            )
        if front and row[1:2] == front:
            shown = pieces.strings(self.inner, row[:8]) + (["…"] if len(row) > 8 else [])
            raise TokenError(
                f"BOS must stand once, and the text begins with it already: {shown}; "
                f"pass prepend_bos=False, or leave {self.bos_token!r} out of the text."
            )

    # What people call on any tokenizer

    def __call__(
        self,
        text: str | Sequence[str],
        *,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
    ) -> BatchEncoding:
        """Token ids and attention mask, as a tokenizer of Hugging Face gives them.

        Args:
            text: A text or several.
            add_special_tokens: With what the tokenizer adds of itself (Llama's adds BOS, GPT-2's nothing).
            padding: False, True or "longest", or "max_length".
            truncation: True cuts each text to `max_length`, added tokens included.
            max_length: None: the settings' `model_max_length`, if any.
            return_tensors: None for lists, "pt" for torch, "np" for numpy.

        Raises:
            ArgumentError: An option that does not exist, a length that is needed and not known, or rows of
                different length as one tensor.
            TokenError: A text that the vocabulary cannot take.
        """
        _check_choice("padding", padding, (False, True, "longest", "max_length", "do_not_pad"))
        _check_choice("truncation", truncation, (False, True, "longest_first", "only_first", "do_not_truncate"))
        _check_choice("return_tensors", return_tensors, (None, "pt", "np"))
        cut = truncation not in (False, "do_not_truncate")
        if max_length is not None and not cut and padding != "max_length":
            raise ArgumentError(
                f'max_length={max_length} serves truncation=True or padding="max_length"; give one of them.'
            )
        limit = self._limit(max_length) if cut or padding == "max_length" else None
        rows = self._rows([text] if isinstance(text, str) else text, add_special_tokens, limit if cut else None)
        batch = None
        if padding not in (False, "do_not_pad"):
            width = limit if padding == "max_length" and limit else 0
            batch = padded(rows, pad_id=self.policy.pad_id, side=self.padding_side, length=width)
        return batch_encoding(rows, batch, alone=isinstance(text, str), return_tensors=return_tensors)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of one text, with what the tokenizer adds of itself unless that is declined.

        Raises:
            TokenError: The vocabulary cannot take the text.
        """
        return self._rows([text], add_special_tokens, None)[0]

    def decode(self, ids: Ids, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool = False) -> str:
        """The text of one row of ids. Ids that the vocabulary lacks are left out; `strings` shows them.

        Raises:
            ArgumentError: More than one row.
            TokenError: An id below 0.
        """
        text = self.inner.decode(as_ids(ids), skip_special_tokens=skip_special_tokens)
        if clean_up_tokenization_spaces:
            for spaced, plain in _SPACES:
                text = text.replace(spaced, plain)
        return text

    def batch_decode(
        self,
        rows: Sequence[Ids] | np.ndarray | Tensor,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool = False,
    ) -> list[str]:
        """The text of each row of ids; a row may be a single id.

        Raises:
            TokenError: An id below 0.
        """
        return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces) for row in rows]

    def convert_ids_to_tokens(self, ids: Ids) -> Any:
        """The vocabulary's own name of a token (such as ``Ġthe``) or of several; None for an unknown id."""
        names = [self.inner.id_to_token(i) for i in as_ids(ids)]
        return names[0] if isinstance(ids, int) else names

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        """The id of one of the vocabulary's own names or of several; `unk_token_id` for an unknown name."""
        names = [tokens] if isinstance(tokens, str) else tokens
        ids = [self.inner.token_to_id(name) for name in names]
        ids = [self.unk_token_id if i is None else i for i in ids]
        return ids[0] if isinstance(tokens, str) else ids

    def get_vocab(self) -> dict[str, int]:
        """Every token's own name and its id, added tokens included."""
        return self.inner.get_vocab(with_added_tokens=True)

    @property
    def vocab_size(self) -> int:
        """How many tokens there are before any were added; `len` counts them all."""
        return self.inner.get_vocab_size(with_added_tokens=False)

    def __len__(self) -> int:
        """How many tokens there are, added ones included."""
        return self.inner.get_vocab_size(with_added_tokens=True)

    @property
    def padding_side(self) -> Side:
        """The policy's; assigning puts another policy in its place."""
        return self.policy.padding_side

    @padding_side.setter
    def padding_side(self, side: str) -> None:
        self.policy = replace(self.policy, padding_side=checked_side(side))

    @property
    def bos_token_id(self) -> int | None:
        """What stands before a text."""
        return self.policy.bos_id

    @property
    def eos_token_id(self) -> int | None:
        """What stands after a text."""
        return self.policy.eos_id

    @property
    def pad_token_id(self) -> int | None:
        """What fills up a batch."""
        return self.policy.pad_id

    @property
    def unk_token_id(self) -> int | None:
        """What unknown text becomes."""
        return self.policy.unk_id

    @property
    def bos_token(self) -> str | None:
        """Name of `bos_token_id`."""
        return self._name(self.policy.bos_id)

    @property
    def eos_token(self) -> str | None:
        """Name of `eos_token_id`."""
        return self._name(self.policy.eos_id)

    @property
    def pad_token(self) -> str | None:
        """Name of `pad_token_id`; assigning puts another policy in its place."""
        return self._name(self.policy.pad_id)

    @pad_token.setter
    def pad_token(self, token: str) -> None:
        pad_id = self.inner.token_to_id(token)
        if pad_id is None:
            raise TokenError(f"pad_token must be in the vocabulary, {token!r} is not; choose one that is.")
        self.policy = replace(self.policy, pad_id=pad_id)

    @property
    def unk_token(self) -> str | None:
        """Name of `unk_token_id`."""
        return self._name(self.policy.unk_id)

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, which `read_tokenizer` and transformers read.

        Raises:
            OutputError: The folder cannot be written.
        """
        # Only a special unk is declared: an ordinary token would become special for whoever reads this.
        unk = self.unk_token if self.policy.unk_id in self.policy.special_ids else None
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **self.settings,
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
            "pad_token": self.pad_token,
            "unk_token": unk,
            "padding_side": self.padding_side,
            "pellucid": {"prepend_bos": self.policy.prepend_bos, "padding_side": self.padding_side},
        }
        with written_aside(folder) as aside:
            aside.mkdir()
            (aside / "tokenizer.json").write_text(self.inner.to_str(pretty=True), encoding="utf-8")
            (aside / "tokenizer_config.json").write_text(
                json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
            )

    def __repr__(self) -> str:
        """Vocabulary, origin and policy in a line."""
        return f"Tokenizer({len(self)} tokens, name_or_path={self.name_or_path!r}, {self.policy})"

    def _name(self, token_id: int | None) -> str | None:
        return None if token_id is None else self.inner.id_to_token(token_id)

    def _limit(self, max_length: int | None) -> int:
        limit = self.settings.get("model_max_length") if max_length is None else max_length
        if limit is None or limit >= _NO_LIMIT:
            raise ArgumentError("a length must be known here, and the tokenizer names none; give max_length.")
        return int(limit)

    def _rows(self, texts: Sequence[str], add_special_tokens: bool, limit: int | None) -> list[list[int]]:
        encodings = pieces.encoded(self.inner, texts)
        if limit is not None:
            added = self.inner.num_special_tokens_to_add(False) if add_special_tokens else 0
            if limit < added:
                raise ArgumentError(f"max_length must leave room for {added} added tokens, got {limit}; raise it.")
            for encoding in encodings:
                encoding.truncate(limit - added)
        if add_special_tokens:
            encodings = [self.inner.post_process(encoding) for encoding in encodings]
        return [encoding.ids for encoding in encodings]


def _check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    if value not in choices:
        raise ArgumentError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}.")
