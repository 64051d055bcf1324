"""Into the stream and out of it: `W_E` and `W_U`, which may be one matrix."""

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pellucid.base.errors import MisreadWarning
from pellucid.hooks.point import Part
from pellucid.hooks.run import LiveRun
from pellucid.model.linear import linear


class Embed(Part):
    """`W_E` `[d_vocab d_model]`."""

    def __init__(self, d_vocab: int, d_model: int) -> None:
        super().__init__()
        self.W_E = nn.Parameter(torch.empty(d_vocab, d_model))

    def forward(
        self, tokens: Int[Tensor, "batch pos"], run: LiveRun | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        """The tokens' vectors."""
        return F.embedding(tokens, self.W_E)


class Unembed(Part):
    """`x W_U + b_U`, with `W_U` `[d_model d_vocab]`."""

    def __init__(self, d_model: int, d_vocab: int, *, bias: bool) -> None:
        super().__init__()
        self.W_U = nn.Parameter(torch.empty(d_vocab, d_model).T)
        self.b_U = nn.Parameter(torch.zeros(d_vocab)) if bias else None

    def forward(self, x: Float[Tensor, "*rows d_model"], run: LiveRun | None = None) -> Float[Tensor, "*rows d_vocab"]:
        """The logits."""
        return linear(x, self.W_U.T, self.b_U)


class TiedUnembed(Unembed):
    """An unembedding whose `W_U` is the embedding's `W_E` transposed: one Parameter, saved once.

    Assigning `W_U` unties it: from then on it is an `Unembed` with a matrix of its own, and a warning says so.
    `W_U.data = x` changes nothing, since what `W_U` gives is a view made anew each time: assign `W_U` itself.
    """

    def __init__(self, embed: Embed, *, bias: bool) -> None:
        Part.__init__(self)
        self._embed = (embed,)  # in a tuple, so that the embedding is not a submodule here too
        self.b_U = nn.Parameter(torch.zeros(embed.W_E.shape[0])) if bias else None

    @property
    def W_U(self) -> Tensor:  # type: ignore[override]
        """`W_E` transposed: a view, whose `.data` cannot be replaced; assign `W_U` itself, which unties it."""
        return self._embed[0].W_E.T

    def load(self, W_U: Tensor, *, assign: bool) -> None:
        """Takes a matrix of its own, as `load_state_dict` does: the tensor itself, or its values in our memory."""
        own = W_U if assign else torch.empty_like(self.W_U).copy_(W_U)
        self.W_U = own  # pyright: ignore[reportAttributeAccessIssue] (unties, and says so)

    def untie(self, W_U: Tensor) -> None:
        """Makes this an `Unembed` with a matrix of its own."""
        del self._embed
        self.__class__ = Unembed  # type: ignore[assignment]
        self.register_parameter("W_U", W_U if isinstance(W_U, nn.Parameter) else nn.Parameter(W_U))

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "W_U":
            return super().__setattr__(name, value)
        self.untie(value)
        warnings.warn("W_U was W_E transposed; it is now a matrix of its own", MisreadWarning, stacklevel=2)
