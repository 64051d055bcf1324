"""What a patch makes of its own layer: the rows of the stream that have changed when it joins the walk.

All of it follows from the unpatched run: below a patch nothing has changed, so that its layer's activations are known,
and each preparation computes what differs, no more. One function for each kind of site.
"""

from collections.abc import Callable
from typing import TypeAlias, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.model.attention import Attention, pattern_of, project
from pellucid.model.block import Block
from pellucid.model.mlp import MLP
from pellucid.model.positional import Learned
from pellucid.patching.plan import Entry
from pellucid.patching.runs import OtherRun, PromptRun, span
from pellucid.patching.sites import axes_of, taken

Rows: TypeAlias = Float[Tensor, "cell row d_model"]
Ids: TypeAlias = Int[np.ndarray, " id"] | None
READ = {"attn_in": "qkv", "ln1.normalized": "qkv", "q_input": "q", "k_input": "k", "v_input": "v"}
"""What attention makes of its inputs."""


def prepared(run: PromptRun, entry: Entry) -> Rows:
    """The stream of an entry's cells at its rows, where they join the walk."""
    return _PREPARED[entry.kind.prepared](run, entry, run.model.blocks[entry.layer])


def _stream(run: PromptRun, entry: Entry, block: Block) -> Rows:
    """Before the layer: the embedding's parts, and the stream itself."""
    if entry.site == "resid_pre":
        return run.new("resid_pre", entry.layer)[span(entry.rows)][None]
    parts = [run.new(entry.site, None)[span(entry.rows)]]
    other = "pos_embed" if entry.site == "embed" else "embed"
    if isinstance(run.model.config.positions, Learned):
        parts.append(run.old(other, None)[span(entry.rows)])
    return sum(parts[1:], parts[0])[None]


def _mid(run: PromptRun, entry: Entry, block: Block) -> Rows:
    """Between attention and MLP."""
    x = run.new(entry.site, entry.layer)[span(entry.rows)]
    if entry.site == "attn_out":
        x = block.joined(run.old("resid_pre", entry.layer)[span(entry.rows)], x)
    return x[None]


def _mlp(run: PromptRun, entry: Entry, block: Block) -> Rows:
    """What the MLP reads and writes as a whole, and the stream behind it."""
    rows, layer, mlp = span(entry.rows), entry.layer, cast(MLP, block.mlp)
    if entry.site == "resid_post":
        return run.new("resid_post", layer)[rows][None]
    if entry.site == "mlp_out" or isinstance(run.values, OtherRun):  # another run's MLP has read its own input
        out = run.new("mlp_out", layer)[rows]
    elif entry.site == "mlp_in":
        out = mlp(block.ln2(run.new("mlp_in", layer)[rows]))
    else:
        out = mlp(block.ln2.finished(run.new("ln2.normalized", layer)[rows]))
    return block.joined(run.old("resid_mid", layer)[rows], out)[None]


def _neurons(run: PromptRun, entry: Entry, block: Block) -> Rows:
    """What neurons write changes by as much as they do."""
    rows, layer, mlp = span(entry.rows), entry.layer, cast(MLP, block.mlp)
    new, old = run.new(entry.site, layer)[rows], run.old("post", layer)[rows]
    if entry.site == "pre":
        new = mlp.activated(new, None if mlp.W_gate is None else run.old("pre_linear", layer)[rows])
    elif entry.site == "pre_linear":
        new = mlp.activated(run.old("pre", layer)[rows], new)
    change, x = new - old, run.old("resid_post", layer)[rows]
    if entry.ids is None:
        return (x + change @ mlp.W_out)[None]
    ids = span(entry.ids)
    if entry.together:
        return (x + change[:, ids] @ mlp.W_out[ids])[None]
    return torch.addcmul(x[None], change[:, ids].T[..., None], mlp.W_out[ids][:, None])


def _heads(run: PromptRun, entry: Entry, block: Block) -> Rows:
    """What heads write, and what they gather for it."""
    rows = span(entry.rows)
    if entry.site == "z" or isinstance(run.values, OtherRun):
        change = run.new("z", entry.layer)[rows] - run.old("z", entry.layer)[rows]
        return _written(run, entry, block.attn, change, entry.ids)
    change = run.new("result", entry.layer)[rows] - run.old("result", entry.layer)[rows]
    return _summed(run, entry, change.transpose(0, 1), entry.ids)


