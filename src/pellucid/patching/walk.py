"""One pass over the layers for all patches at once: each joins at its own layer, and only what has changed is carried.

A patched run *is* the unpatched one continued from the patch on. All changed rows of all cells lie flat, one behind the
other, so that each weight matrix is read once a layer, and norms, queries, keys, values, outputs and MLPs are one
product each for the whole sweep. Attention alone goes group by group: cells of one prompt whose changed rows begin
alike attend to the unpatched run's keys before them and to their own.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.hooked_transformer import HookedTransformer
from pellucid.model.block import Block
from pellucid.model.positional import Placing
from pellucid.patching.entries import prepared
from pellucid.patching.plan import Joining
from pellucid.patching.runs import PromptRun, span
from pellucid.patching.sites import Place

At: TypeAlias = tuple[int, Place]
"""A place in the model: before a layer's attention, or between it and the MLP."""


@dataclass(frozen=True)
class Group:
    """Cells of one prompt, and their stream at the rows that have changed."""

    run: PromptRun
    rows: Sequence[int]
    cells: Int[Tensor, " cell"]
    x: Float[Tensor, "cell row d_model"]

    @property
    def key(self) -> tuple[int, int]:
        """By what groups are in order: the prompt, and the first row that has changed."""
        return self.run.index, self.rows[0]

    @property
    def batch(self) -> tuple[int, int]:
        """Groups of one batch attend together: of one prompt, and none with more than twice as many rows as another."""
        return self.run.index, (self.run.end + 1 - self.rows[0]).bit_length()


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
    entries: Sequence[Joining],
    *,
    prepare: Callable[[PromptRun, Any], Float[Tensor, "cell row d_model"]] = prepared,
    seen: Callable[[At, Sequence[Group]], None],
    until: At | None = None,
    chunks: Chunks = Chunks(),
    advance: Callable[[float], object] = lambda work: None,
) -> None:
    """Carries the cells of some entries to the end, or to some place below it.

    Args:
        model: Whose blocks are in pieces.
        runs: The unpatched run of each prompt, by its number.
        entries: What joins.
        prepare: Makes the stream of an entry's cells where they join.
        seen: Is given all cells at every place, before attention and before the MLP of each layer. Before the layer
            that follows the last one, and before the last MLP, they stand at the positions that the metric looks at.
        until: The last place; None: behind the last block.
        chunks: How much is worked on at once.
        advance: Is told the rows that have passed a layer.
    """
    waiting: dict[At, list[Joining]] = {}
    for entry in entries:
        waiting.setdefault(entry.joins, []).append(entry)
    end: At = (model.config.n_layers, "before")
    last = end if until is None else until
    groups: list[Group] = []
    for layer in range(min((layer for layer, _ in waiting), default=last[0]), end[0]):
        block = model.blocks[layer]
        groups += _joining(runs, waiting.pop((layer, "before"), ()), prepare)
        seen((layer, "before"), groups)
        if last == (layer, "before"):
            return
        groups = _attended(model, layer, groups, chunks) if groups else []
        groups += _joining(runs, waiting.pop((layer, "between"), ()), prepare)
        seen((layer, "between"), groups)
        if last == (layer, "between"):
            return
        if groups and block.mlp is not None:
            groups = _through_mlp(block, groups, chunks)
        advance(sum(len(group.cells) * len(group.rows) for group in groups))
    seen(end, [*groups, *_joining(runs, waiting.pop(end, ()), prepare)])


