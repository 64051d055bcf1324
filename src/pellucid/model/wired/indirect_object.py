"""A circuit that names the indirect object: which of two names was not repeated."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.base.errors import ConfigError
from pellucid.model.attention import Attention, AttentionConfig
from pellucid.model.config import Config
from pellucid.model.decoder import Decoder
from pellucid.model.mlp import MLPConfig
from pellucid.model.positional import Learned
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

TOKEN, POSITION, REPEATED, INHIBITED, ANSWER = 1.0, 1.0, 2.0, 2.0, 12.0
"""How long a feature's vector is: the token, its position, that it came before, which name to pass over, the answer."""


def indirect_object(
    n_layers: int = 3,
    n_heads: int = 2,
    *,
    duplicate: tuple[int, int] = (0, 0),
    inhibition: tuple[int, int] = (1, 1),
    mover: tuple[int, int] = (2, 0),
    n_names: int = 8,
    n_fillers: int = 6,
    n_ctx: int = 20,
    noise: float = 0.0,
    seed: int = 0,
) -> Wired:
    """A model that answers prompts such as BOS … A … B … A … END by B, wherever the names stand.

    Token 0 is BOS, 1 is END, which asks; names and fillers follow. A *duplicate-token head* attends from each name to
    where it stood before, rests on BOS where it did not, and marks the position as a repeat. An *S-inhibition head*
    attends from END to the repeat, and brings its name to END as one to be passed over. A *name mover* attends from END
    to names, but for the one to be passed over, and writes the name that it finds. All other parts are silent.

    Args:
        n_layers: Blocks.
        n_heads: Heads of each block.
        duplicate: Layer and head of the duplicate-token head.
        inhibition: Layer and head of the S-inhibition head, in a later layer.
        mover: Layer and head of the name mover, in a still later one.
        n_names: Names, tokens 2 to ``n_names + 1``.
        n_fillers: Other tokens, behind the names.
        n_ctx: The longest prompt.
        noise: Standard deviation of the weight matrices of all other heads and of the MLPs.
        seed: Of the noise.

    Raises:
        ConfigError: The heads are not in the model, or not in this order; a size cannot be.

    Source: the circuit is a part of that of Wang et al. 2022, "Interpretability in the Wild".

    Example:
        >>> wired = indirect_object()
        >>> model = Decoder(wired.config)
        >>> model.load_state_dict(wired.weights)
        <All keys matched successfully>
        >>> model(torch.tensor([[0, 4, 11, 7, 12, 4, 13, 1]]))[0, -1].argmax()
        tensor(7)
    """
    if n_names < 2 or n_fillers < 0 or n_ctx < 5:
        raise ConfigError(
            f"n_names must be 2 or more, n_ctx 5 or more and n_fillers 0 or more, got n_names={n_names}, n_ctx={n_ctx} "
            f"and n_fillers={n_fillers}"
        )
    check_heads({"duplicate-token": duplicate, "S-inhibition": inhibition, "name-mover": mover}, n_layers, n_heads)
    features = _Features(n_names, n_fillers, n_ctx)
    config = Config(
        n_layers=n_layers,
        d_model=features.d_model,
        d_vocab=len(features.token),
        n_ctx=n_ctx,
        attention=AttentionConfig(n_heads=n_heads, d_head=n_names + n_ctx + 2),
        mlp=MLPConfig(d_mlp=2 * features.d_model),
        positions=Learned(),
        tied=True,
        init_range=noise,
    )
    model = Decoder(config, seed=seed)
    with torch.no_grad():
        model.embed.W_E.copy_(TOKEN * features.token)
        model.pos_embed.W_pos.copy_(POSITION * features.position)
        scale = features.read(ANSWER, TOKEN, POSITION, INHIBITED) * TOKEN
        model.ln_final.get_parameter("w").fill_(LOGIT / scale)
        _wire_duplicate(model.blocks[duplicate[0]].attn, duplicate[1], features)
        _wire_inhibition(model.blocks[inhibition[0]].attn, inhibition[1], features)
        _wire_mover(model.blocks[mover[0]].attn, mover[1], features)
    return Wired(config, model.state_dict())


class _Features:
    """The directions of each feature, one for each of its values."""

    def __init__(self, n_names: int, n_fillers: int, n_ctx: int) -> None:
        sizes = [2 + n_names + n_fillers, n_ctx, 1, n_names]
        self.n_names, self.d_model = n_names, sum(sizes) + 1
        self.token, self.position, repeated, self.inhibited = directions(sum(sizes), self.d_model).split(sizes)
        self.repeated, self.bos, self.end = repeated[0], self.token[0], self.token[1]

    @property
    def names(self) -> Float[Tensor, "n_names d_model"]:
        """The directions of names."""
        return self.token[2 : 2 + self.n_names]

    def read(self, vector: float, *others: float) -> float:
        """How long a vector is behind the norm, in a stream that holds the others too."""
        return behind_norm(vector, *others, d_model=self.d_model)


def _wire_duplicate(attn: Attention, head: int, features: _Features) -> None:
    """From a name to the same name, never to itself: positions that are the same take off what the token gave."""
    root = math.sqrt(SHARPNESS / attn.config.factor)
    n, n_ctx = features.n_names, len(features.position)
    token, place = features.read(TOKEN, POSITION), features.read(POSITION, TOKEN)
    clear(attn, head)
    attn.W_Q[head, :, :n] = features.names.T * (root / token)
    attn.W_K[head, :, :n] = features.names.T * (root / token)
    attn.W_Q[head, :, n : n + n_ctx] = -features.position.T * (root / place)
    attn.W_K[head, :, n : n + n_ctx] = features.position.T * (root / place)
    rest_on(attn, head, features.bos, root=root, length=features.read(TOKEN, POSITION))
    attn.W_V[head, :, 0] = features.names.sum(0) / token
    attn.W_O[head, 0] = features.repeated * REPEATED


def _wire_inhibition(attn: Attention, head: int, features: _Features) -> None:
    """From END to the repeat, whose name is the one to be passed over."""
    root, n = math.sqrt(SHARPNESS / attn.config.factor), features.n_names
    clear(attn, head)
    attn.W_Q[head, :, 0] = features.end * (root / features.read(TOKEN, POSITION))
    attn.W_K[head, :, 0] = features.repeated * (root / features.read(REPEATED, TOKEN, POSITION))
    rest_on(attn, head, features.bos, root=root, length=features.read(TOKEN, POSITION))
    attn.W_V[head, :, :n] = features.names.T / features.read(TOKEN, POSITION, REPEATED)
    attn.W_O[head, :n] = features.inhibited * INHIBITED


def _wire_mover(attn: Attention, head: int, features: _Features) -> None:
    """From END to names, but for the one to be passed over."""
    root, n = math.sqrt(SHARPNESS / attn.config.factor), features.n_names
    token = features.read(TOKEN, POSITION)
    clear(attn, head)
    attn.W_Q[head, :, n] = features.end * (root / features.read(TOKEN, POSITION, INHIBITED))
    attn.W_K[head, :, n] = features.names.sum(0) * (root / token)
    attn.W_Q[head, :, :n] = -features.inhibited.T * (2 * root / features.read(INHIBITED, TOKEN, POSITION))
    attn.W_K[head, :, :n] = features.names.T * (root / token)
    rest_on(attn, head, features.bos, root=root, length=features.read(TOKEN, POSITION))
    attn.W_V[head, :, :n] = features.names.T / token
    attn.W_O[head, :n] = features.names * ANSWER
