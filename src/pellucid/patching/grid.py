"""The cells of a sweep: which there are, and what each of them patches. Pure: no tensors, no model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from pellucid.base.errors import ArgumentError
from pellucid.hooks.site import Site
from pellucid.patching.sites import PART_AXES, axes_of, layers_of, point, site_name

Label = int | str
INNER = (*PART_AXES, "k_pos")
"""Axes along which cells of one row of one layer lie, that are worked out together."""


@dataclass(frozen=True)
class Scene:
    """What must be known of the model and the prompts."""

    n_layers: int
    hook_names: tuple[str, ...]
    sizes: Mapping[str, int]
    """Entries of head, kv_head and neuron."""
    lengths: tuple[int, ...]
    """Tokens of each prompt."""
    first: tuple[int, ...]
    """The first position in which a prompt's two runs differ; its length where they never do."""
    wanted: tuple[tuple[int, ...], ...]
    """The positions that the metric looks at, rising."""
    positions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Positions by name, for each prompt."""


@dataclass(frozen=True)
class Question:
    """What is patched."""

    sites: tuple[str, ...]
    over: tuple[str, ...]
    parts: Mapping[str, Site] = field(default_factory=dict)
    """To what some of the sites are narrowed: layers, positions, heads."""
    groups: Mapping[str, tuple[Site, ...]] = field(default_factory=dict)
    causal: bool = True
    """Whether the values put in are those of another run at the same place, so that equal beginnings may be skipped."""
    freeze: tuple[str, ...] = ()
    """What is held at its value in the unpatched run."""
    plainly: str | None = None
    """Why nothing can be shortened; None where it can."""


@dataclass(frozen=True)
class Touch:
    """A hook point that a cell patches, and which part of it."""

    site: str
    layer: int | None
    """None outside the blocks."""
    part: Site

    @property
    def point(self) -> str:
        """Full name of the hook point."""
        return point(self.site, self.layer)


class Grid:
    """The cells: one for each prompt and each combination of labels.

    Args:
        question: What is patched.
        scene: Model and prompts.
    """

    def __init__(self, question: Question, scene: Scene) -> None:
        self.question, self.scene = question, scene
        self.labels: dict[str, tuple[Label, ...]] = {axis: self._labels(axis) for axis in question.over}

    def _labels(self, axis: str) -> tuple[Label, ...]:
        scene, question = self.scene, self.question
        if axis == "layer":
            found = [set(there) for site in question.sites if None not in (there := self.layers[site])]
            return tuple(sorted(layer for layer in set.intersection(*found) if layer is not None))
        if axis == "position":
            return tuple(scene.positions)
        if axis == "group":
            return tuple(question.groups)
        if axis in ("pos", "q_pos", "k_pos"):
            return tuple(range(max(scene.lengths, default=0)))
        return tuple(range(scene.sizes[axis]))

    @cached_property
    def impossible(self) -> Bool[np.ndarray, " cell"]:
        """True, of the cells laid out flat, where there is nothing to patch; of a sweep's, nowhere."""
        return np.zeros(int(np.prod(self.shape)), bool)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Prompts, then the axes asked for."""
        return (len(self.scene.lengths), *map(len, self.labels.values()))

    @cached_property
    def strides(self) -> dict[str, int]:
        """How far apart neighbours along each axis lie, in the cells laid out flat."""
        steps = np.cumprod((1, *self.shape[:0:-1]))[::-1].tolist()
        return dict(zip(("prompt", *self.labels), steps, strict=True))

    @property
    def inner(self) -> tuple[str, ...]:
        """Axes along which cells are worked out together."""
        return tuple(axis for axis in self.labels if axis in INNER)

    def outer(self, prompt: int) -> Iterator[tuple[dict[str, Label], int]]:
        """What sets the rows of a prompt's cells apart: labels, and where the first cell lies."""
        axes = [axis for axis in self.labels if axis not in INNER]
        for at in product(*(range(len(self.labels[axis])) for axis in axes)):
            first = prompt * self.strides["prompt"] + sum(
                i * self.strides[axis] for axis, i in zip(axes, at, strict=True)
            )
            yield {axis: self.labels[axis][i] for axis, i in zip(axes, at, strict=True)}, first

    @cached_property
    def offsets(self) -> tuple[Int[np.ndarray, " cell"], dict[str, Int[np.ndarray, " cell"]]]:
        """Of the cells along the inner axes: how far each lies from the first, and its index on each axis."""
        sizes = [len(self.labels[axis]) for axis in self.inner]
        index = {axis: part.ravel() for axis, part in zip(self.inner, np.indices(sizes), strict=True)}
        where = sum((part * self.strides[axis] for axis, part in index.items()), np.zeros(int(np.prod(sizes)), int))
        return where, index

    def touched(self, prompt: int, where: Mapping[str, Label]) -> list[Touch]:
        """What a cell patches, or all cells of a row where `where` leaves the inner axes out."""
        if "group" in where:
            found = [
                Touch(site_name(site.name), layer, self._placed(site_name(site.name), site, prompt, where))
                for site in self.question.groups[str(where["group"])]
                for layer in self._group_layers(site)
            ]
        else:
            found = []
            for site in self.question.sites:
                part = self._part(site, prompt, where)
                found += [Touch(site, layer, part) for layer in self._layers(site, where)]
        return found

    def _layers(self, site: str, where: Mapping[str, Label]) -> list[int | None]:
        there = self.layers[site]
        return [int(where["layer"])] if "layer" in where and there != [None] else there

    @cached_property
    def layers(self) -> dict[str, list[int | None]]:
        """The layers that have each site; [None] for one outside the blocks."""
        named = {site_name(site.name) for sites in self.question.groups.values() for site in sites}
        there = {site: layers_of(site, self.scene.hook_names) for site in (*self.question.sites, *named)}
        return there | {site: self._chosen(part, there[site]) for site, part in self.question.parts.items()}

    def cell(self, flat: int) -> tuple[int, dict[str, Label]]:
        """The prompt and the labels of a cell."""
        prompt, *at = np.unravel_index(flat, self.shape)
        return int(prompt), {axis: self.labels[axis][i] for axis, i in zip(self.labels, at, strict=True)}

    def row(self, prompt: int, where: Mapping[str, Label]) -> int | None:
        """The position that a row of cells patches; None for all."""
        if "position" in where:
            return self.scene.positions[str(where["position"])][prompt]
        row = where.get("pos", where.get("q_pos"))
        return None if row is None else int(row)

    def _part(self, site: str, prompt: int, where: Mapping[str, Label]) -> Site:
        axes, picked = axes_of(site), dict[str, Any]()
        for axis in INNER:
            if axis in where:
                picked["kv_head" if axis == "head" and "kv_head" in axes else axis] = where[axis]
        narrowed = self.question.parts.get(site)
        if narrowed is not None:
            return self._placed(site, narrowed, prompt, where, **picked)
        return Site(axes_name(site), **picked, **self._at_row(axes, prompt, where))

    def _placed(self, site: str, part: Site, prompt: int, where: Mapping[str, Label], **picked: Any) -> Site:
        """A part of a site with its named position made a number, or with the row's position."""
        pos = self.scene.positions[part.pos][prompt] if isinstance(part.pos, str) else part.pos
        moved = {"pos": pos, **self._at_row(axes_of(site), prompt, where), **picked}
        return replace(part, name=axes_name(site), layer=None, **moved)

    def _at_row(self, axes: Sequence[str], prompt: int, where: Mapping[str, Label]) -> dict[str, Any]:
        row = self.row(prompt, where)
        return {} if row is None else {"q_pos" if "q_pos" in axes else "pos": row}

    def _group_layers(self, site: Site) -> list[int | None]:
        return self._chosen(site, self.layers[site_name(site.name)])

    def _chosen(self, site: Site, there: list[int | None]) -> list[int | None]:
        """The layers that a site means, of those that have it."""
        if site.layer is None:
            return there
        wanted: Any = site.layer if isinstance(site.layer, list) else [site.layer]
        wanted = [layer + self.scene.n_layers if layer < 0 else layer for layer in wanted]
        if not set(wanted) <= set(there):
            raise ArgumentError(f"layers of a site must be some of {_listed(there)}, got {site!r}")
        return wanted


def axes_name(site: str) -> str:
    """The name by which a `Site` knows the axes of a site."""
    return site.rpartition(".")[2]


def _listed(layers: Sequence[int | None]) -> str:
    return "none, since it lies outside the layers" if None in layers else ", ".join(map(str, layers))
