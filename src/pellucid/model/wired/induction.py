"""A previous-token head and an induction head."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.base.errors import ConfigError
from pellucid.model.attention import Attention, AttentionConfig
from pellucid.model.config import Config
from pellucid.model.decoder import Decoder
from pellucid.model.mlp import MLPConfig
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

TOKEN, POSITION, BEFORE, NEXT = 1.0, 4.0, 4.0, 12.0
"""How long a feature's vector is: the token, its position, the token before it, the token that comes next.

The token is short beside the next one, which the unembedding reads in the same directions.
"""


def induction_pair(
    n_layers: int = 12,
    n_heads: int = 12,
    *,
    previous: tuple[int, int] = (4, 11),
    induction: tuple[int, int] = (5, 5),
    d_head: int = 32,
    noise: float = 0.0,
    seed: int = 0,
) -> Wired:
    """A model of GPT-2's shape with one previous-token head and one induction head; all other parts are silent.

    Token 0 is BOS. The previous-token head copies each token into directions of its own at the next position; the
    induction head looks there for the current token, rests on BOS where nothing matches, and writes the token that it
    finds into the directions that the unembedding, which is tied, reads.

    Args:
        n_layers: Blocks.
        n_heads: Heads of each block.
        previous: Layer and head of the previous-token head.
        induction: Layer and head of the induction head, in a later layer.
        d_head: Width of a head. It fixes the vocabulary, ``2 d_head − 1``, and the context, ``2 d_head``; the stream is
            as wide as all heads together, ``3 d_head`` at least.
        noise: Standard deviation of the weight matrices of all other heads and of the MLPs; 0 for none at all.
        seed: Of the noise.

    Returns:
        The configuration, LayerNorms and MLPs included, and every weight by its name.

    Raises:
        ConfigError: The heads are not in the model, or not in this order; a size cannot be.

    Source: the circuit is that of Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits".

    Example:
        >>> wired = induction_pair(2, 3, previous=(0, 2), induction=(1, 1), d_head=8)
        >>> model = Decoder(wired.config)
        >>> model.load_state_dict(wired.weights)
        <All keys matched successfully>
        >>> model(torch.tensor([[0, 5, 9, 3, 5]]))[0, -1].argmax()
        tensor(9)
    """
    if d_head < 3:
        raise ConfigError(f"d_head must be 3 or more, so that there are tokens to tell apart, got {d_head}")
    check_heads({"previous-token": previous, "induction": induction}, n_layers, n_heads)
    d_model = max(n_heads, 3) * d_head
    config = Config(
        n_layers=n_layers,
        d_model=d_model,
        d_vocab=2 * d_head - 1,
        n_ctx=2 * d_head,
        attention=AttentionConfig(n_heads=n_heads, d_head=d_head),
        mlp=MLPConfig(d_mlp=4 * d_model),
        tied=True,
        init_range=noise,
    )
    model, features = Decoder(config, seed=seed), _Features(d_model, d_head)
    with torch.no_grad():
        model.embed.W_E.copy_(features.embedding())
        model.pos_embed.W_pos.copy_(features.positions())
        model.ln_final.get_parameter("w").fill_(LOGIT / (TOKEN * features.read(NEXT, TOKEN, POSITION, BEFORE)))
        _wire_previous(model.blocks[previous[0]].attn, previous[1], features)
        _wire_induction(model.blocks[induction[0]].attn, induction[1], features)
    return Wired(config, model.state_dict())


class _Features:
    """The directions of each feature, as orthonormal rows, and the vectors of tokens and positions made of them.

    A feature of n directions tells 2n values apart: value i is the i-th direction, value n + i its opposite. Two values
    have an inner product of 1 (the same), −1 (opposite) or 0.
    """

    def __init__(self, d_model: int, d_head: int) -> None:
        parts = directions(3 * d_head - 1, d_model).split([d_head - 1, 1, d_head, d_head - 1])
        self.token, self.bos, self.position, self.before = parts
        self.d_model = d_model

    def embedding(self) -> Float[Tensor, "d_vocab d_model"]:
        """`W_E`: BOS, then the ordinary tokens."""
        return TOKEN * torch.cat([self.bos, self.token, -self.token])

    def positions(self) -> Float[Tensor, "n_ctx d_model"]:
        """`W_pos`."""
        return POSITION * torch.cat([self.position, -self.position])

    def read(self, vector: float, *others: float) -> float:
        """How long a vector is behind the norm, in a stream that holds the others too."""
        return behind_norm(vector, *others, d_model=self.d_model)


def _wire_previous(attn: Attention, head: int, features: _Features) -> None:
    """From each position to the one before, whose token becomes this one's "token before"."""
    d_head = attn.config.d_head
    # e_i → e_(i−1), and e_0 → −e_last, the position before the first, which no query sees.
    step_back = torch.eye(d_head).roll(-1, dims=1)
    step_back[0] *= -1
    sharp = math.sqrt(SHARPNESS / attn.config.factor) / features.read(POSITION, TOKEN)
    clear(attn, head)
    attn.W_Q[head] = sharp * features.position.T @ step_back
    attn.W_K[head] = sharp * features.position.T
    attn.W_V[head, :, :-1] = features.token.T
    attn.W_O[head, :-1] = features.before * (BEFORE / features.read(TOKEN, POSITION))


def _wire_induction(attn: Attention, head: int, features: _Features) -> None:
    """From each token to where the token before is the same; to BOS, by half the score, where nothing matches."""
    root = math.sqrt(SHARPNESS / attn.config.factor)
    token = features.read(TOKEN, POSITION, BEFORE)
    clear(attn, head)
    attn.W_Q[head, :, :-1] = features.token.T * (root / token)
    attn.W_K[head, :, :-1] = features.before.T * (root / features.read(BEFORE, POSITION, TOKEN))
    rest_on(attn, head, features.bos[0], root=root, length=features.read(TOKEN, POSITION))
    attn.W_V[head, :, :-1] = features.token.T
    attn.W_O[head, :-1] = features.token * (NEXT / token)
