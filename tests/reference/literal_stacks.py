"""An encoder–decoder written out with the steps of `literal`; an encoder is `literal(..., causal=False)`."""

import torch
from torch import einsum

from tests.reference.literal import Steps, for_each, standing


def literal_encoder_decoder(model, source, tokens, *, edit=None, source_mask=None, mask=None):
    """(logits, every hook point's value by full name); `edit` has a function for each point whose value it changes.

    The masks are True at real tokens, of the source and of what is written: padding is neither seen nor counted.
    """
    steps = Steps(model.config, edit)
    positions, source_visible = standing(source, source_mask)
    x = steps.point("hook_embed", model.embed.W_E[source])
    x = x + steps.placed("hook_pos_embed", model, positions)
    for layer, block in enumerate(model.encoder):
        x = steps.block(f"encoder.{layer}", block, x, positions, source_visible)
    read = steps.normalised("encoder_final_ln", model.encoder_final_ln, x)

    positions, visible = standing(tokens, mask)
    visible = visible & torch.ones(tokens.shape[1], tokens.shape[1]).tril().bool()
    x = steps.point("hook_decoder_embed", model.embed.W_E[tokens])
    x = x + steps.placed("hook_decoder_pos_embed", model, positions, "decoder_pos_embed")
    for layer, block in enumerate(model.decoder):
        at = f"decoder.{layer}"
        x = steps.point(f"{at}.hook_resid_pre", x)
        x = steps.attention(at, block, x, positions, visible) + steps.kept(x)
        x = steps.point(f"{at}.hook_resid_mid", x)
        x = cross_attention(steps, at, block, x, read, source_visible) + steps.kept(x)
        if model.config.mlp is not None:
            x = steps.point(f"{at}.hook_resid_mid_cross", x)
            x = steps.mlp(at, block.mlp, "ln3", block.ln3, x) + steps.kept(x)
        x = steps.point(f"{at}.hook_resid_post", x)
    x = steps.normalised("decoder_final_ln", model.decoder_final_ln, x)
    logits = einsum("bpm,mv->bpv", x, model.unembed.W_U)
    return logits + (0 if model.unembed.b_U is None else model.unembed.b_U), steps.seen


def cross_attention(steps, at, block, x, read, visible):
    """Queries of what is written, keys and values of what was read; no positions."""
    asking, attn = steps.normalised(f"{at}.ln2", block.ln2, x), block.cross_attn
    inputs = [for_each(steps.heads, asking), for_each(steps.kv_heads, read), for_each(steps.kv_heads, read)]
    out = steps.gathered(f"{at}.cross_attn", attn, *steps.projected(f"{at}.cross_attn", attn, inputs), visible)
    return steps.point(f"{at}.hook_cross_attn_out", out)
