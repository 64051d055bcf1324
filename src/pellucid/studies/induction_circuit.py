"""The parts of the study of repeated tokens that ask for the circuit: what MLPs add, and what the weights say.

In: the model, the tokens, the heads that were found. Out: figures and Measurements.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pellucid.analysis.composition import composition
from pellucid.analysis.repeated import RepeatedTokens
from pellucid.analysis.shifted import shifted_mlp
from pellucid.analysis.weights import two_head_matches
from pellucid.base.errors import ArgumentError
from pellucid.hooked_transformer import HookedTransformer
from pellucid.maths.statistics import split
from pellucid.measurement import Measurement
from pellucid.model.positional import Rotary
from pellucid.studies.result import Figure

TOP1 = {
    "two_head_circuit_top1_key_per_query": "top-1 key per query",
    "two_head_circuit_top1_query_per_key": "top-1 query per key",
}
"""The figures of the circuit, and the column of each."""

SHIFTED_PROMPTS = 4
"""Prompts of which MLPs are shifted: each layer and position of each is a run of its own."""

Part = tuple[dict[str, Figure], dict[str, Measurement]]


def shifted(model: HookedTransformer, tokens: RepeatedTokens) -> Part:
    """What the loss gains when MLP outputs are those of one period before.

    Args:
        model: The model.
        tokens: Of which the first `SHIFTED_PROMPTS` prompts are taken.
    """
    name = "mlp_shift_max_delta_loss"
    if model.config.mlp is None:
        return {name: Figure(unit="nats", reason="the model has no MLPs")}, {}
    some = replace(tokens, tokens=tokens.tokens[:SHIFTED_PROMPTS])
    found = shifted_mlp(model, some)
    measurements = {
        "shifted_mlp": found.single,
        "shifted_mlp_summed": found.summed,
        "shifted_mlp_layer": found.layer,
        "shifted_mlp_whole": found.whole,
    }
    choosing, reporting = split(len(some.tokens))
    chosen = found.single.sel(prompt=choosing).mean("prompt").values
    if not chosen.size or not np.isfinite(chosen).all():
        return {name: Figure(unit="nats", reason="the model's losses are not numbers")}, measurements
    layer, column = np.unravel_index(np.abs(chosen).argmax(), chosen.shape)
    pos = int(found.single.dataset["pos"].values[column])
    worst = found.single.sel(layer=int(layer), pos=pos, prompt=reporting).mean("prompt")
    return {name: Figure.of(worst, label=f"layer {layer} pos {pos}")}, measurements


def in_weights(model: HookedTransformer, tokens: RepeatedTokens, heads: Sequence[str | None]) -> Part:
    """The circuit of two heads, read off the weights, and the composition of all pairs.

    Args:
        model: The model.
        tokens: Whose S gives the distance that rotary models need.
        heads: The previous-token head and the induction head, such as ``["4.11", "5.5"]``.
    """
    measurements = {"composition": composition(model)} if model.config.n_layers > 1 and model.config.residual else {}
    previous, induction = heads
    if previous is None or induction is None:
        return _nothing("the model has no attention heads"), measurements
    distance = tokens.seq_len - 1 if isinstance(model.config.positions, Rotary) else None
    try:
        raw = two_head_matches(model, [previous], induction=[induction], distance=distance)
    except ArgumentError as error:
        return _nothing(str(error)), measurements
    found = raw.accuracy.sel(sender=previous, receiver=induction)
    if not found.values.size or found.values[0] != found.values[0]:
        reason = f"the previous-token head {previous} does not lie below the induction head {induction}"
        return _nothing(reason), measurements
    measurements |= {"two_head_circuit": raw.accuracy, "two_head_circuit_near_misses": raw.near_misses}
    if model.config.mlp is not None:
        extended = two_head_matches(model, [previous], induction=[induction], embedding="extended", distance=distance)
        measurements |= {
            "two_head_circuit_extended": extended.accuracy,
            "two_head_circuit_extended_near_misses": extended.near_misses,
        }
    pair = f"{previous} → {induction}"
    said = None if distance is None else f"rotary positions: of keys {distance} tokens back"
    figures = {
        name: Figure(unit="fraction", value=found.sel(group=column).item(), label=pair, reason=said)
        for name, column in TOP1.items()
    }
    return figures, measurements


def _nothing(reason: str) -> dict[str, Figure]:
    return {name: Figure(unit="fraction", reason=reason) for name in TOP1}
