"""State dictionaries written by TransformerLens 2.18, in our names.

2.18 keeps masks and rotary tables as buffers, biases of zeros where a model has none, a copy of a tied `W_U`, and the
kv-headed weights of grouped queries under `_W_K`. Anything else that does not fit is left for `load_state_dict` to refuse.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from pellucid.model.embed import TiedUnembed

if TYPE_CHECKING:
    from pellucid.model.decoder import Decoder

_BUFFERS = ("mask", "IGNORE", "rotary_sin", "rotary_cos")


def from_2_18(model: "Decoder", state: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that the model has, under its own names; unties `W_U` where the state has another one."""
    known = dict(model.named_parameters())
    translated = {}
    for name, tensor in state.items():
        place, _, leaf = name.rpartition(".")
        ours = f"{place}.{leaf.removeprefix('_')}" if leaf in ("_W_K", "_W_V", "_b_K", "_b_V") else name
        if ours not in known and _spare(model, state, ours, tensor):
            continue
        translated[ours] = tensor
    return translated


def _spare(model: "Decoder", state: Mapping[str, Any], name: str, tensor: Any) -> bool:
    """Whether the model says the same without this entry."""
    leaf = name.rpartition(".")[2]
    if leaf in _BUFFERS:
        return True
    if leaf.startswith("b_"):
        return not torch.count_nonzero(tensor)
    if name == "unembed.W_U" and isinstance(model.unembed, TiedUnembed):
        W_E = state.get("embed.W_E")
        if W_E is not None and torch.equal(W_E.T, tensor):
            return True
        model.unembed.W_U = torch.empty_like(tensor, device=model.device, dtype=model.dtype)
    return False
