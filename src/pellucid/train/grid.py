"""Several runs in one file: any key of a recipe may hold a list, and each combination of their values is a run.

In: a TOML file, or a table, in which some keys hold lists. Out: a `Grid`, whose members are recipes, or the reason why
one cannot be. A key whose values are lists anyway, such as ``optimiser.betas``, varies where it holds a list of lists.
"""

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from pellucid.base.errors import ConfigError, PellucidError
from pellucid.base.typed import typed
from pellucid.train.recipe import Recipe, put, read_values, recipe_of

GRID = "grid"
"""The section of a file that says how its combinations are run."""
MOST, CELLS = 10_000, 1_000_000
"""Runs of a grid; combinations that they may be a sample of, each a cell of the results."""

Label = int | str
"""A value of a setting, as results name it."""
Steps = tuple[str, ...]
"""The names of the sections that lead to a key, and its own."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the combinations are run; the section ``[grid]``.

    Args:
        sample: Run so many of them, drawn without replacement; None: all.
        seed: Of the draw.
        max_memory: Bytes of the CPU's memory that each run may take; one that asks for more fails, and the others go
            on. None: no bound.

    Raises:
        ConfigError: A value cannot be.
    """

    sample: int | None = None
    seed: int = 0
    max_memory: int | None = None

    def __post_init__(self) -> None:
        for name in ("sample", "max_memory"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be 1 or more, got {value}")


@dataclass(frozen=True, kw_only=True)
class Member:
    """One run of a grid.

    Args:
        name: Its folder's.
        labels: The values of the keys that vary.
        recipe: What is run; None: it cannot be.
        reason: Why not.
    """

    name: str
    labels: Mapping[str, Label]
    recipe: Recipe | None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Recipes that differ in some keys.

    Args:
        values: The table that it was made of, with its lists.
        varied: The labels of each key that varies, in order; keys are dotted, as in ``optimiser.lr``.
        members: The runs.
        sampling: How they were chosen.

    Example:
        >>> values = read_values("toy-induction") | {"seed": [0, 1], "optimiser": {"lr": [1e-3, 1e-2]}}
        >>> grid = grid_of(values)
        >>> [member.labels for member in grid.members][1]
        {'seed': 0, 'optimiser.lr': '0.01'}
        >>> grid.members[1].recipe.optimiser.lr
        0.01
    """

    values: Mapping[str, Any]
    varied: Mapping[str, tuple[Label, ...]]
    members: tuple[Member, ...]
    sampling: Sampling


def read_grid(source: str | Path, changes: Sequence[str] = ()) -> Grid | None:
    """The grid of a file; None if nothing in it varies.

    Args:
        source: A TOML file, or the name of a bundled recipe.
        changes: ``"key=value"``, as for `pellucid.train.recipe.read_recipe`; a value may be a list.

    Raises:
        ConfigError: No such file, no TOML, or no combination of it can be run.
    """
    values = read_values(source, changes)
    return grid_of(values) if GRID in values or _varied(values) else None


def grid_of(values: Mapping[str, Any]) -> Grid:
    """The grid of a table.

    Raises:
        ConfigError: A list is empty, there are too many combinations, or none of them can be run.
    """
    rest = {key: value for key, value in values.items() if key != GRID}
    sampling = typed(Sampling, values.get(GRID, {}), GRID)
    found = _varied(rest)
    varied = {".".join(path): options for path, options in found.items()}
    for key, options in varied.items():
        if not options:
            raise ConfigError(f"{key} must have a value, got an empty list; give one or several")
    n = math.prod(map(len, varied.values()))
    if min(n, sampling.sample or n) > MOST:
        raise ConfigError(f"a grid must have at most {MOST} runs, got {n} combinations; set grid.sample, or vary less")
    if n > CELLS:
        raise ConfigError(f"a grid must have at most {CELLS} combinations, got {n}; vary less")
    labels = {key: _labels(key, options) for key, options in varied.items()}
    chosen = range(n)
    if sampling.sample is not None and sampling.sample < n:
        chosen = sorted(random.Random(sampling.seed).sample(chosen, sampling.sample))
    members = []
    for number in chosen:
        places = _places(number, [len(options) for options in varied.values()])
        settings = {path: options[place] for (path, options), place in zip(found.items(), places, strict=True)}
        called = {key: labels[key][place] for key, place in zip(varied, places, strict=True)}
        members.append(_member(f"{number:0{len(str(n - 1))}d}", called, rest, settings))
    if all(member.recipe is None for member in members):
        raise ConfigError(
            f"a grid must have a combination that can be run, but in the first of {n}: {members[0].reason}"
        )
    return Grid(values=values, varied=labels, members=tuple(members), sampling=sampling)


def _member(name: str, labels: Mapping[str, Label], values: Mapping[str, Any], settings: Mapping[Steps, Any]) -> Member:
    own = deepcopy(dict(values))
    for steps, value in settings.items():
        put(own, steps, deepcopy(value))
    try:
        return Member(name=name, labels=labels, recipe=recipe_of(own))
    except PellucidError as error:
        return Member(name=name, labels=labels, recipe=None, reason=str(error))


def _varied(values: Mapping[str, Any], within: Steps = ()) -> dict[Steps, list[Any]]:
    """The keys that hold several values, each as the way there: names may have dots.

    Those of inner tables stand last, as `toml` writes them, so that a file that was written names the same runs.
    """
    found: dict[Steps, list[Any]] = {}
    for key, value in sorted(values.items(), key=lambda one: isinstance(one[1], Mapping)):
        if isinstance(value, Mapping):
            found |= _varied(value, (*within, key)) if within or key != GRID else {}
        elif isinstance(value, list) and (key not in _lists() or any(isinstance(part, list) for part in value)):
            found[*within, key] = value
    return found


@cache
def _lists() -> frozenset[str]:
    """Names of fields whose values are lists."""

    def walk(kind: Any, seen: set[Any]) -> Iterator[str]:
        for part in [kind, *itertools.chain.from_iterable(_within(kind))]:
            if is_dataclass(part) and isinstance(part, type) and part not in seen:
                seen.add(part)
                hints = get_type_hints(part)
                for field in fields(part):
                    if any(get_origin(option) is tuple for option in (hints[field.name], *get_args(hints[field.name]))):
                        yield field.name
                    yield from walk(hints[field.name], seen)

    return frozenset(walk(Recipe, set()))


def _within(kind: Any) -> Iterator[tuple[Any, ...]]:
    args = get_args(kind)
    yield args
    for part in args:
        yield from _within(part)


def _places(number: int, sizes: Sequence[int]) -> list[int]:
    """Which value each key has in a combination; the last key varies fastest."""
    places = []
    for size in reversed(sizes):
        number, place = divmod(number, size)
        places.append(place)
    return places[::-1]


def _labels(key: str, options: Sequence[Any]) -> tuple[Label, ...]:
    whole = all(isinstance(option, int) and not isinstance(option, bool) for option in options)
    labels = tuple(options) if whole else tuple(_label(option) for option in options)
    twice = [label for label in labels if labels.count(label) > 1]
    if twice:
        raise ConfigError(f"the values of {key} must differ, got {twice[0]!r} twice; give each once")
    return labels


def _label(value: Any) -> str:
    """A value in a word or two.

    Example:
        >>> _label({"kind": "BPE", "size": 512}), _label(0.003), _label({"n_heads": 4, "d_head": 32}), _label(True)
        ('BPE size=512', '0.003', 'n_heads=4 d_head=32', 'true')
    """
    if isinstance(value, Mapping):
        parts = [_label(part) if key == "kind" else f"{key}={_label(part)}" for key, part in value.items()]
        return " ".join(parts) or "default"
    if isinstance(value, list):
        return "+".join(map(_label, value)) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)
