"""The parts of the study of contractions that patch: layers, positions, heads taken apart, every neuron.

In: a model and the prompts. Out: Measurements, all exact; denoising puts what is of the contracted sentence into the
one written out, or into the contracted one whose contraction is buried in noise.
"""

import numpy as np

from pellucid.hooked_transformer import HookedTransformer
from pellucid.hooks.edits import Noise
from pellucid.measurement import Measurement
from pellucid.patching.sweep import sweep
from pellucid.studies.result import Figure, Findings
from pellucid.tasks.pairs import Pairs

NOISE = 3.0
"""Standard deviations of the token embedding, added to that of the contraction (Meng et al. 2022 took three)."""
APART = ("z", "pattern", "v", "q", "k")
"""What of a head is patched alone."""


def sites_of(model: HookedTransformer) -> tuple[str, ...]:
    """What each layer writes: attention and, if there is one, the MLP."""
    return ("attn_out",) if model.config.mlp is None else ("attn_out", "mlp_out")


def layers(model: HookedTransformer, pairs: Pairs) -> Findings:
    """Each layer's attention and MLP, at all positions and at each named one; from clean activations and from noise."""
    found = Findings()
    std = NOISE * float(model.W_E.detach().float().std())
    noise = Noise("embed", pos="contraction", std=std)
    for site in sites_of(model):
        for name, over in (("", ("layer",)), ("_by_position", ("layer", "position"))):
            found.measurements[f"{site}{name}"] = sweep(model, pairs, site=site, over=over, progress=False)
        found.measurements[f"{site}_from_noise"] = sweep(
            model, pairs, site=site, over=("layer",), corrupt=noise, progress=False
        )
    return found


def heads_apart(model: HookedTransformer, pairs: Pairs) -> Findings:
    """Each head: all of its output, its pattern alone, its values, queries and keys."""
    attention = model.config.attention
    shared = "kv_head" if attention.kv_heads != attention.n_heads else "head"
    found = Findings()
    for site in APART:
        axis = shared if site in ("k", "v") else "head"
        found.measurements[f"heads_{site}"] = sweep(model, pairs, site=site, over=("layer", axis), progress=False)
    best = found.measurements["heads_z"].effect().best(1)
    found.figures["head"] = _figure(best, "the model has no heads")
    label = found.figures["head"].label
    for site in ("pattern", "v"):
        of_head = found.measurements[f"heads_{site}"].effect()
        found.figures[f"head_by_{site}"] = _same_head(of_head, label, attention.n_heads // attention.kv_heads)
    return found


def neurons(model: HookedTransformer, pairs: Pairs) -> Findings:
    """Every neuron of every layer, patched alone."""
    found = Findings()
    if model.config.mlp is None:
        found.figures["neuron"] = Figure(unit="logits", reason="the model has no MLPs")
        return found
    effect = sweep(model, pairs, site="post", over=("layer", "neuron"), progress=False)
    found.measurements["neurons"] = effect
    found.figures["neuron"] = _figure(effect.effect().best(1), "no neuron changes anything")
    return found


def top_neurons(found: Findings, k: int) -> list[tuple[int, int]]:
    """The neurons of the largest effect, in either direction, as layer and number."""
    effect = found.measurements.get("neurons")
    if effect is None:
        return []
    means = effect.effect().mean("prompt").values
    order = np.argsort(-np.abs(means).ravel(), kind="stable")[:k]
    return [(int(at // means.shape[1]), int(at % means.shape[1])) for at in order]


def _same_head(effect: Measurement, label: str | None, group: int) -> Figure:
    if label is None:
        return Figure(unit=effect.unit, reason="no head was found")
    layer, head = map(int, label.split("."))
    axis = effect.dims[-1]
    number = head // group if axis == "kv_head" else head
    told = label if axis == "head" else f"{layer}.kv{number}"
    return Figure.of(effect.sel(layer=layer, **{axis: number}).mean("prompt"), label=told)


def _figure(best: Measurement, reason: str) -> Figure:
    if not best.values.size or not np.isfinite(best.values).all():
        return Figure(unit=best.unit, reason=reason)
    data = best.dataset
    low, high = (float(data[side].values.ravel()[0]) for side in ("low", "high"))
    known = np.isfinite([low, high]).all()
    return Figure(
        unit=best.unit,
        value=float(best.values.ravel()[0]),
        low=low if known else None,
        high=high if known else None,
        label=best.labels[0],
        reason=None if known else "too few prompts for an interval",
    )
