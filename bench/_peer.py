"""The loop of TransformerLens, one run with a hook for each cell; run by its own Python, which lacks Pellucid.

Reads a line of JSON on stdin for each request, and answers with one on stdout: how long each cell took, and its value.
"""

import json
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformer_lens import HookedTransformer, HookedTransformerConfig


def made(folder):
    config = json.loads(Path(folder, "config.json").read_text())
    model = HookedTransformer(HookedTransformerConfig(**config))
    state = load_file(f"{folder}/weights.safetensors")
    model.load_state_dict(state, strict=False)
    return model.eval()


def metric(logits, answer, wrong):
    return (logits[:, -1, answer] - logits[:, -1, wrong]).mean().item()


def patch(cache, cell):
    def resid(x, hook):
        x[:, cell["pos"]] = cache[hook.name][:, cell["pos"]]
        return x

    def head(x, hook):
        where = slice(None) if cell.get("pos") is None else cell["pos"]
        x[:, where, cell["head"]] = cache[hook.name][:, where, cell["head"]]
        return x

    def pattern(x, hook):
        x[:, cell["head"]] = cache[hook.name][:, cell["head"]]
        return x

    def neuron(x, hook):
        where = slice(None) if cell.get("pos") is None else cell["pos"]
        x[:, where, cell["neuron"]] = cache[hook.name][:, where, cell["neuron"]]
        return x

    if "neuron" in cell:
        return neuron
    if "head" in cell:
        return pattern if cell["site"] == "pattern" else head
    return resid


def name_of(cell):
    place = {"post": "mlp.", "resid_pre": "", "attn_out": "", "mlp_out": ""}.get(cell["site"], "attn.")
    return f"blocks.{cell['layer']}.{place}hook_{cell['site']}"


def sent(model, base, frozen, cache, cell):
    """What every head of the receivers' layer reads, one sender patched and all else below held."""
    layer, head = cell["sender"]

    def hold(x, hook):
        return frozen[hook.name]

    def send(x, hook):
        x[:] = frozen[hook.name]
        x[:, :, head] = cache[hook.name][:, :, head]
        return x

    hooks = [(f"blocks.{i}.attn.hook_z", send if i == layer else hold) for i in range(cell["layer"])]
    hooks += [(f"blocks.{i}.hook_mlp_out", hold) for i in range(cell["layer"])]
    with model.hooks(fwd_hooks=hooks):
        names = [f"blocks.{cell['layer']}.attn.hook_{x}" for x in "qkv"]
        return model.run_with_cache(base, names_filter=names.__contains__, stop_at_layer=cell["layer"] + 1)[1]


def paths(model, asked):
    """Seconds for each sender's pass, and for each edge's; and the metric of each edge."""
    clean, corrupted = (torch.tensor(asked[side]) for side in ("clean", "corrupted"))
    wanted = [f"blocks.{i}.{name}" for i in range(model.cfg.n_layers) for name in ("attn.hook_z", "hook_mlp_out")]
    _, cache = model.run_with_cache(clean, names_filter=wanted.__contains__)
    _, frozen = model.run_with_cache(corrupted, names_filter=wanted.__contains__)
    of_senders, of_edges, values = [], [], []
    for cell in asked["cells"]:
        start = time.perf_counter()
        received = sent(model, corrupted, frozen, cache, cell)
        of_senders.append(time.perf_counter() - start)
        start = time.perf_counter()
        name = f"blocks.{cell['layer']}.attn.hook_{cell['site']}"
        hook = patch(received, {"site": cell["site"], "head": cell["head"]})
        logits = model.run_with_hooks(corrupted, fwd_hooks=[(name, hook)])
        values.append(metric(logits, asked["answer"], asked["wrong"]))
        of_edges.append(time.perf_counter() - start)
    return {"senders": of_senders, "edges": of_edges, "values": values}


@torch.no_grad()
def main():
    model = made(sys.argv[1])
    for line in sys.stdin:
        asked = json.loads(line)
        if "sender" in asked["cells"][0]:
            print(json.dumps(paths(model, asked)), flush=True)
            continue
        clean, corrupted = (torch.tensor(asked[side]) for side in ("clean", "corrupted"))
        names = {name_of(cell) for cell in asked["cells"]}
        _, cache = model.run_with_cache(clean, names_filter=names.__contains__)
        times, values = [], []
        for cell in asked["cells"]:
            start = time.perf_counter()
            logits = model.run_with_hooks(corrupted, fwd_hooks=[(name_of(cell), patch(cache, cell))])
            values.append(metric(logits, asked["answer"], asked["wrong"]))
            times.append(time.perf_counter() - start)
        print(json.dumps({"times": times, "values": values}), flush=True)


main()
