"""What estimates of cells and of edges share: their way through the prompts, the two runs of each, and gradients."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pellucid.base.errors import ArgumentError, UnknownNameError
from pellucid.base.progress import progress as bar
from pellucid.hooks.edits import Edit
from pellucid.measurement import Measurement
from pellucid.patching.experiment import Experiment
from pellucid.patching.gradients import Gradients, Slopes, Upward, between
from pellucid.patching.outcome import measured
from pellucid.patching.plainly import rows_of
from pellucid.tasks.metrics import RowMetric


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


def estimates(
    kind: "type[Estimates]",
    experiment: Experiment,
    settings: Mapping[str, Any],
    *,
    method: str,
    steps: int,
    progress: bool | None,
) -> Measurement:
    """The estimates of all prompts of an experiment, of as many at once as memory allows."""
    done, told = [], {**settings, "method": method, **({"steps": steps} if method.startswith("ig") else {})}
    with bar(float(len(experiment.pairs)), f"attribution by {method}", shown=progress) as advance:
        for alike in _alike(experiment):
            of_one = kind(experiment, alike[:1], method, steps)
            size = experiment.budget.with_gradients(of_one.length, of_one.n_rows, of_one.read, of_one.held)
            for first in range(0, len(alike), size):
                here = alike[first : first + size]
                done.append(kind(experiment, here, method, steps).estimated())
                advance(len(here))
    return measured(experiment, told, done)


def _alike(experiment: Experiment) -> list[list[int]]:
    """Prompts of one length, whose metric reads equally many logits, together."""
    found: dict[tuple[int, int], list[int]] = {}
    for prompt, length in enumerate(experiment.plan.grid.scene.lengths):
        rows = rows_of(experiment.metric, experiment.pairs, prompt)
        found.setdefault((length, length if rows is None else len(rows)), []).append(prompt)
    return list(found.values())


@dataclass(frozen=True, eq=False)
class Estimates:
    """Both runs of some prompts of one length, and gradients in one of them or between the two."""

    experiment: Experiment
    prompts: Sequence[int]
    method: str
    steps: int

    @property
    def points(self) -> list[str]:
        """Full names of the activations whose gradients are taken."""
        raise NotImplementedError

    @property
    def read(self) -> list[str]:
        """Full names of all activations that are held."""
        return self.points

    @property
    def held(self) -> int:
        """Elements that are held for each prompt beside activations."""
        raise NotImplementedError

    def estimated(self) -> dict[str, Tensor]:
        """Their cells, their values, and the metric of each prompt's two runs."""
        raise NotImplementedError

    @property
    def length(self) -> int:
        """Tokens of each prompt."""
        return self.experiment.plan.grid.scene.lengths[self.prompts[0]]

    @property
    def n_rows(self) -> int:
        """Positions of each prompt whose logits the metric reads."""
        rows = rows_of(self.experiment.metric, self.experiment.pairs, self.prompts[0])
        return self.length if rows is None else len(rows)

    def results(self, cells: np.ndarray, values: np.ndarray, old: Upward, new: Upward) -> dict[str, Tensor]:
        """Estimates of some cells, as the jobs of a sweep give what they found."""
        return {
            "cells": torch.from_numpy(cells),
            "values": torch.from_numpy(values),
            "prompts": torch.tensor(self.prompts),
            "unpatched": old.metric.double().cpu(),
            "other": new.metric.double().cpu(),
        }

    @cached_property
    def gradients(self) -> Gradients:
        """Those of these prompts' metric."""
        rows = [rows_of(self.experiment.metric, self.experiment.pairs, prompt) for prompt in self.prompts]
        at = torch.tensor(rows, device=self.experiment.model.device) if None not in rows else None
        return Gradients(self.experiment.model, self._measure, at)

    def _measure(self, logits: Tensor) -> Tensor:
        each = enumerate(self.prompts)
        measure, known = self.experiment.measure, self._references
        return torch.cat([measure(logits[at : at + 1], prompt, known.get(prompt)) for at, prompt in each])

    @cached_property
    def _references(self) -> dict[int, Tensor]:
        """Logits of each prompt's clean run, where the metric compares with them."""
        wanted = isinstance(self.experiment.metric, RowMetric) and self.experiment.metric.needs_reference
        return {prompt: self.experiment.reference(prompt) for prompt in self.prompts if wanted}

    def side(self, which: str) -> tuple[Tensor, list[Edit]]:
        """The tokens of the run that is patched (`old`) or of the other one, and what is edited there."""
        side = self.experiment.unpatched if which == "old" else self.experiment.other
        if side is None:
            raise ArgumentError("attribution must have another run to take values from, got an edit; give pairs")
        tokens, edit = side.of(list(self.prompts))
        return tokens[:, : self.length].to(self.experiment.model.device), [] if edit is None else [edit]

    def run(self, which: str, points: Sequence[str]) -> Upward:
        """One of the two runs."""
        tokens, edits = self.side(which)
        return self.gradients.up(tokens, points, edits=edits)

    def slopes(self, old: Upward, points: Sequence[str], *, drops: bool = False) -> Iterator[Slopes]:
        """Gradients in the run that is patched; or shares of them, each while the inputs go on to the other run."""
        tokens, edits = self.side("old")
        if self.method != "ig-inputs":
            yield from self.gradients.down(old, points, edits=edits, drops=drops)
            return
        known = self.experiment.plan.grid.scene.hook_names
        named = [name for name in ("hook_embed", "hook_pos_embed") if name in known]
        begin, end = self.run("old", named).values, self.run("new", named).values
        for step in range(self.steps):
            put_in = between(begin, end, (step + 0.5) / self.steps)
            yield from self.gradients.down(
                self.gradients.up(tokens, edits=put_in, measured=False), points, edits=put_in
            )

    @property
    def share(self) -> float:
        """What each of the slopes counts."""
        return 1 / self.steps if self.method == "ig-inputs" else 1.0
