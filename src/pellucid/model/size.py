"""How large activations are, before they are computed."""

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from pellucid.base.errors import TooLargeError
from pellucid.base.memory import free_memory
from pellucid.hooks.names import AXES, layer_of, short_name
from pellucid.model.config import Config


def check_fits(config: Config, names: Sequence[str], x: Tensor, *, n_others: int, device: torch.device) -> None:
    """Refuses activations that do not fit in memory, before they are computed.

    Args:
        config: Of the model.
        names: Full names of what is to be kept.
        x: The stream before the first block, which tells batch, positions and dtype.
        n_others: Positions that keys have beside: those of the past, and those that are not kept.
        device: Where they are kept.

    Raises:
        TooLargeError: They do not fit.
    """
    free = free_memory(device)
    counts = Counter(short_name(name) for name in dict.fromkeys(map(holder, names)))
    needed = {short: n * cached_bytes(config, short, x, n_others=n_others) for short, n in counts.items()}
    total = sum(needed.values())
    if free is None or total <= free:
        return
    worst = max(needed, key=needed.__getitem__)
    raise TooLargeError(
        f"the cache must fit in the {free / 1e9:.1f} GB free on {device}, it needs {total / 1e9:.1f} GB, "
        f"{needed[worst] / 1e9:.1f} GB of it for {worst}; keep less by names_filter=[...], such as "
        f"names_filter=lambda name: not name.endswith({'hook_' + worst!r}), or pos_slice"
    )


def holder(name: str) -> str:
    """The activation whose memory this one shares: what a block reads is what the one before it wrote."""
    short = short_name(name)
    if short == "mlp_in":
        return f"blocks.{layer_of(name)}.hook_resid_mid"
    if short in ("q_input", "k_input", "v_input", "attn_in", "resid_pre"):
        layer = layer_of(name)
        return f"blocks.{layer - 1}.hook_resid_post" if layer else "blocks.0.hook_resid_pre"
    return name


def cached_bytes(config: Config, name: str, x: Tensor, *, n_others: int) -> int:
    """Bytes of one activation that shares its memory with none before it."""
    short = short_name(name)
    batch, pos = x.shape[:2]
    sizes = {
        "batch": batch,
        "pos": pos,
        "q_pos": pos,
        "k_pos": pos + n_others,
        "head": config.attention.n_heads,
        "kv_head": config.attention.kv_heads,
        "d_head": config.attention.d_head,
        "d_model": config.d_model,
        "neuron": 0 if config.mlp is None else config.mlp.d_mlp,
        "scale": 1,
    }
    return x.element_size() * math.prod(sizes[axis] for axis in AXES.get(short, "scale").split())
