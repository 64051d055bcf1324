"""The causal parts of the study of indirect objects: sweeps, edges into the heads found, and what is left without them.

In: the model and the prompts. Out: figures and Measurements, all exact. Denoising puts what is of the clean prompt into
the one with the answer turned round; edges and knock-outs put what is of prompts without a repeated name into the clean
one (the ABC prompts of Wang et al. 2022).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

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

LAYERS_OF_NEURONS = 2
"""Whose neurons are swept: the layers whose MLP matters most."""
SHARE_OF_HEADS, FEWEST = 0.1, 3
"""Heads that are knocked out: at most this share of all, but so many."""
RANDOM_SETS = 10
"""Of as many heads each, drawn from the others."""


def localised(model: HookedTransformer, prompts: Prompts) -> Findings:
    """Where in the stream the answer is decided, layer by layer and position by position; attention and MLPs alike."""
    found = Findings()
    for site in ("resid_pre", "attn_out", "mlp_out"):
        if site == "mlp_out" and model.config.mlp is None:
            continue
        found.measurements[site] = sweep(model, prompts.turned, site=site, over=("layer", "position"), progress=False)
    shares = found.measurements["resid_pre"].normalised().mean("prompt")
    at, handed = _where(shares)
    found.figures["resid_localised_position"] = at
    found.figures["resid_handover_layer"] = handed
    return found


def _where(shares: Measurement) -> tuple[Figure, Figure]:
    """The position that carries the answer before the end does, and the layer from which on the end does."""
    names = [str(name) for name in shares.dataset["position"].values.tolist()]
    places = [at for at, name in enumerate(names) if name != "end"]
    inside, end = shares.values[:, places], shares.values[:, names.index("end")]
    if not inside.size or not np.isfinite(shares.values).all():
        nothing = Figure(unit="fraction", reason="the model has no layers, or both runs give the same")
        return nothing, Figure(unit="layer", reason=nothing.reason)
    layer, best = np.unravel_index(int(inside.argmax()), inside.shape)
    name = names[places[int(best)]]
    cell = shares.sel(layer=int(layer), position=name)
    later = [at for at in range(len(end)) if end[at] > inside[at].max()]
    layer_of_end = float(later[0] if later else len(end))  # behind the last layer the end is all there is
    handover = Figure(unit="layer", value=layer_of_end, reason="a layer is no mean of prompts", label="end")
    return Figure.of(cell, label=f"{name}, layer {int(layer)}"), handover


def heads_swept(model: HookedTransformer, prompts: Prompts) -> Findings:
    """Each head's output, query, keys, values and pattern put in alone; then each neuron of two layers."""
    found, attention = Findings(), model.config.attention
    shared = "kv_head" if attention.kv_heads != attention.n_heads else "head"
    for site in ("z", "q", "k", "v", "pattern"):
        axis = shared if site in ("k", "v") else "head"
        found.measurements[f"heads_{site}"] = sweep(
            model, prompts.turned, site=site, over=("layer", axis), progress=False
        )
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


def edges(model: HookedTransformer, prompts: Prompts, readers: Sequence[str]) -> Findings:
    """What each head sends to the logits, and to the queries of the name movers: through MLPs, as was published."""
    asked = {"senders": "heads", "direction": "noise", "progress": False}
    found = {"edges_to_logits": paths(model, prompts.unrepeated, receivers="logits", through="mlps", **asked)}
    upper = [label for label in readers if head_of(label)[0] > 0]
    if upper:
        receivers = " + ".join(f"{label}:q" for label in upper)
        found["edges_to_name_movers"] = paths(model, prompts.unrepeated, receivers=receivers, through="mlps", **asked)
    return Findings(measurements=found)


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
    choosing, _ = split(len(prompts))
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


def knocked_out(model: HookedTransformer, prompts: Prompts, *, seed: int = 0) -> Findings:
    """What is left of the behaviour without the heads that matter most, and without as many others."""
    knock, alone = chosen(model, prompts, seed=seed)
    found = Findings(measurements={"heads_knocked_out_alone": alone})
    names = ("knockout_found_logit_diff", "knockout_random_logit_diff")
    if not knock.found or not knock.others:
        reason = "no head is missed when it is knocked out, or there are no others"
        found.figures |= {name: Figure(unit="logits", reason=reason) for name in names}
        return found
    groups = {"found": knock.found} | {f"random {number}": heads for number, heads in enumerate(knock.others)}
    _, reporting = split(len(prompts))
    together = sweep(
        model,
        prompts.unrepeated[list(reporting)],
        over="group",
        groups={
            name: [Site("z", layer=at[0], head=at[1]) for at in map(head_of, heads)] for name, heads in groups.items()
        },
        direction="noise",
        progress=False,
    )
    found.measurements["knockout"] = together
    random_sets = [name for name in groups if name != "found"]
    found.figures[names[0]] = Figure.of(together.sel(group="found").mean("prompt"), label=" ".join(knock.found))
    of_random = together.sel(group=random_sets).mean("group").mean("prompt")
    found.figures[names[1]] = Figure.of(of_random, label=f"mean of {len(random_sets)} sets")
    return found


def _site(label: str) -> Site:
    layer, head = head_of(label)
    return Site("z", layer=layer, head=head)
