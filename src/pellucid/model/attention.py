"""Attention: queries, keys and values from the stream, a pattern, and what the heads write back.

Weights have the field's shapes, `[head d_model d_head]` and `[head d_head d_model]`, and lie in memory so that the
matrix which a product wants is a view of them (`as_matrix`). With grouped queries `k` and `v` have their true
`kv_head` axis.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pellucid.base.errors import ConfigError
from pellucid.hooks.point import HookPoint, Part, at, watched
from pellucid.hooks.run import LiveRun
from pellucid.model.linear import linear
from pellucid.model.norms import widened
from pellucid.model.past import Span
from pellucid.model.positional import Placing, Rotation


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """The attention of a block.

    Args:
        n_heads: Query heads.
        d_head: Width of a head.
        n_kv_heads: Key/value heads, each shared by a group of query heads; None for one each.
        scale: What `q·k` is multiplied by; None for `1/√d_head`.
        qkv_bias: Whether there are `b_Q b_K b_V`.
        out_bias: Whether there is `b_O`.

    Raises:
        ConfigError: A value cannot be.
    """

    n_heads: int
    d_head: int
    n_kv_heads: int | None = None
    scale: float | None = None
    qkv_bias: bool = True
    out_bias: bool = True

    def __post_init__(self) -> None:
        for name in ("n_heads", "d_head"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if self.kv_heads < 1 or self.n_heads % self.kv_heads:
            raise ConfigError(
                f"n_heads must be a multiple of n_kv_heads, got n_heads={self.n_heads} and "
                f"n_kv_heads={self.n_kv_heads}; "
                f"set n_kv_heads to a divisor of {self.n_heads}"
            )

    @property
    def kv_heads(self) -> int:
        """Number of key/value heads."""
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads

    @property
    def factor(self) -> float:
        """What `q·k` is multiplied by."""
        return 1.0 / math.sqrt(self.d_head) if self.scale is None else self.scale


def as_matrix(W: Float[Tensor, "head d_model d_head"]) -> Float[Tensor, "d_out d_model"]:
    """All heads' weights as one matrix for `linear`, `d_out` being (head d_head); a view where memory allows."""
    return W.transpose(1, 2).flatten(0, 1)


def laid_out(W: Float[Tensor, "head d_model d_head"]) -> Float[Tensor, "head d_model d_head"]:
    """The same weights in memory of which `as_matrix` is a view; themselves if it is already."""
    if W.is_meta or as_matrix(W).data_ptr() == W.data_ptr():
        return W
    return as_matrix(W).contiguous().view(W.shape[0], W.shape[2], W.shape[1]).transpose(1, 2)


