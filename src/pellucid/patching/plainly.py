"""Patched runs as they are: cells of one prompt as a batch, from the lowest layer that one of them touches.

The way for whatever cannot be shortened: metrics that are functions of all logits, several points at once, what is
frozen, models with standing hooks or foreign modules.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.base.errors import ArgumentError
from pellucid.hooked_transformer import HookedTransformer
from pellucid.hooks.edits import Edit
from pellucid.patching.grid import Grid, Touch
from pellucid.patching.plan import PlainCells
from pellucid.patching.runs import Edited, PromptRun, Side
from pellucid.patching.sites import FROZEN, point
from pellucid.tasks.metrics import RowMetric
from pellucid.tasks.pairs import Pairs

Metric = RowMetric | Callable[..., Any]


class Plainly:
    """Runs cells plainly.

    Args:
        model: Of which.
        grid: The cells.
        metric: Of rows, or any function (logits `[cell pos d_vocab]`, pairs) → `[cell]`.
        pairs: The prompts.
        freeze: What is held at its value in the unpatched run.
        reference: Logits of each prompt's clean run at the metric's rows, where the metric compares with them.
    """

    def __init__(
        self,
        model: HookedTransformer,
        grid: Grid,
        metric: Metric,
        pairs: Pairs,
        *,
        freeze: Sequence[str] = (),
        reference: Callable[[int], Tensor] | None = None,
    ) -> None:
        self.model, self.grid, self.metric, self.pairs = model, grid, metric, pairs
        self.freeze, self.reference = freeze, reference

    @torch.no_grad()
    def cells(self, run: PromptRun, item: PlainCells, side: Side) -> Float[Tensor, " cell"]:
        """The metric of some cells.

        Args:
            run: The prompt's unpatched run.
            item: Which cells.
            side: What is run unpatched.
        """
        n, first, n_layers = len(item.cells), item.layer, self.model.config.n_layers
        edits: list[Edit] = [*self._frozen(run, 0 if first is None else first), *self._patches(run, item)]
        where: dict[str, Any] = {}
        if first is None or self.model.board or not n_layers:  # standing hooks must meet whole prompts
            tokens, own = side.of([run.index] * n)
            x, edits = tokens[:, : run.length].to(self.model.device), [*([] if own is None else [own]), *edits]
        else:
            where["start_at_layer"] = first
            x = run.old("resid_pre", first) if first < n_layers else run.old("resid_post", first - 1)
            x = x.expand(n, *x.shape)
        rows = rows_of(self.metric, self.pairs, run.index)
        at_the_end = any(name.startswith("ln_final") for name in _points(edits))  # there all positions must pass
        if rows is not None and not at_the_end:
            where["logits_at"] = rows
        logits = self.model.run(x, edits=edits, padding_side="right", **where).logits
        return self.measured(logits[:, rows] if rows is not None and at_the_end else logits, run.index)

    def measured(self, logits: Float[Tensor, "cell row d_vocab"], prompt: int) -> Float[Tensor, " cell"]:
        """The metric of some runs of a prompt, whose logits are given at the metric's rows, or at all for a function.

        Raises:
            ArgumentError: A function gave no number for each cell.
        """
        n, metric = len(logits), self.metric
        if isinstance(metric, RowMetric):
            targets = metric.targets(self.pairs)[prompt, : logits.shape[1]].to(logits.device)
            beside = self.reference(prompt).repeat(n, 1) if metric.needs_reference and self.reference else None
            return metric.score(logits.flatten(0, 1), targets.repeat(n, 1), beside).view(n, -1).mean(1)
        found = metric(logits, self.pairs[[prompt] * n].to(logits.device))
        if not isinstance(found, Tensor) or found.shape != (n,):
            shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ArgumentError(
                f"a metric must give one number for each of the {n} rows of logits it is given, got {shape}; "
                "keep the first axis"
            )
        return found

    def _patches(self, run: PromptRun, item: PlainCells) -> list["AtPoint"]:
        touched: dict[str, list[tuple[int, Touch]]] = defaultdict(list)
        for at, cell in enumerate(item.cells.tolist()):
            for touch in self.grid.touched(*self.grid.cell(cell)):
                touched[touch.point].append((at, touch))
        return [_Patched(name, run, there) for name, there in touched.items()]

    def _frozen(self, run: PromptRun, first: int) -> list["AtPoint"]:
        found: list[AtPoint] = []
        for site in (site for name in self.freeze for site in FROZEN[name]):
            for layer in [None] if site.startswith("ln_final") else range(first, self.model.config.n_layers):
                if point(site, layer) in self.model.hook_dict:
                    found.append(_Held(point(site, layer), run.old(site, layer)))
        return found


def rows_of(metric: Metric, pairs: Pairs, prompt: int) -> list[int] | None:
    """The positions whose logits a metric reads in a prompt; None for all, in their order."""
    if not isinstance(metric, RowMetric):
        return None
    return [row for row in metric.rows(pairs)[prompt].tolist() if row >= 0]


def _points(edits: Sequence[Edit]) -> list[str]:
    return [edit.name for edit in edits if isinstance(edit, AtPoint)]


class AtPoint(Edit):
    """An edit of one hook point as a whole."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def resolve(self, model: Any) -> dict[str, Edit]:
        """Itself, at its point."""
        return {self.name: self}


class _Held(AtPoint):
    """The unpatched run's value, in every cell."""

    def __init__(self, name: str, held: Tensor) -> None:
        super().__init__(name)
        self.held = held

    def apply(self, x: Tensor) -> Tensor:
        held = self.held.to(x)
        return (held if held.ndim == x.ndim - 1 else held[:, None]).expand_as(x)  # each head may read its own stream


class _Patched(AtPoint):
    """What each cell puts in its own part, in whatever the run has made there so far."""

    def __init__(self, name: str, run: PromptRun, touched: Sequence[tuple[int, Touch]]) -> None:
        super().__init__(name)
        self.run, self.touched = run, touched

    def apply(self, x: Tensor) -> Tensor:
        chosen = torch.zeros(x.shape, dtype=torch.bool, device=x.device)
        for cell, touch in self.touched:
            row = chosen[cell : cell + 1]
            row[touch.part.index(row.shape)] = True
        touch, values = self.touched[0][1], self.run.values
        if isinstance(values, Edited):
            rows = [values.applied(row[None], touch.site, touch.layer, self.run.index) for row in x]
            return torch.where(chosen, torch.cat(rows), x)
        return torch.where(chosen, self.run.new(touch.site, touch.layer).to(x)[None], x)
