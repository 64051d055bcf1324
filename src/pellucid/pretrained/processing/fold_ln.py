"""The norms' weights and biases go into what reads them: `W (w·x + b) = (W w) x + W b`."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.model.attention import Attention, as_matrix
from pellucid.model.block import Block
from pellucid.model.decoder import Decoder
from pellucid.model.mlp import MLP
from pellucid.model.norms import LayerNorm, LayerNormPart, widened
from pellucid.model.positional import Shortformer
from pellucid.pretrained.processing.rows import change_rows, times
from pellucid.pretrained.processing.untie import untie


def fold_ln(model: Decoder) -> bool:
    """Folds every norm's `w` and `b` into the matrices and biases that read it; the norms are left without.

    What reads a LayerNorm is also centred: its mean over `d_model` meets the centred stream and gives nothing. Biases
    that the model lacked are made where a LayerNorm has one to fold. A tied unembedding gets a matrix of its own.
    Shortformer vectors join behind the norm, in all layers the same: there, nothing can be folded.

    Args:
        model: Changed in place.

    Returns:
        Whether there was anything to fold.

    Source: `fold_ln` of TransformerLens 2.18.
    """
    norm = model.config.norm
    if norm is None or not norm.affine or isinstance(model.config.positions, Shortformer):
        return False
    untie(model)
    if isinstance(norm, LayerNorm):
        _make_biases(model)
    with torch.no_grad():
        for block in cast(Iterable[Block], model.blocks):
            _fold_block(block)
        _fold(model.ln_final, model.unembed.W_U.T, model.unembed.b_U)
        _take_away(model.ln_final)
    model.config = model.config.change(norm=replace(norm, affine=False))
    return True


def _fold_block(block: Block) -> None:
    attn, mlp = block.attn, block.mlp
    attn.lay_out()
    for W, b in ((attn.W_Q, attn.b_Q), (attn.W_K, attn.b_K), (attn.W_V, attn.b_V)):
        _fold(block.ln1, as_matrix(W), None if b is None else b.view(-1))
    _take_away(block.ln1)
    if mlp is not None:
        _fold(block.ln2, mlp.W_in.T, mlp.b_in)
        if mlp.W_gate is not None:
            _fold(block.ln2, mlp.W_gate.T, mlp.b_gate)
        _take_away(block.ln2)


def _fold(norm: Any, W: Float[Tensor, "d_out d_model"], b: Float[Tensor, " d_out"] | None) -> None:
    """Folds a norm into a matrix that reads it, and into its bias."""
    w, centred = widened(norm.w), isinstance(norm, LayerNormPart)

    def change(rows: Tensor) -> None:
        rows.mul_(w)
        if centred:
            rows.sub_(rows.mean(1, keepdim=True))

    if centred and b is not None:
        b.copy_(widened(b) + times(W, norm.b))
    change_rows(W, change)


def _take_away(norm: Any) -> None:
    norm.w = None
    if isinstance(norm, LayerNormPart):
        norm.b = None


def _make_biases(model: Decoder) -> None:
    config = model.config
    for block in cast(Iterable[Block], model.blocks):
        _make_of_attention(block.attn)
        if block.mlp is not None:
            _make_of_mlp(block.mlp)
    if model.unembed.b_U is None:
        model.unembed.b_U = _zeros(model.embed.W_E, config.vocab_out)
    attention = replace(config.attention, qkv_bias=True)
    mlp = None if config.mlp is None else replace(config.mlp, bias=True)
    model.config = config.change(attention=attention, mlp=mlp, unembed_bias=True)


def _make_of_attention(attn: Attention) -> None:
    if attn.b_Q is None:
        attn.b_Q, attn.b_K, attn.b_V = (_zeros(W, len(W), W.shape[2]) for W in (attn.W_Q, attn.W_K, attn.W_V))
        attn.config = replace(attn.config, qkv_bias=True)


def _make_of_mlp(mlp: MLP) -> None:
    if mlp.b_in is None:
        d_model, d_mlp = mlp.W_in.shape
        mlp.b_in, mlp.b_out = _zeros(mlp.W_in, d_mlp), _zeros(mlp.W_in, d_model)
        if mlp.W_gate is not None:
            mlp.b_gate = _zeros(mlp.W_in, d_mlp)


def _zeros(like: Tensor, *shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape, dtype=like.dtype, device=like.device))
