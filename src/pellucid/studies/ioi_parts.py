"""The causal parts of the study of indirect objects: sweeps, edges into the heads found, and what is left without them.

In: the model and the prompts. Out: figures and Measurements, all exact. Denoising puts what is of the clean prompt into
the one with the answer turned round; edges and knock-outs put what is of prompts without a repeated name into the clean
one (the ABC prompts of Wang et al. 2022).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pellucid.hooked_transformer import HookedTransformer
from pellucid.hooks.site import Site
from pellucid.maths.statistics import split
from pellucid.measurement import Measurement
from pellucid.patching.paths import paths
from pellucid.patching.sweep import sweep
from pellucid.studies.ioi_heads import head_of
from pellucid.studies.ioi_prompts import Prompts
from pellucid.studies.result import Figure, Findings
from pellucid.tasks.pairs import Pairs

LAYERS_OF_NEURONS = 2
"""Whose neurons are swept: the layers whose MLP matters most."""
SHARE_OF_HEADS, FEWEST = 0.1, 3
"""Heads that are knocked out: at most this share of all, but so many."""
READERS = 4
"""Of the heads that are missed most, those whose incoming edges are looked at."""
RANDOM_SETS = 10
"""Of as many heads each, drawn from the others."""


def localised(model: HookedTransformer, prompts: Prompts) -> Findings:
    """Where in the stream the answer is decided, layer by layer and position by position; attention and MLPs alike."""
    found = Findings()
    for site in ("resid_pre", "attn_out", "mlp_out"):
        if site == "mlp_out" and model.config.mlp is None:
            continue
        found.measurements[site] = sweep(model, prompts.turned, site=site, over=("layer", "position"), progress=False)
    swept = found.measurements["resid_pre"].normalised()
    at, handed, elsewhere = _where(swept)
    names = ("resid_localised_position", "resid_handover_layer", "resid_elsewhere")
    found.figures |= dict(zip(names, (at, handed, elsewhere), strict=True))
    return found


def _where(swept: Measurement) -> tuple[Figure, Figure, Figure]:
    """The position that carries the answer before layer 1, the layer from which on the end does, and what is elsewhere.

    Before layer 0 the two runs differ in the second subject alone, which says nothing of the model.
    """
    shares, names = swept.mean("prompt"), [str(name) for name in swept.dataset["position"].values]
    n_layers, end = shares.shape[0], names.index("end")
    inside = np.delete(shares.values, end, 1)
    if n_layers < 2 or not np.isfinite(shares.values).all():
        reason = "the model has one layer, between whose parts the stream is not looked at"
        return tuple(Figure(unit=unit, reason=reason) for unit in ("fraction", "layer", "fraction"))  # pyright: ignore
    best = swept.sel(layer=1).best(1)
    at = Figure.best(best, label=f"{best.dataset['position'].values.item()}, layer 1")
    wins = shares.values[:, end] > inside.max(1)
    later = [layer for layer in range(n_layers) if wins[layer:].all()]
    handed = float(later[0] if later else n_layers)  # behind the last layer the end is all there is
    missing = 1 - np.clip(shares.values[1:], 0, 1).sum(1)
    return (
        at,
        Figure(unit="layer", value=handed, reason="a layer is no mean of prompts", label="end"),
        Figure(
            unit="fraction",
            value=float(max(0.0, missing.max())),
            reason="the largest of several means",
            label=f"layer {1 + int(missing.argmax())}",
        ),
    )


def heads_swept(model: HookedTransformer, pairs: Pairs) -> Findings:
    """Each head's output, query, keys, values and pattern put in alone."""
    found, attention = Findings(), model.config.attention
    shared = "kv_head" if attention.kv_heads != attention.n_heads else "head"
    for site in ("z", "q", "k", "v", "pattern"):
        axis = shared if site in ("k", "v") else "head"
        found.measurements[f"heads_{site}"] = sweep(model, pairs, site=site, over=("layer", axis), progress=False)
    return found


def neurons_swept(model: HookedTransformer, prompts: Prompts, mlps: Measurement | None) -> Findings:
    """Each neuron of the layers whose MLP matters most, alone, at all positions."""
    if mlps is None:
        return Findings()
    sizes = np.abs(mlps.effect().mean("prompt").values).max(1)
    layers = sorted(np.argsort(-sizes, kind="stable")[:LAYERS_OF_NEURONS].tolist())
    return Findings(
        measurements={
            f"neurons_{layer}": sweep(
                model, prompts.turned, site=Site("post", layer=layer), over=("layer", "neuron"), progress=False
            )
            for layer in layers
        }
    )


