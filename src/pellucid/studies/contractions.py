"""Contractions: "We're helping our friend while they" → "'re". How does a model keep a grammatical habit?

In: a model. Out: whether it has the habit; what each part writes for it; which layers, heads and neurons carry it, by
clean activations and by noise; whether heads matter by where they look or by what they find; what the pronoun and the
contraction bring alone, and whether that adds up; and all groups side by side, with a verdict for each part.

Source: the exploration of contractions in GPT-2 small, which found attention 7, MLP 8 and 10, and could not reject any
null hypothesis.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from pellucid.analysis.attribution import logit_attribution
from pellucid.base.errors import ArgumentError, TokenError
from pellucid.hooked_transformer import HookedTransformer, record_of
from pellucid.pretrained.native import weights_hash
from pellucid.studies import contractions_heads, contractions_parts
from pellucid.studies.contractions_frames import (
    DELTA,
    by_frame,
    by_group,
    check_delta,
    common_frames,
    compared,
    figure_of,
    groups_of,
    would_decide,
)
from pellucid.studies.contractions_groups import side_by_side
from pellucid.studies.contractions_split import copied, logits_at_end, measured, split
from pellucid.studies.result import Figure, Findings, StudyResult
from pellucid.tasks.contractions import Contractions
from pellucid.tasks.pairs import Pairs

FIGURES = {
    **dict.fromkeys(("metric_clean", "metric_corrupted", "habit", "pronoun_alone", "contraction_alone"), "logits"),
    **dict.fromkeys(("interaction", "pronoun_on_contractions", "pronoun_on_verbs", "copied_minus_not"), "logits"),
    **dict.fromkeys(("head", "head_by_pattern", "head_by_v", "head_v_minus_pattern", "neuron"), "logits"),
    **dict.fromkeys(("attends_most", "head_attends", "head_attends_to_verb"), "attention mass"),
    **dict.fromkeys(("heads_write_alike", "heads_ov_alike"), "cosine"),
    "texts": "activation",
    **dict.fromkeys(("parts_shared", "parts_different", "parts_undecided"), "parts"),
}
"""Every figure, and its unit where it has no value."""
NO_TEXTS = "no texts were given to look for it in; on the command line, --corpus PATH"


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
        if self.nouns is None:
            return
        if len(self.nouns) != len(self.pairs):
            raise ArgumentError(f"as many prompts are needed with nouns, got {len(self.nouns)} and {len(self.pairs)}")
        for row in range(len(self.pairs)):
            if not self._belong(self.nouns, row):
                raise ArgumentError(
                    "prompts with nouns must be the same up to the last token, with the same answers and groups, in "
                    f"the same order; prompt {row} is another"
                )

    def _belong(self, nouns: Pairs, row: int) -> bool:
        """Whether a prompt with a noun is the other one but for its last token."""
        end, both = int(self.pairs.positions["end"][row]), (self.pairs[[row]], nouns[[row]])
        places = [[getattr(of, side)[0, :end] for of in both] for side in ("clean", "corrupted")]
        told = [[getattr(of, side)[0] for of in both] for side in ("answer", "wrong")]
        at = [of.positions["contraction"] for of in both]
        same = all(torch.equal(*x) for x in (*places, *told, at))
        return same and (both[0].group, both[0].frame) == (both[1].group, both[1].frame)

    @classmethod
    def of(cls, model: HookedTransformer, *, n: int | None = None, seed: int = 0) -> "Prompts":
        """Those of the task.

        Raises:
            TokenError: The tokenizer splits a contraction, or there is none.
        """
        return cls(*(Contractions(pronoun=last).pairs(model.tokenizer, n=n, seed=seed) for last in (True, False)))


def contractions(
    model: HookedTransformer,
    prompts: Prompts | Pairs | None = None,
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
        prompts: None: made by the task `contractions`. Pairs: nothing is split, since there are none with nouns.
        n: How many prompts are made; None: one of each frame for each group.
        seed: Of the prompts.
        delta: Logits; what is smaller counts as nothing, of a habit and of a difference between groups.
        neurons: Whether every neuron is patched, which takes most of the time.
        progress: Told what comes next, before it comes.

    Returns:
        The figures `FIGURES`, the habit of each group, and the verdicts of `contractions_groups.side_by_side`. Where
        the tokenizer splits contractions they are null with that reason; where the model has no such habit, what it has
        is shown, and the rest is null with that reason. Where a habit is seen but not sure, all is measured, and the
        setting ``exploratory`` says so.

    Raises:
        ArgumentError: `delta` is no difference above 0.

    Example:
        >>> found = contractions(HookedTransformer.from_pretrained("prose-2l-mixed"))
        >>> found.figures["habit"].value is None
        True
    """
    check_delta(delta)
    say, found = progress or (lambda what: None), Findings()
    settings: dict[str, object] = {"delta": delta}
    try:
        prompts = Prompts(prompts) if isinstance(prompts, Pairs) else prompts or Prompts.of(model, n=n, seed=seed)
    except TokenError as error:
        found.add(Findings.nothing(FIGURES, f"the prompts cannot be made for this model: {error}"))
    else:
        settings |= _study(model, prompts, found, say, delta=delta, neurons=neurons)
    record = record_of(model, task="contractions", seed=seed, settings=settings, weights_hash=weights_hash(model))
    name = model.record.model or "a model of no name"
    return StudyResult(
        study="contractions", model=name, record=record, figures=found.figures, measurements=found.measurements
    )


