"""How a model knows where a token stands: learned vectors, rotary angles, or not at all.

A scheme is a configuration type and, where it needs one, a class. Learned positions enter at the embedding. The others
leave the stream alone and enter each attention layer: rotary angles between `hook_q` and `hook_rot_q`, shortformer
vectors before `hook_q`; a `Placing` is what one run has of either.
"""

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pellucid.hooks.point import Part
from pellucid.hooks.run import LiveRun


@dataclass(frozen=True, kw_only=True)
class Learned:
    """A trained vector for each position, added to the embedding."""


@dataclass(frozen=True, kw_only=True)
class Rotary:
    """Queries and keys are turned by angles that grow with the position (Su et al. 2021).

    Args:
        base: Of the geometric series of frequencies.
        dim: How many of a head's dimensions are turned, the first ones; None for all. The first half of these is paired
            with the second half.
    """

    base: float = 10000.0
    dim: int | None = None


@dataclass(frozen=True, kw_only=True)
class Shortformer:
    """A trained vector for each position, added behind the norm to what queries and keys read (Press et al. 2021).

    The stream, and so what heads move, knows of no position.

    Args:
        layers: Only the first so many layers are told; None: all. Whatever looks at positions then lies there.
    """

    layers: int | None = None


PositionConfig: TypeAlias = Learned | Rotary | Shortformer | None


class Rotation(NamedTuple):
    """The angles by which queries and keys are turned."""

    cos: Float[Tensor, "*rows 1 dim"]
    sin: Float[Tensor, "*rows 1 dim"]

    def reaches(self, layer: int) -> bool:
        """Whether it is so in a layer."""
        return True

    def read(self, x: Tensor) -> Tensor:
        """What queries and keys are made of: the normalised stream."""
        return x

    def turned(self, x: Float[Tensor, "*rows heads d_head"]) -> Float[Tensor, "*rows heads d_head"]:
        """Queries or keys where they stand."""
        return rotate(x, *self)


class Added(NamedTuple):
    """The vectors that join what queries and keys are made of."""

    vectors: Float[Tensor, "*rows d_model"]
    layers: int | None
    """Only in the first so many layers; None: in all."""

    def reaches(self, layer: int) -> bool:
        """Whether it is so in a layer."""
        return self.layers is None or layer < self.layers

    def read(self, x: Tensor) -> Tensor:
        """The normalised stream with the vectors, `[*rows d_model]`, or with a head axis before `d_model`."""
        return x + (self.vectors if x.ndim == self.vectors.ndim else self.vectors.unsqueeze(-2))

    def turned(self, x: Float[Tensor, "*rows heads d_head"]) -> Float[Tensor, "*rows heads d_head"]:
        """Queries or keys, which stand where they stand already."""
        return x


Placing: TypeAlias = Rotation | Added
"""How queries and keys come to know where they stand."""


class PosEmbed(Part):
    """`W_pos` `[n_ctx d_model]`, of `Learned` and `Shortformer`."""

    def __init__(self, n_ctx: int, d_model: int) -> None:
        super().__init__()
        self.W_pos = nn.Parameter(torch.empty(n_ctx, d_model))

    def forward(
        self, positions: Int[Tensor, "batch pos"], run: LiveRun | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        """The vectors of some positions."""
        return nn.functional.embedding(positions, self.W_pos)

    def between(self, first: int, last: int) -> Float[Tensor, "1 pos d_model"]:
        """The vectors of neighbouring positions, without a copy."""
        return self.W_pos[first:last].unsqueeze(0)


class RotaryTable:
    """Cosines and sines of all angles up to the longest position seen; a cache, made anew where it is needed."""

    def __init__(self, d_head: int, config: Rotary) -> None:
        self.config = config
        self.dim = config.dim or d_head
        self._table: tuple[Tensor, Tensor, bool] | None = None
        """Cosines, sines, and whether gradients may pass them: what inference mode made they refuse."""

    def between(self, first: int, last: int, like: Tensor) -> Rotation:
        """(cos, sin), each `[1 pos 1 dim]`, of neighbouring positions, in max(dtype of `like`, float32)."""
        cos, sin = self._upto(last, like)
        return Rotation(cos[None, first:last, None], sin[None, first:last, None])

    def at(self, positions: Int[Tensor, "*rows"], n_ctx: int, like: Tensor) -> Rotation:
        """(cos, sin), each `[*rows 1 dim]`, of any positions below `n_ctx`."""
        cos, sin = self._upto(n_ctx, like)
        return Rotation(cos[positions, None], sin[positions, None])

    def _upto(self, last: int, like: Tensor) -> tuple[Tensor, Tensor]:
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        if self._table is not None:
            cos, sin, with_grad = self._table
            fits = len(cos) >= last and cos.dtype == dtype and cos.device == like.device
            if fits and (with_grad or not torch.is_grad_enabled()):
                return cos, sin
        length = 1 << (last - 1).bit_length()
        steps = torch.arange(0, self.dim, 2, dtype=torch.float32, device=like.device) / self.dim
        frequencies = (1.0 / self.config.base**steps).to(dtype)
        angles = torch.arange(length, dtype=dtype, device=like.device)[:, None] * frequencies
        angles = torch.cat([angles, angles], dim=-1)
        cos, sin = angles.cos(), angles.sin()
        self._table = cos, sin, torch.is_grad_enabled()
        return cos, sin


def rotate(
    x: Float[Tensor, "*rows heads d_head"],
    cos: Float[Tensor, "*#rows 1 dim"],
    sin: Float[Tensor, "*#rows 1 dim"],
) -> Float[Tensor, "*rows heads d_head"]:
    """Turns each pair of a head's dimensions by its angle; dimensions past `dim` stay."""
    dim = cos.shape[-1]
    turned, kept = x[..., :dim], x[..., dim:]
    wide = turned.to(cos.dtype)
    first, second = wide.chunk(2, dim=-1)
    out = (wide * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)
    return out if kept.shape[-1] == 0 else torch.cat([out, kept], dim=-1)
