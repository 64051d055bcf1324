"""Patching sweeps at GPT-2-small size: beside the necessary arithmetic, and beside TransformerLens' loop.

Each sweep takes turns with cells of the loop, one run with a hook each; the best times count, and the loop's time for a
sweep is that of its best cell times all cells. The rate of a matrix product is measured in the same run.

`PELLUCID_PEER` names a Python that has transformer-lens 2.18; without it the ratios to the loop are left out. The
argument `quick` makes it short.
"""

import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file

from bench._program import Program
from bench._turns import GPT2_SMALL
from bench.flops import Flops
from pellucid import HookedTransformer, Measurement, Site, patching

T, FIRST = 17, 10
ANSWER, WRONG = 1757, 5335
CELLS = 24
"""Of the loop, for each sweep."""
QUICK = "quick" in sys.argv

Cell = dict[str, Any]
Loop = Callable[[patching.Pairs, list[Cell]], dict[str, list[float]]]
"""Seconds of some cells, and their values."""


def pair(prompts: int = 1, length: int = T, first: int = FIRST) -> patching.Pairs:
    """Prompts whose two runs differ in one token."""
    drawn = torch.Generator().manual_seed(0)
    clean = torch.randint(0, GPT2_SMALL.d_vocab, (prompts, length), generator=drawn)
    corrupted = clean.clone()
    corrupted[:, first] = (clean[:, first] + 1) % GPT2_SMALL.d_vocab
    return patching.pairs(clean, corrupted, answer=ANSWER, wrong=WRONG)


class Sweep(NamedTuple):
    """One row of the table."""

    name: str
    asked: dict[str, Any]
    flops: Callable[[Flops], float]
    expected: int
    """How many times faster than the loop it should be at least."""
    prototype: int
    """How many times faster a prototype was, on another machine."""


def _sweeps() -> list[Sweep]:
    found = []
    for site, least, prototype in (("resid_pre", 50, 86), ("attn_out", 60, 108), ("mlp_out", 60, 108)):
        asked = {"site": site, "over": ("layer", "pos")}
        found.append(Sweep(f"{site}, layer × pos", asked, lambda f, site=site: f.by_position(site), least, prototype))
    asked = {"site": "z", "over": ("layer", "head", "pos")}
    found.append(Sweep("z, layer × head × pos", asked, Flops.heads_by_position, 80, 129))
    for site in ("q", "k", "v", "pattern"):
        found.append(Sweep(f"{site}, layer × head", {"site": site, "over": ("layer", "head")}, Flops.heads, 18, 29))
    for layer, least, prototype in ((9, 65, 111), (5, 22, 34)):
        asked = {"site": Site("post", layer=layer), "over": ("neuron",)}
        found.append(Sweep(f"neurons of layer {layer}", asked, lambda f, n=layer: f.neurons(n), least, prototype))
    asked = {"site": Site("post", layer=9), "over": ("neuron", "pos")}
    found.append(Sweep("neurons of layer 9 × pos", asked, lambda f: f.neurons_by_position(9), 300, 597))
    return found


def rate() -> float:
    """The best rate of a matrix product, FLOP a second."""
    x, W = torch.randn(1024, 768), torch.randn(3072, 768)
    return 2 * 1024 * 768 * 3072 / min(timed(lambda: torch.nn.functional.linear(x, W)) for _ in range(20))


def timed(run: Callable[[], object]) -> float:
    """Seconds that it takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@contextmanager
def loop_of(model: HookedTransformer) -> Iterator[Loop | None]:
    """TransformerLens' loop over some cells, on the same weights; None where it is not to be had."""
    python = os.environ.get("PELLUCID_PEER")
    if not python:
        print("PELLUCID_PEER names no Python with transformer-lens 2.18: nothing is compared with its loop")
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        weights = {name: x.detach().contiguous() for name, x in model.state_dict().items()}
        weights |= {"unembed.W_U": model.W_U.detach().contiguous(), "unembed.b_U": model.b_U.detach()}
        save_file(weights, f"{folder}/weights.safetensors")
        shape = {name: getattr(model.cfg, name) for name in ("n_layers", "d_model", "n_heads", "d_head", "d_mlp")}
        shape |= {"n_ctx": model.cfg.n_ctx, "d_vocab": model.cfg.d_vocab, "act_fn": "gelu_new", "device": "cpu"}
        Path(folder, "config.json").write_text(json.dumps(shape | {"normalization_type": "LN"}))
        peer = Program(python, "_peer.py", folder)

        def run(pairs: patching.Pairs, cells: list[Cell]) -> dict[str, list[float]]:
            return peer.ask(
                **{"clean": pairs.clean.tolist(), "corrupted": pairs.corrupted.tolist(), "cells": cells},
                **{"answer": ANSWER, "wrong": WRONG},
            )

        try:
            yield run
        finally:
            peer.end()