def _study(
    model: HookedTransformer,
    prompts: Prompts,
    found: Findings,
    say: Callable[[str], None],
    *,
    delta: float,
    neurons: bool,
) -> dict[str, object]:
    """All parts, or those that a model without the habit has; gives the settings."""
    pairs = prompts.pairs
    settings: dict[str, object] = {"prompts": len(pairs), "groups": ", ".join(groups_of(pairs))}
    settings["frames_compared"] = len(common_frames(pairs))
    say("does the model have the habit?")
    found.add(habit(model, prompts, delta=delta))
    say("what each part writes")
    found.add(_written(model, pairs))
    seen = found.figures["habit"]
    settings["exploratory"] = not_shown(pairs, seen) if seen.label == "not shown" else None
    if seen.label == "shown" or (seen.label == "not shown" and (seen.value or 0) > 0):
        _parts(model, pairs, found, say, delta=delta, neurons=neurons)
        settings["written"] = contractions_parts.written(model, found.measurements)
    else:
        reason = cannot(seen) if seen.label == "cannot" else not_shown(pairs, seen)
        found.add(Findings.nothing(FIGURES, reason, but=found.figures))
    return settings


def habit(model: HookedTransformer, prompts: Prompts, *, delta: float) -> Findings:
    """The metric with and without the contraction, whether that is a habit, of each group too; and the split.

    The label of the figure ``habit`` is *shown*: its interval is above 0. *cannot*: it is below 0, or below `delta` or
    as good as nothing while 0 is not left out. Else *not shown*, with the frames that would decide.
    """
    pairs, found = prompts.pairs, Findings()
    ends = {side: logits_at_end(model, pairs, side) for side in ("clean", "corrupted")}
    metric = {f"metric_{side}": x[:, 0] - x[:, 1] for side, x in ends.items()}
    for name, values in (metric | {"habit": metric["metric_clean"] - metric["metric_corrupted"]}).items():
        found.measurements[name] = measured(model, pairs, name, values)
        found.figures[name] = Figure.of(found.measurements[name].mean("prompt"))
    seen = found.measurements["habit"]
    found.figures["habit"] = _habit(by_frame(seen), delta=delta)
    if pairs.group is not None:
        each = by_group(seen, pairs)
        for group in groups_of(pairs):
            found.figures[f"habit {group}"] = Figure.of(each.sel(group=group))
    found.add(split(model, pairs, prompts.nouns, delta=delta))
    found.figures["copied_minus_not"] = copied(model, pairs, seen, delta=delta)
    return found


def _habit(x: np.ndarray, *, delta: float) -> Figure:
    both = compared(x, delta=delta)
    value, low, high, needed = (float(y) for y in (both.difference, both.low, both.high, both.n_to_decide))
    label = "not shown"
    if low > 0:
        label = "shown"
    elif high <= 0 or high < delta or both.verdict == "shared":
        label = "cannot"
    figure = figure_of(value, low, high, label=label, needed=needed)
    return replace(figure, reason=would_decide(needed)) if label == "not shown" and figure.value is not None else figure


def cannot(seen: Figure) -> str:
    """Why nothing else was measured."""
    return f"the model cannot do it: a contraction before does not make it contract, by {_interval(seen)} logits"


def not_shown(pairs: Pairs, seen: Figure) -> str:
    """What would have to be so for a habit to be shown."""
    if seen.value is None:
        return str(seen.reason)
    kind, many = ("prompts", len(pairs)) if pairs.frame is None else ("frames", len(set(pairs.frame)))
    these = f"this one {kind[:-1]}" if many == 1 else f"these {many} {kind}"
    return f"the habit is not shown with {these}: {_interval(seen)} logits; {seen.reason}"


def _interval(seen: Figure) -> str:
    sure = "" if seen.low is None or seen.high is None else f" [{seen.low:.2f}, {seen.high:.2f}]"
    return f"{seen.value:.2f}{sure}"


def _written(model: HookedTransformer, pairs: Pairs) -> Findings:
    """What each part writes, and each head in each group."""
    found = {f"attribution_{by}": logit_attribution(model, pairs, by=by) for by in ("accumulated", "component", "head")}
    if pairs.group is not None:
        for by in ("component", "head"):
            found[f"attribution_{by}_by_group"] = by_group(found[f"attribution_{by}"], pairs)
    return Findings(measurements=found)


def _parts(
    model: HookedTransformer,
    pairs: Pairs,
    found: Findings,
    say: Callable[[str], None],
    *,
    delta: float,
    neurons: bool,
) -> None:
    say("layers, from clean activations and from noise")
    found.add(contractions_parts.layers(model, pairs))
    say("heads, taken apart")
    found.add(contractions_heads.heads_apart(model, pairs, delta=delta))
    found.add(contractions_heads.attention(model, pairs, found.figures["head"].label))
    found.add(contractions_heads.alike(model, pairs, found.measurements))
    if neurons:
        say("every neuron")
        found.add(contractions_parts.neurons(model, pairs))
    else:
        found.figures["neuron"] = Figure(unit="logits", reason="neurons were left out")
    neuron = found.figures["neuron"]
    found.figures["texts"] = Figure(unit="activation", reason=NO_TEXTS if neuron.value is not None else neuron.reason)
    say("groups side by side")
    found.add(side_by_side(model, found.measurements, pairs, delta=delta))
