"""Prediction of repeated tokens: does a model find what it has seen before, and which parts do it?

In: a model, and random tokens that repeat. Out: how well it predicts them the first time and the second time; the heads
that do the work, each beside its control; what the MLPs add; the circuit in the weights. The best of many heads looks
better than it is on the prompts it was chosen on: so each is chosen on the first half of the prompts, and its figures
come from the others.

Source: "How one can interpret GPT2-small"; Olsson et al. 2022, "In-context Learning and Induction Heads".
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from pellucid.analysis.attention import rest_scores
from pellucid.analysis.heads import (
    DUPLICATE,
    INDUCTION,
    PREVIOUS,
    ROLES,
    RoleScores,
    head_scores,
    prefix_matching,
    role_scores,
)
from pellucid.analysis.reading import record_of
from pellucid.analysis.repeated import RepeatedTokens, halves, predictions, repeated_tokens
from pellucid.base.errors import ArgumentError
from pellucid.hooked_transformer import HookedTransformer
from pellucid.hooks.edits import Zero
from pellucid.hooks.names import get_act_name
from pellucid.maths.statistics import split
from pellucid.measurement import Measurement
from pellucid.pretrained.native import weights_hash
from pellucid.studies import induction_circuit
from pellucid.studies.published import published_figures
from pellucid.studies.reference import against_reference
from pellucid.studies.result import Figure, StudyResult

HEADS = {"induction_head": INDUCTION, "previous_token_head": PREVIOUS, "duplicate_token_head": DUPLICATE}
"""The figures that are a head's, and its role."""
CUT = "induction_head_without_previous_token_head"
CLEAR = 0.3
"""A score is clearly above its control from this difference on."""
SHARES = {"half the period": 0.5, "two thirds of it": 2 / 3, "four fifths of it": 0.8}
"""Other periods, at which a head that looks back by position alone fails."""
PICTURED = 20
"""Tokens of a half, in the picture of a pattern."""


@dataclass
class Findings:
    """What a part of the study found."""

    figures: dict[str, Figure] = field(default_factory=dict)
    measurements: dict[str, Measurement] = field(default_factory=dict)

    def add(self, other: "Findings") -> None:
        """Takes in what another part found."""
        self.figures |= other.figures
        self.measurements |= other.measurements


