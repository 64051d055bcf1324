"""A decoder with a tokenizer: text to tokens and back, as everybody calls it.

The only place, with `hooked_transformer`, where text and model meet.
"""

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.base.errors import ArgumentError, MisreadWarning, TokenError
from pellucid.model.config import Config
from pellucid.model.decoder import Decoder
from pellucid.text.batch import Encoded
from pellucid.text.policy import TextPolicy, padding_mask
from pellucid.text.tokenizer import Tokenizer

Side = Literal["left", "right"] | None


class Prompts(Decoder):
    """Adds the tokenizer to the decoder.

    Args:
        config: What the model looks like.
        tokenizer: A `Tokenizer`, or a function without arguments that reads one (or gives None) when it is first
            needed.
        seed: Of fresh weights.
    """

    def __init__(
        self,
        config: Config,
        tokenizer: Tokenizer | Callable[[], Tokenizer | None] | None = None,
        *,
        seed: int | None = None,
    ) -> None:
        super().__init__(config, seed=seed)
        self._tokenizer = checked(tokenizer)
        self._policy_changes: dict[str, Any] = {}

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer, read when it is first needed; None if the model came without one."""
        if not isinstance(self._tokenizer, Tokenizer) and self._tokenizer is not None:
            found = self._tokenizer()
            self._tokenizer = None if found is None else with_policy(found, **self._policy_changes)
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = checked(tokenizer)

    @property
    def policy(self) -> TextPolicy | None:
        """BOS and padding policy of the tokenizer; None without one."""
        return None if self.tokenizer is None else self.tokenizer.policy

    def encoded(
        self,
        texts: str | Sequence[str],
        *,
        prepend_bos: bool | None = None,
        padding_side: Side = None,
        truncate: bool = True,
    ) -> Encoded:
        """Tokens `[batch pos]` of some texts on the model's device, and the mask that tells them from padding.

        Args:
            texts: One text a row.
            prepend_bos: None: as the policy says.
            padding_side: None: as the policy says.
            truncate: Cut what is longer than the model's context, with a warning.

        Raises:
            TokenError: The texts cannot be encoded, or the model has no tokenizer.
        """
        tokenizer = self._needed_tokenizer()
        texts = [texts] if isinstance(texts, str) else list(texts)
        found = tokenizer.tokens(texts, prepend_bos=prepend_bos, padding_side=padding_side)
        if truncate and found.tokens.shape[1] > self.config.n_ctx:
            warnings.warn(
                f"the longest text has {found.tokens.shape[1]} tokens; texts were cut at n_ctx={self.config.n_ctx}",
                MisreadWarning,
                stacklevel=3,
            )
            found = tokenizer.tokens(texts, prepend_bos=prepend_bos, padding_side=padding_side, n_ctx=self.config.n_ctx)
        return Encoded(tokens=found.tokens.to(self.device), mask=found.mask.to(self.device))

    def to_tokens(
        self,
        input: str | Sequence[str],
        prepend_bos: bool | None = None,
        padding_side: Side = None,
        move_to_device: bool = True,
        truncate: bool = True,
    ) -> Int[Tensor, "batch pos"]:
        """Token ids of a text or several, with BOS in front as the policy says, the shorter rows padded.

        Raises:
            TokenError: BOS would stand twice, or the text cannot be encoded.
        """
        tokens = self.encoded(input, prepend_bos=prepend_bos, padding_side=padding_side, truncate=truncate).tokens
        return tokens if move_to_device else tokens.cpu()

    def to_string(self, tokens: Any) -> str | list[str]:
        """The text of one row of ids `[pos]`, or a list for `[batch pos]`."""
        ids = as_ids(tokens)
        tokenizer = self._needed_tokenizer()
        if ids.ndim > 2:
            raise ArgumentError(f"tokens must be [pos] or [batch pos], got {list(ids.shape)}")
        return tokenizer.batch_decode(ids) if ids.ndim == 2 else tokenizer.decode(ids.reshape(-1))

    def to_str_tokens(
        self, input: Any, prepend_bos: bool | None = None, padding_side: Side = None
    ) -> list[str] | list[list[str]]:
        """Each token as a string, leading space included.

        Args:
            input: A text, a list of texts (a list for each), or ids `[pos]` or `[1 pos]`.
            prepend_bos: For text; None: as the policy says.
            padding_side: Each text is taken alone, so that nothing is padded.

        Raises:
            ArgumentError: Ids of several prompts.
        """
        if isinstance(input, str):
            return self._needed_tokenizer().strings(self.to_tokens(input, prepend_bos, truncate=False)[0])
        if isinstance(input, list | tuple) and input and isinstance(input[0], str):
            return [self.to_str_tokens(text, prepend_bos) for text in input]  # type: ignore[misc]
        return self._needed_tokenizer().strings(_one_row(input))

    def to_single_token(self, string: str) -> int:
        """The id of a text that is exactly one token.

        Raises:
            TokenError: It is not; the error shows the pieces.
        """
        return self._needed_tokenizer().single(string)

    def to_single_str_token(self, int_token: int) -> str:
        """The text of one id."""
        return self._needed_tokenizer().strings([int(int_token)])[0]

    def get_token_position(
        self,
        single_token: str | int,
        input: Any,
        mode: Literal["first", "last"] = "first",
        prepend_bos: bool | None = None,
        padding_side: Side = None,
    ) -> int:
        """Where a token stands in a prompt.

        Args:
            single_token: A text that is one token, or an id.
            input: A text, or ids `[pos]` or `[1 pos]`.
            mode: The first or the last time that it stands there.
            prepend_bos: For text; None: as the policy says.
            padding_side: One prompt is never padded.

        Raises:
            TokenError: The token is not there.
        """
        ids = _one_row(self.to_tokens(input, prepend_bos) if isinstance(input, str) else input)
        wanted = self.to_single_token(single_token) if isinstance(single_token, str) else int(single_token)
        found = (ids == wanted).nonzero()[:, 0].tolist()
        if mode not in ("first", "last"):
            raise ArgumentError(f"mode must be 'first' or 'last', got {mode!r}")
        if not found:
            shown = self._needed_tokenizer().strings(ids)
            raise TokenError(
                f"the token {single_token!r} must occur in the prompt, which is {shown}; look at its pieces"
            )
        return found[0 if mode == "first" else -1]

    def tokens_to_residual_directions(self, tokens: Any) -> Float[Tensor, "*shape d_model"]:
        """The direction in the residual stream that writes for each token: its column of `W_U`.

        Args:
            tokens: A text that is one token, an id, or ids of any shape; a single id gives `[d_model]`.

        Raises:
            TokenError: An id lies outside the vocabulary.
        """
        ids = as_ids(self.to_single_token(tokens) if isinstance(tokens, str) else tokens, self.device)
        outside = ids[(ids < 0) | (ids >= self.config.vocab_out)].tolist()
        if outside:
            raise TokenError(f"token ids must lie in 0..{self.config.vocab_out - 1}, got {outside[0]}")
        return self.W_U.T[ids] if ids.numel() != 1 else self.W_U[:, int(ids)]

    def real_tokens(
        self, tokens: Int[Tensor, "batch pos"], padding_side: Side = None, prepend_bos: bool | None = None
    ) -> Tensor | None:
        """Which of some ids are no padding, as far as the ids tell; None where there is nothing to tell."""
        if self._tokenizer is None or self.policy is None:
            return None
        return padding_mask(tokens, self.policy, padding_side, prepend_bos=prepend_bos)

    def _needed_tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise TokenError(
                "text needs a tokenizer, and this model came without one; give token ids, or set model.tokenizer"
            )
        return self.tokenizer


def checked(tokenizer: Any) -> Any:
    """A tokenizer, None, or a function that reads one.

    Raises:
        ArgumentError: It is none of these, such as a tokenizer of transformers, which can be called too.
    """
    reads = callable(tokenizer) and not hasattr(tokenizer, "encode")
    if tokenizer is None or isinstance(tokenizer, Tokenizer) or reads:
        return tokenizer
    raise ArgumentError(
        f"tokenizer must be a pellucid Tokenizer, got {type(tokenizer).__name__}; "
        "pellucid.text.read.read_tokenizer(folder) reads the same files"
    )


def with_policy(tokenizer: Tokenizer, **changes: Any) -> Tokenizer:
    """The same tokenizer under a changed policy; the one given stays as it is."""
    other = copy.copy(tokenizer)
    other.policy = replace(tokenizer.policy, **changes)
    return other


def as_ids(tokens: Any, device: torch.device | str | None = None) -> Int[Tensor, "..."]:
    """Token ids as whole numbers, whatever form they are given in.

    Raises:
        ArgumentError: They are no numbers, no whole ones, or rows of several lengths.
    """
    try:
        ids = tokens if isinstance(tokens, Tensor) else torch.as_tensor(np.asarray(tokens))
    except (ValueError, TypeError) as error:
        raise ArgumentError(
            f"tokens must be ids, in rows of one length, got {tokens!r}; to_tokens makes ids of text and pads rows"
        ) from error
    if (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool) and ids.numel():
        raise ArgumentError(
            f"tokens must be ids, which are whole numbers, got {ids.dtype} {list(ids.shape)}; a residual stream goes "
            "together with start_at_layer"
        )
    return ids.to(device=device, dtype=torch.long)


def _one_row(tokens: Any) -> Tensor:
    ids = as_ids(tokens)
    ids = ids[0] if ids.ndim == 2 and len(ids) == 1 else ids
    if ids.ndim > 1:
        raise ArgumentError(f"tokens must be ids of one prompt, [pos] or [1 pos], got {list(ids.shape)}")
    return ids.reshape(-1)
