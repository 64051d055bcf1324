"""Contractions: "We're helping our friend while they" → "'re". How does a model keep a grammatical habit?

In: a model. Out: whether it has the habit; what each part writes for it; which layers, heads and neurons carry it, by
clean activations and by noise; whether heads matter by where they look or by what they find; what the pronoun and the
contraction bring alone, and whether that adds up; and all groups side by side, with a verdict for each part.

Source: the exploration of contractions in GPT-2 small, which found attention 7, MLP 8 and 10, and could not reject any
null hypothesis.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pellucid.analysis.attribution import logit_attribution
from pellucid.base.errors import ArgumentError, TokenError
from pellucid.hooked_transformer import HookedTransformer, record_of
from pellucid.maths.groups import compare_groups
from pellucid.measurement import Measurement
from pellucid.pretrained.native import weights_hash
from pellucid.studies import contractions_groups, contractions_parts
from pellucid.studies.contractions_groups import DELTA
from pellucid.studies.result import Figure, Findings, StudyResult
from pellucid.tasks.contractions import Contractions
from pellucid.tasks.pairs import Pairs

FIGURES = {
    **dict.fromkeys(("metric_clean", "metric_corrupted", "habit", "pronoun_alone", "contraction_alone"), "logits"),
    **dict.fromkeys(("interaction", "pronoun_on_contractions", "pronoun_on_verbs", "copied_minus_not"), "logits"),
    **dict.fromkeys(("head", "head_by_pattern", "head_by_v", "neuron"), "logits"),
    "heads_write_alike": "cosine",
    **dict.fromkeys(("parts_shared", "parts_different", "parts_undecided"), "parts"),
}
"""Every figure, and its unit where it has no value."""


@dataclass(frozen=True, eq=False)
class Prompts:
    """The prompts of the study.

    Args:
        pairs: With a last pronoun, and groups.
        nouns: The same with a noun instead of each last pronoun; None: there are none, and nothing is split.

    Raises:
        ArgumentError: The two do not belong together.
    """

    pairs: Pairs
    nouns: Pairs | None = None

    def __post_init__(self) -> None:
        for pairs in (self.pairs, self.nouns):
            if pairs is not None and (
                pairs.answer is None or pairs.wrong is None or "contraction" not in pairs.positions
            ):
                raise ArgumentError("prompts must have answers, wrong ones, and the position contraction")
        if self.nouns is not None and len(self.nouns) != len(self.pairs):
            raise ArgumentError(f"as many prompts are needed with nouns, got {len(self.nouns)} and {len(self.pairs)}")

    @classmethod
    def of(cls, model: HookedTransformer, *, n: int | None = None, seed: int = 0) -> "Prompts":
        """Those of the task.

        Raises:
            TokenError: The tokenizer splits a contraction, or there is none.
        """
        return cls(*(Contractions(pronoun=last).pairs(model.tokenizer, n=n, seed=seed) for last in (True, False)))


def contractions(
    model: HookedTransformer,
    prompts: Prompts | None = None,
    *,
    n: int | None = None,
    seed: int = 0,
    delta: float = DELTA,
    neurons: bool = True,
    progress: Callable[[str], None] | None = None,
) -> StudyResult:
    """Runs the study.

    Args:
        model: Any model.
        prompts: None: made by the task `contractions`.
        n: How many prompts are made; None: one of each frame for each group.
        seed: Of the prompts.
        delta: Logits; the smallest difference between groups that matters.
        neurons: Whether every neuron is patched, which takes most of the time.
        progress: Told what comes next, before it comes.

    Returns:
        The figures `FIGURES`, and the habit of each group. Where the tokenizer splits contractions they are null with
        that reason; where the model has no such habit, what it has is shown, and the rest is null with that reason.

    Example:
        >>> found = contractions(HookedTransformer.from_pretrained("prose-2l-mixed"))
        >>> found.figures["habit"].value is None
        True
    """
    say, found = progress or (lambda what: None), Findings()
    settings: dict[str, object] = {"delta": delta}
    try:
        prompts = Prompts.of(model, n=n, seed=seed) if prompts is None else prompts
    except TokenError as error:
        found.add(Findings.nothing(FIGURES, f"the prompts cannot be made for this model: {error}"))
    else:
        settings |= {"prompts": len(prompts.pairs), "groups": list(dict.fromkeys(prompts.pairs.group or ()))}
        say("does the model have the habit?")
        reason = habit(model, prompts, found)
        say("what each part writes")
        for by in ("accumulated", "component", "head"):
            found.measurements[f"attribution_{by}"] = logit_attribution(model, prompts.pairs, by=by)
        if reason is None:
            _parts(model, prompts, found, say, delta=delta, neurons=neurons)
            settings["written"] = contractions_parts.written(model, found.measurements)
        else:
            found.add(Findings.nothing(FIGURES, reason, but=found.figures))
    record = record_of(model, task="contractions", seed=seed, settings=settings, weights_hash=weights_hash(model))
    name = model.record.model or "a model of no name"
    return StudyResult(
        study="contractions", model=name, record=record, figures=found.figures, measurements=found.measurements
    )


def habit(model: HookedTransformer, prompts: Prompts, found: Findings) -> str | None:
    """The metric with and without the contraction, the split, and each group's habit; the reason if there is none."""
    sides = {
        "clean": logits_at_end(model, prompts.pairs),
        "corrupted": logits_at_end(model, prompts.pairs, "corrupted"),
    }
    differences = {name: x[:, 0] - x[:, 1] for name, x in sides.items()}
    _add(model, found, prompts, "metric_clean", differences["clean"])
    _add(model, found, prompts, "metric_corrupted", differences["corrupted"])
    _add(model, found, prompts, "habit", differences["clean"] - differences["corrupted"])
    for group in dict.fromkeys(prompts.pairs.group or ()):
        of_group = found.measurements["habit"]
        rows = [at for at, name in enumerate(prompts.pairs.group or ()) if name == group]
        found.figures[f"habit {group}"] = Figure.of(of_group.sel(prompt=rows).mean("prompt"))
    _split(model, prompts, found, sides)
    _copied(prompts, found)
    seen = found.figures["habit"]
    if seen.value is None or (seen.low if seen.low is not None else seen.value) <= 0:
        return (
            "the model cannot do it: a contraction before does not make it contract, by "
            f"{'nothing' if seen.value is None else f'{seen.value:.2f}'} logits"
        )
    return None


