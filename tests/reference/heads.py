"""Attention on chosen cells, one cell after the other: what `pellucid.analysis.heads` must agree with."""

from collections.abc import Callable

import torch
from torch import Tensor

from pellucid import HookedTransformer


def attention_on(
    model: HookedTransformer,
    tokens: Tensor,
    queries: range,
    key: Callable[[int], int],
    counts: Callable[[int, int], bool] = lambda prompt, query: True,
) -> Tensor:
    """``[prompt layer head]``: the mean attention from each query that counts to its key."""
    means = torch.zeros(len(tokens), model.cfg.n_layers, model.cfg.n_heads)

    def read(pattern, hook):
        for prompt in range(len(tokens)):
            for head in range(model.cfg.n_heads):
                cells = [pattern[prompt, head, q, key(q)].item() for q in queries if counts(prompt, q)]
                means[prompt, hook.layer(), head] = sum(cells) / len(cells)

    model.run_with_hooks(tokens, return_type=None, fwd_hooks=[(lambda name: name.endswith("pattern"), read)])
    return means