def edges(model: HookedTransformer, prompts: Prompts, movers: Sequence[str], missed: Sequence[str]) -> Findings:
    """What each head sends to the logits, to the name movers' queries, and to the heads that are missed most.

    Through MLPs, as was published; into heads by queries, keys and values.
    """
    asked = {"senders": "heads", "through": "mlps", "direction": "noise", "progress": False}
    found = {"edges_to_logits": paths(model, prompts.unrepeated, receivers="logits", **asked)}
    upper = [label for label in movers if head_of(label)[0] > 0]
    if upper:
        receivers = " + ".join(f"{label}:q" for label in upper)
        found["edges_to_name_movers"] = paths(model, prompts.unrepeated, receivers=receivers, **asked)
    found_above = [head_of(label) for label in missed if head_of(label)[0] > 0][:READERS]
    if found_above:
        found["edges_to_heads"] = paths(model, prompts.unrepeated, receivers=_receiving(model, found_above), **asked)
    return Findings(measurements=found)


def _receiving(model: HookedTransformer, heads: Sequence[tuple[int, int]]) -> str:
    """The names of some heads as receivers, keys and values by the heads that hold them."""
    attention = model.config.attention
    group = attention.n_heads // attention.kv_heads
    if group == 1:
        return " + ".join(f"{layer}.{head}" for layer, head in heads)
    parts = [f"{layer}.{head}:q + {layer}.kv{head // group}" for layer, head in heads]
    return " + ".join(dict.fromkeys(" + ".join(parts).split(" + ")))


@dataclass(frozen=True)
class KnockOut:
    """The heads that are knocked out, and sets of as many others."""

    found: tuple[str, ...]
    others: tuple[tuple[str, ...], ...]


def chosen(model: HookedTransformer, prompts: Prompts, *, seed: int = 0) -> tuple[KnockOut, Measurement]:
    """The heads without which most is lost, each knocked out alone; chosen on the first half of the prompts.

    Returns:
        The heads, and the sweep that chose them ``[prompt layer head]``.
    """
    choosing, _ = split(len(prompts), prompts.turned.frame)
    alone = sweep(
        model, prompts.unrepeated[list(choosing)], site="z", over=("layer", "head"), direction="noise", progress=False
    )
    lost = -alone.effect().mean("prompt").values
    n_heads = lost.size
    most = min(max(FEWEST, round(SHARE_OF_HEADS * n_heads)), max(1, n_heads // 2))
    order = [int(at) for at in np.argsort(-lost.ravel(), kind="stable")[:most] if lost.ravel()[at] > 0]
    label = [f"{layer}.{head}" for layer in range(lost.shape[0]) for head in range(lost.shape[1])]
    rest = [name for at, name in enumerate(label) if at not in order]
    draws = random.Random(seed)
    sets = tuple(tuple(draws.sample(rest, min(len(order), len(rest)))) for _ in range(RANDOM_SETS)) if rest else ()
    return KnockOut(tuple(label[at] for at in order), sets), alone


def knocked_out(model: HookedTransformer, prompts: Prompts, knock: KnockOut) -> Findings:
    """What is left of the behaviour without the heads that matter most, and without as many others."""
    found = Findings()
    names = [f"knockout_{name}" for name in ("none", "found", "random")]
    if not knock.found or not knock.others:
        reason = "no head is missed when it is knocked out, or there are no others"
        found.figures |= {f"{name}_logit_diff": Figure(unit="logits", reason=reason) for name in names}
        return found
    groups = {"found": knock.found} | {f"random {number}": heads for number, heads in enumerate(knock.others)}
    _, reporting = split(len(prompts), prompts.turned.frame)
    together = sweep(
        model,
        prompts.unrepeated[list(reporting)],
        over="group",
        groups={name: [_site(head) for head in heads] for name, heads in groups.items()},
        direction="noise",
        progress=False,
    )
    found.measurements["knockout"] = together
    random_sets = [name for name in groups if name != "found"]
    left = {"found": together.sel(group="found"), "random": together.sel(group=random_sets).mean("group")}
    labels = {"found": " ".join(knock.found), "random": f"mean of {len(random_sets)} sets"}
    for name, of_name in left.items():
        found.figures[f"knockout_{name}_logit_diff"] = Figure.of(of_name.mean("prompt"), label=labels[name])
    whole = found_clean(together)
    found.figures["knockout_none_logit_diff"] = Figure.of(whole.mean("prompt"))
    return found


def found_clean(swept: Measurement) -> Measurement:
    """The metric of the runs that were not patched, ``[prompt]``."""
    data = swept.dataset
    told = {name: ("prompt", data[name].values.tolist()) for name in ("group", "frame") if _by_prompt(data, name)}
    return Measurement(
        data["clean"].values, ("prompt",), unit=swept.unit, record=swept.record, name="not patched", coords=told
    )


def _by_prompt(data: Any, name: str) -> bool:
    return name in data.coords and data[name].dims == ("prompt",)


def _site(label: str) -> Site:
    layer, head = head_of(label)
    return Site("z", layer=layer, head=head)
