"""Normalisation of the residual stream: LayerNorm, RMSNorm, or none.

Each has a fused form for plain runs and an explicit one, with its hook points, for runs that listen inside.
Statistics are taken in max(dtype, float32).
"""

from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.base.errors import ConfigError
from pellucid.hooks.point import HookPoint, Part, at, watched
from pellucid.hooks.run import LiveRun


@dataclass(frozen=True, kw_only=True)
class LayerNorm:
    """`(x − mean) / √(variance + eps) · w + b`.

    Args:
        eps: Added to the variance.
        affine: Whether there are `w` and `b`; folding them into what reads the norm takes them away.
    """

    eps: float = 1e-5
    affine: bool = True


@dataclass(frozen=True, kw_only=True)
class RMSNorm:
    """`x / √(mean(x²) + eps) · w`.

    Args:
        eps: Added to the mean square.
        affine: Whether there is `w`.
    """

    eps: float = 1e-5
    affine: bool = True


NormConfig: TypeAlias = LayerNorm | RMSNorm | None


def widened(x: Tensor) -> Tensor:
    """In max(dtype, float32)."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


class Norm(Part):
    """A norm, whatever its kind."""

    def finished(self, normalized: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """What the norm gives for what passed `hook_normalized`."""
        return normalized

    def scale(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows 1"]:
        """What the norm divides by."""
        return torch.ones_like(x[..., :1])

    def held(
        self, x: Float[Tensor, "*rows d_model"], scale: Float[Tensor, "*#rows 1"]
    ) -> Float[Tensor, "*rows d_model"]:
        """The stream, divided by a scale that is not its own."""
        return x / scale


class LayerNormPart(Norm):
    """LayerNorm with its points: `hook_scale` `[batch pos 1]`, and `hook_normalized`, which lies after `w` and `b`."""

    def __init__(self, d_model: int, config: LayerNorm) -> None:
        super().__init__()
        self.eps = config.eps
        self.w = nn.Parameter(torch.ones(d_model)) if config.affine else None
        self.b = nn.Parameter(torch.zeros(d_model)) if config.affine else None
        self.hook_scale = HookPoint()
        self.hook_normalized = HookPoint()

    def forward(self, x: Float[Tensor, "*rows d_model"], run: LiveRun | None = None) -> Float[Tensor, "*rows d_model"]:
        """The stream, normalised."""
        if not watched(run, self.hook_scale, self.hook_normalized):
            return F.layer_norm(x, x.shape[-1:], self.w, self.b, self.eps)
        return at(self.hook_normalized, self.held(x, at(self.hook_scale, self.scale(x), run)), run)

    def scale(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows 1"]:
        """What the norm divides by."""
        return (_centred(x).square().mean(-1, keepdim=True) + self.eps).sqrt()

    def held(
        self, x: Float[Tensor, "*rows d_model"], scale: Float[Tensor, "*#rows 1"]
    ) -> Float[Tensor, "*rows d_model"]:
        """The stream, divided by a scale that is not its own."""
        out = _centred(x) / scale
        if self.w is not None and self.b is not None:
            out = out * self.w + self.b
        return out.to(x.dtype)


def _centred(x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
    wide = widened(x)
    return wide - wide.mean(-1, keepdim=True)


class RMSNormPart(Norm):
    """RMSNorm with its points: `hook_scale` `[batch pos 1]`, and `hook_normalized`, which lies before `w`."""

    def __init__(self, d_model: int, config: RMSNorm) -> None:
        super().__init__()
        self.eps = config.eps
        self.w = nn.Parameter(torch.ones(d_model)) if config.affine else None
        self.hook_scale = HookPoint()
        self.hook_normalized = HookPoint()

    def forward(self, x: Float[Tensor, "*rows d_model"], run: LiveRun | None = None) -> Float[Tensor, "*rows d_model"]:
        """The stream, normalised."""
        if not watched(run, self.hook_scale, self.hook_normalized):
            return F.rms_norm(x, x.shape[-1:], self.w, self.eps)
        scale = at(self.hook_scale, self.scale(x), run)
        return self.finished(at(self.hook_normalized, (widened(x) / scale).to(x.dtype), run))

    def scale(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows 1"]:
        """What the norm divides by."""
        return (widened(x).square().mean(-1, keepdim=True) + self.eps).sqrt()

    def held(
        self, x: Float[Tensor, "*rows d_model"], scale: Float[Tensor, "*#rows 1"]
    ) -> Float[Tensor, "*rows d_model"]:
        """The stream, divided by a scale that is not its own."""
        return self.finished((widened(x) / scale).to(x.dtype))

    def finished(self, normalized: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """What the norm gives for what passed `hook_normalized`."""
        return normalized if self.w is None else normalized * self.w


class NoNorm(Norm):
    """The stream as it is: a model without normalisation."""

    def forward(self, x: Tensor, run: LiveRun | None = None) -> Tensor:
        """The stream as it is."""
        return x


def make_norm(d_model: int, config: NormConfig) -> Norm:
    """The norm that a configuration describes.

    Raises:
        ConfigError: It describes none that is known.
    """
    match config:
        case LayerNorm():
            return LayerNormPart(d_model, config)
        case RMSNorm():
            return RMSNormPart(d_model, config)
        case None:
            return NoNorm()
    raise ConfigError(f"norm must be LayerNorm(...), RMSNorm(...) or None, got {config!r}")
