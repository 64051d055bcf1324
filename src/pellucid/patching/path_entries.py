"""What receivers make of a stream in which one sender was put in: the rows that then join the walk.

Only the receiver reads that stream. Whatever stands beside it reads the unpatched one, which the stream itself stays,
too.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.model.block import Block
from pellucid.model.mlp import MLP
from pellucid.model.norms import Norm
from pellucid.patching.path_plan import Crossing
from pellucid.patching.path_streams import Streams, base_stream
from pellucid.patching.runs import PromptRun, span
from pellucid.patching.walk import Chunks


def received(
    run: PromptRun, crossing: Crossing, x: Streams, *, frozen: bool, chunks: Chunks
) -> Float[Tensor, "cell row d_model"]:
    """The stream where a crossing's edges join the walk, at their rows: by sender, then by head.

    Args:
        run: The unpatched run.
        crossing: Which edges; not those into logits.
        x: What the receivers read.
        frozen: Whether the receivers' norm keeps its scale of the unpatched run.
        chunks: How much is worked on at once.
    """
    block = run.model.blocks[crossing.layer]
    if crossing.input == "mlp" and block.mlp is not None:
        return _by_mlp(run, crossing, block, block.mlp, x, frozen, chunks)
    normed = normalized(run, crossing, block.ln1, x, frozen)
    attn, config = block.attn, block.attn.config
    positions = torch.tensor(crossing.read, device=x.device).repeat(len(x))
    placing = run.model.placing_at(positions, normed, crossing.layer)
    flat = normed.flatten(0, 1)
    make = {
        "q": lambda: attn.queries(flat, placing),
        "k": lambda: attn.keys(flat, placing),
        "v": lambda: attn.values(flat),
    }
    new = make[crossing.input]().unflatten(0, x.shape[:2])
    each = (
        new.element_size() * (run.end + 1) * (2 * config.kv_heads * config.d_head + len(crossing.rows) * config.n_heads)
    )
    size = max(1, chunks.attention_bytes // each)
    return torch.cat([_by_attention(run, crossing, block, part) for part in new.split(size)])


def normalized(run: PromptRun, crossing: Crossing, norm: Norm, x: Streams, frozen: bool) -> Streams:
    """What a receiver's norm makes of what it reads."""
    if not frozen:
        return norm(x)
    return norm.held(x, norm.scale(base_stream(run, crossing.reads)[span(crossing.read)]))


def _by_mlp(
    run: PromptRun, crossing: Crossing, block: Block, mlp: MLP, x: Streams, frozen: bool, chunks: Chunks
) -> Float[Tensor, "cell row d_model"]:
    normed = normalized(run, crossing, block.ln2, x, frozen).flatten(0, 1)
    out = torch.cat([mlp(part) for part in normed.split(chunks.mlp_rows)]).view(x.shape)
    return block.joined(base_stream(run, crossing.reads)[span(crossing.rows)].expand_as(out), out)


def _by_attention(
    run: PromptRun, crossing: Crossing, block: Block, new: Float[Tensor, "sender read heads d_head"]
) -> Float[Tensor, "cell row d_model"]:
    """Attention once more, with all heads patched at once: a head sees nothing of what another one receives."""
    attn, layer, end, rows = block.attn, crossing.layer, run.end + 1, span(crossing.rows)
    taken = {name: run.taken(name, layer)[:end].expand(len(new), -1, -1, -1) for name in "qkv"}
    patched = taken[crossing.input].clone()
    patched[:, span(crossing.read)] = new
    taken[crossing.input] = patched
    z = attn.attend(taken["q"][:, rows], taken["k"], taken["v"], run.visible(crossing.rows))
    change = (z - run.old("z", layer)[rows]).permute(2, 0, 1, 3)  # head sender row d_head
    heads = torch.as_tensor(crossing.ids, device=new.device)
    group = 1 if crossing.input == "q" else attn.config.n_heads // attn.config.kv_heads
    theirs = (heads[:, None] * group + torch.arange(group, device=new.device)).flatten()
    by_head = torch.bmm(change[theirs].flatten(1, 2), attn.W_O[theirs]).unflatten(1, change.shape[1:3])
    written = by_head.unflatten(0, (len(heads), group)).sum(1).transpose(0, 1)  # sender head row d_model
    between = (layer, "between") if block.mlp is not None else (layer + 1, "before")
    return (base_stream(run, between)[rows] + written).flatten(0, 1)
