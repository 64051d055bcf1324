"""Gradients of a prompt's metric with respect to activations, in one backward pass for all of them.

The run is the unpatched one, or one on the way from it to the other: with inputs, or one activation, in between.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.base.errors import ArgumentError
from pellucid.hooked_transformer import HookedTransformer
from pellucid.hooks.edits import Edit, Replace
from pellucid.hooks.names import layer_of
from pellucid.patching.plainly import AtPoint

Measure = Callable[[Tensor], Tensor]
"""Logits ``[1 row d_vocab]`` to the metric ``[1]``."""


class Tap(AtPoint):
    """Keeps an activation where it stands in the graph."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.kept = torch.empty(0)

    def apply(self, x: Tensor) -> Tensor:
        """The activation, kept."""
        self.kept = x.view_as(x) if x.requires_grad else x.detach().clone().requires_grad_()  # the stream may go by it
        return self.kept


class Dropped(AtPoint):
    """Stops the gradient of what a layer writes, while that layer is dropped."""

    def __init__(self, name: str, drop: "Drop") -> None:
        super().__init__(name)
        self.drop = drop

    def apply(self, x: Tensor) -> Tensor:
        """The same activation; its gradient is stopped on the way back."""
        x = x.clone() if x.requires_grad else x.detach().clone().requires_grad_()
        layer = layer_of(self.name)
        x.register_hook(lambda gradient: torch.zeros_like(gradient) if self.drop.layer == layer else None)
        return x


class Drop:
    """Which layer is dropped, if any."""

    layer: int | None = None


class Gradients:
    """Values of activations of one run, and gradients of its metric.

    Args:
        model: Of which.
        measure: Makes the metric of logits.
        rows: Positions of the metric's logits; None for all.
    """

    def __init__(self, model: HookedTransformer, measure: Measure, rows: Sequence[int] | None) -> None:
        self.model, self.measure = model, measure
        self.where: dict[str, Any] = {} if rows is None else {"logits_at": list(rows)}

    def of(
        self,
        x: Tensor,
        points: Sequence[str],
        *,
        edits: Sequence[Edit] = (),
        start_at_layer: int | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, Float[Tensor, "1 ..."]]]:
        """Values and gradients at some points.

        Args:
            x: Token ids ``[1 pos]``, or the stream at `start_at_layer`.
            points: Full names.
            edits: Made in this run, before it is looked at.
            start_at_layer: Where it begins.
        """
        values, [found] = self._run(x, [Tap(name) for name in points], edits, start_at_layer, [None], Drop())
        return values, found

    def dropped(
        self, x: Tensor, points: Sequence[str], *, edits: Sequence[Edit] = ()
    ) -> tuple[dict[str, Tensor], list[dict[str, Float[Tensor, "1 ..."]]]]:
        """Values, and gradients for each layer whose attention and MLP pass none back: one backward pass a layer."""
        drop = Drop()
        writes = [name for name in self.model.hook_names if name.endswith(("hook_attn_out", "hook_mlp_out"))]
        edits = [*edits, *(Dropped(name, drop) for name in writes if name not in points)]
        behind = [Dropped(name, drop) for name in writes if name in points]
        taps = [Tap(name) for name in points]
        layers = range(self.model.config.n_layers)
        return self._run(x, [*taps, *behind], edits, None, list(layers), drop)

    def _run(
        self,
        x: Tensor,
        placed: Sequence[AtPoint],
        edits: Sequence[Edit],
        start_at_layer: int | None,
        layers: Sequence[int | None],
        drop: Drop,
    ) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
        where: dict[str, Any] = self.where | ({} if start_at_layer is None else {"start_at_layer": start_at_layer})
        with torch.enable_grad():
            logits = self.model.run(x, edits=[*edits, *placed], padding_side="right", **where).logits
            metric = self.measure(logits).sum()
        if not metric.requires_grad:
            raise ArgumentError(
                "the metric must have a gradient, as logits, their differences, log-probabilities and KL have, got one "
                "without; take one of these"
            )
        taps = [tap for tap in placed if isinstance(tap, Tap)]
        found = []
        for number, layer in enumerate(layers):
            drop.layer = layer
            gradients = torch.autograd.grad(
                metric, [tap.kept for tap in taps], retain_graph=number + 1 < len(layers), allow_unused=True
            )
            pairs = zip(taps, gradients, strict=True)
            found.append({tap.name: torch.zeros_like(tap.kept) if g is None else g for tap, g in pairs})
        return {tap.name: tap.kept.detach() for tap in taps}, found


def between(old: Mapping[str, Tensor], new: Mapping[str, Tensor], share: float) -> list[Edit]:
    """Edits that put inputs on their way from one run to the other."""
    return [Replace(old[name] + share * (new[name] - old[name]), name) for name in old]
