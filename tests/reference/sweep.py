"""Patching experiments as their definition says them, one run with hooks for each cell: what sweeps must equal.

One prompt at a time, ``[1 pos]``, never padded. A *cell* lists what it patches: ``[(full hook name, {axis: index})]``,
where an axis that is not told is patched whole. What takes the part's place is told by a function ``give(name, x)``: of
the whole activation `x` that the run has made there so far it tells the whole new one, of which the part is taken. A
*measure* makes a number of the logits ``[1 pos d_vocab]``. *Hooks* belong to a run whatever is patched: noise that
corrupts it, or what is held.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from itertools import product

import torch
from torch import Tensor

from pellucid import HookedTransformer

Cell = list[tuple[str, Mapping]]
Give = Callable[[str, Tensor], Tensor]
Measure = Callable[[Tensor], float]
Hooks = Sequence[tuple[str, Callable]]

HELD = {"ln_scale": "hook_scale", "pattern": "hook_pattern"}


def axes(name: str) -> list[str]:
    """The axes of an activation that can be told apart, the batch's left out."""
    short = name.rpartition("hook_")[2]
    if short in ("attn_scores", "pattern"):
        return ["head", "q_pos", "k_pos"]
    if short in ("q", "rot_q", "z", "result", "attn_in", "q_input"):
        return ["pos", "head"]
    if short in ("k", "rot_k", "v", "k_input", "v_input"):
        return ["pos", "kv_head"]
    return ["pos", "neuron"] if short in ("pre", "pre_linear", "post") else ["pos"]


def layer_of(name: str) -> int | None:
    return int(name.split(".")[1]) if name.startswith("blocks.") else None


def points(model: HookedTransformer, site: str, layer: int | None = None) -> list[str]:
    """Full names of a site such as `"z"` or `"ln1.normalized"`: in one layer and outside the blocks, or everywhere."""
    ending = "." + (site.replace(".", ".hook_") if "." in site else f"hook_{site}")
    found = [name for name in model.hook_names if f".{name}".endswith(ending)]
    return [name for name in found if layer is None or layer_of(name) in (layer, None)]


def cells(
    model: HookedTransformer,
    sites: Sequence[str],
    over: Sequence[str],
    length: int,
    positions: Mapping[str, int] | None = None,
) -> dict[tuple, Cell]:
    """Every cell of one prompt by its labels, in the order of `over`; none where the model lacks a site.

    `positions` are those that have names.
    """
    positions = positions or {}
    if not all(points(model, site) for site in sites):
        return {}
    layers = [{layer_of(name) for name in points(model, site)} - {None} for site in sites]
    sizes = {"head": model.cfg.n_heads, "kv_head": model.config.attention.kv_heads, "neuron": model.cfg.d_mlp}
    labels = {axis: range(size or 0) for axis, size in sizes.items()}
    labels |= {"pos": range(length), "q_pos": range(length), "k_pos": range(length), "position": positions}
    labels["layer"] = sorted(set.intersection(*(found for found in layers if found))) if any(layers) else []
    found = {}
    for values in product(*(labels[axis] for axis in over)):
        where = dict(zip(over, values, strict=True))
        names = [name for site in sites for name in points(model, site, where.get("layer"))]
        found[values] = [(name, _part(name, where, positions)) for name in names]
    return found


def _part(name: str, where: Mapping, positions: Mapping[str, int]) -> dict:
    part = {axis: value for axis, value in where.items() if axis in axes(name)}
    if "position" in where:
        part["pos"] = positions[where["position"]]
    if "head" in where and "kv_head" in axes(name):  # as many key/value heads as heads: each has its own
        part["kv_head"] = where["head"]
    return part


def chosen(name: str, x: Tensor, part: Mapping) -> Tensor:
    """True at the part of an activation."""
    mask = torch.ones_like(x, dtype=torch.bool)
    for dim, axis in enumerate(axes(name), start=1):
        if part.get(axis) is not None:
            picked = torch.zeros(x.shape[dim], dtype=torch.bool)
            picked[part[axis]] = True
            mask &= picked.view([-1 if i == dim else 1 for i in range(x.ndim)])
    return mask


def donor(model: HookedTransformer, tokens: Tensor, cells: Mapping[tuple, Cell], hooks: Hooks = ()) -> Give:
    """The values of another run, at the same places."""
    names = sorted({name for cell in cells.values() for name, _ in cell})
    with model.hooks(fwd_hooks=list(hooks)):
        _, cache = model.run_with_cache(tokens, names_filter=names)
    return lambda name, x: cache[name]


def held(model: HookedTransformer, tokens: Tensor, freeze: Sequence[str], hooks: Hooks = ()) -> Hooks:
    """Hooks that hold norm scales or patterns at their value in a run."""
    names = [name for name in model.hook_names for what in freeze if name.endswith(HELD[what])]
    if not names:
        return []
    with model.hooks(fwd_hooks=list(hooks)):
        _, cache = model.run_with_cache(tokens, names_filter=names)

    def hold(x, hook):
        kept = cache[hook.name]
        return (kept if kept.ndim == x.ndim else kept.unsqueeze(2)).expand_as(x)  # each head may read its own

    return [(name, hold) for name in names]


def measured(model: HookedTransformer, tokens: Tensor, measure: Measure, hooks: Hooks = ()) -> float:
    """The metric of a run in which nothing is patched."""
    with torch.no_grad():
        return float(measure(model.run_with_hooks(tokens, fwd_hooks=list(hooks))))


def patched(
    model: HookedTransformer, tokens: Tensor, cell: Cell, give: Give, measure: Measure, hooks: Hooks = ()
) -> float:
    """The metric of a run in which one cell is patched."""

    def patch(part):
        return lambda x, hook: torch.where(chosen(hook.name, x, part), give(hook.name, x).to(x), x)

    return measured(model, tokens, measure, [*hooks, *((name, patch(part)) for name, part in cell)])


def sweep(
    model: HookedTransformer,
    tokens: Tensor,
    cells: Mapping[tuple, Cell],
    give: Give,
    measure: Measure,
    *,
    hooks: Hooks = (),
    freeze: Sequence[str] = (),
    limit: int = 200,
    seed: int = 0,
) -> dict[tuple, float]:
    """The metric of each cell by its labels; of a random sample where they are many."""
    some = sorted(random.Random(seed).sample(range(len(cells)), min(limit, len(cells))))
    listed = list(cells.items())
    hooks = [*hooks, *held(model, tokens, freeze, hooks)]
    return {listed[i][0]: patched(model, tokens, listed[i][1], give, measure, hooks) for i in some}
