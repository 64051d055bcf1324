"""A transformer written out step by step: what every hook point of a model must show.

It reads the weights under their public names and shares no code with the model: plain torch, every product an
einsum over named axes (b batch, p position, q and k query and key position, h head, m d_model, e d_head, n neuron).
"""

import math

import torch
from torch import einsum

ACTIVATIONS = {
    "relu": lambda x: x.clamp(min=0),
    "silu": lambda x: x * torch.sigmoid(x),
    "gelu": lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2,
    "gelu_new": lambda x: x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}


def literal(model, tokens, *, edit=None, mask=None):
    """(logits, every hook point's value by full name); `edit` has a function for each point whose value it changes.

    `mask` is True at real tokens: padding is neither seen nor counted as a position.
    """
    config, seen, edit = model.config, {}, edit or {}
    heads, kv_heads = config.attention.n_heads, config.attention.n_kv_heads or config.attention.n_heads
    scale = config.attention.scale or 1 / math.sqrt(config.attention.d_head)
    real = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask.bool()
    positions = (real.long().cumsum(1) - 1).clamp(min=0)
    visible = torch.ones(tokens.shape[1], tokens.shape[1]).tril().bool() & real[:, None, None, :]

    def point(name, x):
        seen[name] = edit[name](x) if name in edit else x
        return seen[name]

    def normalised(place, norm, x):
        if config.norm is None:
            return x
        centred = x - x.mean(-1, keepdim=True) if hasattr(norm, "b") else x
        x = centred / point(f"{place}.hook_scale", (centred.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt())
        w = 1 if norm.w is None else norm.w
        if hasattr(norm, "b"):
            return point(f"{place}.hook_normalized", x * w + (0 if norm.b is None else norm.b))
        return point(f"{place}.hook_normalized", x) * w

    def rotated(x):
        dim = config.positions.dim or x.shape[-1]
        frequency = (1 / config.positions.base ** (torch.arange(0, dim, 2).float() / dim)).to(x.dtype)
        angle = (positions[..., None].to(x.dtype) * frequency)[:, :, None]
        a, b, rest = x[..., : dim // 2], x[..., dim // 2 : dim], x[..., dim:]
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin(), rest], -1)

    def attention(at, block, x):
        attn, names = block.attn, [f"{at}.hook_{part}" for part in ("attn_in", "q_input", "k_input", "v_input")]
        copies = {n: x[:, :, None].expand(-1, -1, n, -1) for n in (heads, kv_heads)}
        if heads == kv_heads:
            copies = {heads: point(names[0], copies[heads])}
        inputs = [point(name, copies[n]) for name, n in zip(names[1:], (heads, kv_heads, kv_heads), strict=True)]
        if not any(name in edit for name in names):
            read = normalised(f"{at}.ln1", block.ln1, x)
            inputs = [read[:, :, None].expand(-1, -1, n, -1) for n in (heads, kv_heads, kv_heads)]
        else:
            inputs = [normalised(f"{at}.ln1", block.ln1, copy) for copy in inputs]
        q, k, v = (
            point(f"{at}.attn.hook_{part}", einsum("bphm,hme->bphe", copy, W) + (0 if b is None else b))
            for part, copy, W, b in zip(
                "qkv", inputs, (attn.W_Q, attn.W_K, attn.W_V), (attn.b_Q, attn.b_K, attn.b_V), strict=True
            )
        )
        if type(config.positions).__name__ == "Rotary":
            q, k = point(f"{at}.attn.hook_rot_q", rotated(q)), point(f"{at}.attn.hook_rot_k", rotated(k))
        k, v = (x.repeat_interleave(heads // kv_heads, dim=2) for x in (k, v))
        scores = einsum("bqhe,bkhe->bhqk", q, k) * scale
        scores = point(f"{at}.attn.hook_attn_scores", scores.masked_fill(~visible, -math.inf))
        pattern = scores.softmax(-1).masked_fill(~visible.any(-1, keepdim=True), 0)
        pattern = point(f"{at}.attn.hook_pattern", pattern)
        z = point(f"{at}.attn.hook_z", einsum("bhqk,bkhe->bqhe", pattern, v))
        result = point(f"{at}.attn.hook_result", einsum("bphe,hem->bphm", z, attn.W_O))
        return point(f"{at}.hook_attn_out", result.sum(2) + (0 if attn.b_O is None else attn.b_O))

    def mlp(at, block, x):
        mlp, act = block.mlp, ACTIVATIONS[config.mlp.act]
        x = normalised(f"{at}.ln2", block.ln2, point(f"{at}.hook_mlp_in", x))
        linear = einsum("bpm,mn->bpn", x, mlp.W_in) + (0 if mlp.b_in is None else mlp.b_in)
        if config.mlp.gated:
            gate = einsum("bpm,mn->bpn", x, mlp.W_gate) + (0 if mlp.b_gate is None else mlp.b_gate)
            post = act(point(f"{at}.mlp.hook_pre", gate)) * point(f"{at}.mlp.hook_pre_linear", linear)
        else:
            post = act(point(f"{at}.mlp.hook_pre", linear))
        out = einsum("bpn,nm->bpm", point(f"{at}.mlp.hook_post", post), mlp.W_out)
        return point(f"{at}.hook_mlp_out", out + (0 if mlp.b_out is None else mlp.b_out))

    x = point("hook_embed", model.W_E[tokens])
    if type(config.positions).__name__ == "Learned":
        x = x + point("hook_pos_embed", model.W_pos[positions])
    for layer, block in enumerate(model.blocks):
        at = f"blocks.{layer}"
        x = point(f"{at}.hook_resid_pre", x)
        x = attention(at, block, x) + (x if config.residual else 0)
        if config.mlp is not None:
            x = point(f"{at}.hook_resid_mid", x)
            x = mlp(at, block, x) + (x if config.residual else 0)
        x = point(f"{at}.hook_resid_post", x)
    x = normalised("ln_final", model.ln_final, x)
    return einsum("bpm,mv->bpv", x, model.W_U) + model.b_U, seen
