"""Training as people write it by hand: a plain model of attention alone, and a plain loop.

The model is of nanoGPT's kind, of `nn.Linear` and `nn.LayerNorm`, and takes a Pellucid model's weights.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid import HookedTransformer
from pellucid.train.optimiser import Optimiser
from pellucid.train.sequences import IGNORED


class PlainAttention(nn.Module):
    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(z.transpose(1, 2).flatten(2))


class PlainBlock(nn.Module):
    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(d_model)
        self.attn = PlainAttention(d_model, n_heads)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attn(self.ln(x))


class PlainModel(nn.Module):
    """Logits ``[batch pos d_vocab]``."""

    def __init__(self, model: HookedTransformer) -> None:
        super().__init__()
        config = model.config
        self.tokens = nn.Embedding(config.d_vocab, config.d_model)
        self.positions = nn.Embedding(config.n_ctx, config.d_model)
        n_heads = config.attention.n_heads
        self.blocks = nn.ModuleList([PlainBlock(config.d_model, n_heads) for _ in range(config.n_layers)])
        self.ln = nn.LayerNorm(config.d_model)
        self.head = nn.Linear(config.d_model, config.d_vocab, bias=False)
        self.take(model)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln(x))

    @torch.no_grad()
    def take(self, model: HookedTransformer) -> None:
        """The weights of another; norms and biases are fresh ones on both sides: one and zero."""
        self.tokens.weight.copy_(model.embed.W_E)
        self.positions.weight.copy_(model.pos_embed.W_pos)
        self.head.weight.copy_(model.unembed.W_U.T)
        for ours, theirs in zip(self.blocks, model.blocks, strict=True):
            matrices = [W.transpose(1, 2).flatten(0, 1) for W in (theirs.attn.W_Q, theirs.attn.W_K, theirs.attn.W_V)]
            ours.attn.qkv.weight.copy_(torch.cat(matrices))
            ours.attn.qkv.bias.zero_()
            ours.attn.out.weight.copy_(theirs.attn.W_O.flatten(0, 1).T)
            ours.attn.out.bias.zero_()


def loss_of(model: nn.Module, tokens: Tensor, targets: Tensor) -> Tensor:
    """The mean over the targets, in nats."""
    logits = model(tokens)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


class PlainLoop:
    """A model of any kind that gives logits, moved by AdamW, its gradient clipped.

    Args:
        model: The model.
        batches: What it reads, and the targets.
        settings: Of AdamW; all weights decay alike.
    """

    def __init__(self, model: nn.Module, batches: Iterator[tuple[Tensor, Tensor]], settings: Optimiser) -> None:
        self.model, self.batches, self.clip = model.train(), batches, settings.clip
        self.optimiser = torch.optim.AdamW(
            model.parameters(), lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
        )

    def run(self, steps: int) -> None:
        """Some steps."""
        for _ in range(steps):
            tokens, targets = next(self.batches)
            self.optimiser.zero_grad()
            loss_of(self.model, tokens, targets).backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            self.optimiser.step()
