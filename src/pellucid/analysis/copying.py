"""Which heads copy: told from the eigenvalues of what they do between tokens, at the size of a head."""

import torch
from torch import Tensor

from pellucid.analysis.token_circuits import embedded, folded, linear, shared, token_ids
from pellucid.base.errors import ArgumentError
from pellucid.base.seeds import generator
from pellucid.hooked_transformer import HookedTransformer, record_of
from pellucid.measurement import Measurement
from pellucid.model.norms import widened


@torch.no_grad()
def copying_score(model: HookedTransformer, *, embedding: str = "raw", seed: int = 0) -> Measurement:
    """How much of each head's OV copies: Re Σλ / Σ|λ| over the eigenvalues of `W_E W_V W_O W_U`.

    1 where attending to a token always raises that token, −1 where it lowers it. The eigenvalues are those of a matrix
    of the head's size, since the large one has no others but zeros.

    Args:
        model: Model to read, whose tokens go out as they come in.
        embedding: As for `ov_tokens`.
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
    config = model.config
    if config.vocab_out != config.d_vocab:
        raise ArgumentError(
            f"copying needs tokens that go out by the vocabulary they come in by, got d_vocab={config.d_vocab} and "
            f"d_vocab_out={config.vocab_out}"
        )
    ids = token_ids(model, None)
    dealt = ids[torch.randperm(len(ids), generator=generator(seed)).to(ids.device)]
    found = torch.empty(2, config.n_layers, config.attention.n_heads, dtype=torch.float64)
    between: dict[bool, list[Tensor]] = {}
    for layer, block in enumerate(model.blocks):
        extended = embedding == "extended" and layer > 0  # heads of layer 0 lie before the first MLP
        if extended not in between:
            E, U = embedded(model, ids, embedding, layer), widened(model.W_U)
            between = {extended: [U @ E, U @ E[dealt]]}
        norm, n_heads = block.ln1, config.attention.n_heads
        for head in range(n_heads):
            read = folded(norm, widened(shared(block.attn.W_V, head, n_heads)))
            write = linear(model.ln_final, widened(block.attn.W_O[head]))
            for i, middle in enumerate(between[extended]):
                values = torch.linalg.eigvals((write @ middle @ read).double())
                found[i, layer, head] = (values.real.sum() / values.abs().sum()).cpu()
    return Measurement(
        found[0],
        ("layer", "head"),
        unit="fraction",
        record=record_of(model, task="copying score", seed=seed, settings={"embedding": embedding, "norms": "folded"}),
        name="copying score",
        variables={"control": (("layer", "head"), found[1])},
    )
