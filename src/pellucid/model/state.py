"""State dictionaries written by TransformerLens 2.18, in our names.

2.18 keeps masks and rotary tables as buffers, biases of zeros where a model has none, a copy of a tied `W_U`, and the
kv-headed weights of grouped queries under `_W_K`. Anything else that does not fit is left for `load_state_dict` to
refuse.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pellucid.model.embed import TiedUnembed, Unembed

_BUFFERS = ("mask", "IGNORE", "rotary_sin", "rotary_cos")


def from_2_18(state: Mapping[str, Any], known: Mapping[str, nn.Parameter], unembed: Unembed) -> dict[str, Any]:
    """The entries that a model has, under its own names.

    Args:
        state: As 2.18, or we, wrote it.
        known: The model's parameters by name.
        unembed: Of the model; where it is tied, a `W_U` that is not `W_E` transposed stays in what is given back.
    """
    translated = {}
    for name, tensor in state.items():
        place, _, leaf = name.rpartition(".")
        ours = f"{place}.{leaf.removeprefix('_')}" if leaf in ("_W_K", "_W_V", "_b_K", "_b_V") else name
        if ours not in known and _spare(state, unembed, ours, tensor):
            continue
        translated[ours] = tensor
    return translated


def _spare(state: Mapping[str, Any], unembed: Unembed, name: str, tensor: Any) -> bool:
    """Whether the model says the same without this entry."""
    leaf = name.rpartition(".")[2]
    if leaf in _BUFFERS:
        return True
    if leaf.startswith("b_"):
        return not torch.count_nonzero(tensor)
    if name == "unembed.W_U" and isinstance(unembed, TiedUnembed):
        W_E = state.get("embed.W_E")
        return W_E is not None and torch.equal(W_E.T, tensor)
    return False
