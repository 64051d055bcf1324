"""What `paths` would find, estimated from gradients: what each sender's change means to what each receiver reads.

In: who sends and who receives, and a method. Out: the Measurement of `paths`, of estimates.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.hooked_transformer import HookedTransformer
from pellucid.hooks.edits import Edit
from pellucid.measurement import Measurement
from pellucid.patching.attribution import PromptGradients, check_method, prompt_by_prompt
from pellucid.patching.path_plan import PathGrid, reaches, stage
from pellucid.patching.path_streams import SITES
from pellucid.patching.paths import AskedPaths, PathExperiment
from pellucid.patching.plainly import Metric
from pellucid.patching.selections import Component, Selection, selection
from pellucid.patching.sites import point
from pellucid.patching.sweep import made
from pellucid.tasks.pairs import Pairs, Task

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
        '1.1 → logits logits'
    """
    check_method(method, steps, METHODS, " for edges")
    asked = AskedPaths(
        over=() if over is None else over,
        metric=metric,
        direction=direction,
        corrupt=corrupt,
        senders=selection(senders),
        receivers=selection(receivers),
    )
    experiment = asked.of(model, made(pairs, model, n, seed))
    each = [_Edges(experiment, prompt, method, steps) for prompt in range(len(experiment.pairs))]
    return prompt_by_prompt(each, asked.settings(experiment), progress=progress)


@dataclass(frozen=True, eq=False)
class _Edges(PromptGradients):
    """One prompt on its way to estimates of all its edges."""

    experiment: PathExperiment

    @property
    def _grid(self) -> PathGrid:
        return self.experiment.grid

    def estimated(self) -> dict[str, Tensor]:
        """Its cells, their values, and the metric of its two self."""
        grid = self._grid
        reads = {name: _read_at(grid, name) for name in grid.labels["input"]}
        points = list(dict.fromkeys(name for read in reads.values() for name in read.values()))
        gradients = self.mean_gradients(points)
        changes = self._changes()
        found = np.zeros(grid.shape[1:])
        for at, name in enumerate(grid.labels["input"]):
            for number, (receiver, inputs) in enumerate(grid.receivers.items()):
                if name in inputs:
                    gradient = gradients[reads[str(name)][receiver]][0]
                    if name in ("q", "k", "v"):
                        gradient = gradient[:, receiver.index]
                    by_pos = torch.einsum("spm,pm->sp", changes, gradient).double().cpu().numpy()
                    found[:, number, at] = self._told_apart(by_pos * self._arrives(receiver)[:, None])
        values = self.unpatched + found.ravel()
        first = self.prompt * values.size
        return self.results(np.arange(first, first + values.size), values)

    def _changes(self) -> Float[Tensor, "sender pos d_model"]:
        """By how much what each sender writes differs between the two self."""
        model, senders = self.experiment.model, self._grid.senders
        at = {sender: point(SITES[sender.kind], None if sender.kind == "embed" else sender.layer) for sender in senders}
        points = list(dict.fromkeys(at.values()))
        old, new = self.read("old", points), self.read("new", points)
        change = {name: (new[name] - old[name])[0] for name in points}
        return torch.stack([_written(model, sender, change[at[sender]]) for sender in senders])

    def _arrives(self, receiver: Component) -> np.ndarray:
        """1 for each sender whose change reaches the receiver; without residual connections only the nearest's does."""
        residual, has_mlp = self.experiment.model.config.residual, self.experiment.model.config.mlp is not None
        there = 2 * receiver.layer + (receiver.kind == "mlp")
        step = 1 if has_mlp else 2  # without MLPs, behind attention is before the next
        near = [residual or there - stage(sender) < step for sender in self._grid.senders]
        return np.array([reaches(s, receiver) and close for s, close in zip(self._grid.senders, near, strict=True)])

    def _told_apart(self, by_pos: np.ndarray) -> np.ndarray:
        """Summed over the positions, unless these are told apart."""
        places = self._grid.places(self.prompt)
        return by_pos.sum(1) if places == [None] else by_pos[:, [place for place in places if place is not None]]


def _read_at(grid: PathGrid, name: object) -> dict[Component, str]:
    """The point at which each receiver reads by an input."""
    n_layers = grid.scene.n_layers
    found: dict[Component, str] = {}
    for receiver, inputs in grid.receivers.items():
        if name in inputs:
            match name:
                case "mlp":
                    found[receiver] = point("mlp_in", receiver.layer)
                case "logits":
                    found[receiver] = point("resid_post", n_layers - 1)
                case _:
                    found[receiver] = point(f"{name}_input", receiver.layer)
    return found


@torch.no_grad()
def _written(model: HookedTransformer, sender: Component, change: Tensor) -> Float[Tensor, "pos d_model"]:
    """What a sender's change is in the stream."""
    if sender.kind == "head":
        return change[:, sender.index] @ model.blocks[sender.layer].attn.W_O[sender.index]
    if sender.kind == "neuron" and (mlp := model.blocks[sender.layer].mlp) is not None:
        return change[:, sender.index, None] * mlp.W_out[sender.index]
    return change
