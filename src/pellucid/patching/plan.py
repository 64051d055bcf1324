"""From a question to the fewest runs that answer it. Pure: no tensors, no model.

In: what is patched, and what must be known of model and prompts. Out: a `Plan`: which cells are known without running,
which join one walk through the layers (`Entry`), and which must be run plainly (`PlainCells`).
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from jaxtyping import Int

from pellucid.patching.explained import explained
from pellucid.patching.grid import Grid, Label, Question, Scene, Touch
from pellucid.patching.sites import KINDS, PART_AXES, Kind, Place

SAME = "before the first token in which the two runs differ"
BEHIND = "behind the positions that the metric looks at"
UNSEEN = "in the last layer, at a position that the metric does not look at"
BLIND = "a key behind its query, which neither run sees"


class Joining:
    """Cells of one prompt that join the walk together."""

    prompt: int
    layer: int
    rows: tuple[int, ...]
    """The positions whose stream has changed where the cells join."""
    carried: int
    """Positions that each cell carries through the layers above."""
    cells: Int[np.ndarray, " cell"]
    """Where the results belong, in the grid laid out flat."""

    @property
    def joins(self) -> tuple[int, Place]:
        """Where they join: behind a layer's MLP is before the next layer."""
        raise NotImplementedError

    @property
    def held(self) -> int:
        """As many cells take as much memory as these do."""
        return len(self.cells)

    def pieces(self, most: int) -> "Iterator[Joining]":
        """The same cells in parts of so many at the most."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Entry(Joining):
    """Cells that join the walk together: of one prompt, one layer and one row; they differ in part or key."""

    prompt: int
    site: str
    layer: int
    pos: int | None
    """The position that is patched; None for all of `rows`."""
    rows: tuple[int, ...]
    """The positions whose stream has changed where the cells join."""
    carried: int
    """Positions that each cell carries through the layers above."""
    ids: Int[np.ndarray, " id"] | None
    """Heads or neurons; None for all."""
    keys: Int[np.ndarray, " cell"] | None
    """The key position of each cell, where it patches one alone."""
    cells: Int[np.ndarray, " cell"]
    """Where the results belong, in the grid laid out flat."""
    together: bool
    """Whether all of `ids` are patched at once, in a single cell."""

    @property
    def kind(self) -> Kind:
        """How it is prepared, and where it joins."""
        return KINDS[self.site]

    @property
    def joins(self) -> tuple[int, Place]:
        """Where they join: behind a layer's MLP is before the next layer."""
        joins = self.kind.joins
        return (self.layer + 1, "before") if joins == "behind" else (self.layer, joins)

    def pieces(self, most: int) -> Iterator["Entry"]:
        """The same cells in entries of so many at the most."""
        for first in range(0, len(self.cells), most):
            part = slice(first, first + most)
            ids = self.ids if self.together or self.ids is None else self.ids[part]
            keys = None if self.keys is None else self.keys[part]
            yield replace(self, ids=ids, keys=keys, cells=self.cells[part])


@dataclass(frozen=True, eq=False)
class PlainCells:
    """Cells of one prompt that are run plainly, each as a prompt of a batch."""

    prompt: int
    layer: int | None
    """The lowest that is touched; None for the embedding."""
    cells: Int[np.ndarray, " cell"]
    touched: tuple[tuple[str, int | None], ...]
    """Site and layer of every point that one of them patches."""

    def pieces(self, most: int) -> Iterator["PlainCells"]:
        """The same cells in parts of so many at the most."""
        for first in range(0, len(self.cells), most):
            yield replace(self, cells=self.cells[first : first + most])


Item: TypeAlias = Joining | PlainCells


@dataclass(frozen=True, eq=False)
class Plan:
    """What will be run for each cell, and which cells need no run."""

    grid: Grid
    entries: tuple[Joining, ...]
    plain: tuple[PlainCells, ...]
    known: Mapping[str, int]
    """Cells that cannot change, by the reason."""
    jobs: int | None = None
    """Parts that the work is split in, once that is settled."""

    @property
    def items(self) -> tuple[Item, ...]:
        """Everything that is run, in order."""
        return (*self.entries, *self.plain)

    def explain(self) -> str:
        """What will run, how often, and which cells are known without running."""
        walked, plain = Counter[str](), Counter[int | None]()
        for entry in (entry for entry in self.entries if isinstance(entry, Entry)):
            walked[entry.kind.prepared] += len(entry.cells)
        for batch in self.plain:
            plain[batch.layer] += len(batch.cells)
        rows = sum(len(entry.cells) * entry.carried for entry in self.entries)
        return explained(self.grid, known=self.known, walked=walked, rows=rows, plain=plain, jobs=self.jobs)


def make_plan(question: Question, scene: Scene) -> Plan:
    """The fewest runs that answer a question."""
    grid = Grid(question, scene)
    known: Counter[str] = Counter()
    entries: list[Entry] = []
    plain: dict[tuple[int, int | None], list[tuple[np.ndarray, list[Touch]]]] = {}
    offsets, _ = grid.offsets
    for prompt in range(len(scene.lengths)):
        for where, first in grid.outer(prompt):
            touched = grid.touched(prompt, where)
            if question.plainly is None and len(touched) == 1 and _can_walk(touched[0]):
                row = _Row(grid, known, prompt, where, first, touched[0])
                entries += row.entries()
            else:
                plain.setdefault((prompt, _lowest(touched, scene)), []).append((first + offsets, touched))
    entries.sort(key=lambda entry: (entry.prompt, entry.layer))
    return Plan(grid, tuple(entries), tuple(_batch(*key, rows) for key, rows in plain.items()), dict(known))


