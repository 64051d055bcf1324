"""The parts of the study of repeated tokens that ask for the circuit: what MLPs add, and what the weights say.

In: the model, the tokens, the heads that were found. Out: figures and Measurements.
"""

from dataclasses import replace

import numpy as np

from pellucid.analysis.compose import composition
from pellucid.analysis.heads import INDUCTION, PREVIOUS
from pellucid.analysis.repeated import RepeatedTokens
from pellucid.analysis.shifted import shifted_mlp
from pellucid.analysis.weights import two_head_matches
from pellucid.base.errors import ArgumentError
from pellucid.hooked_transformer import HookedTransformer
from pellucid.maths.statistics import split
from pellucid.model.positional import Rotary
from pellucid.studies.induction_heads import candidates
from pellucid.studies.result import Figure, Findings

TOP1 = {
    "two_head_circuit_top1_key_per_query": "top-1 key per query",
    "two_head_circuit_top1_query_per_key": "top-1 query per key",
}
"""The figures of the circuit, and the column of each."""
SHIFT = "mlp_shift_max_delta_loss"
SHIFT_WORK = 1.5e13
"""Multiplications that shifting MLPs may take, about: a prompt is a run for each layer and position."""
FEWEST, MOST = 2, 30
"""Prompts of which MLPs are shifted."""
LARGE_VOCABULARY = 20_000
"""From here on the circuit of a pair of heads takes a minute, and fewer pairs are read."""


def shifted(model: HookedTransformer, tokens: RepeatedTokens) -> Findings:
    """What the loss gains when MLP outputs are those of one period before, on as many prompts as time allows."""
    if model.config.mlp is None:
        return Findings({SHIFT: Figure(unit="nats", reason="the model has no MLPs")})
    n_weights = sum(parameter.numel() for parameter in model.parameters())
    work = 0.5 * model.config.n_layers * tokens.seq_len * tokens.tokens.shape[1] * n_weights
    n = int(min(max(SHIFT_WORK / max(work, 1), FEWEST), MOST, len(tokens.tokens)))
    found = shifted_mlp(model, replace(tokens, tokens=tokens.tokens[:n]))
    measurements = {
        "shifted_mlp": found.single,
        "shifted_mlp_summed": found.summed,
        "shifted_mlp_layer": found.layer,
        "shifted_mlp_whole": found.whole,
    }
    choosing, reporting = split(n)
    chosen = found.single.sel(prompt=list(choosing)).mean("prompt").values
    if not chosen.size or not np.isfinite(chosen).all():
        return Findings({SHIFT: Figure(unit="nats", reason="the model's losses are not numbers")}, measurements)
    layer, column = np.unravel_index(np.abs(chosen).argmax(), chosen.shape)
    pos = int(found.single.dataset["pos"].values[column])
    largest = found.single.sel(layer=int(layer), pos=pos, prompt=list(reporting)).mean("prompt")
    return Findings({SHIFT: Figure.of(largest, label=f"layer {layer} pos {pos}")}, measurements)


def in_weights(model: HookedTransformer, tokens: RepeatedTokens, found: Findings) -> Findings:
    """The circuits of previous-token heads and induction heads, read off the weights, and composition of all pairs.

    Args:
        model: The model.
        tokens: Whose S gives the distance that rotary models need.
        found: With the scores of all roles: the heads that are clear of their control are taken, the best ones first.
    """
    result = Findings()
    if model.config.n_layers > 1 and model.config.residual:
        result.measurements["composition"] = composition(model)
    head = found.figures["induction_head"].label
    if head is None:
        return _nothing(result, "the model has no attention heads")
    most = 2 if model.config.d_vocab >= LARGE_VOCABULARY else 4
    previous = candidates(found, PREVIOUS.name, below=int(head.split(".")[0]))[:most]
    if not previous:
        return _nothing(result, f"no previous-token head can lie below head {head}, which lies in the first layer")
    heads = list(dict.fromkeys([head, *candidates(found, INDUCTION.name, above=0)]))[:most]
    distance = tokens.seq_len - 1 if isinstance(model.config.positions, Rotary) else None
    try:
        raw = two_head_matches(model, previous, induction=heads, distance=distance)
    except ArgumentError as error:
        return _nothing(result, str(error))
    result.measurements |= {"two_head_circuit": raw.accuracy, "two_head_circuit_near_misses": raw.near_misses}
    if model.config.mlp is not None:
        extended = two_head_matches(model, previous[:1], induction=[head], embedding="extended", distance=distance)
        result.measurements |= {
            "two_head_circuit_extended": extended.accuracy,
            "two_head_circuit_extended_near_misses": extended.near_misses,
        }
    of_pair = raw.accuracy.sel(sender=previous[0], receiver=head)
    result.figures |= {
        name: Figure(unit="fraction", value=of_pair.sel(group=column).item(), label=f"{previous[0]} → {head}")
        for name, column in TOP1.items()
    }
    return result


def _nothing(result: Findings, reason: str) -> Findings:
    result.figures |= {name: Figure(unit="fraction", reason=reason) for name in TOP1}
    return result
