"""The field's names of activations, what axes each has, and how a user's filter becomes a list of names.

In: full names that a model's module tree bears, and a filter. Out: the names that the filter means, or an error that
offers the nearest.
"""

import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import SupportsIndex, TypeAlias

from pellucid.base.errors import ArgumentError, MisreadWarning, UnknownNameError, nearest
from pellucid.hooks.index import plain

AXES = {
    "embed": "batch pos d_model",
    "pos_embed": "batch pos d_model",
    "decoder_embed": "batch pos d_model",
    "decoder_pos_embed": "batch pos d_model",
    "resid_pre": "batch pos d_model",
    "attn_in": "batch pos head d_model",
    "q_input": "batch pos head d_model",
    "k_input": "batch pos kv_head d_model",
    "v_input": "batch pos kv_head d_model",
    "scale": "batch pos scale",
    "normalized": "batch pos d_model",
    "q": "batch pos head d_head",
    "k": "batch pos kv_head d_head",
    "v": "batch pos kv_head d_head",
    "rot_q": "batch pos head d_head",
    "rot_k": "batch pos kv_head d_head",
    "attn_scores": "batch head q_pos k_pos",
    "pattern": "batch head q_pos k_pos",
    "z": "batch pos head d_head",
    "result": "batch pos head d_model",
    "attn_out": "batch pos d_model",
    "resid_mid": "batch pos d_model",
    "cross_attn_out": "batch pos d_model",
    "resid_mid_cross": "batch pos d_model",
    "mlp_in": "batch pos d_model",
    "pre": "batch pos neuron",
    "pre_linear": "batch pos neuron",
    "post": "batch pos neuron",
    "mlp_out": "batch pos d_model",
    "resid_post": "batch pos d_model",
}
"""Every activation's short name, in the order of a block, and its axes. `scale` has one entry."""

ON_DEMAND = frozenset({"result", "q_input", "k_input", "v_input", "attn_in", "mlp_in"})
"""Computed only for who names them; a filter that means everything leaves them out, as it did in 2.18."""

Filter: TypeAlias = (
    str
    | tuple[str | SupportsIndex | None, ...]
    | Callable[[str], bool]
    | Sequence[str | tuple[str | SupportsIndex | None, ...]]
    | None
)

ALIASES = {
    "attn": "pattern",
    "attn_logits": "attn_scores",
    "key": "k",
    "query": "q",
    "value": "v",
    "mlp_pre": "pre",
    "mlp_post": "post",
}
_PARTS = {"a": "attn", "m": "mlp", "b": "", "block": "", "blocks": "", "attention": "attn", "": ""}
_IN_ATTENTION = {"q", "k", "v", "z", "rot_q", "rot_k", "result", "pattern", "attn_scores"}
_IN_MLP = {"pre", "pre_linear", "post"}
_IN_NORM = {"scale", "normalized"}


def get_act_name(name: str, layer: int | str | None = None, layer_type: str | None = None) -> str:
    """The full name of a hook point.

    Args:
        name: Short name (`"pattern"`, `"resid_pre"`), or one with its layer in it (`"k6"`, `"scale4ln1"`); a full name
            is given back as it is.
        layer: Layer; none for what lies outside the blocks.
        layer_type: The part of the block, where the name alone does not tell: `"ln1"`, `"ln2"`, `"attn"`, `"mlp"`.

    Example:
        >>> get_act_name("v", 0), get_act_name("k6"), get_act_name("scale", 4, "ln1"), get_act_name("scale")
        ('blocks.0.attn.hook_v', 'blocks.6.attn.hook_k', 'blocks.4.ln1.hook_scale', 'ln_final.hook_scale')
    """
    if ("." in name or name.startswith("hook_")) and layer is None and layer_type is None:
        return name
    packed = re.fullmatch(r"([a-z_]+)(\d+)([a-z]?.*)", name)
    if packed is not None and layer is None:
        name, layer, layer_type = packed[1], packed[2], packed[3] or layer_type
    name = ALIASES.get(name, name)
    part = _PARTS.get(layer_type or "", layer_type)
    if name in _IN_ATTENTION:
        part = "attn"
    elif name in _IN_MLP:
        part = "mlp"
    elif name in _IN_NORM and layer is None:
        part = "ln_final"
    place = ([] if layer is None else ["blocks", str(layer)]) + ([part] if part else [])
    return ".".join([*place, f"hook_{name}"])


