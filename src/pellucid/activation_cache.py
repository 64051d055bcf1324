"""The activations of one run, by name.

In: what a run read. Out: the same, found by full name or by shorthand, moved, sliced, saved; and stacked by component
of the stream, by the methods of `model/stacks.py`.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from pellucid.base.errors import ArgumentError, CheckpointError, UnknownNameError, nearest
from pellucid.base.files import written_aside
from pellucid.hooks.index import Index, plain
from pellucid.hooks.names import ON_DEMAND, axes, get_act_name, layer_of, short_name
from pellucid.model.stacks import Stacks

PosSlice: TypeAlias = Index
"""Some prompts or positions: a number, several, a slice; None for all."""


class ActivationCache(Stacks, Mapping[str, Tensor]):
    """A mapping from names to activations.

    `cache["blocks.0.attn.hook_pattern"]`, `cache["pattern", 0]` and `cache["pattern", 0, "attn"]` are the same; a
    negative layer counts from the last.

    Args:
        activations: By full name, `[batch ...]`.
        model: Where they came from, if that is to be remembered: it makes errors say more.
        has_batch_dim: Whether the first axis is the batch.
    """

    def __init__(self, activations: Mapping[str, Tensor], model: Any = None, has_batch_dim: bool = True) -> None:
        self.cache_dict = dict(activations)
        self.model = model
        self.has_batch_dim = has_batch_dim

    def __getitem__(self, key: str | tuple[Any, ...]) -> Tensor:
        """The activation of a full name, a short name outside the blocks, or a shorthand (name, layer, part)."""
        name = self._full_name(key)
        if name not in self.cache_dict:
            raise self._missing(name, key)
        return self.cache_dict[name]

    def __contains__(self, key: object) -> bool:
        """Whether the activation is here; shorthands count."""
        try:
            return self._full_name(key) in self.cache_dict
        except (UnknownNameError, ArgumentError):
            return False

    def __iter__(self) -> Iterator[str]:
        """Full names, in the order in which they were computed."""
        return iter(self.cache_dict)

    def __len__(self) -> int:
        """Number of activations."""
        return len(self.cache_dict)

    def __repr__(self) -> str:
        return f"ActivationCache of {len(self)} activations, {self.nbytes:,} bytes: {', '.join(list(self)[:3])}, …"

    @property
    def nbytes(self) -> int:
        """Bytes held; activations that share memory count once."""
        storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in self.values()}
        return sum(storages.values())

    def remove_batch_dim(self) -> "ActivationCache":
        """Takes the batch axis away, here and now, where the batch is one prompt.

        Raises:
            ArgumentError: There are several prompts.
        """
        if self.has_batch_dim:
            for name, x in self.cache_dict.items():
                if len(x) != 1:
                    raise ArgumentError(f"remove_batch_dim needs a batch of one prompt, got {len(x)} at {name}")
            self.cache_dict = {name: x[0] for name, x in self.cache_dict.items()}
            self.has_batch_dim = False
        return self

    def to(self, device: torch.device | str, move_model: bool = False) -> "ActivationCache":
        """Moves the activations, and the model too if asked."""
        self.cache_dict = {name: x.to(device) for name, x in self.cache_dict.items()}
        if move_model and self.model is not None:
            self.model.to(device)
        return self

    def apply_slice_to_batch_dim(self, batch_slice: PosSlice) -> "ActivationCache":
        """A cache of some of the prompts; a single number takes the batch axis away."""
        if not self.has_batch_dim:
            raise ArgumentError(
                "a slice of prompts needs a batch axis, but this cache has none; slice before removing it"
            )
        index = plain(batch_slice, "batch_slice")
        chosen = {name: _along(0, "prompt", x, index) for name, x in self.cache_dict.items()}
        return ActivationCache(chosen, self.model, has_batch_dim=not isinstance(index, int))

    def apply_slice_to_pos_dim(self, pos_slice: PosSlice) -> "ActivationCache":
        """A cache of some of the positions (query positions, for scores and patterns)."""
        chosen = {name: sliced(name, x, pos_slice, self.has_batch_dim) for name, x in self.cache_dict.items()}
        return ActivationCache(chosen, self.model, self.has_batch_dim)

    def at_positions(self, pos_slice: PosSlice) -> Mapping[str, Tensor]:
        """The activations at some positions, each sliced when it is asked for; a single number takes the axis away."""
        return self if pos_slice is None else _AtPositions(self, pos_slice)

    def _of_prompts(self, x: Tensor, axis: int, batch_slice: PosSlice) -> Tensor:
        """Some prompts of a tensor whose prompts lie on this axis; a single number takes the axis away."""
        return _along(axis, "prompt", x, plain(batch_slice, "batch_slice"))

    def save(self, folder: str | Path) -> None:
        """Writes a folder of safetensors files, one for each layer; all of it or nothing.

        Raises:
            OutputError: The place cannot be written.
        """
        from safetensors.torch import save_file

        with written_aside(folder) as aside:
            aside.mkdir()
            files = {}
            for layer in dict.fromkeys(map(layer_of, self)):
                file = "outside.safetensors" if layer is None else f"layer-{layer}.safetensors"
                part = {name: x.detach().cpu().clone() for name, x in self.items() if layer_of(name) == layer}
                save_file({name: x.contiguous() for name, x in part.items()}, aside / file)
                files |= dict.fromkeys(part, file)
            index = {
                "format": "pellucid activations",
                "has_batch_dim": self.has_batch_dim,
                "files": {n: files[n] for n in self},
            }
            (aside / "index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path, model: Any = None) -> "ActivationCache":
        """Reads what `save` wrote.

        Raises:
            CheckpointError: The folder holds no cache, or a damaged one.
        """
        from safetensors import SafetensorError, safe_open

        folder = Path(folder)
        try:
            index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
            activations: dict[str, Tensor] = dict.fromkeys(index["files"])  # type: ignore[arg-type]
            for file in dict.fromkeys(index["files"].values()):
                with safe_open(folder / file, framework="pt") as tensors:
                    here = [name for name, place in index["files"].items() if place == file]
                    activations |= {name: tensors.get_tensor(name) for name in here}
            return cls(activations, model, bool(index["has_batch_dim"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            raise CheckpointError(
                f"{folder} must be a folder that ActivationCache.save wrote, got: {error}; save it again"
            ) from error

    def _full_name(self, key: object) -> str:
        if isinstance(key, str):
            return key if key in self.cache_dict else get_act_name(key)
        if not (isinstance(key, tuple) and 0 < len(key) <= 3 and isinstance(key[0], str)):
            raise UnknownNameError(
                f"an activation is named by a string, or by a shorthand (name, layer, part), got {key!r}; "
                "as in cache['pattern', 0]"
            )
        name, *rest = key
        if rest:
            rest[0] = plain(rest[0], "layer")
        if rest and isinstance(rest[0], int) and rest[0] < 0:
            rest[0] += 1 + max(self._layers(), default=0)
        return get_act_name(name, *rest)

    def _layers(self) -> set[int]:
        """Those of the model, or of the cache alone."""
        told = map(layer_of, self.model.hook_names if self.model else self)
        return {layer for layer in told if layer is not None}

    def _missing(self, name: str, key: Any) -> UnknownNameError:
        known = [] if self.model is None else self.model.hook_names
        if short_name(name) in ON_DEMAND and (name in known or not known):
            return UnknownNameError(
                f"{name} is computed only for who names it, and this run did not; read it by names_filter={name!r}"
            )
        if name in known:
            return UnknownNameError(
                f"{name} was not kept in this run; leave names_filter and stop_at_layer out, or let them reach it"
            )
        layer, layers = layer_of(name), self._layers()
        if layer is not None and layers and layer not in layers:
            return UnknownNameError(f"the cache has no {key!r}; layers are {min(layers)}..{max(layers)}")
        return UnknownNameError(f"the cache has no {key!r}{nearest(name, known or list(self))}")


class _AtPositions(Mapping[str, Tensor]):
    """A cache at some positions, which holds nothing itself."""

    def __init__(self, cache: ActivationCache, pos_slice: PosSlice) -> None:
        self.cache, self.pos_slice = cache, pos_slice

    def __getitem__(self, key: str) -> Tensor:
        return sliced(key, self.cache[key], self.pos_slice, self.cache.has_batch_dim)

    def __contains__(self, key: object) -> bool:
        return key in self.cache

    def __iter__(self) -> Iterator[str]:
        return iter(self.cache)

    def __len__(self) -> int:
        return len(self.cache)


def sliced(name: str, x: Tensor, pos_slice: PosSlice, has_batch_dim: bool = True) -> Tensor:
    """Some positions of an activation; a single number takes the axis away.

    Args:
        name: Full name of the activation, which tells its axes.
        x: The activation.
        pos_slice: Which positions; None for all.
        has_batch_dim: Whether the first axis is the batch.
    """
    names = axes(name)[0 if has_batch_dim else 1 :]
    axis = next((i for i, axis in enumerate(names) if axis in ("pos", "q_pos")), None)
    if pos_slice is None or axis is None:
        return x
    if x.ndim != len(names):
        raise ArgumentError(
            f"a slice of positions needs an activation with axes {' '.join(names)}, got {list(x.shape)} at {name}; "
            "a slice by a single number took the axis away: slice by [number] to keep it"
        )
    return _along(axis, "position", x, plain(pos_slice, "pos_slice"))


def _along(axis: int, what: str, x: Tensor, index: Any) -> Tensor:
    """Some entries of an axis, by plain numbers."""
    if index is None:
        return x
    for i in [] if isinstance(index, slice) else index if isinstance(index, list) else [index]:
        if not -x.shape[axis] <= i < x.shape[axis]:
            raise ArgumentError(f"a {what} must lie in 0..{x.shape[axis] - 1}, got {i}; choose one that was run")
    return x[(slice(None),) * axis + (index,)]
