"""Every group of contractions side by side: which parts do they share, in which do they differ, and what would decide?

In: effects of parts, per prompt, with groups and frames. Out: for each part and group a verdict against all other
groups together, and the frames that would decide where there are too few. A difference counts from `delta` on, which is
declared beforehand; that none was found does not show that there is none.
"""

from dataclasses import dataclass

import numpy as np

from pellucid.hooked_transformer import HookedTransformer, record_of
from pellucid.maths.groups import GroupsCompared, compare_groups
from pellucid.measurement import Measurement
from pellucid.studies.result import Figure, Findings

DELTA = 0.2
"""Logits: the differences that the source left undecided were below."""
HEADS = 12
"""Of the heads, those that matter most over all groups; their differences are not what chooses them."""
VERDICTS: tuple[str, ...] = ("shared", "different", "undecided")


@dataclass(frozen=True, eq=False)
class SideBySide:
    """What became of the comparison."""

    parts: list[str]
    groups: list[str]
    compared: list[GroupsCompared]
    """Each group with all others, over the parts."""
    delta: float

    @property
    def verdicts(self) -> np.ndarray:
        """``[group part]``."""
        return np.array([one.verdict for one in self.compared])

    def of_part(self, part: str) -> str:
        """One word for a part: different if any group differs, shared if all share it, else undecided."""
        told = self.verdicts[:, self.parts.index(part)].tolist()
        return "different" if "different" in told else "shared" if set(told) == {"shared"} else "undecided"

    def needed(self, part: str) -> float:
        """The most frames that any undecided group needs for this part; NaN where all are decided."""
        each = [float(one.n_to_decide[self.parts.index(part)]) for one in self.compared]
        known = [n for n in each if not np.isnan(n)]
        return max(known) if known else float("nan")


def parts_of(effects: dict[str, Measurement]) -> Measurement | None:
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
    of = effects["attn_out"]
    told = {
        name: ("prompt", of.dataset[name].values.tolist()) for name in ("group", "frame") if name in of.dataset.coords
    }
    return Measurement(
        np.stack(list(columns.values()), 1),
        ("prompt", "component"),
        unit=of.unit,
        record=of.record,
        name="effect of each part",
        coords={"component": list(columns), **told},
    )


def side_by_side(parts: Measurement, *, delta: float = DELTA) -> SideBySide | None:
    """Each group with all others; None where there are no two groups."""
    data = parts.dataset
    groups = [str(name) for name in data["group"].values] if "group" in data.coords else []
    names = list(dict.fromkeys(groups))
    if len(names) < 2:
        return None
    frames = [str(name) for name in data["frame"].values] if "frame" in data.coords else None
    labels, values = [str(name) for name in data["component"].values], parts.values
    compared = []
    for name in names:
        inside = np.array([group == name for group in groups])
        told = None
        if frames is not None:
            of = [[frame for frame, there in zip(frames, side, strict=True) if there] for side in (inside, ~inside)]
            told = (of[0], of[1])
        compared.append(compare_groups(values[inside], values[~inside], frames=told, delta=delta))
    return SideBySide(labels, names, compared, delta)


def compared(model: HookedTransformer, effects: dict[str, Measurement], *, delta: float = DELTA) -> Findings:
    """The verdicts, as figures and as a Measurement of differences ``[group component]``."""
    parts, found = parts_of(effects), Findings()
    sides = None if parts is None else side_by_side(parts, delta=delta)
    counts: dict[str, int] = dict.fromkeys(VERDICTS, 0)
    if parts is None or sides is None:
        reason = "there are no two groups to compare"
        found.figures |= {f"parts_{word}": Figure(unit="parts", reason=reason) for word in VERDICTS}
        return found
    for part in sides.parts:
        counts[sides.of_part(part)] += 1
    for word, count in counts.items():
        found.figures[f"parts_{word}"] = Figure(unit="parts", value=float(count), reason="a count has no interval")
    arrays = {
        name: np.array([getattr(one, key) for one in sides.compared])
        for name, key in (("value", "difference"), ("low", "low"), ("high", "high"), ("p_value", "p_value"))
    }
    needed = np.array([one.n_to_decide for one in sides.compared])
    axes = ("group", "component")
    found.measurements["parts"] = parts
    found.measurements["groups_compared"] = Measurement(
        arrays["value"],
        axes,
        unit=parts.unit,
        record=record_of(model, task="groups of contractions compared", settings={"delta": delta}),
        name="group minus all others",
        coords={"group": sides.groups, "component": sides.parts},
        variables={name: (axes, x) for name, x in arrays.items() if name != "value"} | {"n_to_decide": (axes, needed)},
    )
    return found
