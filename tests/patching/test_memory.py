"""A sweep never takes more than it may: the peak of a process of its own, beyond what it held before."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json, sys
from pathlib import Path
import torch
from pellucid import AttentionConfig, Config, HookedTransformer, MLPConfig, patching

def kilobytes(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what + ":"))

ask = json.loads(sys.argv[1])
torch.set_num_threads(1)
sizes = {"n_layers": 2, "d_model": 128, "d_vocab": 500, "n_ctx": 1024} | ask.pop("config", {})
model = HookedTransformer(
    Config(**sizes, attention=AttentionConfig(n_heads=4, d_head=32), mlp=MLPConfig(d_mlp=512)), seed=0, device="cpu"
)
draw = torch.Generator().manual_seed(0)

def made(n, length, at):
    clean = torch.randint(0, 500, (n, length), generator=draw)
    corrupted = clean.clone()
    corrupted[:, at] = (clean[:, at] + 1) % 500
    return patching.pairs(clean, corrupted, answer=3, wrong=5, positions={"odd": at})

metric = getattr(patching, ask.pop("metric", "LogitDiff"))()
bound, pairs = ask.pop("max_memory"), made(*ask.pop("prompts"))
if bound is None:  # the least that is accepted
    try:
        patching.plan(model, pairs, **ask, metric=metric, max_memory=1)
    except MemoryError as error:
        bound = 0.1 + float(str(error).split("takes ")[1].split(" MB")[0])
patching.sweep(model, made(1, 4, 3), site=ask["site"], over="layer", metric=metric, progress=False)  # libraries load
Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
before = kilobytes("VmRSS")
found = patching.sweep(model, pairs, **ask, metric=metric, max_memory=f"{bound}MB", progress=False)
assert bool((found.values == found.values).all())
grown = (kilobytes("VmHWM") - before) * 1024 / 1e6
print(json.dumps({"grown": grown, "bound": bound, "cells": int(found.values.size)}))
"""


def measured(**ask) -> dict:
    """How many MB a process grew by at its peak, what it was allowed, and the number of cells."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, json.dumps(ask)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module", autouse=True)
def _counted() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("needs a system that counts the peak of a process anew, as Linux does")


NEURONS = {"site": "post", "over": ["layer", "neuron", "pos"], "prompts": (1, 16, 4)}
MANY = {"site": "resid_pre", "over": ["layer", "pos"], "prompts": (32, 24, 3)}
LONG = {"site": "resid_pre", "over": ["layer", "position"], "prompts": (1, 1000, 100)}
CASES = {
    "all neurons at each position": (NEURONS, 16_384, 24),
    "32 pairs": (MANY, 1_536, 24),
    "32 pairs, all heads at each position": (MANY | {"site": "z", "over": ["layer", "head", "pos"]}, 6_144, 12),
    "32 pairs, plainly": (MANY | {"site": ["attn_out", "mlp_out"]}, 1_536, 12),
    "a long prompt": (LONG, 4, None),
    "a long prompt, by head": (LONG | {"site": "v", "over": ["layer", "head"]}, 8, None),
    "a long prompt, by neuron": (LONG | {"site": "post", "over": ["layer", "neuron"]}, 1_024, 100),
    "patterns of a long prompt": (LONG | {"site": "pattern", "over": ["layer", "head"]}, 8, None),
    "losses of a long prompt": (LONG | {"site": "z", "over": ["layer", "head"], "metric": "Loss"}, 8, None),
}
"""What is asked, how many cells that is, and a bound in MB; None for the least that is accepted."""
SLOW = {
    *["a long prompt, by head", "a long prompt, by neuron", "patterns of a long prompt", "losses of a long prompt"],
    *["32 pairs, all heads at each position", "32 pairs, plainly"],
}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow if case in SLOW else ()) for case in CASES], ids=str
)
def test_a_sweep_stays_within_its_bound(case):
    ask, cells, megabytes = CASES[case]
    told = measured(**ask, max_memory=megabytes)
    assert told["cells"] == cells
    assert told["grown"] <= told["bound"] + 1, "MB beyond what was held before"
