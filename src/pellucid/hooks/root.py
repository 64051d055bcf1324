"""HookedRoot: a module tree with hook points, and the ways to hook it that everybody knows.

Standing hooks (`add_hook`, `add_perma_hook`, `hooks()`) are a list that joins each run; a run itself leaves nothing
behind.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Literal

import torch
from torch import nn

from pellucid.base.errors import ArgumentError
from pellucid.hooks.names import Filter, select
from pellucid.hooks.point import HookPoint, StandingHook, apart, check_direction, inside_foreign, is_reset
from pellucid.hooks.run import Direction, Hook, LiveRun

Hooks = Sequence[tuple[Filter, Hook]]
"""Pairs of where (a full name, a short name, a shorthand, a list of them, a callable, None for all) and what."""


class HookedRoot(nn.Module):
    """The root of a module tree with hook points; `forward` takes `run=`."""

    def __init__(self) -> None:
        super().__init__()
        self.hook_dict: dict[str, HookPoint] = {}
        """Every hook point by its full name, in the tree's order."""
        self.board: list[StandingHook] = []
        """The standing hooks, shared with every point."""

    def setup(self) -> None:
        """Reads the module tree anew: names every hook point. Call it after a module was put in or taken out."""
        points = {name: module for name, module in self.named_modules() if isinstance(module, HookPoint)}
        for name, point in points.items():
            if point.board is not self.board:
                self.board.extend(standing for standing in point.board if standing.point is point)
            point.name, point.board = name, self.board
        self.hook_dict = points

    def __call__(self, *args: Any, run: LiveRun | None = None, **kwargs: Any) -> Any:
        """A forward pass, which standing hooks join; with gradients where a backward hook waits for them.

        Raises:
            ArgumentError: A backward hook waits where torch makes no gradients.
        """
        if not inside_foreign():
            return self._started(args, kwargs, run)
        with apart():  # a model that a foreign module calls is no part of the model that calls the module
            return self._started(args, kwargs, run)

    def _started(self, args: tuple[Any, ...], kwargs: dict[str, Any], run: LiveRun | None) -> Any:
        if run is None and self.board and self._joining():  # what _joining asks of the thread cannot be compiled
            run = self.live_run()
        if run is None:
            return super().__call__(*args, **kwargs)
        if run.follows_back and torch.is_inference_mode_enabled():
            raise ArgumentError(
                "backward hooks and incl_bwd need gradients, which torch.inference_mode() never makes; "
                "leave it, or use torch.no_grad(), which a backward hook lifts"
            )
        with torch.set_grad_enabled(torch.is_grad_enabled() or run.follows_back):
            return super().__call__(*args, run=run, **kwargs)

    @property
    def hook_names(self) -> list[str]:
        """Full names of all hook points, in the tree's order."""
        return list(self.hook_dict)

    def hook_points(self) -> list[HookPoint]:
        """All hook points, in the tree's order."""
        return list(self.hook_dict.values())

    def add_hook(
        self,
        name: Filter,
        hook: Hook,
        dir: Direction = "fwd",
        is_permanent: bool = False,
        level: int | None = None,
        prepend: bool = False,
    ) -> None:
        """Adds a hook that joins every run until `reset_hooks()`.

        Raises:
            UnknownNameError: `name` means no hook point.
        """
        for full in select(self.hook_names, name, warn=True):
            self.hook_dict[full].add_hook(hook, dir, is_permanent, level, prepend)

    def add_perma_hook(self, name: Filter, hook: Hook, dir: Direction = "fwd") -> None:
        """Adds a hook that survives `reset_hooks()` too, unless told `including_permanent=True`."""
        self.add_hook(name, hook, dir, is_permanent=True)

    def reset_hooks(
        self,
        clear_contexts: bool = True,
        direction: Literal["fwd", "bwd", "both"] = "both",
        including_permanent: bool = False,
        level: int | None = None,
    ) -> None:
        """Takes standing hooks away; permanent ones stay unless `including_permanent`.

        Args:
            clear_contexts: Also forget what hooks kept in `ctx`.
            direction: `"fwd"`, `"bwd"` or `"both"`.
            including_permanent: Take the permanent ones too.
            level: Only those of this level; None for all.

        Raises:
            ArgumentError: `direction` is none of these.
        """
        check_direction(direction)
        self.board[:] = [s for s in self.board if not is_reset(s, direction, including_permanent, level)]
        if clear_contexts:
            self.clear_contexts()

    def clear_contexts(self) -> None:
        """Forgets what hooks kept in any point's `ctx`."""
        for point in self.hook_points():
            point.clear_context()

    @contextmanager
    def hooks(
        self,
        fwd_hooks: Hooks = (),
        bwd_hooks: Hooks = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
    ) -> Iterator["HookedRoot"]:
        """Hooks that join every run which this thread starts inside the block.

        Args:
            fwd_hooks: Pairs (where, hook), called as `hook(x, hook=point)`.
            bwd_hooks: The same, on the gradient when a backward pass comes by.
            reset_hooks_end: Take them away when the block ends, however it ends.
            clear_contexts: Also forget what hooks kept in `ctx`.
        """
        added = self._standing(fwd_hooks, "fwd") + self._standing(bwd_hooks, "bwd")
        for standing in added:
            standing.thread = threading.get_ident() if reset_hooks_end else None
        try:
            self.board.extend(added)
            yield self
        finally:
            if reset_hooks_end:
                for standing in added:
                    with suppress(ValueError):  # a reset inside the block took it
                        self.board.remove(standing)  # one by one: another thread may be adding its own
                if clear_contexts:
                    self.clear_contexts()

    def run_with_hooks(
        self,
        *args: Any,
        fwd_hooks: Hooks = (),
        bwd_hooks: Hooks = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
        **kwargs: Any,
    ) -> Any:
        """One forward pass with hooks that end with it, whatever happens inside.

        Args:
            *args: As for a call of the model.
            fwd_hooks: Pairs (where, hook): a full name, a short name (every layer), a shorthand or a callable on names;
                called as `hook(x, hook=point)`. It may edit in place, return a tensor, or only read.
            bwd_hooks: The same on gradients: they act when a backward pass goes through what this run gives.
            reset_hooks_end: False leaves the hooks on the model until `reset_hooks()`.
            clear_contexts: Also forget what hooks kept in `ctx`, when the run ends.
            **kwargs: As for a call of the model.

        Returns:
            What a call of the model gives.

        Raises:
            UnknownNameError: A hook's place means no hook point.
            HookError: A hook gave what cannot take the activation's place.
        """
        added = self._standing(fwd_hooks, "fwd") + self._standing(bwd_hooks, "bwd")
        if not reset_hooks_end:
            self.board.extend(added)
            added = []
        try:
            return self(*args, run=self.live_run(added), **kwargs)
        finally:
            if clear_contexts:
                self.clear_contexts()

    def live_run(self, added: Sequence[StandingHook] = (), *, explicit: bool = True) -> LiveRun:
        """A run that the standing hooks have joined, and `added` after them."""
        run = LiveRun(explicit=explicit)
        for standing in [*self._joining(), *added]:
            run.add_hook(standing.point.name, standing.hook, standing.direction)
        return run

    def _joining(self) -> list[StandingHook]:
        """The standing hooks that a run of this thread takes with it."""
        thread = threading.get_ident()
        return [standing for standing in tuple(self.board) if standing.joins(thread)]

    def _standing(self, hooks: Hooks, direction: Direction) -> list[StandingHook]:
        found = []
        for pair in hooks:
            if not (isinstance(pair, tuple | list) and len(pair) == 2 and callable(pair[1])):
                raise ArgumentError(f"a hook must be a pair (where, function), got {pair!r}")
            for full in select(self.hook_names, pair[0], warn=True):
                found.append(StandingHook(self.hook_dict[full], pair[1], direction))
        return found
