"""Hook points: the places of a model where an activation can be read or changed.

A point is a parameterless module, so that the module tree is the only list of names. While nobody listens it is not
even called: `at` gives the activation back after one `None` check.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from pellucid.base.errors import ArgumentError
from pellucid.hooks.names import layer_of
from pellucid.hooks.run import Direction, Hook, LiveRun

_inside_foreign = threading.local()
_foreign_runs: list[LiveRun] = []
"""Of all threads: while it is empty, nobody has to look for a run of its own thread (torch.compile could not)."""


@dataclass(eq=False)
class StandingHook:
    """A hook that stays on the model until it is reset."""

    point: "HookPoint"
    hook: Hook
    direction: Direction
    permanent: bool = False
    level: int | None = None
    thread: int | None = None
    """The only thread whose runs it joins; None: every thread's."""

    def joins(self, thread: int) -> bool:
        """Whether a run of this thread takes the hook with it."""
        return self.thread is None or self.thread == thread


class HookPoint(nn.Module):
    """A named place where an activation passes by."""

    def __init__(self) -> None:
        super().__init__()
        self.name = ""
        """Its path in the model's module tree, e.g. `blocks.0.attn.hook_pattern`; set by the model's `setup()`."""
        self.ctx: dict[str, Any] = {}
        """Room for what a hook wants to remember; emptied by `clear_context()`."""
        self.board: list[StandingHook] = []
        """The standing hooks of the whole model, one list that all its points share."""

    def forward(self, x: Tensor, run: LiveRun | None = None) -> Tensor:
        """The activation, after whoever listens in this run."""
        run = run if run is not None else getattr(_inside_foreign, "run", None)
        return x if run is None else run.visit(self, x)

    def layer(self) -> int:
        """The layer that the point lies in.

        Raises:
            ArgumentError: It lies in none.
        """
        layer = layer_of(self.name)
        if layer is None:
            raise ArgumentError(f"hook.layer() needs a point inside a block, got {self.name!r}, which lies in none")
        return layer

    def add_hook(
        self,
        hook: Hook,
        dir: Direction = "fwd",
        is_permanent: bool = False,
        level: int | None = None,
        prepend: bool = False,
    ) -> None:
        """Adds a hook that joins every run of the model until `remove_hooks` or the model's `reset_hooks`."""
        if dir not in ("fwd", "bwd"):
            raise ArgumentError(f"dir must be 'fwd' or 'bwd', got {dir!r}")
        if not callable(hook):
            raise ArgumentError(f"a hook must be a function, called as hook(x, hook=point), got {hook!r}")
        standing = StandingHook(self, hook, dir, permanent=is_permanent, level=level)
        self.board.insert(0 if prepend else len(self.board), standing)

    def add_perma_hook(self, hook: Hook, dir: Direction = "fwd") -> None:
        """Adds a hook that survives `reset_hooks()` too, unless told `including_permanent=True`."""
        self.add_hook(hook, dir, is_permanent=True)

    def remove_hooks(
        self,
        dir: Literal["fwd", "bwd", "both"] = "fwd",
        including_permanent: bool = False,
        level: int | None = None,
    ) -> None:
        """Takes this point's standing hooks away."""
        check_direction(dir)
        self.board[:] = [
            standing
            for standing in self.board
            if standing.point is not self or not is_reset(standing, dir, including_permanent, level)
        ]

    def clear_context(self) -> None:
        """Forgets what hooks kept in `ctx`."""
        self.ctx = {}

    @property
    def fwd_hooks(self) -> list[Hook]:
        """The standing forward hooks of this point."""
        return [s.hook for s in self.board if s.point is self and s.direction == "fwd"]

    @property
    def bwd_hooks(self) -> list[Hook]:
        """The standing backward hooks of this point."""
        return [s.hook for s in self.board if s.point is self and s.direction == "bwd"]

    def extra_repr(self) -> str:
        """Its name, in the printed tree."""
        return self.name


def check_direction(direction: str) -> None:
    """Refuses what is no direction of hooks to reset."""
    if direction not in ("fwd", "bwd", "both"):
        raise ArgumentError(f"direction must be 'fwd', 'bwd' or 'both', got {direction!r}")


def is_reset(standing: StandingHook, direction: str, including_permanent: bool, level: int | None) -> bool:
    """Whether a reset with these settings takes the hook away."""
    return (
        direction in ("both", standing.direction)
        and (including_permanent or not standing.permanent)
        and level in (None, standing.level)
    )


class Part(nn.Module):
    """A piece of a model that knows about runs: its `forward` takes `run=`.

    Inside a foreign module, which does not hand the run on, it joins the run that the foreign module is part of.
    """

    def __call__(self, *args: Any, run: LiveRun | None = None, **kwargs: Any) -> Any:
        """Runs it."""
        if run is None and _foreign_runs:
            run = getattr(_inside_foreign, "run", None)
        return super().__call__(*args, run=run, **kwargs)


def at(point: nn.Module, x: Tensor, run: LiveRun | None) -> Tensor:
    """The activation as it leaves a point. A module that somebody put in the point's place is called."""
    if isinstance(point, HookPoint):
        return x if run is None else run.visit(point, x)
    return call(point, x, run=run)


def call(module: nn.Module, x: Tensor, *context: Any, run: LiveRun | None) -> Tensor:
    """A piece of the model, or a foreign module in its place, which knows only `forward(x)`.

    Hook points and pieces of ours inside a foreign module still take part in the run.
    """
    if isinstance(module, Part):
        return module(x, *context, run=run)
    if run is None:
        return module(x)
    outer = getattr(_inside_foreign, "run", None)
    try:
        _foreign_runs.append(run)
        _inside_foreign.run = run
        return module(x)
    finally:
        _inside_foreign.run = outer
        _foreign_runs.remove(run)


@contextmanager
def apart() -> Iterator[None]:
    """Inside, nothing joins the run that this thread is in the midst of: a model is a run of its own."""
    outer = getattr(_inside_foreign, "run", None)
    _inside_foreign.run = None
    try:
        yield
    finally:
        _inside_foreign.run = outer


def inside_foreign() -> bool:
    """Whether some thread is inside a foreign module."""
    return bool(_foreign_runs)


def watched(run: LiveRun | None, *points: nn.Module) -> bool:
    """Whether the explicit form must run, since a fused one would pass these points by.

    The one place that decides between the fused and the explicit form, for attention, MLPs and norms.
    """
    if run is not None and (run.explicit or any(run.listens(point) for point in points)):
        return True
    return not all(isinstance(point, HookPoint) for point in points)
