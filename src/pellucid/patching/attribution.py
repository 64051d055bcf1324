"""What a sweep would find, estimated from gradients: a few runs for all cells at once.

In: what a sweep takes, and a method. Out: its Measurement, of estimates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pellucid.base.errors import ArgumentError
from pellucid.hooked_transformer import HookedTransformer
from pellucid.hooks.edits import Edit, Replace
from pellucid.hooks.names import layer_of
from pellucid.hooks.site import Site
from pellucid.measurement import Measurement
from pellucid.patching.asked import Asked
from pellucid.patching.estimates import Estimates, check_method, estimates
from pellucid.patching.gradients import Upward
from pellucid.patching.grid import Touch
from pellucid.patching.plainly import Metric
from pellucid.patching.saturation import changed_by_softmax
from pellucid.patching.sites import axes_of, point
from pellucid.patching.sweep import made, metric_of
from pellucid.tasks.pairs import Pairs
from pellucid.tasks.task import Task

METHODS = ("atp", "atp*", "ig-inputs", "ig-activations")
SUMMED = ("d_model", "d_head", "scale")
INSIDE = ("resid_pre", "resid_mid", "resid_post", "embed", "pos_embed", "ln_final.scale", "ln_final.normalized")
"""Sites on the stream, or behind all layers, whose gradient no single dropped layer stops."""
ASKING = ("hook_q", "hook_k", "hook_rot_q", "hook_rot_k")
"""Points behind which `atp*` takes the softmax anew."""


def attribute(
    model: HookedTransformer,
    pairs: Pairs | Task,
    *,
    site: str | Site | Sequence[str | Site] | None = None,
    over: str | Sequence[str],
    method: str = "atp",
    steps: int = 16,
    groups: Mapping[str, Site | Sequence[Site]] | None = None,
    metric: Metric | None = None,
    direction: Literal["denoise", "noise"] = "denoise",
    corrupt: Edit | None = None,
    n: int | None = None,
    seed: int = 0,
    max_memory: int | float | str | None = None,
    progress: bool | None = None,
) -> Measurement:
    """Estimates what `sweep` measures with the same arguments, from gradients; all cells at once.

    Args:
        model: As for `sweep`.
        pairs: As for `sweep`.
        site: As for `sweep`. Of a cell that patches several points the estimates are added up: what one of them does
            by way of another is counted twice.
        over: As for `sweep`.
        method: ``"atp"``: gradient in the run that is patched, times the difference of the activations; one backward
            pass. ``"atp*"``: the softmax of queries and keys taken anew, and the mean over layers, each of which
            passes no gradient back once, of the absolute estimate; one backward pass a layer. ``"ig-inputs"``: the mean
            gradient while the embeddings go from one run to the other. ``"ig-activations"``: the mean gradient while
            the site itself does, each layer by itself.
        steps: Of the integrated gradients, at the middle of as many equal parts.
        groups: As for `sweep`.
        metric: As for `sweep`; it must have a gradient.
        direction: As for `sweep`.
        corrupt: As for `sweep`.
        n: As for `sweep`.
        seed: As for `sweep`.
        max_memory: As for `sweep`: it settles how many prompts go together. Held is one layer's graph at a time.
        progress: As for `sweep`.

    Returns:
        As `sweep` does: the metric of the run that is patched, plus the estimated change. With ``"atp*"`` the size of
        the change alone, without a sign; `compare` knows.

    Raises:
        PellucidError: As for `sweep`, and where the metric has no gradient.

    Source: Nanda 2023, "Attribution Patching"; Kramár et al. 2024, "AtP*"; Hanna et al. 2024, "Have Faith in
    Faithfulness" (``"ig-inputs"``); Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks".

    Example:
        >>> from pellucid import HookedTransformer
        >>> model = HookedTransformer.from_pretrained("toy-induction")
        >>> both = Pairs.from_tokens([[0, 5, 9, 7, 3, 8, 5, 9]], [[0, 5, 9, 4, 3, 8, 5, 9]], answer=7, wrong=4)
        >>> attribute(model, both, site="z", over=("layer", "head")).effect().mean("prompt").top(1).label
        '1.1'
    """
    check_method(method, steps, METHODS)
    asked = Asked(
        **{"site": site, "over": over, "groups": groups, "metric": metric_of(pairs, metric), "direction": direction},
        **{"corrupt": corrupt, "max_memory": max_memory},
    )
    experiment = asked.of(model, made(pairs, model, n, seed))
    settings = asked.settings(experiment)
    if method == "atp*":
        settings["unsigned"] = "sizes of changes, not the metric"
    return estimates(_Cells, experiment, settings, method=method, steps=steps, progress=progress)


@dataclass(frozen=True, eq=False)
class _Cells(Estimates):
    """Some prompts on their way to estimates of all their cells."""

    @property
    def points(self) -> list[str]:
        """Full names of the activations whose gradients are taken."""
        return list(dict.fromkeys(touch.point for touched, _ in self._rows(0) for touch in touched))

    @property
    def held(self) -> int:
        """Elements that are held for each prompt beside activations."""
        kept = max(1, self.experiment.model.config.n_layers) if self.method == "atp*" else 1
        return 2 * (kept + 2) * int(np.prod(self.experiment.plan.grid.shape[1:]))

    def estimated(self) -> dict[str, Tensor]:
        """Their cells, their values, and the metric of each prompt's two runs."""
        taken = [*self.points, *self._turned]
        old, new = (self.run(which, taken) for which in ("old", "new"))
        if self.method == "atp*":
            values = self._each_dropped(old, new)
        else:
            linear = self._along_each if self.method == "ig-activations" else self._linear
            values = linear(old, new) + old.metric.double().cpu().numpy()[:, None]
        inner = self.experiment.plan.grid.offsets[0]
        cells = [first + inner for at, _ in enumerate(self.prompts) for _, first in self._rows(at)]
        return self.results(np.concatenate(cells), values.ravel(), old, new)

    def _rows(self, at: int) -> list[tuple[list[Touch], int]]:
        """What a prompt's cells touch, by row of cells, and the first cell of each."""
        grid, prompt = self.experiment.plan.grid, self.prompts[at]
        return [(grid.touched(prompt, where), first) for where, first in grid.outer(prompt)]

    @property
    def read(self) -> list[str]:
        """Full names of all activations that are held."""
        return [*self.points, *self._turned, *self._patterns[:1]]

    @cached_property
    def _asked(self) -> list[int]:
        """The layers whose softmax is taken anew."""
        names = [name for name in self.points if self.method == "atp*" and name.endswith(ASKING)]
        return sorted({layer_of(name) or 0 for name in names})

    @property
    def _turned(self) -> list[str]:
        """Queries and keys as attention takes them, of these layers."""
        return [point(name, layer) for layer in self._asked for name in self.experiment.need.taken("qk")]

    @property
    def _patterns(self) -> list[str]:
        return [point("pattern", layer) for layer in self._asked]

    def _others(self, n_layers: int) -> np.ndarray:
        """For each cell, the layers that may be dropped: without its own, which would leave nothing of it."""
        found = []
        for touched, _ in self._rows(0):
            own = {touch.layer for touch in touched}
            found.append(n_layers - (len(own) == 1 and not any(touch.site in INSIDE for touch in touched)))
        return np.repeat(found, len(self.experiment.plan.grid.offsets[0]))

    def _linear(self, old: Upward, new: Upward) -> np.ndarray:
        cells = self._nothing()
        for slopes in self.slopes(old, self.points):
            for name, gradient in slopes.gradients.items():
                self._add(cells, name, self.share * _summed(name, new.values[name] - old.values[name], gradient))
        return cells

    def _along_each(self, old: Upward, new: Upward) -> np.ndarray:
        """Each point goes from one run to the other by itself, the rest follows."""
        cells = self._nothing()
        _, edits = self.side("old")
        for name in self.points:
            start, change = layer_of(name) or 0, _difference(new.values[name], old.values[name])
            mean = torch.zeros_like(change)
            for step in range(self.steps):
                put_in = [*edits, Replace(old.values[name] + (step + 0.5) / self.steps * change, name)]
                along = self.gradients.up(old.streams[start], edits=put_in, start=start, measured=False)
                for slopes in self.gradients.down(along, [name], edits=put_in):
                    mean += slopes.gradients.get(name, 0) / self.steps
            self._add(cells, name, _summed(name, change, mean))
        return cells

    def _each_dropped(self, old: Upward, new: Upward) -> np.ndarray:
        """The mean size of the estimate, over the layers that are dropped."""
        n_layers = self.experiment.model.config.n_layers
        drops = n_layers > 1  # a single layer has none beside it
        single = not self._asked or _at_one_position(self._rows(0))
        cells = [self._nothing() for _ in range(n_layers if drops else 1)]
        for slopes in self.slopes(old, [*self.points, *self._patterns], drops=drops):
            here = range(slopes.layer if drops else 1) if slopes.dropped is None else [slopes.dropped]
            for name in (name for name in slopes.gradients if name in self._touches):
                if name.endswith(ASKING):
                    gradient = slopes.gradients[point("pattern", slopes.layer)]
                    part = self._softmax_anew(name, gradient, old, new, single=single)
                else:
                    part = _summed(name, new.values[name] - old.values[name], slopes.gradients[name])
                for dropped in here:
                    self._add(cells[dropped], name, part)
        others = self._others(n_layers) if drops else 1
        return sum((np.abs(each) for each in cells), self._nothing()) / others

    def _softmax_anew(self, name: str, gradient: Tensor, old: Upward, new: Upward, *, single: bool) -> Tensor:
        layer, taken = layer_of(name) or 0, self.experiment.need.taken("qk")
        before, after = ([run.values[point(one, layer)] for one in taken] for run in (old, new))
        attn = self.experiment.model.blocks[layer].attn
        return changed_by_softmax(
            attn, (before[0], before[1]), (after[0], after[1]), gradient, which=name[-1], single=single
        )

    @cached_property
    def _touches(self) -> dict[str, list[tuple[int, int, Touch]]]:
        """By full name: the prompt, the row of its cells and how they touch it."""
        found: dict[str, list[tuple[int, int, Touch]]] = {}
        for at, _ in enumerate(self.prompts):
            for row, (touched, _) in enumerate(self._rows(at)):
                for touch in touched:
                    found.setdefault(touch.point, []).append((at, row, touch))
        return found

    def _nothing(self) -> np.ndarray:
        """``[prompt cell]``, 0."""
        return np.zeros((len(self.prompts), len(self._rows(0)) * len(self.experiment.plan.grid.offsets[0])))

    def _add(self, cells: np.ndarray, name: str, part: Tensor) -> None:
        """Adds what a point brings to the cells that touch it."""
        grid, inner = self.experiment.plan.grid, len(self.experiment.plan.grid.offsets[0])
        held = part.double().cpu().numpy()
        for at, row, touch in self._touches[name]:
            cells[at, row * inner : (row + 1) * inner] += _cells_of(held[at], touch, grid.inner)


