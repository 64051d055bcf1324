"""Patch every edge from senders to receivers, and measure what changes.

In: a model, pairs of prompts, who sends and who receives. Out: a `Measurement`
``[prompt, sender, receiver, input]`` of the raw metric, and beside it that of the clean and the corrupted run.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from pellucid.base.errors import ArgumentError, UnknownNameError
from pellucid.distributed.executor import Executor
from pellucid.hooked_transformer import HookedTransformer
from pellucid.hooks.edits import Edit
from pellucid.measurement import Measurement
from pellucid.patching.asked import Asked, check_lengths, why_plainly
from pellucid.patching.experiment import Experiment
from pellucid.patching.needs import Need, Needs
from pellucid.patching.outcome import outcome
from pellucid.patching.path_entries import received
from pellucid.patching.path_plan import Crossing, PathGrid, make_path_plan
from pellucid.patching.path_streams import SITES, PathStreams, base_stream
from pellucid.patching.plainly import Metric
from pellucid.patching.plan import Joining
from pellucid.patching.readout import Readout
from pellucid.patching.runs import PromptRun, span
from pellucid.patching.selections import Selection, selection
from pellucid.patching.sites import point
from pellucid.patching.sweep import made, metric_of
from pellucid.patching.walk import Chunks, Group, walk
from pellucid.tasks.pairs import Pairs
from pellucid.tasks.task import Task

THROUGH = ("edge", "mlps", "all")


def paths(
    model: HookedTransformer,
    pairs: Pairs | Task,
    *,
    senders: Selection | str,
    receivers: Selection | str,
    through: str = "edge",
    over: str | None = None,
    norm: str = "recomputed",
    metric: Metric | None = None,
    direction: Literal["denoise", "noise"] = "denoise",
    corrupt: Edit | None = None,
    n: int | None = None,
    seed: int = 0,
    max_memory: int | float | str | None = None,
    executor: Executor | None = None,
    journal: str | Path | None = None,
    progress: bool | None = None,
) -> Measurement:
    """Puts what one part sends to another out of one run into the other, each edge alone; exact, and in bulk.

    The receiver reads the stream as it would be, had the sender written what it did in the other run; what it makes of
    that is recomputed, and so is everything above it. What lies between the two is held, as `through` says.

    Args:
        model: A model whose blocks are its own, with no standing hooks.
        pairs: Clean and corrupted prompts, or a task that makes them.
        senders: Who sends: `heads()`, `mlps()`, `embed()`, `neurons(layer)`, joined by ``+``, or names such as
            ``"0.1 + mlp3"``.
        receivers: Who receives: `heads()`, `heads("q")`, `mlps()`, `logits()`, or names such as ``"9.6:q"``.
        through: ``"edge"``: that edge alone, all else between is held. ``"mlps"``: MLPs and norms between are
            recomputed, heads are held. ``"all"``: everything between is recomputed.
        over: ``"pos"``, ``"position"`` (by name): senders are patched at one position each; None: at all at once.
        norm: Whether the receiver's norm takes its scale anew, or keeps that of the run that is patched.
        metric: As for `sweep`; a function of all logits is refused.
        direction: As for `sweep`.
        corrupt: As for `sweep`.
        n: As for `sweep`.
        seed: As for `sweep`.
        max_memory: As for `sweep`.
        executor: As for `sweep`.
        journal: As for `sweep`.
        progress: As for `sweep`.

    Returns:
        ``[prompt, sender, receiver, input]``, then `pos` or `position`, in the metric's unit, with the variables
        ``clean`` and ``corrupted`` ``[prompt]``. An edge that cannot be is NaN: from above, or by an input that the
        receiver has not. Where key/value heads are shared they receive keys and values, as ``"9.kv1"``.

    Raises:
        UnknownNameError: A part, a position or another name means nothing here.
        ArgumentError: The arguments contradict each other, the model or the prompts.
        TooLargeError: `max_memory` does not hold a single edge.
        OutputError: The journal is that of another question.

    Source: Wang et al. 2022, "Interpretability in the Wild" (``"mlps"``); Goldowsky-Dill et al. 2023, "Localizing Model
    Behavior with Path Patching".

    Example:
        >>> from pellucid import HookedTransformer
        >>> model = HookedTransformer.from_pretrained("toy-induction")
        >>> both = Pairs.from_tokens([[0, 5, 9, 7, 3, 8, 5, 9]], [[0, 5, 9, 4, 3, 8, 5, 9]], answer=7, wrong=4)
        >>> effect = paths(model, both, senders="embed + heads", receivers="heads + logits")
        >>> effect.normalised().mean("prompt").top(1).label
        '1.0 → logits'
    """
    asked = AskedPaths(
        over=() if over is None else over,
        metric=metric_of(pairs, metric),
        direction=direction,
        corrupt=corrupt,
        max_memory=max_memory,
        senders=selection(senders),
        receivers=selection(receivers),
        through=through,
        norm=norm,
    )
    experiment = asked.of(model, made(pairs, model, n, seed))
    return outcome(experiment, asked, executor=executor, journal=journal, progress=progress)


@dataclass(frozen=True, kw_only=True)
class AskedPaths(Asked):
    """The arguments of `paths`, as the caller gave them."""

    senders: Selection
    receivers: Selection
    site: None = None
    over: str | Sequence[str] = ()
    through: str = "edge"
    norm: str = "recomputed"

    def of(self, model: HookedTransformer, pairs: Pairs) -> "PathExperiment":
        """What is to be run.

        Raises:
            PellucidError: As for `paths`.
        """
        if self.through not in THROUGH:
            raise UnknownNameError(f"through must be 'edge', 'mlps' or 'all', got {self.through!r}")
        if self.norm not in ("recomputed", "frozen"):
            raise UnknownNameError(f"norm must be 'recomputed' or 'frozen', got {self.norm!r}")
        if self.norm == "frozen" and model.config.norm is None:
            raise ArgumentError("a frozen norm needs a model with norms, this one has none; leave it out")
        metric, scene = self._looked_at(model, pairs)
        reason = why_plainly(model, metric, (), ())
        if reason is not None:
            raise ArgumentError(
                "paths need a model of Pellucid's own blocks without standing hooks, and a metric of rows such as "
                f"LogitDiff(), got one where {reason}; take that away"
            )
        grid = PathGrid(
            scene,
            self.senders.senders(model.config),
            self.receivers.receivers(model.config),
            self.through,
            self._axis(pairs),
        )
        unpatched, other = self._sides(model, pairs)
        return PathExperiment(
            model=model,
            pairs=pairs,
            metric=metric,
            plan=make_path_plan(grid),
            unpatched=unpatched,
            other=other,
            edit=None,
            clean=self.direction == "noise",
            budget=self._budget(model),
            grid=grid,
            frozen=self.norm == "frozen",
        )

    def settings(self, experiment: Experiment) -> dict[str, Any]:
        """What a record must tell."""
        grid = experiment.plan.grid
        receivers = grid.receivers if isinstance(grid, PathGrid) else {}
        found = super().settings(experiment)
        del found["site"], found["freeze"]
        inputs = [f"{receiver.label}:{'+'.join(names)}" for receiver, names in receivers.items()]
        told = {"senders": _ranges(grid.labels["sender"]), "receivers": _ranges(inputs)}
        return found | told | {"over": list(grid.labels), "through": self.through, "norm": self.norm}

    def values(self) -> dict[str, str]:
        """What settings do not tell in full: each sender, and each receiver with its inputs."""
        told = repr((self.senders, self.receivers)).encode()
        return super().values() | {"paths": sha256(told).hexdigest()[:16]}

    def _axis(self, pairs: Pairs) -> str | None:
        over = (self.over,) if isinstance(self.over, str) else tuple(self.over)
        if len(over) > 1 or not set(over) <= {"pos", "position"}:
            raise ArgumentError(f"over must be 'pos', 'position' or None, got {self.over!r}")
        check_lengths(over, pairs)
        return over[0] if over else None


@dataclass(frozen=True, eq=False, kw_only=True)
class PathExperiment(Experiment):
    """Edges under way: what senders change is carried up to the receivers, and what these make of it joins a walk."""

    grid: PathGrid
    frozen: bool

    @property
    def need(self) -> "PathNeed":
        """Which activations are kept."""
        return PathNeed(self.model.config, edited=False)

    def _walk(
        self,
        runs: Mapping[int, PromptRun],
        entries: Sequence[Joining],
        readout: Readout | None,
        advance: Callable[[float], object],
    ) -> None:
        if not entries or readout is None:
            return
        chunks, end = Chunks(self.budget.mlp_rows, self.budget.chunk), self.model.config.n_layers
        streams = PathStreams(self.model, self.grid, runs, chunks)
        crossings = [entry for entry in entries if isinstance(entry, Crossing)]
        streams.carry(crossings)
        for crossing in (crossing for crossing in crossings if crossing.layer == end):
            run = runs[crossing.prompt]
            base = base_stream(run, crossing.reads)[span(crossing.read)]
            group = Group(run, crossing.rows, torch.from_numpy(crossing.cells), streams.of(crossing))
            readout.finish(group, scale=self.model.ln_final.scale(base) if self.frozen else None)

        def prepare(run: PromptRun, crossing: Crossing) -> Tensor:
            return received(run, crossing, streams.of(crossing), frozen=self.frozen, chunks=chunks)

        inside = [crossing for crossing in crossings if crossing.layer < end]
        walk(self.model, runs, inside, prepare=prepare, seen=readout.seen, chunks=chunks)
        advance(self.work(entries))


class PathNeed(Need):
    """Gathers what some crossings need."""

    def of(self, grid: Any, items: Iterable[Any]) -> Needs:
        """What must be kept for some crossings."""
        config, items = self.config, list(items)
        between = "resid_post" if config.mlp is None else "resid_mid"
        sent = {(grid.senders[i].kind, max(0, grid.senders[i].layer)) for item in items for i in item.senders}
        lowest = min((layer for _, layer in sent), default=config.n_layers)
        own = {"hook_embed"} if ("embed", 0) in sent else set[str]()
        own |= {"hook_pos_embed"} & set(grid.scene.hook_names) if own else set()
        for layer in range(lowest, config.n_layers):
            own |= {point(name, layer) for name in ("resid_pre", "z", between, *self.taken("qkv"))}
        own |= {point("resid_post", layer) for _, layer in sent} | {point("resid_post", config.n_layers - 1)}
        own |= {point("post", layer) for kind, layer in sent if kind == "neuron"}
        other = {point(SITES[kind], None if kind == "embed" else layer) for kind, layer in sent}
        return Needs(sorted(own), sorted(other))


def _ranges(labels: Sequence[Any]) -> list[str]:
    """Labels for a record: all of them, where they are not too many."""
    listed = [str(label) for label in labels]
    return listed if len(listed) <= 400 else [*listed[:200], f"… {len(listed) - 400} more …", *listed[-200:]]
