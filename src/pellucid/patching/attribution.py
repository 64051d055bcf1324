"""What a sweep would find, estimated from gradients: a few runs for all cells at once.

In: what a sweep takes, and a method. Out: its Measurement, of estimates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pellucid.base.errors import ArgumentError, UnknownNameError
from pellucid.base.progress import progress as bar
from pellucid.hooked_transformer import HookedTransformer
from pellucid.hooks.edits import Edit, Replace
from pellucid.hooks.names import layer_of
from pellucid.hooks.site import Site
from pellucid.measurement import Measurement
from pellucid.patching.asked import Asked
from pellucid.patching.experiment import Experiment
from pellucid.patching.gradients import Gradients, between
from pellucid.patching.grid import Touch
from pellucid.patching.outcome import measured
from pellucid.patching.plainly import Metric, rows_of
from pellucid.patching.saturation import changed_by_softmax
from pellucid.patching.sites import axes_of, point
from pellucid.patching.sweep import made
from pellucid.tasks.pairs import Pairs, Task

METHODS = ("atp", "atp*", "ig-inputs", "ig-activations")
SUMMED = ("d_model", "d_head", "scale", "batch")
INSIDE = ("resid_pre", "resid_mid", "resid_post", "embed", "pos_embed", "ln_final.scale", "ln_final.normalized")
"""Sites on the stream, or behind all layers, whose gradient no single dropped layer stops."""
Parts = dict[str, Tensor]
"""By full name: what each element of an activation adds to the estimate, summed over its width."""


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
    progress: bool | None = None,
) -> Measurement:
    """Estimates what `sweep` measures with the same arguments, from gradients; prompt by prompt, all cells at once.

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
    asked = Asked(site=site, over=over, groups=groups, metric=metric, direction=direction, corrupt=corrupt)
    experiment = asked.of(model, made(pairs, model, n, seed))
    settings = asked.settings(experiment)
    if method == "atp*":
        settings["unsigned"] = "sizes of changes, not the metric"
    each = [_Prompt(experiment, prompt, method, steps) for prompt in range(len(experiment.pairs))]
    return prompt_by_prompt(each, settings, progress=progress)


def check_method(method: str, steps: int, methods: Sequence[str], what: str = "") -> None:
    """Whether there is such a method, and steps.

    Raises:
        UnknownNameError: The method is not known.
        ArgumentError: There is no step.
    """
    if method not in methods:
        raise UnknownNameError(f"method must be one of {', '.join(methods)}{what}, got {method!r}")
    if steps < 1:
        raise ArgumentError(f"steps must be 1 or more, got {steps}")


def prompt_by_prompt(
    each: "Sequence[PromptGradients]", settings: Mapping[str, Any], *, progress: bool | None
) -> Measurement:
    """The estimates of all prompts of an experiment."""
    method, done = each[0].method, []
    told = {**settings, "method": method, **({"steps": each[0].steps} if method.startswith("ig") else {})}
    with bar(float(len(each)), f"attribution by {method}", shown=progress) as advance:
        for prompt in each:
            done.append(prompt.estimated())
            advance(1)
    return measured(each[0].experiment, told, done)


