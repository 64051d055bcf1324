"""What can be patched: for each site its axes, and where a patched run leaves the unpatched one.

A patch changes nothing below its layer. What it changes inside its own layer is worked out from the unpatched run alone
(`entries.py`); the rows of the stream that come of it then join the walk through the layers above (`walk.py`), at one
of three places: before a layer's attention, between attention and MLP, or behind the MLP.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pellucid.base.errors import ArgumentError, UnknownNameError, nearest
from pellucid.hooks.names import ALIASES, AXES, get_act_name, layer_of

Place = Literal["before", "between", "behind"]


@dataclass(frozen=True)
class Kind:
    """How patches of a site are worked out."""

    prepared: str
    """The preparation in `entries.py`; empty: none, patched runs are made plainly."""
    joins: Place = "between"
    spreads: bool = False
    """Whether a patch of one position reaches later ones in its own layer, since their queries see it."""


PLAINLY = Kind("")
KINDS = {
    "embed": Kind("stream", "before", spreads=True),
    "pos_embed": Kind("stream", "before", spreads=True),
    "resid_pre": Kind("stream", "before", spreads=True),
    "ln1.scale": PLAINLY,
    "ln1.normalized": Kind("attention", spreads=True),
    "attn_in": Kind("attention", spreads=True),
    "q_input": Kind("attention"),
    "k_input": Kind("attention", spreads=True),
    "v_input": Kind("attention", spreads=True),
    "q": Kind("attention"),
    "k": Kind("attention", spreads=True),
    "v": Kind("attention", spreads=True),
    "rot_q": Kind("attention"),
    "rot_k": Kind("attention", spreads=True),
    "attn_scores": Kind("pattern"),
    "pattern": Kind("pattern"),
    "z": Kind("heads"),
    "result": Kind("heads"),
    "attn_out": Kind("mid"),
    "resid_mid": Kind("mid"),
    "mlp_in": Kind("mlp", "behind"),
    "ln2.scale": PLAINLY,
    "ln2.normalized": Kind("mlp", "behind"),
    "pre": Kind("neurons", "behind"),
    "pre_linear": Kind("neurons", "behind"),
    "post": Kind("neurons", "behind"),
    "mlp_out": Kind("mlp", "behind"),
    "resid_post": Kind("mlp", "behind"),
    "ln_final.scale": PLAINLY,
    "ln_final.normalized": PLAINLY,
}
"""Every site, in the order of a block."""
PART_AXES = ("head", "kv_head", "neuron")
"""Axes whose entries add up in what the layer writes."""
ROW_AXES = ("pos", "position", "q_pos")
"""Axes that say which row is patched."""
DERIVED = ("result", "attn_scores", "pattern")
"""Sites that are too large to keep for every layer: they are made when they are needed."""
FROZEN = {"ln_scale": ("ln1.scale", "ln2.scale", "ln_final.scale"), "pattern": ("pattern",)}
"""What can be held at its value in the unpatched run, and where."""


def site_name(name: str) -> str:
    """The name of a site as `KINDS` has it.

    Raises:
        UnknownNameError: It is none.

    Example:
        >>> site_name("attn"), site_name("hook_resid_pre")
        ('pattern', 'resid_pre')
    """
    short = ".".join(part.removeprefix("hook_") for part in name.split("."))
    short = ALIASES.get(short, short)
    if short not in KINDS:
        within = [site for site in KINDS if site.endswith(f".{short}")]
        offered = f"; there is: {', '.join(within)}" if within else nearest(short, KINDS)
        raise UnknownNameError(f"site must be the short name of an activation, got {name!r}{offered}")
    return short


def point(site: str, layer: int | None) -> str:
    """The hook point of a site in a layer, None for what lies outside the blocks.

    Example:
        >>> point("ln1.normalized", 2), point("embed", None)
        ('blocks.2.ln1.hook_normalized', 'hook_embed')
    """
    part, _, name = site.rpartition(".")
    if layer is None:
        return f"{part}.hook_{name}" if part else f"hook_{name}"
    return get_act_name(name, layer, part or None)


def taken(name: str, *, rotary: bool) -> str:
    """The site of queries, keys or values as attention takes them: turned, where positions are rotary.

    Example:
        >>> taken("q", rotary=True), taken("v", rotary=True)
        ('rot_q', 'v')
    """
    return f"rot_{name}" if rotary and name in ("q", "k") else name


def layers_of(site: str, known: Sequence[str]) -> list[int | None]:
    """The layers in which a model has a site; [None] for one outside the blocks.

    Raises:
        UnknownNameError: It has none.
    """
    if point(site, None) in known:
        return [None]
    there = {layer for full in known if (layer := layer_of(full)) is not None}
    found = [layer for layer in sorted(there) if point(site, layer) in known]
    if not found:
        had = [name for name in KINDS if point(name, None) in known or point(name, 0) in known]
        offered = nearest(site, had) or f"; there is: {', '.join(had)}"
        raise UnknownNameError(f"site must be one that this model has, got {site!r}{offered}")
    return list(found)


def axes_of(site: str) -> tuple[str, ...]:
    """The axes of the activation, batch and what is no axis of cells included."""
    return tuple(AXES[site.rpartition(".")[2]].split())


def check_over(over: Sequence[str], sites: Sequence[str], *, layered: bool, grouped: bool) -> None:
    """Whether cells of these sites can be told apart by these axes.

    Args:
        over: The axes asked for.
        sites: What is patched together.
        layered: Whether any of them lies in blocks.
        grouped: Whether key/value heads are fewer than query heads.

    Raises:
        ArgumentError: They cannot.
    """
    if len(set(over)) != len(over):
        raise ArgumentError(f"over must name each axis once, got {', '.join(over)}")
    common = set.intersection(*({"group", *axes_of(site)} for site in sites)) if sites else {"group", "pos"}
    if sites and all("pos" in axes_of(site) for site in sites):
        common |= {"pos", "position"}
    allowed = [axis for axis in ("layer", "position", "pos", "q_pos", "k_pos", *PART_AXES, "group") if axis in common]
    allowed = (["layer"] if layered else []) + allowed
    if "kv_head" in common and not grouped:
        allowed.append("head")
    for axis in over:
        if axis not in allowed:
            instead = {"head": "kv_head", "pos": "q_pos", "position": "q_pos", "q_pos": "pos"}.get(axis)
            advice = f"; take {instead}" if instead in allowed else ""
            raise ArgumentError(
                f"over must name axes of {' + '.join(sites)}, which are {', '.join(allowed)}, got {axis!r}{advice}"
            )
    rows = [axis for axis in over if axis in ROW_AXES]
    parts = [axis for axis in over if axis in (*PART_AXES, "group")]
    for together in (rows, parts):
        if len(together) > 1:
            raise ArgumentError(f"over must have one of {', '.join(together)}, got both; leave one out")
