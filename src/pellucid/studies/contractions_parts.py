"""The parts of the study of contractions that patch layers, positions and every neuron.

In: a model and the prompts. Out: Measurements, all exact; denoising puts what is of the contracted sentence into the
one written out, or into the contracted one whose contraction is buried in noise.
"""

from collections.abc import Mapping
from dataclasses import replace

from pellucid.analysis.contexts import Contexts
from pellucid.analysis.neurons import top_contexts, written_tokens
from pellucid.analysis.texts import Texts
from pellucid.hooked_transformer import HookedTransformer
from pellucid.hooks.edits import Noise
from pellucid.measurement import Measurement
from pellucid.patching.sweep import sweep
from pellucid.studies.contractions_frames import chosen, halves
from pellucid.studies.result import Figure, Findings, StudyResult
from pellucid.tasks.pairs import Pairs

NOISE = 3.0
"""Standard deviations of the token embedding, added to that of the contraction (Meng et al. 2022 took three)."""
TOLD = 5
"""Neurons whose tokens and texts are told."""


def sites_of(model: HookedTransformer) -> tuple[str, ...]:
    """What each layer writes: attention and, if there is one, the MLP."""
    return ("attn_out",) if model.config.mlp is None else ("attn_out", "mlp_out")


def layers(model: HookedTransformer, pairs: Pairs) -> Findings:
    """Each layer's attention and MLP, at all positions and at each one; from clean activations and from noise."""
    found, placed = Findings(), between(pairs)
    std = NOISE * float(model.W_E.detach().float().std())
    for site in sites_of(model):
        for place, over in (("", ("layer",)), ("_by_position", ("layer", "position"))):
            for how, corrupt in (("", None), ("_from_noise", Noise("embed", pos="contraction", std=std))):
                found.measurements[f"{site}{place}{how}"] = sweep(
                    model, placed, site=site, over=over, corrupt=corrupt, progress=False
                )
    return found


def between(pairs: Pairs) -> Pairs:
    """The same with every token between the contraction and the end named: ``contraction+1`` …, ``end-1``.

    As many are counted from the contraction as the shortest prompt has, and from the end what longer ones have besides:
    in shorter prompts some tokens bear two names. Prompts more than twice as long have some in the middle without any.
    """
    first, end = pairs.positions["contraction"], pairs.positions["end"]
    inside = end - first - 1
    least, most = max(0, int(inside.min())), max(0, int(inside.max()))
    back = min(least, most - least)
    named = {f"contraction+{by}": first + by for by in range(1, least + 1)}
    named |= {f"end-{by}": end - by for by in range(back, 0, -1)}
    told = {name: places for name, places in pairs.positions.items() if name not in ("contraction", "end")}
    return replace(pairs, positions=told | {"contraction": first} | named | {"end": end})


def neurons(model: HookedTransformer, pairs: Pairs) -> Findings:
    """Every neuron of every layer, patched alone."""
    found = Findings()
    if model.config.mlp is None:
        found.figures["neuron"] = Figure(unit="logits", reason="the model has no MLPs")
        return found
    swept = sweep(model, pairs, site="post", over=("layer", "neuron"), progress=False)
    found.measurements["neurons"] = swept
    top = held_out(swept.effect(), 1)
    found.figures["neuron"] = top[0] if top else Figure(unit="logits", reason="no neuron changes anything")
    return found


def held_out(measured: Measurement, k: int) -> list[Figure]:
    """The cells that matter most in either direction, chosen on one half of the prompts and measured on the other."""
    means = halves(measured)[1].mean("prompt")
    labels, data, found = means.labels, means.dataset, []
    for at in chosen(measured, k):
        numbers = (float(data[name].values.ravel()[at]) for name in ("value", "low", "high"))
        found.append(Figure.between(*numbers, unit=measured.unit, label=labels[at]))
    return found


def top_neurons(measurements: Mapping[str, Measurement], k: int = TOLD) -> list[str]:
    """The names of the neurons that matter most in either direction; the first is the one of the figure."""
    swept = measurements.get("neurons")
    return [] if swept is None else [str(figure.label) for figure in held_out(swept.effect(), k)]


def written(model: HookedTransformer, measurements: Mapping[str, Measurement]) -> dict[str, list[str]]:
    """Tokens that the neurons found write for, and against."""
    labels = top_neurons(measurements)
    if not labels:
        return {}
    sides = written_tokens(model, labels, k=8)
    rows = zip(sides.raised.words, sides.lowered.words, strict=True)
    return {label: [" ".join(map(repr, side)) for side in both] for label, both in zip(labels, rows, strict=True)}


def contexts(model: HookedTransformer, measurements: Mapping[str, Measurement], texts: Texts) -> Contexts | None:
    """Where in some texts the neurons found are most active; None where there are none."""
    labels = top_neurons(measurements)
    return top_contexts(model, texts, what=labels, k=4, one_per="document") if labels else None


def with_texts(found: StudyResult, seen: Contexts | None) -> StudyResult:
    """The result with what the texts tell: how active the neuron of the figure is at its best place.

    Without neurons nothing was seen, and the figure keeps the reason why there are none.
    """
    if seen is None:
        return found
    best = seen.of(seen.labels[0])[0]
    at = f"{seen.labels[0]} at {best.words[best.at]!r}" if best.words else seen.labels[0]
    top = Figure(unit="activation", value=float(best.value), label=at, reason="the largest of all has no interval")
    return replace(
        found, figures=found.figures | {"texts": top}, measurements=found.measurements | {"texts": seen.statistics}
    )