def _attention(run: PromptRun, entry: Entry, block: Block) -> Rows:
    """Queries, keys, values, and what they are made of: attention once more, with all heads patched at once.

    A head sees nothing of what is patched in another one, so that this serves every choice of heads.
    """
    attn, rows, end = block.attn, span(entry.rows), run.end + 1
    taken = {name: run.taken(name, entry.layer) for name in "qkv"}
    for name, new in _read_anew(run, entry, block).items():
        if entry.pos is not None:
            patched = taken[name].clone()
            patched[entry.pos] = new[entry.pos]
            new = patched
        taken[name] = new
    z = attn.attend(taken["q"][rows][None], taken["k"][None, :end], taken["v"][None, :end], run.visible(entry.rows))[0]
    return _written(run, entry, attn, z - run.old("z", entry.layer)[rows], entry.ids)


def _read_anew(run: PromptRun, entry: Entry, block: Block) -> dict[str, Tensor]:
    """Those of q, k and v that a patch changes, as attention takes them."""
    site, layer = entry.site, entry.layer
    changed = READ.get(site, site.removeprefix("rot_"))
    if isinstance(run.values, OtherRun):  # another run's attention has read its own input
        return {name: run.new(taken(name, rotary=run.model.rotary is not None), layer) for name in changed}
    return run.remembered(("read", site, layer), lambda: _edited(run, site, layer, block, changed))


def _edited(run: PromptRun, site: str, layer: int, block: Block, changed: str) -> dict[str, Tensor]:
    attn, x = block.attn, run.new(site, layer)
    placing = run.model.placing_at(torch.arange(len(x), device=x.device), x, layer)
    if site not in READ:
        made = {changed: x}
    else:
        x = block.ln1.finished(x) if site == "ln1.normalized" else block.ln1(x)
        weights = {"q": (attn.W_Q, attn.b_Q), "k": (attn.W_K, attn.b_K), "v": (attn.W_V, attn.b_V)}
        reads = {name: x if name == "v" or placing is None else placing.read(x) for name in changed}
        made = {name: project(read[None], *weights[name])[0] for name, read in reads.items()}
    if placing is None or site.startswith("rot_"):
        return made
    return {name: part if name == "v" else placing.turned(part) for name, part in made.items()}


def _pattern(run: PromptRun, entry: Entry, block: Block) -> Rows:
    """Scores and patterns: chosen, never subtracted, since −∞ minus −∞ is nothing."""
    rows, attn = span(entry.rows), block.attn
    new, old = (part(entry.site, entry.layer)[:, rows] for part in (run.new, run.old))
    if entry.keys is None:
        return _written(run, entry, attn, _gathered(run, entry, new), entry.ids)
    found = []
    for cells in range(len(entry.cells)):
        one = old.clone()
        key = int(entry.keys[cells])
        one[..., key] = new[..., key]
        ids = entry.ids if entry.together or entry.ids is None else entry.ids[cells : cells + 1]
        found.append(_written(run, entry, attn, _gathered(run, entry, one), ids))
    return torch.cat(found)


def _gathered(run: PromptRun, entry: Entry, x: Float[Tensor, "head row k_pos"]) -> Float[Tensor, "row head d_head"]:
    """By how much what each head gathers changes, with these scores or this pattern."""
    pattern = pattern_of(x) if entry.site == "attn_scores" else x
    z = run.model.blocks[entry.layer].attn.mixed(pattern[None], run.old("v", entry.layer)[None])[0]
    return z - run.old("z", entry.layer)[span(entry.rows)]


def _written(run: PromptRun, entry: Entry, attn: Attention, change: Float[Tensor, "row head d_head"], ids: Ids) -> Rows:
    """The stream between attention and MLP, where what heads gather has changed."""
    return _summed(run, entry, torch.bmm(change.transpose(0, 1), attn.W_O), ids)


def _summed(run: PromptRun, entry: Entry, by_head: Float[Tensor, "head row d_model"], ids: Ids) -> Rows:
    """The same from what each head writes, by the heads of each cell."""
    block = run.model.blocks[entry.layer]
    between = "resid_post" if block.mlp is None else "resid_mid"
    x = run.old(between, entry.layer)[span(entry.rows)]
    if "kv_head" in axes_of(entry.site):
        by_head = by_head.unflatten(0, (block.attn.config.kv_heads, -1)).sum(1)
    if ids is not None:
        by_head = by_head[span(ids)]
    return (x + by_head.sum(0))[None] if entry.together else x + by_head


_PREPARED: dict[str, Callable[[PromptRun, Entry, Block], Rows]] = {
    "stream": _stream,
    "attention": _attention,
    "pattern": _pattern,
    "heads": _heads,
    "mid": _mid,
    "mlp": _mlp,
    "neurons": _neurons,
}
"""By the names in `sites.py`."""
