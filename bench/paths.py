"""Every edge of a model of GPT-2-small size, beside FLOPs ÷ GEMM rate; all nodes by gradients, beside a backward pass.

`make bench NAME=paths`. Ratios within one run; edges: exact; nodes: AtP, and how its ranking agrees with the sweep.
Where `PELLUCID_PEER` names a Python with transformer-lens 2.18, all edges into layer 9 stand beside its loop: a run for
each sender, and one for each edge; of `CELLS` of them, of which the best counts.
"""

import random

import torch
from torch import Tensor

from bench._turns import GPT2_SMALL, interleaved
from bench.patching import ANSWER, CELLS, FIRST, WRONG, Loop, T, loop_of, pair, timed
from pellucid import HookedTransformer, patching


def gemm_rate() -> float:
    """Of a thousand rows through an MLP's matrix, in FLOP a second."""
    a, b = torch.randn(1024, 768), torch.randn(768, 3072)
    return 2 * a.numel() * b.shape[1] / interleaved({"product": lambda: a @ b}, rounds=20)["product"]


def edge_flops() -> float:
    """Of all edges from heads to the q, k and v of heads, each carried through the layers above its receiver."""
    d, d_mlp, rows = GPT2_SMALL.d_model, 3072, T - FIRST
    whole = 2 * (4 * d * d + 2 * d * d_mlp)
    total = 0.0
    for layer in range(1, 12):
        edges = 12 * layer * 36
        first = 2 * 2 * d * d_mlp  # the receiver's own MLP
        between = whole * (11 - layer - 1) if layer < 11 else 0.0
        last = 2 * 2 * d * d + (whole - 4 * d * d) / rows if layer < 11 else 0.0  # keys and values; one row asks
        total += edges * (rows * (between + last) + (rows * first if layer < 11 else first))
    return total


def into_layer(model: HookedTransformer, pairs: patching.Pairs, loop: Loop | None, layer: int = 9) -> None:
    """Prints how all heads below into q, k and v of one layer's heads stand beside the loop."""
    draw, ours, theirs, gap = random.Random(0), [], {"senders": [], "edges": []}, 0.0
    asked = {"senders": "heads", "receivers": patching.heads(layer=layer)}
    for _ in range(3):
        ours.append(timed(lambda: patching.paths(model, pairs, **asked, progress=False)))
        cells = [
            {"sender": [draw.randrange(layer), draw.randrange(12)], "layer": layer}
            | {"head": draw.randrange(12), "site": draw.choice("qkv")}
            for _ in range(CELLS // 3)
        ]
        if loop is not None:
            answered = loop(pairs, cells)
            for name, seconds in theirs.items():
                seconds += answered[name]
            found = patching.paths(model, pairs, **asked, progress=False)
            for cell, value in zip(cells, answered["values"], strict=True):
                (low, head), to, name = cell["sender"], cell["head"], cell["site"]
                one = found.sel(sender=f"{low}.{head}", receiver=f"{layer}.{to}", input=name).values[0]
                gap = max(gap, abs(float(one) - value))
    told = f"{12 * layer * 36:,} edges into layer {layer}: {min(ours):.1f} s"
    if loop is not None:
        whole = 12 * layer * (min(theirs["senders"]) + 36 * min(theirs["edges"]))
        told += f"; the loop {whole:.0f} s, {whole / min(ours):.0f} × (at least 45; prototype 64)"
        told += f", largest difference {gap:.1e}"
    print(told, flush=True)


def main() -> None:
    """Prints the figures."""
    model = HookedTransformer(GPT2_SMALL, seed=0)
    pairs = pair()

    def both() -> Tensor:
        logits = model(pairs.clean)
        (logits[0, -1, ANSWER] - logits[0, -1, WRONG]).backward()
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
    with loop_of(model) as loop:
        into_layer(model, pairs, loop)
    rate = gemm_rate()
    every = {"edges": lambda: patching.paths(model, pairs, senders="heads", receivers="heads", progress=False)}
    edges = interleaved(every, rounds=1)["edges"]
    ideal = edge_flops() / rate
    print(f"28,512 edges: {edges:.1f} s, ÷ (FLOPs ÷ GEMM rate): {edges / ideal:.2f} at {rate / 1e9:.0f} GFLOP/s")


if __name__ == "__main__":
    main()
