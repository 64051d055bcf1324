"""Does the habit add up? What the pronoun brings alone, what the contraction does, and what both bring beyond the sum.

In: prompts with the last pronoun and with a noun in its place, contracted or not, and the logits behind them. Out:
figures whose label is a verdict, over all groups and of each: that the sum is not rejected does not show that it holds.
"""

import torch
from torch import Tensor

from pellucid.base.errors import ArgumentError
from pellucid.hooked_transformer import HookedTransformer, record_of
from pellucid.measurement import Measurement
from pellucid.studies.contractions_frames import (
    Table,
    by_frame,
    compared,
    figure_of,
    groups_of,
    judged,
    not_comparable,
)
from pellucid.studies.contractions_groups import NO_DESIGN, contrasts
from pellucid.studies.result import Figure, Findings
from pellucid.tasks.pairs import Pairs

SPLIT = ("pronoun_alone", "contraction_alone", "interaction", "pronoun_on_contractions", "pronoun_on_verbs")
ADDS = {"shared": "adds up", "different": "does not add up"}
COPIES = {"shared": "no matter", "different": "matters"}


@torch.no_grad()
def logits_at_end(model: HookedTransformer, pairs: Pairs, side: str = "clean") -> Tensor:
    """``[prompt 2]``: the logit of the contraction and of the full verb, behind the last token."""
    tokens, at, parts = getattr(pairs, side), pairs.positions["end"][:, None], []
    if pairs.answer is None or pairs.wrong is None:
        raise ArgumentError("pairs must have answers and wrong ones, these lack some; give answer=… and wrong=…")
    both = torch.cat([pairs.answer[:, :1], pairs.wrong[:, :1]], 1)
    for rows in torch.arange(len(pairs)).split(64):
        logits = model.run(tokens[rows].to(model.device), logits_at=at[rows], padding_side="right").logits[:, 0]
        parts.append(logits.gather(1, both[rows].to(logits.device)).double().cpu())
    return torch.cat(parts)


def measured(model: HookedTransformer, pairs: Pairs, name: str, values: Tensor) -> Measurement:
    """Numbers of the prompts, in logits."""
    record = record_of(model, task="contractions", settings={"direction": "both"})
    return Measurement(
        values, ("prompt",), unit="logits", record=record, name=name.replace("_", " "), coords=pairs.labels
    )


def split(model: HookedTransformer, pairs: Pairs, nouns: Pairs | None, *, delta: float) -> Findings:
    """What the pronoun brings alone, what the contraction does, and what both bring beyond the sum, in each group too.

    Args:
        model: Any model.
        pairs: With a last pronoun.
        nouns: The same with a noun in its place; None: nothing can be split.
        delta: Logits, up to which what is beyond the sum counts as nothing.
    """
    found = Findings()
    if nouns is None:
        found.figures |= {name: Figure(unit="logits", reason="there are no prompts without pronoun") for name in SPLIT}
        return found
    ends = [logits_at_end(model, of, side) for of in (pairs, nouns) for side in ("clean", "corrupted")]
    whole, verb_only, contracted, neither = (x[:, 0] - x[:, 1] for x in ends)
    raised = ends[1] - ends[3]
    values = (
        verb_only - neither,
        contracted - neither,
        whole - verb_only - contracted + neither,
        raised[:, 0],
        raised[:, 1],
    )
    for name, of_name in zip(SPLIT, values, strict=True):
        found.measurements[name] = measured(model, pairs, name, of_name)
        found.figures[name] = Figure.of(found.measurements[name].mean("prompt"))
    found.figures["interaction"] = judged(by_frame(found.measurements["interaction"]), delta=delta, words=ADDS)
    _by_group(found, pairs, delta=delta)
    return found


def _by_group(found: Findings, pairs: Pairs, *, delta: float) -> None:
    """What is beyond the sum in each group, all groups one family."""
    if not_comparable(pairs) is not None:
        return
    each = compared(Table.of(found.measurements["interaction"], pairs).values, delta=delta)
    for at, group in enumerate(groups_of(pairs)):
        verdict = str(each.verdict[at])
        numbers = (float(x[at]) for x in (each.difference, each.low, each.high))
        label = ADDS.get(verdict, verdict)
        found.figures[f"interaction {group}"] = figure_of(*numbers, label=label, needed=float(each.n_to_decide[at]))


def copied(model: HookedTransformer, pairs: Pairs, habit: Measurement, *, delta: float) -> Figure:
    """How much stronger the habit is where the contraction to come is the one that was seen, over the same pronouns."""
    reason = not_comparable(pairs)
    asked = {one.name: one for one in contrasts(model, pairs)} if reason is None else {}
    if "copied" not in asked:
        return Figure(unit="logits", reason=reason or NO_DESIGN)
    return judged(asked["copied"].of(Table.of(habit, pairs).values), delta=delta, words=COPIES)
