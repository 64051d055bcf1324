"""The parts of the study of contractions that patch: layers, positions, heads taken apart, every neuron.

In: a model and the prompts. Out: Measurements, all exact; denoising puts what is of the contracted sentence into the
one written out, or into the contracted one whose contraction is buried in noise.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from pellucid.analysis.contexts import Contexts
from pellucid.analysis.neurons import top_contexts, written_tokens
from pellucid.hooked_transformer import HookedTransformer, record_of
from pellucid.hooks.edits import Noise
from pellucid.measurement import Measurement
from pellucid.patching.sites import point
from pellucid.patching.sweep import sweep
from pellucid.studies.ioi_parts import heads_swept
from pellucid.studies.result import Figure, Findings
from pellucid.tasks.pairs import Pairs
from pellucid.text.corpus import Corpus

NOISE = 3.0
"""Standard deviations of the token embedding, added to that of the contraction (Meng et al. 2022 took three)."""
TOLD = 5
"""Neurons whose tokens and texts are told."""


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
    attention, found = model.config.attention, heads_swept(model, pairs)
    best = found.measurements["heads_z"].effect().best(1)
    found.figures["head"] = Figure.best(best, otherwise="the model has no heads")
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
    found.figures["neuron"] = Figure.best(effect.effect().best(1), otherwise="no neuron changes anything")
    return found


def top_neurons(measurements: Mapping[str, Measurement], k: int = TOLD) -> list[str]:
    """The names of the neurons of the largest effect, in either direction."""
    effect = measurements.get("neurons")
    if effect is None:
        return []
    means = effect.effect().mean("prompt").values
    order = np.argsort(-np.abs(means).ravel(), kind="stable")[:k]
    return [f"L{at // means.shape[1]}N{at % means.shape[1]}" for at in order.tolist()]


def written(model: HookedTransformer, measurements: Mapping[str, Measurement]) -> dict[str, list[str]]:
    """Tokens that the neurons found write for, and against."""
    labels = top_neurons(measurements)
    if not labels:
        return {}
    sides = written_tokens(model, labels, k=8)
    rows = zip(sides.raised.words, sides.lowered.words, strict=True)
    return {label: [" ".join(map(repr, side)) for side in both] for label, both in zip(labels, rows, strict=True)}


def contexts(model: HookedTransformer, measurements: Mapping[str, Measurement], texts: Corpus) -> Contexts | None:
    """Where in some texts the neurons found are most active; None where there are none."""
    labels = top_neurons(measurements)
    return top_contexts(model, texts, what=labels, k=4, one_per="document") if labels else None


@torch.no_grad()
def alike(model: HookedTransformer, pairs: Pairs, measurements: Mapping[str, Measurement]) -> Figure:
    """Whether the two heads of the largest effect write the same: the cosine of what they write at the end."""
    means = measurements["heads_z"].effect().mean("prompt").values
    if means.size < 2:
        return Figure(unit="cosine", reason="there are no two heads")
    two = [divmod(int(at), means.shape[1]) for at in np.argsort(-np.abs(means).ravel(), kind="stable")[:2]]
    names, ends, each = [point("z", layer) for layer, _ in two], pairs.positions["end"], []
    for rows in torch.arange(len(pairs)).split(64):
        cache = model.run(pairs.clean[rows].to(model.device), reads=names, padding_side="right").cache
        at = torch.arange(len(rows))
        vectors = [
            cache[point("z", layer)][at, ends[rows], head].double() @ model.blocks[layer].attn.W_O[head].double()
            for layer, head in two
        ]
        each.append(torch.nn.functional.cosine_similarity(*vectors, dim=1).cpu())
    record = record_of(model, task="contractions", settings={})
    cosines = Measurement(
        torch.cat(each), ("prompt",), unit="fraction", record=record, name="cosine", coords=pairs.labels
    )
    label = " and ".join(f"{layer}.{head}" for layer, head in two)
    return replace(Figure.of(cosines.mean("prompt"), label=label), unit="cosine")


def _same_head(effect: Measurement, label: str | None, group: int) -> Figure:
    if label is None:
        return Figure(unit=effect.unit, reason="no head was found")
    layer, head = map(int, label.split("."))
    axis = effect.dims[-1]
    number = head // group if axis == "kv_head" else head
    told = label if axis == "head" else f"{layer}.kv{number}"
    return Figure.of(effect.sel(layer=layer, **{axis: number}).mean("prompt"), label=told)
