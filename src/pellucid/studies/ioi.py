"""Indirect objects: "When Mary and John went to the store, John gave a drink to" → " Mary". How does a model know?

In: a model. Out: whether it can; where in the stream the answer is decided; which heads and neurons move it; which head
plays which role, each by a score with interval and control; and whether the behaviour goes when the heads found go.

Source: Wang et al. 2022, "Interpretability in the Wild"; the introduction to TransformerLens, 2.x.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from pellucid.analysis.attribution import logit_attribution
from pellucid.base.errors import TokenError
from pellucid.hooked_transformer import HookedTransformer, record_of
from pellucid.measurement import Measurement
from pellucid.pretrained.native import weights_hash
from pellucid.studies import ioi_heads, ioi_parts
from pellucid.studies.ioi_prompts import Prompts
from pellucid.studies.ioi_texts import introduction
from pellucid.studies.published import published_figures
from pellucid.studies.result import Figure, Findings, StudyResult
from pellucid.tasks.metrics import Accuracy, LogitDiff

ROLES = ("name_mover", "negative", "s_inhibition", "duplicate_token", "previous_token", "induction", "backup")
UNITS = {"name_mover": "logits", "negative": "logits", "s_inhibition": "fraction", "backup": "logits"}
"""Of the scores of roles; of the others attention mass."""
FIGURES = {
    **{"accuracy": "fraction", "top_1": "fraction", "logit_diff": "logits", "logit_diff_corrupted": "logits"},
    **{"resid_localised_position": "fraction", "resid_handover_layer": "layer", "resid_elsewhere": "fraction"},
    **{
        f"{role}_head{key}": UNITS.get(role, "attention mass")
        for role in ROLES
        for key in ("", "_control", "_minus_control")
    },
    **{f"knockout_{what}_logit_diff": "logits" for what in ("none", "found", "random")},
}
"""Every figure on the task, and its unit where it has no value."""
ABLE = 0.75
"""A model that prefers the right name on a smaller share of the prompts cannot do the task."""


def ioi(
    model: HookedTransformer,
    prompts: Prompts | None = None,
    *,
    n: int | None = None,
    seed: int = 0,
    neurons: bool = True,
    progress: Callable[[str], None] | None = None,
) -> StudyResult:
    """Runs the study.

    Args:
        model: Any model.
        prompts: None: made by the task `ioi` for the model's tokenizer.
        n: How many prompts are made; None: 60.
        seed: Of the prompts, and of the heads that are knocked out for comparison.
        neurons: Whether neurons are swept, which takes most of the time.
        progress: Told what comes next, before it comes.

    Returns:
        The figures `FIGURES` and those of the introduction. A model that cannot do the task, or whose tokenizer has not
        the names as single tokens, has null figures with that reason.

    Example:
        >>> from pellucid import HookedTransformer
        >>> found = ioi(HookedTransformer.from_pretrained("toy-induction"))
        >>> found.figures["name_mover_head"].value is None
        True
    """
    say, found, settings = progress or (lambda what: None), Findings(), {"seed": seed}
    try:
        prompts = Prompts.of(model, n=n, seed=seed) if prompts is None else prompts
    except TokenError as error:
        found.add(Findings.nothing(FIGURES, f"the prompts cannot be made for this model: {error}"))
    else:
        settings |= {"prompts": len(prompts), "frames": len(set(prompts.turned.frame or ())) or None}
        say("can the model do it?")
        reason = can_it(model, prompts, found)
        if reason is None:
            _circuit(model, prompts, found, say, seed=seed, neurons=neurons)
        else:
            found.add(Findings.nothing(FIGURES, reason, but=found.figures))
    say("the introduction's texts")
    found.figures |= introduction(model)
    for name, known in published_figures(model, "ioi").items():
        if known.label in (None, found.figures[name].label):
            found.figures[name] = replace(found.figures[name], published=known.value)
    record = record_of(model, task="ioi", seed=seed, settings=settings, weights_hash=weights_hash(model))
    return StudyResult(
        study="ioi",
        model=model.record.model or "a model of no name",
        record=record,
        figures=found.figures,
        measurements=found.measurements,
    )


@torch.no_grad()
def can_it(model: HookedTransformer, prompts: Prompts, found: Findings) -> str | None:
    """How well the model does the task; the reason why it cannot, or None if it can."""
    sides = {}
    for side, pairs in (("clean", prompts.turned.clean), ("corrupted", prompts.turned.corrupted)):
        at = prompts.turned.positions["end"][:, None]
        parts = []
        for rows in torch.arange(len(prompts)).split(64):
            logits = model.run(pairs[rows].to(model.device), logits_at=at[rows], padding_side="right").logits
            here = replace(prompts.turned[rows.tolist()], positions={"end": torch.zeros(len(rows), dtype=torch.long)})
            parts.append(torch.stack([LogitDiff()(logits, here), Accuracy()(logits, here)], 1).double().cpu())
        sides[side] = torch.cat(parts)
    told = {
        "logit_diff": (sides["clean"][:, 0], "logits"),
        "logit_diff_corrupted": (sides["corrupted"][:, 0], "logits"),
        "accuracy": ((sides["clean"][:, 0] > 0).double(), "fraction"),
        "top_1": (sides["clean"][:, 1], "fraction"),
    }
    for name, (values, unit) in told.items():
        measured = _by_prompt(model, values, prompts, unit, name)
        found.measurements[name] = measured
        found.figures[name] = Figure.of(measured.mean("prompt"))
    accuracy, difference = found.figures["accuracy"], found.figures["logit_diff"]
    if accuracy.value is None or difference.value is None:
        return "the model's answers are no numbers"
    if accuracy.value < ABLE or (difference.low if difference.low is not None else difference.value) <= 0:
        return (
            f"the model cannot do the task: it prefers the right name on {accuracy.value:.0%} of the prompts, with a "
            f"mean logit difference of {difference.value:.2f}"
        )
    return None


def _circuit(
    model: HookedTransformer,
    prompts: Prompts,
    found: Findings,
    say: Callable[[str], None],
    *,
    seed: int,
    neurons: bool,
) -> None:
    """Where, which parts, how, and the evidence."""
    say("what each part adds to the answer")
    for by in ("accumulated", "component", "head"):
        found.measurements[f"attribution_{by}"] = logit_attribution(model, prompts.turned, by=by)
    say("where in the stream it is decided")
    found.add(ioi_parts.localised(model, prompts))
    say("which heads")
    found.add(ioi_parts.heads_swept(model, prompts.turned))
    if neurons:
        say("which neurons")
        found.add(ioi_parts.neurons_swept(model, prompts, found.measurements.get("mlp_out")))
    say("the role of each head")
    findings, roles = ioi_heads.roles(model, prompts)
    found.add(findings)
    found.add(ioi_heads.looks(model, prompts))
    say("what is left without the heads that are missed most")
    knock, alone = ioi_parts.chosen(model, prompts, seed=seed)
    found.measurements["heads_knocked_out_alone"] = alone
    found.add(ioi_parts.knocked_out(model, prompts, knock))
    say("edges into the heads found")
    found.add(ioi_parts.edges(model, prompts, roles["name_mover"].found(), knock.found))


def _by_prompt(model: HookedTransformer, values: Any, prompts: Prompts, unit: str, name: str) -> Measurement:
    record = record_of(model, task="ioi", settings={})
    return Measurement(values, ("prompt",), unit=unit, record=record, name=name, coords=prompts.turned.labels)
