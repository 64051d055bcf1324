"""The values' biases go into the output's: a pattern sums to 1, so that each head adds its `b_V` wholly, everywhere."""

from collections.abc import Iterable
from dataclasses import replace
from typing import cast

import torch
from torch import nn

from pellucid.model.block import Block
from pellucid.model.decoder import Decoder
from pellucid.model.norms import widened
from pellucid.pretrained.processing.rows import times


def fold_value_biases(model: Decoder) -> bool:
    """`b_O += Σ b_V[head] W_O[head]` and `b_V = 0`, each kv head counted once for every query head of its group.

    Args:
        model: Changed in place; `b_O` is made where it lacked.

    Returns:
        Whether there are biases to fold.

    Source: `fold_value_biases` of TransformerLens 2.18.
    """
    config = model.config
    if not config.attention.qkv_bias or not len(model.blocks):
        return False
    attention = replace(config.attention, out_bias=True)
    group = attention.n_heads // attention.kv_heads
    with torch.no_grad():
        for block in cast(Iterable[Block], model.blocks):
            attn = block.attn
            if attn.b_O is None:
                attn.b_O = nn.Parameter(attn.W_O.new_zeros(config.d_model))
            if attn.b_V is not None:
                b_V = attn.b_V.repeat_interleave(group, dim=0).flatten()
                attn.b_O.copy_(widened(attn.b_O) + times(attn.W_O.flatten(0, 1).T, b_V))
                attn.b_V.zero_()
            attn.config = attention
    model.config = config.change(attention=attention)
    return True