def cells_of(effect: Measurement, asked: dict[str, Any], n: int) -> list[tuple[tuple[int, ...], Cell]]:
    """Some cells of a sweep, at random: their places, and what the loop patches for them."""
    site = asked["site"]
    fixed: Cell = {"site": site} if isinstance(site, str) else {"site": site.name, "layer": site.layer}
    places = random.Random(0).sample(list(np.ndindex(effect.shape[1:])), n)
    return [((0, *place), fixed | dict(zip(effect.dims[1:], map(int, place), strict=True))) for place in places]


def measure(model: HookedTransformer, sweep: Sweep, loop: Loop | None, best_rate: float) -> None:
    """Prints a row of the table."""
    pairs, ours, theirs, gap = pair(), [], [], 0.0
    effect = patching.sweep(model, pairs, **sweep.asked, progress=False)
    chosen = cells_of(effect, sweep.asked, CELLS)
    rounds = 2 if QUICK else 3 if effect.values.size > 5000 else 8
    size = -(-CELLS // rounds)
    for turn in range(rounds):
        ours.append(timed(lambda: patching.sweep(model, pairs, **sweep.asked, progress=False)))
        some = chosen[turn * size : (turn + 1) * size]
        if loop is not None and some:
            answered = loop(pairs, [cell for _, cell in some])
            theirs += answered["times"]
            values = zip(answered["values"], some, strict=True)
            gap = max(gap, *(abs(value - effect.values[at]) for value, (at, _) in values))
    needed = sweep.flops(Flops(GPT2_SMALL, T=T, first=FIRST)) / best_rate
    told = f"{sweep.name:26} {min(ours):7.2f} s ({np.median(ours):.2f}, {max(ours):.2f})"
    told += f"  {min(ours) / needed:5.2f} × necessary"
    if theirs:
        ratio = effect.values.size * min(theirs) / min(ours)
        told += f"  {ratio:5.0f} × the loop (at least {sweep.expected}; prototype {sweep.prototype})"
        told += f"; its cell {1e3 * min(theirs):.0f} ms ({1e3 * np.median(theirs):.0f}, {1e3 * max(theirs):.0f}),"
        told += f" largest difference {gap:.1e}"
    print(told, flush=True)


def best(model: HookedTransformer, pairs: patching.Pairs, asked: dict[str, Any], *, rounds: int) -> float:
    """The best time of a sweep, in seconds."""
    return min(timed(lambda: patching.sweep(model, pairs, **asked, progress=False)) for _ in range(rounds))


def many_prompts(model: HookedTransformer, loop: Loop | None, best_rate: float) -> None:
    """32 pairs at once, and how time grows with pairs, length and layers."""
    pairs, asked = pair(32), {"site": "resid_pre", "over": ("layer", "pos")}
    seconds = min(
        timed(lambda: patching.sweep(model, pairs, **asked, progress=False)) for _ in range(1 if QUICK else 2)
    )
    needed = 32 * Flops(GPT2_SMALL, T=T, first=FIRST).by_position("resid_pre") / best_rate
    told = f"{'32 pairs, resid_pre':26} {seconds:7.2f} s  {seconds / needed:19.2f} × necessary"
    if loop is not None:
        times = loop(pairs, [{"site": "resid_pre", "layer": i % 12, "pos": i % T} for i in range(CELLS)])["times"]
        told += f"  {12 * T * min(times) / seconds:5.0f} × the loop, 32 prompts a run (at least 22; prototype 30)"
    print(told, flush=True)


def growth(model: HookedTransformer, best_rate: float) -> None:
    """How time grows with prompts, length and layers, and the worst case for what is reused."""
    asked = {"site": "resid_pre", "over": ("layer", "pos")}
    for name, prompts, length, first, layers in (
        *(("pairs", n, T, FIRST, 12) for n in (1, 2, 4, 8)),
        *(("length", 1, n, n - 7, 12) for n in (17, 34, 68, 136)),
        *(("layers", 1, T, FIRST, n) for n in (3, 6, 12)),
        ("early difference", 1, 50 if QUICK else 200, 5, 12),
    ):
        config = GPT2_SMALL.change(n_layers=layers)
        here = model if layers == 12 else HookedTransformer(config, seed=0)
        pairs = pair(prompts, length, first)
        seconds = best(here, pairs, asked, rounds=1 if length > 150 else 3)
        needed = prompts * Flops(config, T=length, first=first).by_position("resid_pre") / best_rate
        print(
            f"  {name:17} {prompts} × {length} tokens from {first}, {layers} layers: {seconds:7.2f} s, "
            f"{seconds / needed:.2f} × necessary",
            flush=True,
        )


@torch.no_grad()
def main() -> None:
    """Prints the table."""
    model = HookedTransformer(GPT2_SMALL, seed=0)
    best_rate = rate()
    print(f"GPT-2-small size, float32, {torch.get_num_threads()} threads; {T} tokens that differ at {FIRST}")
    print(f"a product of 1024 × 768 × 3072 runs at {best_rate / 1e9:.0f} GFLOP/s; best of turns (median, longest)")
    with loop_of(model) as loop:
        for sweep in _sweeps():
            measure(model, sweep, loop, max(best_rate, rate()))
        many_prompts(model, loop, max(best_rate, rate()))
    growth(model, max(best_rate, rate()))


if __name__ == "__main__":
    main()