class Attention(Part):
    """Causal attention with its points, from `hook_q` to `hook_result`."""

    def __init__(self, d_model: int, config: AttentionConfig, *, layer: int, rotary: bool) -> None:
        super().__init__()
        self.config = config
        self.layer = layer
        heads, kv_heads, d_head = config.n_heads, config.kv_heads, config.d_head
        self.W_Q = nn.Parameter(torch.empty(heads, d_head, d_model).transpose(1, 2))
        self.W_K = nn.Parameter(torch.empty(kv_heads, d_head, d_model).transpose(1, 2))
        self.W_V = nn.Parameter(torch.empty(kv_heads, d_head, d_model).transpose(1, 2))
        self.W_O = nn.Parameter(torch.empty(heads, d_head, d_model))
        self.b_Q = nn.Parameter(torch.zeros(heads, d_head)) if config.qkv_bias else None
        self.b_K = nn.Parameter(torch.zeros(kv_heads, d_head)) if config.qkv_bias else None
        self.b_V = nn.Parameter(torch.zeros(kv_heads, d_head)) if config.qkv_bias else None
        self.b_O = nn.Parameter(torch.zeros(d_model)) if config.out_bias else None
        self.hook_q, self.hook_k, self.hook_v = HookPoint(), HookPoint(), HookPoint()
        if rotary:
            self.hook_rot_q, self.hook_rot_k = HookPoint(), HookPoint()
        self.hook_attn_scores, self.hook_pattern = HookPoint(), HookPoint()
        self.hook_z, self.hook_result = HookPoint(), HookPoint()

    def forward(
        self,
        x: Tensor,
        span: Span,
        x_k: Tensor | None = None,
        x_v: Tensor | None = None,
        run: LiveRun | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """What attention writes.

        Args:
            x: What queries read, `[batch pos d_model]`, or `[batch pos head d_model]` where each head reads its own.
            span: Where the rows stand.
            x_k: What keys read, if not the same.
            x_v: What values read, if not the same.
            run: Who listens.
        """
        placing = span.placing_in(self.layer)
        x_q = _read(x, placing)
        x_k = x_q if x_k is None else _read(x_k, placing)
        q = at(self.hook_q, project(x_q, self.W_Q, self.b_Q), run)
        k = at(self.hook_k, project(x_k, self.W_K, self.b_K), run)
        v = at(self.hook_v, project(x if x_v is None else x_v, self.W_V, self.b_V), run)
        if isinstance(placing, Rotation):
            q = at(self.hook_rot_q, placing.turned(q), run)
            k = at(self.hook_rot_k, placing.turned(k), run)
        k, v = span.extended(self.layer, k, v)
        if watched(run, self.hook_attn_scores, self.hook_pattern):
            z = self._explicit(q, k, v, span, run)
        else:
            z = self._fused(q, k, v, span)
        return self.write(at(self.hook_z, z, run), run)

    def write(
        self, z: Float[Tensor, "*rows head d_head"], run: LiveRun | None = None
    ) -> Float[Tensor, "*rows d_model"]:
        """What the heads write into the stream; each head's part passes `hook_result` where somebody asks for it."""
        ours = isinstance(self.hook_result, HookPoint)
        if not ours or (run is not None and run.listens(self.hook_result)):
            result = at(self.hook_result, torch.einsum("bphe,hem->bphm", z, self.W_O), run)
            if not ours or run is None or run.edits(self.hook_result):
                out = result.sum(2)
                return out if self.b_O is None else out + self.b_O
        return linear(z.flatten(-2), self.W_O.flatten(0, 1).T, self.b_O)

    def _fused(self, q: Tensor, k: Tensor, v: Tensor, span: Span) -> Tensor:
        return self.attend(q, k, v, span.fused_mask, causal=span.plain)

    def _explicit(self, q: Tensor, k: Tensor, v: Tensor, span: Span, run: LiveRun | None) -> Tensor:
        scores = at(self.hook_attn_scores, self.scores(q, k, span.visible), run)
        all_see = span.keys_mask is None and (run is None or not run.edits(self.hook_attn_scores))
        pattern = at(self.hook_pattern, pattern_of(scores, all_see=all_see), run)
        return self.mixed(pattern, v)

    # Pieces: the same steps, on rows of the stream that may stand anywhere

    def queries(self, x: Float[Tensor, "*rows d_model"], placing: Placing | None) -> Float[Tensor, "*rows head d_head"]:
        """What rows that were normalised ask, from where they stand."""
        return _turned(project(_read(x, placing), self.W_Q, self.b_Q), placing)

    def keys(self, x: Float[Tensor, "*rows d_model"], placing: Placing | None) -> Float[Tensor, "*rows kv_head d_head"]:
        """What rows that were normalised are found by, where they stand."""
        return _turned(project(_read(x, placing), self.W_K, self.b_K), placing)

    def values(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows kv_head d_head"]:
        """What rows that were normalised have to give."""
        return project(x, self.W_V, self.b_V)

    def attend(
        self,
        q: Float[Tensor, "batch q_pos head d_head"],
        k: Float[Tensor, "batch k_pos kv_head d_head"],
        v: Float[Tensor, "batch k_pos kv_head d_head"],
        visible: Bool[Tensor, "#batch 1 q_pos k_pos"] | None,
        *,
        causal: bool = False,
    ) -> Float[Tensor, "batch q_pos head d_head"]:
        """What each query gathers, in one fused step.

        Args:
            q: Queries, turned.
            k: Keys, turned.
            v: Values.
            visible: True where a query may see a key; None: everywhere.
            causal: Instead of `visible`: as many queries as keys, each of which sees no later one.
        """
        grouped = self.config.kv_heads != self.config.n_heads
        z = F.scaled_dot_product_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=visible,
            is_causal=causal,
            scale=self.config.factor,
            enable_gqa=grouped,
        )
        return z.transpose(1, 2)

    def scores(
        self,
        q: Float[Tensor, "batch q_pos head d_head"],
        k: Float[Tensor, "batch k_pos kv_head d_head"],
        visible: Bool[Tensor, "#batch 1 q_pos k_pos"],
    ) -> Float[Tensor, "batch head q_pos k_pos"]:
        """Scaled and masked. The query heads of a group lie behind each other as rows of one product."""
        batch, n_q, heads, d_head = q.shape
        rows = (q * self.config.factor).transpose(1, 2).reshape(batch, k.shape[2], -1, d_head)
        return (rows @ k.permute(0, 2, 3, 1)).view(batch, heads, n_q, -1).masked_fill_(~visible, -torch.inf)

    def mixed(
        self, pattern: Float[Tensor, "batch head q_pos k_pos"], v: Float[Tensor, "batch k_pos kv_head d_head"]
    ) -> Float[Tensor, "batch q_pos head d_head"]:
        """What each query gathers, by a pattern."""
        batch, heads, n_q, n_k = pattern.shape
        z = pattern.reshape(batch, v.shape[2], -1, n_k) @ v.transpose(1, 2)
        return z.view(batch, heads, n_q, -1).transpose(1, 2)

    def lay_out(self) -> None:
        """Brings the weights into memory that products can read without a copy."""
        for W in (self.W_Q, self.W_K, self.W_V):
            W.data = laid_out(W.data)

    def _apply(self, fn: Any, recurse: bool = True) -> "Attention":
        super()._apply(fn, recurse)
        self.lay_out()
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.lay_out()


def pattern_of(
    scores: Float[Tensor, "*batch head q_pos k_pos"], *, all_see: bool = False
) -> Float[Tensor, "*batch head q_pos k_pos"]:
    """The softmax of masked scores, taken in max(dtype, float32).

    Args:
        scores: −∞ where a key is not seen.
        all_see: Each query sees some key; otherwise one that sees none attends to nothing.
    """
    wide = widened(scores)
    if all_see:
        return wide.softmax(-1).to(scores.dtype)
    blind = (scores == -torch.inf).all(-1, keepdim=True)
    return wide.masked_fill(blind, 0).softmax(-1).masked_fill(blind, 0).to(scores.dtype)


def _read(x: Tensor, placing: Placing | None) -> Tensor:
    return x if placing is None else placing.read(x)


def _turned(x: Float[Tensor, "*rows heads d_head"], placing: Placing | None) -> Float[Tensor, "*rows heads d_head"]:
    return x if placing is None else placing.turned(x)


def project(
    x: Tensor, W: Float[Tensor, "head d_model d_head"], b: Float[Tensor, "head d_head"] | None
) -> Float[Tensor, "*rows head d_head"]:
    """Each head's queries, keys or values.

    Args:
        x: `[*rows d_model]`, or `[batch pos head d_model]` where each head reads its own.
        W: The heads' weights.
        b: Their biases, if any.
    """
    if x.ndim == 4:
        out = torch.einsum("bphm,hme->bphe", x, W)
        return out if b is None else out + b
    out = linear(x, as_matrix(W), None if b is None else b.flatten())
    return out.unflatten(-1, (W.shape[0], W.shape[2]))
