"""Which heads copy: told from the eigenvalues of what they do between tokens, at the size of a head."""

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.analysis.token_circuits import check_one_vocabulary, embedded, folded, linear, shared, token_ids
from pellucid.base.seeds import generator
from pellucid.hooked_transformer import HookedTransformer, record_of
from pellucid.hooks.index import at_least
from pellucid.measurement import Measurement
from pellucid.model.norms import widened

PART = 2**25
"""Numbers of `d_model` squared that are held at a time: 128 MB."""
DRAWS = 49
"""Shuffles of the vocabulary that heads are compared with."""


@torch.no_grad()
def copying_score(
    model: HookedTransformer, *, embedding: str = "raw", draws: int = DRAWS, seed: int = 0
) -> Measurement:
    """How much of each head's OV copies: Re Σλ / Σ|λ| over the eigenvalues of `W_E W_V W_O W_U`.

    1 where attending to a token always raises that token, −1 where it lowers it. The eigenvalues are those of a matrix
    of the head's size, since the large one has no others but zeros.

    Args:
        model: Model to read, whose tokens go out as they come in.
        embedding: As for `ov_tokens`.
        draws: Shuffles that the control is the mean of.
        seed: Of the control.

    Returns:
        ``[layer head]``, fraction, −1 to 1; NaN where a head writes nothing. ``control`` is the same with the
        vocabulary shuffled between `W_E` and `W_U`, so that no token meets itself but by chance.

    Raises:
        ArgumentError: Tokens go out by another vocabulary; no MLP to extend by.
        UnknownNameError: There is no such embedding.

    Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits", copying heads.

    Example:
        >>> model = HookedTransformer.from_pretrained("toy-induction", device="cpu")
        >>> bool((copying_score(model).sel(layer=1).values > 0.99).all())
        True
    """
    found = copying_by_chance(model, embedding=embedding, draws=draws, seed=seed)
    settings = {"embedding": embedding, "norms": "folded", "draws": draws}
    return Measurement(
        found[0],
        ("layer", "head"),
        unit="fraction",
        record=record_of(model, task="copying score", seed=seed, settings=settings),
        name="copying score",
        variables={"control": (("layer", "head"), found[1:].mean(0))},
    )


@torch.no_grad()
def copying_by_chance(
    model: HookedTransformer, *, embedding: str = "raw", draws: int = DRAWS, seed: int = 0
) -> Float[Tensor, "draw layer head"]:
    """The score of `copying_score`, and behind it what the heads have with the vocabulary shuffled, draw by draw.

    A draw takes about a second at GPT-2 small's size on one core: `multiplications` of them.

    Args:
        model: As for `copying_score`.
        embedding: As there.
        draws: Shuffles, 1 or more; each is the same for all heads.
        seed: Of the shuffles.
    """
    check_one_vocabulary(model, "copying")
    at_least("draws", draws, 1)
    config, ids, random = model.config, token_ids(model, None), generator(seed)
    found = torch.empty(1 + draws, config.n_layers, config.attention.n_heads, dtype=torch.float64)
    U = widened(model.W_U)
    # heads of layer 0 lie before the first MLP
    read = [embedded(model, ids, embedding, layer) for layer in range(min(config.n_layers, 2))]
    read = read[:1] if embedding == "raw" else read
    for part in found.split(max(1, PART // config.d_model**2)):
        between = []
        for _ in part:
            between.append([U @ E[ids] for E in read])
            ids = ids[torch.randperm(len(ids), generator=random).to(ids.device)]
        for layer in range(config.n_layers):
            write, V = _heads(model, layer)
            for draw, matrices in zip(part, between, strict=True):
                small = (write @ matrices[min(layer, len(read) - 1)] @ V).double()
                values = torch.linalg.eigvals(small.cpu())  # of many small matrices, fastest there
                draw[layer] = values.real.sum(-1) / values.abs().sum(-1)
    return found


def multiplications(model: HookedTransformer) -> int:
    """How many one draw of `copying_by_chance` takes, of the raw embedding."""
    config = model.config
    heads = config.n_layers * config.attention.n_heads
    return (config.d_vocab + heads * config.attention.d_head) * config.d_model**2


def _heads(
    model: HookedTransformer, layer: int
) -> tuple[Float[Tensor, "head d_head d_model"], Float[Tensor, "head d_model d_head"]]:
    """What the heads of a layer write to the logits' side, and what they read, with the norms in it."""
    block, n_heads = model.blocks[layer], model.config.attention.n_heads
    write = [linear(model.ln_final, widened(W)) for W in block.attn.W_O]
    read = [folded(block.ln1, widened(shared(block.attn.W_V, head, n_heads))) for head in range(n_heads)]
    return torch.stack(write), torch.stack(read)
