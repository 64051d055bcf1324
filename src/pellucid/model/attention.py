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
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.base.errors import ConfigError
from pellucid.hooks.point import HookPoint, Part, at, watched
from pellucid.hooks.run import LiveRun
from pellucid.model.norms import widened
from pellucid.model.past import Span
from pellucid.model.positional import rotate


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
    """All heads' weights as one matrix for `F.linear`, `d_out` being (head d_head); a view where memory allows."""
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
        q = at(self.hook_q, project(x, self.W_Q, self.b_Q), run)
        k = at(self.hook_k, project(x if x_k is None else x_k, self.W_K, self.b_K), run)
        v = at(self.hook_v, project(x if x_v is None else x_v, self.W_V, self.b_V), run)
        if span.rotation is not None:
            q = at(self.hook_rot_q, rotate(q, *span.rotation), run)
            k = at(self.hook_rot_k, rotate(k, *span.rotation), run)
        k, v = span.extended(self.layer, k, v)
        if watched(run, self.hook_attn_scores, self.hook_pattern):
            z = self._explicit(q, k, v, span, run)
        else:
            z = self._fused(q, k, v, span)
        return self.write(at(self.hook_z, z, run), run)

    def write(
        self, z: Float[Tensor, "batch pos head d_head"], run: LiveRun | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        """What the heads write into the stream; each head's part passes `hook_result` where somebody asks for it."""
        ours = isinstance(self.hook_result, HookPoint)
        if not ours or (run is not None and run.listens(self.hook_result)):
            result = at(self.hook_result, torch.einsum("bphe,hem->bphm", z, self.W_O), run)
            if not ours or run is None or run.edits(self.hook_result):
                out = result.sum(2)
                return out if self.b_O is None else out + self.b_O
        return F.linear(z.flatten(2), self.W_O.flatten(0, 1).T, self.b_O)

    def _fused(self, q: Tensor, k: Tensor, v: Tensor, span: Span) -> Tensor:
        grouped = self.config.kv_heads != self.config.n_heads
        z = F.scaled_dot_product_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=span.fused_mask,
            is_causal=span.plain,
            scale=self.config.factor,
            enable_gqa=grouped,
        )
        return z.transpose(1, 2)

    def _explicit(self, q: Tensor, k: Tensor, v: Tensor, span: Span, run: LiveRun | None) -> Tensor:
        """Scores, mask, softmax, mixture. The query heads of a group lie behind each other as rows of one product."""
        batch, n_q, heads, d_head = q.shape
        kv_heads = k.shape[2]
        rows = (q * self.config.factor).transpose(1, 2).reshape(batch, kv_heads, -1, d_head)
        scores = (rows @ k.permute(0, 2, 3, 1)).view(batch, heads, n_q, -1)
        scores = at(self.hook_attn_scores, scores.masked_fill_(~span.visible, -torch.inf), run)
        wide = widened(scores)
        if span.keys_mask is None and (run is None or not run.edits(self.hook_attn_scores)):
            pattern = wide.softmax(-1)
        else:  # a row without a visible key attends to nothing
            blind = (scores == -torch.inf).all(-1, keepdim=True)
            pattern = wide.masked_fill(blind, 0).softmax(-1).masked_fill(blind, 0)
        pattern = at(self.hook_pattern, pattern.to(q.dtype), run)
        z = pattern.reshape(batch, kv_heads, -1, k.shape[1]) @ v.transpose(1, 2)
        return z.view(batch, heads, n_q, d_head).transpose(1, 2)

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


def project(
    x: Tensor, W: Float[Tensor, "head d_model d_head"], b: Float[Tensor, "head d_head"] | None
) -> Float[Tensor, "batch pos head d_head"]:
    """Each head's queries, keys or values.

    Args:
        x: `[batch pos d_model]`, or `[batch pos head d_model]` where each head reads its own.
        W: The heads' weights.
        b: Their biases, if any.
    """
    if x.ndim == 4:
        out = torch.einsum("bphm,hme->bphe", x, W)
        return out if b is None else out + b
    out = F.linear(x, as_matrix(W), None if b is None else b.flatten())
    return out.unflatten(-1, (W.shape[0], W.shape[2]))
