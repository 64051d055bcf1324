"""A model against numbers that the real GPT-2 small once gave: queries and keys of the first layer.

In: a model, and a folder with `attention_and_logits.npz`, which holds for some prompts the raw products of queries and
keys of every head. Out: the largest difference in layer 0. Deeper layers were computed with another form of GELU there.
"""

from pathlib import Path

import numpy as np
import torch

from pellucid.base.errors import ArgumentError, CheckpointError
from pellucid.hooked_transformer import HookedTransformer
from pellucid.studies.result import Figure

FILE = "attention_and_logits.npz"
NAME = "reference_layer_0_qk_max_difference"


@torch.no_grad()
def against_reference(model: HookedTransformer, folder: str | Path) -> dict[str, Figure]:
    """The largest difference of layer 0's q·k, before scale and mask, to the reference's, over all of its prompts.

    The comparison is of an unprocessed model: folding and centring leave q·k as it is for queries and keys whose biases
    are kept, so a processed one differs by rounding only.

    Args:
        model: One that may be GPT-2 small.
        folder: With `attention_and_logits.npz`: for prompts `ex0`, `ex1` … their ids (`ex0_token_ids`) and the
            products (`ex0_attn_qk`, ``[layer head q_pos k_pos]``).

    Raises:
        CheckpointError: The folder does not hold the file, or the file is another one.
        ArgumentError: The model has another number of heads, or reads other tokens.
    """
    path = Path(folder) / FILE
    try:
        with np.load(path, allow_pickle=False) as arrays:
            prompts = sorted(name.removesuffix("_token_ids") for name in arrays.files if name.endswith("_token_ids"))
            cases = [(arrays[f"{name}_token_ids"], arrays[f"{name}_attn_qk"][0]) for name in prompts]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder} must hold {FILE} with ids and q·k of each prompt, got: {error}") from error
    if not cases:
        raise CheckpointError(f"{path} must hold ids and q·k of one prompt or more, got none")
    worst = 0.0
    for ids, expected in cases:
        heads = model.config.attention.n_heads
        if model.config.n_layers < 1 or len(expected) != heads or int(ids.max()) >= model.config.d_vocab:
            raise ArgumentError(
                f"the model must have the reference's {len(expected)} heads and read its token ids up to "
                f"{int(ids.max())}, got {heads} heads and d_vocab={model.config.d_vocab}; it is another model"
            )
        tokens = torch.as_tensor(ids, device=model.device)[None].long()
        cache = model.run(tokens, reads=[("q", 0), ("k", 0)], stop_at_layer=1).cache
        q, k = (cache[f"blocks.0.attn.hook_{name}"][0].double() for name in "qk")
        k = k.repeat_interleave(heads // k.shape[1], dim=1)
        products = torch.einsum("qhe,khe->hqk", q, k).cpu()
        worst = max(worst, float((products - torch.as_tensor(expected)).abs().max()))
    return {NAME: Figure(unit="logits", value=worst, label=f"{len(cases)} prompts")}
