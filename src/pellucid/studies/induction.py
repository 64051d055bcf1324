"""Prediction of repeated tokens: does a model find what it has seen before, and which parts do it?

In: a model, and random tokens that repeat. Out: how well it predicts them the first time and the second time; the heads
that do the work, each beside its control; what the MLPs add; the circuit in the weights.

Source: "How one can interpret GPT2-small"; Olsson et al. 2022, "In-context Learning and Induction Heads".
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pellucid.analysis.heads import ROLES, RoleScores, role_scores
from pellucid.analysis.repeated import RepeatedTokens, halves, predictions, repeated_tokens
from pellucid.base.errors import ArgumentError
from pellucid.hooked_transformer import HookedTransformer, record_of
from pellucid.pretrained.native import weights_hash
from pellucid.studies import induction_circuit, induction_heads
from pellucid.studies.induction_heads import CLEAR, CUT, HEADS
from pellucid.studies.published import published_figures
from pellucid.studies.reference import against_reference
from pellucid.studies.result import Figure, Findings, StudyResult

BY_THE_ARTICLE = {"induction_head", "logprob_second_half", "accuracy_second_half"}
"""Figures that a publication measured by another rule than ours: compared with like by ``rule="article"`` alone."""


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
        induction head's score when the previous-token heads below it write nothing; ``mlp_shift_max_delta_loss``;
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
    say("predictions")
    found = _predicted(model, tokens)
    say("attention of every head")
    found.add(induction_heads.roles(model, tokens))
    say("the same at other periods")
    found.add(induction_heads.other_periods(model, tokens))
    say("the induction head without the previous-token heads")
    found.figures[CUT], silenced = induction_heads.cut(model, tokens, found)
    found.add(induction_heads.pictured(model, tokens, found))
    say("shifted MLP outputs")
    found.add(induction_circuit.shifted(model, tokens))
    say("the circuit in the weights")
    found.add(induction_circuit.in_weights(model, tokens, found))
    if second is not None:
        say(f"the heads of {second.record.model or 'the second model'}")
        found.add(_second(model, second, tokens))
    if reference is not None:
        say("the reference's numbers")
        found.figures |= against_reference(model, reference)
    for name, known in published_figures(model, "induction").items():
        alike = tokens.rule == "article" or name not in BY_THE_ARTICLE
        if alike and known.label in (None, found.figures[name].label):
            found.figures[name] = replace(found.figures[name], published=known.value)
    settings = tokens.settings | {"bos_left_out": tokens.bos_left_out, "silenced": ", ".join(silenced)}
    if second is not None:
        settings["second"] = second.record.model or "a model of no name"
    record = record_of(model, task="induction", seed=tokens.seed, settings=settings, weights_hash=weights_hash(model))
    return StudyResult(
        study="induction",
        model=model.record.model or "a model of no name",
        record=record,
        figures=found.figures,
        measurements=found.measurements,
    )


def objections(result: StudyResult) -> list[str]:
    """Why the head with the best induction score is *not* called an induction head; nothing if it is.

    It is one if its stripe is clearly above the control, at other periods and for a later beginning too, and falls to
    less than half when the previous-token heads below it write nothing.
    """
    score, control, without = (result.figures[name] for name in ("induction_head", "induction_head_control", CUT))
    if score.value is None or control.value is None:
        return [score.reason or "the model has no attention heads"]
    if score.value - control.value < CLEAR:
        return [
            f"its stripe, {score.value:.2f}, is not clearly above that on tokens which do not repeat, "
            f"{control.value:.2f}"
        ]
    elsewhere = at_other_periods(result)
    found = [
        f"with {name} its stripe is only {difference:.2f} above the control"
        for name, difference in elsewhere.items()
        if difference < CLEAR
    ]
    if not elsewhere:
        found.append("no other period could be tried, since the context or S is too short")
    if without.value is None:
        found.append(without.reason or "no previous-token head lies below it")
    elif without.value > score.value / 2:
        found.append(
            f"it does not depend on previous-token heads: without {result.record.settings['silenced']} its stripe is "
            f"still {without.value:.2f}"
        )
    return found


def at_other_periods(result: StudyResult) -> dict[str, float]:
    """Score minus control of the head with the best induction score, at each other period that was tried."""
    measured, head = result.measurements.get("induction_by_period"), result.figures["induction_head"].label
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


def _second(model: HookedTransformer, second: HookedTransformer, tokens: RepeatedTokens) -> Findings:
    """The role scores of another model on the same tokens."""
    if second.config.d_vocab != model.config.d_vocab or second.config.n_ctx < tokens.tokens.shape[1]:
        raise ArgumentError(
            f"the second model must read the same tokens: d_vocab={model.config.d_vocab} and n_ctx of "
            f"{tokens.tokens.shape[1]} or more, got {second.config.d_vocab} and {second.config.n_ctx}"
        )
    ours, theirs = model.tokenizer, second.tokenizer
    if ours is not None and theirs is not None and ours.get_vocab() != theirs.get_vocab():
        raise ArgumentError("the second model must have the same tokens, got another vocabulary of the same size")
    roles = [role for role in ROLES if tokens.bos or not role.to_bos]
    scores = role_scores(second, tokens, roles)
    found = Findings(measurements={"second_head_roles": scores.score, "second_head_roles_control": scores.control})
    for name, role in HEADS.items():
        of_role = RoleScores(*(part.sel(role=role.name) for part in scores))
        found.figures[f"second_{name}"], found.figures[f"second_{name}_control"] = induction_heads.best(of_role)
    return found
