"""What the wired models share: orthonormal directions, how long a feature is behind the norm, and silent heads."""

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.base.errors import ConfigError
from pellucid.model.attention import Attention
from pellucid.model.config import Config

SHARPNESS = 40.0
"""By how much the score of a key that matches exceeds that of one that does not."""
LOGIT = 18.0
"""Of the token that comes next; those of others lie near 0."""


class Wired(NamedTuple):
    """A model as a value: ``HookedTransformer(wired.config)`` and then ``load_state_dict(wired.weights)``."""

    config: Config
    weights: dict[str, Tensor]


def directions(n: int, d_model: int) -> Float[Tensor, "n d_model"]:
    """Orthonormal rows of mean zero: those of the cosine transform but for the first, which is constant."""
    angles = torch.outer(torch.arange(1, n + 1), torch.arange(d_model) + 0.5) * (math.pi / d_model)
    return angles.cos() * math.sqrt(2 / d_model)


def behind_norm(vector: float, *others: float, d_model: int) -> float:
    """How long a vector is behind the norm, in a stream that holds the others too."""
    return vector * math.sqrt(d_model) / math.hypot(vector, *others)


def clear(attn: Attention, head: int) -> None:
    """No noise in a head that is wired."""
    for W in (attn.W_Q, attn.W_K, attn.W_V, attn.W_O):
        W[head] = 0


def rest_on(attn: Attention, head: int, bos: Float[Tensor, " d_model"], *, root: float, length: float) -> None:
    """Every query finds BOS, by half the score of what it looks for; takes the head's last dimension.

    Args:
        attn: Whose head it is.
        head: Which one.
        bos: The direction of BOS.
        root: Of the score that a match has.
        length: Of BOS's vector behind the norm.
    """
    attn.get_parameter("b_Q")[head, -1] = root
    attn.W_K[head, :, -1] = bos * (root / 2 / length)


def check_heads(heads: dict[str, tuple[int, int]], n_layers: int, n_heads: int) -> None:
    """Whether heads are in the model, each in a later layer than the one before.

    Raises:
        ConfigError: They are not.
    """
    for role, (layer, head) in heads.items():
        if not (0 <= layer < n_layers and 0 <= head < n_heads):
            raise ConfigError(
                f"{role} must be a head of {n_layers} layers with {n_heads} heads, got {layer}.{head}; count from 0"
            )
    for earlier, later in pairwise(heads):
        if heads[earlier][0] >= heads[later][0]:
            (layer, head), (other, beside) = heads[earlier], heads[later]
            raise ConfigError(
                f"the {earlier} head must lie in an earlier layer than the {later} head, which reads what it writes, "
                f"got {layer}.{head} and {other}.{beside}"
            )