def _joining(runs: Mapping[int, PromptRun], entries: Iterable[Joining], prepare: Callable[..., Tensor]) -> list[Group]:
    return [
        Group(runs[entry.prompt], entry.rows, torch.from_numpy(entry.cells), prepare(runs[entry.prompt], entry))
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
    done = [after_mlp(block, part) for part in _flat(groups).split(chunks.mlp_rows)]
    parts = _parted(_joined(done), groups)
    return [replace(group, x=part) for group, part in zip(groups, parts, strict=True)]


def after_mlp(block: Block, x: Float[Tensor, "flat d_model"]) -> Float[Tensor, "flat d_model"]:
    """The stream behind a block's MLP."""
    return x if block.mlp is None else block.joined(x, block.mlp(block.ln2(x)))


@dataclass(frozen=True)
class _Member:
    """A group's part of what attention takes, at its own rows; queries where they count."""

    group: Group
    asking: Sequence[int]
    """The rows of its queries."""
    q: Float[Tensor, "cell asking head d_head"]
    k: Float[Tensor, "cell row kv_head d_head"]
    v: Float[Tensor, "cell row kv_head d_head"]


def _attended(model: HookedTransformer, layer: int, groups: list[Group], chunks: Chunks) -> list[Group]:
    """The stream between attention and MLP; in the last layer, at the positions that the metric looks at alone."""
    block, last = model.blocks[layer], layer == model.config.n_layers - 1
    members = _members(model, block, sorted(groups, key=lambda group: group.key), last)
    merged, z = [], []
    for _, together in groupby(members, key=lambda member: member.group.batch):
        for group, gathered in _attend(block, layer, list(together), last, chunks):
            merged.append(group)
            z.append(gathered.flatten(0, 1))
    x = block.joined(_flat(merged), block.attn.write(torch.cat(z)))
    return [replace(group, x=part) for group, part in zip(merged, _parted(x, merged), strict=True)]


def _members(model: HookedTransformer, block: Block, groups: Sequence[Group], last: bool) -> list[_Member]:
    """Queries, keys and values of all rows that have changed, one product each."""
    attn, normed = block.attn, block.ln1(_flat(groups))
    placing = _placing(model, groups, normed, attn.layer)
    k, v = attn.keys(normed, placing), attn.values(normed)
    asking = groups
    if last:
        places = [[at for at, row in enumerate(group.rows) if row in group.run.wanted] for group in groups]
        parts = zip(groups, _parted(normed, groups), places, strict=True)
        asking = [replace(group, rows=[group.rows[i] for i in at], x=x[:, span(at)]) for group, x, at in parts]
        normed = _flat(asking)
        placing = _placing(model, asking, normed, attn.layer)
    q = attn.queries(normed, placing)
    made = zip(groups, asking, _parted(q, asking), _parted(k, groups), _parted(v, groups), strict=True)
    return [_Member(group, asks.rows, *parts) for group, asks, *parts in made]


def _placing(model: HookedTransformer, groups: Sequence[Group], like: Tensor, layer: int) -> Placing | None:
    """How each row's queries and keys come to know where they stand."""
    every = torch.arange(max(group.run.length for group in groups), device=like.device)
    positions = torch.cat([every[span(group.rows)].repeat(len(group.cells)) for group in groups])
    return model.placing_at(positions, like, layer)


def _attend(
    block: Block, layer: int, members: Sequence[_Member], last: bool, chunks: Chunks
) -> Iterator[tuple[Group, Float[Tensor, "cell row head d_head"]]]:
    """Cells of a prompt that attend together: for each first changed row their stream, and what their heads gather.

    Keys, values and queries that have not changed are those of the unpatched run. Where cells begin later than others,
    what their rows before that gather is thrown away.
    """
    run, first = members[0].group.run, members[0].group.rows[0]
    rows = [row for row in range(first, run.end + 1) if not last or row in run.wanted]
    place, visible, config = {row: at for at, row in enumerate(rows)}, run.visible(rows), block.attn.config
    each = (run.end + 1) * (2 * config.kv_heads * config.d_head + len(rows) * config.n_heads)
    size, z = max(1, chunks.attention_bytes // (each * members[0].k.element_size())), []
    for part in _pieces(members, size):
        n = sum(len(member.k) for member in part)
        q = run.taken("q", layer)[span(rows)].expand(n, -1, -1, -1).clone()
        k, v = (run.taken(name, layer)[: run.end + 1].expand(n, -1, -1, -1).clone() for name in "kv")
        begin = 0
        for member in part:
            cells, changed = slice(begin, begin + len(member.k)), span(member.group.rows)
            k[cells, changed], v[cells, changed] = member.k, member.v
            if len(member.asking):
                q[cells, span([place[row] for row in member.asking])] = member.q
            begin = cells.stop
        z.append(block.attn.attend(q, k, v, visible))
    gathered, begin = _joined(z), 0
    for start, alike in groupby(members, key=lambda member: member.group.rows[0]):
        listed = list(alike)
        here = [row for row in rows if row >= start]
        x = [_spread(run, layer, member.group, here) for member in listed]
        group = Group(run, here, _joined([m.group.cells for m in listed]), _joined(x))
        yield group, gathered[begin : begin + len(group.cells), len(rows) - len(here) :]
        begin += len(group.cells)


def _pieces(members: Sequence[_Member], size: int) -> Iterator[list[_Member]]:
    """The members in their order, in parts of so many cells at the most."""
    part: list[_Member] = []
    for member in members:
        for first in range(0, len(member.k), size):
            taken = slice(first, first + size)
            piece = replace(member, q=member.q[taken], k=member.k[taken], v=member.v[taken])
            if part and sum(len(p.k) for p in part) + len(piece.k) > size:
                yield part
                part = []
            part.append(piece)
    yield part


def _spread(run: PromptRun, layer: int, group: Group, rows: Sequence[int]) -> Float[Tensor, "cell asking d_model"]:
    """The stream before the layer at these rows; one that has not changed is that of the unpatched run."""
    start, changed = group.rows[0], len(group.rows)
    if changed == run.end + 1 - start:
        return group.x if len(rows) == changed else group.x[:, span([row - start for row in rows])]
    x = run.old("resid_pre", layer)[span(rows)].expand(len(group.cells), -1, -1).clone()
    if start in rows:
        x[:, :changed] = group.x
    return x


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
