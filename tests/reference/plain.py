"""The same transformer as people write it for speed: fused norms and attention, no hook points.

What a model's unhooked forward pass must cost, operation by operation. It reads the same weights, lying as they lie.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid import HookedTransformer, LayerNorm, Learned, Rotary, Shortformer

ACTIVATIONS = {
    "relu": F.relu,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
}


def plain_forward(model: HookedTransformer, tokens: Tensor) -> Tensor:
    """Logits ``[batch pos d_vocab]``."""
    config = model.config
    x = F.embedding(tokens, model.embed.W_E)
    if isinstance(config.positions, Learned):
        x = x + model.pos_embed.W_pos[: tokens.shape[1]]
    turn = rotary_table(model, tokens.shape[1]) if isinstance(config.positions, Rotary) else None
    added = model.pos_embed.W_pos[: tokens.shape[1]] if isinstance(config.positions, Shortformer) else None
    for layer, block in enumerate(model.blocks):
        here = added if added is None or config.positions.layers is None or layer < config.positions.layers else None
        out = attention(model, block.attn, norm(model, block.ln1, x), turn, here)
        x = x + out if config.residual else out
        if block.mlp is not None:
            out = mlp(model, block.mlp, norm(model, block.ln2, x))
            x = x + out if config.residual else out
    return F.linear(norm(model, model.ln_final, x), model.unembed.W_U.T, model.unembed.b_U)


def norm(model, part, x):
    if model.config.norm is None:
        return x
    if isinstance(model.config.norm, LayerNorm):
        return F.layer_norm(x, x.shape[-1:], part.w, part.b, part.eps)
    return F.rms_norm(x, x.shape[-1:], part.w, part.eps)


def attention(model, attn, x, turn, added=None):
    config = model.config.attention
    asked = x if added is None else x + added
    q, k, v = (
        F.linear(read, W.transpose(1, 2).flatten(0, 1), None if b is None else b.flatten()).unflatten(-1, (len(W), -1))
        for read, W, b in ((asked, attn.W_Q, attn.b_Q), (asked, attn.W_K, attn.b_K), (x, attn.W_V, attn.b_V))
    )
    if turn is not None:
        q, k = turned(q, *turn), turned(k, *turn)
    z = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        is_causal=True,
        scale=config.scale,
        enable_gqa=config.kv_heads != config.n_heads,
    )
    return F.linear(z.transpose(1, 2).flatten(2), attn.W_O.flatten(0, 1).T, attn.b_O)


def mlp(model, part, x):
    act = ACTIVATIONS[model.config.mlp.act]
    if not model.config.mlp.gated:
        return F.linear(act(F.linear(x, part.W_in.T, part.b_in)), part.W_out.T, part.b_out)
    gate = F.linear(x, part.W_gate.T, part.b_gate)
    return F.linear(act(gate) * F.linear(x, part.W_in.T, part.b_in), part.W_out.T, part.b_out)


_TABLES: dict[tuple, tuple[Tensor, Tensor]] = {}


def rotary_table(model, n):
    """Cosines and sines ``[pos 1 dim]``; made once, as any model keeps them."""
    positions, d_head = model.config.positions, model.config.attention.d_head
    key = (positions, d_head, n, model.dtype)
    if key not in _TABLES:
        dim = positions.dim or d_head
        steps = 1 / positions.base ** (torch.arange(0, dim, 2).float() / dim)
        dtype = torch.promote_types(model.dtype, torch.float32)
        angles = torch.arange(n, dtype=dtype)[:, None] * steps.to(dtype)
        angles = torch.cat([angles, angles], -1)[:, None]
        _TABLES[key] = angles.cos(), angles.sin()
    return _TABLES[key]


def turned(x, cos, sin):
    """Each pair (i, i + dim/2) of the first dim dimensions, turned by its angle."""
    dim = cos.shape[-1]
    wide = x[..., :dim].to(cos.dtype)
    a, b = wide.chunk(2, -1)
    out = (wide * cos + torch.cat([-b, a], -1) * sin).to(x.dtype)
    return out if dim == x.shape[-1] else torch.cat([out, x[..., dim:]], -1)