def _difference(new: Tensor, old: Tensor) -> Tensor:
    """−∞ minus −∞, a key that neither run sees, is no difference."""
    return torch.where(new == old, torch.zeros_like(new), new - old)


def _summed(name: str, difference: Tensor, gradient: Tensor) -> Tensor:
    """What each element adds, over the axes that no cell tells apart."""
    product = torch.where(gradient == 0, torch.zeros_like(gradient), difference * gradient)
    axes = axes_of(name.rpartition("hook_")[2])  # the batch stays
    summed = [at for at, axis in enumerate(axes) if axis in SUMMED]
    return product.sum(summed) if summed else product


def _cells_of(part: np.ndarray, touch: Touch, inner: Sequence[str]) -> np.ndarray:
    """The estimates of the cells along the inner axes, of what a touch reaches."""
    axes = [axis for axis in axes_of(touch.site) if axis != "batch"]
    shape = [1 if axis in SUMMED else 0 for axis in axes]
    sizes = iter(part.shape)
    shape = [size or next(sizes) for size in shape]
    reached = np.zeros(shape, bool)
    reached[None][touch.part.index([1, *shape])] = True
    kept = [axis for axis in axes if axis not in SUMMED]
    chosen = np.where(reached.reshape(part.shape), part, 0.0)
    named = ["kv_head" if axis == "head" and "kv_head" in kept else axis for axis in inner]
    chosen = chosen.sum(tuple(at for at, axis in enumerate(kept) if axis not in named))
    left = [axis for axis in kept if axis in named]
    return chosen.transpose([left.index(axis) for axis in named]).ravel()


def _at_one_position(rows: Sequence[tuple[list[Touch], int]]) -> bool:
    """Whether keys are patched at one position each; else at all of them."""
    told = {isinstance(touch.part.pos, int) for touched, _ in rows for touch in touched}
    listed = any(isinstance(touch.part.pos, list | slice) for touched, _ in rows for touch in touched)
    if len(told) > 1 or listed:
        raise ArgumentError("atp* takes queries and keys at one position or at all, got several; put them over pos")
    return True in told
