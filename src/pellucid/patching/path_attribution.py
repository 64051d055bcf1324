"""What `paths` would find, estimated from gradients: what each sender's change means to what each receiver reads.

In: who sends and who receives, and a method. Out: the Measurement of `paths`, of estimates.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.hooked_transformer import HookedTransformer
from pellucid.hooks.edits import Edit
from pellucid.measurement import Measurement
from pellucid.patching.estimates import Estimates, check_method, estimates
from pellucid.patching.gradients import Upward
from pellucid.patching.path_plan import PathGrid, reaches, stage
from pellucid.patching.path_streams import SITES
from pellucid.patching.paths import AskedPaths, PathExperiment
from pellucid.patching.plainly import Metric
from pellucid.patching.selections import Component, Selection, selection
from pellucid.patching.sites import point
from pellucid.patching.sweep import made, metric_of
from pellucid.tasks.pairs import Pairs
from pellucid.tasks.task import Task

METHODS = ("atp", "ig-inputs")


def attribute_paths(
    model: HookedTransformer,
    pairs: Pairs | Task,
    *,
    senders: Selection | str,
    receivers: Selection | str,
    over: str | None = None,
    method: str = "atp",
    steps: int = 16,
    metric: Metric | None = None,
    direction: Literal["denoise", "noise"] = "denoise",
    corrupt: Edit | None = None,
    n: int | None = None,
    seed: int = 0,
    max_memory: int | float | str | None = None,
    progress: bool | None = None,
) -> Measurement:
    """Estimates what `paths` measures with ``through="edge"``: one product of changes and gradients for all edges.

    Args:
        model: As for `paths`.
        pairs: As for `paths`.
        senders: As for `paths`.
        receivers: As for `paths`.
        over: As for `paths`.
        method: ``"atp"``: the gradient in the run that is patched. ``"ig-inputs"``: its mean while the embeddings go
            from one run to the other.
        steps: Of the integrated gradient.
        metric: As for `paths`; it must have a gradient.
        direction: As for `paths`.
        corrupt: As for `paths`.
        n: As for `paths`.
        seed: As for `paths`.
        max_memory: As for `attribute`.
        progress: As for `paths`.

    Returns:
        As `paths` does: the metric of the run that is patched, plus the estimated change.

    Raises:
        PellucidError: As for `paths`, and where the metric has no gradient.

    Source: Syed et al. 2023, "Attribution Patching Outperforms Automated Circuit Discovery"; Hanna et al. 2024, "Have
    Faith in Faithfulness" (``"ig-inputs"``).

    Example:
        >>> from pellucid import HookedTransformer
        >>> model = HookedTransformer.from_pretrained("toy-induction")
        >>> both = Pairs.from_tokens([[0, 5, 9, 7, 3, 8, 5, 9]], [[0, 5, 9, 4, 3, 8, 5, 9]], answer=7, wrong=4)
        >>> found = attribute_paths(model, both, senders="heads", receivers="logits")
        >>> found.effect().mean("prompt").top(1).label
        '1.1 → logits'
    """
    check_method(method, steps, METHODS, " for edges")
    asked = AskedPaths(
        over=() if over is None else over,
        metric=metric_of(pairs, metric),
        direction=direction,
        corrupt=corrupt,
        max_memory=max_memory,
        senders=selection(senders),
        receivers=selection(receivers),
    )
    experiment = asked.of(model, made(pairs, model, n, seed))
    return estimates(_Edges, experiment, asked.settings(experiment), method=method, steps=steps, progress=progress)


@dataclass(frozen=True, eq=False)
class _Edges(Estimates):
    """Some prompts on their way to estimates of all their edges."""

    experiment: PathExperiment

    @property
    def _grid(self) -> PathGrid:
        return self.experiment.grid

    @property
    def points(self) -> list[str]:
        """Full names of the activations whose gradients are taken."""
        return list(dict.fromkeys(name for name, *_ in self._reads()))

    @property
    def held(self) -> int:
        """Elements that are held for each prompt beside activations."""
        width = self.experiment.model.config.d_model
        elements = sum(1 if sender.kind == "neuron" else width for sender in self._grid.senders)
        most = max(1, *(len(names) for names in self._by_point.values())) if self._by_point else 1
        return self.length * (elements + 4 * most * len(self._grid.senders)) + 4 * int(np.prod(self._grid.shape[1:]))

    def estimated(self) -> dict[str, Tensor]:
        """Their cells, their values, and the metric of each prompt's two runs."""
        grid, reads = self._grid, self._reads()
        old, new = self.run("old", self._writes), self.run("new", self._writes)
        found = np.zeros((len(self.prompts), *grid.shape[1:]))
        blocks = self._blocks(old, new)
        for slopes in self.slopes(old, self.points):
            for name, gradient in slopes.gradients.items():
                there = [read for read in reads if read[0] == name]
                heads = [receiver.index for _, receiver, *_ in there]
                by_receiver = gradient[:, :, None] if gradient.ndim == 3 else gradient[:, :, heads]
                by_pos = np.concatenate([block.towards(by_receiver) for block in blocks], 2)[:, :, self._order]
                for number, (_, receiver, at, of) in enumerate(there):
                    arrived = by_pos[..., number] * (self.share * self._arrives(receiver))
                    for prompt, edges in enumerate(arrived):
                        found[prompt, :, at, of] += self._told_apart(self.prompts[prompt], edges.T)
        values = found.reshape(len(self.prompts), -1) + old.metric.double().cpu().numpy()[:, None]
        cells = np.array(self.prompts)[:, None] * values.shape[1] + np.arange(values.shape[1])
        return self.results(cells.ravel(), values.ravel(), old, new)

    @property
    def _by_point(self) -> dict[str, list[int]]:
        """Numbers of the receivers at each point."""
        found: dict[str, list[int]] = {}
        for name, _, number, _ in self._reads():
            found.setdefault(name, []).append(number)
        return found

    def _reads(self) -> list[tuple[str, Component, int, int]]:
        """Points where receivers read: the receiver, and the numbers of it and of the input."""
        grid = self._grid
        return [
            (_read_at(grid, receiver, name), receiver, number, grid.labels["input"].index(name))
            for number, (receiver, inputs) in enumerate(grid.receivers.items())
            for name in inputs
        ]

    @property
    def _writes(self) -> list[str]:
        return list(dict.fromkeys(map(_written_at, self._grid.senders)))

    def _blocks(self, old: Upward, new: Upward) -> list["_Block"]:
        """By how much what senders write differs between the two runs, senders of one kind and layer together."""
        found = []
        for (name, neurons), numbers in self._together.items():
            senders, change = [self._grid.senders[at] for at in numbers], new.values[name] - old.values[name]
            layer = self.experiment.model.blocks[senders[0].layer] if senders[0].kind != "embed" else None
            chosen = [sender.index for sender in senders]
            if neurons and layer is not None and layer.mlp is not None:
                found.append(_Block(change[:, :, chosen], layer.mlp.W_out[chosen]))
            elif senders[0].kind == "head" and layer is not None:
                found.append(_Block(torch.einsum("bphd,hdm->bphm", change[:, :, chosen], layer.attn.W_O[chosen])))
            else:
                found.append(_Block(change[:, :, None].expand(-1, -1, len(senders), -1)))
        return found

    @cached_property
    def _together(self) -> dict[tuple[str, bool], list[int]]:
        """Numbers of the senders that are told by one point."""
        found: dict[tuple[str, bool], list[int]] = {}
        for at, sender in enumerate(self._grid.senders):
            found.setdefault((_written_at(sender), sender.kind == "neuron"), []).append(at)
        return found

    @property
    def _order(self) -> np.ndarray:
        """Where among the blocks each sender is."""
        return np.argsort([at for numbers in self._together.values() for at in numbers])

    def _arrives(self, receiver: Component) -> np.ndarray:
        """1 for each sender whose change reaches the receiver; without residual connections only the nearest's does."""
        residual, has_mlp = self.experiment.model.config.residual, self.experiment.model.config.mlp is not None
        there = 2 * receiver.layer + (receiver.kind == "mlp")
        step = 1 if has_mlp else 2  # without MLPs, behind attention is before the next
        near = [residual or there - stage(sender) < step for sender in self._grid.senders]
        return np.array([reaches(s, receiver) and close for s, close in zip(self._grid.senders, near, strict=True)])

    def _told_apart(self, prompt: int, by_pos: np.ndarray) -> np.ndarray:
        """Summed over the positions, unless these are told apart."""
        places = self._grid.places(prompt)
        return by_pos.sum(1) if places == [None] else by_pos[:, [place for place in places if place is not None]]


def _read_at(grid: PathGrid, receiver: Component, name: str) -> str:
    """The point at which a receiver reads by an input."""
    if name == "logits":
        return point("resid_post", grid.scene.n_layers - 1)
    return point("mlp_in" if name == "mlp" else f"{name}_input", receiver.layer)


def _written_at(sender: Component) -> str:
    """The point that tells what a sender writes."""
    return point(SITES[sender.kind], None if sender.kind == "embed" else sender.layer)


@dataclass(frozen=True, eq=False)
class _Block:
    """Changes of some senders of one kind and layer."""

    change: Tensor
    """``[prompt pos sender d_model]``; ``[prompt pos sender]`` of neurons."""
    out: Tensor | None = None
    """``[sender d_model]``: what each neuron writes."""

    @torch.no_grad()
    def towards(self, gradient: Float[Tensor, "prompt pos receiver d_model"]) -> np.ndarray:
        """``[prompt pos sender receiver]``: what the changes mean to what some receivers read."""
        if self.out is None:
            return (self.change @ gradient.mT).double().cpu().numpy()
        return ((gradient @ self.out.T).mT * self.change[..., None]).double().cpu().numpy()