@dataclass(frozen=True, eq=False)
class PromptGradients:
    """Both runs of one prompt, and gradients in one of them or between the two."""

    experiment: Experiment
    prompt: int
    method: str
    steps: int

    def estimated(self) -> dict[str, Tensor]:
        """Its cells, their values, and the metric of its two runs."""
        raise NotImplementedError

    @cached_property
    def unpatched(self) -> float:
        """The metric of the run that is patched."""
        return self.experiment.metric_of(self.prompt, self.experiment.unpatched)

    def results(self, cells: np.ndarray, values: np.ndarray) -> dict[str, Tensor]:
        """Estimates of some cells, as the jobs of a sweep give what they found."""
        other = self.experiment.other
        new = float("nan") if other is None else self.experiment.metric_of(self.prompt, other)
        return {
            "cells": torch.from_numpy(cells),
            "values": torch.from_numpy(values),
            "prompts": torch.tensor([self.prompt]),
            "unpatched": torch.tensor([self.unpatched], dtype=torch.float64),
            "other": torch.tensor([new], dtype=torch.float64),
        }

    @property
    def gradients(self) -> Gradients:
        """Those of this prompt's metric."""
        experiment = self.experiment
        rows = rows_of(experiment.metric, experiment.pairs, self.prompt)
        return Gradients(experiment.model, lambda logits: experiment.measure(logits, self.prompt), rows)

    def side(self, which: str) -> tuple[Tensor, list[Edit]]:
        """The tokens of the run that is patched (`old`) or of the other one, and what is edited there."""
        side = self.experiment.unpatched if which == "old" else self.experiment.other
        if side is None:
            raise ArgumentError("attribution must have another run to take values from, got an edit; give pairs")
        tokens, edit = side.of([self.prompt])
        length = self.experiment.plan.grid.scene.lengths[self.prompt]
        return tokens[:, :length].to(self.experiment.model.device), [] if edit is None else [edit]

    @torch.no_grad()
    def read(self, which: str, points: Sequence[str]) -> Parts:
        """Activations of one of the two runs."""
        tokens, edits = self.side(which)
        found = self.experiment.model.run(tokens, edits=edits, reads=list(points), padding_side="right").cache
        return {name: found[name] for name in points}

    def mean_gradients(self, points: Sequence[str]) -> Parts:
        """Gradients in the run that is patched, or their mean while the inputs go from one run to the other."""
        tokens, edits = self.side("old")
        if self.method != "ig-inputs":
            return self.gradients.of(tokens, points, edits=edits)[1]
        known = self.experiment.plan.grid.scene.hook_names
        named = [name for name in ("hook_embed", "hook_pos_embed") if name in known]
        begin, end, mean = self.read("old", named), self.read("new", named), Parts()
        for step in range(self.steps):
            _, found = self.gradients.of(tokens, points, edits=between(begin, end, (step + 0.5) / self.steps))
            mean = {name: mean.get(name, 0) + found[name] / self.steps for name in points}
        return mean


