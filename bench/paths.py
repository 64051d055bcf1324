"""Every edge of a model of GPT-2-small size, beside FLOPs ÷ GEMM rate; all nodes by gradients, beside a backward pass.

`make bench NAME=paths`. Ratios within one run; edges: exact; nodes: AtP, and how its ranking agrees with the sweep.
"""

import torch
from torch import Tensor

from bench._turns import GPT2_SMALL, interleaved
from pellucid import HookedTransformer, patching

LENGTH, FIRST = 17, 10


def gemm_rate() -> float:
    """Of a thousand rows through an MLP's matrix, in FLOP a second."""
    a, b = torch.randn(1024, 768), torch.randn(768, 3072)
    return 2 * a.numel() * b.shape[1] / interleaved({"product": lambda: a @ b}, rounds=20)["product"]


def edge_flops() -> float:
    """Of all edges from heads to the q, k and v of heads, each carried through the layers above its receiver."""
    d, d_mlp, rows = GPT2_SMALL.d_model, 3072, LENGTH - FIRST
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
    model = HookedTransformer(GPT2_SMALL, seed=0)
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

    nodes = {"site": "z", "over": ("layer", "head", "pos")}
    estimated = {"plain": both, "atp": lambda: patching.attribute(model, pairs, **nodes, progress=False)}
    plain, atp = interleaved(estimated, rounds=3).values()
    exact = patching.sweep(model, pairs, **nodes, progress=False)
    print(f"all heads by AtP ÷ one forward and backward: {atp / plain:.2f} ({atp:.2f} s)")
    for method in ("atp", "atp*"):
        found = patching.compare(exact, patching.attribute(model, pairs, **nodes, method=method, progress=False))
        print(f"ranking beside the exact sweep: {found}")
    rate = gemm_rate()
    every = {"edges": lambda: patching.paths(model, pairs, senders="heads", receivers="heads", progress=False)}
    edges = interleaved(every, rounds=1)["edges"]
    ideal = edge_flops() / rate
    print(f"28,512 edges: {edges:.1f} s, ÷ (FLOPs ÷ GEMM rate): {edges / ideal:.2f} at {rate / 1e9:.0f} GFLOP/s")


if __name__ == "__main__":
    main()