def induction(
    model: HookedTransformer,
    tokens: RepeatedTokens | None = None,
    *,
    second: HookedTransformer | None = None,
    reference: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> StudyResult:
    """Runs the study.

    Args:
        model: Any model.
        tokens: Random tokens that repeat; None for ``repeated_tokens(model)``.
        second: Another model of the same vocabulary, whose heads are scored on the same tokens.
        reference: A folder with numbers of the real GPT-2 small, which the model is compared with.
        progress: Told what comes next, before it comes.

    Returns:
        Figures ``logprob_first_half``, ``…_second_half``, the same of ``accuracy`` and ``loss``; ``induction_head``,
        ``previous_token_head``, ``duplicate_token_head``, ``prefix_matching_head``, each with ``…_control``; the
        induction head's score when the previous-token head writes nothing; ``mlp_shift_max_delta_loss``;
        ``two_head_circuit_top1_key_per_query`` and ``…_query_per_key``.

    Raises:
        ArgumentError: The tokens do not fit the model's context; the second model has another vocabulary.
        TokenError: The vocabulary has too few tokens.

    Example:
        >>> from pellucid import HookedTransformer
        >>> model = HookedTransformer.from_pretrained("toy-induction")
        >>> found = induction(model, repeated_tokens(model, batch=8))
        >>> found.figures["accuracy_second_half"].value > 0.9
        True
    """
    say = progress or (lambda what: None)
    tokens = repeated_tokens(model) if tokens is None else tokens
    found = Findings()
    say("predictions")
    found.add(_predicted(model, tokens))
    say("attention of every head")
    found.add(_heads(model, tokens))
    say("the same at other periods")
    found.add(_other_periods(model, tokens))
    say("the induction head without the previous-token head")
    found.figures[CUT] = _cut(model, tokens, found.figures)
    found.add(_pictured(model, tokens, found.figures))
    say("shifted MLP outputs")
    found.add(Findings(*induction_circuit.shifted(model, tokens)))
    say("the circuit in the weights")
    heads = [found.figures[name].label for name in ("previous_token_head", "induction_head")]
    found.add(Findings(*induction_circuit.in_weights(model, tokens, heads)))
    if second is not None:
        say(f"the heads of {second.record.model or 'the second model'}")
        found.add(_second(model, second, tokens))
    if reference is not None:
        say("the reference's numbers")
        found.figures |= against_reference(model, reference)
    for name, known in published_figures(model, "induction").items():
        found.figures[name] = replace(found.figures[name], published=known.value)
    settings = tokens.settings | {"second": None if second is None else second.record.model}
    return StudyResult(
        study="induction",
        model=model.record.model or "a model of no name",
        record=record_of(
            model, task="induction", seed=tokens.seed, settings=settings, weights_hash=weights_hash(model)
        ),
        figures=found.figures,
        measurements=found.measurements,
    )


def objections(result: StudyResult) -> list[str]:
    """Why the head with the best induction score is *not* called an induction head; nothing if it is.

    It is one if its stripe is clearly above the control, at other periods too, and falls to less than half when the
    previous-token head writes nothing.
    """
    score, control, cut = (result.figures[name] for name in ("induction_head", "induction_head_control", CUT))
    if score.value is None or control.value is None:
        return [score.reason or "the model has no attention heads"]
    if score.value - control.value < CLEAR:
        return [
            f"its stripe, {score.value:.2f}, is not clearly above that on tokens which do not repeat, "
            f"{control.value:.2f}"
        ]
    found = [
        f"at {period}, its stripe is only {difference:.2f} above the control"
        for period, difference in other_periods(result, score.label).items()
        if difference < CLEAR
    ]
    if cut.value is None:
        found.append(cut.reason or "no previous-token head lies below it")
    elif cut.value > score.value / 2:
        found.append(
            f"it does not depend on the previous-token head {result.figures['previous_token_head'].label}: "
            f"without it the stripe is still {cut.value:.2f}"
        )
    return found


def other_periods(result: StudyResult, head: str | None) -> dict[str, float]:
    """Score minus control of a head at the other periods, by the period's name."""
    measured = result.measurements.get("induction_by_period")
    if measured is None or head is None:
        return {}
    layer, number = map(int, head.split("."))
    means = measured.sel(layer=layer, head=number).mean("prompt")
    return dict(zip(map(str, means.dataset["group"].values), means.values.tolist(), strict=True))


def _predicted(model: HookedTransformer, tokens: RepeatedTokens) -> Findings:
    said = predictions(model, tokens)
    figures = {}
    for name, measured in said._asdict().items():
        for half, mean in zip(("first_half", "second_half"), halves(measured, tokens), strict=True):
            figures[f"{name}_{half}"] = Figure.of(mean.mean("prompt"))
    return Findings(figures, said._asdict())


def _heads(model: HookedTransformer, tokens: RepeatedTokens) -> Findings:
    scores = role_scores(model, tokens)
    found = Findings(measurements={"head_roles": scores.score, "head_roles_control": scores.control})
    for name, role in HEADS.items():
        of_role = RoleScores(*(part.sel(role=role.name) for part in scores))
        found.figures[name], found.figures[f"{name}_control"] = _best(of_role)
    try:
        prefix = prefix_matching(model, batch=len(tokens.tokens), seed=tokens.seed)
    except ArgumentError as error:
        nothing = Figure(unit="attention mass", reason=str(error))
        found.figures |= {"prefix_matching_head": nothing, "prefix_matching_head_control": nothing}
    else:
        found.measurements |= {"prefix_matching": prefix.score, "prefix_matching_control": prefix.control}
        found.figures["prefix_matching_head"], found.figures["prefix_matching_head_control"] = _best(prefix)
    if tokens.bos:
        found.measurements["rest_on_bos"] = rest_scores(model, tokens)
    return found


def _best(scores: RoleScores) -> tuple[Figure, Figure]:
    """The head that plays a role best, and its control."""
    score, control = scores
    choosing, reporting = split(score.shape[0])
    best = (score.sel(prompt=choosing) - control.sel(prompt=choosing)).mean("prompt").top(1)
    if not best.values.size:
        reason = "the model has no attention heads" if not score.values.size else "the model's patterns are not numbers"
        nothing = Figure(unit=score.unit, reason=reason)
        return nothing, nothing
    layer, head = (int(best.dataset[axis].item()) for axis in ("layer", "head"))
    means = (_of_head(part.sel(prompt=reporting), layer, head) for part in (score, control))
    found, beside = (Figure.of(mean, label=f"{layer}.{head}") for mean in means)
    return found, beside


def _other_periods(model: HookedTransformer, tokens: RepeatedTokens) -> Findings:
    """Induction score minus control at other periods, every head."""
    batch = max(1, len(tokens.tokens) // 3)
    left_out = False if tokens.bos_left_out else None
    parts, names = [], []
    for name, share in SHARES.items():
        seq_len = round(tokens.seq_len * share)
        if not 4 <= seq_len < tokens.seq_len:
            continue
        others = repeated_tokens(model, seq_len=seq_len, batch=batch, seed=tokens.seed, rule=tokens.rule, bos=left_out)
        scores = role_scores(model, others, [INDUCTION])
        parts.append(torch.as_tensor((scores.score - scores.control).values[:, 0]))
        names.append(f"{name} ({seq_len})")
    if not parts:
        return Findings()
    record = record_of(model, task="induction at other periods", seed=tokens.seed, settings=tokens.settings)
    measured = Measurement(
        torch.stack(parts, dim=1),
        ("prompt", "group", "layer", "head"),
        unit="attention mass",
        record=record,
        name="induction score − control, at other periods",
        coords={"group": names},
    )
    return Findings(measurements={"induction_by_period": measured})


def _cut(model: HookedTransformer, tokens: RepeatedTokens, figures: dict[str, Figure]) -> Figure:
    """What the induction head scores when the previous-token head writes nothing."""
    induction_head, previous = (figures[name].label for name in ("induction_head", "previous_token_head"))
    if induction_head is None or previous is None:
        return Figure(unit="attention mass", reason="the model has no attention heads")
    (layer, head), (below, other) = (tuple(map(int, name.split("."))) for name in (induction_head, previous))
    if below >= layer:
        reason = f"the previous-token head {previous} does not lie below the induction head {induction_head}"
        return Figure(unit="attention mass", label=induction_head, reason=reason)
    zero = Zero("z", layer=below, head=other)
    with model.hooks(fwd_hooks=[(("z", below), lambda z, hook: zero.apply(z))]):
        scores = head_scores(model, tokens, INDUCTION)
    reported = scores.sel(prompt=split(len(tokens.tokens))[1])
    return Figure.of(_of_head(reported, layer, head), label=induction_head)


@torch.no_grad()
def _pictured(model: HookedTransformer, tokens: RepeatedTokens, figures: dict[str, Figure]) -> Findings:
    """The patterns of one short prompt, in the layers of the heads that were found."""
    seq_len = min(PICTURED, tokens.seq_len)
    left_out = False if tokens.bos_left_out else None
    short = repeated_tokens(model, seq_len=seq_len, batch=1, seed=tokens.seed, rule=tokens.rule, bos=left_out)
    found = Findings()
    for name in ("previous_token_head", "induction_head"):
        label = figures[name].label
        if label is None:
            continue
        layer = int(label.split(".")[0])
        name_of_pattern = get_act_name("pattern", layer)
        pattern = model.run(short.tokens.to(model.device), reads=name_of_pattern).cache[name_of_pattern]
        if not bool(pattern.isfinite().all()):
            continue
        words = [str(i) for i in short.tokens[0].tolist()]
        words = words if model.tokenizer is None else model.tokenizer.strings(short.tokens[0])
        found.measurements[f"pattern_{name}"] = Measurement(
            pattern[0],
            ("head", "q_pos", "k_pos"),
            unit="attention mass",
            record=record_of(model, task=f"pattern of layer {layer}", seed=tokens.seed, settings=short.settings),
            name=f"attention patterns of layer {layer}",
            coords={"layer": layer, "token": ("k_pos", words)},
        )
    return found


def _second(model: HookedTransformer, second: HookedTransformer, tokens: RepeatedTokens) -> Findings:
    """The role scores of another model on the same tokens."""
    if second.config.d_vocab != model.config.d_vocab or second.config.n_ctx < tokens.tokens.shape[1]:
        raise ArgumentError(
            f"the second model must read the same tokens: d_vocab={model.config.d_vocab} and n_ctx of "
            f"{tokens.tokens.shape[1]} or more, got {second.config.d_vocab} and {second.config.n_ctx}"
        )
    roles = [role for role in ROLES if tokens.bos or not role.to_bos]
    scores = role_scores(second, tokens, roles)
    found = Findings(measurements={"second_head_roles": scores.score, "second_head_roles_control": scores.control})
    for name, role in HEADS.items():
        of_role = RoleScores(*(part.sel(role=role.name) for part in scores))
        found.figures[f"second_{name}"], found.figures[f"second_{name}_control"] = _best(of_role)
    return found


def _of_head(scores: Measurement, layer: int, head: int) -> Measurement:
    return scores.sel(layer=layer, head=head).mean("prompt")
