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


def literal(model, tokens, *, edit=None, mask=None, causal=True):
    """(logits, every hook point's value by full name); `edit` has a function for each point whose value it changes.

    `mask` is True at real tokens: padding is neither seen nor counted as a position. An encoder is not `causal`.
    """
    steps = Steps(model.config, edit)
    positions, visible = standing(tokens, mask)
    if causal:
        visible = visible & torch.ones(tokens.shape[1], tokens.shape[1]).tril().bool()
    x = steps.point("hook_embed", model.W_E[tokens])
    x = x + steps.placed("hook_pos_embed", model, positions)
    for layer, block in enumerate(model.blocks):
        x = steps.block(f"blocks.{layer}", block, x, positions, visible)
    x = steps.normalised("ln_final", model.ln_final, x)
    return einsum("bpm,mv->bpv", x, model.W_U) + model.b_U, steps.seen


def standing(tokens, mask):
    """(where each token stands, which keys are real `[b 1 1 k]`), of a mask that is True at real tokens."""
    real = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask.bool()
    return (real.long().cumsum(1) - 1).clamp(min=0), real[:, None, None, :]


class Steps:
    """The steps of one pass, which write down in `seen` what every point shows."""

    def __init__(self, config, edit):
        self.config, self.edit, self.seen = config, edit or {}, {}
        self.positions = type(config.positions).__name__
        self.heads, self.kv_heads = config.attention.n_heads, config.attention.n_kv_heads or config.attention.n_heads

    def point(self, name, x):
        self.seen[name] = self.edit[name](x) if name in self.edit else x
        return self.seen[name]

    def placed(self, name, model, positions, part="pos_embed"):
        """What positions add to the stream; those of a shortformer are kept for what queries and keys read."""
        self.added = 0
        if self.positions not in ("Learned", "Shortformer"):
            return 0
        vectors = self.point(name, getattr(model, part).W_pos[positions])
        if self.positions == "Learned":
            return vectors
        self.added = vectors[:, :, None]
        return 0

    def normalised(self, place, norm, x):
        if self.config.norm is None:
            return x
        centred = x - x.mean(-1, keepdim=True) if hasattr(norm, "b") else x
        x = centred / self.point(f"{place}.hook_scale", (centred.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt())
        w = 1 if norm.w is None else norm.w
        if hasattr(norm, "b"):
            return self.point(f"{place}.hook_normalized", x * w + (0 if norm.b is None else norm.b))
        return self.point(f"{place}.hook_normalized", x) * w

    def block(self, at, block, x, positions, visible):
        x = self.point(f"{at}.hook_resid_pre", x)
        x = self.attention(at, block, x, positions, visible) + self.kept(x)
        if self.config.mlp is not None:
            x = self.point(f"{at}.hook_resid_mid", x)
            x = self.mlp(at, block.mlp, "ln2", block.ln2, x) + self.kept(x)
        return self.point(f"{at}.hook_resid_post", x)

    def kept(self, x):
        return x if self.config.residual else 0

    def attention(self, at, block, x, positions, visible):
        heads, kv_heads = self.heads, self.kv_heads
        names = [f"{at}.hook_{part}" for part in ("attn_in", "q_input", "k_input", "v_input")]
        copies = {n: for_each(n, x) for n in (heads, kv_heads)}
        if heads == kv_heads:
            copies = {heads: self.point(names[0], copies[heads])}
        inputs = [self.point(name, copies[n]) for name, n in zip(names[1:], (heads, kv_heads, kv_heads), strict=True)]
        if not any(name in self.edit for name in names):
            read = self.normalised(f"{at}.ln1", block.ln1, x)
            inputs = [for_each(n, read) for n in (heads, kv_heads, kv_heads)]
        else:
            inputs = [self.normalised(f"{at}.ln1", block.ln1, copy) for copy in inputs]
        layers = getattr(self.config.positions, "layers", None)
        added = self.added if layers is None or int(at.rsplit(".", 1)[1]) < layers else 0
        reads = [inputs[0] + added, inputs[1] + added, inputs[2]]
        q, k, v = self.projected(f"{at}.attn", block.attn, reads)
        if self.positions == "Rotary":
            q = self.point(f"{at}.attn.hook_rot_q", self.rotated(q, positions))
            k = self.point(f"{at}.attn.hook_rot_k", self.rotated(k, positions))
        return self.point(f"{at}.hook_attn_out", self.gathered(f"{at}.attn", block.attn, q, k, v, visible))

    def projected(self, at, attn, inputs):
        """Queries, keys and values, of what each head reads for them."""
        return [
            self.point(f"{at}.hook_{part}", einsum("bphm,hme->bphe", read, W) + (0 if b is None else b))
            for part, read, W, b in zip(
                "qkv", inputs, (attn.W_Q, attn.W_K, attn.W_V), (attn.b_Q, attn.b_K, attn.b_V), strict=True
            )
        ]

    def rotated(self, x, positions):
        dim, base = self.config.positions.dim or x.shape[-1], self.config.positions.base
        frequency = (1 / base ** (torch.arange(0, dim, 2).float() / dim)).to(x.dtype)
        angle = (positions[..., None].to(x.dtype) * frequency)[:, :, None]
        a, b, rest = x[..., : dim // 2], x[..., dim // 2 : dim], x[..., dim:]
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin(), rest], -1)

    def gathered(self, at, attn, q, k, v, visible):
        """What the heads write, of queries that see some of the keys."""
        scale = self.config.attention.scale or 1 / math.sqrt(self.config.attention.d_head)
        k, v = (x.repeat_interleave(self.heads // self.kv_heads, dim=2) for x in (k, v))
        scores = einsum("bqhe,bkhe->bhqk", q, k) * scale
        scores = self.point(f"{at}.hook_attn_scores", scores.masked_fill(~visible, -math.inf))
        pattern = scores.softmax(-1).masked_fill(~visible.any(-1, keepdim=True), 0)
        pattern = self.point(f"{at}.hook_pattern", pattern)
        z = self.point(f"{at}.hook_z", einsum("bhqk,bkhe->bqhe", pattern, v))
        result = self.point(f"{at}.hook_result", einsum("bphe,hem->bphm", z, attn.W_O))
        return result.sum(2) + (0 if attn.b_O is None else attn.b_O)

    def mlp(self, at, mlp, ln, norm, x):
        act = ACTIVATIONS[self.config.mlp.act]
        x = self.normalised(f"{at}.{ln}", norm, self.point(f"{at}.hook_mlp_in", x))
        linear = einsum("bpm,mn->bpn", x, mlp.W_in) + (0 if mlp.b_in is None else mlp.b_in)
        if self.config.mlp.gated:
            gate = einsum("bpm,mn->bpn", x, mlp.W_gate) + (0 if mlp.b_gate is None else mlp.b_gate)
            post = act(self.point(f"{at}.mlp.hook_pre", gate)) * self.point(f"{at}.mlp.hook_pre_linear", linear)
        else:
            post = act(self.point(f"{at}.mlp.hook_pre", linear))
        out = einsum("bpn,nm->bpm", self.point(f"{at}.mlp.hook_post", post), mlp.W_out)
        return self.point(f"{at}.hook_mlp_out", out + (0 if mlp.b_out is None else mlp.b_out))


def for_each(heads, x):
    """The same for each head."""
    return x[:, :, None].expand(-1, -1, heads, -1)
