"""The study of indirect objects at GPT-2-small size: time of each part, and the whole beside TransformerLens' loops.

`make bench NAME=ioi`. Random weights cannot do the task, so parts are run one by one, on 4 pairs of one template; as
name mover head 9.9 is taken. The tokenizer is GPT-2's, in ../shared. Where `PELLUCID_PEER` names a Python with
transformer-lens 2.18, its loop over the same cells stands beside, estimated from the best of `SOME` cells of each part.
"""

import random
from pathlib import Path
from typing import Any

from bench._turns import GPT2_SMALL
from bench.patching import Cell, Loop, loop_of, timed
from pellucid import HookedTransformer
from pellucid.analysis.attribution import logit_attribution
from pellucid.studies import ioi_heads, ioi_parts
from pellucid.studies.ioi_prompts import Prompts
from pellucid.studies.result import Findings
from pellucid.tasks.ioi import FRAMES, IOI
from pellucid.text.read import read_tokenizer

SOME, MOVER = 20, "9.9"
SWEPT = ("resid_pre", "attn_out", "mlp_out", "z", "q", "k", "v", "pattern", "post")


def prompts_of(model: HookedTransformer) -> Prompts:
    """Four prompts whose names stand at the same places."""
    made = [IOI(corruption=corruption, frames=FRAMES[:1]) for corruption in ("s2", "random")]
    return Prompts(*(task.pairs(model.tokenizer, n=4, group="ABBA") for task in made))


def parts(model: HookedTransformer, prompts: Prompts) -> dict[str, float]:
    """Seconds of each part."""
    found = Findings()

    def add(findings: Findings) -> None:
        found.add(findings)

    roles: dict[str, Any] = {}
    steps = {
        "attribution": lambda: [logit_attribution(model, prompts.turned, by=by) for by in ("component", "head")],
        "stream, attention, MLPs": lambda: add(ioi_parts.localised(model, prompts)),
        "heads: z, q, k, v, pattern": lambda: add(ioi_parts.heads_swept(model, prompts.turned)),
        "neurons of two layers": lambda: add(ioi_parts.neurons_swept(model, prompts, found.measurements["mlp_out"])),
        "roles": lambda: roles.update(ioi_heads.roles(model, prompts)[1]),
        "knock-out": lambda: add(ioi_parts.knocked_out(model, prompts, ioi_parts.chosen(model, prompts)[0])),
        "edges": lambda: add(ioi_parts.edges(model, prompts, [MOVER], [])),
    }
    return {name: timed(step) for name, step in steps.items()}


def cells_of(prompts: Prompts) -> dict[str, tuple[int, list[Cell]]]:
    """By what is patched: how many cells the study has, and some of them for the loop."""
    draw, places = random.Random(0), [int(at[0]) for at in prompts.turned.positions.values()]
    made: dict[str, tuple[int, list[Cell]]] = {}
    for site in SWEPT:
        number = 12 * len(places) if site in SWEPT[:3] else 144 if site != "post" else 2 * 3072
        cells = []
        for _ in range(SOME):
            cell: Cell = {"site": site, "layer": draw.randrange(12)}
            if site in SWEPT[:3]:
                cell["pos"] = draw.choice(places)
            elif site == "post":
                cell["neuron"] = draw.randrange(3072)
            else:
                cell["head"] = draw.randrange(12)
            cells.append(cell)
        made[site] = number, cells
    return made


def beside(loop: Loop, prompts: Prompts) -> float:
    """Seconds that the loop would take for the sweeps, the edges and the knock-outs of single heads."""
    whole = 0.0
    for site, (number, cells) in cells_of(prompts).items():
        best = min(loop(prompts.turned, cells)["times"])
        whole += number * best
        if site == "z":  # heads knocked out one by one, then in sets, on half of the prompts each
            whole += (144 + 11) * min(loop(prompts.turned[:2], cells)["times"])
        print(f"  loop, {site:10} {number:6} cells × {1e3 * best:.0f} ms")
    layer, head = map(int, MOVER.split("."))
    draw = random.Random(0)
    asked = [
        {"sender": [draw.randrange(layer), draw.randrange(12)], "layer": layer, "head": head, "site": "q"}
        for _ in range(SOME)
    ]
    answered = loop(prompts.unrepeated, asked)
    each = min(answered["senders"]) + min(answered["edges"])
    print(f"  loop, edges      {144 + 12 * layer:6} × {1e3 * each:.0f} ms")
    return whole + (144 + 12 * layer) * each


def main() -> None:
    """Prints the figures."""
    tokenizer = read_tokenizer(Path(__file__).parents[2] / "shared" / "data" / "gpt2-tokenizer")
    model = HookedTransformer(GPT2_SMALL, tokenizer, seed=0)
    prompts = prompts_of(model)
    seconds = parts(model, prompts)
    for name, time in seconds.items():
        print(f"{name:28} {time:6.1f} s", flush=True)
    print(f"{'whole':28} {sum(seconds.values()):6.1f} s", flush=True)
    with loop_of(model) as loop:
        if loop is not None:
            theirs = beside(loop, prompts)
            print(f"the loops, estimated: {theirs:.0f} s, {theirs / sum(seconds.values()):.0f} × the whole study")


if __name__ == "__main__":
    main()
