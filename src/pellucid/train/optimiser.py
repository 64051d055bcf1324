"""What moves the weights: AdamW, its weight decay only where it belongs."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from pellucid.base.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Optimiser:
    """AdamW (Loshchilov and Hutter 2019), in its fused form where there is one.

    Args:
        lr: The highest learning rate.
        betas: Decay of the means of the gradient and of its square.
        eps: Added to the root of the latter.
        weight_decay: Taken off a weight at each step, times the learning rate.
        decayed: From which weights: ``"matrices"``: those that multiply (`W_…`), not biases and norms;
            ``"positions"``: the position embedding `W_pos` alone; ``"everything"``.
        clip: The longest gradient, over all weights; longer ones are shortened. "none": as it is.

    Raises:
        ConfigError: A value cannot be.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decayed: Literal["matrices", "positions", "everything"] = "matrices"
    clip: float | None = 1.0

    def __post_init__(self) -> None:
        for name, value in (("lr", self.lr), ("eps", self.eps), ("clip", self.clip)):
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"{name} must be above 0, got {value}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"betas must lie from 0 to below 1, got {self.betas}")
        if not 0 <= self.weight_decay < float("inf"):
            raise ConfigError(f"weight_decay must be 0 or more, got {self.weight_decay}")

    def made(self, model: nn.Module) -> torch.optim.AdamW:
        """The optimiser of those weights of a model that are not frozen.

        Raises:
            ConfigError: All are frozen; or the position embedding is to decay, and the model has none.
        """
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not named:
            raise ConfigError("a model must have some weights to train, and all of them are frozen; freeze less")
        decaying = [p for name, p in named.items() if self._decays(name)]
        others = [p for name, p in named.items() if not self._decays(name)]
        if self.weight_decay and not decaying:
            raise ConfigError(
                f"weight_decay={self.weight_decay} needs weights to act on, and decayed={self.decayed!r} names none of "
                "this model; choose others, or set weight_decay=0"
            )
        groups = [(decaying, self.weight_decay), (others, 0.0)]
        made = [{"params": params, "weight_decay": decay} for params, decay in groups if params]
        return torch.optim.AdamW(made, lr=self.lr, betas=self.betas, eps=self.eps, fused=True)

    def _decays(self, name: str) -> bool:
        last = name.rsplit(".", 1)[-1]
        if self.decayed == "positions":
            return last == "W_pos"
        return self.decayed == "everything" or last.startswith("W_")
