"""How large activations are, before they are computed."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pellucid.base.errors import TooLargeError
from pellucid.base.memory import free_memory
from pellucid.hooks.names import AXES, layer_of, short_name
from pellucid.model.config import Config


def check_fits(config: Config, names: Sequence[str], x: Tensor, *, n_past: int, device: torch.device) -> None:
    """Refuses activations that do not fit in memory, before they are computed.

    Args:
        config: Of the model.
        names: Full names of what is to be kept.
        x: The stream before the first block, which tells batch, positions and dtype.
        n_past: Positions before it.
        device: Where they are kept.

    Raises:
        TooLargeError: They do not fit.
    """
    free = free_memory(device)
    needed = {name: cached_bytes(config, name, x, n_past=n_past) for name in names}
    total = sum(needed.values())
    if free is None or total <= free:
        return
    largest: dict[str, int] = {}
    for name, size in needed.items():
        largest[short_name(name)] = largest.get(short_name(name), 0) + size
    worst = max(largest, key=largest.__getitem__)
    raise TooLargeError(
        f"the cache must fit in the {free / 1e9:.1f} GB free on {device}, it needs {total / 1e9:.1f} GB, "
        f"{largest[worst] / 1e9:.1f} GB of it for {worst}; keep less by names_filter=[...], such as "
        f"names_filter=lambda name: not name.endswith({'hook_' + worst!r}), or pos_slice"
    )


def cached_bytes(config: Config, name: str, x: Tensor, *, n_past: int) -> int:
    """Bytes of one activation; 0 for one that shares memory with another."""
    short, layer = short_name(name), layer_of(name)
    if short in ("q_input", "k_input", "v_input", "attn_in", "mlp_in") or (short == "resid_pre" and layer != 0):
        return 0
    batch, pos = x.shape[:2]
    sizes = {
        "batch": batch,
        "pos": pos,
        "q_pos": pos,
        "k_pos": pos + n_past,
        "head": config.attention.n_heads,
        "kv_head": config.attention.kv_heads,
        "d_head": config.attention.d_head,
        "d_model": config.d_model,
        "neuron": 0 if config.mlp is None else config.mlp.d_mlp,
        "scale": 1,
    }
    return x.element_size() * math.prod(sizes[axis] for axis in AXES.get(short, "scale").split())
