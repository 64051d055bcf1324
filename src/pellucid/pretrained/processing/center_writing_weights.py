"""What writes into the stream loses its mean over `d_model`, which every LayerNorm takes off anyway."""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor

from pellucid.model.block import Block
from pellucid.model.decoder import Decoder
from pellucid.model.norms import LayerNorm, widened
from pellucid.model.positional import Learned
from pellucid.pretrained.processing.rows import center_rows
from pellucid.pretrained.processing.untie import untie


def center_writing_weights(model: Decoder) -> bool:
    """Centres `W_E W_pos W_O b_O W_out b_out` over `d_model`.

    Only where LayerNorm is all that reads the stream: an RMSNorm, or no norm, sees the mean. A tied unembedding gets a
    matrix of its own.

    Args:
        model: Changed in place.

    Returns:
        Whether it applies.

    Source: `center_writing_weights` of TransformerLens 2.18.
    """
    if not isinstance(model.config.norm, LayerNorm):
        return False
    untie(model)
    matrices: list[Tensor] = [model.embed.W_E]
    if isinstance(model.config.positions, Learned):
        matrices.append(model.pos_embed.W_pos)
    biases = []
    for block in cast(Iterable[Block], model.blocks):
        matrices.append(block.attn.W_O.flatten(0, 1))
        biases.append(block.attn.b_O)
        if block.mlp is not None:
            matrices.append(block.mlp.W_out)
            biases.append(block.mlp.b_out)
    with torch.no_grad():
        for W in matrices:
            center_rows(W)
        for b in biases:
            if b is not None:
                b.copy_(widened(b) - widened(b).mean())
    return True
