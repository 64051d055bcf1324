"""Shifted MLP patching, one run for each cell, as its definition says it: what `analysis.shifted` must agree with."""

import torch
from torch import Tensor

from pellucid import HookedTransformer


def loss(logits: Tensor, tokens: Tensor, targets: range) -> float:
    """The mean loss over the tokens at some positions."""
    log_probs = logits[0].log_softmax(-1)
    return -sum(log_probs[p - 1, tokens[0, p]].item() for p in targets) / len(targets)


def shifted(model: HookedTransformer, tokens: Tensor, patches: list, by: int, targets: range) -> float:
    """How much the loss grows when the MLPs' output at each (layer, position) is that of `by` positions before."""
    logits, cache = model.run_with_cache(tokens)

    def patch(mlp_out, hook):
        for layer, pos in patches:
            if layer == hook.layer():
                mlp_out[0, pos] = cache["mlp_out", layer][0, pos - by]
        return mlp_out

    patched = model.run_with_hooks(tokens, fwd_hooks=[("mlp_out", patch)])
    return loss(patched, tokens, targets) - loss(logits, tokens, targets)


def article(model: HookedTransformer, rep_tokens: Tensor, seq_len: int) -> Tensor:
    """``[layer pos]``: the article's own lines."""
    max_len = 2 * seq_len
    rep_logits, rep_cache = model.run_with_cache(rep_tokens, remove_batch_dim=True)

    def cross_entropy_loss(logits, tokens):
        return torch.nn.functional.cross_entropy(logits[0, :-1], tokens[0, 1:])

    ablation_scores = torch.zeros((model.cfg.n_layers, seq_len), dtype=rep_logits.dtype)
    loss_no_ablation = cross_entropy_loss(rep_logits[:, seq_len:max_len], rep_tokens[:, seq_len:max_len])
    for layer in range(model.cfg.n_layers):
        for position in range(seq_len, max_len):

            def patch_residual_component(residual_component, hook, position=position):
                residual_component[0, position, :] = rep_cache[hook.name][position - seq_len, :]
                return residual_component

            hooks = [(f"blocks.{layer}.hook_mlp_out", patch_residual_component)]
            ablated_logits = model.run_with_hooks(rep_tokens, fwd_hooks=hooks)
            loss = cross_entropy_loss(ablated_logits[:, seq_len:max_len], rep_tokens[:, seq_len:max_len])
            ablation_scores[layer, position - seq_len] = loss - loss_no_ablation
    return ablation_scores
