"""One pass over the layers for all patches at once: each joins at its own layer, and only what has changed is carried.

A patched run *is* the unpatched one continued from the patch on. All changed rows of all cells lie flat, one behind the
other, so that each weight matrix is read once a layer, and norms, queries, keys, values, outputs and MLPs are one
product each for the whole sweep. Attention alone goes group by group: cells of one prompt whose changed rows begin
alike attend to the unpatched run's keys before them and to their own.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.hooked_transformer import HookedTransformer
from pellucid.model.block import Block
from pellucid.patching.entries import prepared
from pellucid.patching.plan import Entry
from pellucid.patching.runs import PromptRun, span
from pellucid.patching.sites import Place


@dataclass(frozen=True)
class Group:
    """Cells of one prompt, and their stream at the rows that have changed."""

    run: PromptRun
    rows: Sequence[int]
    cells: Int[Tensor, " cell"]
    x: Float[Tensor, "cell row d_model"]

    @property
    def key(self) -> tuple[int, int]:
        """Groups of one key attend together: the prompt, and the first row that has changed."""
        return self.run.index, self.rows[0]


@dataclass(frozen=True)
class Chunks:
    """How much is worked on at once, beside the rows that are carried."""

    mlp_rows: int = 1024
    """Rows whose neurons are held at once; a thousand suit a cache of 32 MB."""
    attention_bytes: int = 2**25
    """Keys, values and scores that are held at once."""


@torch.no_grad()
def walk(
    model: HookedTransformer,
    runs: Mapping[int, PromptRun],
    entries: Sequence[Entry],
    finish: Callable[[Group], None],
    *,
    chunks: Chunks = Chunks(),
    advance: Callable[[float], object] = lambda work: None,
) -> None:
    """Carries the cells of some entries to the end.

    Args:
        model: Whose blocks are in pieces.
        runs: The unpatched run of each prompt, by its number.
        entries: What joins.
        finish: Is given the stream behind the last block, group by group, at the positions that the metric looks at.
        chunks: How much is worked on at once.
        advance: Is told the rows that have passed a layer.
    """
    waiting: dict[tuple[int, Place], list[Entry]] = {}
    for entry in entries:
        layer, place = (entry.layer + 1, "before") if entry.kind.joins == "behind" else (entry.layer, entry.kind.joins)
        waiting.setdefault((layer, place), []).append(entry)
    n_layers = model.config.n_layers
    groups: list[Group] = []
    for layer in range(min((layer for layer, _ in waiting), default=n_layers), n_layers):
        block = model.blocks[layer]
        groups += _joining(runs, waiting.pop((layer, "before"), ()))
        groups = _attended(model, layer, groups, chunks) if groups else []
        groups += _joining(runs, waiting.pop((layer, "between"), ()))
        if groups and block.mlp is not None:
            groups = _through_mlp(block, groups, chunks)
        advance(sum(len(group.cells) * len(group.rows) for group in groups))
    for group in [*groups, *_joining(runs, waiting.pop((n_layers, "before"), ()))]:
        finish(group)


def _joining(runs: Mapping[int, PromptRun], entries: Iterable[Entry]) -> list[Group]:
    return [
        Group(runs[entry.prompt], entry.rows, torch.from_numpy(entry.cells), prepared(runs[entry.prompt], entry))
        for entry in entries
    ]


def _flat(groups: Sequence[Group]) -> Float[Tensor, "flat d_model"]:
    return torch.cat([group.x.flatten(0, 1) for group in groups])


def _parted(flat: Float[Tensor, "flat ..."], groups: Sequence[Group]) -> list[Tensor]:
    """Each group's part, `[cell row …]`."""
    sizes = [len(group.cells) * len(group.rows) for group in groups]
    parts = flat.split(sizes)
    return [part.unflatten(0, (len(g.cells), len(g.rows))) for part, g in zip(parts, groups, strict=True)]


def _through_mlp(block: Block, groups: Sequence[Group], chunks: Chunks) -> list[Group]:
    done = [_after_mlp(block, part) for part in _flat(groups).split(chunks.mlp_rows)]
    parts = _parted(done[0] if len(done) == 1 else torch.cat(done), groups)
    return [replace(group, x=part) for group, part in zip(groups, parts, strict=True)]


def _after_mlp(block: Block, x: Float[Tensor, "flat d_model"]) -> Float[Tensor, "flat d_model"]:
    return x if block.mlp is None else block.joined(x, block.mlp(block.ln2(x)))


@dataclass(frozen=True)
class _Member:
    """A group's part of what attention takes, at its own rows."""

    group: Group
    q: Float[Tensor, "cell asking head d_head"]
    k: Float[Tensor, "cell row kv_head d_head"]
    v: Float[Tensor, "cell row kv_head d_head"]


