"""Which activations some cells need of the unpatched run, and of the one that gives values. Pure: no tensors."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pellucid.hooks.names import AXES, short_name
from pellucid.model.config import Config
from pellucid.model.positional import Learned, Rotary
from pellucid.patching.grid import Grid
from pellucid.patching.plan import Entry, Item, PlainCells
from pellucid.patching.sites import DERIVED, FROZEN, KINDS, point, taken

_OWN = {
    "mid": ("resid_pre",),
    "mlp": ("resid_mid",),
    "neurons": ("post", "resid_post"),
    "heads": ("z", "between"),
    "attention": ("z", "between"),
    "pattern": ("z", "between"),
}
"""What a preparation takes of the unpatched run in its own layer, beside stream, queries, keys and values before it."""
_OTHER = {
    **{"result": ("z",), "mlp_in": ("mlp_out",), "ln2.normalized": ("mlp_out",)},
    **{"attn_scores": ("q", "k"), "pattern": ("q", "k"), "q_input": ("q",), "k_input": ("k",), "v_input": ("v",)},
    **dict.fromkeys(("attn_in", "ln1.normalized"), ("q", "k", "v")),
}
"""What it takes of another run, where that is not the site itself."""


class Needs(NamedTuple):
    """Full names of what is kept."""

    unpatched: list[str]
    other: list[str]


class Need:
    """Gathers what some cells need.

    Args:
        config: Of the model.
        edited: Whether the values put in are made of the unpatched run's own.
        freeze: What is held, from `FROZEN`.
    """

    def __init__(self, config: Config, *, edited: bool, freeze: Sequence[str] = ()) -> None:
        self.config, self.edited, self.freeze = config, edited, freeze
        self.rotary = isinstance(config.positions, Rotary)

    def of(self, grid: Grid, items: Iterable[Item]) -> Needs:
        """What must be kept for some items of a plan."""
        own, other = set[str](), set[str]()
        lowest = n_layers = self.config.n_layers
        for item in items:
            if isinstance(item, PlainCells):
                self._add_plain(grid, item, own, other)
            elif isinstance(item, Entry):
                lowest = min(lowest, item.layer)
                self._add_entry(item, own, other)
        for layer in range(lowest, n_layers):
            own |= {point(name, layer) for name in ("resid_pre", *self.taken("qkv"))}
        own.add(point("resid_post", n_layers - 1) if n_layers else "hook_embed")
        return Needs(sorted(own), sorted(other))

    def bytes(self, names: Iterable[str], length: int, itemsize: int) -> int:
        """How much activations of one prompt take; a stream counts once where two names share it."""
        return itemsize * elements(self.config, names, length)

    def taken(self, names: Iterable[str]) -> list[str]:
        """The sites of queries, keys and values as attention takes them."""
        return [taken(name, rotary=self.rotary) for name in names]

    def _add_entry(self, entry: Entry, own: set[str], other: set[str]) -> None:
        site, layer = entry.site, entry.layer
        outside = site in ("embed", "pos_embed")
        between = "resid_post" if self.config.mlp is None else "resid_mid"
        made = () if site == "resid_post" else _OWN.get(KINDS[site].prepared, ())
        names = [between if name == "between" else name for name in made]
        if site in ("pre", "pre_linear") and self.config.mlp is not None and self.config.mlp.gated:
            names += ["pre", "pre_linear"]
        own |= {point(name, layer) for name in names}
        if outside:
            own |= {"hook_embed"} | ({"hook_pos_embed"} if isinstance(self.config.positions, Learned) else set())
        if self.edited:
            own |= {point(site, None if outside else layer)} if site not in DERIVED else set()
        else:
            self._add_other(site, None if outside else layer, other)

    def _add_other(self, site: str, layer: int | None, other: set[str]) -> None:
        other |= {point(name, layer) for name in self.taken(_OTHER.get(site, (site,)))}
        if site in ("q", "k"):  # run plainly, they are put in before they are turned
            other.add(point(site, layer))

    def _add_plain(self, grid: Grid, item: PlainCells, own: set[str], other: set[str]) -> None:
        n_layers = self.config.n_layers
        if item.layer is not None and item.layer < n_layers:
            own.add(point("resid_pre", item.layer))
        if not self.edited:
            for site, layer in item.touched:
                other |= {point(site, layer)} if site not in DERIVED else set()
                self._add_other(site, layer, other)
        for site in (site for name in self.freeze for site in FROZEN[name]):
            for layer in [None] if site.startswith("ln_final") else range(item.layer or 0, n_layers):
                names = self.taken("qk") if site in DERIVED else [site]
                own |= {full for name in names if (full := point(name, layer)) in grid.scene.hook_names}


def elements(config: Config, names: Iterable[str], length: int) -> int:
    """Of activations of one prompt, by full name, each counted once."""
    attention, mlp = config.attention, config.mlp
    sizes = {"head": attention.n_heads, "kv_head": attention.kv_heads, "d_head": attention.d_head}
    sizes |= {"batch": 1, "pos": length, "q_pos": length, "k_pos": length, "d_model": config.d_model, "scale": 1}
    sizes["neuron"] = 0 if mlp is None else mlp.d_mlp
    return sum(math.prod(sizes[axis] for axis in AXES[short_name(name)].split()) for name in set(names))
