"""The logits lose their mean over the vocabulary, which softmax ignores."""

import torch

from pellucid.model.decoder import Decoder
from pellucid.model.norms import widened
from pellucid.pretrained.processing.rows import change_rows, column_means
from pellucid.pretrained.processing.untie import untie


def center_unembed(model: Decoder) -> bool:
    """Takes the mean over `d_vocab` off `W_U` and `b_U`: logits move by a constant, log-probabilities do not.

    A tied unembedding gets a matrix of its own.

    Args:
        model: Changed in place.

    Returns:
        True: it applies to every model.

    Source: `center_unembed` of TransformerLens 2.18.
    """
    untie(model)
    with torch.no_grad():
        W, b = model.unembed.W_U.T, model.unembed.b_U
        mean = column_means(W)
        change_rows(W, lambda rows: rows.sub_(mean))
        if b is not None:
            b.copy_(widened(b) - widened(b).mean())
    return True
