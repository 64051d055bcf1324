"""A sweep under way: the unpatched runs, what patches put in, and one job after the other.

In: a plan's items, in jobs. Out: the metric of each cell, and of each prompt's unpatched run.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.base.errors import ArgumentError
from pellucid.hooked_transformer import HookedTransformer
from pellucid.patching.budget import Budget
from pellucid.patching.needs import Need
from pellucid.patching.plainly import Metric, Plainly, rows_of
from pellucid.patching.plan import Item, Joining, PlainCells, Plan
from pellucid.patching.readout import Readout, last_stream
from pellucid.patching.runs import AtPositions, Edited, OtherRun, PromptRun, Side, read
from pellucid.patching.walk import Chunks, walk
from pellucid.tasks.metrics import RowMetric
from pellucid.tasks.pairs import Pairs


@dataclass(frozen=True, eq=False)
class Experiment:
    """What is run, and on what.

    Args:
        model: Of which.
        pairs: The prompts.
        metric: Of rows, or any function.
        plan: What runs.
        unpatched: The run that is patched.
        other: The run that gives values; None where an edit makes them.
        edit: What makes them, else.
        clean: Whether the unpatched run is the clean one.
        budget: How much is held at once.
    """

    model: HookedTransformer
    pairs: Pairs
    metric: Metric
    plan: Plan
    unpatched: Side
    other: Side | None
    edit: Edited | None
    clean: bool
    budget: Budget

    @property
    def need(self) -> Need:
        """Which activations are kept."""
        return Need(self.model.config, edited=self.edit is not None, freeze=self.plan.grid.question.freeze)

    def work(self, items: Sequence[Item]) -> float:
        """How much there is to do, in rows that pass a layer."""
        return sum(map(self._work, items))

    @torch.no_grad()
    def job(
        self, items: Sequence[Item], prompts: Sequence[int], advance: Callable[[float], object]
    ) -> dict[str, Tensor]:
        """Runs some items.

        Args:
            items: Of the plan.
            prompts: Whose unpatched metric is wanted, beside those of the items.
            advance: Is told how much was done.

        Returns:
            `cells` and their `values`; `prompts`, and the metric of each one's `unpatched` and `other` run.

        Raises:
            ArgumentError: The metric of an unpatched run is no number.
        """
        prompts = sorted({*prompts, *(item.prompt for item in items)})
        runs, others = self._runs(items, prompts)
        readout = self._readout(runs, others)
        measured = {
            "unpatched": [self._measured(self.unpatched, run, readout) for run in runs.values()],
            "other": [self._measured(self.other, run, readout) for run in others.values() if self.other is not None],
        }
        _check(prompts, measured)
        self._walk(runs, [item for item in items if not isinstance(item, PlainCells)], readout, advance)
        found = [] if readout is None else readout.found
        for item in (item for item in items if isinstance(item, PlainCells)):
            values = self._plainly.cells(runs[item.prompt], item, self.unpatched)
            found.append((torch.from_numpy(item.cells), values))
            advance(self._work(item))
        cells = [cells for cells, _ in found]
        values = [values.double() for _, values in found]
        return {
            "cells": torch.cat(cells) if cells else torch.empty(0, dtype=torch.long),
            "values": torch.cat(values).cpu() if values else torch.empty(0, dtype=torch.float64),
            "prompts": torch.tensor(prompts),
            **{name: torch.tensor(numbers, dtype=torch.float64) for name, numbers in measured.items()},
        }

    @property
    def _clean(self) -> Side:
        return self.unpatched if self.clean or self.other is None else self.other

    def _runs(self, items: Sequence[Item], prompts: Sequence[int]) -> tuple[dict[int, PromptRun], dict[int, PromptRun]]:
        needs, last = self.need.of(self.plan.grid, items), [_last(self.model)]
        if self.other is None:
            runs, others = self._read([(self.unpatched, prompts)], needs.unpatched)[0], {}
        elif 2 * sum(self.plan.grid.scene.lengths[prompt] for prompt in prompts) <= self.budget.tokens:
            both = [(self.unpatched, prompts), (self.other, prompts)]  # together: the weights are read once
            runs, others = self._read(both, [*needs.unpatched, *needs.other])
        else:
            runs = self._read([(self.unpatched, prompts)], needs.unpatched)[0]
            others = self._read([(self.other, prompts)], [*needs.other, *last])[0]
        for run in runs.values():
            run.values = self.edit if self.edit is not None else OtherRun(others)
        return runs, others

    def _read(self, sides: Sequence[tuple[Side, Sequence[int]]], names: Sequence[str]) -> list[dict[int, PromptRun]]:
        """Some prompts' runs, of one side or of both."""
        scene = self.plan.grid.scene
        parts = [side.of(list(prompts)) for side, prompts in sides]
        edits = [edit for _, edit in parts if edit is not None]
        every, edit = [prompt for _, part in sides for prompt in part], None
        lengths = [scene.lengths[prompt] for prompt in every]
        if edits:
            reached = [torch.zeros_like(tokens, dtype=torch.bool) if e is None else e.reached for tokens, e in parts]
            edit = AtPositions(edits[0].edit, torch.cat(reached), every, lengths)
        kept = read(
            self.model,
            torch.cat([tokens for tokens, _ in parts]),
            list(dict.fromkeys(names)),
            lengths,
            at_once=self.budget.tokens,
            edit=edit,
        )
        found, n = [], len(sides[0][1])
        for first in range(0, len(kept), n):
            pairs = zip(sides[0][1], kept[first : first + n], strict=True)
            found.append({prompt: PromptRun(self.model, prompt, part, scene.wanted[prompt]) for prompt, part in pairs})
        return found

    def _readout(self, runs: Mapping[int, PromptRun], others: Mapping[int, PromptRun]) -> Readout | None:
        """What reads the metric off the last stream; None where that takes logits."""
        if not isinstance(self.metric, RowMetric) or not self.model.in_pieces or not self.model.config.n_layers:
            return None
        clean = runs if self.clean or not others else others
        last = {prompt: last_stream(run) for prompt, run in clean.items()}
        at_once = self.budget.chunk // self.budget.itemsize
        return Readout(self.model, self.metric, self.pairs, last, at_once=at_once)

    def _measured(self, side: Side | None, run: PromptRun, readout: Readout | None) -> float:
        """The metric of a run that is not patched."""
        if readout is not None:
            return readout.of_run(run)
        return self.metric_of(run.index, side or self.unpatched)

    @property
    def _plainly(self) -> Plainly:
        return Plainly(
            *(self.model, self.plan.grid, self.metric, self.pairs),
            freeze=self.plan.grid.question.freeze,
            reference=self.reference,
        )

    @torch.no_grad()
    def metric_of(self, prompt: int, side: Side) -> float:
        """The metric of one of a prompt's two runs."""
        return float(self.measure(self._logits(side, prompt), prompt))

    def measure(
        self, logits: Float[Tensor, "1 row d_vocab"], prompt: int, reference: Tensor | None = None
    ) -> Float[Tensor, "1"]:
        """The metric of logits at its rows; `reference`: what `reference` gave for this prompt, where it is known."""
        plainly = self._plainly
        if reference is not None:
            plainly.reference = lambda prompt: reference
        return plainly.measured(logits, prompt)

    def reference(self, prompt: int) -> Float[Tensor, "row d_vocab"]:
        """Logits of a prompt's clean run at the metric's rows."""
        return self._logits(self._clean, prompt)[0]

    @torch.no_grad()
    def _logits(self, side: Side, prompt: int) -> Float[Tensor, "1 row d_vocab"]:
        """A run's logits at the metric's rows; at all positions for a metric that is a function."""
        tokens, edit = side.of([prompt])
        rows = rows_of(self.metric, self.pairs, prompt)
        where: dict[str, Any] = {} if rows is None else {"logits_at": rows}
        length, edits = self.plan.grid.scene.lengths[prompt], [] if edit is None else [edit]
        return self.model.run(
            tokens[:, :length].to(self.model.device), edits=edits, padding_side="right", **where
        ).logits

    def _walk(
        self,
        runs: Mapping[int, PromptRun],
        entries: Sequence[Joining],
        readout: Readout | None,
        advance: Callable[[float], object],
    ) -> None:
        if not entries or readout is None:
            return
        left = self.work(entries)

        def done(rows: float) -> None:
            nonlocal left
            rows = min(rows, left)
            left -= rows
            advance(rows)

        chunks = Chunks(self.budget.mlp_rows, self.budget.chunk)
        walk(self.model, runs, entries, seen=readout.seen, chunks=chunks, advance=done)
        advance(left)

    def _work(self, item: Item) -> float:
        n_layers = self.model.config.n_layers
        if not isinstance(item, PlainCells):
            return len(item.cells) * item.carried * (n_layers + 1 - item.layer)
        return len(item.cells) * self.plan.grid.scene.lengths[item.prompt] * (1 + n_layers - (item.layer or 0))


def _check(prompts: Sequence[int], measured: Mapping[str, Sequence[float]]) -> None:
    for values in measured.values():
        for prompt, value in zip(prompts, values, strict=False):
            if math.isnan(value):
                raise ArgumentError(
                    f"the metric must be a number in runs that are not patched, got NaN for prompt {prompt}; look at "
                    "its logits, and at the positions that the metric reads"
                )


def _last(model: HookedTransformer) -> str:
    """The name of the stream behind the last block."""
    n_layers = model.config.n_layers
    return f"blocks.{n_layers - 1}.hook_resid_post" if n_layers else "hook_embed"