@dataclass(frozen=True, eq=False)
class _Prompt(PromptGradients):
    """One prompt on its way to estimates of all its cells."""

    def estimated(self) -> dict[str, Tensor]:
        """Its cells, their values, and the metric of its two runs."""
        grid = self.experiment.plan.grid
        rows = [(grid.touched(self.prompt, where), first) for where, first in grid.outer(self.prompt)]
        points = list(dict.fromkeys(touch.point for touched, _ in rows for touch in touched))
        cells = np.concatenate([first + grid.offsets[0] for _, first in rows])
        values = self._values(rows, points)
        return self.results(cells, values if self.method == "atp*" else self.unpatched + values)

    def _values(self, rows: Sequence[tuple[list[Touch], int]], points: Sequence[str]) -> np.ndarray:
        if self.method != "atp*":
            return self._of_cells(rows, self._linear(points))
        drops = self._each_dropped(points, rows)
        sizes = np.stack([np.abs(self._of_cells(rows, parts)) for parts in drops])
        n_layers, inner = len(drops), len(self.experiment.plan.grid.offsets[0])
        through = [all(touch.site in INSIDE for touch in touched) for touched, _ in rows]
        others = np.where(np.repeat(through, inner), n_layers, max(1, n_layers - 1))
        return sizes.sum(0) / others

    def _linear(self, points: Sequence[str]) -> Parts:
        new = self.read("new", points)
        if self.method == "ig-activations":
            return self._along_each(points, new)
        old, mean = self.read("old", points), self.mean_gradients(points)
        return {name: _summed(name, new[name] - old[name], mean[name]) for name in points}

    def _along_each(self, points: Sequence[str], new: Parts) -> Parts:
        """Each point goes from one run to the other by itself, the rest follows."""
        found = Parts()
        layers = {name: layer_of(name) for name in points}
        below = {name: point("resid_pre", layer) for name, layer in layers.items() if layer is not None}
        old = self.read("old", list(dict.fromkeys([*points, *below.values()])))
        tokens, _ = self.side("old")
        for name, layer in layers.items():
            start = old[below[name]] if name in below else tokens
            mean = torch.zeros_like(old[name])
            for step in range(self.steps):
                value = old[name] + (step + 0.5) / self.steps * _difference(new[name], old[name])
                put_in = [Replace(value, name)]
                _, slope = self.gradients.of(start, [name], edits=put_in, start_at_layer=layer)
                mean += slope[name] / self.steps
            found[name] = _summed(name, new[name] - old[name], mean)
        return found

    def _each_dropped(self, points: Sequence[str], rows: Sequence[tuple[list[Touch], int]]) -> list[Parts]:
        """The parts of the estimate, for each layer that is dropped."""
        asked = [name for name in points if name.endswith(("hook_q", "hook_k", "hook_rot_q", "hook_rot_k"))]
        patterns = [point("pattern", layer) for layer in sorted({layer_of(name) or 0 for name in asked})]
        tokens, edits = self.side("old")
        new = self.read("new", points)
        old, drops = self.gradients.dropped(tokens, [*points, *patterns], edits=edits)
        plain = [name for name in points if name not in asked]
        single = not asked or _at_one_position(rows)
        runs = {which: self._turned(which, asked) for which in ("old", "new")}
        found = []
        for gradients in drops:
            parts = {name: _summed(name, new[name] - old[name], gradients[name]) for name in plain}
            for name in asked:
                layer = layer_of(name) or 0
                parts[name] = changed_by_softmax(
                    self.experiment.model.blocks[layer].attn,
                    *(runs["old"][layer], runs["new"][layer]),
                    gradients[point("pattern", layer)],
                    which=name[-1],
                    single=single,
                )
            found.append(parts)
        return found

    def _turned(self, which: str, asked: Sequence[str]) -> dict[int, tuple[Tensor, Tensor]]:
        """Queries and keys as attention takes them, by layer."""
        layers = sorted({layer_of(name) or 0 for name in asked})
        taken = self.experiment.need.taken("qk")
        found = self.read(which, [point(name, layer) for layer in layers for name in taken])
        return {layer: (found[point(taken[0], layer)], found[point(taken[1], layer)]) for layer in layers}

    def _of_cells(self, rows: Sequence[tuple[list[Touch], int]], parts: Parts) -> np.ndarray:
        grid = self.experiment.plan.grid
        held = {name: part.double().cpu().numpy() for name, part in parts.items()}
        found = []
        for touched, _ in rows:
            total = np.zeros(len(grid.offsets[0]))
            for touch in touched:
                total = total + _cells_of(held[touch.point], touch, grid.inner)
            found.append(total)
        return np.concatenate(found)


def _difference(new: Tensor, old: Tensor) -> Tensor:
    """−∞ minus −∞, a key that neither run sees, is no difference."""
    return torch.where(new == old, torch.zeros_like(new), new - old)


def _summed(name: str, difference: Tensor, gradient: Tensor) -> Tensor:
    """What each element adds, over the axes that no cell tells apart."""
    product = torch.where(gradient == 0, torch.zeros_like(gradient), difference * gradient)
    axes = axes_of(name.rpartition("hook_")[2])
    return product.sum([at for at, axis in enumerate(axes) if axis in SUMMED])


def _cells_of(part: np.ndarray, touch: Touch, inner: Sequence[str]) -> np.ndarray:
    """The estimates of the cells along the inner axes, of what a touch reaches."""
    axes = axes_of(touch.site)
    shape = [1 if axis in SUMMED else 0 for axis in axes]
    sizes = iter(part.shape)
    shape = [size or next(sizes) for size in shape]
    reached = np.zeros(shape, bool)
    reached[touch.part.index(shape)] = True
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
