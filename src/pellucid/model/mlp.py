"""The MLP of a block: plain or gated."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.base.errors import ConfigError, nearest
from pellucid.hooks.point import HookPoint, Part, at, watched
from pellucid.hooks.run import LiveRun
from pellucid.model.linear import gelu_tanh, linear


def quick_gelu(x: Tensor) -> Tensor:
    """`x · sigmoid(1.702 x)`."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_new": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
}
"""By the names that checkpoints use: `gelu` is the exact form."""


@dataclass(frozen=True, kw_only=True)
class MLPConfig:
    """The MLP of a block.

    Args:
        d_mlp: Number of neurons.
        act: Name of the activation function, one of `ACTIVATIONS`.
        gated: `act(x W_gate) · (x W_in)` instead of `act(x W_in)`.
        bias: Whether there are `b_in`, `b_out` (and `b_gate`).

    Raises:
        ConfigError: A value cannot be.
    """

    d_mlp: int
    act: str = "gelu_new"
    gated: bool = False
    bias: bool = True

    def __post_init__(self) -> None:
        if self.d_mlp < 1:
            raise ConfigError(f"d_mlp must be 1 or more, got {self.d_mlp}; leave the MLP out with mlp=None")
        if self.act not in ACTIVATIONS:
            raise ConfigError(f"act must be a known activation, got {self.act!r}{nearest(self.act, ACTIVATIONS)}")


class MLP(Part):
    """`act(x W_in + b_in) W_out + b_out`, or gated: `(act(x W_gate + b_gate) · (x W_in + b_in)) W_out + b_out`.

    Points: `hook_pre` (what the activation function reads), `hook_pre_linear` (the ungated side of a gated MLP),
    `hook_post` (what W_out reads).
    """

    def __init__(self, d_model: int, config: MLPConfig) -> None:
        super().__init__()
        self.act = ACTIVATIONS[config.act]
        self.W_in = nn.Parameter(torch.empty(d_model, config.d_mlp))
        self.W_out = nn.Parameter(torch.empty(config.d_mlp, d_model))
        self.b_in = nn.Parameter(torch.zeros(config.d_mlp)) if config.bias else None
        self.b_out = nn.Parameter(torch.zeros(d_model)) if config.bias else None
        self.hook_pre = HookPoint()
        self.W_gate, self.b_gate = None, None
        if config.gated:
            self.W_gate = nn.Parameter(torch.empty(d_model, config.d_mlp))
            self.b_gate = nn.Parameter(torch.zeros(config.d_mlp)) if config.bias else None
            self.hook_pre_linear = HookPoint()
        self.hook_post = HookPoint()

    def forward(self, x: Float[Tensor, "*rows d_model"], run: LiveRun | None = None) -> Float[Tensor, "*rows d_model"]:
        """What the MLP writes."""
        return linear(at(self.hook_post, self.neurons(x, run), run), self.W_out.T, self.b_out)

    def neurons(self, x: Float[Tensor, "*rows d_model"], run: LiveRun | None = None) -> Float[Tensor, "*rows d_mlp"]:
        """The neurons' activations, before `hook_post`."""
        if self.W_gate is None:
            return self._active(x, self.W_in, self.b_in, run)
        gate = self._active(x, self.W_gate, self.b_gate, run)
        return gate * at(self.hook_pre_linear, linear(x, self.W_in.T, self.b_in), run)

    def _active(self, x: Tensor, W: Tensor, b: Tensor | None, run: LiveRun | None) -> Tensor:
        """The activation function of what passes `hook_pre`; in one step where nobody listens there."""
        if watched(run, self.hook_pre):
            return self.act(at(self.hook_pre, linear(x, W.T, b), run))
        return linear(x, W.T, b, self.act)

    def activated(
        self, pre: Float[Tensor, "*rows d_mlp"], pre_linear: Float[Tensor, "*rows d_mlp"] | None = None
    ) -> Float[Tensor, "*rows d_mlp"]:
        """The neurons' activations from what passed `hook_pre` and, in a gated MLP, `hook_pre_linear`."""
        post = self.act(pre)
        return post if pre_linear is None else post * pre_linear
