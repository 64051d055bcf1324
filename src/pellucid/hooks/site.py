"""Where an edit or a patch applies: an activation's name, and which part of it."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, SupportsIndex

import torch
from torch import Tensor

from pellucid.base.errors import ArgumentError
from pellucid.hooks.index import Index, plain
from pellucid.hooks.names import AXES, layer_of, select, short_name

_PART_AXES = ("pos", "q_pos", "k_pos", "head", "kv_head", "neuron")


@dataclass(frozen=True)
class Site:
    """An activation, or a part of it.

    Args:
        name: Short name (`"z"`), or the full name of one point.
        layer: Layer or layers; None for all that have the activation.
        pos: Position or positions; None for all, here and below. A string is a position's name, which the pairs of
            prompts tell.
        q_pos: Query positions, of scores and patterns.
        k_pos: Key positions, of scores and patterns.
        head: Heads.
        kv_head: Key/value heads, of `k`, `v` and what hangs on them.
        neuron: Neurons.

    Raises:
        ArgumentError: The activation has no such axis, or an index is no whole number.

    Example:
        >>> Site("pattern", layer=0, head=1).of(torch.zeros(1, 2, 3, 3)).shape
        torch.Size([1, 1, 3, 3])
    """

    name: str
    _: KW_ONLY
    layer: SupportsIndex | Sequence[SupportsIndex] | None = None
    pos: Index | str = None
    q_pos: Index = None
    k_pos: Index = None
    head: Index = None
    kv_head: Index = None
    neuron: Index = None

    def __post_init__(self) -> None:
        axes = self.axes
        for axis in ("layer", *_PART_AXES):
            object.__setattr__(self, axis, plain(getattr(self, axis), axis))
        for axis in _PART_AXES:
            if getattr(self, axis) is not None and axis not in axes:
                raise ArgumentError(
                    f"{axis} must be an axis of {short_name(self.name)!r}, whose axes are {' '.join(axes)}, got "
                    f"{axis}={getattr(self, axis)!r}; leave it out{_offered(axis, axes)}"
                )
        told = layer_of(self.name)
        if told is not None and self.layer not in (None, told):
            raise ArgumentError(f"layer must be the one in {self.name!r}, got layer={self.layer}; leave it out")

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes of the activation."""
        short = short_name(self.name)
        if short not in AXES:
            (known,) = {short_name(name) for name in select([f"hook_{name}" for name in AXES], short)}
            short = known
        return tuple(AXES[short].split())

    def points(self, known: Sequence[str]) -> list[str]:
        """The full names of the hook points that the site lies at.

        Raises:
            UnknownNameError: The model has no such point.
        """
        if self.layer is None:
            return select(known, self.name)
        layers: Any = self.layer if isinstance(self.layer, list) else [self.layer]
        return select(
            known, [(short_name(self.name), layer) if "." not in self.name else self.name for layer in layers]
        )

    def at_point(self, full: str) -> "Site":
        """The same part of one point alone."""
        return replace(self, name=full, layer=None)

    def index(self, shape: Sequence[int]) -> tuple[Any, ...]:
        """An index into an activation of this shape; the part that it picks keeps every axis.

        Raises:
            ArgumentError: An index lies outside or means nothing, or a position has a name.
        """
        picks = [_picked(getattr(self, axis, None), axis, size) for axis, size in zip(self.axes, shape, strict=True)]
        lists = [i for i, pick in enumerate(picks) if isinstance(pick, Tensor)]
        if len(lists) > 1:
            ranges = [p if isinstance(p, Tensor) else torch.arange(n)[p] for p, n in zip(picks, shape, strict=True)]
            return tuple(torch.meshgrid(*ranges, indexing="ij"))
        return tuple(picks)

    def of(self, x: Tensor) -> Tensor:
        """The part of an activation that the site means; every axis is kept."""
        return x[self.index(x.shape)]


def _picked(wanted: Any, axis: str, size: int) -> slice | Tensor:
    if wanted is None:
        return slice(None)
    if isinstance(wanted, str):
        raise ArgumentError(
            f"{axis} must be a number here, got the name {wanted!r}; only pairs of prompts name positions"
        )
    many = range(size)[wanted] if isinstance(wanted, slice) else wanted if isinstance(wanted, list) else [wanted]
    if not many:
        raise ArgumentError(f"{axis} must mean at least one of 0..{size - 1}, got {wanted!r}; leave it out for all")
    if isinstance(wanted, slice) and many[0] <= many[-1]:
        return wanted
    for i in many:
        if not -size <= i < size:
            raise ArgumentError(f"{axis} must lie in 0..{size - 1}, got {i}; choose one that the activation has")
    if len(many) == 1:
        return slice(many[0] % size, many[0] % size + 1)
    return torch.tensor([i % size for i in many])


def _offered(axis: str, axes: Sequence[str]) -> str:
    instead = {"head": "kv_head", "kv_head": "head", "pos": "q_pos", "q_pos": "pos", "k_pos": "pos"}.get(axis)
    return f" or give {instead}" if instead in axes else ""