def _attended(model: HookedTransformer, layer: int, groups: list[Group], chunks: Chunks) -> list[Group]:
    """The stream between attention and MLP; in the last layer, at the positions that the metric looks at alone."""
    block, last = model.blocks[layer], layer == model.config.n_layers - 1
    members = _members(model, block, sorted(groups, key=lambda group: group.key), last)
    merged, z = [], []
    for _, together in groupby(members, key=lambda member: member.group.key):
        group, gathered = _attend(block, layer, list(together), last, chunks)
        merged.append(group)
        z.append(gathered.flatten(0, 1))
    x = block.joined(_flat(merged), block.attn.write(torch.cat(z)))
    return [replace(group, x=part) for group, part in zip(merged, _parted(x, merged), strict=True)]


def _members(model: HookedTransformer, block: Block, groups: Sequence[Group], last: bool) -> list[_Member]:
    """Queries, keys and values of all rows that have changed, one product each."""
    attn, normed = block.attn, block.ln1(_flat(groups))
    rotation = model.rotation_at(_places(groups), normed)
    k, v = attn.keys(normed, rotation), attn.values(normed)
    asking = groups
    if last:
        places = [[at for at, row in enumerate(group.rows) if row in group.run.wanted] for group in groups]
        parts = zip(groups, _parted(normed, groups), places, strict=True)
        asking = [replace(group, rows=[group.rows[i] for i in at], x=x[:, span(at)]) for group, x, at in parts]
        normed = _flat(asking)
        rotation = model.rotation_at(_places(asking), normed)
    q = attn.queries(normed, rotation)
    return [
        _Member(*parts)
        for parts in zip(groups, _parted(q, asking), _parted(k, groups), _parted(v, groups), strict=True)
    ]


def _places(groups: Sequence[Group]) -> Int[Tensor, " flat"]:
    """The position of each row."""
    device = groups[0].x.device
    return torch.cat([torch.tensor(group.rows, dtype=torch.long).repeat(len(group.cells)) for group in groups]).to(
        device
    )


def _attend(
    block: Block, layer: int, members: Sequence[_Member], last: bool, chunks: Chunks
) -> tuple[Group, Float[Tensor, "cell row head d_head"]]:
    """Cells whose rows begin alike: their stream at all rows from there on, and what their heads gather."""
    run, start = members[0].group.run, members[0].group.rows[0]
    changed = range(start, run.end + 1)
    rows = [row for row in changed if row in run.wanted] if last else list(changed)
    spread = [_spread(run, layer, member, rows) for member in members]
    x, q, k, v = (spread[0][i] if len(spread) == 1 else torch.cat([part[i] for part in spread]) for i in range(4))
    cells = torch.cat([member.group.cells for member in members])
    visible = run.visible(rows)
    before = [run.taken(name, layer)[None, :start] for name in "kv"]
    kv_heads, d_head = block.attn.config.kv_heads, block.attn.config.d_head
    each = (run.end + 1) * (2 * kv_heads * d_head + len(rows) * block.attn.config.n_heads) * x.element_size()
    size, z = max(1, chunks.attention_bytes // each), []
    for asking, *own in zip(*(part.split(size) for part in (q, k, v)), strict=True):
        keys, values = (
            torch.cat([old.expand(len(new), -1, -1, -1), new], dim=1) for old, new in zip(before, own, strict=True)
        )
        z.append(block.attn.attend(asking, keys, values, visible))
    return Group(run, rows, cells, x), z[0] if len(z) == 1 else torch.cat(z)


def _spread(run: PromptRun, layer: int, member: _Member, rows: Sequence[int]) -> list[Tensor]:
    """Stream and queries at these rows, keys and values at all rows from the first changed one on.

    A row that has not changed is that of the unpatched run.
    """
    group, start = member.group, member.group.rows[0]
    n, changed = len(group.cells), len(group.rows)
    whole = changed == run.end + 1 - start
    if whole:
        own = group.x if len(rows) == changed else group.x[:, span([row - start for row in rows])]
        return [own, member.q, member.k, member.v]
    found = []
    for old, new, at in (
        (run.old("resid_pre", layer), group.x, rows),
        (run.taken("q", layer), member.q, rows),
        (run.taken("k", layer), member.k, range(start, run.end + 1)),
        (run.taken("v", layer), member.v, range(start, run.end + 1)),
    ):
        spread = old[span(at)].expand(n, *[-1] * old.ndim).clone()
        if start in at:
            spread[:, : new.shape[1]] = new
        found.append(spread)
    return found