def _batch(prompt: int, layer: int | None, rows: list[tuple[np.ndarray, list[Touch]]]) -> PlainCells:
    points = dict.fromkeys((touch.site, touch.layer) for _, touched in rows for touch in touched)
    return PlainCells(prompt, layer, np.concatenate([cells for cells, _ in rows]), tuple(points))


def _can_walk(touch: Touch) -> bool:
    part = touch.part
    single = not isinstance(part.pos, list | slice)
    return (
        bool(KINDS[touch.site].prepared) and single and part.k_pos is None and not isinstance(part.q_pos, list | slice)
    )


def _lowest(touched: list[Touch], scene: Scene) -> int | None:
    layers = [touch.layer if touch.layer is not None else _end(touch, scene) for touch in touched]
    return None if None in layers else min((layer for layer in layers if layer is not None), default=scene.n_layers)


def _end(touch: Touch, scene: Scene) -> int | None:
    return scene.n_layers if touch.site.startswith("ln_final") else None


@dataclass(frozen=True)
class _Row:
    """The cells of one prompt, layer and row, on their way to entries."""

    grid: Grid
    known: Counter[str]
    prompt: int
    where: Mapping[str, Label]
    first: int
    touch: Touch

    def entries(self) -> list[Entry]:
        """One entry, one for each key where no query is told, or none where all is known."""
        offsets, index = self.grid.offsets
        keys, part = index.get("k_pos"), next((index[axis] for axis in self.grid.inner if axis != "k_pos"), None)
        pos = self._pos()
        if keys is None or pos is not None:
            seen = np.ones(len(offsets), bool)
            if keys is not None and pos is not None and self.grid.question.causal:
                seen = keys <= pos
                self.known[BLIND] += int((~seen).sum())
            return self._entry(pos, self._begin(pos), self.first + offsets[seen], _of(part, seen), _of(keys, seen))
        found = []
        for key in range(len(self.grid.labels["k_pos"])):
            here = keys == key
            start = max(self._begin(None), key if self.grid.question.causal else 0)  # earlier queries do not see it
            found += self._entry(None, start, self.first + offsets[here], _of(part, here), keys[here])
        return found

    def _pos(self) -> int | None:
        """The position that is patched."""
        row = self.grid.row(self.prompt, self.where)
        told = self.touch.part.pos if self.touch.part.q_pos is None else self.touch.part.q_pos
        row = told if row is None else row
        if isinstance(row, int) and row < 0:
            row += self.grid.scene.lengths[self.prompt]
        return row if isinstance(row, int) else None

    def _begin(self, pos: int | None) -> int:
        """The first position that changes."""
        if pos is not None:
            return pos
        return self.grid.scene.first[self.prompt] if self.grid.question.causal else 0

    def _entry(
        self,
        pos: int | None,
        start: int,
        cells: Int[np.ndarray, " cell"],
        ids: Int[np.ndarray, " cell"] | None,
        keys: Int[np.ndarray, " cell"] | None,
    ) -> list[Entry]:
        scene, kind, layer = self.grid.scene, KINDS[self.touch.site], self.touch.layer or 0
        wanted = [p for p in scene.wanted[self.prompt] if p >= start]
        if (self.grid.question.causal and start < scene.first[self.prompt]) or start >= scene.lengths[self.prompt]:
            return self._known(SAME, cells)
        if not wanted:
            return self._known(BEHIND, cells)
        rows = range(start, wanted[-1] + 1)
        if pos is not None and (kind.joins == "before" or not kind.spreads):
            rows = [pos]
        if layer == scene.n_layers - 1 and kind.joins != "before":
            rows = [p for p in rows if p in wanted]
        if not rows:
            return self._known(UNSEEN, cells)
        return [
            Entry(
                prompt=self.prompt,
                site=self.touch.site,
                layer=layer,
                pos=pos,
                rows=tuple(rows),
                carried=wanted[-1] + 1 - start,
                ids=self._told_ids() if ids is None else ids,
                keys=keys,
                cells=cells,
                together=ids is None,
            )
        ]

    def _told_ids(self) -> Int[np.ndarray, " id"] | None:
        """The heads or neurons to which the site is narrowed, counted from 0; None for all."""
        for axis in PART_AXES:
            told = getattr(self.touch.part, axis)
            if told is not None:
                every = np.arange(self.grid.scene.sizes[axis])
                return np.atleast_1d(every[told])
        return None

    def _known(self, reason: str, cells: Int[np.ndarray, " cell"]) -> list[Entry]:
        self.known[reason] += len(cells)
        return []


def _of(index: Int[np.ndarray, " cell"] | None, chosen: np.ndarray) -> Int[np.ndarray, " chosen"] | None:
    return None if index is None else index[chosen]