def short_name(full: str) -> str:
    """`"pattern"` for `"blocks.3.attn.hook_pattern"`."""
    return full.rsplit(".", 1)[-1].removeprefix("hook_")


def layer_of(full: str) -> int | None:
    """The layer that a full name tells, if any."""
    found = re.search(r"(?:^|\.)(?:blocks|encoder|decoder)\.(\d+)\.", full)
    return int(found[1]) if found else None


def axes(full: str) -> tuple[str, ...]:
    """The axes of the activation at a point, or of its gradient; none known for a foreign point."""
    return tuple(AXES.get(short_name(full).removesuffix("_grad"), "").split())


def select(known: Sequence[str], wanted: Filter, *, warn: bool = False) -> list[str]:
    """The hook points that a filter means.

    Args:
        known: All full names, in order.
        wanted: None (everything but points on demand), a full name, a short name (every layer that has it), a shorthand
            such as `("pattern", 5)`, a list of such, or a callable on full names.
        warn: Warn when a callable accepts points on demand among others (they are left out).

    Returns:
        Full names, in the order of `known`, each once.

    Raises:
        UnknownNameError: Nothing is meant.
        ArgumentError: A tuple is no shorthand.
    """
    if wanted is None:
        return [name for name in known if short_name(name) not in ON_DEMAND]
    if callable(wanted):
        return _accepted(known, wanted, warn=warn)
    items = wanted if isinstance(wanted, Iterable) and not isinstance(wanted, str | tuple) else [wanted]
    chosen = {name for item in items for name in _meant(known, item)}
    if not chosen:
        raise UnknownNameError(f"a filter must mean at least one hook point, got {wanted!r}; None means all of them")
    return [name for name in known if name in chosen]


def _accepted(known: Sequence[str], wanted: Callable[[str], bool], *, warn: bool) -> list[str]:
    accepted = [name for name in known if wanted(name)]
    if not accepted:
        raise UnknownNameError(
            f"a filter must accept at least one hook point, but {_described(wanted)} accepted none of {len(known)}; "
            f"names read like {', '.join(known[:3])}"
        )
    always = [name for name in accepted if short_name(name) not in ON_DEMAND]
    if not always:
        return accepted
    left_out = sorted({short_name(name) for name in accepted} & ON_DEMAND)
    if left_out and warn:
        warnings.warn(
            f"{_described(wanted)} also accepts {', '.join(left_out)}, computed only for who names them alone; "
            "they were left out: give their names",
            MisreadWarning,
            stacklevel=4,
        )
    return always


def _meant(known: Sequence[str], item: object) -> list[str]:
    if isinstance(item, str):
        if item in known:
            return [item]
        short = short_name(item) if "." not in item else None
        every = [name for name in known if short_name(name) == ALIASES.get(short or "", short)]
        full = get_act_name(item)
        if every or full in known:
            return every or [full]
        raise UnknownNameError(f"no hook point is named {item!r}{_nearest_points(item, known)}")
    if isinstance(item, tuple) and item and isinstance(item[0], str):
        if len(item) > 3 or any(isinstance(part, str) and "." in part for part in item):
            raise ArgumentError(
                f"a tuple must be one shorthand (name, layer, part), got {item!r}; give several names as a list"
            )
        full = get_act_name(*_counted(known, item))  # type: ignore[arg-type]
        if full in known:
            return [full]
        raise UnknownNameError(f"no hook point is named {full!r} (from {item!r}){_nearest_points(full, known)}")
    raise UnknownNameError(
        f"a hook point is named by a string, a shorthand such as ('pattern', 5) or a callable, got {item!r}"
    )


def _counted(known: Sequence[str], shorthand: tuple[object, ...]) -> list[object]:
    """A shorthand whose negative layer counts from the last one."""
    name, *rest = shorthand
    if rest:
        rest[0] = plain(rest[0], "layer")
    if rest and isinstance(rest[0], int) and rest[0] < 0:
        n_layers = 1 + max((layer_of(full) or 0 for full in known), default=0)
        rest[0] += n_layers
    return [name, *rest]


def _nearest_points(name: str, known: Sequence[str]) -> str:
    short = sorted({short_name(full) for full in known})
    return nearest(name, known) or nearest(short_name(name), short) or f"; there is: {', '.join(short)}"


def _described(function: Callable[..., object]) -> str:
    return getattr(function, "__qualname__", repr(function))
