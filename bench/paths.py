"""Every edge of a model of GPT-2-small size, beside FLOPs ÷ GEMM rate; all nodes by gradients, beside a backward pass.

`make bench NAME=paths`. Ratios within one run; edges: exact; nodes: AtP, and how its ranking agrees with the sweep.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from pellucid import AttentionConfig, Config, HookedTransformer, MLPConfig, patching

LENGTH, FIRST = 17, 10
CONFIG = Config(
    n_layers=12,
    d_model=768,
    d_vocab=50257,
    n_ctx=1024,
    attention=AttentionConfig(n_heads=12, d_head=64),
    mlp=MLPConfig(d_mlp=3072),
)


def timed(run: Callable[[], object], times: int = 1) -> float:
    """The least of some times, in seconds."""
    taken = []
    for _ in range(times):
        begin = time.perf_counter()
        run()
        taken.append(time.perf_counter() - begin)
    return min(taken)


def gemm_rate() -> float:
    """Of a thousand rows through an MLP's matrix, in FLOP a second."""
    a, b = torch.randn(1024, 768), torch.randn(768, 3072)
    return 2 * a.numel() * b.shape[1] / timed(lambda: a @ b, 20)


def edge_flops() -> float:
    """Of all edges from heads to the q, k and v of heads, each carried through the layers above its receiver."""
    d, d_mlp, rows = CONFIG.d_model, 3072, LENGTH - FIRST
    whole = 2 * (4 * d * d + 2 * d * d_mlp)
    total = 0.0
    for layer in range(1, 12):
        edges = 12 * layer * 36
        first = 2 * 2 * d * d_mlp  # the receiver's own MLP
        between = whole * (11 - layer - 1) if layer < 11 else 0.0
        last = 2 * 2 * d * d + (whole - 4 * d * d) / rows if layer < 11 else 0.0  # keys and values; one row asks
        total += edges * (rows * (between + last) + (rows * first if layer < 11 else first))
    return total


def main() -> None:
    """Prints the figures."""
    model = HookedTransformer(CONFIG, seed=0)
    draw = torch.Generator().manual_seed(0)
    clean = torch.randint(50257, (1, LENGTH), generator=draw)
    corrupted = clean.clone()
    corrupted[0, FIRST] = (corrupted[0, FIRST] + 1) % 50257
    pairs = patching.pairs(clean, corrupted, answer=[5], wrong=[6])

    def both() -> Tensor:
        logits = model(clean)
        (logits[0, -1, 5] - logits[0, -1, 6]).backward()
        model.zero_grad()
        return logits

    plain = timed(both, 3)
    nodes = {"site": "z", "over": ("layer", "head", "pos")}
    atp = timed(lambda: patching.attribute(model, pairs, **nodes, progress=False), 3)
    exact = patching.sweep(model, pairs, **nodes, progress=False)
    print(f"all heads by AtP ÷ one forward and backward: {atp / plain:.2f} ({atp:.2f} s)")
    for method in ("atp", "atp*"):
        found = patching.compare(exact, patching.attribute(model, pairs, **nodes, method=method, progress=False))
        print(f"ranking beside the exact sweep: {found}")
    rate = gemm_rate()
    edges = timed(lambda: patching.paths(model, pairs, senders="heads", receivers="heads", progress=False))
    ideal = edge_flops() / rate
    print(f"28,512 edges: {edges:.1f} s, ÷ (FLOPs ÷ GEMM rate): {edges / ideal:.2f} at {rate / 1e9:.0f} GFLOP/s")


if __name__ == "__main__":
    main()
