"""What of the senders reaches the receivers: the stream that each of these reads.

Senders are patched as a sweep's cells are (`entries.py`). What they change in the stream is then carried up: as it is
(`edge`), through MLPs alone (`mlps`), or through everything (`all`).
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.hooked_transformer import HookedTransformer
from pellucid.patching.entries import prepared
from pellucid.patching.path_plan import Crossing, PathGrid
from pellucid.patching.plan import Entry
from pellucid.patching.runs import PromptRun, span
from pellucid.patching.sites import Place
from pellucid.patching.walk import At, Chunks, Group, after_mlp, walk

Streams = Float[Tensor, "sender read d_model"]
PLACES: tuple[Place, ...] = ("before", "between")
SITES = {"embed": "embed", "head": "z", "mlp": "mlp_out", "neuron": "post"}


def base_stream(run: PromptRun, at: At) -> Float[Tensor, "pos d_model"]:
    """The unpatched stream before a layer, in its midst, or behind the last one."""
    layer, place = at
    if place == "between":
        return run.old("resid_post" if run.model.config.mlp is None else "resid_mid", layer)
    if layer == run.model.config.n_layers:
        return run.old("resid_post", layer - 1)
    return run.old("resid_pre", layer)


@dataclass(frozen=True, eq=False)
class _Changed:
    """The stream of some senders at the rows that have changed."""

    senders: list[int]
    rows: Sequence[int]
    x: Streams


class PathStreams:
    """The stream that receivers read, with one sender's value put in below.

    Args:
        model: Whose blocks are in pieces.
        grid: The edges.
        runs: The unpatched run of each prompt.
        chunks: How much is worked on at once.
    """

    def __init__(self, model: HookedTransformer, grid: PathGrid, runs: Mapping[int, PromptRun], chunks: Chunks) -> None:
        self.model, self.grid, self.runs, self.chunks = model, grid, runs, chunks
        self._made: dict[tuple[int, int | None, At], list[_Changed]] = defaultdict(list)

    def carry(self, crossings: Sequence[Crossing]) -> None:
        """Works out what the receivers of some crossings read; what earlier ones read is forgotten."""
        self._made.clear()
        together: dict[tuple[int, int | None], list[Crossing]] = defaultdict(list)
        for crossing in crossings:
            together[crossing.prompt, crossing.pos].append(crossing)
        for (prompt, pos), asked in together.items():
            run = self.runs[prompt]
            senders = sorted({int(sender) for crossing in asked for sender in crossing.senders})
            start = self.grid.scene.first[prompt] if pos is None else pos
            rows = tuple(range(start, run.end + 1)) if pos is None else (pos,)
            keep = {crossing.reads for crossing in asked}
            carried = self._through_all if self.grid.through == "all" else self._through_mlps
            for at, changed in carried(run, self._entries(prompt, pos, rows, senders), keep):
                self._made[prompt, pos, at].append(changed)

    def of(self, crossing: Crossing) -> Streams:
        """What the receivers of a crossing read, at the positions where it may have changed."""
        x = base_stream(self.runs[crossing.prompt], crossing.reads)[span(crossing.read)]
        x = x.expand(len(crossing.senders), -1, -1).clone()
        place = {sender: at for at, sender in enumerate(crossing.senders.tolist())}
        for changed in self._made[crossing.prompt, crossing.pos, crossing.reads]:
            ours = [at for at, sender in enumerate(changed.senders) if sender in place]
            both = [row for row in changed.rows if row in crossing.read]
            if ours and both:
                here = torch.tensor([place[changed.senders[at]] for at in ours], device=x.device)
                rows = torch.tensor([crossing.read.index(row) for row in both], device=x.device)
                x[here[:, None], rows] = changed.x[ours][:, [list(changed.rows).index(row) for row in both]]
        return x

    def _entries(self, prompt: int, pos: int | None, rows: tuple[int, ...], senders: Sequence[int]) -> list[Entry]:
        """Senders of one kind and layer are patched together, as cells of a sweep."""
        alike: dict[tuple[str, int], list[int]] = defaultdict(list)
        for sender in senders:
            component = self.grid.senders[sender]
            alike[component.kind, max(0, component.layer)].append(sender)
        found = []
        for (kind, layer), numbers in alike.items():
            told = kind in ("head", "neuron")
            ids = np.array([self.grid.senders[sender].index for sender in numbers]) if told else None
            entry = Entry(prompt, SITES[kind], layer, pos, rows, len(rows), ids, None, np.array(numbers), not told)
            found.append(entry)
        return found

    def _through_mlps(self, run: PromptRun, entries: Sequence[Entry], keep: set[At]) -> Iterator[tuple[At, _Changed]]:
        """Past frozen attention, and past MLPs that are frozen, too, or do their work again."""
        joining: dict[At, list[Entry]] = defaultdict(list)
        for entry in entries:
            joining[entry.joins].append(entry)
        senders: list[int] = []
        rows = entries[0].rows
        change = torch.empty(0, len(rows), self.model.config.d_model, device=self.model.device, dtype=self.model.dtype)
        top = max(keep)
        for at in product(range(min(joining)[0], top[0] + 1), PLACES):
            if at > top:
                return
            base = base_stream(run, at)[span(rows)]
            for entry in joining.pop(at, ()):
                senders = senders + entry.cells.tolist()
                change = torch.cat([change, prepared(run, entry) - base])
            if at in keep and senders:
                yield at, _Changed(senders, rows, base + change)
            if senders and at < top:
                change = self._past(run, at, rows, base, change)

    def _past(self, run: PromptRun, at: At, rows: Sequence[int], base: Tensor, change: Streams) -> Streams:
        """What is left of a change behind the next part of the model."""
        block = self.model.blocks[at[0]]
        if at[1] == "between" and block.mlp is None:
            return change  # behind this attention is before the next
        if at[1] == "between" and self.grid.through == "mlps":
            flat = (base + change).flatten(0, 1)
            after = torch.cat([after_mlp(block, part) for part in flat.split(self.chunks.mlp_rows)])
            return after.view(change.shape) - base_stream(run, (at[0] + 1, "before"))[span(rows)]
        return change if block.residual else torch.zeros_like(change)

    def _through_all(self, run: PromptRun, entries: Sequence[Entry], keep: set[At]) -> Iterator[tuple[At, _Changed]]:
        """Past everything: the walk of a sweep, looked into on the way."""
        found: list[tuple[At, _Changed]] = []

        def seen(at: At, groups: Sequence[Group]) -> None:
            if at in keep:
                found.extend((at, _Changed(group.cells.tolist(), group.rows, group.x)) for group in groups)

        walk(self.model, {run.index: run}, entries, seen=seen, until=max(keep), chunks=self.chunks)
        yield from found
