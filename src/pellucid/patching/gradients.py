"""Gradients of a metric with respect to activations, from the last layer down to the first.

Each layer is run once more when its turn comes: held at a time are one layer's graph, and the stream below each.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
"""Logits ``[prompt row d_vocab]`` to the metric ``[prompt]``."""
Parts = dict[str, Tensor]
"""By full name: ``[prompt ...]``, something of each element of an activation."""


class Tap(AtPoint):
    """Keeps an activation where it stands in the graph."""

    kept: Tensor | None = None
    """None until a run has come by."""

    def apply(self, x: Tensor) -> Tensor:
        """The activation, kept."""
        self.kept = x.view_as(x) if x.requires_grad else x.detach().clone().requires_grad_()  # the stream may go by it
        return self.kept


class Dropped(AtPoint):
    """Stops the gradient of what a layer writes, while that layer is dropped."""

    now = False

    def apply(self, x: Tensor) -> Tensor:
        """The same activation; its gradient is stopped on the way back."""
        x = x.clone() if x.requires_grad else x.detach().clone().requires_grad_()
        x.register_hook(lambda gradient: torch.zeros_like(gradient) if self.now else None)
        return x


@dataclass(frozen=True)
class Upward:
    """A run, layer by layer."""

    start: int
    """The layer that it began at."""
    streams: list[Tensor]
    """What each layer began with: token ids below layer 0, else the stream."""
    values: Parts
    """The activations that were asked for."""
    metric: Float[Tensor, " prompt"]


@dataclass(frozen=True)
class Slopes:
    """What one layer gives on the way down."""

    layer: int
    dropped: int | None
    """The layer that passes no gradient back: this one, or one above it; None: none. One below changes nothing here."""
    gradients: Parts


class Gradients:
    """Values of activations of some prompts' runs, and gradients of their metric.

    Args:
        model: Of which.
        measure: Makes the metric of logits.
        rows: Positions of the metric's logits, ``[prompt row]``; None for all.
    """

    def __init__(self, model: HookedTransformer, measure: Measure, rows: Tensor | None) -> None:
        self.model, self.measure, self.rows = model, measure, rows
        self.end = max(1, model.config.n_layers)

    @torch.no_grad()
    def up(
        self,
        x: Tensor,
        reads: Sequence[str] = (),
        *,
        edits: Sequence[Edit] = (),
        start: int = 0,
        measured: bool = True,
    ) -> Upward:
        """A run.

        Args:
            x: Token ids ``[prompt pos]``, or the stream at `start`.
            reads: Full names of what is kept.
            edits: Made in this run.
            start: The layer that it begins at.
            measured: Whether its metric is wanted; else the last layer is not run.
        """
        streams, values = [x], Parts()
        for layer in range(start, self.end if measured else self.end - 1):
            out, found = self._layer(streams[-1], layer, edits, reads)
            streams.append(out)
            values.update(found)
        if not measured:
            return Upward(start, streams, values, torch.empty(0))
        return Upward(start, streams[:-1], values, self.measure(streams[-1]))

    def down(
        self, run: Upward, points: Sequence[str], *, edits: Sequence[Edit] = (), drops: bool = False
    ) -> Iterator[Slopes]:
        """Gradients at some points of a run, layer by layer.

        Args:
            run: Which one.
            points: Full names.
            edits: Those that were made in it.
            drops: Whether also each layer in turn passes none back from what its attention and MLP write.
        """
        above: dict[int | None, Tensor | None] = {None: None}
        lowest = min((layer_of(name) or 0 for name in points if not name.startswith("ln_final")), default=self.end)
        for layer in reversed(range(max(run.start, min(lowest, self.end - 1)), self.end)):
            x = run.streams[layer - run.start]
            x = x.detach().requires_grad_() if x.is_floating_point() else x
            taps = [Tap(name) for name in points if layer_of(name) in (layer, None)]
            stops = [Dropped(name) for name in self._written(layer)] if drops else []
            with torch.enable_grad():
                target, _ = self._layer(x, layer, [*edits, *taps, *stops], ())
                target = self.measure(target).sum() if layer == self.end - 1 else target
            if not target.requires_grad:
                raise ArgumentError(
                    "the metric must have a gradient, as logits, their differences, log-probabilities and KL have, got "
                    "one without; take one of these"
                )
            if drops:
                above[layer] = above[None]
            kept = {tap.name: tap.kept for tap in taps if tap.kept is not None}
            inputs = [*kept.values(), *([x] if x.requires_grad else [])]
            below: dict[int | None, Tensor | None] = {}
            for number, (dropped, gradient) in enumerate(above.items()):
                for stop in stops:
                    stop.now = dropped == layer
                more = number + 1 < len(above)
                slopes = torch.autograd.grad(target, inputs, gradient, retain_graph=more, allow_unused=True)
                slopes = [torch.zeros_like(at) if g is None else g for at, g in zip(inputs, slopes, strict=True)]
                below[dropped] = slopes[-1] if x.requires_grad else None
                yield Slopes(layer, dropped, dict(zip(kept, slopes, strict=False)))
            above = below

    def _layer(
        self, x: Tensor, layer: int, edits: Sequence[Edit], reads: Sequence[str]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """What a layer makes of tokens or of the stream: the stream, or logits behind the last one."""
        where: dict[str, Any] = {"start_at_layer": layer} if x.is_floating_point() else {}
        last = layer == self.end - 1
        looked_at = [*reads, *(edit.name for edit in edits if isinstance(edit, AtPoint))]
        whole = last and any(name.startswith("ln_final") for name in looked_at)  # there all positions must pass
        if not last:
            where["stop_at_layer"] = layer + 1
        elif self.rows is not None and not whole:
            where["logits_at"] = self.rows
        here = [name for name in reads if layer_of(name) in (layer, None)]
        out, cache = self.model.run(x, edits=list(edits), reads=here, padding_side="right", **where)
        if whole and self.rows is not None:
            out = out[torch.arange(len(out), device=out.device)[:, None], self.rows]
        return out, cache

    def _written(self, layer: int) -> list[str]:
        names = (f"blocks.{layer}.hook_{part}_out" for part in ("attn", "mlp"))
        return [name for name in names if name in self.model.hook_dict]


def between(old: Mapping[str, Tensor], new: Mapping[str, Tensor], share: float) -> list[Edit]:
    """Edits that put inputs on their way from one run to the other."""
    return [Replace(old[name] + share * (new[name] - old[name]), name) for name in old]