@torch.no_grad()
def logits_at_end(model: HookedTransformer, pairs: Pairs, side: str = "clean") -> Tensor:
    """``[prompt 2]``: the logit of the contraction and of the full verb, behind the last token."""
    tokens, at, parts = getattr(pairs, side), pairs.positions["end"][:, None], []
    both = _both(pairs)
    for rows in torch.arange(len(pairs)).split(64):
        logits = model.run(tokens[rows].to(model.device), logits_at=at[rows], padding_side="right").logits[:, 0]
        parts.append(logits.gather(1, both[rows].to(logits.device)).double().cpu())
    return torch.cat(parts)


def _both(pairs: Pairs) -> Tensor:
    """``[prompt 2]``: the contraction and the full verb."""
    if pairs.answer is None or pairs.wrong is None:
        raise ArgumentError("pairs must have answers and wrong ones, these lack some; give answer=… and wrong=…")
    return torch.cat([pairs.answer[:, :1], pairs.wrong[:, :1]], 1)


def _split(model: HookedTransformer, prompts: Prompts, found: Findings, sides: Mapping[str, Tensor]) -> None:
    """What the pronoun brings alone, what the contraction does, and what both bring beyond the sum."""
    names = ("pronoun_alone", "contraction_alone", "interaction", "pronoun_on_contractions", "pronoun_on_verbs")
    if prompts.nouns is None:
        found.figures |= {name: Figure(unit="logits", reason="there are no prompts without pronoun") for name in names}
        return
    nouns = {side: logits_at_end(model, prompts.nouns, side) for side in ("clean", "corrupted")}
    whole, verb_only = (sides[side][:, 0] - sides[side][:, 1] for side in ("clean", "corrupted"))
    contracted, neither = (nouns[side][:, 0] - nouns[side][:, 1] for side in ("clean", "corrupted"))
    _add(model, found, prompts, "pronoun_alone", verb_only - neither)
    _add(model, found, prompts, "contraction_alone", contracted - neither)
    _add(model, found, prompts, "interaction", whole - verb_only - contracted + neither)
    raised = sides["corrupted"] - nouns["corrupted"]
    _add(model, found, prompts, "pronoun_on_contractions", raised[:, 0])
    _add(model, found, prompts, "pronoun_on_verbs", raised[:, 1])


def _copied(prompts: Prompts, found: Findings) -> None:
    """Whether the habit is stronger where the contraction to come is the one that was seen."""
    pairs, values = prompts.pairs, found.measurements["habit"].values
    rows = torch.arange(len(pairs))
    same = (pairs.clean[rows, pairs.positions["contraction"]] == _both(pairs)[:, 0]).numpy()
    if same.all() or not same.any():
        reason = "in all prompts or in none the contraction to come is the one that was seen"
        found.figures["copied_minus_not"] = Figure(unit="logits", reason=reason)
        return
    frames = None
    if pairs.frame is not None:
        told = np.array(pairs.frame)
        frames = (told[same].tolist(), told[~same].tolist())
    both = compare_groups(values[same, None], values[~same, None], frames=frames, delta=DELTA)
    numbers = (float(x[0]) for x in (both.difference, both.low, both.high))
    found.figures["copied_minus_not"] = Figure.between(*numbers, unit="logits", label=str(both.verdict[0]))


def _parts(
    model: HookedTransformer,
    prompts: Prompts,
    found: Findings,
    say: Callable[[str], None],
    *,
    delta: float,
    neurons: bool,
) -> None:
    say("layers, from clean activations and from noise")
    found.add(contractions_parts.layers(model, prompts.pairs))
    say("heads, taken apart")
    found.add(contractions_parts.heads_apart(model, prompts.pairs))
    found.figures["heads_write_alike"] = contractions_parts.alike(model, prompts.pairs, found.measurements)
    if neurons:
        say("every neuron")
        found.add(contractions_parts.neurons(model, prompts.pairs))
    else:
        found.figures["neuron"] = Figure(unit="logits", reason="neurons were left out")
    say("groups side by side")
    found.add(contractions_groups.compared(model, found.measurements, delta=delta))


def _add(model: HookedTransformer, found: Findings, prompts: Prompts, name: str, values: Tensor) -> None:
    measured = Measurement(
        values,
        ("prompt",),
        unit="logits",
        record=record_of(model, task="contractions", settings={"direction": "both"}),
        name=name.replace("_", " "),
        coords=prompts.pairs.labels,
    )
    found.measurements[name] = measured
    found.figures[name] = Figure.of(measured.mean("prompt"))
