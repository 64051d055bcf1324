"""A head that reads skip-trigrams: at B it looks for an earlier A, and says C."""

import math
from collections.abc import Mapping

import torch

from pellucid.base.errors import ConfigError
from pellucid.model.attention import Attention, AttentionConfig
from pellucid.model.config import Config
from pellucid.model.decoder import Decoder
from pellucid.model.norms import LayerNorm
from pellucid.model.wired.directions import (
    LOGIT,
    SHARPNESS,
    Wired,
    behind_norm,
    check_heads,
    clear,
    directions,
    rest_on,
)

ANSWER = 12.0
"""How long the vector is that the head writes; a token's is 1."""


def skip_trigram(
    triples: Mapping[tuple[int, int], int],
    n_layers: int = 1,
    n_heads: int = 2,
    *,
    head: tuple[int, int] = (0, 0),
    d_vocab: int = 20,
    n_ctx: int = 32,
    noise: float = 0.0,
    seed: int = 0,
) -> Wired:
    """An attention-only model with one head that reads skip-trigrams A … B → C; all other parts are silent.

    Token 0 is BOS. At B the head attends to earlier tokens A of its triples, and rests on BOS where there is none; what
    it writes depends on A alone, so that all triples of one A must say the same C.

    Args:
        triples: C by (A, B).
        n_layers: Blocks.
        n_heads: Heads of each block.
        head: Layer and head of the reader.
        d_vocab: Tokens.
        n_ctx: The longest prompt.
        noise: Standard deviation of the weight matrices of all other heads.
        seed: Of the noise.

    Raises:
        ConfigError: A token is none, BOS, or says two things; there is no triple; the head is not in the model.

    Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits".

    Example:
        >>> wired = skip_trigram({(5, 9): 3})
        >>> model = Decoder(wired.config)
        >>> model.load_state_dict(wired.weights)
        <All keys matched successfully>
        >>> model(torch.tensor([[0, 5, 7, 9]]))[0, -1].argmax()
        tensor(3)
    """
    says = _checked(triples, d_vocab)
    check_heads({"skip-trigram": head}, n_layers, n_heads)
    d_model, d_head = d_vocab + 1, len(says) + 1
    config = Config(
        n_layers=n_layers,
        d_model=d_model,
        d_vocab=d_vocab,
        n_ctx=n_ctx,
        attention=AttentionConfig(n_heads=n_heads, d_head=d_head),
        norm=LayerNorm(),
        positions=None,
        tied=True,
        init_range=noise,
    )
    model, tokens = Decoder(config, seed=seed), directions(d_vocab, d_model)
    with torch.no_grad():
        model.embed.W_E.copy_(tokens)
        model.ln_final.get_parameter("w").fill_(LOGIT / behind_norm(ANSWER, 1.0, d_model=d_model))
        _wire(model.blocks[head[0]].attn, head[1], triples, says, tokens)
    return Wired(config, model.state_dict())


def _checked(triples: Mapping[tuple[int, int], int], d_vocab: int) -> dict[int, int]:
    """What each A says."""
    says: dict[int, int] = {}
    if not triples:
        raise ConfigError("triples must have one entry at least, such as {(5, 9): 3}, got none")
    for (first, second), third in triples.items():
        for token in (first, second, third):
            if not 0 < token < d_vocab:
                raise ConfigError(f"tokens of a triple must lie in 1..{d_vocab - 1}, got {token}; 0 is BOS")
        if says.setdefault(first, third) != third:
            raise ConfigError(
                f"all triples of one first token must say the same, got {says[first]} and {third} after {first}; one "
                "head writes what it read"
            )
    return says


def _wire(
    attn: Attention, head: int, triples: Mapping[tuple[int, int], int], says: dict[int, int], tokens: torch.Tensor
) -> None:
    length = math.sqrt(tokens.shape[1])  # of a token behind the norm
    sharp = math.sqrt(SHARPNESS / attn.config.factor)
    place = {first: i for i, first in enumerate(says)}
    clear(attn, head)
    for first, second in triples:
        attn.W_Q[head, :, place[first]] += tokens[second] * (sharp / length)
    for first, i in place.items():
        attn.W_K[head, :, i] = tokens[first] * (sharp / length)
        attn.W_V[head, :, i] = tokens[first] / length
        attn.W_O[head, i] = tokens[says[first]] * ANSWER
    rest_on(attn, head, tokens[0], root=sharp, length=length)
