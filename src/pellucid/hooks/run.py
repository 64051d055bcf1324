"""A run as a value: (model, tokens, edits, reads) → (logits, cache).

A `LiveRun` holds who edits and who reads at each point while one forward pass lasts. It belongs to that pass alone, so
nothing stays on the model when the pass ends, however it ends, and runs may overlap in threads.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from pellucid.base.errors import HookError

Hook = Callable[..., Any]
"""Called as `hook(x, hook=point)`. It may edit `x` in place, return a tensor that takes its place, or only read."""
Direction = Literal["fwd", "bwd"]


@runtime_checkable
class Place(Protocol):
    """What a run knows of a hook point."""

    name: str


@dataclass(frozen=True)
class Run:
    """What a run gives; unpacks as (logits, cache)."""

    logits: Any
    """`[batch pos d_vocab]`; the residual stream `[batch pos d_model]` where the run stopped early."""
    cache: Mapping[str, Tensor]
    """The activations that were asked for, by full name."""
    mask: Tensor | None = None
    """`[batch pos]`, True at real tokens; None where nothing was padded."""

    def __iter__(self) -> Iterator[Any]:
        """Logits, then the cache."""
        yield self.logits
        yield self.cache


class LiveRun:
    """Who edits and who reads at each point while one forward pass lasts.

    Args:
        explicit: Every norm and attention layer takes its explicit form, so that a value never depends on what else is
            read; otherwise only those that somebody listens inside.
    """

    def __init__(self, *, explicit: bool = True) -> None:
        self.explicit = explicit
        self.follows_back = False
        """Whether gradients must be made, since a backward hook waits for them."""
        self.mask: Tensor | None = None
        """Which tokens are real, once the pass has begun; None where nothing is padded."""
        self._editors: dict[str, list[Callable[[Tensor, Place], Tensor]]] = defaultdict(list)
        self._readers: dict[str, list[Callable[[Tensor, Place], None]]] = defaultdict(list)

    def add_hook(self, name: str, hook: Hook, direction: Direction = "fwd") -> None:
        """A user's hook: it may edit in place, return a tensor, or only read."""
        wrapped = _edited_by if direction == "fwd" else _followed_back_by
        self.follows_back |= direction == "bwd"
        self._editors[name].append(partial(wrapped, hook))

    def add_edit(self, name: str, edit: Callable[[Tensor], Tensor]) -> None:
        """An edit that is a pure function of the activation."""
        self._editors[name].append(lambda x, point: _fits(edit(x), x, point, edit))

    def add_reader(self, name: str, reader: Callable[[Tensor, Place], None]) -> None:
        """Sees the activation after all edits; must not change it."""
        self._readers[name].append(reader)

    def listens(self, point: nn.Module) -> bool:
        """Whether anybody waits at this point."""
        name = getattr(point, "name", None)
        return name in self._readers or name in self._editors

    def edits(self, point: nn.Module) -> bool:
        """Whether anybody may change what passes this point."""
        return getattr(point, "name", None) in self._editors

    def visit(self, point: Place, x: Tensor) -> Tensor:
        """The activation as it leaves the point."""
        for edit in self._editors.get(point.name, ()):
            x = edit(x, point)
        for read in self._readers.get(point.name, ()):
            read(x, point)
        return x


def _edited_by(hook: Hook, x: Tensor, point: Place) -> Tensor:
    """The hook gets a clone, and what it gives is cloned: editing in place, now or later, reaches no other tensor."""
    private = x.clone(memory_format=torch.contiguous_format)
    given = hook(private, hook=point)
    return _fits(private if given is None else given, x, point, hook).clone()


def _followed_back_by(hook: Hook, x: Tensor, point: Place) -> Tensor:
    """An alias of `x` whose gradient the hook sees, and may replace, when the backward pass comes by."""
    own = x.view_as(x) if x.requires_grad else x.detach().requires_grad_()

    def follow(gradient: Tensor) -> Tensor | None:
        private = gradient.clone(memory_format=torch.contiguous_format)
        given = hook(private, hook=point)
        given = given[0] if isinstance(given, tuple) and len(given) == 1 else given
        return _fits(private if given is None else given, gradient, point, hook)

    own.register_hook(follow)
    return own


def _fits(given: Any, x: Tensor, point: Place, who: object) -> Tensor:
    """What takes the activation's place must have its shape, dtype and device."""
    name = getattr(who, "__qualname__", None) or type(who).__qualname__
    if not isinstance(given, Tensor):
        raise HookError(
            f"what {name} gives at {point.name} must be a tensor or None, got {type(given).__name__}; "
            "return the activation, or nothing after editing it in place"
        )
    if given is x:
        return given
    for what in ("shape", "dtype", "device"):
        found, expected = getattr(given, what), getattr(x, what)
        if found != expected:
            found, expected = (list(v) if what == "shape" else v for v in (found, expected))
            raise HookError(
                f"{what} at {point.name} must stay {expected}, got {found} from {name}; give a tensor like x"
            )
    return given
