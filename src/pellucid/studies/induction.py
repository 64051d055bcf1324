"""Prediction of repeated tokens: does a model find what it has seen before, and which heads do it?

In: a model. Out: how well it predicts random tokens the first time and the second time, and the heads that do the work,
each beside its control. The best of many heads looks better than it is on the prompts it was chosen on: so each is
chosen on the first half of the prompts, and its figures come from the others.

Source: "How one can interpret GPT2-small"; Olsson et al. 2022, "In-context Learning and Induction Heads".
"""

from collections.abc import Callable

from pellucid.analysis.heads import DUPLICATE, INDUCTION, PREVIOUS, Role, RoleScores, head_scores, role_scores
from pellucid.analysis.reading import record_of
from pellucid.analysis.repeated import RepeatedTokens, halves, predictions, repeated_tokens
from pellucid.hooked_transformer import HookedTransformer
from pellucid.hooks.edits import Zero
from pellucid.measurement import Measurement
from pellucid.pretrained.native import weights_hash
from pellucid.studies.result import Figure, StudyResult

HEADS = {"induction_head": INDUCTION, "previous_token_head": PREVIOUS, "duplicate_token_head": DUPLICATE}
"""The figures that are a head's, and its role."""
CUT = "induction_head_without_previous_token_head"


def induction(
    model: HookedTransformer,
    *,
    seq_len: int | None = None,
    batch: int = 30,
    seed: int = 0,
    rule: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> StudyResult:
    """Runs the study.

    Args:
        model: Any model.
        seq_len: S, tokens of a half; None for min(50, (n_ctx − 1) // 2).
        batch: Prompts.
        seed: Of the random tokens.
        rule: None for the definitions of Pellucid; ``"article"`` for those of the article.
        progress: Told what comes next, before it comes.

    Returns:
        Figures ``logprob_first_half``, ``…_second_half``, the same of ``loss`` and ``accuracy``; ``induction_head``,
        ``previous_token_head``, ``duplicate_token_head``, each with ``…_control``; and the induction head's score when
        the previous-token head writes nothing.

    Raises:
        ArgumentError: S does not fit the model's context, or an argument cannot be.
        TokenError: The vocabulary has too few tokens.

    Example:
        >>> from pellucid import HookedTransformer
        >>> found = induction(HookedTransformer.from_pretrained("toy-induction"), batch=8)
        >>> found.figures["accuracy_second_half"].value > 0.9
        True
    """
    say = progress or (lambda what: None)
    say("predictions")
    tokens = repeated_tokens(model, seq_len=seq_len, batch=batch, seed=seed, rule=rule)
    said = predictions(model, tokens)
    figures = {}
    for name, measured in said._asdict().items():
        for half, mean in zip(("first_half", "second_half"), halves(measured, tokens), strict=True):
            figures[f"{name}_{half}"] = Figure.of(mean.mean("prompt"))
    say("attention of every head")
    scores = role_scores(model, tokens)
    for name, role in HEADS.items():
        figures[name], figures[f"{name}_control"] = _best(scores, role)
    say("the induction head without the previous-token head")
    figures[CUT] = _cut(model, tokens, figures["induction_head"].label, figures["previous_token_head"].label)
    return StudyResult(
        study="induction",
        model=model.record.model or "a model of no name",
        record=record_of(
            model, task="induction", seed=seed, settings=tokens.settings, weights_hash=weights_hash(model)
        ),
        figures=figures,
        measurements=said._asdict() | {"head_roles": scores.score, "head_roles_control": scores.control},
    )


def split(n: int) -> tuple[list[int], list[int]]:
    """The prompts that a head is chosen on, and those that its figures come from; a single one serves both."""
    return list(range(max(1, n // 2))), list(range(n // 2, n))


def _best(scores: RoleScores, role: Role) -> tuple[Figure, Figure]:
    """The head that plays a role best, and its control."""
    score, control = (part.sel(role=role.name) for part in scores)
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


def _cut(model: HookedTransformer, tokens: RepeatedTokens, induction_head: str | None, previous: str | None) -> Figure:
    """What the induction head scores when the previous-token head writes nothing."""
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


def _of_head(scores: Measurement, layer: int, head: int) -> Measurement:
    return scores.sel(layer=layer, head=head).mean("prompt")
