"""Every group of contractions side by side: which parts do they share, in which do they differ, and what would decide?

In: effects of parts, per prompt, with groups and frames. Out: the effect of each part in each group by itself; for each
part one verdict, whether any group stands apart from the others; and the contrasts that were declared beforehand: what
is predicted, what was seen, and whether both are the same. All cells of a question are one family. *different* rests on
permutations (`contractions_permuted`): of studies in which the groups of a frame are exchangeable, 5 % find a
difference anywhere. For contrasts, the signs of a frame are flipped, of all parts at once, which takes the negatives to
be as probable; with fewer than 6 frames none can differ. *shared* rests on two one-sided t tests, and the intervals
beside both are of t. A difference counts from `delta` on; that none was found does not show that there is none.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pellucid.base.errors import MisreadWarning
from pellucid.base.record import Record
from pellucid.hooked_transformer import HookedTransformer, record_of
from pellucid.maths.groups import GroupsCompared
from pellucid.maths.level import seen_skewed, warn_of_level
from pellucid.maths.statistics import max_statistic
from pellucid.measurement import Measurement
from pellucid.studies.contractions_frames import (
    DELTA,
    Table,
    by_group,
    compared,
    figure_of,
    groups_of,
    not_comparable,
)
from pellucid.studies.contractions_permuted import dealt_anew, resting_on
from pellucid.studies.result import Figure, Findings
from pellucid.tasks.pairs import Pairs

HEADS = 12
"""Of the heads, those that matter most over all groups; their differences are not what chooses them."""
VERDICTS: tuple[str, ...] = ("shared", "different", "undecided")
CONTRASTS = ("predicted", "seen", "copied")
NO_DESIGN = "no two contractions are both seen and predicted, behind the same last words"
MORE = "more frames would decide; how many cannot be told, since by the t interval these were enough"


@dataclass(frozen=True, eq=False)
class Contrast:
    """A question put to the groups beforehand."""

    name: str
    """One of `CONTRASTS`."""
    words: str
    """What is compared with what."""
    weights: np.ndarray
    """``[group]``: those above 0 sum to 1, those below to -1."""

    def of(self, values: np.ndarray) -> np.ndarray:
        """``[frame group *cells]`` → ``[frame *cells]``."""
        return np.tensordot(values, self.weights, axes=(1, 0))


def contrasts(model: HookedTransformer, pairs: Pairs) -> list[Contrast]:
    """What is predicted, what was seen, and whether both are the same, in a 2 × 2 table over the same last tokens.

    Two contractions r and s, each seen and each predicted. *predicted*: r minus s, whichever was seen. *seen*: r minus
    s, behind the same last tokens. *copied*: where both are the same minus where they are not.

    Returns:
        None of them where the prompts have no such table, or a group is of several kinds.
    """
    groups, cells = groups_of(pairs), _cells(pairs)
    if cells is None:
        return []
    answers = {answer for _, answer, _ in cells.values()}
    both = [seen for seen in dict.fromkeys(seen for seen, _, _ in cells.values()) if seen in answers]
    if len(both) != 2:
        return []
    table = np.zeros((2, 2, len(groups)))
    for answer in (0, 1):
        lasts = [{last for s, a, last in cells.values() if (s, a) == (seen, both[answer])} for seen in both]
        for seen in (0, 1):
            for last in lasts[0] & lasts[1]:
                here = np.array([cells[name] == (both[seen], both[answer], last) for name in groups], dtype=np.float64)
                table[seen, answer] += here / here.sum()
    if not table.sum(-1).all():
        return []
    (rr, rs), (sr, ss) = table / table.sum(-1, keepdims=True)
    r, s = _words(model, both)
    return [
        Contrast("predicted", f"{r} minus {s} predicted", (rr + sr - rs - ss) / 2),
        Contrast("seen", f"{r} minus {s} seen", (rr + rs - sr - ss) / 2),
        Contrast("copied", "predicted as seen, minus the other one", (rr + ss - rs - sr) / 2),
    ]


def _cells(pairs: Pairs) -> dict[str, tuple[int, int, int]] | None:
    """Of each group the contraction seen, the one predicted, and the last token; None where a group has several."""
    if pairs.answer is None or pairs.group is None:
        return None
    rows = range(len(pairs))
    seen, last = (pairs.clean[rows, pairs.positions[name]].tolist() for name in ("contraction", "end"))
    found: dict[str, tuple[int, int, int]] = {}
    for name, *cell in zip(pairs.group, seen, pairs.answer[:, 0].tolist(), last, strict=True):
        if found.setdefault(name, (cell[0], cell[1], cell[2])) != tuple(cell):
            return None
    return found


def _words(model: HookedTransformer, ids: Sequence[int]) -> list[str]:
    return list(map(str, ids)) if model.tokenizer is None else model.tokenizer.strings(list(ids))


def parts_of(effects: Mapping[str, Measurement], pairs: Pairs, record: Record) -> Measurement | None:
    """The effects of the parts that are compared, ``[prompt component]``: layers, and the heads that matter most."""
    columns: dict[str, np.ndarray] = {}
    for site, name in (("attn_out", "attn"), ("mlp_out", "mlp")):
        if site in effects:
            values = effects[site].effect().values
            columns |= {f"{name} {layer}": values[:, layer] for layer in range(values.shape[1])}
    if "heads_z" in effects:
        values = effects["heads_z"].effect().values
        flat = values.reshape(len(values), -1)
        for at in sorted(np.argsort(-np.abs(flat.mean(0)), kind="stable")[:HEADS].tolist()):
            columns[f"head {at // values.shape[2]}.{at % values.shape[2]}"] = flat[:, at]
    if not columns:
        return None
    return Measurement(
        np.stack(list(columns.values()), 1),
        ("prompt", "component"),
        unit="logits",
        record=record,
        name="effect of each part",
        coords={"component": list(columns), **pairs.labels},
    )


def side_by_side(
    model: HookedTransformer, effects: Mapping[str, Measurement], pairs: Pairs, *, delta: float = DELTA
) -> Findings:
    """Each group's own effects, a verdict for each part, and one for each contrast and part; figures and Measurements.

    Figures: ``groups PART``, the group farthest from the mean of the others; ``predicted PART``, ``seen PART``,
    ``copied PART``. The label of each is its verdict; undecided, the reason tells about how many frames would decide,
    by t. The p values of the Measurements are corrected for all cells of their family. Their setting ``skewed`` says
    that the intervals are too narrow, if they visibly are.
    """
    record = record_of(model, task="groups of contractions compared", settings={"delta": delta})
    parts, found, reason = parts_of(effects, pairs, record), Findings(), not_comparable(pairs)
    if parts is None or reason is not None:
        found.figures |= {f"parts_{word}": Figure(unit="parts", reason=str(reason)) for word in VERDICTS}
        return found
    table, labels = Table.of(parts, pairs), [str(name) for name in parts.dataset["component"].values]
    found.measurements |= {"parts": parts, "parts_by_group": by_group(parts, pairs)}
    others = (table.values.sum(1, keepdims=True) - table.values) / (len(table.groups) - 1)
    apart = resting_on(dealt_anew(table.values), compared(table.values, others, delta=delta))
    record = _telling(record, table.values - others)
    verdicts, needed = of_parts(apart)
    for word in VERDICTS:
        count = float(verdicts.count(word))
        found.figures[f"parts_{word}"] = Figure(unit="parts", value=count, reason="a count has no interval")
    farthest = np.abs(apart.difference).argmax(0)
    for at, part in enumerate(labels):
        numbers = (float(x[farthest[at], at]) for x in (apart.difference, apart.low, apart.high))
        found.figures[f"groups {part}"] = _figure(numbers, verdicts[at], float(needed[at]), len(table.values))
    found.measurements["groups_compared"] = _framed(
        apart, {"group": list(table.groups), "component": labels}, record, name="group minus the mean of the others"
    )
    _declared(contrasts(model, pairs), table, labels, record, found, delta=delta)
    return found


def of_parts(apart: GroupsCompared) -> tuple[list[str], np.ndarray]:
    """For each part of ``[group part]``: its verdict, and the frames that would decide, NaN where it is decided.

    *different*: any group stands apart from the others. *shared*: none does, each shown to be within δ. Which group it
    is cannot be read off this: if one stands apart, all others stand apart from a mean that holds it.
    """
    different, shared = (apart.verdict == "different").any(0), (apart.verdict == "shared").all(0)
    verdicts = np.where(different, "different", np.where(shared, "shared", "undecided"))
    differ = np.where(np.isnan(apart.n_to_differ), np.inf, apart.n_to_differ).min(0)
    share = np.where(np.isnan(apart.n_to_share), 0, apart.n_to_share).max(0)
    known = (verdicts == "undecided") & np.isfinite(apart.low).all(0)
    return verdicts.tolist(), np.where(known, np.minimum(differ, share), np.nan)


def _declared(
    asked: list[Contrast], table: Table, labels: list[str], record: Record, found: Findings, *, delta: float
) -> None:
    """The contrasts of each part, all of them one family."""
    if not asked:
        return
    values = np.stack([one.of(table.values) for one in asked], 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MisreadWarning)  # `compared` says it too
        p_value = max_statistic(values)
    answer, record = resting_on(p_value, compared(values, delta=delta)), _telling(record, values)
    axes = {"group": [one.words for one in asked], "component": labels}
    found.measurements["contrasts"] = _framed(answer, axes, record, name="contrast of groups")
    for row, one in enumerate(asked):
        for at, part in enumerate(labels):
            numbers = (float(x[row, at]) for x in (answer.difference, answer.low, answer.high))
            verdict, needed = str(answer.verdict[row, at]), float(answer.n_to_decide[row, at])
            found.figures[f"{one.name} {part}"] = _figure(numbers, verdict, needed, len(values))


def _figure(numbers: Iterable[float], verdict: str, needed: float, frames: int) -> Figure:
    figure = figure_of(*numbers, label=verdict, needed=needed)
    return replace(figure, reason=MORE) if verdict == "undecided" and needed <= frames else figure


def _telling(record: Record, differences: np.ndarray) -> Record:
    """The record with what a warning says of the intervals of ``[frame *cells]``, or None."""
    flat = differences.reshape(len(differences), -1)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        warn_of_level(len(flat), int(seen_skewed(flat).sum()), flat.shape[1])
    return replace(record, settings={**record.settings, "skewed": str(told[0].message) if told else None})


def _framed(found: GroupsCompared, axes: Mapping[str, list[str]], record: Record, *, name: str) -> Measurement:
    names = ("low", "high", "p_value", "n_to_differ", "n_to_share")
    return Measurement(
        found.difference,
        tuple(axes),
        unit="logits",
        record=record,
        name=name,
        coords=axes,
        variables={key: (tuple(axes), getattr(found, key)) for key in names},
    )
